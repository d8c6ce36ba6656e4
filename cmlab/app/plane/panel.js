// @ts-check
// What stands around the plane's picture: choices, the way through the levels, and what is measured.

import {Mixture, SIGMA_MIN} from './maths.js';
import {colourOf, short} from './draw.js';
import {spiral, timeOf} from './plane.js';

/** @typedef {import('./plane.js').Plane} Plane */

export const DRAWN = 'drawn';
/** @type {Record<string, string[]>} name, what it is, and the two heads of the table */
export const MODES = {
  walk: ['Walk', 'Noise becomes data: every point follows its exact path, the probability-flow ODE. Drag the white point x, and '
    + 'its path is drawn anew. f jumps to the path’s end. D points to the mean of all data that x may have come from. '
    + 'While x walks, f stays where it is. That is consistency.', 'What each says of x', 'distance to f'],
  maps: ['Where noise ends', 'Each cell is one noise, coloured by the place where it ends. The corner shows these ends. The exact map '
    + 'is the aim: a teacher comes near in many steps, a student in one. Point at a cell to compare.', 'Map', 'rms error'],
  jump: ['Jump by hand', 'A student jumps from noise to data at once. To do better, stir some noise in again and jump once more: '
    + 'this is multistep sampling. The slider says how much noise.', 'What was done', ''],
};
const ICONS = {
  play: 'M7 4.5v15l12-7.5z', pause: 'M7 5h3.6v14H7zM13.4 5H17v14h-3.6z', back: 'M17 5.5v13L8.5 12zM6 5.5h2v13H6z',
  forward: 'M7 5.5v13l8.5-6.5zM16 5.5h2v13h-2z', again: 'M12 5a7 7 0 1 1-6.6 4.7l1.9.7A5 5 0 1 0 12 7v3L7.5 6 12 2z',
};
const PAGE = `<div class="grid"><div class="top"><div class="sets" role="radiogroup" aria-label="Distribution"></div></div>
<div class="stage"><canvas tabindex="0" role="img"></canvas><div class="tools"><button data-do="pen">draw</button>
  <button data-do="probe">drag x</button><button data-do="clear">clear</button></div><p class="hint">Draw here</p></div>
<div class="time"><div class="keys"><button data-do="back" class="icon"></button><button data-do="play" class="icon main"></button>
  <button data-do="forward" class="icon"></button></div><div class="track"><input type="range" min="0" max="1" step="0.0005"
  aria-label="Noise level sigma"><div class="ticks" aria-hidden="true"></div></div><output class="level"></output>
  <button data-do="speed" class="speed" title="Speed"></button></div><div class="side"><div class="modes" role="tablist"></div>
  <p class="about"></p><div class="options"></div><div class="answers"></div></div></div>`;

/** @param {string} tag
 * @param {Record<string, any>} what
 * @param {(Node | string)[]} children */
