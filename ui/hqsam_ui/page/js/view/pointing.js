// Turns mouse, pen and touch on the image into points, boxes and strokes, or moves of the view.
//
// A position is measured from the image's top left corner, in original pixels. A point is the
// pixel under a position, (column, row): integers. A box is made of positions.

import { handles } from "./marks.js";

/** @typedef {import("../model/item.js").Box} Box @typedef {import("../model/item.js").Item} Item */
/** @typedef {{x: number, y: number}} Position @typedef {"click" | "brush" | "eraser"} Tool */
/**
 * @typedef {object} Handlers Points are pixels.
 * @property {() => 0 | 1} label of a plain click
 * @property {() => Tool} tool
 * @property {() => number} radius of the brush, original pixels
 * @property {() => Item | null} selected
 * @property {(x: number, y: number, label: 0 | 1) => void} onPoint
 * @property {(index: number, pixel: Position | null) => void} onPointChange moved, or null: taken away
 * @property {(box: Box) => void} onBox a new one
 * @property {(box: Box) => void} onBoxChange
 * @property {(stroke: import("../model/brush.js").Stroke) => void} onStroke
 * @property {(at: Position | null, label: 0 | 1) => void} onHover
 *
 * @typedef {{kind: "none"} | {kind: "pan"} | {kind: "point", index: number} | {kind: "box", moves: number[]} | {kind: "stroke"}} Grip
 * @typedef {Position & {id: number, clientX: number, clientY: number, moved: boolean, grip: Grip}} Down
 */

/** Movement up to this is still a click, CSS pixels. */
const SLACK = { mouse: 4, pen: 6, touch: 10 };

/** How near a point or a handle is to be held, CSS pixels. */
const REACH = { mouse: 8, pen: 10, touch: 18 };

export class Pointing {
  /** @type {Down | null} */
  #down = null;
  /** @type {Map<number, Position>} */
  #touching = new Map();
  #space = false;

