// Connects the parts of the page.

import { accept } from "./dropping.js";
import { Exchange } from "./files/exchange.js";
import { listen } from "./keys.js";
import { ClassesPanel } from "./panel/classes.js";
import { element, input, select, write } from "./panel/dom.js";
import { ObjectsPanel } from "./panel/objects.js";
import { Status } from "./panel/status.js";
import { Strip } from "./panel/strip.js";
import { Tools } from "./tools.js";
import { Crosshair } from "./view/crosshair.js";
import { Pointing } from "./view/pointing.js";
import { Preview } from "./view/preview.js";
import { Stage } from "./view/stage.js";
import { CallError, OFFLINE } from "./work/api.js";
import { Project } from "./work/project.js";

const project = new Project();
const photo = /** @type {HTMLImageElement} */ (element("image"));
const help = /** @type {HTMLDialogElement} */ (element("help"));
const status = new Status(project);
const objects = new ObjectsPanel(project);
const tools = new Tools(project, objects, status);
const strip = new Strip(project);
const classes = new ClassesPanel(project, (error) => status.showError(error));
const stage = new Stage(element("stage"), photo, /** @type {HTMLCanvasElement} */ (element("canvas")), (item) => project.classes.color(item));
const preview = new Preview(project, (shown) => stage.showPreview(shown));
const exchange = new Exchange(project, stage, status);

/** Act on the objects of the image that is shown. @param {(history: import("./model/history.js").History) => void} act */
const edit = (act) => () => project.current && act(project.current.history);

/** Prompt the model, if an image is there to prompt for. @param {(history: import("./model/history.js").History) => void} act */
function prompt(act) {
  preview.cancel();
  if (tools.canPrompt && project.current) act(project.current.history);
}

const pointing = new Pointing(stage, {
  label: () => tools.label,
  tool: () => tools.tool,
  radius: () => Number(input("radius").value) / stage.view.scale,
  selected: () => project.current?.history.selected ?? null,
  onPoint: (x, y, label) => (label && tools.keepAt(x, y)) || prompt((history) => history.addPoint({ x, y, label })),
  onPointChange: (index, pixel) =>
    prompt((history) => {
      if (pixel) history.movePoint(index, { ...history.selected.points[index], ...pixel });
      else history.removePoint(index);
    }),
  onBox: (box) => prompt((history) => history.addBox(box)),
  onBoxChange: (box) => prompt((history) => history.setBox(box)),
  onStroke: (stroke) => tools.paint(stroke),
  onHover: (at, label) => preview.move(at, label),
});
new Crosshair(stage, pointing);

/** What the photo shows. @type {Blob | null} */
let shown = null;

/** Show the current image, once it is there. */
async function showPhoto() {
  const blob = project.current?.shown ?? null;
  if (blob === shown) return;
  shown = blob;
  URL.revokeObjectURL(photo.src);
  element("frame").hidden = true;
  if (!blob) return photo.removeAttribute("src");
  photo.src = URL.createObjectURL(blob);
  photo.alt = project.current?.entry.name ?? "";
  const { src } = photo;
  await photo.decode().catch(() => {});
  if (photo.src !== src) return;
  element("frame").hidden = false;
  stage.setSize(project.current?.size ?? { width: photo.naturalWidth, height: photo.naturalHeight });
}

let updating = false;

/** Show what changed, once for all changes that are made together. */
function update() {
  if (updating) return;
  updating = true;
  queueMicrotask(() => {
    updating = false;
    showAll();
  });
}

function showMasks() {
  const { current } = project;
  stage.show(current && shown === current.shown ? current.history.state : null);
}

function showAll() {
  const { current } = project;
  // The size that the server reports replaces the one that the browser measured.
  const { size } = current ?? {};
  if (size && !element("frame").hidden && (size.width !== stage.size.width || size.height !== stage.size.height)) stage.setSize(size);
  showPhoto();
  showMasks();
  status.update();
  objects.update();
  classes.update();
  strip.update();
  if (current) select("mode").value = current.history.selected.mode;
}

for (const name of ["change", "entries"]) project.addEventListener(name, update);
project.addEventListener("masked", showMasks);
project.classes.addEventListener("change", () => {
  stage.redraw();
  update();
});
project.addEventListener("opened", () => {
  tools.stopMerge();
  tools.stopSearch();
  preview.cancel();
  pointing.cancel();
  stage.cross = null;
});
stage.view.addEventListener("change", () => write("zoom", `${Math.round(100 * stage.view.scale * (window.devicePixelRatio || 1))} %`));

