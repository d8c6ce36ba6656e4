// @ts-check
// The plane: one element that shows a distribution, its noise, and the ways from one to the other. mount() puts it into a page.

import {Mixture, Model, SIGMA_MAX, SIGMA_MIN, between, flow, gridOf, heun, heunStep, karras, normals, scaleOf,
  slicedWasserstein, spiral} from './maths.js';
import {Shade, lookOf, placeColour, short, thumbnail} from './draw.js';
import {drawScene} from './scene.js';
import {DRAWN, MODES, build, options, tell} from './panel.js';
import {answersOf, asking} from './answers.js';
import {Training} from './train.js';

/** @typedef {import('./maths.js').F} F */
/** @typedef {import('./maths.js').Path} Path */
/** @typedef {import('./maths.js').ModelData} ModelData */
/** @typedef {{sets: Record<string, import('./maths.js').MixtureData>, models: ModelData[], methods: string[][], frame: string,
 *             style: string}} Contents
 * methods: name, label and help of each that can be trained */
/** @typedef {{set?: string, mode?: string, play?: boolean, train?: import('./train.js').Ask}} Options */
/** @typedef {import('./answers.js').Answer} Answer */
/** @typedef {{answer: Answer, ends: F, side: number, shade: Shade, rms: number}} WhereTo */

const GRID = karras(64), SPAN = Math.log(SIGMA_MAX / SIGMA_MIN), SECONDS = 9, MANY = 500, BUDGET = 7, MOST = 200;
/** @param {number} t from 0, all noise, to 1, data */
const levelOf = (t) => SIGMA_MAX * Math.exp(-SPAN * t);
/** @param {number} sigma */
export const timeOf = (sigma) => Math.log(SIGMA_MAX / sigma) / SPAN;

