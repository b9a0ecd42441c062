// Where images and the work on them are kept: in the browser, or in a folder on the page's server.
//
// Both stores have the same methods. An entry is an image of the project:

import * as db from "../../vendor/idb-keyval/index.js";
import * as api from "./api.js";

/**
 * @typedef {object} Entry
 * @property {string} key
 * @property {string} name
 * @property {number} objects
 * @property {boolean} done
 * @property {Blob | string | null} thumbnail an image, or its address; null if there is none
 *
 * @typedef {import("./document.js").Saved} Saved
 * @typedef {{saved: Saved | null, revision: string}} Kept revision: for `save`, which replaces no other one
 * @typedef {readonly import("../model/classes.js").Class[]} ClassList
 */

/** The revision of work that does not exist. */
export const NOTHING = "none";

/** Stands for every revision. */
export const ANY = "*";

const CHANGED = "The work on this image was changed in another tab. Reload to see that, or try again to replace it.";

const NOT_KEPT = "The browser does not keep this work: it has no room for it, or storage is off. Download it before you leave.";

/** @template T @param {Promise<T>} work @returns {Promise<T>} */
async function kept(work) {
  try {
    return await work;
  } catch (error) {
    throw new api.CallError("not-saved", `${NOT_KEPT} (${/** @type {Error} */ (error).message})`);
  }
}

/** Keeps image files, work and classes in IndexedDB. */
export class BrowserStore {
  folder = false;

  /** @returns {Promise<Entry[]>} */
  async list() {
    return (await kept(db.get("entries"))) ?? [];
  }

  /** Add an image to the list, or replace what the list says of it; other tabs may change the list, too. @param {Entry} entry */
  async saveEntry({ key, name, objects, done, thumbnail }) {
    const entry = { key, name, objects, done, thumbnail };
    await kept(
      db.update("entries", (/** @type {Entry[]} */ list = []) =>
        list.some((each) => each.key === key) ? list.map((each) => (each.key === key ? entry : each)) : [...list, entry],
      ),
    );
  }

  /** @param {Entry} entry @param {Blob} file */
  async add(entry, file) {
    await kept(db.set(`file ${entry.key}`, file));
  }

  /** @param {Entry} entry */
  async remove(entry) {
    await kept(db.update("entries", (/** @type {Entry[]} */ list = []) => list.filter(({ key }) => key !== entry.key)));
    await kept(db.delMany([`file ${entry.key}`, `work ${entry.key}`]));
  }

  /** @param {Entry} entry @returns {Promise<Blob>} */
  async file(entry) {
    const file = await kept(db.get(`file ${entry.key}`));
    if (!file) throw new api.CallError("file", `The browser no longer has ${entry.name}. Drop the file here again.`);
    return file;
  }

  /** @param {Entry} entry @returns {Promise<Kept>} */
  async load(entry) {
    const saved = await kept(db.get(`work ${entry.key}`));
    return { saved: saved ?? null, revision: revisionOf(saved) };
  }

  /**
   * Save the work on an image; returns its revision.
   *
   * @param {Entry} entry @param {Saved} saved @param {string} revision that it replaces
   * @returns {Promise<string>}
   * @throws {api.CallError} "changed" if it has another one, "not-saved"
   */
  async save(entry, saved, revision) {
    let found = NOTHING;
    let next = NOTHING;
    await kept(
      db.update(`work ${entry.key}`, (old) => {
        found = revisionOf(old);
        next = String((Number(found) || 0) + 1);
        return revision === found || revision === ANY ? { ...saved, revision: next } : old;
      }),
    );
    if (revision !== found && revision !== ANY) throw new api.CallError("changed", CHANGED);
    return next;
  }

  /** @returns {Promise<ClassList>} */
  async classes() {
    return (await kept(db.get("classes"))) ?? [];
  }

  /** @param {ClassList} list */
  async saveClasses(list) {
    await kept(db.set("classes", list));
  }
}

/** @param {{revision?: string} | undefined} saved */
const revisionOf = (saved) => saved?.revision ?? NOTHING;

/** Keeps work and classes beside the images of a folder. */
export class FolderStore {
  folder = true;

  /** @returns {Promise<Entry[]>} */
  async list() {
    const { images } = await (await api.call("/api/folder")).json();
    return images.map((/** @type {any} */ { name, objects, done }) => ({
      key: name, name, objects, done, thumbnail: `/api/folder/thumbnail/${path(name)}`,
    }));
  }

  async saveEntry() {}

  /** @param {Entry} entry @returns {Promise<Blob>} */
  async file(entry) {
    return (await api.call(`/api/folder/image/${path(entry.key)}`)).blob();
  }

  /** @param {Entry} entry @returns {Promise<Kept>} */
  async load(entry) {
    const { content, revision } = await this.#load(entry.key);
    return { saved: content, revision };
  }

  /** As that of `BrowserStore`. @param {Entry} entry @param {Saved} saved @param {string} revision @returns {Promise<string>} */
  async save(entry, saved, revision) {
    return this.#save(entry.key, saved, revision);
  }

  /** @returns {Promise<ClassList>} */
  async classes() {
    return (await this.#load("classes.hqsam.json")).content ?? [];
  }

  /** @param {ClassList} list */
  async saveClasses(list) {
    await this.#save("classes.hqsam.json", list, ANY);
  }

  /** @param {string} name */
  async #load(name) {
    const response = await api.call(`/api/folder/work/${path(name)}`);
    return { content: await response.json(), revision: (response.headers.get("etag") ?? NOTHING).replaceAll('"', "") };
  }

  /** @param {string} name @param {unknown} content @param {string} revision */
  async #save(name, content, revision) {
    const headers = { "content-type": "application/json", "if-match": revision };
    const response = await api.call(`/api/folder/work/${path(name)}`, { method: "PUT", headers, body: JSON.stringify(content) });
    return (await response.json()).revision;
  }
}

/** @param {string} name */
const path = (name) => name.split("/").map(encodeURIComponent).join("/");
