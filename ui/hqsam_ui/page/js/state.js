// What the user has asked for: objects with their prompts and masks, and the way back.
// States are never changed, only replaced, so that undoing is keeping the one before.

/**
 * @typedef {{x: number, y: number, label: 0 | 1}} Point original pixels
 * @typedef {[number, number, number, number]} Box left, top, right, bottom: original pixels
 * @typedef {{logits: Float32Array, iou: number, key: string}} Mask what was answered to `key`
 * @typedef {object} Thing An object on the picture.
 * @property {number} id counted from 1
 * @property {readonly Point[]} points
 * @property {Box | null} box
 * @property {Mask | null} mask the newest there is, which may answer earlier prompts
 * @typedef {{things: readonly Thing[], selected: number, next: number}} State
 */

/** As in the Python client. @type {import("./mask.js").Rgb[]} */
const COLORS = [
  [30, 144, 255],
  [255, 127, 14],
  [44, 200, 90],
  [230, 60, 160],
  [250, 210, 50],
  [150, 90, 230],
];

const KEPT = 200;

/** @param {Thing} thing */
export const colorOf = (thing) => COLORS[(thing.id - 1) % COLORS.length];

/** @param {Thing} thing */
export const isAsked = (thing) => thing.points.length > 0 || thing.box !== null;

/**
 * What a mask has to answer.
 *
 * @param {Thing} thing
 * @param {string} mode
 */
export const keyOf = (thing, mode) => JSON.stringify([thing.points, thing.box, mode]);

/** @param {number} id @returns {Thing} */
const blank = (id) => ({ id, points: [], box: null, mask: null });

/** @returns {State} */
const initial = () => ({ things: [blank(1)], selected: 1, next: 2 });

/** The present state, and those before and after it. */
export class History extends EventTarget {
  state = initial();
  /** @type {State[]} */
  #past = [];
  /** @type {State[]} */
  #future = [];

  get selected() {
    const found = this.state.things.find((thing) => thing.id === this.state.selected);
    return found ?? this.state.things[0];
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
    this.#edit((thing) => ({ ...thing, points: [...thing.points, point] }));
  }

  /** @param {Box} box */
  setBox(box) {
    this.#edit((thing) => ({ ...thing, box }));
  }

  clear() {
    if (isAsked(this.selected)) this.#edit((thing) => blank(thing.id));
  }

  /** Begin another object, unless the selected one is still empty. */
  add() {
    if (!isAsked(this.selected)) return;
    const { things, next } = this.state;
    const empty = things.find((thing) => !isAsked(thing));
    if (empty) this.select(empty.id);
    else this.#change({ things: [...things, blank(next)], selected: next, next: next + 1 });
  }

  /** @param {number} id */
  remove(id) {
    const { things, selected, next } = this.state;
    const index = things.findIndex((thing) => thing.id === id);
    const rest = things.filter((thing) => thing.id !== id);
    if (!rest.length) {
      if (isAsked(things[0])) this.#change({ things: [blank(next)], selected: next, next: next + 1 });
      return;
    }
    const neighbour = rest[Math.min(index, rest.length - 1)].id;
    this.#change({ things: rest, selected: selected === id ? neighbour : selected, next });
  }

  /** Looking at another object is nothing to undo. @param {number} id */
  select(id) {
    this.#show({ ...this.state, selected: id });
  }

  /** @param {number} step */
  selectBy(step) {
    const { things } = this.state;
    const index = things.indexOf(this.selected) + step;
    this.select(things[(index + things.length) % things.length].id);
  }

  /** A mask arrived; it belongs to the prompts that are there. @param {number} id @param {Mask} mask */
  setMask(id, mask) {
    const things = this.state.things.map((thing) => (thing.id === id ? { ...thing, mask } : thing));
    this.#show({ ...this.state, things });
  }

  /** @param {(thing: Thing) => Thing} edit */
  #edit(edit) {
    const { id } = this.selected;
    const things = this.state.things.map((thing) => (thing.id === id ? edit(thing) : thing));
    this.#change({ ...this.state, things });
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
