// @ts-check
// Three pictures of the plane: the walk, the maps of where noise ends, the jumps by hand. The fourth is in train.js.

import {SIGMA_MIN, between, gridOf} from './maths.js';
import {FONT, arrow, colourOf, placeColour, short, write} from './draw.js';
import {report} from './panel.js';
import {lesson} from './train.js';

/** @typedef {import('./plane.js').Plane} Plane */

/** @param {Plane} p
 * @param {number} now milliseconds */
export function drawScene(p, now) {
  const {pen: c, size, look} = p;
  if (!size) return;
  c.fillStyle = look.paper;
  c.fillRect(0, 0, size, size);
  if (p.set.mode === 'walk') walk(p);
  else if (p.set.mode === 'maps') maps(p);
  else if (p.set.mode === 'train') lesson(p);
  else jump(p, now);
}

/** The shade below everything, and the axes.
 * @param {Plane} p
 * @param {number} sigma
 * @param {boolean} field */
function ground(p, sigma, field) {
  const {pen: c, size, look, shade, set} = p, reach = p.reach(), unit = p.unit(sigma);
  const key = `${set.name} ${set.shade} ${sigma} ${set.axes}`, shown = field || set.shade !== 'none', side = 20;
  const x = field ? gridOf(side, unit * reach) : p.slopes;
  if (field && p.shaded !== key) {
    const ends = (p.models[set.shade] || p.mixture).denoise(x, sigma, new Float64Array(x.length));
    p.slopes = ends.map((value, i) => (value - x[i]) / sigma);
    shade.resize(side).forEach((_, i, values) => {
      values[i] = Math.min(0.5, 0.16 * Math.hypot(p.slopes[2 * i], p.slopes[2 * i + 1]));
    });
    shade.paint(look.ground, look.tint);
  } else if (shown && p.shaded !== key) shade.density(p.mixture, sigma, reach * unit, look);
  p.shaded = key;
  c.imageSmoothingEnabled = true;
  if (shown) c.drawImage(shade.canvas, 0, 0, size, size);
  for (let i = 0; field && i < x.length; i += 2) {
    const dx = p.slopes[i], dy = p.slopes[i + 1], by = Math.min(1, 2.1 / (Math.hypot(dx, dy) || 1)) * size / 210;
    const u = p.px(x[i] / unit), v = p.py(x[i + 1] / unit);
    arrow(c, u - by * dx, v + by * dy, u + by * dx, v - by * dy, look.soft, '', 1.2);
  }
  if (!p.backed) backdrop(p);
  p.backed = true;
  c.drawImage(p.layer, 0, 0, size, size);
}

/** What stays where it is at every level: the axes, the data, some paths.
 * @param {Plane} p */
function backdrop(p) {
  const {size, look, set, cloud, layer} = p, reach = p.reach(), step = reach > 2 ? 1 : 0.5, clean = p.unit(0);
  const c = /** @type {CanvasRenderingContext2D} */ (layer.getContext('2d'));
  layer.width = layer.height = p.canvas.width;
  c.setTransform(p.pen.getTransform());
  c.font = `500 12px ${FONT}`;
  c.fillStyle = c.strokeStyle = look.soft;
  c.textAlign = 'center';
  c.textBaseline = 'bottom';
  for (let v = -Math.floor(reach / step) * step; v <= reach; v += step) {
    const at = Math.round(p.px(v)) + 0.5, long = v === 0 ? size : 5;
    c.globalAlpha = v === 0 ? 0.16 : 0.6;
    c.beginPath();
    c.moveTo(at, size);
    c.lineTo(at, size - long);
    c.moveTo(0, at);
    c.lineTo(long, at);
    c.stroke();
    c.globalAlpha = 1;
    if (v && size > 300) c.fillText(`${v}`.replace('-', '−'), at, size - 7);
  }
  c.textAlign = 'left';
  c.textBaseline = 'top';
  const unit = set.axes === 'scaled' ? '√(σ² + ¼), the spread at this level' : 'the data’s own';
  if (size > 480 || set.name !== 'drawn') c.fillText(`unit: ${unit}`, 10, 10);
  c.globalAlpha = 0.3;
  for (let i = 0; i < p.aims.length; i += 2) c.fillRect(p.px(p.aims[i] / clean) - 1, p.py(p.aims[i + 1] / clean) - 1, 2, 2);
  c.lineWidth = 1.1;
  c.globalAlpha = 0.35;
  for (let i = 0; i < Math.min(28, set.mode === 'walk' ? cloud.ready : 0); i++) {
    c.strokeStyle = cloud.colours[i];
    line(p, cloud, i, 0, cloud.levels.length - 1, c);
    c.stroke();
  }
}

