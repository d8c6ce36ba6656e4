/* A film: pictures over the steps of a sampler, or along an interpolation, that the browser plays. For gr.HTML's js_on_load.
 *
 * Its value: {tracks: [{title, src, frames, close}], labels, columns, count, size: [w, h], start, about}. A track's `src` is one picture
 * with its frames side by side; each is a grid of `count` pictures of `size` in `columns`, a pixel apart. Tracks with `close` are
 * seen only beside one picture that was picked. Without `size` frames are drawn as they are.
 * `about` goes to the server with the number of a picture that is picked. `start` is the frame that is shown first (the last one else).
 */
(element, props, watch, trigger) => {
  const root = element.querySelector('.film');
  let value = null, frame = 0, picked = null, timer = 0, sheets = [];

  const make = (name, className, text = '') => Object.assign(document.createElement(name), { className, textContent: text });
  const last = () => value.labels.length - 1;
  const one = () => (picked !== null || value.count === 1 ? picked ?? 0 : null);

  function stop() { clearInterval(timer); timer = 0; play.textContent = 'Play'; }
  function go(k) { frame = Math.min(Math.max(k, 0), last()); draw(); }
  function pick(k) { picked = k; build(); if (value.about) trigger('select', { index: k, value: value.about }); }

  const play = make('button', 'film-play', 'Play');
  const slider = Object.assign(make('input', ''), { type: 'range', min: 0 });
  const label = make('output', '');
  const all = make('button', '', 'All samples');
  const bar = make('div', 'film-bar');
  const cells = make('div', 'film-cells');
  slider.setAttribute('aria-label', 'Step');
  bar.append(play, slider, label, all);
  root.append(cells, bar);
  play.onclick = () => {
    if (timer) { stop(); return; }
    if (frame === last()) go(0);
    play.textContent = 'Pause';
    timer = setInterval(() => { if (frame === last()) stop(); else go(frame + 1); }, Math.max(60, 3000 / value.labels.length));
  };
  slider.oninput = () => { stop(); go(Number(slider.value)); };
  all.onclick = () => { picked = null; build(); };

  function build() {
    const shown = one();
    cells.replaceChildren(...value.tracks.map((track, k) => ({ track, k })).filter(({ track }) => shown !== null || !track.close).map(({ track, k }) => {
      const figure = make('figure', ''), canvas = make('canvas', '');
      canvas.dataset.track = k;
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', track.title);
      canvas.onclick = (event) => {
        if (shown !== null || !value.size) return;
        const { left, top, width, height } = canvas.getBoundingClientRect();
        const [w, h] = value.size;
        const column = Math.floor((event.clientX - left) / width * (canvas.width + 1) / (w + 1));
        const row = Math.floor((event.clientY - top) / height * (canvas.height + 1) / (h + 1));
        if (row * value.columns + column < value.count) pick(row * value.columns + column);
      };
      figure.append(canvas, make('figcaption', '', track.title));
      return figure;
    }));
    all.hidden = picked === null;
    slider.max = last();
    play.disabled = slider.disabled = last() === 0;
    root.classList.toggle('ready', true);
    draw();
  }

  function draw() {
    const shown = one();
    slider.value = frame;
    label.textContent = value.labels[frame] ?? '';
    for (const canvas of cells.querySelectorAll('canvas')) {
      const { frames } = value.tracks[canvas.dataset.track], sheet = sheets[canvas.dataset.track];
      if (!sheet?.complete) continue;
      const wide = sheet.naturalWidth / frames, at = last() ? Math.round((frame / last()) * (frames - 1)) : 0;
      let [x, y, w, h] = [at * wide, 0, wide, sheet.naturalHeight];
      if (shown !== null && value.size) {
        [w, h] = value.size;
        x += (shown % value.columns) * (w + 1);
        y = Math.floor(shown / value.columns) * (h + 1);
      }
      canvas.width = w; canvas.height = h;
      canvas.getContext('2d').drawImage(sheet, x, y, w, h, 0, 0, w, h);
    }
    root.dataset.frame = frame;
  }

  function show() {
    stop();
    value = props.value && props.value.tracks ? props.value : null;
    root.classList.toggle('ready', value !== null);
    root.classList.toggle('plot', value !== null && !value.size);
    picked = null;
    if (!value) { cells.replaceChildren(); label.textContent = ''; return; }
    frame = value.start ?? last();
    sheets = value.tracks.map((track) => Object.assign(new Image(), { onload: draw, src: track.src }));
    build();
  }
  root.film = { go, pick, get value() { return value; } };
  watch('value', show);
  show();
}
