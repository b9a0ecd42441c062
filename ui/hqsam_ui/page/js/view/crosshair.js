// The keyboard on the image: a crosshair that makes points, boxes and strokes.

import { boxOf, pixelAt } from "./pointing.js";

/** @typedef {import("./pointing.js").Handlers} Handlers @typedef {import("./pointing.js").Position} Position */

const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Crosshair {
  /** First corner of a box. @type {Position | null} */
  #corner = null;

  /** @param {import("./stage.js").Stage} stage @param {import("./pointing.js").Pointing} pointing */
  constructor(stage, pointing) {
    this.stage = stage;
    this.pointing = pointing;
    const { canvas } = stage;
    canvas.addEventListener("keydown", (event) => this.#key(event));
    canvas.addEventListener("focus", () => {
      if (canvas.matches(":focus-visible")) stage.cross ??= pixelAt(stage.size, stage.size.width / 2, stage.size.height / 2);
      stage.redraw();
    });
    canvas.addEventListener("blur", () => {
      this.#corner = null;
      stage.draft = null;
      stage.redraw();
    });
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { stage, pointing } = this;
    const { width, height } = stage.size;
    const at = stage.cross ?? pixelAt(stage.size, width / 2, height / 2);
    const move = MOVES[/** @type {keyof typeof MOVES} */ (event.key)];
    if (move) {
      // A step is as large on the screen at any zoom; the smallest is a pixel.
      const step = Math.max(1, Math.round((event.shiftKey ? 50 : 6) / stage.view.scale));
      stage.cross = pixelAt(stage.size, at.x + move[0] * step, at.y + move[1] * step);
      if (this.#corner) stage.draft = boxOf(this.#corner, centre(stage.cross));
      stage.view.reveal(stage.cross);
      pointing.handlers.onHover(stage.cross, pointing.handlers.label());
    } else if (event.key === "Enter") {
      // The first time, it only shows where the crosshair is.
      if (stage.cross) this.#act(at, event);
      stage.cross = at;
    } else if (event.key.toLowerCase() === "b") {
      stage.cross = at;
      this.#box(at);
    } else if (event.key === "Escape") {
      this.#corner = null;
      pointing.cancel();
    } else return;
    event.preventDefault();
    event.stopPropagation();
    stage.redraw();
  }

  /** Add a point, take the one there away, or touch with the brush. @param {Position} at @param {KeyboardEvent} event */
  #act(at, event) {
    const { handlers } = this.pointing;
    const label = this.pointing.label(event);
    if (handlers.tool() !== "click") {
      const { x, y } = centre(at);
      handlers.onStroke({ track: [[x, y]], radius: handlers.radius(), value: handlers.tool() === "eraser" || !label ? 0 : 1 });
      return;
    }
    const index = handlers.selected()?.points.findIndex(({ x, y }) => x === at.x && y === at.y) ?? -1;
    if (index >= 0) handlers.onPointChange(index, null);
    else handlers.onPoint(at.x, at.y, label);
  }

  /** @param {Position} at */
  #box(at) {
    const { stage } = this;
    const corner = this.#corner;
    this.#corner = corner ? null : centre(at);
    stage.draft = null;
    if (!corner) return;
    const box = boxOf(corner, centre(at));
    if (box[2] - box[0] >= 1 && box[3] - box[1] >= 1) this.pointing.handlers.onBox(box);
  }
}

/** Return the position of a pixel's centre. @param {Position} pixel @returns {Position} */
const centre = ({ x, y }) => ({ x: x + 0.5, y: y + 0.5 });
