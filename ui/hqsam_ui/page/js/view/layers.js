// The masks of all objects as they are drawn now; each is drawn again only when it changes.

import { drawLogits, drawShape } from "../mask/draw.js";
import { hasPrompts, shapeOfItem } from "../model/item.js";

/** @typedef {import("../model/item.js").Item} Item @typedef {import("../mask/draw.js").Layer} Layer */
/** @typedef {import("../mask/draw.js").Region} Region @typedef {import("../mask/draw.js").Style} Style */
/** @typedef {{layer: Layer, key: unknown[]}} Drawn */

/** Time for drawing masks in a frame, milliseconds; the rest is drawn in the next. */
const BUDGET_MS = 10;

export class Layers {
  /** @type {Map<number, Drawn>} */
  #drawn = new Map();
  /** All but the selected object, together. */
  #rest = document.createElement("canvas");
  /** What it was composed for. @type {Region | null} */
  #restRegion = null;
  /** @type {Layer[]} */
  #restLayers = [];
  /** The objects that were painted last. @type {readonly Item[] | null} */
  #items = null;
  #selected = 0;

  clear() {
    this.#drawn.clear();
    this.#restRegion = null;
    this.#items = null;
  }

  /**
   * Draw the masks that changed; tells whether all are drawn for this view.
   *
   * @param {readonly Item[]} items @param {number} selected
   * @param {{width: number, height: number}} size of the image
   * @param {Region} region shown
   * @param {(item: Item, selected: boolean) => Style} style
   * @param {boolean} moving whether older drawings serve, for the view changes
   */
  draw(items, selected, size, region, style, moving) {
    const start = performance.now();
    // While the view moves, the last drawing moves with it.
    if (moving && items === this.#items && selected === this.#selected) return false;
    this.#items = items;
    this.#selected = selected;
    let complete = !moving;
    const ids = new Set(items.map((item) => item.id));
    for (const id of this.#drawn.keys()) if (!ids.has(id)) this.#drawn.delete(id);
    const ordered = [...items].sort((a, b) => Number(b.id === selected) - Number(a.id === selected));
    for (const item of ordered) {
      if (item.hidden || (!item.mask && !item.given && !item.added)) {
        this.#drawn.delete(item.id);
        continue;
      }
      const { color, tint, line } = style(item, item.id === selected);
      const key = [...content(item), ...color, tint, line, region.x, region.y, region.scale, region.width, region.height];
      const old = this.#drawn.get(item.id);
      if (old && key.every((part, i) => part === old.key[i])) continue;
      const usable = old && key.slice(0, 9).every((part, i) => part === old.key[i]);
      if (usable && (moving || performance.now() - start > BUDGET_MS)) {
        complete = false;
        continue;
      }
      this.#drawn.set(item.id, { key, layer: draw(item, size, region, { color, tint, line }) });
    }
    this.#compose(region);
    return complete;
  }

  /** Put all but the selected object together, if one of them or the view changed. @param {Region} region */
  #compose(region) {
    const others = [...this.#drawn].filter(([id]) => id !== this.#selected).sort(([a], [b]) => a - b).map(([, { layer }]) => layer);
    const same = others.length === this.#restLayers.length && others.every((layer, i) => layer === this.#restLayers[i]);
    if (same && this.#restRegion && sameRegion(region, this.#restRegion)) return;
    this.#restLayers = others;
    this.#restRegion = region;
    this.#rest.width = region.width;
    this.#rest.height = region.height;
    const rest = /** @type {CanvasRenderingContext2D} */ (this.#rest.getContext("2d"));
    for (const layer of others) place(rest, layer, region);
  }

  /** Put what is drawn on a canvas. @param {CanvasRenderingContext2D} context @param {Region} region shown */
  place(context, region) {
    if (this.#restRegion && this.#restLayers.length) place(context, { canvas: this.#rest, region: this.#restRegion }, region);
    const own = this.#drawn.get(this.#selected);
    if (own) place(context, own.layer, region);
  }
}

/** @param {CanvasRenderingContext2D} context @param {Layer} layer @param {Region} region shown */
export function place(context, { canvas, region: drawn }, region) {
  if (!canvas) return;
  const grow = region.scale / drawn.scale;
  context.drawImage(
    canvas, (drawn.x - region.x) * region.scale, (drawn.y - region.y) * region.scale, canvas.width * grow, canvas.height * grow,
  );
}

/** @param {Region} a @param {Region} b */
const sameRegion = (a, b) => a.x === b.x && a.y === b.y && a.scale === b.scale && a.width === b.width && a.height === b.height;

/** What an object's drawing depends on; always as many values. @param {Item} item */
function content({ mask, given, added, removed }) {
  return [mask?.logits ?? mask?.shape, given, added, removed];
}

/** @param {Item} item @param {{width: number, height: number}} size @param {Region} region @param {Style} style @returns {Layer} */
function draw(item, size, region, style) {
  const { mask, added, removed } = item;
  if (mask?.logits && hasPrompts(item) && !added && !removed) return drawLogits(mask.logits, size, region, style);
  const shape = shapeOfItem(item, size);
  return shape ? drawShape(shape, region, style) : { canvas: null, region };
}
