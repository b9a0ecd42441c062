// What is going on: the server, the image, the save state, and errors.

import { CallError } from "../work/api.js";
import { isEmpty } from "../mask/draw.js";
import { hasPrompts, isBlank } from "../model/item.js";
import { button, element, write } from "./dom.js";
import { summary } from "./objects.js";

/** @typedef {import("../work/project.js").Project} Project @typedef {import("../work/work.js").Work} Work */

/** @param {number} ms */
const time = (ms) => (ms < 995 ? `${Math.max(1, Math.round(ms))} ms` : `${(ms / 1000).toFixed(2)} s`);

export class Status {
  /** A message instead of the usual one, until something changes. */
  #note = "";
  /** @type {unknown} */
  #noted = null;

  /** @param {Project} project */
  constructor(project) {
    this.project = project;
    element("error-close").addEventListener("click", () => this.hideError());
    element("retry").addEventListener("click", () => {
      this.hideError();
      project.current?.retry(true);
    });
    project.addEventListener("failed", (event) => this.showError(/** @type {CustomEvent} */ (event).detail));
    for (const name of ["recovered", "masked", "opened"]) project.addEventListener(name, () => this.hideError());
  }

  update() {
    const { current: work, server } = this.project;
    const phase = work?.phase ?? "empty";
    const { history } = work ?? {};
    button("undo").disabled = !history?.canUndo;
    button("redo").disabled = !history?.canRedo;
    button("clear").disabled = !history || isBlank(history.selected);
    button("new").disabled = !history || isBlank(history.selected);
    button("save").disabled = !this.project.entries.length;
    element("encoding").hidden = phase !== "encoding" && phase !== "loading";
    element("stage").dataset.state = work ? "ready" : "empty";
    element("empty").hidden = work !== null || this.project.entries.length > 0;
    const state = server === null ? "unknown" : server.ready ? "ready" : "gone";
    element("server").dataset.state = state;
    write("server-text", server === null ? "Connecting…" : server.ready ? [server.model, server.url].filter(Boolean).join(" · ") : `No answer${server.url && ` from ${server.url}`}`);
    const { openedMs = null, clickMs = null, image = null } = work ?? {};
    write("time-encode", openedMs === null || !image ? "–" : image.known ? `already encoded, ${time(openedMs)}` : `encoded in ${time(openedMs)}`);
    write("time-click", clickMs === null ? "–" : time(clickMs));
    write("iou", history?.selected.mask ? history.selected.mask.iou.toFixed(2) : "–");
    write("saved", this.#saved());
    write("state", this.#state());
  }

  /** @param {string} text shown until the objects change */
  note(text) {
    this.#note = text;
    this.#noted = this.project.current?.history.state ?? null;
    this.update();
  }

  #saved() {
    const { current } = this.project;
    if (!current) return "–";
    if (current.unsaved) return "not saved";
    return this.project.isDirty ? "saving…" : this.project.store.folder ? "saved beside the image" : "saved in this browser";
  }

  #state() {
    const { current: work } = this.project;
    if (!work) return this.#note || "No image yet.";
    const { history, phase, size } = work;
    if (this.#note && this.#noted === history.state) return this.#note;
    if (phase === "new" || phase === "loading") return "Loading…";
    if (phase === "encoding") return "The image is being encoded. You can already click.";
    if (phase === "failed" || !size) return "The image could not be encoded.";
    if (work.isBusy) return "Segmenting…";
    const item = history.selected;
    const name = `${work.entry.name}, ${size.width} × ${size.height}`;
    if (isBlank(item)) return `${name}. Click on an object, or drag a box around it.`;
    if (hasPrompts(item) && isNothing(item.mask, size)) return `Object ${item.id}: nothing found there. Undo or click elsewhere.`;
    return `${name}. Object ${item.id}: ${summary(item)}.`;
  }

  /** Show an error below the image. @param {unknown} error */
  showError(error) {
    const known = error instanceof CallError;
    const message = known ? (MESSAGES[error.code] ?? error.message) : `Something failed in this page: ${/** @type {Error} */ (error)?.message}. Reload it.`;
    write("error-text", message);
    if (known && message !== error.message) element("error-text").title = error.message;
    else element("error-text").removeAttribute("title");
    element("retry").hidden = !known || error.temporary || FINAL.has(error.code);
    element("error").hidden = false;
  }

  hideError() {
    const { current } = this.project;
    // Work that is not saved stays told.
    if (current?.unsaved) this.showError(current.unsaved);
    else element("error").hidden = true;
  }
}

/** @type {Record<string, string>} */
const MESSAGES = {
  unavailable: "The HQ-SAM server does not answer. Is it running? This page continues when the server is back.",
  timeout: "The HQ-SAM server takes too long. This page tries again when the server answers.",
};

/** @param {import("../model/item.js").Mask | null} mask @param {{width: number, height: number}} size */
const isNothing = (mask, size) => mask !== null && (mask.logits ? isEmpty(mask.logits, size) : !mask.shape);

/** Codes of errors that a retry does not help. */
const FINAL = new Set(["image", "refused", "too-large", "file"]);
