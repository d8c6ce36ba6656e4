// @ts-check
// Who answers where noise ends: the exact f, D, a teacher, and the networks.

import {SIGMA_MIN, eulerStep, flow, heun, heunStep, karras} from './maths.js';

/** @typedef {import('./plane.js').Plane} Plane */
/** @typedef {import('./maths.js').F} F */
/** @typedef {import('./maths.js').Model} Model */
/** @typedef {import('./maths.js').ModelData} ModelData */
/** @typedef {import('./maths.js').Denoiser} Denoiser */
/** @typedef {{id: string, name: string, about: string, colour: string, cost: string, work: number,
 *             answer: (x: F, sigma: number) => F, trail?: (x: F, sigma: number) => import('./maths.js').Path}} Answer
 * work: what a point costs, 1 for one look at a network; trail: the way there */

/** @param {Plane} p
 * @returns {Answer[]} */
export function answersOf({mixture, models, set}) {
  const colours = ['first', 'second', 'third', 'fourth', 'fifth'], parts = mixture.count / 2000, {edm, ...others} = models;
  const D = {label: 'D(x, σ)', consistency: true, steps: 0, low: SIGMA_MIN, method: 'D'}, exact = {...D, consistency: false};
  const teachers = edm ? [answerBy(edm, set.steps, 'teacher')]
    : [answerBy(mixture, set.steps, 'teacher', parts, {...exact, label: 'Heun', method: 'heun'}),
      answerBy(mixture, set.steps, colours.shift(), parts, {...exact, label: 'Euler', method: 'euler'}, eulerStep)];
  return [{id: 'f', name: 'f(x, σ)', about: 'the end of the exact path', colour: 'f', cost: 'exact', work: 200 * parts,
    answer: (x, sigma) => flow(mixture, x, sigma, SIGMA_MIN, 48)}, answerBy(mixture, 1, 'D', parts, D), ...teachers,
  ...Object.values(others).map((model) => answerBy(model, set.steps, colours.shift()))];
}

/** What a denoiser says of x: a consistency model at once, any other by walking, a progressively distilled one on its own grid.
 * @param {Denoiser} model
 * @param {number} most steps, where it has no own number of them
 * @param {string} colour
 * @param {number} work
 * @param {Pick<ModelData, 'label' | 'method' | 'consistency' | 'steps' | 'low'>} about
 * @returns {Answer} */
export function answerBy(model, most, colour = 'fifth', work = 1, about = /** @type {Model} */ (model).data,
  step = about.steps ? eulerStep : heunStep) {
  const {label: name, method: id, consistency, steps, low} = about, n = steps || most;
  const said = {id, name, colour, about: id === 'D' ? 'the mean of all data that x may have come from' : ''};
  if (consistency) {
    return {...said, cost: 'one step', work, answer: (x, sigma) => model.denoise(x, sigma, new Float64Array(x.length))};
  }
  /** @param {F} x
   * @param {number} sigma */
  const trail = (x, sigma) => {
    const grid = karras(n + (steps ? 1 : 0), low, Math.max(sigma, 1.01 * low)), levels = steps ? grid : Float64Array.of(...grid, 0);
    return {levels, states: heun(model, x, levels, step)};
  };
  return {...said, cost: `${n} ${n === 1 ? 'step' : 'steps'}`, work: work * n * (step === heunStep ? 2 : 1), trail,
    answer: (x, sigma) => trail(x, sigma).states[n]};
}

/** An answer about many points, some at a time.
 * @param {Answer} answer
 * @param {F} x
 * @param {number} sigma
 * @returns {Generator<void, F>} */
export function* asking({work, answer}, x, sigma) {
  const ends = new Float64Array(x.length), chunk = 2 * Math.max(4, Math.floor(240 / work));
  for (let from = 0; from < x.length; from += chunk) {
    ends.set(answer(x.slice(from, from + chunk), sigma), from);
    yield;
  }
  return ends;
}
