// The list of objects, and what belongs to the selected one: name, class, prompts.

import { isBlank, titleOf } from "../model/item.js";
import { button, element, input, make, renew, select, swatch } from "./dom.js";

/** @typedef {import("../work/project.js").Project} Project @typedef {import("../model/item.js").Item} Item */

export class ObjectsPanel {
  /** What choosing an object does instead of selecting it. @type {((id: number) => void) | null} */
  onPick = null;
  /** The object that the list was scrolled to. */
  #shown = 0;

  /** @param {Project} project */
  constructor(project) {
    this.project = project;
    input("name").addEventListener("change", () => this.history?.rename(input("name").value.trim()));
    input("name").addEventListener("keydown", (event) => event.key === "Enter" && input("name").blur());
    select("class").addEventListener("change", () => {
      const { value } = select("class");
      this.history?.setClass(value ? Number(value) : null);
    });
  }

  get history() {
    return this.project.current?.history;
  }

  update() {
    const { history } = this;
    const { classes } = this.project;
    for (const id of ["name", "class", "merge", "split", "duplicate", "clean"]) {
      const control = /** @type {HTMLInputElement} */ (element(id));
      control.disabled = !history || (id !== "name" && id !== "class" && isBlank(history.selected));
    }
    button("merge").disabled ||= !history || history.state.items.filter((item) => !isBlank(item)).length < 2;
    const left = history?.state.items.some(({ found }) => found) ?? false;
    for (const id of ["keep-all", "drop-found"]) element(id).hidden = !left;
    this.#list();
    this.#prompts();
    renew(element("class"), [{ id: "", name: "none" }, ...classes.list], (each) => each, ({ id, name }) => make("option", { value: id }, name));
    const cls = String(history?.selected.cls ?? "");
    select("class").value = classes.list.some(({ id }) => String(id) === cls) ? cls : "";
    if (document.activeElement !== input("name")) input("name").value = history?.selected.name ?? "";
    input("name").placeholder = history ? this.#title({ ...history.selected, name: "" }) : "";
  }

  /** @param {Item} item */
  #title(item) {
    return titleOf(item, this.project.classes.name(item.cls));
  }

  #list() {
    const { history } = this;
    const { items, selected } = history?.state ?? { items: [], selected: 0 };
    const list = element("objects");
    const color = (/** @type {Item} */ item) => this.project.classes.color(item);
    renew(
      list, items,
      (item) => [item.id, this.#title(item), item.hidden, summary(item), color(item), item.id === selected],
      (item) => this.#row(item, item.id === selected),
    );
    if (selected !== this.#shown) list.querySelector("[aria-current=true]")?.scrollIntoView({ block: "nearest" });
    this.#shown = selected;
  }

  /** @param {Item} item @param {boolean} selected */
  #row(item, selected) {
    const { id, hidden } = item;
    const title = this.#title(item);
    const pick = make(
      "button",
      {
        type: "button", class: "pick", "data-key": `pick-${id}`, "aria-current": String(selected),
        onclick: () => (this.onPick ? this.onPick(id) : this.history?.select(id)),
        onkeydown: (/** @type {KeyboardEvent} */ event) => this.#step(event),
      },
      swatch(this.project.classes.color(item)), make("span", {}, title), make("small", {}, summary(item)),
    );
    const eye = make(
      "button",
      { type: "button", class: "eye quiet", "data-key": `eye-${id}`, "aria-pressed": String(hidden), "aria-label": `Hide ${title}`, onclick: () => this.history?.hide(id, !hidden) },
      hidden ? "◌" : "◉",
    );
    const remove = make(
      "button",
      { type: "button", class: "delete quiet", "data-key": `delete-${id}`, "aria-label": `Delete ${title}`, onclick: () => this.history?.remove(id) },
      "✕",
    );
    return make("li", {}, pick, eye, remove);
  }

  /** @param {KeyboardEvent} event */
  #step(event) {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.history?.selectBy(step);
    const current = document.querySelector(".pick[aria-current=true]");
    if (current instanceof HTMLElement) current.focus();
  }

  /** Each prompt can be taken away here, too. */
  #prompts() {
    const item = this.history?.selected;
    const { points, box } = item ?? { points: [], box: null };
    const all = [
      ...(box ? [{ key: "box", text: `box ${box.map(Math.round).join(" ")}`, onclick: () => this.history?.setBox(null) }] : []),
      ...points.map(({ x, y, label }, i) => ({
        key: `point-${i}`, text: `${label ? "+" : "−"} ${x}, ${y}`, onclick: () => this.history?.removePoint(i),
      })),
    ];
    renew(element("prompts"), all, ({ key, text }) => [key, text], ({ key, text, onclick }) =>
      make("li", {}, make("button", { type: "button", "data-key": key, "aria-label": `Take away ${text}`, onclick }, `${text} ✕`)));
  }
}

/** @param {Item} item */
export function summary({ points, box, given, added, removed, found }) {
  const parts = [];
  if (found) parts.push("found");
  else if (given) parts.push("mask");
  if (box) parts.push("box");
  if (points.length) parts.push(`${points.length} point${points.length > 1 ? "s" : ""}`);
  if (added || removed) parts.push("brush");
  return parts.join(", ") || "empty";
}
