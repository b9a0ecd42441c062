// A mask's logits in the input frame, from which it is drawn and cut at any size.
//
// Logits are enlarged as the client does it: bilinearly from 256 to 1024, cropped to the part
// that the image covers, and bilinearly to the pixels wanted.

/** Side of the logits, which cover the whole input frame; as in the client's contract. */
export const MASK_SIZE = 256;

/** Side of the input frame in pixels. */
const INPUT_SIZE = 1024;

const STEP = INPUT_SIZE / MASK_SIZE;

/**
 * @typedef {{width: number, height: number}} Size of the upright image, original pixels
 * @typedef {{x: number, y: number, width: number, height: number, values: Float32Array, across: number, down: number}} Field
 *   The part of the input frame around the mask; across and down: the part that the image covers.
 */

/** @param {Size} size */
function covered({ width, height }) {
  const scale = INPUT_SIZE / Math.max(width, height);
  const side = (/** @type {number} */ length) => Math.max(1, Math.floor(length * scale + 0.5));
  return { across: side(width), down: side(height) };
}

/** Return the two neighbours of a position on an axis of samples, and the weight of the second.
 * @param {number} at @param {number} last */
function tap(at, last) {
  const inside = Math.max(0, Math.min(at, last));
  const low = Math.min(Math.floor(inside), Math.max(0, last - 1));
  return { low, weight: inside - low };
}

/** @param {Float32Array} logits @param {number} columns @param {number} rows */
function bounds(logits, columns, rows) {
  let [x0, y0, x1, y1] = [columns, rows, -1, -1];
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      if (logits[y * MASK_SIZE + x] <= 0) continue;
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      y1 = y;
    }
  }
  return x1 < 0 ? null : { x0, y0, x1, y1 };
}

/**
 * Enlarge logits to the input frame, where the mask is; null if no logit is positive.
 *
 * @param {Float32Array} logits [256, 256], rows first, over the whole input frame
 * @param {Size} size
 * @returns {Field | null}
 */
export function fieldOf(logits, size) {
  const { across, down } = covered(size);
  const found = bounds(logits, Math.min(MASK_SIZE, Math.ceil(across / STEP) + 1), Math.min(MASK_SIZE, Math.ceil(down / STEP) + 1));
  if (!found) return null;
  const x = Math.max(0, (found.x0 - 1) * STEP);
  const y = Math.max(0, (found.y0 - 1) * STEP);
  const width = Math.min(across, (found.x1 + 2) * STEP) - x;
  const height = Math.min(down, (found.y1 + 2) * STEP) - y;
  if (width < 1 || height < 1) return null;
  const values = new Float32Array(width * height);
  const columns = Array.from({ length: width }, (_, i) => tap((x + i + 0.5) / STEP - 0.5, MASK_SIZE - 1));
  const wide = new Float32Array(MASK_SIZE * width);
  const firstRow = Math.max(0, found.y0 - 2);
  for (let row = firstRow; row <= Math.min(MASK_SIZE - 1, found.y1 + 3); row++) {
    for (let i = 0; i < width; i++) {
      const { low, weight } = columns[i];
      const left = logits[row * MASK_SIZE + low];
      wide[row * width + i] = left + weight * (logits[row * MASK_SIZE + low + 1] - left);
    }
  }
  for (let j = 0; j < height; j++) {
    const { low, weight } = tap((y + j + 0.5) / STEP - 0.5, MASK_SIZE - 1);
    const above = low * width;
    const below = above + width;
    for (let i = 0; i < width; i++) values[j * width + i] = wide[above + i] + weight * (wide[below + i] - wide[above + i]);
  }
  return { x, y, width, height, values, across, down };
}

/**
 * Return for each sample along an axis its first neighbour in the field, and the second's weight.
 *
 * @param {number} count @param {number} start first sample, original pixels
 * @param {number} step between samples, original pixels
 * @param {number} perPixel input frame's pixels in an original pixel
 * @param {number} offset of the field @param {number} length of the field
 * @param {number} whole length of the part that the image covers
 */
function axis(count, start, step, perPixel, offset, length, whole) {
  const low = new Int32Array(count);
  const weight = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const at = Math.max(0, Math.min((start + i * step) * perPixel - 0.5, whole - 1));
    const found = tap(at - offset, length - 1);
    low[i] = found.low;
    weight[i] = found.weight;
  }
  return { low, weight };
}

/** Return the box around the field, in original pixels. @param {Field} field @param {Size} size */
export function boxOf(field, size) {
  const wide = size.width / field.across;
  const high = size.height / field.down;
  return {
    x0: Math.max(0, Math.floor(field.x * wide)),
    y0: Math.max(0, Math.floor(field.y * high)),
    x1: Math.min(size.width, Math.ceil((field.x + field.width) * wide)),
    y1: Math.min(size.height, Math.ceil((field.y + field.height) * high)),
  };
}

/**
 * Sample a field on a grid, row by row.
 *
 * @param {Field} field @param {Size} size
 * @param {{x: number, y: number, step: number, width: number, height: number}} grid x and y: the
 *   first sample's centre, step: between samples, all in original pixels
 * @param {(y: number, line: Float32Array) => void} take gets each row; the array is reused
 */
export function sample(field, size, grid, take) {
  const columns = axis(grid.width, grid.x, grid.step, field.across / size.width, field.x, field.width, field.across);
  const rows = axis(grid.height, grid.y, grid.step, field.down / size.height, field.y, field.height, field.down);
  const { width, height, values } = field;
  const blend = new Float32Array(width + 1);
  const line = new Float32Array(grid.width);
  for (let j = 0; j < grid.height; j++) {
    const above = rows.low[j] * width;
    const below = Math.min(rows.low[j] + 1, height - 1) * width;
    const share = rows.weight[j];
    for (let i = 0; i < width; i++) blend[i] = values[above + i] + share * (values[below + i] - values[above + i]);
    blend[width] = blend[width - 1];
    for (let i = 0; i < grid.width; i++) {
      const at = columns.low[i];
      line[i] = blend[at] + columns.weight[i] * (blend[at + 1] - blend[at]);
    }
    take(j, line);
  }
}
