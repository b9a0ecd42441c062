// Mouse, pen, finger and keys on the picture, to points and boxes in original pixels.

/** @typedef {import("./state.js").Box} Box */
/**
 * @typedef {object} Hands What happens then.
 * @property {() => 0 | 1} label what a plain click means
 * @property {(x: number, y: number, label: 0 | 1) => void} onPoint
 * @property {(box: Box) => void} onBox
 * @property {(at: {x: number, y: number} | null, label: 0 | 1) => void} onHover
 * @property {(x: number, y: number) => void} onCross
 */

/** How far a hand may move and still have clicked, CSS pixels. */
const SLACK = { mouse: 4, pen: 6, touch: 10 };

export class Pointing {
  /** @type {{id: number, x: number, y: number, clientX: number, clientY: number, moved: boolean} | null} */
  #down = null;
  /** @type {Set<number>} */
  #touching = new Set();
  /** First corner of a box that is drawn by keys. @type {{x: number, y: number} | null} */
  #corner = null;

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {Hands} hands
   */
  constructor(stage, hands) {
    this.stage = stage;
    this.hands = hands;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event));
    canvas.addEventListener("pointercancel", (event) => this.#drop(event));
    canvas.addEventListener("pointerleave", () => hands.onHover(null, 1));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => stage.redraw());
    canvas.addEventListener("blur", () => {
      this.#corner = null;
      stage.redraw();
    });
  }

  /** @param {PointerEvent} event */
  #start(event) {
    this.#touching.add(event.pointerId);
    if (this.#touching.size > 1) {
      // Two fingers zoom the page; they do not draw.
      this.#down = null;
      this.#draft(null);
      return;
    }
    if (event.button > 0 && event.button !== 2) return;
    this.stage.cross = null;
    this.stage.canvas.setPointerCapture(event.pointerId);
    const { clientX, clientY } = event;
    this.#down = { id: event.pointerId, ...this.#at(event), clientX, clientY, moved: false };
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const down = this.#down;
    if (!down) {
      if (event.pointerType !== "touch") this.hands.onHover(this.#at(event), this.#label(event));
      return;
    }
    if (event.pointerId !== down.id) return;
    const slack = SLACK[/** @type {keyof typeof SLACK} */ (event.pointerType)] ?? SLACK.mouse;
    const far = Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > slack;
    down.moved = down.moved || far;
    if (down.moved) this.#draft(down, this.#at(event));
  }

  /** @param {PointerEvent} event */
  #end(event) {
    this.#touching.delete(event.pointerId);
    const down = this.#down;
    if (!down || event.pointerId !== down.id) return;
    this.#down = null;
    if (!down.moved) {
      this.hands.onPoint(down.x, down.y, this.#label(event));
      return;
    }
    this.#finish(down, this.#at(event));
  }

  /** @param {PointerEvent} event */
  #drop(event) {
    this.#touching.delete(event.pointerId);
    this.#down = null;
    this.#draft(null);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { stage } = this;
    const { width, height } = stage.size;
    const step = (Math.max(width, height) / 1000) * (event.shiftKey ? 50 : 8);
    const at = stage.cross ?? { x: width / 2, y: height / 2 };
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (move) {
      const inside = (/** @type {number} */ value, /** @type {number} */ most) => Math.max(0, Math.min(value, most));
      stage.cross = { x: inside(at.x + move[0] * step, width), y: inside(at.y + move[1] * step, height) };
      if (this.#corner) this.#draft(this.#corner, stage.cross);
      this.hands.onCross(stage.cross.x, stage.cross.y);
    } else if (event.key === "Enter" || event.key === " ") {
      stage.cross = at;
      this.hands.onPoint(at.x, at.y, this.#label(event));
    } else if (event.key.toLowerCase() === "b") {
      stage.cross = at;
      if (this.#corner) this.#finish(this.#corner, at);
      this.#corner = this.#corner ? null : at;
    } else if (event.key === "Escape") {
      this.#corner = null;
      this.#down = null;
      this.#draft(null);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    stage.redraw();
  }

  /** @param {{x: number, y: number}} from @param {{x: number, y: number}} to */
  #finish(from, to) {
    this.#draft(null);
    const box = boxOf(from, to);
    // A line is no box; who drew one has most likely slipped.
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.hands.onBox(box);
  }

  /** @param {{x: number, y: number} | null} from @param {{x: number, y: number}} [to] */
  #draft(from, to) {
    this.stage.draft = from && to ? boxOf(from, to) : null;
    this.stage.redraw();
  }

  /** @param {PointerEvent | KeyboardEvent} event @returns {0 | 1} */
  #label(event) {
    const { label } = this.hands;
    const other = event.altKey || event.shiftKey || ("button" in event && event.button === 2);
    return other ? 0 : label();
  }

  /** Where an event was, original pixels. @param {PointerEvent} event */
  #at(event) {
    const bounds = this.stage.canvas.getBoundingClientRect();
    const { width, height } = this.stage.size;
    const part = (/** @type {number} */ value) => Math.max(0, Math.min(value, 1));
    return {
      x: part((event.clientX - bounds.left) / bounds.width) * width,
      y: part((event.clientY - bounds.top) / bounds.height) * height,
    };
  }
}

/** @param {{x: number, y: number}} from @param {{x: number, y: number}} to @returns {Box} */
function boxOf(from, to) {
  return [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y)];
}
