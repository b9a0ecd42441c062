// The files that a user downloads.

import { zipSync } from "../../vendor/fflate/browser.js";
import { CallError } from "../work/api.js";
import { drawShape } from "../mask/draw.js";
import { joined, polygons } from "../mask/outline.js";
import { blank, stamp } from "../mask/shape.js";
import { writeCoco } from "./coco.js";
import { rest, stem } from "./collect.js";
import { writePng } from "./png.js";

/** @typedef {import("./collect.js").Collection} Collection @typedef {import("./collect.js").LabelledImage} LabelledImage */
/** @typedef {Record<string, Uint8Array | string>} Files content by path */

/**
 * Each returns the files of a download; more than one are packed.
 *
 * @type {Record<string, (collection: Collection) => Promise<Files>>}
 */
export const FORMATS = {
  coco: async (collection) => ({ "coco.json": await writeCoco(collection, false) }),
  "coco-polygons": async (collection) => ({ "coco.json": await writeCoco(collection, true) }),
  yolo: writeYolo,
  classes: (collection) => eachImage(collection, "classes.png", (image) => labels(image, collection)),
  objects: (collection) => eachImage(collection, "objects.png", numbers),
  masks: writeMasks,
  geojson: (collection) => eachImage(collection, "geojson", (image) => geojson(image, collection)),
};

/** @param {Files} files @returns {Blob} */
export function packed(files) {
  const encoder = new TextEncoder();
  const all = Object.entries(files).map(([path, content]) => {
    const bytes = typeof content === "string" ? encoder.encode(content) : content;
    // PNG files are compressed already.
    return [path, [bytes, { level: path.endsWith(".png") ? 0 : 6 }]];
  });
  return new Blob([zipSync(Object.fromEntries(all), {})], { type: "application/zip" });
}

/** @param {Collection} collection @param {string} ending @param {(image: LabelledImage) => Promise<Uint8Array | string>} write @returns {Promise<Files>} */
async function eachImage(collection, ending, write) {
  /** @type {Files} */
  const files = {};
  for await (const image of collection.images()) put(files, `${stem(image.name)}.${ending}`, await write(image));
  return files;
}

/** @param {Files} files @param {string} path @param {Uint8Array | string} content */
function put(files, path, content) {
  if (path in files) throw new CallError("file", `Two images would both be saved as ${path}. Rename one of them.`);
  files[path] = content;
}

/** @param {Collection} collection @returns {Promise<Files>} one line for an object: class, then its border as shares of the image */
async function writeYolo(collection) {
  /** @type {Files} */
  const files = {};
  for await (const { name, size, objects } of collection.images()) {
    const lines = [];
    for (const { category, shape } of objects) {
      await rest();
      // Parts and holes are joined by cuts without width: the format has one ring for an object.
      const [first, ...others] = polygons(shape).flatMap(({ outline, holes }) => [outline, ...holes]);
      const ring = joined(first, others).flatMap(([x, y]) => [x / size.width, y / size.height]);
      lines.push(`${[category - 1, ...ring.map((part) => Number(part.toFixed(6)))].join(" ")}\n`);
    }
    put(files, `labels/${stem(name)}.txt`, lines.join(""));
  }
  const names = collection.categories.map(({ name }, i) => `  ${i}: ${JSON.stringify(name)}\n`).join("");
  return { "data.yaml": `path: .\ntrain: images\nval: images\nnames:\n${names}`, ...files };
}

/** @param {LabelledImage} image @param {Collection} collection */
async function labels({ size, objects }, collection) {
  const map = blank(0, 0, size.width, size.height);
  for (const { shape, category } of objects) {
    await rest();
    if (category > 255) throw new CallError("file", "A class image has 255 classes at most. Choose another format.");
    stamp(map, shape, category);
  }
  const colors = collection.categories.map(({ color }) => color);
  return writePng(map.data, size.width, size.height, [[0, 0, 0], ...colors]);
}

/** @param {LabelledImage} image */
async function numbers({ size, objects }) {
  const map = { ...blank(0, 0, 0, 0), width: size.width, height: size.height, data: new Uint16Array(size.width * size.height) };
  for (const { shape, id } of objects) {
    await rest();
    stamp(map, shape, id);
  }
  return writePng(map.data, size.width, size.height);
}

/** @param {Collection} collection @returns {Promise<Files>} */
async function writeMasks(collection) {
  /** @type {Files} */
  const files = {};
  for await (const { name, size, objects } of collection.images()) {
    for (const { id, title, shape } of objects) {
      await rest();
      const label = title.replace(/[^\p{L}\p{N}]+/gu, "-");
      files[`${stem(name)}/${id}-${label}.png`] = await maskPng(shape, size);
    }
  }
  return files;
}

/** Write a mask: 255 inside, 0 outside. @param {import("../mask/shape.js").Shape} shape @param {{width: number, height: number}} size */
export function maskPng(shape, size) {
  const whole = blank(0, 0, size.width, size.height);
  stamp(whole, shape, 255);
  return writePng(whole.data, size.width, size.height);
}

/** Coordinates are pixels, (x, y) from the image's top left corner. @param {LabelledImage} image @param {Collection} collection */
async function geojson({ objects }, collection) {
  const features = [];
  for (const { id, title, category, iou, shape } of objects) {
    await rest();
    const coordinates = polygons(shape).map(({ outline, holes }) => [outline, ...holes].map((ring) => [...ring, ring[0]]));
    const { name, color } = collection.categories[category - 1];
    const properties = { objectType: "annotation", name: title, classification: { name, color }, predicted_iou: iou };
    features.push({ type: "Feature", id, geometry: { type: "MultiPolygon", coordinates }, properties });
  }
  return JSON.stringify({ type: "FeatureCollection", features }, null, 1);
}

/**
 * Draw the objects on their image, as the page shows them.
 *
 * @param {LabelledImage} image @param {import("../view/stage.js").Stage} stage
 * @returns {Promise<Blob>}
 */
export async function overlay({ size, objects }, stage) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, size);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
  context.drawImage(stage.photo, 0, 0, size.width, size.height);
  const region = { x: 0, y: 0, scale: 1, ...size };
  const line = Math.max(1.5, Math.max(size.width, size.height) / 640);
  const tint = stage.look.outline ? 0 : stage.look.opacity;
  for (const { color, shape } of objects) {
    await rest();
    const { canvas: drawn, region: part } = drawShape(shape, region, { color, tint, line });
    if (drawn) context.drawImage(drawn, part.x, part.y);
  }
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new CallError("file", "The image is too large for the browser to draw on.");
  return /** @type {Blob} */ (blob);
}
