// @ts-check
// Training that is watched: the server trains, about a second at a time, and sends the weights. What they answer, the history of a
// training and its curves are made here.

import {answerBy, answersOf, asking} from './answers.js';
import {Model, SIGMA_MAX, normals, slicedWasserstein} from './maths.js';
import {FONT, colourOf, placeColour, short} from './draw.js';
import {DRAWN, options, say, tell} from './panel.js';

/** @typedef {import('./plane.js').Plane} Plane */
/** @typedef {import('./maths.js').F} F */
/** @typedef {import('./maths.js').ModelData & {losses: number[][], speed: number, origin: string}} Trained */
/** @typedef {{run: string, step: number, steps: number, seconds: number, done: boolean, models: Trained[]}} News */
/** @typedef {{step: number, models: Trained[], ends: F[], far: number[], off: number[]}} Look one moment of a training */
/** @typedef {(data: any[], session: string) => Promise<News | null>} Ask what the server says; null: it has no room now */
/** @typedef {Record<'loss' | 'far', number[][]>} Curves each a list of [step, value] */

const POINTS = 160, KEPT = 60, ABREAST = 3, WAIT = 1500;

export class Training {
  /** @param {Plane} plane
   * @param {Ask} ask */
  constructor(plane, ask) {
    this.plane = plane;
    this.ask = ask;
    // What the next press of Train takes.
    this.methods = ['cd', 'ict'].filter((name) => plane.contents.methods.some((known) => known[0] === name));
    // Runs have numbers: of the last press, and of the run that is shown. Only older ones are ended.
    this.pressed = this.current = 0;
    this.state = 'idle';
    this.told = this.refused = '';
    /** @type {Look[]} */
    this.looks = [];
    /** @type {Look | null} */
    this.shown = null;
    /** @type {Record<string, Curves>} */
    this.curves = {};
    this.steps = 1;
    this.resume = () => {};
    this.waits = false; // paused, and nothing is on its way
    this.noise = normals(2 * POINTS, 0).map((value) => SIGMA_MAX * value);
    // The exact ends of that noise, and for which mixture.
    this.aim = new Float64Array(0);
    /** @type {any} */
    this.aimed = null;
  }

  /** Train: with what is chosen now. The run of an earlier press goes on until the server has taken this one. */
  async press() {
    const {plane} = this, number = ++this.pressed, {name} = plane.set, session = `${Math.random()}`;
    const typed = ['steps', 'batch', 'seed'].map((of) => plane.find(`[data-of=${of}]`).value).map((v) => (v === '' ? null : +v));
    const chosen = [name, [...this.methods], ...typed, name === DRAWN ? plane.strokes : []];
    this.refused = '';
    if (this.state === 'idle') this.told = 'Starting …';
    tell(plane);
    for (let run = '', done = false; !done;) {
      let news = null, wrong = '';
      try {
        news = await this.ask([...chosen, run], session);
      } catch (error) {
        wrong = /** @type {Error} */ (error).message;
      }
      if (number < this.current) return;
      if (news) {
        ({run, done} = news);
        this.take(number, news);
        if (this.state === 'paused') {
          this.waits = true;
          await new Promise((resolve) => this.resume = () => resolve(0));
          this.waits = false;
        }
      } else if (wrong) {
        if (number === this.current) this.state = 'idle';
        if (number === this.pressed) this.refused = `Please check the input. ${wrong}`;
        if (this.state === 'idle') this.told = '';
        return tell(plane);
      } else {
        this.told = 'Many train here now: waiting for a free place.';
        tell(plane);
        await new Promise((resolve) => setTimeout(resolve, WAIT));
      }
      if (number < this.current) return;
    }
  }

  /** Pause, or continue. */
  pause() {
    if (this.state === 'training') this.state = 'paused';
    else if (this.state === 'paused') {
      this.state = 'training';
      this.resume();
    }
  }

  /** No run goes on. What was trained stays. */
  stop() {
    this.current = ++this.pressed;
    if (this.state !== 'idle') this.told = `Stopped. ${this.told}`;
    else if (this.told === 'Starting …') this.told = 'Stopped.';
    this.state = 'idle';
  }

  /** Another distribution: nothing of the old one may stand beside it. */
  drop() {
    this.stop();
    Object.assign(this, {looks: [], shown: null, curves: {}, told: '', refused: '', aimed: null});
  }

