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
 * @typedef {readonly import("../model/classes.js").Class[]} ClassList
 */

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

  /** @param {Entry[]} entries */
  async saveList(entries) {
    await kept(db.set("entries", entries.map(({ key, name, objects, done, thumbnail }) => ({ key, name, objects, done, thumbnail }))));
  }

  /** @param {Entry} entry @param {Blob} file */
  async add(entry, file) {
    await kept(db.set(`file ${entry.key}`, file));
  }

  /** @param {Entry} entry */
  async remove(entry) {
    await kept(db.delMany([`file ${entry.key}`, `work ${entry.key}`]));
  }

  /** @param {Entry} entry @returns {Promise<Blob>} */
  async file(entry) {
    const file = await kept(db.get(`file ${entry.key}`));
    if (!file) throw new api.CallError("file", `The browser no longer has ${entry.name}. Drop the file here again.`);
    return file;
  }

  /** @param {Entry} entry @returns {Promise<Saved | null>} */
  async load(entry) {
    return (await kept(db.get(`work ${entry.key}`))) ?? null;
  }

  /** @param {Entry} entry @param {Saved} saved */
  async save(entry, saved) {
    await kept(db.set(`work ${entry.key}`, saved));
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

/** Keeps work and classes beside the images of a folder. */
export class FolderStore {
  folder = true;
  /** The revisions that this page has seen, by name. @type {Map<string, string>} */
  #seen = new Map();

  /** @returns {Promise<Entry[]>} */
  async list() {
    const { images } = await (await api.call("/api/folder")).json();
    return images.map((/** @type {any} */ { name, objects, done }) => ({
      key: name, name, objects, done, thumbnail: `/api/folder/thumbnail/${path(name)}`,
    }));
  }

  async saveList() {}

  /** @param {Entry} entry @returns {Promise<Blob>} */
  async file(entry) {
    return (await api.call(`/api/folder/image/${path(entry.key)}`)).blob();
  }

  /** @param {Entry} entry @returns {Promise<Saved | null>} */
  async load(entry) {
    return this.#load(entry.key);
  }

  /** @param {Entry} entry @param {Saved} saved @param {boolean} [anyway] replace what others have saved */
  async save(entry, saved, anyway) {
    await this.#save(entry.key, saved, anyway);
  }

  /** @returns {Promise<ClassList>} */
  async classes() {
    return (await this.#load("classes.hqsam.json")) ?? [];
  }

  /** @param {ClassList} list */
  async saveClasses(list) {
    await this.#save("classes.hqsam.json", list, true);
  }

  /** @param {string} name */
  async #load(name) {
    const response = await api.call(`/api/folder/work/${path(name)}`);
    this.#seen.set(name, response.headers.get("etag") ?? "");
    return response.json();
  }

  /** @param {string} name @param {unknown} content @param {boolean} [anyway] */
  async #save(name, content, anyway) {
    const headers = { "content-type": "application/json", "if-match": anyway ? "*" : (this.#seen.get(name) ?? "none") };
    const response = await api.call(`/api/folder/work/${path(name)}`, { method: "PUT", headers, body: JSON.stringify(content) });
    this.#seen.set(name, (await response.json()).revision);
  }
}

/** @param {string} name */
const path = (name) => name.split("/").map(encodeURIComponent).join("/");
