// The classes of a project, and the colours of objects.

/** @typedef {{id: number, name: string}} Class @typedef {import("./item.js").Item} Item */
/** @typedef {[number, number, number]} Rgb */

/**
 * Okabe and Ito's colours, which colour-blind people tell apart, without black; then lighter and
 * darker ones of other hues (Tol).
 *
 * @type {Rgb[]}
 */
export const COLORS = [
  [230, 159, 0],
  [86, 180, 233],
  [0, 158, 115],
  [240, 228, 66],
  [0, 114, 178],
  [213, 94, 0],
  [204, 121, 167],
  [136, 204, 238],
  [153, 153, 51],
  [136, 34, 85],
  [68, 170, 153],
  [221, 204, 119],
];

/** Of objects without a class, where there are classes. @type {Rgb} */
const NONE = [190, 190, 190];

/** Dispatches "change". */
export class Classes extends EventTarget {
  /** @type {readonly Class[]} */
  list = [];

  /** @param {readonly Class[]} list */
  set(list) {
    this.list = list;
    this.dispatchEvent(new Event("change"));
  }

  /** Return the id of a class; it is added if it is new. @param {string} name */
  add(name) {
    const known = this.list.find((each) => each.name === name);
    if (known) return known.id;
    const id = Math.max(0, ...this.list.map((each) => each.id)) + 1;
    this.set([...this.list, { id, name }]);
    return id;
  }

  /** @param {number} id @param {string} name */
  rename(id, name) {
    this.set(this.list.map((each) => (each.id === id ? { id, name } : each)));
  }

  /** Remove a class; its objects have none then. @param {number} id */
  remove(id) {
    this.set(this.list.filter((each) => each.id !== id));
  }

  /** @param {number | null} id */
  name(id) {
    return this.list.find((each) => each.id === id)?.name ?? "";
  }

  /** @param {Item} item @returns {Rgb} */
  color(item) {
    if (!this.list.length) return COLORS[(item.id - 1) % COLORS.length];
    return this.list.some(({ id }) => id === item.cls) ? this.colorOf(/** @type {number} */ (item.cls)) : NONE;
  }

  /** @param {number} id of a class @returns {Rgb} */
  colorOf(id) {
    return COLORS[(id - 1) % COLORS.length];
  }
}

/** Read a list of names: a line each, or JSON. @param {string} text @returns {string[]} */
export function readNames(text) {
  /** @type {string[]} */
  let found;
  try {
    const data = JSON.parse(text);
    const list = Array.isArray(data) ? data : (data?.categories ?? data?.classes ?? data?.names ?? []);
    found = list.map((/** @type {any} */ each) => String(each?.name ?? each));
  } catch {
    found = text.split(/\r?\n/);
  }
  return [...new Set(found.map((name) => name.trim()).filter(Boolean))];
}