async function showSample() {
  const name = "sample.png";
  try {
    const response = await fetch(`/${name}`);
    // Always of one date: it is the same image when it is opened again.
    project.add([new File([await response.blob()], name, { type: "image/png", lastModified: 0 })]);
  } catch {
    status.showError(new CallError("file", OFFLINE));
  }
}

/** @param {string} id of a checkbox @param {(on: boolean) => void} act */
function onCheck(id, act) {
  input(id).addEventListener("change", () => {
    act(input(id).checked);
    stage.redraw();
  });
  // Browsers restore the options when the page is reloaded.
  act(input(id).checked);
}

/** @param {string} id of a checkbox */
const toggle = (id) => () => input(id).click();

/** Mark the image as done, and go on. */
function done() {
  project.current?.setDone(true);
  project.selectBy(1);
}

/** @type {Record<string, () => unknown>} */
const clicks = {
  add: () => tools.choose("click", 1),
  remove: () => tools.choose("click", 0),
  brush: () => tools.choose("brush"),
  eraser: () => tools.choose("eraser"),
  undo: edit((history) => history.undo()),
  redo: edit((history) => history.redo()),
  clear: edit((history) => history.clear()),
  new: edit((history) => history.add()),
  merge: () => tools.merge(),
  split: () => tools.split(),
  duplicate: edit((history) => history.duplicate()),
  clean: () => tools.cleanUp(),
  everything: () => tools.everything(),
  "keep-all": edit((history) => history.keepAll()),
  "drop-found": edit((history) => history.dropFound()),
  "zoom-in": () => stage.view.zoom(1.4),
  "zoom-out": () => stage.view.zoom(1 / 1.4),
  fit: () => stage.view.fit(),
  actual: () => stage.view.actual(),
  choose: () => input("file").click(),
  "choose-first": () => input("file").click(),
  "choose-folder": () => input("folder").click(),
  sample: showSample,
  save: () => exchange.save(),
  import: () => input("import-file").click(),
  "help-open": () => help.showModal(),
  "help-close": () => help.close(),
};
for (const [id, act] of Object.entries(clicks)) element(id).addEventListener("click", act);

onCheck("refine", (on) => (project.refine = on));
onCheck("hover", (on) => (preview.enabled = on));
onCheck("ahead", (on) => (project.ahead = on));
onCheck("show-masks", (on) => (stage.look.masks = on));
onCheck("outline", (on) => (stage.look.outline = on));
const opacity = () => {
  stage.look.opacity = Number(input("opacity").value) / 100;
  stage.redraw();
};
input("opacity").addEventListener("input", opacity);
opacity();
select("mode").addEventListener("change", () => {
  project.mode = select("mode").value;
  project.current?.history.setMode(project.mode);
});
project.mode = select("mode").value;

listen(
  {
    z: clicks.undo, y: clicks.redo, "Shift+z": clicks.redo, "Ctrl+z": clicks.undo, "Ctrl+y": clicks.redo, "Ctrl+Shift+z": clicks.redo,
    c: clicks.clear, n: clicks.new, m: clicks.merge, s: clicks.split, d: clicks.duplicate, w: clicks.clean, a: clicks.everything,
    "[": edit((history) => history.selectBy(-1)), "]": edit((history) => history.selectBy(1)),
    Delete: edit((history) => history.remove(history.selected.id)), Backspace: edit((history) => history.remove(history.selected.id)),
    r: () => input("name").select(), g: () => select("class").focus(), i: () => element("canvas").focus(),
    x: () => tools.choose("click", tools.tool === "click" && tools.label ? 0 : 1), k: clicks.add, p: clicks.brush, e: clicks.eraser,
    "{": () => tools.resizeBrush(1 / 1.25), "}": () => tools.resizeBrush(1.25),
    "+": clicks["zoom-in"], "=": clicks["zoom-in"], "-": clicks["zoom-out"], "−": clicks["zoom-out"], f: clicks.fit, 0: clicks.actual,
    h: toggle("show-masks"), "Shift+h": edit((history) => history.hide(history.selected.id, !history.selected.hidden)), l: toggle("outline"),
    PageDown: () => project.selectBy(1), PageUp: () => project.selectBy(-1), ".": () => project.selectBy(1), ",": () => project.selectBy(-1),
    "Ctrl+enter": done, o: clicks.choose, "Ctrl+s": clicks.save, "?": clicks["help-open"],
    Escape: () => {
      tools.stopMerge();
      tools.stopSearch();
      pointing.cancel();
    },
  },
  (digit) => classes.assign(digit),
);
accept((files) => files.length && project.add(files));

window.addEventListener("beforeunload", (event) => {
  if (!project.isDirty) return;
  project.saveAll();
  event.preventDefault();
});
document.addEventListener("visibilitychange", () => document.visibilityState === "hidden" && project.saveAll());

update();
project.start();
