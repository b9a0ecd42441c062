// Connected parts of masks: to split them, remove specks, fill holes, and trace their borders.

import { blank, pixels, shapeOf } from "./shape.js";

/** @typedef {import("./shape.js").Shape} Shape @typedef {import("./shape.js").Bitmap} Bitmap */

/**
 * Label the connected pixels of a value.
 *
 * @param {Bitmap} bitmap @param {0 | 1} value
 * @param {boolean} corners whether pixels that touch at a corner are connected
 * @returns {{labels: Int32Array, areas: number[], open: boolean[]}} areas and open by label, from 1;
 *   open: it touches the bitmap's edge
 */
function label({ width, height, data }, value, corners) {
  const labels = new Int32Array(width * height);
  const areas = [0];
  const open = [false];
  const stack = [];
  for (let start = 0; start < data.length; start++) {
    if (data[start] !== value || labels[start]) continue;
    const name = areas.length;
    areas.push(0);
    open.push(false);
    labels[start] = name;
    stack.push(start);
    while (stack.length) {
      const at = /** @type {number} */ (stack.pop());
      const x = at % width;
      const y = (at - x) / width;
      areas[name]++;
      if (x === 0 || y === 0 || x === width - 1 || y === height - 1) open[name] = true;
      for (let dy = y ? -1 : 0; dy <= (y < height - 1 ? 1 : 0); dy++) {
        for (let dx = x ? -1 : 0; dx <= (x < width - 1 ? 1 : 0); dx++) {
          if (dx && dy && !corners) continue;
          const next = at + dy * width + dx;
          if (data[next] !== value || labels[next]) continue;
          labels[next] = name;
          stack.push(next);
        }
      }
    }
  }
  return { labels, areas, open };
}

/** Return the connected parts, the largest first. @param {Shape} shape @returns {Shape[]} */
export function parts(shape) {
  const bitmap = pixels(shape);
  const { width } = bitmap;
  const { labels, areas } = label(bitmap, 1, true);
  if (areas.length === 2) return [shape];
  const boxes = areas.map(() => [Infinity, Infinity, -1, -1]);
  labels.forEach((name, at) => {
    if (!name) return;
    const box = boxes[name];
    const x = at % width;
    const y = (at - x) / width;
    if (x < box[0]) box[0] = x;
    if (y < box[1]) box[1] = y;
    if (x > box[2]) box[2] = x;
    box[3] = y;
  });
  const found = [];
  for (let name = 1; name < areas.length; name++) {
    const [x0, y0, x1, y1] = boxes[name];
    const part = blank(bitmap.x + x0, bitmap.y + y0, x1 - x0 + 1, y1 - y0 + 1);
    for (let y = y0; y <= y1; y++) {
      for (let x = x0; x <= x1; x++) if (labels[y * width + x] === name) part.data[(y - y0) * part.width + x - x0] = 1;
    }
    const one = shapeOf(part);
    if (one) found.push(one);
  }
  return found.sort((a, b) => b.area - a.area);
}

/**
 * Remove parts and fill holes up to an area. The largest part always stays.
 *
 * @param {Shape} shape @param {number} area original pixels
 * @returns {Shape}
 */
export function cleaned(shape, area) {
  const bitmap = { ...pixels(shape), data: pixels(shape).data.slice() };
  const specks = label(bitmap, 1, true);
  const largest = specks.areas.indexOf(Math.max(...specks.areas));
  const holes = label(bitmap, 0, false);
  for (let at = 0; at < bitmap.data.length; at++) {
    const speck = specks.labels[at];
    const hole = holes.labels[at];
    if (speck && speck !== largest && specks.areas[speck] <= area) bitmap.data[at] = 0;
    if (hole && !holes.open[hole] && holes.areas[hole] <= area) bitmap.data[at] = 1;
  }
  return shapeOf(bitmap) ?? shape;
}
