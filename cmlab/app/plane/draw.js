// @ts-check
// What is drawn on the plane's canvas: colours, arrows with heads, words that do not cover each other, shades.

import {Mixture} from './maths.js';

/** @typedef {{ink: string, soft: string, line: string, paper: string, tint: number[], ground: number[], dark: boolean}} Look */
/** @typedef {{x: number, y: number, dx: number, dy: number, text: string, colour: string}} Word on the side (dx, dy) of (x, y) */
/** @typedef {import('./maths.js').F} F */

/** The colours of a page, light or dark.
 * @param {boolean} dark
 * @returns {Look} */
export const lookOf = (dark) => dark
  ? {ink: '#eceff3', soft: '#98a3b0', line: '#2a323c', paper: '#11161c', tint: [74, 144, 196], ground: [17, 22, 28], dark}
  : {ink: '#151a21', soft: '#5d6875', line: '#e2e6ea', paper: '#ffffff', tint: [0, 84, 140], ground: [255, 255, 255], dark};

export const FONT = 'ui-sans-serif, system-ui, sans-serif';
/** @type {Record<string, [string, string]>} Okabe and Ito's colours, those of cmlab.plots; lighter on dark ground */
const COLOURS = {
  D: ['#c07f00', '#f0b429'], teacher: ['#0072b2', '#56b4e9'], first: ['#d55e00', '#ff8a3d'], second: ['#009e73', '#2fd0a2'],
  third: ['#b5568f', '#e69ac4'], fourth: ['#8c5a3c', '#d0a080'], fifth: ['#53748c', '#9dbdd3'],
};

/** @param {string} name
 * @param {Look} look */
export const colourOf = (name, look) => (COLOURS[name] ? COLOURS[name][look.dark ? 1 : 0] : look.ink);

/** The colour of a place in the data's plane, as bytes: the hue is its direction, the strength its distance (in OKLCH).
 * @param {number} x
 * @param {number} y
 * @param {boolean} dark
 * @returns {[number, number, number]} */
export function placeColour(x, y, dark) {
  const far = Math.min(1, Math.hypot(x, y) / 0.75), chroma = 0.03 + 0.13 * far, hue = Math.atan2(y, x) + 0.6;
  const light = (dark ? 0.76 : 0.64) + 0.05 * Math.cos(2 * hue), a = chroma * Math.cos(hue), b = chroma * Math.sin(hue);
  const l = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (light - 0.0894841775 * a - 1.291485548 * b) ** 3;
  /** @param {number} c */
  const byte = (c) => Math.round(255 * Math.min(1, Math.max(0, c <= 0.0031308 ? 12.92 * c : 1.055 * c ** (1 / 2.4) - 0.055)));
  return [byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
    byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
    byte(-0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s)];
}

/** A line with a head at its end, and a halo of the ground below it.
 * @param {CanvasRenderingContext2D} c
 * @param {number} x
 * @param {number} y
 * @param {number} u
 * @param {number} v
 * @param {string} colour
 * @param {string} halo
 * @param {number} width */
export function arrow(c, x, y, u, v, colour, halo, width = 2) {
  const length = Math.hypot(u - x, v - y);
  if (length < 1) return;
  const dx = (u - x) / length, dy = (v - y) / length, head = Math.min(3.2 * width + 4, 0.6 * length), wide = 0.42 * head;
  const bx = u - head * dx, by = v - head * dy;
  for (const [stroke, extra] of /** @type {[string, number][]} */ ([[halo, 2.5], [colour, 0]])) {
    if (!stroke) continue;
    c.strokeStyle = c.fillStyle = stroke;
    c.lineWidth = width + extra;
    c.lineJoin = 'round';
    c.beginPath();
    c.moveTo(x, y);
    c.lineTo(bx, by);
    c.stroke();
    c.lineWidth = extra;
    c.beginPath();
    c.moveTo(u, v);
    c.lineTo(bx - wide * dy, by + wide * dx);
    c.lineTo(bx + wide * dy, by - wide * dx);
    c.closePath();
    c.fill();
    if (extra) c.stroke();
  }
}

/** A number with three digits that count.
 * @param {number} value */
export const short = (value) => value.toFixed(value >= 100 ? 0 : value >= 10 ? 1 : value >= 1 ? 2 : 3);

/** Words beside points, moved down or up until no two are on one another.
 * @param {CanvasRenderingContext2D} c
 * @param {Word[]} words
 * @param {number} size of the canvas
 * @param {Look} look */
