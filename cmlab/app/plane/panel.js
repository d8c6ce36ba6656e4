// @ts-check
// What stands around the plane's picture: choices, the way through the levels, and what is measured.

import {Mixture, SIGMA_MIN, spiral} from './maths.js';
import {colourOf, short} from './draw.js';
import {timeOf} from './plane.js';

/** @typedef {import('./plane.js').Plane} Plane */

export const DRAWN = 'drawn';
/** @type {Record<string, string[]>} the kinds of views, and the two heads of the table of each */
export const MODES = {walk: ['What each says of x', 'distance to f'], maps: ['Map', 'rms error'], jump: ['What was done', ''],
  train: ['Network', 'rms to f']};
const ICONS = {
  play: 'M7 4.5v15l12-7.5z', pause: 'M7 5h3.6v14H7zM13.4 5H17v14h-3.6z', again: 'M12 5a7 7 0 1 1-6.6 4.7l1.9.7A5 5 0 1 0 12 7v3L7.5 6 12 2z',
};
/** @param {string} tag
 * @param {Record<string, any>} what
 * @param {(Node | string)[]} children */
export function make(tag, what = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(what)) {
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** @param {HTMLElement} node
 * @param {string} text */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** @param {HTMLElement} button
 * @param {keyof typeof ICONS} name
 * @param {string} label */
function icon(button, name, label) {
  if (button.dataset.icon === name) return;
  button.dataset.icon = name;
  button.innerHTML = `<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`;
  button.title = label;
  button.setAttribute('aria-label', label);
}

/** @param {Plane} p */
export function build(p) {
  p.box.innerHTML = p.contents.frame;
  for (const name of [...Object.keys(p.contents.sets), DRAWN]) {
    const data = p.contents.sets[name], thumb = /** @type {HTMLCanvasElement} */ (make('canvas', {width: 60, height: 60}));
    const label = data ? name.replace(/-/g, ' ').replace(/^8/, '8 ') : 'draw your own';
    const what = {role: 'radio', 'data-set': name, title: data ? data.help : '', onclick: () => p.choose(name)};
    p.find('.sets').append(make('button', what, thumb, make('span', {}, label)));
    p.thumbs.push([thumb, data ? Mixture.from(data).sample(140, 3) : spiral()]);
  }
  p.find('[data-mode=train]').hidden = !p.training;
}

/** The choices of this kind of view.
 * @param {Plane} p */
export function options(p) {
  const {mode} = p.set, edm = p.models.edm, networks = Object.values(p.models).map((m) => [m.data.method, m.data.label]);
  /** @param {string} label
   * @param {string} key
   * @param {any[][]} choices */
  const row = (label, key, choices) => make('div', {class: 'row'}, make('span', {class: 'name'}, label), make('div',
    {class: 'choice', role: 'radiogroup', 'aria-label': label}, ...choices.map(([value, text, title = '']) => make('button',
      {role: key === 'methods' ? 'checkbox' : 'radio', 'data-key': key, 'data-value': value, title, onclick: () => p.pick(key, value)},
      `${text}`))));
  const steps = row(edm ? 'Teacher’s steps' : 'Steps', 'steps', [1, 2, 4, 8, 18, 40].map((n) => [n, n]));
  const shades = [['density', 'density'], ['score', 'score'], ...networks, ['none', 'none']];
  const rows = mode === 'walk' ? [row('Shade', 'shade', shades), row('Axes', 'axes', [['scaled', 'grow with σ'], ['data', 'stay']]),
    ...(edm ? [row('Points follow', 'drive', [['exact', 'exact score'], ['edm', `${edm.data.label} network`]])] : []), steps]
    : mode === 'maps' ? [row('Show', 'show', [['ends', 'ends'], ['error', 'error']]), steps]
    : mode === 'train' ? [row('Methods', 'methods', p.contents.methods)]
      : [row('Who jumps', 'jumper', p.jumpers().map((a) => [a.id, a.name]))];
  p.find('.options').replaceChildren(...rows);
  p.box.dataset.mode = mode;
  tell(p);
}

/** Everything that is written around the picture.
 * @param {Plane} p */
export function tell(p) {
  const {set, box, walkers: w, training} = p, lesson = set.mode === 'train' ? training : null, slider = p.find('input[type=range]');
  const t = lesson ? lesson.place() : timeOf(set.sigma), shown = lesson && lesson.shown;
  const level = lesson ? shown ? `step ${shown.step}` : '' : `σ = ${short(set.sigma)}`;
  slider.value = t;
  slider.setAttribute('aria-valuetext', level);
  box.style.setProperty('--t', `${t}`);
  say(p.find('.level'), level);
  say(p.find('.speed'), `${{0.25: '¼', 0.5: '½'}[/** @type {number} */ (set.speed)] || set.speed}×`);
  const playing = lesson ? lesson.state === 'training' : set.playing, play = p.find('[data-do=play]');
  icon(play, playing ? 'pause' : t > 0.999 && !lesson ? 'again' : 'play', playing ? 'Pause' : 'Play');
  play.disabled = !!lesson && lesson.state === 'idle';
  const drawing = set.name === DRAWN && set.mode === 'walk', pen = drawing && set.tool === 'pen';
  box.querySelectorAll('[role=radio], [role=checkbox], [role=tab], .tools button').forEach((node) => {
    const {key, value, mode, set: name, do: tool} = /** @type {HTMLElement} */ (node).dataset;
    const on = key === 'methods' ? training?.methods.includes(value || '') : key ? `${set[key]}` === value : mode ? mode === set.mode
      : name ? name === set.name : tool === set.tool;
    node.setAttribute(mode ? 'aria-selected' : tool ? 'aria-pressed' : 'aria-checked', `${on}`);
  });
  p.find('.tools').hidden = !drawing;
  p.find('.hint').hidden = !drawing || p.strokes.length > 2;
  if (p.canvas) {
    p.canvas.setAttribute('aria-label', `${set.mode}: ${set.name}, ${level}`);
    p.canvas.style.cursor = pen ? 'crosshair' : set.mode === 'walk' ? 'grab' : 'default';
  }
  for (const what of ['noise', 'jump']) p.find(`[data-do=${what}]`).disabled = (w.sigma === SIGMA_MIN) !== (what === 'noise');
  say(p.find('[data-do=noise]'), `Noise, ${level}`);
  if (set.mode !== 'walk') {
    report(p, lesson ? (shown ? shown.models.map(({method}, i) => ({id: method, far: shown.far[i] ?? NaN})) : [])
      : set.mode === 'maps' ? p.maps.map((map) => ({id: map.answer.id, far: map.rms})) : []);
  }
  if (lesson) lesson.tell();
}

/** The table of distances to the exact end, by answer; after jumps, what was done.
 * @param {Plane} p
 * @param {{id: string, far: number}[]} found */
export function report(p, found) {
  const {answers, hidden, look, walkers: w, set: {mode, name}} = p, box = p.find('.answers'), jumps = mode === 'jump';
  const key = [mode, name, look.dark, ...answers.map((a) => a.name + a.cost)].join();
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(make('div', {class: 'head'}, ...MODES[mode].map((text) => make('span', {}, text))));
    for (const {id, colour, name, cost, about} of jumps ? [] : answers) {
      const input = /** @type {HTMLInputElement} */ (make('input', {type: 'checkbox', onchange: () => {
        hidden[input.checked ? 'delete' : 'add'](id);
        p.wake();
      }}));
      input.checked = !hidden.has(id);
      box.append(make('label', {class: 'answer', 'data-answer': id, style: `--c:${colourOf(colour, look)}`, title: about},
        ...(mode === 'walk' ? [input] : []), make('i'), make('b', {}, name), make('span', {}, cost), make('output')));
    }
    if (jumps) box.append(make('ol'), make('p', {class: 'sum'}));
  }
  for (const {id, far} of found) {
    const row = p.find(`[data-answer="${id}"]`);
    if (!row) continue;
    say(row.lastChild, Number.isNaN(far) ? '' : id === 'f' ? '0' : short(far));
    row.style.setProperty('--far', `${Math.min(1, far || 0)}`);
  }
  for (const {id} of answers) {
    const row = p.find(`[data-answer="${id}"]`);
    if (row) row.hidden = mode !== 'walk' && !found.some((a) => a.id === id);
  }
  if (!jumps || box.dataset.n === w.log.join()) return;
  box.dataset.n = w.log.join();
  const first = Math.max(0, w.log.length - 7), lines = w.log.slice(first).map((line) => make('li', {}, line));
  p.find('.answers ol').replaceWith(make('ol', {start: first + 1}, ...lines));
  say(p.find('.sum'), `${w.nfe} ${w.nfe === 1 ? 'evaluation' : 'evaluations'} of a network for each point`);
}
