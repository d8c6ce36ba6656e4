// @ts-check
// The numbers of the plane: mixtures in closed form, their PF-ODE, and trained networks. No drawing, no page.
//
// All in the data's units and in float64. A denoiser is an object with denoise(x, sigma, out): it fills out with D(x, sigma), all
// points at one noise level.

/** @typedef {Float64Array} F numbers; points lie flat in them, [x0, y0, x1, y1, ...] */
/** @typedef {{denoise: (x: F, sigma: number, out: F) => F}} Denoiser */
/** @typedef {{levels: F, states: F[]}} Path states at falling levels */
/** @typedef {{means: string, stds: string, weights: string, help?: string}} MixtureData what `Mixture` is made of, in base64 */
/** @typedef {{data: string, method: string, label: string, consistency: boolean, steps: number, low: number, width: number,
 *             depth: number, freqs: number, time_scale: number, scalings: string, weights: string}} ModelData
 * steps: of those that know a single number of them, else 0; low: the lowest level that the network knows */

export const SIGMA_MIN = 0.002, SIGMA_MAX = 80, SIGMA_DATA = 0.5;

/** The numbers in a base64 text, as they lie in memory (little-endian).
 * @param {string} text
 * @param {boolean} single */
export function numbers(text, single = false) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return single ? Float64Array.from(new Float32Array(bytes.buffer)) : new Float64Array(bytes.buffer);
}

/** Standard normal numbers, the same for the same seed (mulberry32, Box and Muller).
 * @param {number} n
 * @param {number} seed */
export function normals(n, seed) {
  const uniform = uniforms(seed), out = new Float64Array(n);
  for (let i = 0; i < n; i += 2) {
    const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
    out[i] = radius * Math.cos(angle);
    if (i + 1 < n) out[i + 1] = radius * Math.sin(angle);
  }
  return out;
}

/** A source of numbers in [0, 1).
 * @param {number} seed */
export function uniforms(seed) {
  let state = (seed + 1) * 0x9e3779b9 | 0;
  return () => {
    state = state + 0x6d2b79f5 | 0;
    let t = Math.imul(state ^ state >>> 15, 1 | state);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  };
}

/** n decreasing noise levels, denser near zero (EDM, eq. 5).
 * @param {number} n
 * @param {number} low
 * @param {number} high */
export function karras(n, low = SIGMA_MIN, high = SIGMA_MAX, rho = 7) {
  const top = high ** (1 / rho), bottom = low ** (1 / rho);
  const grid = Float64Array.from({length: n}, (_, i) => (top + i / Math.max(1, n - 1) * (bottom - top)) ** rho);
  grid[n - 1] = low;
  grid[0] = high;
  return grid;
}

/** The scale of data + noise: the root mean square of a coordinate at sigma.
 * @param {number} sigma */
export const scaleOf = (sigma) => Math.sqrt(sigma * sigma + SIGMA_DATA * SIGMA_DATA);

/** sum_k w_k N(m_k, s_k^2 I) in the plane, noised: what cmlab.GaussianMixture is. */
export class Mixture {
  /** @param {F} means flat
   * @param {F} stds
   * @param {F} weights positive */
  constructor(means, stds, weights) {
    this.means = means;
    this.stds = stds;
    const total = weights.reduce((a, b) => a + b, 0);
    this.weights = weights.map((w) => w / total);
    this.count = weights.length;
    this.joint = new Float64Array(this.count);
    this.variance = new Float64Array(this.count);
    this.offset = new Float64Array(this.count);
    this.level = NaN;
  }

  /** @param {MixtureData} data */
  static from(data) {
    return new Mixture(numbers(data.means), numbers(data.stds), numbers(data.weights));
  }

  /** Points with a Gaussian of relative width `spread` around each, scaled to 0.5 a coordinate (cmlab.data's drawn_points).
   * @param {ArrayLike<number>} points flat, at least two that differ
   * @param {number} spread
   * @param {boolean} fit or left where they are */
  static drawn(points, spread = 0.08, fit = true) {
    const n = points.length / 2, mean = [0, 0];
    for (let i = 0; i < 2 * n; i++) mean[i & 1] += points[i] / n;
    let square = 0;
    for (let i = 0; i < 2 * n; i++) square += (points[i] - mean[i & 1]) ** 2 / (2 * n);
    const scale = fit ? SIGMA_DATA / Math.sqrt(square * (1 + spread * spread)) : 1;
    const means = Float64Array.from({length: 2 * n}, (_, i) => (points[i] - (fit ? mean[i & 1] : 0)) * scale);
    const std = spread * Math.sqrt(square) * scale;
    return new Mixture(means, new Float64Array(n).fill(std), new Float64Array(n).fill(1));
  }

