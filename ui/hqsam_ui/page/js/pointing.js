// Turns mouse, pen, touch and keys on the image into points and boxes.
//
// A position is measured from the image's top left corner, in original pixels. A point is the
// pixel under a position, (column, row): integers. A box is made of positions.

/** @typedef {import("./state.js").Box} Box */
/**
 * @typedef {{x: number, y: number}} Position
 *
 * @typedef {object} Handlers Points are pixels.
 * @property {() => 0 | 1} label of a plain click
 * @property {(x: number, y: number, label: 0 | 1) => void} onPoint
 * @property {(box: Box) => void} onBox
 * @property {(at: Position | null, label: 0 | 1) => void} onHover
 * @property {(x: number, y: number) => void} onCross the keyboard's crosshair moved
 */

/** Movement up to this is still a click, CSS pixels. */
const SLACK = { mouse: 4, pen: 6, touch: 10 };

export class Pointing {
  /** @type {Position & {id: number, clientX: number, clientY: number, moved: boolean} | null} */
  #down = null;
  /** @type {Set<number>} */
  #touching = new Set();
  /** First corner of a box drawn by keys. @type {Position | null} */
  #corner = null;

  /**
   * @param {import("./stage.js").Stage} stage
   * @param {Handlers} handlers
   */
  constructor(stage, handlers) {
    this.stage = stage;
    this.handlers = handlers;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event));
    canvas.addEventListener("pointercancel", (event) => this.#drop(event));
    canvas.addEventListener("pointerleave", () => handlers.onHover(null, 1));
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
      // Two fingers zoom the page.
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
      if (event.pointerType !== "touch") this.handlers.onHover(this.#pixel(this.#at(event)), this.#label(event));
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
      const { x, y } = this.#pixel(down);
      this.handlers.onPoint(x, y, this.#label(event));
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
    const step = Math.ceil((Math.max(width, height) / 1000) * (event.shiftKey ? 50 : 8));
    const at = stage.cross ?? this.#pixel({ x: width / 2, y: height / 2 });
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const move = moves[/** @type {keyof typeof moves} */ (event.key)];
    if (move) {
      stage.cross = this.#pixel({ x: at.x + move[0] * step, y: at.y + move[1] * step });
      if (this.#corner) this.#draft(this.#corner, centre(stage.cross));
      this.handlers.onCross(stage.cross.x, stage.cross.y);
    } else if (event.key === "Enter" || event.key === " ") {
      stage.cross = at;
      this.handlers.onPoint(at.x, at.y, this.#label(event));
    } else if (event.key.toLowerCase() === "b") {
      stage.cross = at;
      if (this.#corner) this.#finish(this.#corner, centre(at));
      this.#corner = this.#corner ? null : centre(at);
    } else if (event.key === "Escape") {
      this.#corner = null;
      this.#down = null;
      this.#draft(null);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    stage.redraw();
  }

  /** @param {Position} from @param {Position} to */
  #finish(from, to) {
    this.#draft(null);
    const box = boxOf(from, to);
    // A box without area is a slip of the hand.
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.handlers.onBox(box);
  }

  /** @param {Position | null} from @param {Position} [to] */
  #draft(from, to) {
    this.stage.draft = from && to ? boxOf(from, to) : null;
    this.stage.redraw();
  }

  /** @param {PointerEvent | KeyboardEvent} event @returns {0 | 1} */
  #label(event) {
    const { label } = this.handlers;
    const other = event.altKey || event.shiftKey || ("button" in event && event.button === 2);
    return other ? 0 : label();
  }

  /** Return the pixel under a position. @param {Position} position @returns {Position} */
  #pixel({ x, y }) {
    const { width, height } = this.stage.size;
    const inside = (/** @type {number} */ value, /** @type {number} */ length) =>
      Math.max(0, Math.min(Math.floor(value), length - 1));
    return { x: inside(x, width), y: inside(y, height) };
  }

  /** Return the position of an event, inside the image. @param {PointerEvent} event @returns {Position} */
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

/** Return the position of a pixel's centre. @param {Position} pixel @returns {Position} */
const centre = ({ x, y }) => ({ x: x + 0.5, y: y + 0.5 });

/** @param {Position} from @param {Position} to @returns {Box} */
function boxOf(from, to) {
  return [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(from.x, to.x), Math.max(from.y, to.y)];
}
