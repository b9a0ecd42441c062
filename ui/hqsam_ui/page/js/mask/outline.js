// Polygons around masks, along the edges of pixels.

import { parts } from "./parts.js";
import { blank, pixels, shapeOf } from "./shape.js";

/** @typedef {import("./shape.js").Shape} Shape */
/** @typedef {[number, number][]} Ring corners (x, y), original pixels from the image's edges; not closed */
/** @typedef {{outline: Ring, holes: Ring[]}} Polygon */

/** Distance from the pixels' edges that a polygon may have, original pixels. */
const TOLERANCE = 0.75;

/** Steps right, down, left, up. */
const STEPS = [[1, 0], [0, 1], [-1, 0], [0, -1]];

/** Return a polygon for each connected part. @param {Shape} shape @returns {Polygon[]} */
export function polygons(shape) {
  return parts(shape).map((part) => {
    const rings = trace(part);
    // The outline is the ring around the first pixel in the top row: it is found first.
    return { outline: simplified(rings[0]), holes: rings.slice(1).map(simplified).filter((ring) => ring.length > 2) };
  });
}

/**
 * Follow the edges of pixels with the inside to the right.
 *
 * @param {Shape} part one connected part @returns {Ring[]} the outline, then the holes
 */
function trace(part) {
  const { x: left, y: top, width, height, data } = pixels(part);
  const inside = (/** @type {number} */ x, /** @type {number} */ y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] === 1;
  const seen = new Uint8Array(width * (height + 1));
  const rings = [];
  for (let y = 0; y <= height; y++) {
    for (let x = 0; x < width; x++) {
      // Every ring has an edge to the right above a pixel.
      if (seen[y * width + x] || !inside(x, y) || inside(x, y - 1)) continue;
      /** @type {Ring} */
      const ring = [];
      let [u, v, way] = [x, y, 0];
      do {
        if (way === 0) seen[v * width + u] = 1;
        u += STEPS[way][0];
        v += STEPS[way][1];
        // The pixels ahead on the left and on the right decide the turn.
        const [dx, dy] = STEPS[way];
        const ahead = { x: u + (dx - dy - 1) / 2, y: v + (dx + dy - 1) / 2 };
        const beside = { x: u + (dx + dy - 1) / 2, y: v + (dy - dx - 1) / 2 };
        const before = way;
        if (inside(beside.x, beside.y)) way = (way + 3) % 4;
        else if (!inside(ahead.x, ahead.y)) way = (way + 1) % 4;
        if (way !== before) ring.push([left + u, top + v]);
      } while (u !== x || v !== y || way !== 0);
      rings.push(ring);
    }
  }
  return rings;
}

/** Leave out corners that hardly matter (Douglas and Peucker). @param {Ring} ring @returns {Ring} */
function simplified(ring) {
  if (ring.length <= 4) return ring;
  const far = farthest(ring, 0, ring.length - 1, true).at;
  const keep = new Uint8Array(ring.length + 1);
  keep[0] = keep[far] = 1;
  const closed = [...ring, ring[0]];
  const stack = [[0, far], [far, ring.length]];
  while (stack.length) {
    const [from, to] = /** @type {[number, number]} */ (stack.pop());
    const { at, distance } = farthest(closed, from, to, false);
    if (distance <= TOLERANCE) continue;
    keep[at] = 1;
    stack.push([from, at], [at, to]);
  }
  const kept = ring.filter((_, i) => keep[i]);
  return kept.length > 2 ? kept : ring;
}

/** @param {Ring} ring @param {number} from @param {number} to @param {boolean} fromPoint */
function farthest(ring, from, to, fromPoint) {
  const [ax, ay] = ring[from];
  const [bx, by] = ring[to];
  const length = Math.hypot(bx - ax, by - ay);
  let best = { at: from, distance: 0 };
  for (let i = from + 1; i < (fromPoint ? to + 1 : to); i++) {
    const [x, y] = ring[i];
    const distance = fromPoint || !length ? Math.hypot(x - ax, y - ay) : Math.abs((bx - ax) * (ay - y) - (ax - x) * (by - ay)) / length;
    if (distance > best.distance) best = { at: i, distance };
  }
  return best;
}

/**
 * Return one ring for an outline with its holes, joined by cuts without width, for formats that
 * have no holes.
 *
 * @param {Ring} outline @param {Ring[]} others @returns {Ring}
 */
export function joined(outline, others) {
  let ring = outline;
  for (const other of others) {
    let best = { distance: Infinity, i: 0, j: 0 };
    ring.forEach(([x, y], i) =>
      other.forEach(([u, v], j) => {
        const distance = (x - u) ** 2 + (y - v) ** 2;
        if (distance < best.distance) best = { distance, i, j };
      }),
    );
    const { i, j } = best;
    ring = [...ring.slice(0, i + 1), ...other.slice(j), ...other.slice(0, j + 1), ...ring.slice(i)];
  }
  return ring;
}

/**
 * Return the mask of filled rings; where an even number of them overlap is outside.
 *
 * @param {Ring[]} rings @param {{width: number, height: number}} size of the image
 * @returns {Shape | null}
 */
export function filled(rings, size) {
  const all = rings.flat();
  const clip = (/** @type {number} */ value, /** @type {number} */ most) => Math.max(0, Math.min(value, most));
  const x0 = clip(Math.floor(Math.min(...all.map(([x]) => x))), size.width);
  const y0 = clip(Math.floor(Math.min(...all.map(([, y]) => y))), size.height);
  const x1 = clip(Math.ceil(Math.max(...all.map(([x]) => x))), size.width);
  const y1 = clip(Math.ceil(Math.max(...all.map(([, y]) => y))), size.height);
  if (!(x1 > x0 && y1 > y0)) return null;
  const bitmap = blank(x0, y0, x1 - x0, y1 - y0);
  for (let y = y0; y < y1; y++) {
    const crossings = rings.flatMap((ring) => crossed(ring, y + 0.5)).sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      // A pixel is inside if its centre is.
      const from = clip(Math.ceil(crossings[i] - 0.5) - x0, bitmap.width);
      const to = clip(Math.ceil(crossings[i + 1] - 0.5) - x0, bitmap.width);
      bitmap.data.fill(1, (y - y0) * bitmap.width + from, (y - y0) * bitmap.width + Math.max(from, to));
    }
  }
  return shapeOf(bitmap);
}

/** @param {Ring} ring @param {number} y @returns {number[]} where it crosses a row */
function crossed(ring, y) {
  const found = [];
  for (let i = 0, j = ring.length - 1; i < ring.length; j = i++) {
    const [ax, ay] = ring[j];
    const [bx, by] = ring[i];
    if (ay > y !== by > y) found.push(ax + ((y - ay) * (bx - ax)) / (by - ay));
  }
  return found;
}
