// The strip of images.

import { button, element, input, make, renew, write } from "./dom.js";

/** @typedef {import("../work/project.js").Project} Project @typedef {import("../work/stores.js").Entry} Entry */

export class Strip {
  /** Addresses of thumbnails that are blobs. @type {WeakMap<Blob, string>} */
  #addresses = new WeakMap();

  /** @param {Project} project */
  constructor(project) {
    this.project = project;
    button("previous").addEventListener("click", () => project.selectBy(-1));
    button("next").addEventListener("click", () => project.selectBy(1));
    input("done").addEventListener("change", () => project.current?.setDone(input("done").checked));
    button("forget").addEventListener("click", () => this.#forget());
  }

  #forget() {
    const { current } = this.project;
    if (!current) return;
    const { name, objects } = current.entry;
    if (!objects || window.confirm(`Remove ${name} and its ${objects} object${objects > 1 ? "s" : ""} from this browser?`)) this.project.remove(current.entry);
  }

  update() {
    const { entries, current, index, store } = this.project;
    element("images").hidden = !entries.length;
    const done = entries.filter((entry) => entry.done).length;
    write("progress", `${index + 1} of ${entries.length}, ${done} done`);
    input("done").checked = current?.entry.done ?? false;
    button("previous").disabled = index <= 0;
    button("next").disabled = index < 0 || index >= entries.length - 1;
    button("forget").hidden = store.folder;
    renew(
      element("strip"), entries,
      ({ key, objects, done: ready, thumbnail }) => [key, objects, ready, thumbnail !== null],
      (entry) => this.#row(entry),
    );
    const before = element("strip").querySelector("[aria-current=true]");
    const now = element("strip").children[index]?.firstElementChild;
    if (before === now) return;
    before?.setAttribute("aria-current", "false");
    now?.setAttribute("aria-current", "true");
    now?.scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  /** @param {Entry} entry */
  #row(entry) {
    const { name, objects, done } = entry;
    const state = [done ? "done" : "", objects ? `${objects} object${objects > 1 ? "s" : ""}` : ""].filter(Boolean).join(", ");
    const pick = make("button", {
      type: "button", "data-key": entry.key, title: name, "aria-label": [name, state].filter(Boolean).join(", "), onclick: () => this.project.select(entry),
    });
    pick.append(this.#picture(entry));
    if (done || objects) pick.append(make("span", { class: "mark", "data-done": String(done), "aria-hidden": "true" }, `${done ? "✓ " : ""}${objects || ""}`));
    return make("li", {}, pick);
  }

  /** @param {Entry} entry */
  #picture({ name, thumbnail }) {
    const ending = make("span", { class: "ending", "aria-hidden": "true" }, name.split("/").at(-1) ?? name);
    if (!thumbnail) return ending;
    let address = typeof thumbnail === "string" ? thumbnail : this.#addresses.get(thumbnail);
    if (!address) this.#addresses.set(/** @type {Blob} */ (thumbnail), (address = URL.createObjectURL(/** @type {Blob} */ (thumbnail))));
    const image = make("img", { src: address, alt: "", loading: "lazy", draggable: "false" });
    image.addEventListener("error", () => image.replaceWith(ending));
    return image;
  }
}
