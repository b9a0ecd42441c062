// The images of a project, and which one is worked on.

import { Classes } from "../model/classes.js";
import * as api from "./api.js";
import { thumbnail } from "./showable.js";
import { BrowserStore, FolderStore } from "./stores.js";
import { Work } from "./work.js";

/** @typedef {import("./stores.js").Entry} Entry @typedef {BrowserStore | FolderStore} Store */

const WATCH_MS = 1500;
const IDLE_MS = 10000;

/** Images that are encoded ahead. */
const AHEAD = 2;

/** Time without a click before an image is encoded ahead, milliseconds. */
const QUIET_MS = 1500;

/** Images that are kept loaded, apart from their history. */
const KEPT = 6;

/**
 * Dispatches what the current work does ("change", "failed", "masked"), "opened" when another
 * image is shown, "entries" when the list changed, and "recovered" when the server is back.
 */
export class Project extends EventTarget {
  classes = new Classes();
  /** @type {Store} */
  store = new BrowserStore();
  /** @type {Entry[]} */
  entries = [];
  /** @type {Work | null} */
  current = null;
  /** @type {api.Status | null} */
  server = null;
  refine = false;
  mode = "hq";
  /** Whether the next images are encoded while one is worked on. */
  ahead = true;

  /** The newest last. @type {Map<string, Work>} */
  #works = new Map();
  #waiting = false;
  #watchTimer = 0;
  #aheadTimer = 0;
  #usedAt = 0;
  /** Writes of images and of their list that are not done yet. */
  #writing = 0;
  /** @type {Promise<void>} */
  #started = Promise.resolve();
  /** The classes that are saved, as JSON. */
  #savedClasses = "[]";
  /** @type {() => void} */
  #reach = () => {};
  /** Fulfilled when the page's server has answered. @type {Promise<void>} */
  #reached = new Promise((resolve) => (this.#reach = resolve));
  /** Tells other tabs what was saved. */
  #tabs = new BroadcastChannel("hqsam");

  /** Load the project: the folder of the page's server, or what the browser has kept. */
  start() {
    this.#started = this.#start();
  }

  async #start() {
    this.#watch();
    // Only the page's server knows what the page works on.
    await this.#reached;
    if (this.server?.folder) this.store = new FolderStore();
    while (!(await this.#load())) await new Promise((resolve) => setTimeout(resolve, WATCH_MS));
    this.classes.addEventListener("change", () => this.#saveClasses());
    this.#saveClasses();
    this.#tabs.addEventListener("message", ({ data }) => this.#savedElsewhere(data));
    this.#emit("entries");
    const last = sessionStorage.getItem("hqsam-image");
    const entry = this.entries.find(({ key }) => key === last) ?? this.entries.find(({ done }) => !done) ?? this.entries[0];
    if (entry) this.select(entry);
    else this.#emit("change");
  }

  /** Load the list of images, and the classes; tells whether there is no reason to try again. */
  async #load() {
    try {
      this.entries = await this.store.list();
      const saved = await this.store.classes();
      // Classes may be typed before it is known which there are.
      const typed = this.classes.list;
      this.#setClasses(saved);
      for (const { name } of typed) this.classes.add(name);
      return true;
    } catch (error) {
      this.#failed(error);
      return !(error instanceof api.CallError && error.temporary);
    }
  }

  /** @param {import("./stores.js").ClassList} list that is saved */
  #setClasses(list) {
    this.#savedClasses = JSON.stringify(list);
    this.classes.set(list);
  }

