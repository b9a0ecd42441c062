// Draws masks at the screen's resolution: tinted inside, with a contour and a light line around it.

import { boxOf, fieldOf, sample } from "./field.js";
import { pixels } from "./shape.js";

/** @typedef {import("./field.js").Size} Size @typedef {import("./shape.js").Shape} Shape */
/** @typedef {import("./field.js").Field} Field @typedef {import("../model/classes.js").Rgb} Rgb */
/**
 * @typedef {{color: Rgb, tint: number, line: number}} Style tint: opacity inside; line: width of the contour, pixels
 * @typedef {{x: number, y: number, scale: number, width: number, height: number}} Region of the screen:
 *   x, y: its top left corner, original pixels; scale: pixels drawn for an original pixel
 * @typedef {{canvas: HTMLCanvasElement | null, region: Region}} Layer
 */

/** @type {WeakMap<Float32Array, Field | null>} */
const fields = new WeakMap();

/** @param {Float32Array} logits @param {Size} size */
function fieldOnce(logits, size) {
  let field = fields.get(logits);
  if (field === undefined) fields.set(logits, (field = fieldOf(logits, size)));
  return field;
}

/**
 * Return the part of a region where a box, with a margin for lines, is; null if there is none.
 *
 * @param {Region} region @param {{x0: number, y0: number, x1: number, y1: number}} box @param {number} margin pixels drawn
 * @returns {Region | null}
 */
function clipped(region, box, margin) {
  const { x, y, scale, width, height } = region;
  const left = Math.max(0, Math.floor((box.x0 - x) * scale - margin));
  const top = Math.max(0, Math.floor((box.y0 - y) * scale - margin));
  const right = Math.min(width, Math.ceil((box.x1 - x) * scale + margin));
  const bottom = Math.min(height, Math.ceil((box.y1 - y) * scale + margin));
  if (right <= left || bottom <= top) return null;
  return { x: x + left / scale, y: y + top / scale, scale, width: right - left, height: bottom - top };
}

/** @param {Region} region @param {(image: Uint32Array) => void} paint @returns {Layer} */
function layer(region, paint) {
  const canvas = document.createElement("canvas");
  canvas.width = region.width;
  canvas.height = region.height;
  const context = canvas.getContext("2d");
  if (!context) return { canvas: null, region };
  const image = context.createImageData(region.width, region.height);
  paint(new Uint32Array(image.data.buffer));
  context.putImageData(image, 0, 0);
  return { canvas, region };
}

/** @param {Rgb} color @param {number} opacity */
const paint = ([red, green, blue], opacity) => ((Math.round(255 * opacity) << 24) | (blue << 16) | (green << 8) | red) >>> 0;

/**
 * Draw logits in a region.
 *
 * A logit divided by the length of its gradient is about the distance to the border in pixels;
 * smooth lines are drawn from that.
 *
 * @param {Float32Array} logits @param {Size} size @param {Region} region @param {Style} style
 * @returns {Layer}
 */
export function drawLogits(logits, size, region, { color, tint, line }) {
  const field = fieldOnce(logits, size);
  const part = field && clipped(region, boxOf(field, size), line + 2);
  if (!field || !part) return { canvas: null, region };
  const { width, height, scale } = part;
  const inside = paint(color, tint);
  const solid = paint(color, 1);
  const near = (line + 1.5) ** 2;
  return layer(part, (image) => {
    const grid = { x: part.x + 0.5 / scale, y: part.y + 0.5 / scale, step: 1 / scale, width, height };
    const before = new Float32Array(width);
    sample(field, size, grid, (y, values) => {
      if (!y) before.set(values);
      for (let x = 0, at = y * width; x < width; x++, at++) {
        const value = values[x];
        const down = value - before[x];
        const right = (values[x + 1 < width ? x + 1 : x] - values[x ? x - 1 : x]) / 2;
        const steep = down * down + right * right;
        if (value * value >= near * steep) {
          if (value > 0) image[at] = inside;
          continue;
        }
        const distance = value / Math.sqrt(steep);
        const stroke = line / 2 + 0.5 - Math.abs(distance);
        if (stroke >= 1) image[at] = solid;
        else if (stroke > 0) image[at] = paint(color, distance > 0 ? Math.max(stroke, tint) : stroke);
        else if (distance > 0) image[at] = inside;
        else image[at] = paint([255, 255, 255], Math.max(0, Math.min(1, line / 2 + 1.5 + distance)) * 0.75);
      }
      before.set(values);
    });
  });
}

/** Draw a mask of pixels in a region. @param {Shape} shape @param {Region} region @param {Style} style @returns {Layer} */
export function drawShape(shape, region, { color, tint, line }) {
  const box = { x0: shape.x, y0: shape.y, x1: shape.x + shape.width, y1: shape.y + shape.height };
  const edge = Math.max(1, Math.round(line / 2));
  const part = clipped(region, box, edge + 2);
  if (!part) return { canvas: null, region };
  const { width, height, scale } = part;
  const found = sampled(shape, part);
  const nearOutside = spread(found, width, height, edge, 0);
  const nearInside = spread(found, width, height, 1, 1);
  const [inside, solid, halo] = [paint(color, tint), paint(color, 1), paint([255, 255, 255], 0.75)];
  return layer(part, (image) => {
    for (let at = 0; at < image.length; at++) {
      if (found[at]) image[at] = nearOutside[at] ? solid : inside;
      else if (nearInside[at]) image[at] = halo;
    }
  });
}

/** Return for each pixel of a region whether the mask has the original pixel there. @param {Shape} shape @param {Region} region */
function sampled(shape, { x, y, scale, width, height }) {
  const { x: left, y: top, width: across, height: down, data } = pixels(shape);
  const found = new Uint8Array(width * height);
  const columns = Int32Array.from({ length: width }, (_, i) => Math.floor(x + (i + 0.5) / scale) - left);
  const first = columns.findIndex((column) => column >= 0);
  if (first < 0) return found;
  let last = width - 1;
  while (last >= 0 && columns[last] >= across) last--;
  for (let j = 0; j < height; j++) {
    const row = Math.floor(y + (j + 0.5) / scale) - top;
    if (row < 0 || row >= down) continue;
    for (let i = first, at = j * width + first; i <= last; i++, at++) found[at] = data[row * across + columns[i]];
  }
  return found;
}

/** Return where a value is at most some pixels away. @param {Uint8Array} found @param {number} width @param {number} height @param {number} radius @param {0 | 1} value */
function spread(found, width, height, radius, value) {
  const rows = new Uint8Array(found.length);
  const all = new Uint8Array(found.length);
  for (let y = 0; y < height; y++) {
    let until = -1;
    for (let x = 0, at = y * width; x < Math.min(radius, width); x++, at++) if (found[at] === value) until = x + radius;
    for (let x = 0, at = y * width; x < width; x++, at++) {
      if (x + radius < width && found[at + radius] === value) until = x + 2 * radius;
      if (x <= until) rows[at] = 1;
    }
  }
  for (let x = 0; x < width; x++) {
    let until = -1;
    for (let y = 0, at = x; y < Math.min(radius, height); y++, at += width) if (rows[at]) until = y + radius;
    for (let y = 0, at = x; y < height; y++, at += width) {
      if (y + radius < height && rows[at + radius * width]) until = y + 2 * radius;
      if (y <= until) all[at] = 1;
    }
  }
  return all;
}

/** Tell whether a mask has no pixel inside the image. @param {Float32Array} logits @param {Size} size */
export const isEmpty = (logits, size) => fieldOnce(logits, size) === null;
