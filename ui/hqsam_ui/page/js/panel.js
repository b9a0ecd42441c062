// The panel around the image: objects, buttons, times and messages.

import { CallError } from "./api.js";
import { isEmpty } from "./mask.js";
import { colorOf, hasPrompts } from "./state.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./state.js").Item} Item */

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
  // Screen readers would read an unchanged text again.
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
    session.addEventListener("failed", (event) => this.showError(/** @type {CustomEvent} */ (event).detail));
    session.addEventListener("recovered", () => this.hideError());
    session.addEventListener("masked", () => this.hideError());
    element("error-close").addEventListener("click", () => this.hideError());
    element("retry").addEventListener("click", () => {
      this.hideError();
      session.retry();
    });
    this.update();
  }

  update() {
    const { session } = this;
    const { history, phase, server } = session;
    const { items } = history.state;
    const done = items.filter((item) => item.mask);
    button("undo").disabled = !history.canUndo;
    button("redo").disabled = !history.canRedo;
    button("clear").disabled = !hasPrompts(history.selected);
    button("new").disabled = !hasPrompts(history.selected);
    button("save-mask").disabled = !session.image || !history.selected.mask;
    button("save-overlay").disabled = button("save-coco").disabled = !session.image || !done.length;
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
    const { openedMs, image } = this.session;
    if (openedMs === null || !image) return "–";
    return image.known ? `already encoded, ${time(openedMs)}` : `encoded in ${time(openedMs)}`;
  }

  #state() {
    const { session } = this;
    const { history, phase, image, file } = session;
    if (phase === "empty") return "No image yet.";
    if (phase === "encoding") return "The image is being encoded. You can already click.";
    if (phase === "failed" || !image) return "The image could not be encoded.";
    if (session.isBusy) return "Segmenting…";
    const item = history.selected;
    const name = `${file?.name ?? "The image"}, ${image.width} × ${image.height}`;
    if (!hasPrompts(item)) return `${name}. Click on an object, or drag a box around it.`;
    if (item.mask && isEmpty(item.mask.logits, image)) return `Object ${item.id}: nothing found there. Undo or click elsewhere.`;
    return `${name}. Object ${item.id}: ${prompts(item)}.`;
  }

  #list() {
    const { history } = this.session;
    const { items, selected } = history.state;
    const rows = JSON.stringify([items.map((item) => [item.id, prompts(item)]), selected]);
    if (rows === this.#rows) return;
    this.#rows = rows;
    const focused = document.activeElement instanceof HTMLElement ? document.activeElement.dataset.key : undefined;
    element("objects").replaceChildren(...items.map((item) => this.#row(item, item.id === selected)));
    if (!focused) return;
    const again = document.querySelector(`[data-key="${focused}"]`) ?? document.querySelector(".pick[aria-current=true]");
    if (again instanceof HTMLElement) again.focus();
  }

  /** @param {Item} item @param {boolean} selected */
  #row(item, selected) {
    const { history } = this.session;
    const row = document.createElement("li");
    const pick = document.createElement("button");
    pick.type = "button";
    pick.className = "pick";
    pick.dataset.key = `pick-${item.id}`;
    pick.setAttribute("aria-current", String(selected));
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.backgroundColor = `rgb(${colorOf(item).join(" ")})`;
    const count = document.createElement("small");
    count.textContent = prompts(item);
    pick.append(swatch, `Object ${item.id}`, count);
    pick.addEventListener("click", () => history.select(item.id));
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
    remove.dataset.key = `delete-${item.id}`;
    remove.textContent = "✕";
    remove.setAttribute("aria-label", `Delete object ${item.id}`);
    remove.addEventListener("click", () => history.remove(item.id));
    row.append(pick, remove);
    return row;
  }

  /** Show an error below the image. @param {unknown} error */
  showError(error) {
    const known = error instanceof CallError;
    const temporary = known && error.temporary;
    const message = known ? MESSAGES[error.code] ?? error.message : "Something failed in this page. Reload it.";
    write("error-text", message);
    if (known && message !== error.message) element("error-text").title = error.message;
    else element("error-text").removeAttribute("title");
    element("retry").hidden = !known || temporary || FINAL.has(error.code);
    element("error").hidden = false;
  }

  hideError() {
    element("error").hidden = true;
  }
}

/** @type {Record<string, string>} */
const MESSAGES = {
  unavailable: "The HQ-SAM server does not answer. Is it running? This page continues when the server is back.",
  timeout: "The HQ-SAM server takes too long. This page tries again when the server answers.",
};

/** Codes of errors that a retry does not help. */
const FINAL = new Set(["image", "refused", "too-large", "file"]);

/** @param {Item} item */
function prompts({ points, box }) {
  const parts = [];
  if (box) parts.push("box");
  if (points.length) parts.push(`${points.length} point${points.length > 1 ? "s" : ""}`);
  return parts.join(", ") || "empty";
}
