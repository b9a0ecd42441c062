// The objects of an image, and the history for undo and redo.
// States are replaced, never modified, so undo only has to keep the previous ones.

import { parts } from "../mask/parts.js";
import { union } from "../mask/shape.js";
import { blankItem, isBlank, shapeOfItem, withShape } from "./item.js";

/** @typedef {import("./item.js").Item} Item @typedef {import("./item.js").Box} Box */
/** @typedef {import("./item.js").Point} Point @typedef {import("./item.js").Mask} Mask */
/** @typedef {import("./item.js").Shape} Shape @typedef {import("./item.js").Size} Size */
/** @typedef {{items: readonly Item[], selected: number, next: number}} State */

const KEPT = 200;

/** Dispatches "change", or "mask" if a mask arrived; before either "edit" if there is something new to save. */
export class History extends EventTarget {
  /** The mode of new objects. */
  mode = "hq";
  /** The class of new objects. @type {number | null} */
  cls = null;
  /** @type {State[]} */
  #past = [];
  /** @type {State[]} */
  #future = [];

  constructor() {
    super();
    this.state = this.#initial();
  }

  /** @returns {State} */
  #initial(id = 1) {
    return { items: [this.#blank(id)], selected: id, next: id + 1 };
  }

  /** @param {number} id @returns {Item} */
  #blank(id) {
    return { ...blankItem(id, this.mode), cls: this.cls };
  }

  get selected() {
    const found = this.state.items.find((item) => item.id === this.state.selected);
    return found ?? this.state.items[0];
  }

  get canUndo() {
    return this.#past.length > 0;
  }

  get canRedo() {
    return this.#future.length > 0;
  }

  /** The masks of all states. @returns {Set<Mask>} */
  get masks() {
    const all = [...this.#past, this.state, ...this.#future].flatMap(({ items }) => items.map(({ mask }) => mask));
    return new Set(all.filter((mask) => mask !== null));
  }

  /** Start with objects that were saved. @param {readonly Item[]} items @param {number} next */
  load(items, next) {
    this.#past = [];
    this.#future = [];
    this.#show(items.length ? { items, selected: items[0].id, next } : this.#initial(next));
  }

  undo() {
    const state = this.#past.pop();
    if (!state) return;
    this.#future.push(this.state);
    this.#show(this.#asHidden(state), true);
  }

  redo() {
    const state = this.#future.pop();
    if (!state) return;
    this.#past.push(this.state);
    this.#show(this.#asHidden(state), true);
  }

  /** Keep what was hidden since. @param {State} state */
  #asHidden(state) {
    const now = new Map(this.state.items.map((item) => [item.id, item]));
    return { ...state, items: state.items.map((item) => ({ ...item, hidden: now.get(item.id)?.hidden ?? item.hidden })) };
  }

  /** @param {Point} point */
  addPoint(point) {
    this.edit((item) => ({ ...item, points: [...item.points, point] }));
  }

  /** @param {number} index @param {Point} point */
  movePoint(index, point) {
    this.edit((item) => ({ ...item, points: item.points.map((each, i) => (i === index ? point : each)) }));
  }

  /** @param {number} index */
  removePoint(index) {
    this.edit((item) => ({ ...item, points: item.points.filter((_, i) => i !== index) }));
  }

