// The work on an image as JSON, as it is saved.

import { fromRle, toRle } from "../mask/rle.js";
import { blankItem, isBlank } from "../model/item.js";

/** @typedef {import("../model/item.js").Item} Item @typedef {import("../mask/shape.js").Shape} Shape */
/** @typedef {{width: number, height: number}} Size */
/**
 * @typedef {object} Saved
 * @property {"hqsam-work"} format
 * @property {1} version
 * @property {string} name of the image
 * @property {number} width original pixels; 0 if it is not known yet
 * @property {number} height
 * @property {string} sha256 of the image file
 * @property {boolean} done
 * @property {number} next the next object's id
 * @property {any[]} objects
 */

/**
 * @param {{name: string, size: Size | null, sha256: string, done: boolean}} image
 * @param {{items: readonly Item[], next: number}} state
 * @returns {Saved}
 */
export function write({ name, size, sha256, done }, { items, next }) {
  const shape = (/** @type {Shape | null | undefined} */ one) => (one && size ? toRle(one, size) : null);
  const objects = items.filter((item) => !isBlank(item)).map(({ mask, given, added, removed, ...item }) => ({
    ...item,
    // Without pixels, a mask is asked for again.
    mask: mask && mask.shape !== undefined ? { iou: mask.iou, key: mask.key, shape: shape(mask.shape) } : null,
    given: shape(given),
    added: shape(added),
    removed: shape(removed),
  }));
  return { format: "hqsam-work", version: 1, name, width: size?.width ?? 0, height: size?.height ?? 0, sha256, done, next, objects };
}

/**
 * @param {Saved} saved
 * @returns {{items: Item[], next: number}}
 * @throws {RangeError} if it is of a later version, or damaged
 */
export function read(saved) {
  if (saved?.format !== "hqsam-work" || saved.version !== 1 || !Array.isArray(saved.objects)) {
    throw new RangeError("it is not work of this version of the page");
  }
  const shape = (/** @type {any} */ rle) => (rle ? fromRle(rle) : null);
  const items = saved.objects.map((object) => {
    const item = { ...blankItem(Number(object.id), String(object.mode ?? "hq")), ...object };
    item.given = shape(object.given);
    item.added = shape(object.added);
    item.removed = shape(object.removed);
    item.mask = object.mask && { logits: null, iou: Number(object.mask.iou), key: object.mask.key, shape: shape(object.mask.shape) };
    return item;
  });
  const next = Math.max(Number(saved.next) || 1, ...items.map(({ id }) => id + 1));
  return { items, next };
}
