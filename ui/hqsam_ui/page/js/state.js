// The objects with their prompts and masks, and the history for undo and redo.
// States are replaced, never modified, so undo only has to keep the previous ones.

/**
 * @typedef {{x: number, y: number, label: 0 | 1}} Point the pixel in column x and row y of the image
 * @typedef {[number, number, number, number]} Box left, top, right, bottom: original pixels, measured from the image's edges
 * @typedef {{logits: Float32Array, iou: number, key: string}} Mask the answer to the prompts in `key`
 * @typedef {object} Item An object in the image.
 * @property {number} id counted from 1
 * @property {readonly Point[]} points
 * @property {Box | null} box
 * @property {Mask | null} mask the newest one, which may answer earlier prompts
 * @typedef {{items: readonly Item[], selected: number, next: number}} State
 */

/** The client's `drawing.COLORS`. @type {import("./mask.js").Rgb[]} */
const COLORS = [
  [30, 144, 255],
  [255, 127, 14],
  [44, 200, 90],
  [230, 60, 160],
  [250, 210, 50],
  [150, 90, 230],
];

const KEPT = 200;

/** @param {Item} item */
export const colorOf = (item) => COLORS[(item.id - 1) % COLORS.length];

/** @param {Item} item */
export const hasPrompts = (item) => item.points.length > 0 || item.box !== null;

/**
 * Return a key of the prompts and the mode that a mask answers.
 *
 * @param {Item} item
 * @param {string} mode
 */
export const promptKey = (item, mode) => JSON.stringify([item.points, item.box, mode]);

/** @param {number} id @returns {Item} */
const blank = (id) => ({ id, points: [], box: null, mask: null });

/** @returns {State} */
const initial = () => ({ items: [blank(1)], selected: 1, next: 2 });

/** The current state, and those before and after it. */
export class History extends EventTarget {
  state = initial();
  /** @type {State[]} */
  #past = [];
  /** @type {State[]} */
  #future = [];

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

  reset() {
    this.#past = [];
    this.#future = [];
    this.#show(initial());
  }

  undo() {
    const state = this.#past.pop();
    if (!state) return;
    this.#future.push(this.state);
    this.#show(state);
  }

  redo() {
    const state = this.#future.pop();
    if (!state) return;
    this.#past.push(this.state);
    this.#show(state);
  }

  /** @param {Point} point */
  addPoint(point) {
    this.#edit((item) => ({ ...item, points: [...item.points, point] }));
  }

  /** @param {Box} box */
  setBox(box) {
    this.#edit((item) => ({ ...item, box }));
  }

  clear() {
    if (hasPrompts(this.selected)) this.#edit((item) => blank(item.id));
  }

  /** Start another object, unless the selected one is still empty. */
  add() {
    if (!hasPrompts(this.selected)) return;
    const { items, next } = this.state;
    const empty = items.find((item) => !hasPrompts(item));
    if (empty) this.select(empty.id);
    else this.#change({ items: [...items, blank(next)], selected: next, next: next + 1 });
  }

  /** @param {number} id */
  remove(id) {
    const { items, selected, next } = this.state;
    const index = items.findIndex((item) => item.id === id);
    const rest = items.filter((item) => item.id !== id);
    if (!rest.length) {
      if (hasPrompts(items[0])) this.#change({ items: [blank(next)], selected: next, next: next + 1 });
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

  /** Store a mask that arrived; this cannot be undone. @param {number} id @param {Mask} mask */
  setMask(id, mask) {
    const items = this.state.items.map((item) => (item.id === id ? { ...item, mask } : item));
    this.#show({ ...this.state, items });
  }

  /** @param {(item: Item) => Item} edit */
  #edit(edit) {
    const { id } = this.selected;
    const items = this.state.items.map((item) => (item.id === id ? edit(item) : item));
    this.#change({ ...this.state, items });
  }

  /** @param {State} state */
  #change(state) {
    this.#past.push(this.state);
    if (this.#past.length > KEPT) this.#past.shift();
    this.#future = [];
    this.#show(state);
  }

  /** @param {State} state */
  #show(state) {
    this.state = state;
    this.dispatchEvent(new Event("change"));
  }
}
