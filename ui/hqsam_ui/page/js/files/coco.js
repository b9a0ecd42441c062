// COCO's annotations: written and read.

import { filled, joined, polygons } from "../mask/outline.js";
import { fromRle, toRle } from "../mask/rle.js";
import { union } from "../mask/shape.js";
import { blankItem } from "../model/item.js";
import { rest } from "./collect.js";

/** @typedef {import("./collect.js").Collection} Collection @typedef {import("../mask/shape.js").Shape} Shape */

/** @param {Collection} collection @param {boolean} asPolygons otherwise run-length encoded, which is exact */
export async function writeCoco(collection, asPolygons) {
  const images = [];
  const annotations = [];
  for await (const { name, sha256, size, objects } of collection.images()) {
    images.push({ id: images.length + 1, file_name: name, width: size.width, height: size.height, sha256 });
    for (const { title, category, iou, shape } of objects) {
      await rest();
      annotations.push({
        id: annotations.length + 1,
        image_id: images.length,
        category_id: category,
        segmentation: asPolygons ? rings(shape) : toRle(shape, size),
        area: shape.area,
        bbox: [shape.x, shape.y, shape.width, shape.height],
        iscrowd: 0,
        name: title,
        predicted_iou: Number(iou.toFixed(6)),
      });
    }
  }
  const categories = collection.categories.map(({ name, none }, i) => ({ id: i + 1, name, ...(none && { no_class: none }) }));
  return JSON.stringify({ images, annotations, categories }, null, 1);
}

/** COCO's polygons have no holes: a hole is joined to its outline by a cut without width. @param {Shape} shape */
const rings = (shape) => polygons(shape).map(({ outline, holes }) => joined(outline, holes).flat());

/**
 * Read annotations into the images of the same names.
 *
 * @param {string} text @param {import("../work/project.js").Project} project
 * @returns {Promise<{objects: number, images: number, missing: string[], refused: string[]}>} missing: names
 *   of images that are not here; refused: with reasons
 * @throws {SyntaxError} if it is not COCO
 */
export async function readCoco(text, project) {
  const data = JSON.parse(text);
  if (!Array.isArray(data?.images) || !Array.isArray(data?.annotations)) throw new SyntaxError("it has no images and annotations");
  const named = (data.categories ?? []).filter((/** @type {any} */ each) => !each.no_class);
  const categories = new Map(named.map((/** @type {any} */ each) => [each.id, String(each.name)]));
  const report = { objects: 0, images: 0, missing: /** @type {string[]} */ ([]), refused: /** @type {string[]} */ ([]) };
  for (const image of data.images) {
    const found = data.annotations.filter((/** @type {any} */ each) => each.image_id === image.id);
    if (!found.length) continue;
    const name = String(image.file_name);
    const last = (/** @type {string} */ path) => path.split(/[/\\]/).at(-1);
    const entry = project.entries.find((each) => each.name === name) ?? project.entries.find((each) => last(each.name) === last(name));
    if (!entry) {
      report.missing.push(name);
      continue;
    }
    const work = project.work(entry);
    await work.ensureLoaded();
    const size = { width: Number(image.width), height: Number(image.height) };
    if (work.size && (work.size.width !== size.width || work.size.height !== size.height)) {
      report.refused.push(`${name} is ${work.size.width} × ${work.size.height} here, ${size.width} × ${size.height} there`);
      continue;
    }
    const items = [];
    for (const annotation of found) {
      await rest();
      try {
        const item = itemOf(annotation, size);
        const category = categories.get(annotation.category_id);
        if (item && category) item.cls = project.classes.add(category);
        if (item) items.push(item);
      } catch (error) {
        report.refused.push(`${name}: ${/** @type {Error} */ (error).message}`);
      }
    }
    if (!items.length) continue;
    work.size ??= size;
    work.history.import(items);
    await work.save();
    report.objects += items.length;
    report.images++;
  }
  return report;
}

/** Return an object for an annotation; one without a mask becomes a box for the model. @param {any} annotation @param {{width: number, height: number}} size */
function itemOf({ segmentation, bbox, name }, size) {
  const item = { ...blankItem(0, "hq"), name: /^\S+ \d+$/.test(name ?? "") ? "" : String(name ?? "") };
  if (Array.isArray(segmentation) && segmentation.length) {
    // Each polygon is filled by itself.
    for (const polygon of segmentation) item.given = union(item.given, filled([pairs(polygon)], size));
  } else if (segmentation?.counts) {
    const [height, width] = segmentation.size;
    if (height !== size.height || width !== size.width) throw new RangeError("a mask has another size than its image");
    item.given = fromRle(segmentation);
  } else if (Array.isArray(bbox) && bbox.length === 4) {
    const [x, y, width, height] = bbox.map(Number);
    item.box = [Math.max(0, x), Math.max(0, y), Math.min(size.width, x + width), Math.min(size.height, y + height)];
    if (!(item.box[2] > item.box[0] && item.box[3] > item.box[1])) throw new RangeError("a box lies outside the image");
  }
  return item.given || item.box ? item : null;
}

/** @param {number[]} numbers @returns {import("../mask/outline.js").Ring} */
const pairs = (numbers) => Array.from({ length: numbers.length >> 1 }, (_, i) => [numbers[2 * i], numbers[2 * i + 1]]);
