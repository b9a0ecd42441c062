// A mask's low-resolution logits, drawn at the size of the screen.

/** Side of the logits, which cover the whole input frame. */
export const MASK_SIDE = 256;

const INPUT_SIDE = 1024;

/** @typedef {[number, number, number]} Rgb */

/**
 * The picture's part of the frame, in logits.
 *
 * @param {{width: number, height: number}} picture original pixels
 */
function covered({ width, height }) {
  const scale = INPUT_SIDE / Math.max(width, height);
  const side = (/** @type {number} */ length) =>
    (Math.max(1, Math.floor(length * scale + 0.5)) * MASK_SIDE) / INPUT_SIDE;
  return { width: side(width), height: side(height) };
}

/**
 * The two neighbours of each sample along an axis, and the second one's weight.
 *
 * @param {number} length samples
 * @param {number} span logits that they are spread over
 */
function taps(length, span) {
  const low = new Uint16Array(length);
  const high = new Uint16Array(length);
  const weight = new Float32Array(length);
  for (let i = 0; i < length; i++) {
    const at = Math.max(0, ((i + 0.5) * span) / length - 0.5);
    low[i] = Math.min(Math.floor(at), MASK_SIDE - 1);
    high[i] = Math.min(low[i] + 1, MASK_SIDE - 1);
    weight[i] = at - low[i];
  }
  return { low, high, weight };
}

/**
 * Draw a mask: tinted inside, its border a line with a light one outside of it.
 *
 * Logits over the length of their gradient are about the distance to the border in pixels,
 * which is all that smooth lines take.
 *
 * @param {Float32Array} logits [256, 256], rows first
 * @param {{width: number, height: number}} picture original pixels
 * @param {number} width of the canvas, pixels
 * @param {number} height
 * @param {{color: Rgb, tint: number, line: number}} style opacity inside, width of the line
 * @returns {HTMLCanvasElement}
 */
export function draw(logits, picture, width, height, { color, tint, line }) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  if (!context) return canvas;
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const span = covered(picture);
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
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * Enlarge the first rows of logits along the other axis.
 *
 * @param {Float32Array} logits
 * @param {ReturnType<typeof taps>} columns
 * @param {number} width
 * @param {number} count rows
 */
function widen(logits, columns, width, count) {
  const wide = new Float32Array(count * width);
  for (let row = 0; row < count; row++) {
    for (let x = 0; x < width; x++) {
      const left = logits[row * MASK_SIDE + columns.low[x]];
      const right = logits[row * MASK_SIDE + columns.high[x]];
      wide[row * width + x] = left + columns.weight[x] * (right - left);
    }
  }
  return wide;
}

/**
 * Whether there is anything of the object on the picture.
 *
 * @param {Float32Array} logits
 * @param {{width: number, height: number}} picture
 */
export function isEmpty(logits, picture) {
  const span = covered(picture);
  for (let y = 0; y < span.height; y++) {
    for (let x = 0; x < span.width; x++) if (logits[y * MASK_SIDE + x] > 0) return false;
  }
  return true;
}
