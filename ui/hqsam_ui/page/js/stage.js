// The image, and the masks and prompts drawn on it.

import { draw } from "./mask.js";
import { Pointing } from "./pointing.js";
import { colorOf } from "./state.js";

/** @typedef {import("./state.js").State} State */
/** @typedef {import("./state.js").Item} Item */
/** @typedef {import("./state.js").Box} Box */

/** Longest side of drawn masks, pixels. More takes longer and is not visible. */
const MAX_SIDE = 1800;
const PREVIEW_SIDE = 700;
const GOOD = "#15803d";
const BAD = "#c2291f";

export class Stage {
  /** Size of the upright image, original pixels. */
  size = { width: 1, height: 1 };
  /** The pixel under the keyboard's crosshair. @type {{x: number, y: number} | null} */
  cross = null;
  /** The box being drawn. @type {Box | null} */
  draft = null;

  /** @type {State | null} */
  #state = null;
  /** @type {{logits: Float32Array, item: Item} | null} */
  #preview = null;
  /** @type {Map<number, {key: unknown[], canvas: HTMLCanvasElement}>} */
  #drawn = new Map();
  #planned = false;

  /**
   * @param {HTMLElement} stage the image is fitted into it
   * @param {HTMLElement} frame
   * @param {HTMLCanvasElement} canvas
   * @param {import("./pointing.js").Handlers} handlers
   */
  constructor(stage, frame, canvas, handlers) {
    this.stage = stage;
    this.frame = frame;
    this.canvas = canvas;
    new Pointing(this, handlers);
    new ResizeObserver(() => this.fit()).observe(stage);
    // Moving the window to another screen may change only the pixel density.
    window.addEventListener("resize", () => this.fit());
  }

  /** @param {{width: number, height: number}} size */
  setSize(size) {
    this.size = { width: size.width, height: size.height };
    this.stage.style.setProperty("--stage-height", `min(60dvh, calc((100vw - 1.5rem) * ${size.height / size.width}))`);
    this.fit();
  }

  /** @param {State | null} state */
  show(state) {
    this.#state = state;
    this.redraw();
  }

  /** @param {{logits: Float32Array, item: Item} | null} preview */
  showPreview(preview) {
    if (!preview && !this.#preview) return;
    this.#preview = preview;
    this.redraw();
  }

  /** Show the image as large as it fits. */
  fit() {
    const { width, height } = this.size;
    const scale = Math.min(this.stage.clientWidth / width, this.stage.clientHeight / height);
    if (!(scale > 0)) return;
    const shown = { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) };
    this.frame.style.width = `${shown.width}px`;
    this.frame.style.height = `${shown.height}px`;
    const density = Math.min(window.devicePixelRatio || 1, 3);
    const canvas = { width: Math.round(shown.width * density), height: Math.round(shown.height * density) };
    if (this.canvas.width !== canvas.width || this.canvas.height !== canvas.height) {
      this.canvas.width = canvas.width;
      this.canvas.height = canvas.height;
    }
    this.redraw();
  }

