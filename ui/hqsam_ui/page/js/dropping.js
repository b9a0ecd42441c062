// Files that are chosen, dropped, or pasted.

import { element, input } from "./panel/dom.js";

/** Endings of files that may be images, for folders that hold others, too. */
const ENDING = /\.(apng|avif|bmp|gif|heic|heif|hif|j2k|jp2|jpe?g|mpo|pbm|pgm|png|pnm|ppm|tiff?|webp)$/i;

/** @param {(files: File[]) => void} add */
export function accept(add) {
  for (const id of ["file", "folder"]) {
    const chooser = input(id);
    chooser.addEventListener("change", () => {
      const files = [...(chooser.files ?? [])];
      add(id === "folder" ? inOrder(files.filter(({ name }) => ENDING.test(name))) : files);
      // Otherwise choosing the same file again would not be a change.
      chooser.value = "";
    });
  }
  let dragging = 0;
  const show = (/** @type {number} */ change) => {
    dragging = Math.max(0, dragging + change);
    element("drop").hidden = dragging === 0;
  };
  window.addEventListener("dragenter", (event) => event.dataTransfer?.types.includes("Files") && show(1));
  window.addEventListener("dragleave", (event) => event.dataTransfer?.types.includes("Files") && show(-1));
  window.addEventListener("dragover", (event) => event.preventDefault());
  window.addEventListener("drop", async (event) => {
    event.preventDefault();
    show(-dragging);
    if (event.dataTransfer) add(await filesOf(event.dataTransfer));
  });
  window.addEventListener("paste", (event) => add([...(event.clipboardData?.files ?? [])]));
}

/** Return the files, and those in folders that look like images. @param {DataTransfer} data @returns {Promise<File[]>} */
async function filesOf(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry !== null && entry !== undefined);
  if (!entries.some((entry) => entry.isDirectory)) return [...data.files];
  /** @type {File[]} */
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return inOrder(found);
}

/** @param {File[]} files */
const inOrder = (files) => files.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));

/** @param {FileSystemEntry} entry @param {File[]} found */
async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => /** @type {FileSystemFileEntry} */ (entry).file(resolve, reject));
    if (ENDING.test(entry.name)) found.push(/** @type {File} */ (file));
    return;
  }
  const reader = /** @type {FileSystemDirectoryEntry} */ (entry).createReader();
  for (;;) {
    // A folder is read in parts.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const each of some) if (!each.name.startsWith(".")) await walk(each, found);
  }
}
