// One object in an image: its prompts, its mask and the strokes on it. Items are replaced, never
// modified.

import { cut, minus, union } from "../mask/shape.js";

/**
 * @typedef {import("../mask/shape.js").Shape} Shape
 * @typedef {{width: number, height: number}} Size
 * @typedef {{x: number, y: number, label: 0 | 1}} Point the pixel in column x and row y of the image
 * @typedef {[number, number, number, number]} Box left, top, right, bottom: original pixels, measured from the image's edges
 * @typedef {object} Mask The model's answer to the prompts in `key`.
 * @property {Float32Array | null} logits null once the shape is all that is needed
 * @property {Shape | null} [shape] undefined until it is cut; null if it is empty
 * @property {number} iou
 * @property {string} key
 * @typedef {object} Item
 * @property {number} id counted from 1
 * @property {string} name
 * @property {number | null} cls the id of its class
 * @property {boolean} hidden
 * @property {boolean} found by a search, and not kept yet: it is neither exported nor counted
 * @property {readonly Point[]} points
 * @property {Box | null} box
 * @property {string} mode of the model
 * @property {Mask | null} mask the newest one, which may answer earlier prompts
 * @property {Shape | null} given where it started: imported, split off or merged
 * @property {Shape | null} added by brush and tools, over the mask
 * @property {Shape | null} removed
 */

/** @param {number} id @param {string} mode @returns {Item} */
export const blankItem = (id, mode) => ({
  id, name: "", cls: null, hidden: false, found: false, points: [], box: null, mode, mask: null, given: null, added: null, removed: null,
});

/** @param {Item} item */
export const hasPrompts = (item) => item.points.length > 0 || item.box !== null;

/** Tell whether nothing has been done to an object. @param {Item} item */
export const isBlank = (item) => !hasPrompts(item) && !item.given && !item.added;

/** Tell whether it is one of the user's objects. @param {Item} item */
export const isKept = (item) => !isBlank(item) && !item.found;

/** Return a key of the prompts and the mode that a mask answers. @param {Item} item */
export const promptKey = ({ points, box, mode, given }) =>
  JSON.stringify([points, box, mode, given && [given.x, given.y, given.width, given.height, given.area]]);

/** Tell whether the model has still to answer. @param {Item} item */
export const isAsked = (item) => hasPrompts(item) && item.mask?.key !== promptKey(item);

/** @type {WeakMap<Item, Shape | null>} */
const shapes = new WeakMap();

/** Return the object's pixels, with all strokes; null if there are none. @param {Item} item @param {Size} size */
export function shapeOfItem(item, size) {
  const known = shapes.get(item);
  if (known !== undefined) return known;
  const shape = minus(union(base(item, size), item.added), item.removed);
  shapes.set(item, shape);
  return shape;
}

/** @param {Item} item @param {Size} size @returns {Shape | null} */
function base(item, size) {
  if (!hasPrompts(item)) return item.given;
  const { mask } = item;
  if (!mask) return item.given;
  if (mask.shape === undefined) mask.shape = mask.logits ? cut(mask.logits, size) : null;
  return mask.shape;
}

/** Return the item with other pixels; later answers of the model keep the change. @param {Item} item @param {Shape | null} shape @param {Size} size */
export function withShape(item, shape, size) {
  const before = shapeOfItem(item, size);
  const gained = minus(shape, before);
  const lost = minus(before, shape);
  return { ...item, added: union(minus(item.added, lost), gained), removed: union(minus(item.removed, gained), lost) };
}

/** @param {Item} item @param {string} [className] */
export const titleOf = (item, className) => item.name || `${className || "Object"} ${item.id}`;
