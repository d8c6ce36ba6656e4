/* The page's own part in the browser: the address, see link.py. Evaluated once, when gradio starts. */
() => {
  let about = null, wanted = '';
  let settings = {}; // as text, of the boxes that are not as they are at first
  const inner = {}; // of a tab that has tabs in it: the one that was open last

  const query = () => new URLSearchParams(location.search);
  const own = Object.fromEntries([...query()].filter(([key]) => key.startsWith('plane.'))); // of the plane, which is no box
  const tab = () => { const name = query().get('tab'); return about.ways[name] ? name : Object.keys(about.ways)[0]; };

  /** The address of a tab with the settings; what else is in it (a theme, a tracker's mark) stays. */
  const address = (name) => {
    const kept = [...query()].filter(([key]) => key !== 'tab' && !key.includes('.'));
    const text = new URLSearchParams([...kept, ['tab', name], ...Object.entries({ ...settings, ...own })]).toString();
    return `${location.pathname}?${text}`;
  };

  // Gradio cuts a number that is typed beside a slider to the slider's ends, without a word: let it be refused as others are.
  addEventListener('blur', (event) => { if (event.target.matches?.('[data-testid=number-input]')) event.stopPropagation(); }, true);

  // Gradio heads every refusal with "Error", whatever its title: what is no fault of the app or of the line is one of the input.
  new MutationObserver((changes) => {
    for (const node of changes.flatMap(({ addedNodes }) => [...addedNodes])) {
      const near = node.parentElement ?? document.body;
      for (const image of near.querySelectorAll('#original img')) image.loading = 'eager'; // on a phone it is beside the screen
      // The first has another text; the second has no role that takes a name.
      for (const named of near.querySelectorAll('.upload-container, .empty')) named.removeAttribute('aria-label');
      const toast = node.matches?.('.toast-body') ? node : node.querySelector?.('.toast-body');
      if (toast?.matches('.error') && !/fault of the app|connection|queue is full/i.test(toast.textContent)) toast.dataset.refused = '';
    }
  }).observe(document.documentElement, { childList: true, subtree: true });

  // "queue: 3/5" in words, while it stands there.
  const waits = (k) => (k ? `${['', 'one run is', 'two runs are'][k] ?? `${k} runs are`} before yours` : 'yours is next');
  new MutationObserver((changes) => {
    for (const status of new Set(changes.map(({ target }) => (target.closest ? target : target.parentElement)?.closest('.progress-text')))) {
      const at = status?.textContent.match(/queue: (\d+)/);
      if (at) status.dataset.told = waits(at[1] - 1);
      else if (status) delete status.dataset.told;
    }
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true });

  // A click on samples shows one of them large; on the strip of an interpolation, that frame.
  document.addEventListener('click', (event) => {
    for (const [grid, film, act] of [['[id^=sample-] img', '#film', 'pick'], ['#strip img', '#frames', 'go']]) {
      const image = event.target.closest(grid), shown = document.querySelector(`${film} .film`)?.film;
      const k = image && shown?.value?.size ? cmlab.cell(image, event, shown.value.strip ?? shown.value.columns, shown.value.pictures) : null;
      if (k !== null) { shown[act](k); document.querySelector(film).scrollIntoView({ block: 'nearest', behavior: 'smooth' }); }
    }
  });

  // Arrow keys go from tab to tab, as a screen reader announces.
  document.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], at = event.target.closest?.('[role=tab]');
    if (!step || !at) return;
    const tabs = [...at.parentElement.querySelectorAll('[role=tab]')].filter((t) => t.offsetParent && t.ariaDisabled !== 'true');
    const next = tabs[(tabs.indexOf(at) + step + tabs.length) % tabs.length];
    next.click();
    next.focus();
    event.preventDefault();
  });

  window.cmlab = {
    start(told, values) {
      about = told;
      cmlab.write(values);
      addEventListener('popstate', () => {
        cmlab.show(tab());
        history.replaceState(null, '', address(tab()));
      });
      // The first tab's pictures are made at once; the others make theirs when they are opened.
      if (tab() === Object.keys(about.ways)[0]) document.querySelector('#sample-go').click();
      else cmlab.show(tab());
    },
    /** Open a tab as a visitor does; where its button has no room, by way of gradio, to which `back` tells which. */
    show(name) {
      for (const id of about.ways[name]) {
        const button = [...document.querySelectorAll(`[role=tab][data-tab-id="${id}"]`)].find((b) => b.offsetParent);
        if (button) button.click();
        else { wanted = name; document.querySelector('#link-back').click(); }
      }
    },
    write(values) {
      if (!about) return;
      const text = (value) => String(value ?? '');
      const changed = about.names.map((name, k) => [name, text(values[k]), text(about.first[k])]).filter(([, now, first]) => now !== first);
      settings = Object.fromEntries(changed);
      const unset = !query().has('tab') && !changed.length;
      if (!unset) history.replaceState(null, '', address(tab()));
    },
    open(name) {
      if (!about) return; // gradio opens the first tab before the link is read
      const buttons = [...document.querySelectorAll(`[role=tab][data-tab-id="${about.ways[name].at(-1)}"]`)].filter((b) => b.offsetParent);
      if (buttons.length && !buttons.some((b) => b.ariaSelected === 'true')) return; // gradio tells it late: another one is open by now
      const outer = (of) => about.ways[of][0];
      if (name !== outer(name)) inner[outer(name)] = name;
      const now = inner[name] ?? name;
      if (now === tab()) return;
      if (outer(now) === outer(tab())) history.replaceState(null, '', address(now));
      else history.pushState(null, '', address(now));
    },
    back() {
      const way = about.ways[wanted];
      const updates = about.sets.map((ids) => way.find((id) => ids.includes(id))).map((id) => ({ __type__: 'update', ...(id && { selected: id }) }));
      return updates.length > 1 ? updates : updates[0];
    },
    /** The plane, once it is there: as the link says, and from then on in the address. */
    plane(plane) {
      const { sets, methods } = plane.contents, { set, hidden, training } = plane;
      const state = () => ({
        set: set.name, mode: set.mode, sigma: `${+set.sigma.toPrecision(3)}`, hidden: [...hidden].join(), methods: training.methods.join(),
      });
      const first = state(), asked = (key) => own[`plane.${key}`] ?? first[key];
      const [chosen, mode, sigma] = ['set', 'mode', 'sigma'].map(asked);
      asked('hidden').split(',').forEach((id) => id && hidden.add(id));
      const learn = methods.map(([name]) => name).filter((name) => asked('methods').split(',').includes(name)).slice(0, 3);
      if (learn.length) training.methods = learn;
      if (sets[chosen] || chosen === 'drawn') plane.choose(chosen);
      if (plane.find(`[data-mode="${CSS.escape(mode)}"]`)) plane.turn(mode);
      if (sigma >= 0.002 && sigma <= 80) plane.level(+sigma);
      setInterval(() => {
        if (!about || set.playing) return;
        for (const [key, now] of Object.entries(state())) {
          if (now === first[key]) delete own[`plane.${key}`];
          else own[`plane.${key}`] = now;
        }
        if (query().has('tab') && address(tab()) !== location.pathname + location.search) history.replaceState(null, '', address(tab()));
      }, 400);
    },
    async copy() {
      try { await navigator.clipboard.writeText(location.href); return 'Link copied'; }
      catch { prompt('The link to what is set here:', location.href); return 'Copy link'; } // no clipboard without https
    },
    /** A click on a grid of pictures: number k of `count` in `columns`. */
    cell(image, event, columns, count) {
      const { left, top, width, height } = image.getBoundingClientRect();
      const scale = Math.min(width / image.naturalWidth, height / image.naturalHeight);
      const [w, h] = [image.naturalWidth * scale, image.naturalHeight * scale];
      const x = (event.clientX - left - (width - w) / 2) / w, y = (event.clientY - top - (height - h) / 2) / h;
      const k = Math.floor(y * Math.ceil(count / columns)) * columns + Math.floor(x * columns);
      return x >= 0 && x < 1 && y >= 0 && k < count ? k : null;
    },
    copied: () => new Promise((done) => setTimeout(() => done('Copy link'), 1500)),
  };
}