  /** @param {number} number
   * @param {News} news */
  take(number, {step, steps, seconds, done, models}) {
    if (number !== this.current) Object.assign(this, {current: number, state: 'training', looks: [], shown: null, curves: {}, steps});
    const follows = this.shown === (this.looks[this.looks.length - 1] || null), look = {step, models, ends: [], far: [], off: []};
    this.looks.push(look);
    if (this.looks.length > KEPT) this.looks = this.looks.filter((old, k, all) => k % 2 || k > all.length - 3 || old === this.shown);
    for (const {method, losses} of models) (this.curves[method] = this.curves[method] || {loss: [], far: []}).loss.push(...losses);
    if (done) this.state = 'idle';
    const speed = models.reduce((sum, m) => sum + 1 / m.speed, 0), origins = models.map((m) => `${m.label} ${m.origin}`);
    this.told = `Step ${step} of ${steps}, ${Math.round(1 / speed)} samples a second, ${seconds.toFixed(1)} s. ${origins.join('. ')}.`;
    if (follows) this.show(look);
    else this.plane.work();
  }

  /** A moment of the training: its networks are those of the plane.
   * @param {Look} look */
  show(look) {
    const {plane} = this, {models, set} = plane;
    this.shown = look;
    const own = look.models.map((data) => [data.method, new Model({...data, label: `${data.label}, yours`})]);
    plane.models = {...Object.fromEntries(own), ...models, ...Object.fromEntries(own)};
    plane.answers = answersOf(plane);
    if (set.mode !== 'train' && Object.keys(plane.models).join() !== Object.keys(models).join()) options(plane);
    if (set.mode !== 'walk' || set.drive !== 'exact') plane.work();
    plane.changed();
  }

  /** Where in the history the plane is, from 0 to 1. */
  place() {
    return this.shown ? this.looks.indexOf(this.shown) / Math.max(1, this.looks.length - 1) : 0;
  }

  /** @param {number} at between 0 and 1 */
  scrub(at) {
    const look = this.looks[Math.round(Math.min(1, Math.max(0, at)) * (this.looks.length - 1))];
    if (look) this.show(look);
  }

  /** Where the noise ends, by every network of the history: the newest first. */
  * fill() {
    const {plane} = this;
    if (this.aimed !== plane.mixture) {
      this.aim = yield* asking(plane.answers[0], this.noise, SIGMA_MAX);
      this.aimed = plane.mixture;
      plane.wake();
    }
    const data = plane.mixture.sample(POINTS, 77), waits = () => [...this.looks, this.shown].reverse().find((l) => l && !l.far.length);
    for (let look = waits(); look; look = waits()) {
      const ends = [];
      for (const model of look.models) ends.push(yield* asking(answerBy(new Model(model), plane.set.steps), this.noise, SIGMA_MAX));
      look.ends = ends;
      look.far = ends.map((x) => Math.sqrt(x.reduce((sum, value, i) => sum + (value - this.aim[i]) ** 2, 0) / x.length));
      look.off = ends.map((x) => slicedWasserstein(x, data));
      for (const [i, {method}] of look.models.entries()) {
        const {far} = this.curves[method] || {far: []};
        far.push([look.step, look.far[i]]);
        far.sort((a, b) => a[0] - b[0]);
      }
      tell(plane);
      plane.wake();
    }
  }

  /** @param {string} method is chosen, or no longer */
  choose(method) {
    const rest = this.methods.filter((m) => m !== method);
    this.methods = rest.length < this.methods.length ? rest : [...rest.slice(1 - ABREAST), method];
  }

  tell() {
    const {plane, state} = this, [train, hold, stop] = ['train', 'hold', 'stop'].map((what) => plane.find(`[data-do=${what}]`));
    say(hold, state === 'paused' ? 'Continue' : 'Pause');
    train.disabled = !this.methods.length;
    hold.disabled = state === 'idle';
    stop.disabled = state === 'idle' && this.told !== 'Starting …';
    say(plane.find('.refused'), this.refused);
    say(plane.find('.status'), this.told);
    this.draw(plane.find('.curves'));
  }

