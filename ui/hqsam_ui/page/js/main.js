// Connects the parts of the page.

import { CallError, OFFLINE } from "./api.js";
import { element, Panel } from "./panel.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { colorOf } from "./state.js";

const session = new Session();
const panel = new Panel(session);
const { history } = session;
const photo = /** @type {HTMLImageElement} */ (element("image"));
const chooser = /** @type {HTMLInputElement} */ (element("file"));
const help = /** @type {HTMLDialogElement} */ (element("help"));
const refine = /** @type {HTMLInputElement} */ (element("refine"));
const hover = /** @type {HTMLInputElement} */ (element("hover"));
const mode = /** @type {HTMLSelectElement} */ (element("mode"));

/** Label of a plain click: 1 adds, 0 removes. @type {0 | 1} */
let label = 1;

const stage = new Stage(
  element("stage"),
  element("frame"),
  /** @type {HTMLCanvasElement} */ (element("canvas")),
  {
    label: () => label,
    onPoint: (x, y, pointLabel) => canPrompt() && history.addPoint({ x, y, label: pointLabel }),
    onBox: (box) => canPrompt() && history.setBox(box),
    onHover: (at, pointLabel) => session.preview(at, pointLabel),
    onCross: (x, y) => session.preview({ x, y }, label),
  },
);

/** Clicks made while the image is being encoded are answered afterwards. */
const canPrompt = () => session.phase === "encoding" || session.phase === "ready";

session.addEventListener("change", () => {
  const { image } = session;
  // The size that the server reports replaces the one that the browser measured.
  if (image && (image.width !== stage.size.width || image.height !== stage.size.height)) stage.setSize(image);
  stage.show(session.phase === "empty" ? null : history.state);
});
session.addEventListener("preview", (event) => stage.showPreview(/** @type {CustomEvent} */ (event).detail));

/** Show an image and send it to be encoded. @param {File} file */
async function show(file) {
  panel.hideError();
  URL.revokeObjectURL(photo.src);
  element("frame").hidden = true;
  photo.src = URL.createObjectURL(file);
  photo.alt = file.name;
  const opened = session.open(file);
  const { src } = photo;
  try {
    await photo.decode();
  } catch {
    if (photo.src !== src) return;
    await opened;
    // If the server could not read it either, its error is shown already.
    if (session.phase === "ready") {
      panel.showError(new CallError("image", "Your browser cannot show this image format. Try JPEG, PNG or WebP."));
    }
    return;
  }
  if (photo.src !== src) return;
  element("frame").hidden = false;
  if (!session.image) stage.setSize({ width: photo.naturalWidth, height: photo.naturalHeight });
  stage.fit();
}

/** @param {DataTransfer | null} data */
function take(data) {
  const file = [...(data?.files ?? [])].find((each) => each.type.startsWith("image/")) ?? data?.files[0];
  if (file) show(file);
}

async function showSample() {
  const name = "sample.png";
  try {
    const response = await fetch(`/${name}`);
    show(new File([await response.blob()], name, { type: "image/png" }));
  } catch {
    panel.showError(new CallError("file", OFFLINE));
  }
}

/** @param {0 | 1} newLabel */
function setLabel(newLabel) {
  label = newLabel;
  element("add").setAttribute("aria-pressed", String(label === 1));
  element("remove").setAttribute("aria-pressed", String(label === 0));
}

/**
 * @param {string} name of the download, such as "mask.png"
 * @param {string} suffix of the file's name
 */
async function save(name, suffix) {
  const items = name === "mask.png" ? [history.selected] : [...history.state.items];
  const masks = [];
  const objects = [];
  for (const item of items) {
    if (!item.mask) continue;
    masks.push(item.mask.logits);
    objects.push({ color: colorOf(item), iou: item.mask.iou });
  }
  if (!masks.length) return;
  const stem = (session.file?.name ?? "image").replace(/\.[^.]*$/, "");
  try {
    const blob = await session.download(name, { name: session.file?.name, objects }, masks);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${stem}-${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    panel.showError(error);
  }
}

/** @type {Record<string, () => void>} */
const clicks = {
  add: () => setLabel(1),
  remove: () => setLabel(0),
  undo: () => history.undo(),
  redo: () => history.redo(),
  clear: () => history.clear(),
  new: () => history.add(),
  choose: () => chooser.click(),
  "choose-first": () => chooser.click(),
  sample: showSample,
  "save-mask": () => save("mask.png", `mask-${history.selected.id}.png`),
  "save-overlay": () => save("overlay.png", "overlay.png"),
  "save-coco": () => save("coco.json", "coco.json"),
  "help-open": () => help.showModal(),
  "help-close": () => help.close(),
};
for (const [id, act] of Object.entries(clicks)) element(id).addEventListener("click", act);

chooser.addEventListener("change", () => {
  if (chooser.files?.[0]) show(chooser.files[0]);
  // Otherwise choosing the same file again would not be a change.
  chooser.value = "";
});
refine.addEventListener("change", () => (session.refine = refine.checked));
hover.addEventListener("change", () => (session.hover = hover.checked));
mode.addEventListener("change", () => session.setMode(mode.value));
// Browsers restore the options when the page is reloaded.
session.refine = refine.checked;
session.hover = hover.checked;
session.mode = mode.value;

let dragging = 0;
const showDrop = (/** @type {number} */ change) => {
  dragging = Math.max(0, dragging + change);
  element("drop").hidden = dragging === 0;
};
window.addEventListener("dragenter", (event) => event.dataTransfer?.types.includes("Files") && showDrop(1));
window.addEventListener("dragleave", (event) => event.dataTransfer?.types.includes("Files") && showDrop(-1));
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => {
  event.preventDefault();
  showDrop(-dragging);
  take(event.dataTransfer);
});
window.addEventListener("paste", (event) => take(event.clipboardData));

/** @type {Record<string, () => void>} */
const keys = {
  z: () => history.undo(),
  Z: () => history.redo(),
  c: () => history.clear(),
  n: () => history.add(),
  o: () => chooser.click(),
  x: () => setLabel(label ? 0 : 1),
  "+": () => setLabel(1),
  "-": () => setLabel(0),
  "−": () => setLabel(0),
  "[": () => history.selectBy(-1),
  "]": () => history.selectBy(1),
  Delete: () => history.remove(history.selected.id),
  Backspace: () => history.remove(history.selected.id),
  "?": () => help.showModal(),
};
window.addEventListener("keydown", (event) => {
  if (help.open || event.altKey || event.target instanceof HTMLSelectElement) return;
  if (event.ctrlKey || event.metaKey) {
    if (event.key.toLowerCase() !== "z") return;
    event.preventDefault();
    if (event.shiftKey) history.redo();
    else history.undo();
    return;
  }
  const digit = /^[1-9]$/.test(event.key) ? history.state.items[Number(event.key) - 1] : undefined;
  const act = digit ? () => history.select(digit.id) : (keys[event.key] ?? keys[event.key.toLowerCase()]);
  if (!act) return;
  event.preventDefault();
  act();
});
