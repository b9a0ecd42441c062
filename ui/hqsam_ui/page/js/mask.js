// Draws a mask from its low-resolution logits at the screen's resolution.

/** Side of the logits, which cover the whole input frame; as in the client's contract. */
export const MASK_SIZE = 256;

/** Side of the input frame in pixels. */
const INPUT_SIZE = 1024;

/** @typedef {[number, number, number]} Rgb */

/**
 * Return the part of the input frame that the image covers, in units of logits.
 *
 * @param {{width: number, height: number}} size of the image, original pixels
 */
function covered({ width, height }) {
  const scale = INPUT_SIZE / Math.max(width, height);
  const side = (/** @type {number} */ length) =>
    (Math.max(1, Math.floor(length * scale + 0.5)) * MASK_SIZE) / INPUT_SIZE;
  return { width: side(width), height: side(height) };
}

/**
 * Return each sample's two neighbours along an axis, and the weight of the second.
 *
 * @param {number} length number of samples
 * @param {number} span number of logits that the samples cover
 */
function taps(length, span) {
  const low = new Uint16Array(length);
  const high = new Uint16Array(length);
  const weight = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const at = Math.max(0, ((i + 0.5) * span) / length - 0.5);
    low[i] = Math.min(Math.floor(at), MASK_SIZE - 1);
    high[i] = Math.min(low[i] + 1, MASK_SIZE - 1);
    weight[i] = at - low[i];
  }
  return { low, high, weight };
}

/**
 * Draw a mask: tinted inside, with a contour and a thin light line around it.
 *
 * A logit divided by the length of its gradient is about the distance to the border in pixels;
 * smooth lines are drawn from that.
 *
 * @param {Float32Array} logits [256, 256], rows first
 * @param {{width: number, height: number}} size of the image, original pixels
 * @param {number} width of the canvas, pixels
 * @param {number} height
 * @param {{color: Rgb, tint: number, line: number}} style tint: opacity inside; line: width of the contour, pixels
 * @returns {HTMLCanvasElement}
 */
export function draw(logits, size, width, height, { color, tint, line }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  const imageData = context.createImageData(width, height);
  const pixels = new Uint32Array(imageData.data.buffer);
  const span = covered(size);
  const columns = taps(width, span.width);
  const rows = taps(height, span.height);
  const wide = widen(logits, columns, width, rows.high[height - 1] + 1);
  const perPixel = span.height / height;
  const solid = (color[2] << 16) | (color[1] << 8) | color[0];
  const inside = ((Math.round(255 * tint) << 24) | solid) >>> 0;
  const values = new Float32Array(width);
  const near = (line + 1.5) ** 2;
  for (let y = 0; y < height; y++) {
    const a = rows.low[y] * width;
    const b = rows.high[y] * width;
    for (let x = 0; x < width; x++) values[x] = wide[a + x] + rows.weight[y] * (wide[b + x] - wide[a + x]);
    for (let x = 0; x < width; x++) {
      const value = values[x];
      const down = (wide[b + x] - wide[a + x]) * perPixel;
      const right = (values[Math.min(x + 1, width - 1)] - values[Math.max(x - 1, 0)]) / 2;
      const steep = down * down + right * right;
      if (value * value >= near * steep) {
        if (value > 0) pixels[y * width + x] = inside;
        continue;
      }
      const distance = value / Math.sqrt(steep);
      const stroke = Math.min(1, line / 2 + 0.5 - Math.abs(distance));
      if (stroke > 0) {
        const opacity = distance > 0 ? Math.max(stroke, tint) : stroke;
        pixels[y * width + x] = ((Math.round(255 * opacity) << 24) | solid) >>> 0;
      } else if (distance > 0) {
        pixels[y * width + x] = inside;
      } else {
        const halo = Math.max(0, Math.min(1, line / 2 + 1.5 + distance)) * 0.75;
        pixels[y * width + x] = ((Math.round(255 * halo) << 24) | 0xffffff) >>> 0;
      }
    }
  }
  context.putImageData(imageData, 0, 0);
  return canvas;
}

/**
 * Enlarge the first rows of the logits horizontally.
 *
 * @param {Float32Array} logits
 * @param {ReturnType<typeof taps>} columns
 * @param {number} width
 * @param {number} count number of rows
 */
function widen(logits, columns, width, count) {
  const wide = new Float32Array(count * width);
  for (let row = 0; row < count; row++) {
    for (let x = 0; x < width; x++) {
      const left = logits[row * MASK_SIZE + columns.low[x]];
      const right = logits[row * MASK_SIZE + columns.high[x]];
      wide[row * width + x] = left + columns.weight[x] * (right - left);
    }
  }
  return wide;
}

/**
 * Tell whether a mask has no pixel inside the image.
 *
 * @param {Float32Array} logits
 * @param {{width: number, height: number}} size of the image, original pixels
 */
export function isEmpty(logits, size) {
  const span = covered(size);
  for (let y = 0; y < span.height; y++) {
    for (let x = 0; x < span.width; x++) if (logits[y * MASK_SIZE + x] > 0) return false;
  }
  return true;
}
