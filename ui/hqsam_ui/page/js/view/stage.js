// The image, and the masks and prompts drawn on it.

import { drawLogits } from "../mask/draw.js";
import { Layers, place } from "./layers.js";
import { paintBox, paintCross, paintPrompts, paintRing, paintStroke } from "./marks.js";
import { Viewport } from "./viewport.js";

/** @typedef {import("../model/history.js").State} State @typedef {import("../model/item.js").Item} Item */
/** @typedef {import("../model/item.js").Box} Box @typedef {import("../model/brush.js").Stroke} Stroke */

/** Time after a move of the view before masks are drawn sharply for it, milliseconds. */
const SETTLE_MS = 90;

/** From this scale on, single pixels are shown: CSS pixels for an original pixel. */
const PIXELS_AT = 4;

export class Stage {
  view = new Viewport();
  /** The pixel under the keyboard's crosshair. @type {{x: number, y: number} | null} */
  cross = null;
  /** The box being drawn. @type {Box | null} */
  draft = null;
  /** The item shown in place of the selected one, while a prompt is dragged. @type {Item | null} */
  dragged = null;
  /** @type {Stroke | null} */
  stroke = null;
  /** The brush under the pointer, original pixels. @type {{x: number, y: number, radius: number} | null} */
  brush = null;
  look = { opacity: 0.4, masks: true, outline: false };

  /** @type {State | null} */
  #state = null;
  /** @type {{logits: Float32Array, item: Item} | null} */
  #preview = null;
  #layers = new Layers();
  /** Pixels drawn for a CSS pixel. */
  #density = 1;
  #planned = false;
  #moving = false;
  #settle = 0;

  /**
   * @param {HTMLElement} stage
   * @param {HTMLImageElement} photo
   * @param {HTMLCanvasElement} canvas over the whole stage
   * @param {(item: Item) => import("../model/classes.js").Rgb} colorOf
   */
  constructor(stage, photo, canvas, colorOf) {
    this.stage = stage;
    this.photo = photo;
    this.canvas = canvas;
    this.colorOf = colorOf;
    this.view.addEventListener("change", () => this.#moved());
    new ResizeObserver(() => this.#resize()).observe(stage);
    // Moving the window to another screen may change only the pixel density.
    window.addEventListener("resize", () => this.#resize());
  }

  get size() {
    return this.view.size;
  }

  /** @param {{width: number, height: number}} size */
  setSize(size) {
    this.stage.style.setProperty("--stage-height", `min(60dvh, calc((100vw - 1.5rem) * ${size.height / size.width}))`);
    this.photo.style.width = `${size.width}px`;
    this.photo.style.height = `${size.height}px`;
    this.#layers.clear();
    this.#resize();
    this.view.setSize(size);
    this.view.fit();
  }

  /** @param {State | null} state */
  show(state) {
    this.#state = state;
    // Here and not in the frame, which then is ready sooner.
    this.#drawLayers(this.#region());
    this.redraw();
  }

  /** @param {{logits: Float32Array, item: Item} | null} preview */
  showPreview(preview) {
    if (!preview && !this.#preview) return;
    this.#preview = preview;
    this.redraw();
  }

  #resize() {
    const { clientWidth, clientHeight } = this.stage;
    const density = Math.min(window.devicePixelRatio || 1, 3);
    const width = Math.round(clientWidth * density);
    const height = Math.round(clientHeight * density);
    this.#density = width / Math.max(1, clientWidth);
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.view.resize({ width: clientWidth, height: clientHeight });
    this.redraw();
  }

  #moved() {
    const { x, y, scale } = this.view;
    this.photo.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.photo.style.imageRendering = scale >= PIXELS_AT ? "pixelated" : "auto";
    this.#moving = true;
    clearTimeout(this.#settle);
    this.#settle = setTimeout(() => {
      this.#moving = false;
      this.redraw();
    }, SETTLE_MS);
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
    const region = this.#region();
    context.save();
    const { x, y, scale } = this.view;
    context.beginPath();
    // Masks end where the image ends.
    context.rect(x * this.#density, y * this.#density, this.size.width * scale * this.#density, this.size.height * scale * this.#density);
    context.clip();
    if (this.look.masks) {
      const complete = this.#drawLayers(region);
      this.#layers.place(context, region);
      if (!complete && !this.#moving) this.redraw();
      if (this.#preview) {
        const { logits, item } = this.#preview;
        place(context, drawLogits(logits, this.size, region, { ...this.#style(item, false), line: 1 }), region);
      }
    }
    context.restore();
    context.setTransform(this.#density, 0, 0, this.#density, 0, 0);
    this.#paintMarks(context, state);
  }

  /** Draw the masks that changed; tells whether all are drawn. @param {import("../mask/draw.js").Region} region */
  #drawLayers(region) {
    if (!this.#state || !this.look.masks) return true;
    const { items, selected } = this.#state;
    return this.#layers.draw(items, selected, this.size, region, (item, own) => this.#style(item, own), this.#moving);
  }

  /** What the stage shows, in original pixels; it may reach beyond the image. */
  #region() {
    const { view, canvas } = this;
    return { x: -view.x / view.scale, y: -view.y / view.scale, scale: view.scale * this.#density, width: canvas.width, height: canvas.height };
  }

  /** @param {Item} item @param {boolean} selected */
  #style(item, selected) {
    const { opacity, outline } = this.look;
    return { color: this.colorOf(item), tint: outline || item.found ? 0 : selected ? opacity : opacity * 0.7, line: (selected ? 2.5 : 1.5) * this.#density };
  }

  /** @param {CanvasRenderingContext2D} context @param {State} state */
  #paintMarks(context, state) {
    const { view } = this;
    const css = (/** @type {Item} */ item) => `rgb(${this.colorOf(item).join(" ")})`;
    for (const item of state.items) {
      const selected = item.id === state.selected;
      const shown = selected && this.dragged ? this.dragged : item;
      if (!item.hidden) paintPrompts(context, view, shown, css(item), selected);
    }
    const selected = state.items.find((item) => item.id === state.selected);
    if (this.stroke && selected) paintStroke(context, view, this.stroke, css(selected));
    if (this.draft) paintBox(context, view, this.draft, "#fff", [6, 4]);
    if (this.brush) paintRing(context, view.toStage(this.brush.x, this.brush.y), this.brush.radius * view.scale);
    if (this.cross && document.activeElement === this.canvas) paintCross(context, view, this.cross);
  }
}