export function write(c, words, size, look) {
  c.font = `600 13px ${FONT}`;
  c.textBaseline = 'middle';
  c.textAlign = 'left';
  const placed = words.map((word) => {
    const wide = c.measureText(word.text).width, away = Math.hypot(word.dx, word.dy) || 1, right = word.dx >= 0;
    const left = word.x + 14 * word.dx / away - (right ? -4 : 4 + wide);
    return {...word, wide, left: Math.min(size - 8 - wide, Math.max(8, left)), top: word.y + 14 * word.dy / away};
  }).sort((a, b) => a.top - b.top);
  for (let round = 0; round < 16; round++) {
    for (let i = 0; i < placed.length; i++) {
      for (const b of placed.slice(i + 1)) {
        const a = placed[i], near = 18 - (b.top - a.top);
        if (near > 0 && a.left < b.left + b.wide + 8 && b.left < a.left + a.wide + 8) {
          a.top -= near / 2;
          b.top += near / 2;
        }
      }
    }
    for (const word of placed) word.top = Math.min(size - 30, Math.max(34, word.top));
  }
  for (const word of placed) {
    c.lineWidth = 4;
    c.lineJoin = 'round';
    c.strokeStyle = look.paper;
    c.strokeText(word.text, word.left, word.top);
    c.fillStyle = word.colour;
    c.fillText(word.text, word.left, word.top);
  }
}

/** A picture of numbers between 0 and 1, row by row from below, on a canvas of its own. */
export class Shade {
  constructor() {
    this.canvas = document.createElement('canvas');
    this.values = new Float32Array(0);
    this.side = 0;
  }

  /** @param {number} side */
  resize(side) {
    if (side === this.side) return this.values;
    this.side = this.canvas.width = this.canvas.height = side;
    this.image = new ImageData(side, side);
    return this.values = new Float32Array(side * side);
  }

  /** The values in a colour over the ground.
   * @param {number[]} ground
   * @param {number[]} tint */
  paint(ground, tint) {
    const {side, values} = this, image = /** @type {ImageData} */ (this.image), bytes = new Uint32Array(image.data.buffer);
    const colours = Uint32Array.from({length: 256}, (_, t) => ground.reduce((word, value, k) =>
      word | Math.round(value + t / 255 * (tint[k] - value)) << 8 * k, 255 << 24));
    for (let j = 0, at = 0; j < side; j++) {
      for (let i = 0, from = (side - 1 - j) * side; i < side; i++) bytes[at++] = colours[255 * values[from + i] | 0];
    }
    this.put();
  }

  /** @param {number} cell
   * @param {number[]} colour */
  pixel(cell, colour) {
    const {side} = this, {data} = /** @type {ImageData} */ (this.image);
    const at = 4 * ((side - 1 - Math.floor(cell / side)) * side + cell % side);
    for (let k = 0; k < 3; k++) data[at + k] = colour[k];
    data[at + 3] = 255;
  }

  put() {
    const c = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext('2d'));
    c.putImageData(/** @type {ImageData} */ (this.image), 0, 0);
  }

  /** The density at sigma over [-reach, reach]^2, as strong as its largest value there allows.
   * @param {Mixture} mixture
   * @param {number} sigma
   * @param {number} reach
   * @param {Look} look */
  density(mixture, sigma, reach, look) {
    const side = mixture.count > 300 ? 64 : 96, values = this.resize(side);
    const axis = Float64Array.from({length: side}, (_, i) => reach * (2 * (i + 0.5) / side - 1));
    mixture.density(axis, axis, sigma, values);
    let most = 0;
    for (const value of values) if (value > most) most = value;
    for (let i = 0; i < values.length; i++) values[i] = most ? 0.42 * Math.sqrt(values[i] / most) : 0;
    this.paint(look.ground, look.tint);
  }
}

/** A small picture of points.
 * @param {HTMLCanvasElement} canvas
 * @param {F} x
 * @param {boolean} dark */
export function thumbnail(canvas, x, dark) {
  const c = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d')), side = canvas.width;
  c.clearRect(0, 0, side, side);
  for (let i = 0; i < x.length; i += 2) {
    c.fillStyle = `rgb(${placeColour(x[i], x[i + 1], dark)})`;
    c.beginPath();
    c.arc(side / 2 * (1 + x[i] / 1.3), side / 2 * (1 - x[i + 1] / 1.3), side / 26, 0, 7);
    c.fill();
  }
}