  /** Give the selected object a box, or start another object if it has one. @param {Box} box */
  addBox(box) {
    if (!this.selected.box) return this.setBox(box);
    const { items, next } = this.state;
    const spare = items.find(isBlank);
    const item = { ...(spare ?? this.#blank(next)), box };
    const others = items.filter((each) => each !== spare);
    this.#change({ items: [...others, item], selected: item.id, next: spare ? next : next + 1 });
  }

  /** @param {Box | null} box */
  setBox(box) {
    this.edit((item) => ({ ...item, box }));
  }

  /** @param {Shape | null} shape @param {Size} size */
  setShape(shape, size) {
    this.edit((item) => withShape(item, shape, size));
  }

  /** @param {string} mode of the selected object and of new ones */
  setMode(mode) {
    this.mode = mode;
    if (this.selected.mode !== mode) this.edit((item) => ({ ...item, mode }));
  }

  /** @param {number | null} cls of the selected object and of new ones */
  setClass(cls) {
    this.cls = cls;
    if (this.selected.cls !== cls) this.edit((item) => ({ ...item, cls }));
  }

  /** @param {string} name */
  rename(name) {
    if (this.selected.name !== name) this.edit((item) => ({ ...item, name }));
  }

  /** Take prompts and strokes away. */
  clear() {
    const { points, box, added, removed } = this.selected;
    if (!points.length && !box && !added && !removed) return;
    this.edit((item) => ({ ...item, points: [], box: null, mask: null, added: null, removed: null }));
  }

  /** Start another object, unless there is an empty one. */
  add() {
    const { items, next } = this.state;
    const empty = items.find(isBlank);
    if (empty) this.select(empty.id);
    else this.#change({ items: [...items, this.#blank(next)], selected: next, next: next + 1 });
  }

  /** Add objects that are made elsewhere. @param {Omit<Item, "id">[]} found */
  import(found) {
    const { items, next } = this.state;
    const start = items.length === 1 && isBlank(items[0]) ? items[0].id : next;
    const made = found.map((item, i) => ({ ...item, id: start + i }));
    const others = items.filter((item) => !isBlank(item));
    this.#change({ items: [...others, ...made], selected: start, next: Math.max(next, start + made.length) });
  }

  /** Keep an object that was found, and select it. @param {number} id */
  keep(id) {
    this.#change({ ...this.state, items: this.state.items.map((item) => (item.id === id ? { ...item, found: false } : item)), selected: id });
  }

  /** Keep all objects that were found. */
  keepAll() {
    this.#change({ ...this.state, items: this.state.items.map((item) => ({ ...item, found: false })) });
  }

  /** Take away the objects that were found and not kept. */
  dropFound() {
    const { items, selected, next } = this.state;
    const rest = items.filter(({ found }) => !found);
    if (!rest.length) return this.#change(this.#initial(next));
    this.#change({ items: rest, selected: rest.some(({ id }) => id === selected) ? selected : rest[rest.length - 1].id, next });
  }

  duplicate() {
    const { items, next } = this.state;
    if (isBlank(this.selected)) return;
    this.#change({ items: [...items, { ...this.selected, found: false, id: next }], selected: next, next: next + 1 });
  }

  /** Add an object's pixels to the selected one, and delete it. @param {number} id @param {Size} size */
  merge(id, size) {
    const { selected } = this;
    const other = this.state.items.find((item) => item.id === id);
    if (!other || other === selected) return;
    const both = union(shapeOfItem(selected, size), shapeOfItem(other, size));
    const whole = { ...withShape(selected, both, size), found: false };
    const items = this.state.items.filter((item) => item !== other).map((item) => (item === selected ? whole : item));
    this.#change({ ...this.state, items });
  }

  /** Make an object of each connected part; the largest stays. Returns their number. @param {Size} size */
  split(size) {
    const { selected } = this;
    const shape = shapeOfItem(selected, size);
    const [largest, ...others] = shape ? parts(shape) : [];
    if (!others.length) return 1;
    const { items, next } = this.state;
    const made = others.map((given, i) => ({ ...blankItem(next + i, selected.mode), cls: selected.cls, name: selected.name, given }));
    const rest = items.map((item) => (item === selected ? { ...withShape(selected, largest, size), found: false } : item));
    this.#change({ items: [...rest, ...made], selected: selected.id, next: next + made.length });
    return made.length + 1;
  }

  /** @param {number} id */
  remove(id) {
    const { items, selected, next } = this.state;
    const index = items.findIndex((item) => item.id === id);
    const rest = items.filter((item) => item.id !== id);
    if (!rest.length) {
      if (!isBlank(items[0])) this.#change(this.#initial(next));
      return;
    }
    const neighbour = rest[Math.min(index, rest.length - 1)].id;
    this.#change({ items: rest, selected: selected === id ? neighbour : selected, next });
  }

  /** Selecting an object cannot be undone. @param {number} id */
  select(id) {
    this.#show({ ...this.state, selected: id });
  }

  /** @param {number} step */
  selectBy(step) {
    const { items } = this.state;
    const index = items.indexOf(this.selected) + step;
    this.select(items[(index + items.length) % items.length].id);
  }

  /** Hiding an object cannot be undone. @param {number} id @param {boolean} hidden */
  hide(id, hidden) {
    this.#show({ ...this.state, items: this.state.items.map((item) => (item.id === id ? { ...item, hidden } : item)) }, true);
  }

  /** Store a mask that arrived; this cannot be undone. @param {number} id @param {Mask} mask */
  setMask(id, mask) {
    const items = this.state.items.map((item) => (item.id === id ? { ...item, mask } : item));
    this.state = { ...this.state, items };
    this.dispatchEvent(new Event("edit"));
    this.dispatchEvent(new Event("mask"));
  }

  /** @param {(item: Item) => Item} edit of the selected object */
  edit(edit) {
    const { selected } = this;
    // What somebody works on is kept.
    const items = this.state.items.map((item) => (item === selected ? { ...edit(item), found: false } : item));
    this.#change({ ...this.state, items });
  }

  /** @param {State} state */
  #change(state) {
    this.#past.push(this.state);
    if (this.#past.length > KEPT) this.#past.shift();
    this.#future = [];
    this.#show(state, true);
  }

  /** @param {State} state @param {boolean} [edited] whether there is something to save */
  #show(state, edited = false) {
    this.state = state;
    if (edited) this.dispatchEvent(new Event("edit"));
    this.dispatchEvent(new Event("change"));
  }
}
