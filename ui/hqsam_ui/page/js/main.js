// Puts the page together.

import { CallError } from "./api.js";
import { element, Panel } from "./panel.js";
import { Session } from "./session.js";
import { Stage } from "./stage.js";
import { colorOf } from "./state.js";

const session = new Session();
const panel = new Panel(session);
const { history } = session;
const image = /** @type {HTMLImageElement} */ (element("picture"));
const chooser = /** @type {HTMLInputElement} */ (element("file"));
const help = /** @type {HTMLDialogElement} */ (element("help"));
const refine = /** @type {HTMLInputElement} */ (element("refine"));
const hover = /** @type {HTMLInputElement} */ (element("hover"));
const mode = /** @type {HTMLSelectElement} */ (element("mode"));

/** What a plain click means. @type {0 | 1} */
let label = 1;

const stage = new Stage(
  element("stage"),
  element("frame"),
  /** @type {HTMLCanvasElement} */ (element("canvas")),
  {
    label: () => label,
    onPoint: (x, y, meant) => canPrompt() && history.addPoint({ x, y, label: meant }),
    onBox: (box) => canPrompt() && history.setBox(box),
    onHover: (at, meant) => session.preview(at, meant),
    onCross: (x, y) => session.preview({ x, y }, label),
  },
);

/** While a picture is being encoded, too: what was clicked is asked then. */
const canPrompt = () => session.phase === "encoding" || session.phase === "ready";

session.addEventListener("change", () => {
  const { picture } = session;
  // The server's word on the size counts; the browser's does until then.
  if (picture && (picture.width !== stage.size.width || picture.height !== stage.size.height)) stage.setSize(picture);
  stage.show(session.phase === "empty" ? null : history.state);
});
session.addEventListener("preview", (event) => stage.showPreview(/** @type {CustomEvent} */ (event).detail));

/** Show a picture at once, and have it encoded meanwhile. @param {File} file */
async function show(file) {
  panel.calm();
  URL.revokeObjectURL(image.src);
  element("frame").hidden = true;
  image.src = URL.createObjectURL(file);
  image.alt = file.name;
  const opened = session.open(file);
  const { src } = image;
  try {
    await image.decode();
  } catch {
    if (image.src !== src) return;
    await opened;
    // Where the server could not read it either, it has said so.
    if (session.phase === "ready") {
      panel.complain(new CallError("picture", "This browser cannot show this kind of picture. Try JPEG, PNG or WebP."));
    }
    return;
  }
  if (image.src !== src) return;
  element("frame").hidden = false;
  if (!session.picture) stage.setSize({ width: image.naturalWidth, height: image.naturalHeight });
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
    panel.complain(new CallError("file", "This page’s own server does not answer. Is hqsam ui still running?"));
  }
}

/** @param {0 | 1} meant */
function setLabel(meant) {
  label = meant;
  element("add").setAttribute("aria-pressed", String(meant === 1));
  element("take").setAttribute("aria-pressed", String(meant === 0));
}

/**
 * @param {string} name as the server calls it
 * @param {string} ending of the file
 */
async function save(name, ending) {
  const things = name === "mask.png" ? [history.selected] : [...history.state.things];
  const masks = [];
  const objects = [];
  for (const thing of things) {
    if (!thing.mask) continue;
    masks.push(thing.mask.logits);
    objects.push({ color: colorOf(thing), iou: thing.mask.iou });
  }
  if (!masks.length) return;
  const stem = (session.file?.name ?? "picture").replace(/\.[^.]*$/, "");
  try {
    const blob = await session.download(name, { name: session.file?.name, objects }, masks);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${stem}-${ending}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  } catch (error) {
    panel.complain(error);
  }
}

/** @type {Record<string, () => void>} */
const clicks = {
  add: () => setLabel(1),
  take: () => setLabel(0),
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
  // So that choosing the same file again is a change, too.
  chooser.value = "";
});
refine.addEventListener("change", () => (session.refine = refine.checked));
hover.addEventListener("change", () => (session.hover = hover.checked));
mode.addEventListener("change", () => session.setMode(mode.value));
// A reloaded page may come with what was set before.
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
  const digit = /^[1-9]$/.test(event.key) ? history.state.things[Number(event.key) - 1] : undefined;
  const act = digit ? () => history.select(digit.id) : (keys[event.key] ?? keys[event.key.toLowerCase()]);
  if (!act) return;
  event.preventDefault();
  act();
});
