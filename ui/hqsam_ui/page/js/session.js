// One picture at a time: it is sent, prompts are asked, and what fails is tried again.

import * as api from "./api.js";
import { History, isAsked, keyOf } from "./state.js";

/** @typedef {import("./state.js").Thing} Thing */
/** @typedef {import("./api.js").Opened} Opened */
/** @typedef {"empty" | "encoding" | "ready" | "failed"} Phase */

/** Above this, a preview would lag behind the cursor. */
const FAST_MS = 350;
const WATCH_MS = 1500;
const CALM_MS = 10000;

/**
 * Raises "change" when anything is to be shown anew, "failed" with an error, "recovered" when
 * the server is back, and "masked" when a mask arrived.
 */
export class Session extends EventTarget {
  history = new History();
  /** @type {Phase} */
  phase = "empty";
  /** @type {File | null} */
  file = null;
  /** @type {Opened | null} */
  picture = null;
  /** How long the picture took, milliseconds. @type {number | null} */
  openedMs = null;
  /** From a click to the drawn mask. @type {number | null} */
  clickMs = null;
  /** @type {{ready: boolean, url: string, max_bytes: number} | null} */
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
  /** The last answer's time, be it to a click or a preview. @type {number | null} */
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

  /** Begin with a picture. @param {File} file */
  open(file) {
    this.#stopAll();
    this.file = file;
    this.picture = this.openedMs = this.clickMs = this.#pace = null;
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
      if (this.server && this.file && this.file.size > this.server.max_bytes) {
        const most = Math.round(this.server.max_bytes / 2 ** 20);
        throw new api.CallError("too-large", `The file is larger than the ${most} MiB this page takes.`);
      }
      const picture = await api.open(/** @type {File} */ (this.file), stop.signal);
      if (stop.signal.aborted) return;
      this.picture = picture;
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

  /** Try again what failed. */
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

  /** Ask for the masks that are missing, once each. */
  #ask() {
    const { things } = this.history.state;
    for (const [id, { key, stop }] of this.#asking) {
      const thing = things.find((each) => each.id === id);
      if (thing && isAsked(thing) && keyOf(thing, this.mode) === key) continue;
      stop.abort();
      this.#asking.delete(id);
    }
    if (this.phase !== "ready") return;
    for (const thing of things) {
      const key = keyOf(thing, this.mode);
      if (isAsked(thing) && thing.mask?.key !== key && !this.#asking.has(thing.id)) this.#askOne(thing, key);
    }
  }

  /** @param {Thing} thing @param {string} key */
  async #askOne(thing, key) {
    const stop = new AbortController();
    this.#asking.set(thing.id, { key, stop });
    this.#changed();
    const start = performance.now();
    const former = this.refine ? (thing.mask?.logits ?? null) : null;
    try {
      const { logits, iou } = await this.#segment(thing, former, stop.signal);
      if (stop.signal.aborted) return;
      this.#asking.delete(thing.id);
      this.#waiting = false;
      this.history.setMask(thing.id, { logits, iou, key });
      // After the frame that shows it.
      requestAnimationFrame(() => {
        this.clickMs = this.#pace = performance.now() - start;
        this.dispatchEvent(new Event("masked"));
        this.#changed();
      });
    } catch (error) {
      if (stop.signal.aborted) return;
      this.#asking.delete(thing.id);
      this.#failed(error);
    }
  }

  /**
   * @param {Pick<Thing, "points" | "box">} thing
   * @param {Float32Array | null} former
   * @param {AbortSignal} signal
   */
  async #segment({ points, box }, former, signal) {
    const prompt = { points: points.map(({ x, y }) => [x, y]), labels: points.map(({ label }) => label), box, mode: this.mode };
    return this.#withPicture((id) => api.segment(id, prompt, former, signal));
  }

  /**
   * Call with the picture; where the page's server has lost it, send it again first.
   *
   * @template T
   * @param {(imageId: string) => Promise<T>} call
   * @returns {Promise<T>}
   */
  async #withPicture(call) {
    const { picture } = this;
    if (!picture) throw new api.CallError("picture", "There is no picture yet.");
    try {
      return await call(picture.image_id);
    } catch (error) {
      if (!(error instanceof api.CallError) || error.code !== "unknown-picture") throw error;
    }
    this.#sendingAgain ??= this.#sendAgain().finally(() => (this.#sendingAgain = null));
    await this.#sendingAgain;
    return call(picture.image_id);
  }

  async #sendAgain() {
    const signal = this.#opening?.signal ?? new AbortController().signal;
    await api.open(/** @type {File} */ (this.file), signal);
  }

  /**
   * Preview what a click would do, while there is nothing else on the object yet. One request
   * at a time, and then only for where the cursor is by then.
   *
   * @param {{x: number, y: number} | null} at
   * @param {0 | 1} label
   */
  preview(at, label) {
    this.#cursor = at && { ...at, label };
    if (!at) this.#cancelPreview();
    else if (!this.#previewing) this.#previewNow();
  }

  async #previewNow() {
    const at = this.#cursor;
    const thing = this.history.selected;
    const slow = this.#pace !== null && this.#pace > FAST_MS;
    const wanted = this.hover && !slow && !this.#waiting && at?.label === 1 && !isAsked(thing);
    if (!at || !wanted || this.phase !== "ready" || this.isBusy) return;
    const stop = (this.#previewing = new AbortController());
    const start = performance.now();
    try {
      const { logits } = await this.#segment({ points: [at], box: null }, null, stop.signal);
      if (stop.signal.aborted) return;
      this.#pace = performance.now() - start;
      this.dispatchEvent(new CustomEvent("preview", { detail: { logits, thing } }));
    } catch {
      // A preview is not worth a message; the click will tell.
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
  download(name, fields, masks) {
    return this.#withPicture((id) => api.download(id, name, fields, masks));
  }

  /** Show an error; where it may pass by itself, go on when it has. @param {unknown} error */
  #failed(error) {
    const passing = error instanceof api.CallError && error.passing;
    this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    if (passing) {
      this.#waiting = true;
      this.#watch();
    }
    this.#changed();
  }

  /** Look whether the server answers: often while it is missed, and now and then otherwise. */
  async #watch() {
    clearTimeout(this.#timer);
    const before = this.server?.ready;
    try {
      this.server = await api.status();
    } catch {
      this.server = { ready: false, url: this.server?.url ?? "", max_bytes: this.server?.max_bytes ?? Infinity };
    }
    const { ready } = this.server;
    if (ready && (this.#waiting || before === false)) {
      this.#waiting = false;
      this.dispatchEvent(new Event("recovered"));
      this.retry();
    }
    this.#changed();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#watch(), ready && !this.#waiting ? CALM_MS : WATCH_MS);
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
