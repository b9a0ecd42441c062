// The list of classes.

import { readNames } from "../model/classes.js";
import { button, element, input, make, renew, swatch } from "./dom.js";
import { offer } from "./offer.js";

/** @typedef {import("../work/project.js").Project} Project */

export class ClassesPanel {
  /** The class that the list was scrolled to. @type {number | null} */
  #shown = null;

  /** @param {Project} project @param {(error: unknown) => void} report */
  constructor(project, report) {
    this.project = project;
    const { classes } = project;
    classes.addEventListener("change", () => this.update());
    element("class-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const name = input("class-new").value.trim();
      if (name) classes.add(name);
      input("class-new").value = "";
    });
    button("classes-load").addEventListener("click", () => input("classes-file").click());
    input("classes-file").addEventListener("change", async () => {
      const file = input("classes-file").files?.[0];
      try {
        if (file) for (const name of readNames(await file.text())) classes.add(name);
      } catch (error) {
        report(error);
      }
      input("classes-file").value = "";
    });
    button("classes-save").addEventListener("click", () => offer(new Blob([classes.list.map(({ name }) => `${name}\n`).join("")]), "classes.txt"));
  }

  /** Give the selected object the class of a key. @param {number} place counted from 1 */
  assign(place) {
    const cls = this.project.classes.list[place - 1]?.id;
    if (cls !== undefined) this.project.current?.history.setClass(cls);
  }

  /** Give the selected object a class, or take it away if that is the one. @param {number} cls its id */
  #toggle(cls) {
    const history = this.project.current?.history;
    history?.setClass(history.selected.cls === cls ? null : cls);
  }

  update() {
    const { classes, current } = this.project;
    const chosen = current?.history.selected.cls;
    button("classes-save").disabled = !classes.list.length;
    renew(element("classes"), classes.list, ({ id, name }, i) => [id, name, i, id === chosen], ({ id, name }, i) => {
      const assign = make(
        "button",
        {
          type: "button", class: "assign", "data-key": `assign-${id}`, "aria-pressed": String(id === chosen),
          "aria-label": `Give the object the class ${name}`, onclick: () => this.#toggle(id),
        },
        swatch(classes.colorOf(id)), ...(i < 9 ? [make("kbd", {}, String(i + 1))] : []),
      );
      const text = make("input", { type: "text", maxlength: 200, "data-key": `name-${id}`, "aria-label": `Name of class ${i + 1}` });
      text.value = name;
      text.addEventListener("change", () => {
        const other = classes.list.some((each) => each.id !== id && each.name === text.value.trim());
        if (text.value.trim() && !other) classes.rename(id, text.value.trim());
        else text.value = name;
      });
      const remove = make(
        "button",
        { type: "button", class: "delete quiet", "data-key": `remove-${id}`, "aria-label": `Delete the class ${name}`, onclick: () => classes.remove(id) },
        "✕",
      );
      return make("li", {}, assign, text, remove);
    });
    const now = chosen ?? null;
    if (now !== this.#shown) element("classes").querySelector("[aria-pressed=true]")?.scrollIntoView({ block: "nearest" });
    this.#shown = now;
  }
}
