// Downloads and imports.

import { shapeOfItem } from "../model/item.js";
import { input, select } from "../panel/dom.js";
import { offer } from "../panel/offer.js";
import { CallError } from "../work/api.js";
import { readCoco } from "./coco.js";
import { Collection, stem } from "./collect.js";
import { FORMATS, maskPng, overlay, packed } from "./formats.js";

/** @typedef {import("../work/project.js").Project} Project */

export class Exchange {
  /**
   * @param {Project} project @param {import("../view/stage.js").Stage} stage
   * @param {import("../panel/status.js").Status} status
   */
  constructor(project, stage, status) {
    this.project = project;
    this.stage = stage;
    this.status = status;
    input("import-file").addEventListener("change", () => this.#import());
  }

  /** Download what is chosen. */
  async save() {
    try {
      const format = select("format").value;
      const all = select("scope").value === "all";
      if (format === "mask") await this.#saveMask();
      else if (format === "overlay") await this.#saveOverlay();
      else await this.#saveFiles(format, all);
    } catch (error) {
      this.status.showError(error);
    }
  }

  get #stem() {
    const { current, server } = this.project;
    return stem(current?.entry.name.split("/").at(-1) ?? server?.folder ?? "images");
  }

  /** @param {string} format @param {boolean} all */
  async #saveFiles(format, all) {
    const collection = new Collection(this.project, all);
    const files = await FORMATS[format](collection);
    const entries = Object.entries(files);
    if (!collection.count) throw new CallError("file", "There are no objects to download yet.");
    if (collection.missing) this.status.note(`${collection.missing} objects have no mask yet and are left out: open their images.`);
    if (collection.found) this.status.note(`${collection.found} objects that were found are left out: click on those to keep.`);
    if (entries.length === 1) {
      const [path, content] = entries[0];
      const ending = path.slice(stem(path).length);
      const name = path === "coco.json" ? `${all ? "" : `${this.#stem}-`}coco.json` : `${this.#stem}-${format}${ending}`;
      return offer(new Blob([content]), name);
    }
    offer(packed(files), `${all ? "" : `${this.#stem}-`}${format}.zip`);
  }

  async #saveMask() {
    const { current } = this.project;
    const shape = current?.size && shapeOfItem(current.history.selected, current.size);
    if (!current?.size || !shape) throw new CallError("file", "The selected object has no mask yet.");
    offer(new Blob([await maskPng(shape, current.size)], { type: "image/png" }), `${this.#stem}-mask-${current.history.selected.id}.png`);
  }

  async #saveOverlay() {
    for await (const image of new Collection(this.project, false).images()) {
      offer(await overlay(image, this.stage), `${this.#stem}-overlay.png`);
    }
  }

  async #import() {
    const file = input("import-file").files?.[0];
    if (!file) return;
    try {
      const { objects, images, missing, refused } = await readCoco(await file.text(), this.project);
      const problems = [...(missing.length ? [`not here: ${list(missing)}`] : []), ...(refused.length ? [`refused: ${list(refused)}`] : [])];
      this.status.note(`Imported ${objects} objects in ${images} images${problems.length ? `; ${problems.join("; ")}` : ""}.`);
    } catch (error) {
      const reason = error instanceof CallError ? error.message : /** @type {Error} */ (error).message;
      this.status.showError(new CallError("file", `${file.name} cannot be imported: ${reason}. Expected annotations in COCO’s format.`));
    }
    input("import-file").value = "";
  }
}

/** @param {string[]} names */
const list = (names) => names.slice(0, 3).join(", ") + (names.length > 3 ? ` and ${names.length - 3} more` : "");
