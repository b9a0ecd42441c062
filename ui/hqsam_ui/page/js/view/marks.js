// Prompts, crosshair and other marks, drawn in CSS pixels: the same size at any zoom.

/** @typedef {import("../model/item.js").Item} Item @typedef {import("../model/item.js").Box} Box */
/** @typedef {import("./viewport.js").Viewport} Viewport */

/** Blue and vermilion: told apart by colour-blind people, and by their signs. */
const GOOD = "#0072b2";
const BAD = "#c2410c";

/** @param {CanvasRenderingContext2D} context @param {Viewport} view @param {Item} item @param {string} color @param {boolean} selected */
export function paintPrompts(context, view, item, color, selected) {
  context.globalAlpha = selected ? 1 : 0.55;
  if (item.box) {
    paintBox(context, view, item.box, color);
    if (selected) for (const { x, y } of handles(view, item.box)) paintHandle(context, x, y, color);
  }
  for (const { x, y, label } of item.points) {
    const at = view.toStage(x + 0.5, y + 0.5);
    context.beginPath();
    context.arc(at.x, at.y, selected ? 8 : 5, 0, 2 * Math.PI);
    context.fillStyle = label ? GOOD : BAD;
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.fill();
    context.stroke();
    if (!selected) continue;
    context.beginPath();
    context.moveTo(at.x - 4, at.y);
    context.lineTo(at.x + 4, at.y);
    if (label) {
      context.moveTo(at.x, at.y - 4);
      context.lineTo(at.x, at.y + 4);
    }
    context.stroke();
  }
  context.globalAlpha = 1;
}

/**
 * Return the corners and the middles of the sides of a box on the stage, and which of its four
 * numbers each one moves.
 *
 * @param {Viewport} view @param {Box} box
 */
export function handles(view, [x0, y0, x1, y1]) {
  const [mx, my] = [(x0 + x1) / 2, (y0 + y1) / 2];
  const places = /** @type {[number, number, number[]][]} */ ([
    [x0, y0, [0, 1]], [x1, y0, [2, 1]], [x0, y1, [0, 3]], [x1, y1, [2, 3]],
    [mx, y0, [1]], [mx, y1, [3]], [x0, my, [0]], [x1, my, [2]],
  ]);
  return places.map(([x, y, moves]) => ({ ...view.toStage(x, y), moves }));
}

/** @param {CanvasRenderingContext2D} context @param {number} x @param {number} y @param {string} color */
function paintHandle(context, x, y, color) {
  context.fillStyle = "#fff";
  context.strokeStyle = color;
  context.lineWidth = 2;
  context.fillRect(x - 4, y - 4, 8, 8);
  context.strokeRect(x - 4, y - 4, 8, 8);
}

/** @param {CanvasRenderingContext2D} context @param {Viewport} view @param {Box} box @param {string} color @param {number[]} [dash] */
export function paintBox(context, view, [x0, y0, x1, y1], color, dash = []) {
  const from = view.toStage(x0, y0);
  const to = view.toStage(x1, y1);
  for (const [style, line] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 0.55)", 4], [color, 2]])) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.setLineDash(style === color ? dash : []);
    context.strokeRect(from.x, from.y, to.x - from.x, to.y - from.y);
  }
  context.setLineDash([]);
}

/** @param {CanvasRenderingContext2D} context @param {Viewport} view @param {{x: number, y: number}} cross */
export function paintCross(context, view, cross) {
  const at = view.toStage(cross.x + 0.5, cross.y + 0.5);
  for (const [style, line] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 0.7)", 4], ["#fff", 2]])) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(at.x + 5 * dx, at.y + 5 * dy);
      context.lineTo(at.x + 16 * dx, at.y + 16 * dy);
    }
    context.stroke();
  }
}

/** Paint the stroke of a brush. @param {CanvasRenderingContext2D} context @param {Viewport} view @param {import("../model/brush.js").Stroke} stroke @param {string} color */
export function paintStroke(context, view, { track, radius, value }, color) {
  context.globalAlpha = 0.6;
  context.strokeStyle = value ? color : "#fff";
  context.lineWidth = 2 * radius * view.scale;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  track.forEach(([x, y], i) => {
    const at = view.toStage(x, y);
    if (!i) context.moveTo(at.x, at.y);
    context.lineTo(at.x, at.y);
  });
  context.stroke();
  context.globalAlpha = 1;
  context.lineCap = "butt";
  context.lineJoin = "miter";
}

/** @param {CanvasRenderingContext2D} context @param {{x: number, y: number}} at on the stage @param {number} radius CSS pixels */
export function paintRing(context, { x, y }, radius) {
  for (const [style, line] of /** @type {[string, number][]} */ ([["rgb(0 0 0 / 0.7)", 3], ["#fff", 1.5]])) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.beginPath();
    context.arc(x, y, Math.max(1, radius), 0, 2 * Math.PI);
    context.stroke();
  }
}
