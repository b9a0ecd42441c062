// COCO's run-length encoding: runs over whole columns, outside first, as text.

import { blank, pixels, shapeOf } from "./shape.js";

/** @typedef {import("./shape.js").Shape} Shape */
/** @typedef {{size: [number, number], counts: string | number[]}} Rle size: height and width of the image */

/** @type {WeakMap<Shape, Rle>} */
const known = new WeakMap();

/** @param {Shape | null} shape @param {{width: number, height: number}} size @returns {Rle} */
export function toRle(shape, { width, height }) {
  if (!shape) return { size: [height, width], counts: text([width * height]) };
  const kept = known.get(shape);
  if (kept) return kept;
  const { data, x: left, y: top, width: across, height: down } = pixels(shape);
  const counts = [];
  let value = 0;
  let length = left * height;
  const run = (/** @type {number} */ next) => {
    counts.push(length);
    length = 0;
    value = next;
  };
  for (let x = 0; x < across; x++) {
    if (value && top) run(0);
    length += top;
    for (let y = 0, at = x; y < down; y++, at += across) {
      if (data[at] !== value) run(data[at]);
      length++;
    }
    const below = height - top - down;
    if (value && below) run(0);
    length += below;
  }
  if (value && left + across < width) run(0);
  counts.push(length + (width - left - across) * height);
  /** @type {Rle} */
  const rle = { size: [height, width], counts: text(counts) };
  known.set(shape, rle);
  return rle;
}

/** @param {Rle} rle @returns {Shape | null} @throws {RangeError} if it is damaged */
export function fromRle({ size: [height, width], counts }) {
  const runs = typeof counts === "string" ? numbers(counts) : counts;
  let total = 0;
  let [x0, y0, x1, y1] = [width, height, -1, -1];
  runs.forEach((length, i) => {
    if (!(length >= 0)) throw new RangeError("a mask has a negative run");
    if (i % 2 && length) {
      const first = Math.floor(total / height);
      const last = Math.floor((total + length - 1) / height);
      x0 = Math.min(x0, first);
      x1 = Math.max(x1, last);
      y0 = Math.min(y0, first === last ? total % height : 0);
      y1 = Math.max(y1, first === last ? (total + length - 1) % height : height - 1);
    }
    total += length;
  });
  if (total !== width * height) throw new RangeError(`a mask has ${total} pixels, expected ${width * height}`);
  if (x1 < 0) return null;
  const bitmap = blank(x0, y0, x1 - x0 + 1, y1 - y0 + 1);
  let at = 0;
  runs.forEach((length, i) => {
    if (i % 2) {
      let x = Math.floor(at / height);
      let y = at % height;
      for (let n = 0; n < length; n++) {
        bitmap.data[(y - y0) * bitmap.width + x - x0] = 1;
        if (++y === height) [x, y] = [x + 1, 0];
      }
    }
    at += length;
  });
  const shape = shapeOf(bitmap);
  if (shape && typeof counts === "string") known.set(shape, { size: [height, width], counts });
  return shape;
}

/** @param {number[]} counts */
function text(counts) {
  /** @type {number[]} */
  const codes = [];
  counts.forEach((count, i) => {
    let rest = i > 2 ? count - counts[i - 2] : count;
    for (let more = true; more; ) {
      let code = rest & 31;
      rest >>= 5;
      more = code & 16 ? rest !== -1 : rest !== 0;
      if (more) code |= 32;
      codes.push(code + 48);
    }
  });
  let found = "";
  for (let i = 0; i < codes.length; i += 8192) found += String.fromCharCode(...codes.slice(i, i + 8192));
  return found;
}

/** @param {string} counts */
function numbers(counts) {
  /** @type {number[]} */
  const found = [];
  for (let at = 0; at < counts.length; ) {
    let [value, shift, code] = [0, 0, 0];
    do {
      code = counts.charCodeAt(at++) - 48;
      if (!(code >= 0 && code < 64)) throw new RangeError("a mask’s counts are not COCO’s");
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16 && shift < 32) value |= -1 << shift;
    found.push(found.length > 2 ? value + found[found.length - 2] : value);
  }
  return found;
}