  /** The parts that depend on the level alone.
   * @param {number} sigma */
  at(sigma) {
    if (sigma === this.level) return;
    for (let k = 0; k < this.count; k++) {
      const v = this.variance[k] = Math.max(this.stds[k] ** 2 + sigma * sigma, 1e-30);
      this.offset[k] = Math.log(this.weights[k]) - Math.log(2 * Math.PI * v);
    }
    this.level = sigma;
  }

  /** log(w_k N(x; m_k, v_k I)) into this.joint; the largest comes back.
   * @param {number} x
   * @param {number} y */
  join(x, y) {
    const {means, joint, variance, offset, count} = this;
    let most = -Infinity;
    for (let k = 0; k < count; k++) {
      const dx = x - means[2 * k], dy = y - means[2 * k + 1];
      const value = joint[k] = offset[k] - 0.5 * (dx * dx + dy * dy) / variance[k];
      if (value > most) most = value;
    }
    return most;
  }

  /** E[x0 | x0 + sigma eps = x].
   * @param {F} x
   * @param {number} sigma
   * @param {F} out */
  denoise(x, sigma, out) {
    this.at(sigma);
    const {means, joint, variance, count} = this, noise = sigma * sigma;
    for (let i = 0; i < x.length; i += 2) {
      const most = this.join(x[i], x[i + 1]);
      let total = 0, pull = 0, px = 0, py = 0;
      for (let k = 0; k < count; k++) {
        const below = joint[k] - most;
        if (below < -40) continue;  // less than a rounding error of the sum
        const r = Math.exp(below), towards = r * noise / variance[k];
        total += r;
        pull += towards;
        px += towards * means[2 * k];
        py += towards * means[2 * k + 1];
      }
      out[i] = x[i] + (px - pull * x[i]) / total;
      out[i + 1] = x[i + 1] + (py - pull * x[i + 1]) / total;
    }
    return out;
  }

  /** The density on a grid, row by row, `xs` along each. Gaussians are products of one in x and one in y: few exponentials.
   * @param {F} xs
   * @param {F} ys
   * @param {number} sigma
   * @param {Float32Array} out */
  density(xs, ys, sigma, out) {
    this.at(sigma);
    const n = xs.length, across = new Float64Array(n);
    out.fill(0);
    for (let k = 0; k < this.count; k++) {
      const v = this.variance[k], reach = 7 * Math.sqrt(v), mx = this.means[2 * k], my = this.means[2 * k + 1];
      let first = 0, last = n;
      while (first < n && xs[first] < mx - reach) first++;
      while (last > first && xs[last - 1] > mx + reach) last--;
      for (let i = first; i < last; i++) across[i] = Math.exp(-0.5 * (xs[i] - mx) ** 2 / v);
      for (let j = 0; j < ys.length; j++) {
        if (Math.abs(ys[j] - my) > reach) continue;
        const down = this.weights[k] / (2 * Math.PI * v) * Math.exp(-0.5 * (ys[j] - my) ** 2 / v);
        for (let i = first, at = j * n + first; i < last; i++, at++) out[at] += down * across[i];
      }
    }
    return out;
  }

  /** n draws of the data.
   * @param {number} n
   * @param {number} seed */
  sample(n, seed) {
    const uniform = uniforms(seed), noise = normals(2 * n, seed + 1), out = new Float64Array(2 * n);
    for (let i = 0; i < n; i++) {
      let k = 0;
      for (let left = uniform() - this.weights[0]; left > 0 && k < this.count - 1; left -= this.weights[k]) k++;
      out[2 * i] = this.means[2 * k] + this.stds[k] * noise[2 * i];
      out[2 * i + 1] = this.means[2 * k + 1] + this.stds[k] * noise[2 * i + 1];
    }
    return out;
  }
}

/** x times the logistic function of x.
 * @param {number} x */
const silu = (x) => x / (1 + Math.exp(-x));

/** @typedef {{w: F, b: F, ins: number, outs: number}} Layer */

/** The layers that lie in `weights`, in the order of the network's parameters: each one's matrix (out, in), then its bias.
 * @param {ModelData} shape
 * @param {F} weights */
function layersOf({width, depth, freqs}, weights) {
  let at = 0;
  /** @param {number} ins
   * @param {number} outs
   * @returns {Layer} */
  const layer = (ins, outs) => ({w: weights.subarray(at, at += ins * outs), b: weights.subarray(at, at += outs), ins, outs});
  const inp = layer(2, width), time = layer(2 * freqs, width);
  const square = () => layer(width, width);
  const blocks = Array.from({length: depth}, () => ({one: square(), emb: square(), two: square()}));
  const out = layer(width, 2);
  if (at !== weights.length) throw new Error(`a network of ${at} numbers got ${weights.length}`);
  return {inp, time, blocks, out};
}