  /** @param {HTMLCanvasElement} canvas */
  draw(canvas) {
    const {look, answers} = this.plane, ratio = Math.min(2, window.devicePixelRatio || 1), wide = canvas.clientWidth;
    const c = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d')), high = canvas.clientHeight, at = this.shown;
    canvas.width = wide * ratio;
    canvas.height = high * ratio;
    c.scale(ratio, ratio);
    c.font = `500 12px ${FONT}`;
    c.textBaseline = 'top';
    for (const [k, key] of /** @type {['loss', 'far']} */ (['loss', 'far']).entries()) {
      const left = k * (wide / 2 + 8), w = wide / 2 - 8, all = Object.values(this.curves).flatMap((curves) => curves[key]);
      const logs = all.map((p) => Math.log10(p[1])).filter(Number.isFinite), low = Math.min(...logs), top = Math.max(...logs);
      /** @type {(step: number) => number} */
      const px = (step) => left + w * step / this.steps;
      c.fillStyle = look.soft;
      c.fillText(k ? 'rms to f' : 'loss', left, 0);
      c.strokeStyle = look.line;
      c.strokeRect(left + 0.5, 18.5, w - 1, high - 19);
      if (!logs.length) continue;
      c.textAlign = 'right';
      c.fillText(`${short(10 ** low)} to ${short(10 ** top)}`, left + w, 0);
      c.textAlign = 'left';
      if (at) c.fillRect(px(at.step) - 0.5, 19, 1, high - 20);
      for (const [method, curves] of Object.entries(this.curves)) {
        const answer = answers.find((a) => a.id === method);
        c.strokeStyle = colourOf(answer ? answer.colour : '', look);
        c.lineWidth = k ? 2 : 1.2;
        c.beginPath();
        for (const [step, value] of curves[key]) {
          if (value > 0) c.lineTo(px(step), 23 + (high - 28) * (1 - (Math.log10(value) - low) / (top - low || 1)));
        }
        c.stroke();
      }
    }
  }
}

/** One noise, and where each network sends it: each point in the colour of its exact end, with a line from there.
 * @param {Plane} p */
export function lesson(p) {
  const {pen: c, size, look, aims, answers} = p, {aim, aimed, shown} = /** @type {Training} */ (p.training);
  if (aimed !== p.mixture) return;
  const made = shown && shown.ends.length ? shown : null, exact = {name: 'exact f: what is to be learned', ends: aim, far: ''};
  const learned = made ? made.models.map((model, i) => {
    const {name, cost} = answers.find((a) => a.id === model.method) || {name: model.label, cost: ''};
    return {name: `${name}, ${cost}`, ends: made.ends[i], far: `rms ${short(made.far[i])}, ${short(made.off[i])} from the data`};
  }) : [exact];
  const panels = learned.length > 1 ? [{...exact, name: 'exact f'}, ...learned] : learned, n = panels.length > 1 ? 2 : 1;
  const w = size / n - 24, dot = Math.max(2, w / 170);
  c.font = `600 13px ${FONT}`;
  c.textBaseline = 'middle';
  c.lineWidth = 1;
  for (const [k, {name, ends, far}] of panels.entries()) {
    const left = k % 2 * size / 2 + 12, top = (k > 1 ? size / 2 : 0) + 26, half = w / 2;
    const px = (/** @type {number} */ x) => left + half * (1 + x / 1.35), py = (/** @type {number} */ y) => top + half * (1 - y / 1.35);
    c.fillStyle = look.ink;
    c.fillText(w > 220 ? name : name.split(',')[0], left, top - 12);
    c.fillStyle = c.strokeStyle = look.soft;
    c.textAlign = 'right';
    c.fillText(w > 400 ? far : far.split(',')[0], left + w, top - 12);
    c.textAlign = 'left';
    c.globalAlpha = 0.28;
    for (let i = 0; i < aims.length; i += 2) c.fillRect(px(aims[i]) - 1, py(aims[i + 1]) - 1, 2, 2);
    c.globalAlpha = 0.5;
    c.beginPath();
    for (let i = 0; i < ends.length; i += 2) {
      c.moveTo(px(aim[i]), py(aim[i + 1]));
      c.lineTo(px(ends[i]), py(ends[i + 1]));
    }
    c.stroke();
    c.globalAlpha = 0.9;
    for (let i = 0; i < ends.length; i += 2) {
      c.fillStyle = `rgb(${placeColour(aim[i], aim[i + 1], look.dark)})`;
      c.beginPath();
      c.arc(px(ends[i]), py(ends[i + 1]), dot, 0, 6.3);
      c.fill();
    }
    c.globalAlpha = 1;
  }
}