export class Plane {
  /** @param {HTMLElement} host
   * @param {Contents} contents
   * @param {Options} options */
  constructor(host, contents, options = {}) {
    this.contents = contents;
    this.training = options.train ? new Training(this, options.train) : null;
    /** @type {Record<string, any>} what is chosen */
    this.set = {name: '', mode: 'walk', sigma: SIGMA_MAX, playing: false, speed: 1, shade: 'density', axes: 'scaled', steps: 18,
      drive: 'exact', show: 'ends', tool: 'pen', jumper: ''};
    /** @type {Set<string>} answers that are not shown */
    this.hidden = new Set();
    /** @type {number[]} drawn points, flat */
    this.strokes = [...spiral()];
    /** @type {Generator<void> | null} what takes longer than a frame */
    this.job = this.filling = null;
    this.size = this.awake = this.last = 0;
    this.look = lookOf(false);
    this.mixture = Mixture.drawn([-1, 0, 1, 0]);
    /** @type {Record<string, Model>} */
    this.models = {};
    /** @type {Answer[]} */
    this.answers = [];
    this.shade = new Shade();
    this.shaded = '';
    this.layer = document.createElement('canvas');
    this.backed = false;
    this.aims = this.slopes = new Float64Array(0);
    const states = Array.from(GRID, () => new Float64Array(2 * MANY));
    this.cloud = {levels: GRID, states, ready: 0, colours: Array(MANY).fill('')};
    this.now = new Float64Array(2 * MANY);
    // The dragged point: where it is, in units of the scale at its level and in the data's; its path and the end of it.
    this.spot = Float64Array.of(1.05, 0.7);
    this.point = new Float64Array(2);
    this.probe = {path: /** @type {Path} */ (this.cloud), f: this.point};
    /** @type {WhereTo[]} */
    this.maps = [];
    /** @type {[number, number] | null} */
    this.cursor = null;
    this.walkers = {x: this.now, from: this.now, sigma: SIGMA_MAX, before: SIGMA_MAX, begun: -1, rounds: 0, nfe: 0, far: NaN,
      log: [''], colours: ['']};
    const root = host.shadowRoot || host.attachShadow({mode: 'open'});
    root.innerHTML = `<style>${contents.style}</style><div class="plane"></div>`;
    this.box = /** @type {HTMLElement} */ (root.querySelector('.plane'));
    /** @type {[HTMLCanvasElement, F][]} */
    this.thumbs = [];
    build(this);
    this.canvas = /** @type {HTMLCanvasElement} */ (this.find('.stage canvas'));
    this.pen = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext('2d'));
    this.listen();
    this.choose(options.set && contents.sets[options.set] ? options.set : Object.keys(contents.sets)[0]);
    this.turn(options.mode && options.mode in MODES && (options.train || options.mode !== 'train') ? options.mode : 'walk');
    this.set.playing = !!options.play && !matchMedia('(prefers-reduced-motion: reduce)').matches;
  }

  /** @param {string} selector
   * @returns {any} */
  find(selector) {
    return this.box.querySelector(selector);
  }

  listen() {
    const {canvas, box} = this, slider = this.find('input[type=range]');
    box.addEventListener('click', (event) => {
      const button = /** @type {HTMLElement} */ (event.target).closest('button');
      if (button && button.dataset.do) this.act(button.dataset.do);
      if (button && button.dataset.mode) this.turn(button.dataset.mode);
    });
    slider.addEventListener('input', () => {
      this.set.playing = false;
      if (this.training && this.set.mode === 'train') this.training.scrub(Number(slider.value));
      else this.level(levelOf(Number(slider.value)));
    });
    canvas.addEventListener('pointerdown', (event) => {
      if (this.set.mode === 'walk') canvas.setPointerCapture(event.pointerId);
      this.drag(event, true);
    });
    canvas.addEventListener('pointermove', (event) => this.drag(event, false));
    canvas.addEventListener('pointerleave', () => {
      this.cursor = null;
      this.wake();
    });
    canvas.addEventListener('keydown', (event) => this.key(event));
    new ResizeObserver(() => this.measure()).observe(this.find('.stage'));
    const media = matchMedia('(prefers-color-scheme: dark)'), dress = () => this.dress(media.matches);
    media.addEventListener('change', dress);
    // Gradio says "dark" by a class of the page.
    new MutationObserver(dress).observe(document.body, {attributes: true, attributeFilter: ['class']});
    dress();
  }

  /** @param {boolean} system whether the system wants dark pages */
  dress(system) {
    this.look = lookOf('gradio_config' in window ? document.body.classList.contains('dark') : system);
    this.box.classList.toggle('dark', this.look.dark);
    for (const [canvas, x] of this.thumbs) thumbnail(canvas, x, this.look.dark);
    this.paintCloud(0, MANY);
    for (const map of this.maps) this.paintMap(map);
    this.changed();
  }

  measure() {
    const size = Math.round(this.find('.stage').clientWidth), ratio = Math.min(2, window.devicePixelRatio || 1);
    if (!size || (size === this.size && this.canvas.width === size * ratio)) return;
    this.size = size;
    this.canvas.width = this.canvas.height = size * ratio;
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.backed = false;
    drawScene(this, performance.now());
    tell(this);
  }

  /** What a button does.
   * @param {string} what */
  act(what) {
    const {set, training} = this, lesson = set.mode === 'train' ? training : null;
    if (training && what === 'train') training.press();
    else if (training && what === 'stop') training.stop();
    else if (lesson && (what === 'hold' || what === 'play')) lesson.pause();
    else if (lesson && (what === 'forward' || what === 'back')) lesson.scrub(lesson.place() + (what === 'back' ? -1 : 1) / lesson.looks.length);
    else if (what === 'play') {
      if (!set.playing && timeOf(set.sigma) > 0.999) this.level(SIGMA_MAX);
      set.playing = !set.playing;
      this.last = 0;
    } else if (what === 'forward' || what === 'back') {
      set.playing = false;
      const grid = [...karras(Math.max(2, set.steps))];
      const next = what === 'forward' ? grid.find((s) => s < set.sigma * 0.999) : grid.reverse().find((s) => s > set.sigma * 1.001);
      if (next) this.level(next);
    } else if (what === 'speed') set.speed = set.speed === 4 ? 0.25 : 2 * set.speed;
    else if (what === 'clear') this.redraw([]);
    else if (what === 'pen' || what === 'probe') set.tool = what;
    else if (what === 'again') this.begin();
    else if (what === 'noise' || what === 'jump') this.move(what);
    this.changed();
  }

  /** Something else is shown from now on. */
  changed() {
    this.shaded = '';
    this.backed = false;
    tell(this);
    this.wake();
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    const by = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1]}[event.key];
    if (event.key === ' ') this.act('play');
    else if (by && this.set.mode === 'walk') {
      const step = (event.shiftKey ? 0.2 : 0.04) * this.unit();
      this.place(this.point[0] + step * by[0], this.point[1] + step * by[1]);
    } else return;
    event.preventDefault();
  }

  /** @param {PointerEvent} event
   * @param {boolean} first */
  drag(event, first) {
    const {set, strokes} = this, box = this.canvas.getBoundingClientRect(), n = strokes.length;
    const a = event.clientX - box.left, b = event.clientY - box.top, reach = this.reach();
    this.cursor = [a, b];
    this.wake();
    if (set.mode !== 'walk' || !(first || event.buttons & 1)) return;
    const x = (2 * a / this.size - 1) * reach, y = (1 - 2 * b / this.size) * reach;
    if (set.name === DRAWN && set.tool === 'pen') {
      const p = x * this.unit(0), q = y * this.unit(0);
      if (n < 2 * MOST && (first || Math.hypot(p - strokes[n - 2], q - strokes[n - 1]) > 0.03)) this.redraw([...strokes, p, q]);
    } else this.place(x * this.unit(), y * this.unit());
  }

  // --- what is chosen -------------------------------------------------------------------------------------------------------

  /** Another distribution.
   * @param {string} name */
  choose(name) {
    const {set} = this, drawn = name === DRAWN;
    if (this.training && name !== set.name) this.training.drop();
    if (drawn && set.name !== DRAWN) set.sigma = Math.min(set.sigma, 0.25);
    set.name = name;
    this.own();
    set.drive = 'exact';
    if (!['score', 'none'].includes(set.shade) && !this.models[set.shade]) set.shade = 'density';
    this.mixture = drawn ? Mixture.drawn(this.strokes, 0.08, false) : Mixture.from(this.contents.sets[name]);
    this.renew();
    options(this);
  }

  /** The models that came with the page. */
  own() {
    this.models = {};
    for (const data of this.contents.models) if (data.data === this.set.name) this.models[data.method] = new Model(data);
  }

  /** Other drawn points.
   * @param {number[]} strokes */
  redraw(strokes) {
    if (this.training && this.training.looks.length) {
      this.training.drop();
      this.own();
    }
    this.strokes = strokes;
    if (strokes.length > 2) this.mixture = Mixture.drawn(strokes, 0.08, false);
    this.renew();
  }

  /** Another kind of view.
   * @param {string} mode */
  turn(mode) {
    Object.assign(this.set, {mode, playing: false});
    if (mode !== 'walk' && this.set.sigma < 0.5) this.set.sigma = SIGMA_MAX;
    this.renew();
    options(this);
  }

  /** @param {string} key
   * @param {any} value */
  pick(key, value) {
    if (key === 'methods') this.training?.choose(value);
    else this.set[key] = value;
    if (key === 'steps') this.renew();
    else if (key === 'drive') this.work();
    else if (key === 'show') for (const map of this.maps) this.paintMap(map);
    this.changed();
  }

  /** Everything that follows from the distribution and the number of steps, anew. */
  renew() {
    const {mixture, set} = this;
    this.answers = answersOf(this);
    if (!this.jumpers().some((a) => a.id === set.jumper)) set.jumper = (this.jumpers()[2] || this.answers[0]).id;
    this.aims = mixture.sample(300, 5);
    this.place(this.spot[0] * scaleOf(set.sigma), this.spot[1] * scaleOf(set.sigma));
    if (set.mode === 'jump') this.begin();
    this.work();
    this.changed();
  }

  /** Who can jump. */
  jumpers() {
    return this.answers.filter((answer) => !answer.trail);
  }

  /** @param {number} sigma */
  level(sigma) {
    const {set, spot, point} = this, level = set.sigma = Math.min(SIGMA_MAX, Math.max(SIGMA_MIN, sigma));
    between(this.probe.path, level, point);
    spot.set(point.map((value) => value / scaleOf(level)));
    if (set.mode === 'maps') this.work();
    tell(this);
    this.wake();
  }

  /** Put the dragged point somewhere, in the data's units.
   * @param {number} x
   * @param {number} y */
  place(x, y) {
    const {set, mixture} = this, start = Float64Array.of(x, y), sigma = set.sigma;
    const above = GRID.filter((s) => s > sigma * 1.0001), below = GRID.filter((s) => s < sigma * 0.9999);
    const up = heun(mixture, start, [sigma, ...[...above].reverse()]).slice(1).reverse();
    const down = heun(mixture, start, [sigma, ...below]);
    const path = {levels: Float64Array.of(...above, sigma, ...below), states: [...up, ...down]};
    this.probe = {path, f: flow(mixture, start, sigma, SIGMA_MIN, 48)};
    this.point.set(start);
    this.spot.set(start.map((value) => value / scaleOf(sigma)));
    this.wake();
  }

  // --- what takes longer than a frame ---------------------------------------------------------------------------------------

  /** From its beginning. */
  work() {
    const {mode} = this.set, lesson = mode === 'train' ? this.training : null;
    if (!lesson || this.filling !== this.job || !this.job) {
      this.job = mode === 'walk' ? this.fillCloud() : mode === 'maps' ? this.fillMaps() : lesson ? lesson.fill() : null;
    }
    this.filling = lesson && this.job;
    this.wake();
  }

  * fillCloud() {
    const {cloud, mixture} = this, network = this.models[this.set.drive], noise = normals(2 * MANY, 0);
    const model = network || mixture, chunk = network ? 4 : Math.ceil(4000 / (mixture.count + 20));
    for (let from = 0; from < MANY; from += chunk) {
      let x = noise.slice(2 * from, 2 * (from + chunk)).map((value) => SIGMA_MAX * value);
      cloud.states[0].set(x, 2 * from);
      for (let k = 1; k < GRID.length; k++) cloud.states[k].set(x = heunStep(model, x, GRID[k - 1], GRID[k]), 2 * from);
      this.paintCloud(from, Math.min(MANY, from + chunk));
      cloud.ready = Math.max(cloud.ready, Math.min(MANY, from + chunk));
      yield;
    }
  }

  /** @param {number} from
   * @param {number} to */
  paintCloud(from, to) {
    const ends = this.cloud.states[GRID.length - 1];
    this.backed = false;
    for (let i = from; i < to; i++) this.cloud.colours[i] = `rgb(${placeColour(ends[2 * i], ends[2 * i + 1], this.look.dark)})`;
  }

  * fillMaps() {
    const {set, answers} = this, sigma = set.sigma, [f, D, ...rest] = answers, shown = [f, ...rest.slice(0, 3), D].slice(0, 4);
    for (const side of [12, 24, 48]) {
      const x = gridOf(side, 2.6 * scaleOf(sigma));
      for (const [at, answer] of shown.entries()) {
        const ends = yield* asking(answer, x, sigma);
        this.maps[at] = Object.assign(this.maps[at] || {shade: new Shade(), rms: NaN}, {answer, ends, side});
        this.paintMap(this.maps[at]);
        tell(this);
      }
    }
  }

  /** @param {WhereTo} map */
  paintMap(map) {
    const {side, ends, shade} = map, exact = this.maps[0].ends, same = exact.length === ends.length, {dark, ground} = this.look;
    shade.resize(side);
    let square = 0;
    for (let i = 0; i < side * side; i++) {
      const off = same ? Math.hypot(ends[2 * i] - exact[2 * i], ends[2 * i + 1] - exact[2 * i + 1]) : 0;
      const t = Math.min(1, 2 * off) ** 0.7;
      square += off * off;
      shade.pixel(i, this.set.show === 'error' ? ground.map((value, k) => value + t * ([213, 94, 0][k] - value))
        : placeColour(ends[2 * i], ends[2 * i + 1], dark));
    }
    map.rms = Math.sqrt(square / (2 * side * side));
    shade.put();
    this.wake();
  }

  // --- jumps by hand --------------------------------------------------------------------------------------------------------

  begin() {
    const x = normals(2 * MANY, 0).map((value) => SIGMA_MAX * value), ends = flow(this.mixture, x, SIGMA_MAX, SIGMA_MIN, 32);
    const colours = Array.from({length: MANY}, (_, i) => `rgb(${placeColour(ends[2 * i], ends[2 * i + 1], this.look.dark)})`);
    this.walkers = {x, from: x, sigma: SIGMA_MAX, before: SIGMA_MAX, begun: -1, rounds: 0, nfe: 0, far: NaN,
      log: ['Noise, σ = 80'], colours};
    this.set.sigma = SIGMA_MAX;
  }

  /** @param {'noise' | 'jump'} what */
  move(what) {
    const {walkers: w, set} = this, {x, sigma} = w;
    if ((sigma === SIGMA_MIN) !== (what === 'noise')) return;
    if (what === 'jump') {
      const by = this.answers.find((a) => a.id === set.jumper) || this.answers[0];
      Object.assign(w, {x: by.answer(x, sigma), sigma: SIGMA_MIN, nfe: w.nfe + 1});
      w.far = slicedWasserstein(w.x, this.mixture.sample(MANY, 77));
      w.log.push(`Jump by ${by.name}: ${short(w.far)} from the data`);
      if (set.sigma > 3) set.sigma = 0.8;
    } else {
      const eps = normals(2 * MANY, 1000 + w.rounds), by = Math.sqrt(set.sigma ** 2 - SIGMA_MIN ** 2);
      Object.assign(w, {x: x.map((value, i) => value + by * eps[i]), sigma: set.sigma, rounds: w.rounds + 1});
      w.log.push(`Noise, σ = ${short(set.sigma)}`);
    }
    Object.assign(w, {from: x, before: sigma, begun: performance.now()});
  }

  // --- every frame ----------------------------------------------------------------------------------------------------------

  wake() {
    if (!this.awake) this.awake = requestAnimationFrame((now) => this.frame(now));
  }

  /** @param {number} now milliseconds */
  frame(now) {
    const {set} = this, passed = this.last ? Math.min(0.1, (now - this.last) / 1000) : 0;
    this.awake = 0;
    this.last = now;
    if (set.playing) {
      const t = timeOf(set.sigma) + passed * set.speed / SECONDS;
      set.playing = t < 1;
      this.level(levelOf(Math.min(1, t)));
    }
    drawScene(this, now);
    for (const end = performance.now() + BUDGET; this.job && performance.now() < end;) if (this.job.next().done) this.job = null;
    if (this.job || set.playing) this.wake();
    else this.last = 0;
  }

  reach() {
    return this.set.axes === 'scaled' ? 2.7 : 1.55;
  }

  /** What one unit of the axes is at a level, in the data's units.
   * @param {number} sigma */
  unit(sigma = this.set.sigma) {
    return this.set.axes === 'scaled' ? scaleOf(sigma) : 1;
  }

  /** Pixels.
   * @param {number} x in units of the axes */
  px(x) {
    return this.size / 2 * (1 + x / this.reach());
  }

  /** @param {number} y */
  py(y) {
    return this.size / 2 * (1 - y / this.reach());
  }
}

/** Put the plane into an element of a page.
 * @param {HTMLElement} host
 * @param {Contents} contents
 * @param {Options} [options] */
export function mount(host, contents, options) {
  return new Plane(host, contents, options);
}