/** A trained model: cmlab's residual MLP in its scalings, D = c_skip x + c_out F(c_in x, c_noise). */
export class Model {
  /** @param {ModelData} data */
  constructor(data) {
    this.data = data;
    this.layers = layersOf(data, numbers(data.weights, true));
    this.scalings = numbers(data.scalings);
    /** @type {F[]} what each block is told of the level */
    this.told = [];
    this.c = [1, 0, 1, 0];
    this.level = NaN;
  }

  /** The parts that depend on the level alone. The scalings stand in a table, evenly in ln sigma: cubic polynomials lie between.
   * @param {number} sigma */
  at(sigma) {
    if (sigma === this.level) return;
    const {scalings} = this, n = scalings.length / 4, last = Math.log(SIGMA_MAX / SIGMA_MIN);
    const place = (n - 1) * Math.min(1, Math.max(0, Math.log(sigma / SIGMA_MIN) / last));
    const k = Math.min(n - 4, Math.max(0, Math.floor(place) - 1)), t = place - k, [a, b, c] = [t - 1, t - 2, t - 3];
    const share = [-a * b * c / 6, t * b * c / 2, -t * a * c / 2, t * a * b / 6];
    this.c = [0, n, 2 * n, 3 * n].map((row) => share.reduce((sum, w, i) => sum + w * scalings[row + k + i], 0));
    const {freqs, time_scale} = this.data, tone = new Float64Array(2 * freqs);
    for (let i = 0; i < freqs; i++) {
      const angle = time_scale * this.c[3] * (0.25 + 3.75 * (freqs > 1 ? i / (freqs - 1) : 0));
      tone[i] = Math.sin(angle);
      tone[freqs + i] = Math.cos(angle);
    }
    const told = linear(this.layers.time, tone, 1).map(silu);
    this.told = this.layers.blocks.map((block) => linear(block.emb, told, 1));
    this.level = sigma;
  }

  /** @param {F} x
   * @param {number} sigma
   * @param {F} out */
  denoise(x, sigma, out) {
    this.at(sigma);
    const [skip, scale, within] = this.c, n = x.length / 2, {inp, blocks} = this.layers;
    const h = linear(inp, x.map((value) => value * within), n);
    for (let b = 0; b < blocks.length; b++) {
      const told = this.told[b], width = told.length;
      const y = linear(blocks[b].one, h.map(silu), n);
      for (let i = 0; i < y.length; i++) y[i] = silu(y[i] + told[i % width]);
      const more = linear(blocks[b].two, y, n);
      for (let i = 0; i < h.length; i++) h[i] += more[i];
    }
    const f = linear(this.layers.out, h.map(silu), n);
    for (let i = 0; i < x.length; i++) out[i] = skip * x[i] + scale * f[i];
    return out;
  }
}

/** One layer for n rows of x. Four rows at a time: each weight is read once for them.
 * @param {Layer} layer
 * @param {F} x
 * @param {number} n */
function linear({w, b, ins, outs}, x, n) {
  const y = new Float64Array(n * outs);
  let row = 0;
  for (; row + 3 < n; row += 4) {
    const x0 = row * ins, x1 = x0 + ins, x2 = x1 + ins, x3 = x2 + ins;
    for (let o = 0, at = 0; o < outs; o++) {
      let a0 = b[o], a1 = a0, a2 = a0, a3 = a0;
      for (let i = 0; i < ins; i++, at++) {
        const weight = w[at];
        a0 += weight * x[x0 + i];
        a1 += weight * x[x1 + i];
        a2 += weight * x[x2 + i];
        a3 += weight * x[x3 + i];
      }
      const to = row * outs + o;
      y[to] = a0;
      y[to + outs] = a1;
      y[to + 2 * outs] = a2;
      y[to + 3 * outs] = a3;
    }
  }
  for (; row < n; row++) {
    for (let o = 0, at = 0; o < outs; o++) {
      let s0 = b[o], s1 = 0, i = row * ins;
      const end = i + ins;
      for (; i + 1 < end; i += 2, at += 2) {  // two sums: one waits for itself at every number
        s0 += w[at] * x[i];
        s1 += w[at + 1] * x[i + 1];
      }
      if (i < end) s0 += w[at++] * x[i];
      y[row * outs + o] = s0 + s1;
    }
  }
  return y;
}

/** One step of Euler's method on dx/dsigma = (x - D) / sigma, to 0 at most.
 * @param {Denoiser} model
 * @param {F} x
 * @param {number} sigma
 * @param {number} next */
export function eulerStep(model, x, sigma, next) {
  const d = model.denoise(x, sigma, new Float64Array(x.length));
  return d.map((value, i) => value + next / sigma * (x[i] - value));
}