  /** Redraw in the next frame, once for all changes. */
  redraw() {
    if (this.#planned) return;
    this.#planned = true;
    requestAnimationFrame(() => {
      this.#planned = false;
      this.#paint();
    });
  }

  #paint() {
    const context = this.canvas.getContext("2d");
    if (!context) return;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const state = this.#state;
    if (!state) return;
    const { width, height } = this.canvas;
    context.imageSmoothingQuality = "high";
    for (const item of state.items) {
      if (item.mask) context.drawImage(this.#layer(item, item.id === state.selected), 0, 0, width, height);
    }
    const ids = new Set(state.items.map((item) => item.id));
    for (const id of this.#drawn.keys()) if (!ids.has(id)) this.#drawn.delete(id);
    if (this.#preview) this.#paintPreview(context, this.#preview);
    // Marks are drawn in CSS pixels: the same size on every screen.
    const density = width / this.frame.clientWidth;
    context.setTransform(density, 0, 0, density, 0, 0);
    for (const item of state.items) this.#paintPrompts(context, item, item.id === state.selected);
    if (this.draft) this.#paintBox(context, this.draft, "#fff", [6, 4]);
    if (this.cross && document.activeElement === this.canvas) this.#paintCross(context, this.cross);
  }

  /** @param {Item} item @param {boolean} selected */
  #layer(item, selected) {
    const mask = /** @type {import("./state.js").Mask} */ (item.mask);
    const { width, height, scale } = this.#resolution(MAX_SIDE);
    const key = [mask.logits, width, height, selected];
    const cached = this.#drawn.get(item.id);
    if (cached?.key.every((part, i) => part === key[i])) return cached.canvas;
    const density = this.canvas.width / Math.max(1, this.frame.clientWidth);
    const style = { color: colorOf(item), tint: selected ? 0.45 : 0.3, line: (selected ? 2.5 : 1.5) * density * scale };
    const canvas = draw(mask.logits, this.size, width, height, style);
    this.#drawn.set(item.id, { key, canvas });
    return canvas;
  }

  /** @param {CanvasRenderingContext2D} context @param {{logits: Float32Array, item: Item}} preview */
  #paintPreview(context, { logits, item }) {
    const { width, height } = this.#resolution(PREVIEW_SIDE);
    const layer = draw(logits, this.size, width, height, { color: colorOf(item), tint: 0.3, line: 1 });
    context.drawImage(layer, 0, 0, this.canvas.width, this.canvas.height);
  }

  /** @param {number} side */
  #resolution(side) {
    const scale = Math.min(1, side / Math.max(this.canvas.width, this.canvas.height));
    return {
      scale,
      width: Math.max(1, Math.round(this.canvas.width * scale)),
      height: Math.max(1, Math.round(this.canvas.height * scale)),
    };
  }

  /** @param {CanvasRenderingContext2D} context @param {Item} item @param {boolean} selected */
  #paintPrompts(context, item, selected) {
    const color = `rgb(${colorOf(item).join(" ")})`;
    context.globalAlpha = selected ? 1 : 0.55;
    if (item.box) this.#paintBox(context, item.box, color, []);
    for (const { x, y, label } of item.points) {
      const at = this.#shown(x + 0.5, y + 0.5);
      context.beginPath();
      context.arc(at.x, at.y, selected ? 8 : 5, 0, 2 * Math.PI);
      context.fillStyle = label ? GOOD : BAD;
      context.strokeStyle = "#fff";
      context.lineWidth = 2;
      context.fill();
      context.stroke();
      if (!selected) continue;
      context.beginPath();
      context.moveTo(at.x - 4, at.y);
      context.lineTo(at.x + 4, at.y);
      if (label) {
        context.moveTo(at.x, at.y - 4);
        context.lineTo(at.x, at.y + 4);
      }
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  /** @param {CanvasRenderingContext2D} context @param {Box} box @param {string} color @param {number[]} dash */
  #paintBox(context, [x0, y0, x1, y1], color, dash) {
    const from = this.#shown(x0, y0);
    const to = this.#shown(x1, y1);
    for (const [style, line] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 0.55)", 4], [color, 2]])) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.setLineDash(style === color ? dash : []);
      context.strokeRect(from.x, from.y, to.x - from.x, to.y - from.y);
    }
    context.setLineDash([]);
  }

  /** @param {CanvasRenderingContext2D} context @param {{x: number, y: number}} cross */
  #paintCross(context, cross) {
    const at = this.#shown(cross.x + 0.5, cross.y + 0.5);
    for (const [style, line] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 0.7)", 4], ["#fff", 2]])) {
      context.strokeStyle = style;
      context.lineWidth = line;
      context.beginPath();
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(at.x + 5 * dx, at.y + 5 * dy);
        context.lineTo(at.x + 16 * dx, at.y + 16 * dy);
      }
      context.stroke();
    }
  }

  /**
   * Return a position in the frame, CSS pixels.
   *
   * @param {number} x original pixels from the image's left edge; a pixel's centre is at + 0.5
   * @param {number} y from its top edge
   */
  #shown(x, y) {
    return {
      x: (x / this.size.width) * this.frame.clientWidth,
      y: (y / this.size.height) * this.frame.clientHeight,
    };
  }
}
