// The tools: what a click on the image does, and what is done to the selected object.

import { cleaned } from "./mask/parts.js";
import { fromRle } from "./mask/rle.js";
import { contains, overlap } from "./mask/shape.js";
import { brushed } from "./model/brush.js";
import { blankItem, isBlank, shapeOfItem } from "./model/item.js";
import { element, input } from "./panel/dom.js";

/** @typedef {import("./work/project.js").Project} Project @typedef {import("./view/pointing.js").Tool} Tool */

/** Specks and holes up to this share of an object are cleaned up. */
const SPECK = 0.02;

/** A mask that is found is one of an object that is there already if their IoU is above this. */
const SAME = 0.7;

export class Tools {
  /** Label of a plain click: 1 adds, 0 removes. @type {0 | 1} */
  label = 1;
  /** @type {Tool} */
  tool = "click";
  /** @type {AbortController | null} */
  #search = null;

  /**
   * @param {Project} project @param {import("./panel/objects.js").ObjectsPanel} objects
   * @param {import("./panel/status.js").Status} status
   */
  constructor(project, objects, status) {
    this.project = project;
    this.objects = objects;
    this.status = status;
  }

  get #work() {
    return this.project.current;
  }

  /** Clicks made while the image is being encoded are answered afterwards. */
  get canPrompt() {
    const phase = this.#work?.phase;
    return phase === "encoding" || phase === "ready";
  }

  /** @param {Tool} tool @param {0 | 1} [label] */
  choose(tool, label = this.label) {
    this.tool = tool;
    this.label = label;
    const pressed = { add: tool === "click" && label === 1, remove: tool === "click" && label === 0, brush: tool === "brush", eraser: tool === "eraser" };
    for (const [id, is] of Object.entries(pressed)) element(id).setAttribute("aria-pressed", String(is));
    element("brush-size").hidden = tool === "click";
    element("canvas").dataset.grip = tool === "click" ? "none" : "stroke";
  }

  /** @param {number} factor */
  resizeBrush(factor) {
    const size = input("radius");
    size.value = String(Math.round(Number(size.value) * factor + Math.sign(factor - 1)));
  }

  /** @param {import("./model/brush.js").Stroke} stroke */
  paint(stroke) {
    const work = this.#work;
    if (!work?.size || !work.isLoaded) return;
    const { selected } = work.history;
    if (!stroke.value && isBlank(selected)) return;
    work.history.setShape(brushed(shapeOfItem(selected, work.size), stroke, work.size), work.size);
  }

  /** The next object that is chosen becomes a part of the selected one. */
  merge() {
    const { objects } = this;
    const start = objects.onPick === null;
    objects.onPick = start ? (id) => this.#mergeWith(id) : null;
    element("merge").setAttribute("aria-pressed", String(start));
    if (start) this.status.note("Choose the object that becomes a part of the selected one. Escape stops.");
    else this.status.note("");
  }

  stopMerge() {
    if (this.objects.onPick) this.merge();
  }

  /** @param {number} id */
  #mergeWith(id) {
    this.stopMerge();
    const work = this.#work;
    if (work?.size) work.history.merge(id, work.size);
  }

  /** Find all objects of the image and add those that are new; while it looks, stop that. */
  async everything() {
    if (this.#search) return this.stopSearch();
    const work = this.#work;
    if (!work?.size || work.phase !== "ready") return;
    const search = (this.#search = new AbortController());
    element("everything").setAttribute("aria-pressed", "true");
    this.status.note("Looking for all objects. You can go on; Escape stops.");
    try {
      const masks = await work.everything(search.signal);
      const count = add(work, masks);
      this.status.note(count ? `Found ${count} new objects. Click on those to keep.` : "Found no new objects.");
    } catch (error) {
      this.status.note("");
      if (!search.signal.aborted) this.status.showError(error);
    } finally {
      if (this.#search === search) this.stopSearch();
    }
  }

  /** Keep the smallest object that was found at a pixel; tells whether there is one. @param {number} x @param {number} y */
  keepAt(x, y) {
    const work = this.#work;
    const { size } = work ?? {};
    if (!work || !size) return false;
    const there = work.history.state.items.flatMap((item) => {
      const shape = item.found && !item.hidden ? shapeOfItem(item, size) : null;
      return shape && contains(shape, x, y) ? [{ id: item.id, area: shape.area }] : [];
    });
    if (!there.length) return false;
    work.history.keep(there.reduce((a, b) => (b.area < a.area ? b : a)).id);
    return true;
  }

  stopSearch() {
    this.#search?.abort();
    this.#search = null;
    element("everything").setAttribute("aria-pressed", "false");
  }

  split() {
    const work = this.#work;
    if (!work?.size || isBlank(work.history.selected)) return;
    const count = work.history.split(work.size);
    this.status.note(count > 1 ? `Split into ${count} objects.` : "The object is in one part: there is nothing to split.");
  }

  cleanUp() {
    const work = this.#work;
    if (!work?.size) return;
    const shape = shapeOfItem(work.history.selected, work.size);
    if (!shape) return;
    const clean = cleaned(shape, Math.ceil(shape.area * SPECK));
    if (clean.area === shape.area && clean.runs.length === shape.runs.length) this.status.note("There are no small specks or holes.");
    else work.history.setShape(clean, work.size);
  }
}

/**
 * Add masks that are found, the largest first; returns how many are new.
 *
 * @param {import("./work/work.js").Work} work @param {import("./mask/rle.js").Rle[]} masks
 */
function add(work, masks) {
  const { history } = work;
  const size = /** @type {import("./model/item.js").Size} */ (work.size);
  const known = history.state.items.map((item) => shapeOfItem(item, size)).filter((shape) => shape !== null);
  const found = masks.map(fromRle).filter((shape) => shape !== null);
  const made = found.filter((shape) => known.every((other) => overlap(shape, other) <= SAME));
  made.sort((a, b) => b.area - a.area);
  if (made.length) history.import(made.map((given) => ({ ...blankItem(0, history.mode), cls: history.cls, given, found: true })));
  return made.length;
}