/** @param {Plane} p
 * @param {Float64Array} x in screen units
 * @param {string[]} colours
 * @param {number} n */
function dots(p, x, colours, n) {
  const {pen: c, look} = p, radius = Math.max(2, p.size / 210);
  c.globalAlpha = look.dark ? 0.9 : 0.85;
  for (let i = 0; i < n; i++) {
    c.fillStyle = colours[i];
    c.beginPath();
    c.arc(p.px(x[2 * i]), p.py(x[2 * i + 1]), radius, 0, 6.3);
    c.fill();
  }
  c.globalAlpha = 1;
}

/** @typedef {import('./maths.js').Path} Path */
/** @type {(p: Plane, path: Path, point: number, first: number, last: number, c?: CanvasRenderingContext2D) => void} */
const line = (p, {levels, states}, at, first, last, c = p.pen) => {
  c.beginPath();
  for (let k = first; k <= last; k++) {
    const unit = p.unit(levels[k]);
    c.lineTo(p.px(states[k][2 * at] / unit), p.py(states[k][2 * at + 1] / unit));
  }
};

/** @param {Plane} p */
function walk(p) {
  const {pen: c, set, look, cloud, probe, size} = p, sigma = set.sigma, unit = p.unit(sigma), clean = p.unit(0);
  ground(p, sigma, set.shade === 'score' || set.shade in p.models);
  if (cloud.ready) {
    const x = between(cloud, sigma, p.now);
    for (let i = 0; i < 2 * cloud.ready; i++) x[i] /= unit;
    dots(p, x, cloud.colours, cloud.ready);
  }
  if (set.name === 'drawn' && set.tool === 'pen') {
    report(p, []);
    return;
  }
  const {levels, states} = probe.path, px = p.px(p.point[0] / unit), py = p.py(p.point[1] / unit);
  let here = 0;
  while (here < levels.length - 1 && levels[here] > sigma * 1.00001) here++;
  c.lineJoin = c.lineCap = 'round';
  for (const [colour, width] of /** @type {[string, number][]} */ ([[look.paper, 6], [look.ink, 2.5]])) {
    c.strokeStyle = colour;
    c.lineWidth = width;
    line(p, probe.path, 0, here, levels.length - 1);
    c.stroke();
  }
  c.setLineDash([2, 6]);
  c.lineWidth = 2;
  c.strokeStyle = look.soft;
  line(p, probe.path, 0, 0, Math.max(0, here - 1));
  c.lineTo(px, py);
  c.stroke();
  c.setLineDash([]);
  /** @type {import('./draw.js').Word[]} */
  const words = [], found = [];
  for (const answer of p.answers) {
    if (p.hidden.has(answer.id)) {
      found.push({id: answer.id, far: NaN});
      continue;
    }
    const trail = answer.trail ? answer.trail(p.point, sigma) : null;
    const end = answer.id === 'f' ? probe.f : trail ? trail.states[trail.states.length - 1] : answer.answer(p.point, sigma);
    const u = p.px(end[0] / clean), v = p.py(end[1] / clean), colour = colourOf(answer.colour, look);
    const far = Math.hypot(end[0] - probe.f[0], end[1] - probe.f[1]);
    if (trail && trail.states.length > 2) {
      c.strokeStyle = c.fillStyle = colour;
      c.lineWidth = 1.8;
      line(p, trail, 0, 0, trail.states.length - 1);
      c.stroke();
      for (let k = 1; k < trail.states.length - 1; k++) {
        const scale = p.unit(trail.levels[k]);
        c.beginPath();
        c.arc(p.px(trail.states[k][0] / scale), p.py(trail.states[k][1] / scale), 2.6, 0, 7);
        c.fill();
      }
      c.beginPath();
      c.arc(u, v, 4.5, 0, 7);
      c.fill();
    } else arrow(c, px, py, u, v, colour, look.paper, answer.id === 'f' ? 4.5 : 2);
    words.push({x: u, y: v, dx: u - px || 1, dy: v - py, colour,
      text: answer.id === 'f' ? 'f' : `${answer.id === 'D' ? 'D' : answer.name}  ${short(far)}`});
    found.push({id: answer.id, far});
  }
  c.beginPath();
  c.arc(px, py, 9, 0, 7);
  c.fillStyle = look.dark ? '#f4f6f8' : '#ffffff';
  c.fill();
  c.lineWidth = 3;
  c.strokeStyle = look.dark ? '#11161c' : look.ink;
  c.stroke();
  c.beginPath();
  c.arc(px, py, 3, 0, 7);
  c.fillStyle = `rgb(${placeColour(probe.f[0], probe.f[1], false)})`;
  c.fill();
  write(c, [...words, ...(sigma > SIGMA_MIN * 1.5 ? [{x: px, y: py, dx: 1, dy: 0, text: 'x', colour: look.ink}] : [])], size, look);
  report(p, found);
}

