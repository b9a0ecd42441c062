// Strokes of brush and eraser, to the pixels that they touch.

import { blank, minus, shapeOf, union } from "../mask/shape.js";

/** @typedef {import("../mask/shape.js").Shape} Shape */
/**
 * @typedef {object} Stroke
 * @property {[number, number][]} track (x, y) from the image's edges, original pixels
 * @property {number} radius original pixels
 * @property {0 | 1} value 1 paints, 0 erases
 */

/** Return a mask after a stroke. @param {Shape | null} shape @param {Stroke} stroke @param {{width: number, height: number}} size */
export function brushed(shape, stroke, size) {
  const touched = touchedBy(stroke, size);
  return stroke.value ? union(shape, touched) : minus(shape, touched);
}

/** @param {Stroke} stroke @param {{width: number, height: number}} size @returns {Shape | null} pixels whose centre is under the brush */
function touchedBy({ track, radius }, { width, height }) {
  // At least the pixel under the pointer.
  const reach = Math.max(radius, 0.71);
  const clip = (/** @type {number} */ value, /** @type {number} */ most) => Math.max(0, Math.min(value, most));
  const x0 = clip(Math.floor(Math.min(...track.map(([x]) => x)) - reach), width);
  const y0 = clip(Math.floor(Math.min(...track.map(([, y]) => y)) - reach), height);
  const x1 = clip(Math.ceil(Math.max(...track.map(([x]) => x)) + reach), width);
  const y1 = clip(Math.ceil(Math.max(...track.map(([, y]) => y)) + reach), height);
  if (x1 <= x0 || y1 <= y0) return null;
  const bitmap = blank(x0, y0, x1 - x0, y1 - y0);
  track.forEach((to, i) => stampLine(bitmap, track[Math.max(0, i - 1)], to, reach));
  return shapeOf(bitmap);
}

/** @param {import("../mask/shape.js").Bitmap} bitmap @param {[number, number]} from @param {[number, number]} to @param {number} reach */
function stampLine(bitmap, [ax, ay], [bx, by], reach) {
  const [dx, dy] = [bx - ax, by - ay];
  const length = dx * dx + dy * dy;
  const top = Math.max(0, Math.floor(Math.min(ay, by) - reach) - bitmap.y);
  const bottom = Math.min(bitmap.height, Math.ceil(Math.max(ay, by) + reach) - bitmap.y);
  const left = Math.max(0, Math.floor(Math.min(ax, bx) - reach) - bitmap.x);
  const right = Math.min(bitmap.width, Math.ceil(Math.max(ax, bx) + reach) - bitmap.x);
  for (let row = top; row < bottom; row++) {
    for (let column = left; column < right; column++) {
      const x = bitmap.x + column + 0.5 - ax;
      const y = bitmap.y + row + 0.5 - ay;
      const along = length ? Math.max(0, Math.min(1, (x * dx + y * dy) / length)) : 0;
      if ((x - along * dx) ** 2 + (y - along * dy) ** 2 <= reach * reach) bitmap.data[row * bitmap.width + column] = 1;
    }
  }
}
