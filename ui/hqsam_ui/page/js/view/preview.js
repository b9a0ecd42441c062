// Previews the mask of a click under the cursor.

import { isBlank } from "../model/item.js";

/** @typedef {import("../work/project.js").Project} Project */

/** With slower answers, previews would lag behind the cursor. */
const FAST_MS = 350;

/** One request runs at a time; the next one is for the cursor's latest position. */
export class Preview {
  enabled = true;
  /** @type {AbortController | null} */
  #stop = null;
  /** @type {{x: number, y: number, label: 0 | 1} | null} */
  #cursor = null;

  /**
   * @param {Project} project
   * @param {(preview: {logits: Float32Array, item: import("../model/item.js").Item} | null) => void} show
   */
  constructor(project, show) {
    this.project = project;
    this.show = show;
  }

  /** @param {{x: number, y: number} | null} at the pixel under the cursor @param {0 | 1} label */
  move(at, label) {
    if (!at) return this.cancel();
    this.#cursor = { ...at, label };
    if (!this.#stop) this.#request();
  }

  cancel() {
    this.#stop?.abort();
    this.#stop = this.#cursor = null;
    this.show(null);
  }

  async #request() {
    const at = this.#cursor;
    const work = this.project.current;
    if (!work || !at || at.label !== 1 || !this.enabled || work.phase !== "ready" || work.isBusy) return;
    const item = work.history.selected;
    const slow = work.pace !== null && work.pace > FAST_MS;
    if (slow || !isBlank(item) || !this.project.server?.ready) return;
    const stop = (this.#stop = new AbortController());
    const start = performance.now();
    try {
      const { logits } = await work.segment({ points: [at], box: null, mode: item.mode }, null, stop.signal);
      if (stop.signal.aborted) return;
      work.pace = performance.now() - start;
      this.show({ logits, item });
    } catch {
      // No message for a preview: a click will show the error.
      if (stop.signal.aborted) return;
    }
    this.#stop = null;
    const moved = this.#cursor;
    if (moved && (moved.x !== at.x || moved.y !== at.y)) this.#request();
  }
}