/** @param {Plane} p */
function maps(p) {
  const {pen: c, size, look, maps: all, cursor} = p, head = 24, w = size / 2 - 30, key = Math.round(0.3 * w);
  const corner = (/** @type {number} */ k) => [k % 2 * (size / 2 + 6) + 12, k < 2 ? head : size / 2 + 6 + head];
  /** @type {(k: number, cell: number) => [number, number]} where the end of a cell lies in the key of map k */
  const end = (k, cell) => {
    const [x, y] = [0, 1].map((i) => Math.max(-0.93, Math.min(0.93, all[k].ends[2 * cell + i] / 1.35))), [left, top] = corner(k);
    return [left + w - 6 - key / 2 * (1 - x), top + w - 6 - key / 2 * (1 + y)];
  };
  let cell = -1;
  c.textBaseline = 'middle';
  c.imageSmoothingEnabled = false;
  c.font = `600 13px ${FONT}`;
  for (const [k, {side: n, answer, shade, rms, ends}] of all.entries()) {
    const [left, top] = corner(k), exact = answer.id === 'f';
    c.drawImage(shade.canvas, left, top, w, w);
    c.fillStyle = look.ink;
    c.textAlign = 'left';
    c.fillText(`${answer.name}, ${answer.cost}`, left, top - head / 2);
    c.textAlign = 'right';
    c.fillStyle = look.soft;
    c.fillText(exact ? '' : `${w > 220 ? 'rms error ' : ''}${short(rms)}`, left + w, top - head / 2);
    c.fillStyle = look.paper;
    c.globalAlpha = 0.92;
    c.fillRect(left + w - key - 6, top + w - key - 6, key, key);
    c.globalAlpha = 1;
    for (let i = 0; i < n * n; i++) {
      if (n > 24 && (i % 2 || Math.floor(i / n) % 2)) continue;
      const [x, y] = end(k, i);
      c.fillStyle = `rgb(${placeColour(ends[2 * i], ends[2 * i + 1], look.dark)})`;
      c.fillRect(x - 1, y - 1, 2, 2);
    }
    const a = cursor ? Math.floor((cursor[0] - left) / w * n) : -1, b = cursor ? Math.floor((cursor[1] - top) / w * n) : -1;
    if (a >= 0 && a < n && b >= 0 && b < n && n === all[0].side) cell = (n - 1 - b) * n + a;
  }
  for (const [k, {side: n}] of all.entries()) {
    if (cell < 0 || n !== all[0].side) continue;
    const [left, top] = corner(k), u = left + (cell % n + 0.5) * w / n, v = top + (n - Math.floor(cell / n) - 0.5) * w / n;
    arrow(c, u, v, ...end(k, cell), look.ink, look.paper, 1.6);
    c.strokeStyle = look.ink;
    c.lineWidth = 2;
    c.strokeRect(u - 5, v - 5, 10, 10);
  }
}

/** @param {Plane} p
 * @param {number} now */
function jump(p, now) {
  const {pen: c, look, walkers: w, size} = p, t = Math.min(1, Math.max(0, (now - w.begun) / (w.begun < 0 ? 1 : 700)));
  const ease = t < 1 ? t * t * (3 - 2 * t) : 1, [a, b] = [p.unit(w.before), p.unit(w.sigma)];
  ground(p, ease < 0.5 ? w.before : w.sigma, false);
  const x = w.x.map((value, i) => ease * value / b + (1 - ease) * w.from[i] / a);
  dots(p, x, w.colours, x.length / 2);
  if (t < 1 && w.begun >= 0) p.wake();
  c.textAlign = 'right';
  c.textBaseline = 'top';
  c.fillStyle = look.ink;
  c.font = `600 13px ${FONT}`;
  c.fillText(`now σ = ${short(w.sigma)}`, size - 10, 10);
}