  /** @param {import("./stage.js").Stage} stage @param {Handlers} handlers */
  constructor(stage, handlers) {
    this.stage = stage;
    this.handlers = handlers;
    const { canvas } = stage;
    canvas.addEventListener("pointerdown", (event) => this.#start(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#end(event));
    canvas.addEventListener("pointercancel", (event) => this.#drop(event));
    canvas.addEventListener("pointerleave", () => this.#hover(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    // With the space bar held, a drag moves the view.
    window.addEventListener("keydown", (event) => {
      if (event.code !== "Space" || (event.target !== document.body && event.target !== canvas)) return;
      event.preventDefault();
      this.#space = true;
    });
    window.addEventListener("keyup", (event) => (this.#space = this.#space && event.code !== "Space"));
  }

  /** Give up what is being dragged. */
  cancel() {
    this.#down = null;
    Object.assign(this.stage, { draft: null, dragged: null, stroke: null });
    this.stage.redraw();
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    const lines = event.deltaMode ? 16 : 1;
    if (event.shiftKey) return this.stage.view.pan(-(event.deltaX || event.deltaY) * lines, 0);
    // A pinch on a touchpad arrives with the control key, and in small steps.
    this.stage.view.zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.0016)), this.#onStage(event));
  }

  /** @param {PointerEvent} event */
  #start(event) {
    this.#touching.set(event.pointerId, this.#onStage(event));
    if (this.#touching.size > 1) return this.cancel();
    if (event.button > 2) return;
    const { stage } = this;
    stage.cross = null;
    stage.canvas.setPointerCapture(event.pointerId);
    const at = this.#at(event);
    const grip = this.#grip(event);
    const outside = grip.kind !== "pan" && this.#distance(event) > REACH[kind(event)];
    if (outside) return;
    const { clientX, clientY } = event;
    this.#down = { id: event.pointerId, ...at, clientX, clientY, moved: false, grip };
    if (grip.kind === "stroke") this.#brush(event);
  }

  /** @param {PointerEvent} event @returns {Grip} */
  #grip(event) {
    const { handlers, stage } = this;
    if (event.button === 1 || this.#space) return { kind: "pan" };
    if (handlers.tool() !== "click") return { kind: "stroke" };
    const item = handlers.selected();
    if (!item || event.button || item.hidden) return { kind: "none" };
    const at = this.#onStage(event);
    const near = (/** @type {Position} */ place) => Math.hypot(place.x - at.x, place.y - at.y) <= REACH[kind(event)];
    const index = item.points.findLastIndex(({ x, y }) => near(stage.view.toStage(x + 0.5, y + 0.5)));
    if (index >= 0) return { kind: "point", index };
    const handle = item.box && handles(stage.view, item.box).find(near);
    return handle ? { kind: "box", moves: handle.moves } : { kind: "none" };
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const down = this.#down;
    if (this.#touching.size > 1) return this.#pinch(event);
    if (!down) return this.#hover(event);
    if (event.pointerId !== down.id) return;
    const far = Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) > SLACK[kind(event)];
    down.moved = down.moved || far;
    if (down.grip.kind === "stroke") return this.#brush(event);
    if (!down.moved) return;
    this.#drag(down, event);
  }

  /** @param {Down} down @param {PointerEvent} event */
  #drag(down, event) {
    const { stage, handlers } = this;
    const item = handlers.selected();
    const { grip } = down;
    if (grip.kind === "pan") {
      stage.view.pan(event.movementX, event.movementY);
    } else if (grip.kind === "point" && item) {
      const pixel = this.#pixel(this.#at(event));
      stage.dragged = { ...item, points: item.points.map((point, i) => (i === grip.index ? { ...point, ...pixel } : point)) };
    } else if (grip.kind === "box" && item?.box) {
      stage.dragged = { ...item, box: moved(item.box, grip.moves, this.#at(event)) };
    } else {
      stage.draft = boxOf(down, this.#at(event));
    }
    stage.redraw();
  }

  /** @param {PointerEvent} event */
  #end(event) {
    this.#touching.delete(event.pointerId);
    const down = this.#down;
    if (!down || event.pointerId !== down.id) return;
    const { stage, handlers } = this;
    const { draft, dragged, stroke } = stage;
    this.cancel();
    const { grip } = down;
    if (grip.kind === "stroke") {
      if (stroke) handlers.onStroke(stroke);
    } else if (grip.kind === "point") {
      const point = dragged?.points[grip.index];
      handlers.onPointChange(grip.index, down.moved && point ? { x: point.x, y: point.y } : null);
    } else if (grip.kind === "box" && down.moved) {
      if (dragged?.box) handlers.onBoxChange(ordered(dragged.box));
    } else if (grip.kind !== "pan" && !down.moved) {
      const { x, y } = this.#pixel(down);
      handlers.onPoint(x, y, this.label(event));
    } else if (draft && draft[2] - draft[0] >= 1 && draft[3] - draft[1] >= 1) {
      // A box without area is a slip of the hand.
      handlers.onBox(draft);
    }
  }

  /** @param {PointerEvent} event */
  #drop(event) {
    this.#touching.delete(event.pointerId);
    this.cancel();
  }

  /** Two fingers zoom and move the view. @param {PointerEvent} event */
  #pinch(event) {
    const before = [...this.#touching.values()];
    this.#touching.set(event.pointerId, this.#onStage(event));
    const [a, b] = [...this.#touching.values()];
    const middle = { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 };
    const spread = Math.hypot(a.x - b.x, a.y - b.y);
    const spreadBefore = Math.hypot(before[0].x - before[1].x, before[0].y - before[1].y);
    const { view } = this.stage;
    if (spreadBefore > 0) view.zoom(spread / spreadBefore, middle);
    view.pan(middle.x - (before[0].x + before[1].x) / 2, middle.y - (before[0].y + before[1].y) / 2);
  }

  /** @param {PointerEvent} event */
  #brush(event) {
    const { stage, handlers } = this;
    const events = event.getCoalescedEvents?.() ?? [];
    const track = /** @type {[number, number][]} */ ((events.length ? events : [event]).map((each) => {
      const { x, y } = this.#at(each);
      return [x, y];
    }));
    const erases = handlers.tool() === "eraser" || this.label(event) === 0;
    stage.stroke ??= { track: [], radius: handlers.radius(), value: erases ? 0 : 1 };
    stage.stroke.track.push(...track);
    this.#hover(event);
  }

  /** @param {PointerEvent | null} event */
  #hover(event) {
    const { stage, handlers } = this;
    const clicks = handlers.tool() === "click";
    const inside = event !== null && this.#distance(event) === 0;
    const grip = event && clicks && !this.#down ? this.#grip(event).kind : "none";
    stage.canvas.dataset.grip = grip;
    if (event?.pointerType === "touch") return;
    stage.brush = inside && !clicks ? { ...this.#at(event), radius: handlers.radius() } : null;
    if (!clicks) stage.redraw();
    handlers.onHover(inside && clicks && grip === "none" ? this.#pixel(this.#at(event)) : null, event ? this.label(event) : 1);
  }

  /** @param {PointerEvent | KeyboardEvent} event @returns {0 | 1} */
  label(event) {
    const other = event.altKey || event.shiftKey || ("button" in event && (event.button === 2 || (event.buttons & 2) !== 0));
    return other ? 0 : this.handlers.label();
  }

  /** Return the pixel under a position. @param {Position} position @returns {Position} */
  #pixel({ x, y }) {
    return pixelAt(this.stage.size, x, y);
  }

  /** @param {MouseEvent} event @returns {Position} */
  #onStage(event) {
    const bounds = this.stage.canvas.getBoundingClientRect();
    return { x: event.clientX - bounds.left, y: event.clientY - bounds.top };
  }

  /** Return the position of an event, inside the image. @param {MouseEvent} event @returns {Position} */
  #at(event) {
    const { width, height } = this.stage.size;
    const at = this.#onStage(event);
    const { x, y } = this.stage.view.toImage(at.x, at.y);
    return { x: Math.max(0, Math.min(x, width)), y: Math.max(0, Math.min(y, height)) };
  }

  /** Return how far an event is from the image, CSS pixels. @param {MouseEvent} event */
  #distance(event) {
    const at = this.#onStage(event);
    const { x, y } = this.#at(event);
    const nearest = this.stage.view.toStage(x, y);
    // Positions are not exact after two conversions.
    const distance = Math.hypot(at.x - nearest.x, at.y - nearest.y);
    return distance < 0.01 ? 0 : distance;
  }
}

/** @param {PointerEvent} event @returns {keyof typeof SLACK} */
const kind = ({ pointerType }) => (pointerType === "touch" || pointerType === "pen" ? pointerType : "mouse");

/** Return the pixel at a position, or the nearest. @param {{width: number, height: number}} size @param {number} x @param {number} y @returns {Position} */
export function pixelAt({ width, height }, x, y) {
  const inside = (/** @type {number} */ value, /** @type {number} */ length) => Math.max(0, Math.min(Math.floor(value), length - 1));
  return { x: inside(x, width), y: inside(y, height) };
}

/** @param {Position} from @param {Position} to @returns {Box} */
export function boxOf(from, to) {
  return ordered([from.x, from.y, to.x, to.y]);
}

/** @param {Box} box @returns {Box} */
const ordered = ([x0, y0, x1, y1]) => [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];

/** @param {Box} box @param {number[]} moves @param {Position} to @returns {Box} */
function moved(box, moves, to) {
  const changed = /** @type {Box} */ ([...box]);
  for (const part of moves) changed[part] = part % 2 ? to.y : to.x;
  const [x0, y0, x1, y1] = ordered(changed);
  return x1 - x0 >= 1 && y1 - y0 >= 1 ? changed : box;
}
