// One image: loads it with what was done on it, has it encoded, requests masks, and saves.

import { cut, logitsOf } from "../mask/shape.js";
import { History } from "../model/history.js";
import { hasPrompts, isAsked, isKept, promptKey } from "../model/item.js";
import * as api from "./api.js";
import { read, write } from "./document.js";
import { showable } from "./showable.js";
import { ANY, NOTHING } from "./stores.js";

/** @typedef {import("../model/item.js").Item} Item @typedef {import("./stores.js").Entry} Entry */
/** @typedef {import("./api.js").Opened} Opened @typedef {import("./project.js").Project} Project */
/** @typedef {"new" | "loading" | "encoding" | "ready" | "failed"} Phase */

/** Time after a change before it is saved, milliseconds. */
const SAVE_MS = 300;

/**
 * Dispatches "masked" when a mask arrived, "change" when anything else that is visible changed,
 * "failed" with an error, and "saved".
 */
export class Work extends EventTarget {
  history = new History();
  /** @type {Phase} */
  phase = "new";
  /** @type {Blob | null} */
  file = null;
  /** What is shown: the file, or a JPEG of it. @type {Blob | null} */
  shown = null;
  /** @type {Opened | null} */
  image = null;
  /** Of the upright image, original pixels. @type {{width: number, height: number} | null} */
  size = null;
  /** Of the image file; empty until it is encoded. */
  sha256 = "";
  /** From opening the image to the server's answer, milliseconds. @type {number | null} */
  openedMs = null;
  /** From the last click to the drawn mask, milliseconds. @type {number | null} */
  clickMs = null;
  /** How long the last answer took, to a click or a preview, milliseconds. @type {number | null} */
  pace = null;
  /** Why the work could not be saved. @type {api.CallError | null} */
  unsaved = null;

  /** @type {AbortController | null} */
  #opening = null;
  /** @type {Map<number, {key: string, stop: AbortController}>} */
  #asking = new Map();
  /** @type {Promise<void> | null} */
  #sendingAgain = null;
  #loaded = false;
  /** Of the saved work that is shown, or was made here. */
  #revision = NOTHING;
  #edited = false;
  #timer = 0;
  /** @type {Promise<void> | null} */
  #saving = null;