function make(tag, what = {}, ...children) {
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
function say(node, text) {
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
  p.box.innerHTML = PAGE;
  for (const name of [...Object.keys(p.contents.sets), DRAWN]) {
    const data = p.contents.sets[name], thumb = /** @type {HTMLCanvasElement} */ (make('canvas', {width: 60, height: 60}));
    const label = data ? name.replace(/-/g, ' ').replace(/^8/, '8 ') : 'draw your own';
    const what = {role: 'radio', 'data-set': name, title: data ? data.help : '', onclick: () => p.choose(name)};
    p.find('.sets').append(make('button', what, thumb, make('span', {}, label)));
    p.thumbs.push([thumb, data ? Mixture.from(data).sample(140, 3) : spiral()]);
  }
  for (const mode of Object.keys(MODES)) {
    p.find('.modes').append(make('button', {role: 'tab', 'data-mode': mode, onclick: () => p.turn(mode)}, MODES[mode][0]));
  }
  for (const sigma of [80, 20, 5, 1, 0.2, 0.05, 0.002]) {
    const kind = [20, 5, 0.05].includes(sigma) ? 'minor' : '';
    p.find('.ticks').append(make('span', {style: `left:${100 * timeOf(sigma)}%`, class: kind}, `${sigma}`));
  }
  icon(p.find('[data-do=back]'), 'back', 'One step back, to more noise');
  icon(p.find('[data-do=forward]'), 'forward', 'One step on, to less noise');
}

/** The choices of this kind of view.
 * @param {Plane} p */
export function options(p) {
  const {mode} = p.set, edm = p.models.edm, networks = Object.values(p.models).map((m) => [m.data.method, m.data.label]);
  /** @param {string} label
   * @param {string} key
   * @param {any[][]} choices */
  const row = (label, key, choices) => make('div', {class: 'row'}, make('span', {class: 'name'}, label), make('div',
    {class: 'choice', role: 'radiogroup', 'aria-label': label}, ...choices.map(([value, text]) => make('button',
      {role: 'radio', 'data-key': key, 'data-value': value, onclick: () => p.pick(key, value)}, `${text}`))));
  const steps = row(edm ? 'Teacher’s steps' : 'Steps', 'steps', [1, 2, 4, 8, 18, 40].map((n) => [n, n]));
  const shades = [['density', 'density'], ['score', 'score'], ...networks, ['none', 'none']];
  const acts = ['jump', 'noise', 'again'].map((what) => make('button', {class: `act ${what}`, 'data-do': what},
    what === 'jump' ? 'Jump' : 'Start over'));
  const rows = mode === 'walk' ? [row('Shade', 'shade', shades), row('Axes', 'axes', [['scaled', 'grow with σ'], ['data', 'stay']]),
    ...(edm ? [row('Points follow', 'drive', [['exact', 'exact score'], ['edm', `${edm.data.label} network`]])] : []), steps]
    : mode === 'maps' ? [row('Show', 'show', [['ends', 'ends'], ['error', 'error']]), steps]
      : [row('Who jumps', 'jumper', p.jumpers().map((a) => [a.id, a.name])), make('div', {class: 'acts'}, ...acts)];
  p.find('.options').replaceChildren(...rows);
  say(p.find('.about'), MODES[mode][1]);
  p.box.dataset.mode = mode;
  tell(p);
}

/** Everything that is written around the picture.
 * @param {Plane} p */
export function tell(p) {
  const {set, box, walkers: w} = p, t = timeOf(set.sigma), slider = p.find('input[type=range]'), level = `σ = ${short(set.sigma)}`;
  slider.value = t;
  slider.setAttribute('aria-valuetext', level);
  box.style.setProperty('--t', `${t}`);
  say(p.find('.level'), level);
  say(p.find('.speed'), `${set.speed === 0.25 ? '¼' : set.speed === 0.5 ? '½' : set.speed}×`);
  icon(p.find('[data-do=play]'), set.playing ? 'pause' : t > 0.999 ? 'again' : 'play', set.playing ? 'Pause' : 'Play');
  const drawing = set.name === DRAWN && set.mode === 'walk', pen = drawing && set.tool === 'pen';
  box.querySelectorAll('[role=radio], [role=tab], .tools button').forEach((node) => {
    const {key, value, mode, set: name, do: tool} = /** @type {HTMLElement} */ (node).dataset;
    const on = key ? `${set[key]}` === value : mode ? mode === set.mode : name ? name === set.name : tool === set.tool;
    node.setAttribute(mode ? 'aria-selected' : tool ? 'aria-pressed' : 'aria-checked', `${on}`);
  });
  p.find('.tools').hidden = !drawing;
  p.find('.hint').hidden = !drawing || p.strokes.length > 2;
  if (p.canvas) {
    p.canvas.setAttribute('aria-label', `${MODES[set.mode][0]}: ${set.name}, ${level}`);
    p.canvas.style.cursor = pen ? 'crosshair' : set.mode === 'walk' ? 'grab' : 'default';
  }
  for (const what of set.mode === 'jump' ? ['noise', 'jump'] : []) {
    const button = p.find(`[data-do=${what}]`);
    if (button) button.disabled = (w.sigma === SIGMA_MIN) !== (what === 'noise');
    if (button && what === 'noise') say(button, `Noise, ${level}`);
  }
  if (set.mode !== 'walk') report(p, set.mode === 'maps' ? p.maps.map((map) => ({id: map.answer.id, far: map.rms})) : []);
}

/** The table of distances to the exact end, by answer; after jumps, what was done.
 * @param {Plane} p
 * @param {{id: string, far: number}[]} found */
export function report(p, found) {
  const {answers, hidden, look, walkers: w, set: {mode, name}} = p, box = p.find('.answers'), jumps = mode === 'jump';
  const key = [mode, name, look.dark, ...answers.map((a) => a.id + a.cost)].join();
  if (box.dataset.key !== key) {
    box.dataset.key = key;
    box.replaceChildren(make('div', {class: 'head'}, ...MODES[mode].slice(2).map((text) => make('span', {}, text))));
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
    if (row) row.hidden = mode === 'maps' && !found.some((a) => a.id === id);
  }
  if (!jumps || box.dataset.n === w.log.join()) return;
  box.dataset.n = w.log.join();
  const first = Math.max(0, w.log.length - 7), lines = w.log.slice(first).map((line) => make('li', {}, line));
  p.find('.answers ol').replaceWith(make('ol', {start: first + 1}, ...lines));
  say(p.find('.sum'), `${w.nfe} ${w.nfe === 1 ? 'evaluation' : 'evaluations'} of a network for each point`);
}
