// The current image: sends it, requests its masks, and retries what failed.

import * as api from "./api.js";
import { History, hasPrompts, promptKey } from "./state.js";

/** @typedef {import("./state.js").Item} Item */
/** @typedef {import("./api.js").Opened} Opened */
/** @typedef {"empty" | "encoding" | "ready" | "failed"} Phase */

/** With slower answers, previews would lag behind the cursor. */
const FAST_MS = 350;
const WATCH_MS = 1500;
const IDLE_MS = 10000;

/**
 * Dispatches "change" when anything visible changed, "failed" with an error, "recovered" when
 * the server is back, "masked" when a mask arrived, and "preview" with a mask or null.
 */
export class Session extends EventTarget {
  history = new History();
  /** @type {Phase} */
  phase = "empty";
  /** @type {File | null} */
  file = null;
  /** @type {Opened | null} */
  image = null;
  /** From choosing the image to the server's answer, milliseconds. @type {number | null} */
  openedMs = null;
  /** From the last click to the drawn mask, milliseconds. @type {number | null} */
  clickMs = null;
  /** @type {import("./api.js").Status | null} */
  server = null;
  mode = "hq";
  refine = false;
  hover = true;

  /** @type {AbortController | null} */
  #opening = null;
  /** @type {Map<number, {key: string, stop: AbortController}>} */
  #asking = new Map();
  /** @type {AbortController | null} */
  #previewing = null;
  /** @type {{x: number, y: number, label: 0 | 1} | null} */
  #cursor = null;
  /** How long the last answer took, to a click or a preview, milliseconds. @type {number | null} */
  #pace = null;
  /** @type {Promise<void> | null} */
  #sendingAgain = null;
  #waiting = false;
  #timer = 0;

  constructor() {
    super();
    this.history.addEventListener("change", () => this.#prompted());
    this.#watch();
  }

  get isBusy() {
    return this.#asking.size > 0;
  }

  /** Start with a new image. @param {File} file */
  open(file) {
    this.#stopAll();
    this.file = file;
    this.image = this.openedMs = this.clickMs = this.#pace = null;
    this.phase = "encoding";
    this.#waiting = false;
    this.history.reset();
    return this.#open();
  }

  async #open() {
    const stop = (this.#opening = new AbortController());
    const start = performance.now();
    this.phase = "encoding";
    this.#changed();
    try {
      if (this.server && this.file && this.file.size > this.server.max_image_bytes) {
        const most = Math.round(this.server.max_image_bytes / 2 ** 20);
        throw new api.CallError("too-large", `The file is larger than ${most} MiB, the largest this page accepts.`);
      }
      const image = await api.open(/** @type {File} */ (this.file), stop.signal);
      if (stop.signal.aborted) return;
      this.image = image;
      this.openedMs = performance.now() - start;
      this.phase = "ready";
      this.#changed();
      this.#ask();
    } catch (error) {
      if (stop.signal.aborted) return;
      this.phase = "failed";
      this.#failed(error);
    }
  }

  /** Retry what failed. */
  retry() {
    if (this.phase === "failed") this.#open();
    else this.#ask();
  }

  /** @param {string} mode */
  setMode(mode) {
    this.mode = mode;
    this.#prompted();
  }

  #prompted() {
    this.#cancelPreview();
    this.#changed();
    this.#ask();
  }

  /** Request each missing mask, once. */
  #ask() {
    const { items } = this.history.state;
    for (const [id, { key, stop }] of this.#asking) {
      const item = items.find((each) => each.id === id);
      if (item && hasPrompts(item) && promptKey(item, this.mode) === key) continue;
      stop.abort();
      this.#asking.delete(id);
    }
    if (this.phase !== "ready") return;
    for (const item of items) {
      const key = promptKey(item, this.mode);
      if (hasPrompts(item) && item.mask?.key !== key && !this.#asking.has(item.id)) this.#askOne(item, key);
    }
  }