  get #classesDirty() {
    return JSON.stringify(this.classes.list) !== this.#savedClasses;
  }

  /** Whether leaving now would lose something. */
  get isDirty() {
    return this.#classesDirty || this.#writing > 0 || [...this.#works.values()].some((work) => work.isDirty);
  }

  get index() {
    return this.current ? this.entries.indexOf(this.current.entry) : -1;
  }

  /** Add image files and show the first. @param {File[]} files */
  async add(files) {
    // A file may be chosen before it is known what the browser has kept.
    await this.#started;
    if (!(this.store instanceof BrowserStore)) return this.#failed(new api.CallError("file", "This page works on a folder: put images there."));
    const { store } = this;
    const added = files.map((file) => {
      const key = `${file.name}|${file.size}|${file.lastModified}`;
      const known = this.entries.find((entry) => entry.key === key);
      return { file, known, entry: known ?? { key, name: file.name, objects: 0, done: false, thumbnail: null } };
    });
    this.entries = [...this.entries, ...added.filter(({ known }) => !known).map(({ entry }) => entry)];
    this.#emit("entries");
    if (added.length) this.select(added[0].entry, added[0].file);
    for (const { file, known, entry } of added) {
      try {
        if (!known) await this.#write(store.add(entry, file));
        await this.#write(store.saveEntry(entry));
        await this.makeThumbnail(entry, file);
        await this.#write(store.saveEntry(entry));
        this.#tabs.postMessage({});
      } catch (error) {
        this.work(entry).file ??= file;
        this.#failed(error);
      }
      this.#emit("entries");
    }
  }

  /** @param {Entry} entry @param {Blob} file that the browser may be able to show */
  async makeThumbnail(entry, file) {
    entry.thumbnail ??= await thumbnail(file);
    this.#emit("entries");
  }

  /** Take an image out of the browser's project, with its work. @param {Entry} entry */
  async remove(entry) {
    if (!(this.store instanceof BrowserStore)) return;
    this.#drop(entry);
    await this.#write(this.store.remove(entry));
    this.#tabs.postMessage({});
  }

  /** @param {Entry} entry */
  #drop(entry) {
    const index = this.entries.indexOf(entry);
    this.#works.get(entry.key)?.pause();
    this.#works.delete(entry.key);
    this.entries = this.entries.filter((each) => each !== entry);
    if (this.current?.entry === entry) {
      this.current = null;
      const next = this.entries[Math.min(index, this.entries.length - 1)];
      if (next) this.select(next);
      else this.#emit("opened", "change");
    }
    this.#emit("entries");
  }

  /** @param {Entry} entry @returns {Work} */
  work(entry) {
    const known = this.#works.get(entry.key);
    if (known) return known;
    const work = new Work(entry, this);
    work.history.mode = this.mode;
    work.history.load([], 1);
    this.#works.set(entry.key, work);
    for (const name of ["change", "masked"]) work.addEventListener(name, () => work === this.current && this.#emit(name));
    // It may have become ready only now, or the server may be back.
    work.addEventListener("change", () => work === this.current && this.#aheadWhenQuiet());
    work.addEventListener("failed", (event) => this.#workFailed(work, /** @type {CustomEvent} */ (event).detail));
    work.addEventListener("saved", () => this.#saved(work));
    return work;
  }

  /** Make a work the one that was used last. @param {Work} work */
  #use(work) {
    this.#works.delete(work.entry.key);
    this.#works.set(work.entry.key, work);
  }

  /** Return the work on an image, if it is loaded. @param {Entry} entry */
  opened(entry) {
    const work = this.#works.get(entry.key);
    return work?.isLoaded ? work : undefined;
  }

  /** Work on an image. @param {Entry} entry @param {Blob} [file] it, if it is at hand */
  select(entry, file) {
    const before = this.current;
    const work = this.work(entry);
    if (work === before) return;
    if (file) work.file ??= file;
    this.#use(work);
    for (const other of this.#works.values()) if (other !== work) other.pause();
    before?.save().then(() => before !== this.current && before.compact());
    this.current = work;
    if (before) {
      work.history.mode = before.history.mode;
      work.history.cls = before.history.cls;
    }
    sessionStorage.setItem("hqsam-image", entry.key);
    this.#forget();
    this.wasUsed();
    this.#emit("opened", "change");
    work.open();
  }

  /** @param {number} step to the next or previous image */
  selectBy(step) {
    const entry = this.entries[this.index + step];
    if (entry) this.select(entry);
  }

  /** Free the images that were used least recently; their histories stay. */
  #forget() {
    const held = [...this.#works.values()].filter(({ file }) => file);
    for (const work of held.slice(0, Math.max(0, held.length - KEPT))) {
      if (work !== this.current && !work.isDirty && !work.isBusy) work.release();
    }
  }

  /** Save all that is not saved. */
  async saveAll() {
    await Promise.all([...this.#works.values()].map((work) => work.save()));
    // Before, it is not known which classes there are.
    await this.#started;
    await this.#saveClasses();
  }

  async #saveClasses() {
    const { list } = this.classes;
    if (!this.#classesDirty) return;
    this.#emit("change");
    try {
      await this.store.saveClasses(list);
      this.#savedClasses = JSON.stringify(list);
      this.#tabs.postMessage({ classes: true });
    } catch (error) {
      this.#failed(error);
    }
  }

  /** @param {Work} work */
  async #saved(work) {
    if (work.unsaved) return;
    this.#emit("entries");
    try {
      await this.#write(this.store.saveEntry(work.entry));
    } catch (error) {
      this.#failed(error);
    }
    this.#tabs.postMessage({ key: work.entry.key });
  }

  /** Count a write as not saved until it is done. @param {Promise<void>} write */
  async #write(write) {
    this.#writing++;
    try {
      await write;
    } finally {
      this.#writing--;
      this.#emit("change");
    }
  }

  /** Show what another tab has saved. @param {{key?: string, classes?: boolean}} what key: of an image; without either, the list */
  async #savedElsewhere({ key = "", classes = false }) {
    try {
      if (classes) {
        const list = await this.store.classes();
        if (!this.#classesDirty) this.#setClasses(list);
        return;
      }
      const work = this.#works.get(key);
      if (work && work.phase !== "new") await work.reload();
      if (this.store instanceof BrowserStore) this.#showList(await this.store.list());
    } catch (error) {
      this.#failed(error);
    }
  }

  /** Show a list that another tab has changed; what this one has not saved yet stays. @param {Entry[]} list */
  #showList(list) {
    if (this.#writing) return;
    const dirty = (/** @type {Entry} */ { key }) => this.#works.get(key)?.isDirty ?? false;
    for (const entry of this.entries) if (!dirty(entry) && !list.some(({ key }) => key === entry.key)) this.#drop(entry);
    for (const each of list) {
      const known = this.entries.find(({ key }) => key === each.key);
      if (!known) this.entries = [...this.entries, each];
      else if (!dirty(known)) Object.assign(known, { objects: each.objects, done: each.done, thumbnail: known.thumbnail ?? each.thumbnail });
    }
    this.#emit("entries");
    if (!this.current && this.entries.length) this.select(this.entries[0]);
  }

  /** A click, or another image: what is encoded ahead waits. */
  wasUsed() {
    this.#usedAt = performance.now();
    this.#aheadWhenQuiet();
  }

  #aheadWhenQuiet() {
    clearTimeout(this.#aheadTimer);
    const left = this.#usedAt + QUIET_MS - performance.now();
    this.#aheadTimer = setTimeout(() => this.#encodeAhead(), Math.max(0, left));
  }

  async #encodeAhead() {
    const { current } = this;
    if (!this.ahead || !current || current.phase !== "ready" || current.isBusy || !this.server?.ready || this.#waiting) return;
    const next = this.entries.slice(this.index + 1, this.index + 1 + AHEAD).map((entry) => this.work(entry));
    const work = next.find(({ phase }) => phase === "new");
    if (!work || next.some(({ phase }) => phase === "loading" || phase === "encoding")) return;
    this.#use(work);
    await work.open();
    this.#forget();
    if (work.phase === "ready" && performance.now() - this.#usedAt >= QUIET_MS) this.#encodeAhead();
  }

  /** Report an error; if it is temporary, watch for the server to come back. @param {Work} work @param {unknown} error */
  #workFailed(work, error) {
    const temporary = error instanceof api.CallError && error.temporary;
    if (work === this.current || (error instanceof api.CallError && error.code === "not-saved")) this.#failed(error);
    if (!temporary) return;
    this.#waiting = true;
    if (this.server) this.server = { ...this.server, ready: false };
    clearTimeout(this.#watchTimer);
    this.#watchTimer = setTimeout(() => this.#watch(), WATCH_MS / 3);
    this.#emit("change");
  }

  /** Check whether the server answers: often while it does not, rarely otherwise. */
  async #watch() {
    clearTimeout(this.#watchTimer);
    const before = this.server?.ready;
    try {
      this.server = await api.status();
      this.#reach();
    } catch {
      const { model = null, url = "", max_image_bytes = Infinity, folder = null } = this.server ?? {};
      this.server = { ready: false, model, url, max_image_bytes, folder };
    }
    const { ready } = this.server;
    if (ready && (this.#waiting || before === false)) {
      this.#waiting = false;
      this.#emit("recovered");
      for (const work of this.#works.values()) if (work.phase !== "new") work.retry();
    }
    this.#emit("change");
    clearTimeout(this.#watchTimer);
    this.#watchTimer = setTimeout(() => this.#watch(), ready && !this.#waiting ? IDLE_MS : WATCH_MS);
  }

  /** @param {unknown} error */
  #failed(error) {
    this.dispatchEvent(new CustomEvent("failed", { detail: error }));
  }

  /** @param {string[]} names */
  #emit(...names) {
    for (const name of names) this.dispatchEvent(new Event(name));
  }
}