  /** @param {Entry} entry @param {Project} project */
  constructor(entry, project) {
    super();
    this.entry = entry;
    this.project = project;
    this.history.addEventListener("edit", () => this.#changedWork());
    this.history.addEventListener("mask", () => this.dispatchEvent(new Event("masked")));
    this.history.addEventListener("change", () => {
      this.#ask();
      this.#changed();
    });
  }

  get isBusy() {
    return this.#asking.size > 0;
  }

  /** Whether the work that was saved is here. */
  get isLoaded() {
    return this.#loaded;
  }

  /** Whether something is not saved yet. */
  get isDirty() {
    return this.#edited || this.#saving !== null;
  }

  /** Load the image and the work on it, and have it encoded. */
  async open() {
    if (this.phase !== "new" && this.phase !== "failed") return;
    const stop = (this.#opening = new AbortController());
    const start = performance.now();
    this.#enter("loading");
    try {
      await this.#load();
      if (stop.signal.aborted) return;
      this.#enter("encoding");
      this.image = await api.open(this.#checked(/** @type {Blob} */ (this.file)), stop.signal);
      if (stop.signal.aborted) return;
      this.sha256 = this.image.sha256;
      this.size = { width: this.image.width, height: this.image.height };
      this.openedMs = performance.now() - start;
      this.#enter("ready");
      this.#ask();
    } catch (error) {
      if (stop.signal.aborted) return;
      this.#enter("failed");
      this.#failed(error);
    }
  }

  async #load() {
    const { store } = this.project;
    this.file ??= await store.file(this.entry);
    this.shown ??= await showable(this.file);
    if (!this.entry.thumbnail) this.project.makeThumbnail(this.entry, this.shown);
    await this.reload();
    this.#changed();
  }

  /** Load the work that is saved, unless it is here. */
  async ensureLoaded() {
    if (!this.#loaded) await this.reload();
  }

  /** Show the work that is saved, unless it is what is here; work that is not saved yet stays. */
  async reload() {
    const { saved, revision } = await this.project.store.load(this.entry);
    if (this.#loaded && (this.isDirty || revision === this.#revision)) return;
    this.#loaded = true;
    this.#revision = revision;
    if (!saved) return;
    try {
      const { items, next } = read(saved);
      if (saved.width) this.size ??= { width: saved.width, height: saved.height };
      this.sha256 = saved.sha256;
      this.entry.objects = items.filter(isKept).length;
      if (!this.#edited) this.entry.done = saved.done;
      this.history.load(items, next);
    } catch (error) {
      this.#loaded = false;
      throw new api.CallError("file", `The work on ${this.entry.name} cannot be read: ${/** @type {Error} */ (error).message}. It was left as it is.`);
    }
  }

  /** @param {Blob} file */
  #checked(file) {
    const most = this.project.server?.max_image_bytes ?? Infinity;
    if (file.size <= most) return file;
    throw new api.CallError("too-large", `The file is larger than ${Math.round(most / 2 ** 20)} MiB, the largest this page accepts.`);
  }

  /** Retry what failed. @param {boolean} [byUser] who may replace what others have saved */
  retry(byUser = false) {
    if (this.phase === "failed") this.open();
    else this.#ask();
    if (this.unsaved) this.save(byUser && this.unsaved.code === "changed");
  }

  /** Stop encoding; masks that were asked for still arrive. */
  pause() {
    if (this.phase !== "loading" && this.phase !== "encoding") return;
    this.#opening?.abort();
    this.#enter("new");
  }

  /** Free all that can be loaded again. The history stays. */
  release() {
    this.pause();
    this.compact();
    this.file = this.shown = this.image = null;
    this.#enter("new");
  }

  /** Free what can be made again: logits of masks whose pixels are known. */
  compact() {
    for (const mask of this.history.masks) {
      if (mask.shape === undefined) mask.key = "";
      mask.logits = null;
    }
  }

  /** Request each missing mask, once. */
  #ask() {
    const { items } = this.history.state;
    for (const [id, { key, stop }] of this.#asking) {
      const item = items.find((each) => each.id === id);
      if (item && hasPrompts(item) && promptKey(item) === key) continue;
      stop.abort();
      this.#asking.delete(id);
    }
    if (this.phase !== "ready") return;
    for (const item of items) if (isAsked(item) && !this.#asking.has(item.id)) this.#askOne(item);
  }

  /** @param {Item} item */
  async #askOne(item) {
    const stop = new AbortController();
    const key = promptKey(item);
    this.#asking.set(item.id, { key, stop });
    this.project.wasUsed();
    this.#changed();
    const start = performance.now();
    try {
      const { logits, iou } = await this.segment(item, this.#previous(item), stop.signal);
      if (stop.signal.aborted) return;
      this.#asking.delete(item.id);
      this.history.setMask(item.id, { logits, iou, key });
      // When the browser draws the mask. What else changed is shown after that frame, which so is
      // ready sooner.
      requestAnimationFrame(() => {
        this.clickMs = this.pace = performance.now() - start;
        setTimeout(() => this.#changed());
      });
    } catch (error) {
      if (stop.signal.aborted) return;
      this.#asking.delete(item.id);
      this.#failed(error);
    }
  }

  /** Return the logits to start from. @param {Item} item */
  #previous({ given, mask }) {
    if (given && this.size) return logitsOf(given, this.size);
    if (!this.project.refine || !mask) return null;
    return mask.logits ?? (mask.shape && this.size ? logitsOf(mask.shape, this.size) : null);
  }

  /**
   * @param {Pick<Item, "points" | "box" | "mode">} item
   * @param {Float32Array | null} previous logits to refine
   * @param {AbortSignal} signal
   */
  async segment({ points, box, mode }, previous, signal) {
    const prompt = { points: points.map(({ x, y }) => [x, y]), labels: points.map(({ label }) => label), box, mode };
    return this.#known((id) => api.segment(id, prompt, previous, signal));
  }

  /** Find all objects. @param {AbortSignal} signal */
  everything(signal) {
    this.project.wasUsed();
    return this.#known((id) => api.everything(id, signal));
  }

  /** @template T @param {(imageId: string) => Promise<T>} call on the image; the page's server may not know it */
  async #known(call) {
    const { image_id } = /** @type {Opened} */ (this.image);
    try {
      return await call(image_id);
    } catch (error) {
      if (!(error instanceof api.CallError) || error.code !== "unknown-image") throw error;
    }
    // The page's server has dropped the image, or was started again.
    this.#sendingAgain ??= this.#sendAgain().finally(() => (this.#sendingAgain = null));
    await this.#sendingAgain;
    return call(image_id);
  }

  async #sendAgain() {
    await api.open(/** @type {Blob} */ (this.file), new AbortController().signal);
  }

  #changedWork() {
    this.#edited = true;
    this.project.wasUsed();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.save(), SAVE_MS);
  }

  /** @param {boolean} done */
  setDone(done) {
    this.entry.done = done;
    this.#changedWork();
    this.#changed();
  }

  /** Save now what is not saved. @param {boolean} [anyway] replace what others have saved */
  async save(anyway = false) {
    clearTimeout(this.#timer);
    if (this.#saving) await this.#saving;
    if (!this.#edited || !this.#loaded) return;
    this.#edited = false;
    this.#saving = this.#save(anyway).finally(() => (this.#saving = null));
    await this.#saving;
    this.dispatchEvent(new Event("saved"));
    this.#changed();
  }

  /** @param {boolean} anyway */
  async #save(anyway) {
    const { entry, size, history } = this;
    const { items } = history.state;
    if (size) for (const { mask } of items) if (mask?.logits && mask.shape === undefined) mask.shape = cut(mask.logits, size);
    entry.objects = items.filter(isKept).length;
    try {
      const saved = write({ name: entry.name, size, sha256: this.sha256, done: entry.done }, history.state);
      this.#revision = await this.project.store.save(entry, saved, anyway ? ANY : this.#revision);
      this.unsaved = null;
    } catch (error) {
      this.#edited = true;
      this.unsaved = error instanceof api.CallError ? error : new api.CallError("not-saved", String(error));
      this.#failed(this.unsaved);
    }
  }

  /** @param {unknown} error */
  #failed(error) {
    this.dispatchEvent(new CustomEvent("failed", { detail: error }));
    this.#changed();
  }

  /** @param {Phase} phase */
  #enter(phase) {
    this.phase = phase;
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
