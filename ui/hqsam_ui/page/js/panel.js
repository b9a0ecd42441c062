// What stands around the picture: objects, buttons, times, messages.

import { CallError } from "./api.js";
import { isEmpty } from "./mask.js";
import { colorOf, isAsked } from "./state.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./state.js").Thing} Thing */

/** @param {string} id */
export const element = (id) => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found;
};

/** @param {string} id */
const button = (id) => /** @type {HTMLButtonElement} */ (element(id));

/** @param {string} id @param {string} text */
function write(id, text) {
  const target = element(id);
  // Written anew, the same text would be read out again.
  if (target.textContent !== text) target.textContent = text;
}

/** @param {number} ms */
const time = (ms) => (ms < 995 ? `${Math.max(1, Math.round(ms))} ms` : `${(ms / 1000).toFixed(2)} s`);

export class Panel {
  #rows = "";

  /** @param {Session} session */
  constructor(session) {
    this.session = session;
    session.addEventListener("change", () => this.update());
    session.addEventListener("failed", (event) => this.complain(/** @type {CustomEvent} */ (event).detail));
    session.addEventListener("recovered", () => this.calm());
    session.addEventListener("masked", () => this.calm());
    element("error-close").addEventListener("click", () => this.calm());
    element("retry").addEventListener("click", () => {
      this.calm();
      session.retry();
    });
    this.update();
  }

  update() {
    const { session } = this;
    const { history, phase, server } = session;
    const { things } = history.state;
    const done = things.filter((thing) => thing.mask);
    button("undo").disabled = !history.canUndo;
    button("redo").disabled = !history.canRedo;
    button("clear").disabled = !isAsked(history.selected);
    button("new").disabled = !isAsked(history.selected);
    button("save-mask").disabled = !session.picture || !history.selected.mask;
    button("save-overlay").disabled = button("save-coco").disabled = !session.picture || !done.length;
    element("encoding").hidden = phase !== "encoding";
    element("stage").dataset.state = phase === "empty" ? "empty" : "ready";
    element("empty").hidden = phase !== "empty";
    const state = server === null ? "unknown" : server.ready ? "ready" : "gone";
    element("server").dataset.state = state;
    write("server-text", server === null ? "Connecting…" : server.ready ? server.url : `No answer${server.url && ` from ${server.url}`}`);
    write("time-encode", this.#opened());
    write("time-click", session.clickMs === null ? "–" : time(session.clickMs));
    write("iou", history.selected.mask ? history.selected.mask.iou.toFixed(2) : "–");
    write("state", this.#state());
    this.#list();
  }

  #opened() {
    const { openedMs, picture } = this.session;
    if (openedMs === null || !picture) return "–";
    return picture.known ? `known already, ${time(openedMs)}` : `encoded in ${time(openedMs)}`;
  }

  #state() {
    const { session } = this;
    const { history, phase, picture, file } = session;
    if (phase === "empty") return "No picture yet.";
    if (phase === "encoding") return "The picture is being encoded. You can click already.";
    if (phase === "failed" || !picture) return "The picture was not encoded.";
    if (session.isBusy) return "Segmenting…";
    const thing = history.selected;
    const name = `${file?.name ?? "The picture"}, ${picture.width} × ${picture.height}`;
    if (!isAsked(thing)) return `${name}. Click on an object, or drag a box around it.`;
    if (thing.mask && isEmpty(thing.mask.logits, picture)) return `Object ${thing.id}: nothing found there. Undo, or click elsewhere.`;
    return `${name}. Object ${thing.id}: ${prompts(thing)}.`;
  }

  #list() {
    const { history } = this.session;
    const { things, selected } = history.state;
    const rows = JSON.stringify([things.map((thing) => [thing.id, prompts(thing)]), selected]);
    if (rows === this.#rows) return;
    this.#rows = rows;
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.key : undefined;
    element("objects").replaceChildren(...things.map((thing) => this.#row(thing, thing.id === selected)));
    if (!focused) return;
    const again = document.querySelector(`[data-key="${focused}"]`) ?? document.querySelector(".pick[aria-current=true]");
    if (again instanceof HTMLElement) again.focus();
  }

  /** @param {Thing} thing @param {boolean} selected */
  #row(thing, selected) {
    const { history } = this.session;
    const row = document.createElement("li");
    const pick = document.createElement("button");
    pick.type = "button";
    pick.className = "pick";
    pick.dataset.key = `pick-${thing.id}`;
    pick.setAttribute("aria-current", String(selected));
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${colorOf(thing).join(" ")})`;
    const count = document.createElement("small");
    count.textContent = prompts(thing);
    pick.append(swatch, `Object ${thing.id}`, count);
    pick.addEventListener("click", () => history.select(thing.id));
    pick.addEventListener("keydown", (event) => {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      history.selectBy(step);
      const current = document.querySelector(".pick[aria-current=true]");
      if (current instanceof HTMLElement) current.focus();
    });
    const remove = document.createElement("button");
    remove.type = "button";
    remove.className = "delete quiet";
    remove.dataset.key = `delete-${thing.id}`;
    remove.textContent = "✕";
    remove.setAttribute("aria-label", `Delete object ${thing.id}`);
    remove.addEventListener("click", () => history.remove(thing.id));
    row.append(pick, remove);
    return row;
  }

  /** Say what went wrong, below the picture. @param {unknown} error */
  complain(error) {
    const known = error instanceof CallError;
    const waits = known && error.passing;
    const message = known ? MESSAGES[error.code] ?? error.message : "Something went wrong in this page. Reload it.";
    write("error-text", message);
    if (known && message !== error.message) element("error-text").title = error.message;
    else element("error-text").removeAttribute("title");
    element("retry").hidden = !known || waits || FINAL.has(error.code);
    element("error").hidden = false;
  }

  calm() {
    element("error").hidden = true;
  }
}

/** @type {Record<string, string>} */
const MESSAGES = {
  unavailable: "The HQ-SAM server does not answer. Is it running? This page goes on by itself when it is back.",
  timeout: "The HQ-SAM server takes too long. This page tries again when it answers.",
};

/** What trying again does not mend. */
const FINAL = new Set(["picture", "refused", "too-large", "file"]);

/** @param {Thing} thing */
function prompts({ points, box }) {
  const parts = [];
  if (box) parts.push("box");
  if (points.length) parts.push(`${points.length} point${points.length > 1 ? "s" : ""}`);
  return parts.join(", ") || "empty";
}
