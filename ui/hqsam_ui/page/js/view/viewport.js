// Which part of the image is shown, and how large.

const MOST = 40;

/** Dispatches "change". Positions on the stage are CSS pixels from its top left corner. */
export class Viewport extends EventTarget {
  /** Of the upright image, original pixels. */
  size = { width: 1, height: 1 };
  /** CSS pixels for an original pixel. */
  scale = 1;
  /** The image's top left corner on the stage. */
  x = 0;
  y = 0;
  #fitted = true;
  #stage = { width: 1, height: 1 };

  /** The scale at which the whole image is visible. */
  get fitScale() {
    return Math.min(this.#stage.width / this.size.width, this.#stage.height / this.size.height);
  }

  get isFitted() {
    return this.#fitted;
  }

  /** @param {{width: number, height: number}} size */
  setSize({ width, height }) {
    if (this.size.width === width && this.size.height === height) return;
    this.size = { width, height };
    this.fit();
  }

  /** @param {{width: number, height: number}} stage */
  resize(stage) {
    if (!(stage.width > 0 && stage.height > 0)) return;
    const { width, height } = this.#stage;
    this.#stage = { width: stage.width, height: stage.height };
    if (this.#fitted) this.fit();
    else this.#set(this.scale, this.x + (stage.width - width) / 2, this.y + (stage.height - height) / 2);
  }

  /** Show the whole image. */
  fit() {
    this.#fitted = true;
    const scale = this.fitScale;
    this.#show(scale, (this.#stage.width - this.size.width * scale) / 2, (this.#stage.height - this.size.height * scale) / 2);
  }

  /** Show an original pixel as a pixel of the screen. */
  actual() {
    this.zoomTo(1 / (window.devicePixelRatio || 1));
  }

  /** @param {number} factor @param {{x: number, y: number}} [at] on the stage, which stays in place */
  zoom(factor, at) {
    this.zoomTo(this.scale * factor, at);
  }

  /** @param {number} scale @param {{x: number, y: number}} [at] */
  zoomTo(scale, at = { x: this.#stage.width / 2, y: this.#stage.height / 2 }) {
    const bounded = Math.max(Math.min(this.fitScale, 1), Math.min(scale, Math.max(MOST, this.fitScale)));
    if (bounded === this.fitScale) return this.fit();
    const factor = bounded / this.scale;
    this.#set(bounded, at.x - (at.x - this.x) * factor, at.y - (at.y - this.y) * factor);
  }

  /** @param {number} dx @param {number} dy CSS pixels */
  pan(dx, dy) {
    if (!this.#fitted) this.#set(this.scale, this.x + dx, this.y + dy);
  }

  /** Make a pixel of the image visible. @param {{x: number, y: number}} pixel */
  reveal({ x, y }) {
    const edge = 40;
    const at = this.toStage(x + 0.5, y + 0.5);
    const dx = Math.max(0, edge - at.x) - Math.max(0, at.x - this.#stage.width + edge);
    const dy = Math.max(0, edge - at.y) - Math.max(0, at.y - this.#stage.height + edge);
    if (dx || dy) this.pan(dx, dy);
  }

  /** @param {number} x original pixels from the image's left edge; a pixel's centre is at + 0.5 @param {number} y */
  toStage(x, y) {
    return { x: this.x + x * this.scale, y: this.y + y * this.scale };
  }

  /** @param {number} x on the stage @param {number} y @returns {{x: number, y: number}} original pixels, maybe outside */
  toImage(x, y) {
    return { x: (x - this.x) / this.scale, y: (y - this.y) / this.scale };
  }

  /** Keep the image on the stage. @param {number} scale @param {number} x @param {number} y */
  #set(scale, x, y) {
    this.#fitted = false;
    const inside = (/** @type {number} */ offset, /** @type {number} */ length, /** @type {number} */ whole) =>
      length <= whole ? (whole - length) / 2 : Math.max(whole - length, Math.min(offset, 0));
    this.#show(scale, inside(x, this.size.width * scale, this.#stage.width), inside(y, this.size.height * scale, this.#stage.height));
  }

  /** @param {number} scale @param {number} x @param {number} y */
  #show(scale, x, y) {
    if (!(scale > 0)) return;
    Object.assign(this, { scale, x, y });
    this.dispatchEvent(new Event("change"));
  }
}