  /** @param {Item} item @param {string} key */
  async #askOne(item, key) {
    const stop = new AbortController();
    this.#asking.set(item.id, { key, stop });
    this.#changed();
    const start = performance.now();
    const previous = this.refine ? (item.mask?.logits ?? null) : null;
    try {
      const { logits, iou } = await this.#segment(item, previous, stop.signal);
      if (stop.signal.aborted) return;
      this.#asking.delete(item.id);
      this.#waiting = false;
      this.history.setMask(item.id, { logits, iou, key });
      // When the browser draws the mask.
      requestAnimationFrame(() => {
        this.clickMs = this.#pace = performance.now() - start;
        this.dispatchEvent(new Event("masked"));
        this.#changed();
      });
    } catch (error) {
      if (stop.signal.aborted) return;
      this.#asking.delete(item.id);
      this.#failed(error);
    }
  }

  /**
   * @param {Pick<Item, "points" | "box">} item
   * @param {Float32Array | null} previous logits to refine
   * @param {AbortSignal} signal
   */
  async #segment({ points, box }, previous, signal) {
    const prompt = { points: points.map(({ x, y }) => [x, y]), labels: points.map(({ label }) => label), box, mode: this.mode };
    return this.#withImage((id) => api.segment(id, prompt, previous, signal));
  }

  /**
   * Make a call for the image; if the page's server has dropped it, send it again first.
   *
   * @template T
   * @param {(imageId: string) => Promise<T>} call
   * @returns {Promise<T>}
   */
  async #withImage(call) {
    const { image } = this;
    if (!image) throw new api.CallError("image", "There is no image yet.");
    try {
      return await call(image.image_id);
    } catch (error) {
      if (!(error instanceof api.CallError) || error.code !== "unknown-image") throw error;
    }
    this.#sendingAgain ??= this.#sendAgain().finally(() => (this.#sendingAgain = null));
    await this.#sendingAgain;
    return call(image.image_id);
  }

  async #sendAgain() {
    const signal = this.#opening?.signal ?? new AbortController().signal;
    await api.open(/** @type {File} */ (this.file), signal);
  }

  /**
   * Preview the mask of a click, while the selected object has no prompts. One request runs at
   * a time; the next one is for the cursor's latest position.
   *
   * @param {{x: number, y: number} | null} at the pixel under the cursor
   * @param {0 | 1} label
   */
  preview(at, label) {
    this.#cursor = at && { ...at, label };
    if (!at) this.#cancelPreview();
    else if (!this.#previewing) this.#previewNow();
  }

  async #previewNow() {
    const at = this.#cursor;
    const item = this.history.selected;
    const slow = this.#pace !== null && this.#pace > FAST_MS;
    const wanted = this.hover && !slow && !this.#waiting && at?.label === 1 && !hasPrompts(item);
    if (!at || !wanted || this.phase !== "ready" || this.isBusy) return;
    const stop = (this.#previewing = new AbortController());
    const start = performance.now();
    try {
      const { logits } = await this.#segment({ points: [at], box: null }, null, stop.signal);
      if (stop.signal.aborted) return;
      this.#pace = performance.now() - start;
      this.dispatchEvent(new CustomEvent("preview", { detail: { logits, item } }));
    } catch {
      // No message for a preview: a click will show the error.
      if (stop.signal.aborted) return;
    }
    this.#previewing = null;
    const moved = this.#cursor;
    if (moved && (moved.x !== at.x || moved.y !== at.y)) this.#previewNow();
  }

  #cancelPreview() {
    this.#previewing?.abort();
    this.#previewing = null;
    this.#cursor = null;
    this.dispatchEvent(new CustomEvent("preview", { detail: null }));
  }

  /**
   * @param {string} name of the download
   * @param {object} fields
   * @param {Float32Array[]} masks
   * @returns {Promise<Blob>}
   */
  async download(name, fields, masks) {
    const most = this.server?.max_objects ?? Infinity;
    if (masks.length > most) throw new api.CallError("too-large", `A download takes at most ${most} objects. Delete some.`);
    return this.#withImage((id) => api.download(id, name, fields, masks));
  }

  /** Report an error; if it is temporary, watch for the server to come back. @param {unknown} error */
  #failed(error) {
    const temporary = error instanceof api.CallError && error.temporary;
    this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    if (temporary) {
      this.#waiting = true;
      this.#watch();
    }
    this.#changed();
  }

  /** Check whether the server answers: often while it does not, rarely otherwise. */
  async #watch() {
    clearTimeout(this.#timer);
    const before = this.server?.ready;
    try {
      this.server = await api.status();
    } catch {
      const { url = "", max_image_bytes = Infinity, max_objects = Infinity } = this.server ?? {};
      this.server = { ready: false, url, max_image_bytes, max_objects };
    }
    const { ready } = this.server;
    if (ready && (this.#waiting || before === false)) {
      this.#waiting = false;
      this.dispatchEvent(new Event("recovered"));
      this.retry();
    }
    this.#changed();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#watch(), ready && !this.#waiting ? IDLE_MS : WATCH_MS);
  }

  #stopAll() {
    this.#opening?.abort();
    for (const { stop } of this.#asking.values()) stop.abort();
    this.#asking.clear();
    this.#cancelPreview();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
