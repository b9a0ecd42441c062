// Exact masks in original pixels: small while they are kept, pixels while they are worked on.

import { boxOf, fieldOf, MASK_SIZE, sample } from "./field.js";

/**
 * @typedef {{x: number, y: number, width: number, height: number, data: Uint8Array | Uint16Array}} Bitmap
 *   1 inside, 0 outside, or other values for files; x and y: its place in the image
 * @typedef {object} Shape A mask; never modified. It has a pixel at least.
 * @property {number} x left edge of the box around it, original pixels
 * @property {number} y
 * @property {number} width
 * @property {number} height
 * @property {Uint32Array} runs lengths of runs, outside first, over the box row by row
 * @property {number} area pixels inside
 * @typedef {import("./field.js").Size} Size
 */

/** The newest bitmaps: a few operations in a row use the same ones. @type {Map<Shape, Bitmap>} */
const recent = new Map();
const RECENT_PIXELS = 48e6;

/** @param {Shape} shape @returns {Bitmap} not to be modified */
export function pixels(shape) {
  const known = recent.get(shape);
  if (known) return known;
  const { x, y, width, height, runs } = shape;
  const data = new Uint8Array(width * height);
  let at = 0;
  runs.forEach((length, i) => {
    if (i % 2) data.fill(1, at, at + length);
    at += length;
  });
  const bitmap = { x, y, width, height, data };
  recent.set(shape, bitmap);
  let total = 0;
  for (const [key, { data: kept }] of [...recent].reverse()) {
    total += kept.length;
    if (total > RECENT_PIXELS && key !== shape) recent.delete(key);
  }
  return bitmap;
}

/** @param {number} x @param {number} y @param {number} width @param {number} height @returns {Bitmap} */
export const blank = (x, y, width, height) => ({ x, y, width, height, data: new Uint8Array(width * height) });

/** Return the shape of the pixels inside; null if there are none. @param {Bitmap} bitmap @returns {Shape | null} */
export function shapeOf({ x, y, width, height, data }) {
  let [x0, y0, x1, y1] = [width, -1, -1, -1];
  for (let row = 0; row < height; row++) {
    const start = row * width;
    const first = data.indexOf(1, start);
    if (first < 0) break;
    if (first >= start + width) {
      row = Math.floor(first / width) - 1;
      continue;
    }
    if (y0 < 0) y0 = row;
    y1 = row;
    x0 = Math.min(x0, first - start);
    let last = start + width - 1;
    while (!data[last]) last--;
    x1 = Math.max(x1, last - start);
  }
  if (y1 < 0) return null;
  const runs = [];
  let [area, length, value] = [0, 0, 0];
  for (let row = y0; row <= y1; row++) {
    for (let i = row * width + x0, end = row * width + x1; i <= end; i++) {
      if (data[i] !== value) {
        runs.push(length);
        length = 0;
        value = data[i];
      }
      length++;
      area += value;
    }
  }
  runs.push(length);
  return { x: x + x0, y: y + y0, width: x1 - x0 + 1, height: y1 - y0 + 1, runs: Uint32Array.from(runs), area };
}

/** Cut a mask out of logits, as the client does. @param {Float32Array} logits @param {Size} size @returns {Shape | null} */
export function cut(logits, size) {
  const field = fieldOf(logits, size);
  if (!field) return null;
  const { x0, y0, x1, y1 } = boxOf(field, size);
  const bitmap = blank(x0, y0, x1 - x0, y1 - y0);
  const { data, width } = bitmap;
  const grid = { x: x0 + 0.5, y: y0 + 0.5, step: 1, width, height: y1 - y0 };
  sample(field, size, grid, (row, line) => {
    for (let i = 0, at = row * width; i < width; i++, at++) if (line[i] > 0) data[at] = 1;
  });
  return shapeOf(bitmap);
}

/** Return logits that a model takes as an earlier mask. @param {Shape} shape @param {Size} size */
export function logitsOf(shape, size) {
  const logits = new Float32Array(MASK_SIZE * MASK_SIZE).fill(-8);
  const { x, y, width, height, data } = pixels(shape);
  const step = Math.max(size.width, size.height) / MASK_SIZE;
  for (let row = 0; row < MASK_SIZE; row++) {
    const v = Math.floor((row + 0.5) * step) - y;
    if (v < 0 || v >= height) continue;
    for (let column = 0; column < MASK_SIZE; column++) {
      const u = Math.floor((column + 0.5) * step) - x;
      if (u >= 0 && u < width && data[v * width + u]) logits[row * MASK_SIZE + column] = 8;
    }
  }
  return logits;
}

/** Copy a part of a mask into a bitmap, with a value for its pixels. @param {Bitmap} target @param {Shape | null} shape @param {number} value */
export function stamp(target, shape, value) {
  if (!shape) return;
  const from = pixels(shape);
  const x0 = Math.max(target.x, from.x);
  const x1 = Math.min(target.x + target.width, from.x + from.width);
  const y1 = Math.min(target.y + target.height, from.y + from.height);
  for (let y = Math.max(target.y, from.y); y < y1; y++) {
    let a = (y - from.y) * from.width + x0 - from.x;
    let b = (y - target.y) * target.width + x0 - target.x;
    for (let x = x0; x < x1; x++, a++, b++) if (from.data[a]) target.data[b] = value;
  }
}

/** @param {Shape | null} a @param {Shape | null} b @returns {Shape | null} */
export function union(a, b) {
  if (!a || !b) return a ?? b;
  const x = Math.min(a.x, b.x);
  const y = Math.min(a.y, b.y);
  const all = blank(x, y, Math.max(a.x + a.width, b.x + b.width) - x, Math.max(a.y + a.height, b.y + b.height) - y);
  stamp(all, a, 1);
  stamp(all, b, 1);
  return shapeOf(all);
}

/** Return the pixels of a that are not in b. @param {Shape | null} a @param {Shape | null} b @returns {Shape | null} */
export function minus(a, b) {
  if (!a || !b) return a;
  const rest = { ...pixels(a), data: pixels(a).data.slice() };
  stamp(rest, b, 0);
  return shapeOf(rest);
}

/** Return the IoU of two masks. @param {Shape} a @param {Shape} b */
export function overlap(a, b) {
  const apart = a.x + a.width <= b.x || b.x + b.width <= a.x || a.y + a.height <= b.y || b.y + b.height <= a.y;
  if (apart) return 0;
  const both = a.area - (minus(a, b)?.area ?? 0);
  return both / (a.area + b.area - both);
}

/** Tell whether a pixel is inside. @param {Shape} shape @param {number} x @param {number} y */
export function contains(shape, x, y) {
  const column = x - shape.x;
  const row = y - shape.y;
  if (column < 0 || row < 0 || column >= shape.width || row >= shape.height) return false;
  return pixels(shape).data[row * shape.width + column] === 1;
}
