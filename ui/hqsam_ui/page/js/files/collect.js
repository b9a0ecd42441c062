// What is exported: the objects of one image or of all, one image at a time.

import { isAsked, isKept, shapeOfItem, titleOf } from "../model/item.js";
import { read } from "../work/document.js";

/** @typedef {import("../work/project.js").Project} Project @typedef {import("../mask/shape.js").Shape} Shape */
/** @typedef {{id: number, title: string, category: number, color: import("../model/classes.js").Rgb, iou: number, shape: Shape}} Labelled category counts from 1 */
/** @typedef {{name: string, sha256: string, size: {width: number, height: number}, objects: Labelled[]}} LabelledImage */
/** @typedef {{name: string, color: import("../model/classes.js").Rgb, none?: true}} Category none: of objects without a class */

const NO_CLASS = "object";

/** Time for which files may keep the page from drawing and taking input, milliseconds. */
const BUSY_MS = 30;

let restedAt = 0;

/** Let the page draw and take input, if it had no time for that lately. Called before each object. */
export async function rest() {
  if (performance.now() - restedAt < BUSY_MS) return;
  await new Promise((resolve) => setTimeout(resolve));
  restedAt = performance.now();
}

export class Collection {
  /** Objects that the model has not answered for yet. */
  missing = 0;
  /** Objects with a mask. */
  count = 0;
  /** Objects that a search found and that were not kept. */
  found = 0;
  /** Whether some object has no class. */
  #unclassed = false;

  /** @param {Project} project @param {boolean} all whether of all images */
  constructor(project, all) {
    this.project = project;
    this.entries = all ? project.entries : project.entries.slice(project.index, project.index + 1);
  }

  /** The categories, once all images were read. @returns {Category[]} */
  get categories() {
    const { classes } = this.project;
    const named = classes.list.map(({ id, name }) => ({ name, color: classes.colorOf(id) }));
    return this.#unclassed || !named.length ? [...named, { name: NO_CLASS, color: [190, 190, 190], none: true }] : named;
  }

  /** @returns {AsyncGenerator<LabelledImage>} */
  async *images() {
    for (const entry of this.entries) {
      const image = await this.#image(entry);
      if (image) yield image;
    }
  }

  /** @param {import("../work/stores.js").Entry} entry @returns {Promise<LabelledImage | null>} null if it was never opened */
  async #image(entry) {
    const open = this.project.opened(entry);
    if (open?.size) return this.#labelled(entry.name, open.sha256, open.size, open.history.state.items);
    const { saved } = await this.project.store.load(entry);
    if (!saved) return null;
    const { items } = read(saved);
    if (saved.width) return this.#labelled(entry.name, saved.sha256, { width: saved.width, height: saved.height }, items);
    this.missing += items.length;
    return null;
  }

  /** @param {string} name @param {string} sha256 @param {{width: number, height: number}} size @param {readonly import("../model/item.js").Item[]} items @returns {Promise<LabelledImage>} */
  async #labelled(name, sha256, size, items) {
    const { classes } = this.project;
    const objects = [];
    for (const item of items) {
      if (item.found) this.found++;
      if (!isKept(item)) continue;
      await rest();
      const shape = shapeOfItem(item, size);
      if (isAsked(item) && !shape) this.missing++;
      if (!shape) continue;
      this.count++;
      const place = classes.list.findIndex(({ id }) => id === item.cls);
      if (place < 0) this.#unclassed = true;
      const category = (place < 0 ? classes.list.length : place) + 1;
      const title = titleOf(item, classes.name(item.cls));
      objects.push({ id: item.id, title, category, color: classes.color(item), iou: item.mask?.iou ?? 0, shape });
    }
    return { name, sha256, size, objects };
  }
}

/** Return a name without its ending. @param {string} name */
export const stem = (name) => name.replace(/\.[^./]*$/, "");