/** One step of Heun's method, Euler's where the next level is 0 (EDM, Algorithm 1).
 * @param {Denoiser} model
 * @param {F} x
 * @param {number} sigma
 * @param {number} next */
export function heunStep(model, x, sigma, next) {
  const d = model.denoise(x, sigma, new Float64Array(x.length)), y = new Float64Array(x.length);
  for (let i = 0; i < x.length; i++) y[i] = d[i] + next / sigma * (x[i] - d[i]);
  if (next === 0) return y;
  const e = model.denoise(y, next, new Float64Array(x.length));
  for (let i = 0; i < x.length; i++) y[i] = x[i] + (next - sigma) / 2 * ((x[i] - d[i]) / sigma + (y[i] - e[i]) / next);
  return y;
}

/** The states of a solver (Heun's method) at every level of `sigmas`, the first one included.
 * @param {Denoiser} model
 * @param {F} x
 * @param {ArrayLike<number>} sigmas */
export function heun(model, x, sigmas, step = heunStep) {
  const states = [x];
  for (let k = 1; k < sigmas.length; k++) states.push(x = step(model, x, sigmas[k - 1], sigmas[k]));
  return states;
}

/** The flow of the PF-ODE from `sigma` to `next`, both above 0: the classical Runge-Kutta method in ln sigma, `steps` equal steps.
 * With next = SIGMA_MIN it is the consistency function f(x, sigma) (CM, Definition 1).
 * @param {Denoiser} model
 * @param {F} x
 * @param {number} sigma */
export function flow(model, x, sigma, next = SIGMA_MIN, steps = 80) {
  if (sigma === next) return x;
  const n = x.length, h = Math.log(next / sigma) / steps, d = new Float64Array(n), y = new Float64Array(n);
  let now = x.slice();
  for (let k = 0; k < steps; k++) {
    const sum = new Float64Array(n);
    y.set(now);
    for (let stage = 0; stage < 4; stage++) {
      const part = stage === 0 ? 0 : stage === 3 ? 1 : 0.5, ahead = stage < 2 ? 0.5 : 1;
      model.denoise(y, sigma * Math.exp(h * (k + part)), d);
      for (let i = 0; i < n; i++) {
        const slope = y[i] - d[i];
        sum[i] += (stage === 1 || stage === 2 ? 2 : 1) * slope;
        y[i] = now[i] + h * ahead * slope;
      }
    }
    for (let i = 0; i < n; i++) now[i] += h / 6 * sum[i];
  }
  return now;
}

/** The states of a path at one level: straight lines between its levels, in ln sigma and in units of the scale.
 * @param {Path} path
 * @param {number} sigma
 * @param {F} out */
export function between({levels, states}, sigma, out) {
  let k = 0;
  while (k < levels.length - 2 && levels[k + 1] > sigma) k++;
  const [high, low] = [levels[k], levels[k + 1]], scale = scaleOf(sigma), a = states[k], b = states[k + 1];
  const w = Math.min(1, Math.max(0, Math.log(high / sigma) / Math.log(high / low)));
  const p = (1 - w) * scale / scaleOf(high), q = w * scale / scaleOf(low);
  for (let i = 0; i < out.length; i++) out[i] = p * a[i] + q * b[i];
  return out;
}

/** Sliced 2-Wasserstein distance of two equally large sets: over 64 directions that lie evenly on the half circle.
 * @param {F} a
 * @param {F} b */
export function slicedWasserstein(a, b, directions = 64) {
  let sum = 0;
  for (let k = 0; k < directions; k++) {
    const c = Math.cos(Math.PI * k / directions), s = Math.sin(Math.PI * k / directions);
    const [p, q] = [a, b].map((x) => Float64Array.from({length: x.length / 2}, (_, i) => c * x[2 * i] + s * x[2 * i + 1]).sort());
    for (let i = 0; i < p.length; i++) sum += (p[i] - q[i]) ** 2 / (p.length * directions);
  }
  return Math.sqrt(sum);
}

/** The centres of side x side cells in [-reach, reach]^2, row by row from below.
 * @param {number} side
 * @param {number} reach */
export function gridOf(side, reach) {
  return Float64Array.from({length: 2 * side * side}, (_, i) => {
    const cell = i % 2 ? Math.floor(i / 2 / side) : (i / 2) % side;
    return reach * (2 * (cell + 0.5) / side - 1);
  });
}

/** A drawing to begin with. */
export function spiral() {
  return Float64Array.from({length: 120}, (_, i) => {
    const t = Math.floor(i / 2) / 60, r = 0.2 + 0.75 * t;
    return r * (i % 2 ? Math.sin(9.5 * t) : Math.cos(9.5 * t));
  });
}
