// Images that browsers show, and the way to those that they do not.

import * as api from "./api.js";

/**
 * Return an image that the browser can show: the file itself, or a JPEG made by the page's server.
 *
 * @param {Blob} file
 * @returns {Promise<Blob>}
 * @throws {api.CallError} with the reason why it can be neither shown nor segmented
 */
export async function showable(file) {
  return (await isDeep(file)) || !(await isShown(file)) ? api.shown(file) : file;
}

/** Whether a file may have 16 bits: browsers that show it do not show what the model sees. @param {Blob} file */
async function isDeep(file) {
  const head = new Uint8Array(await file.slice(0, 26).arrayBuffer().catch(() => new ArrayBuffer(0)));
  const text = String.fromCharCode(...head);
  return (text.slice(1, 4) === "PNG" && head[24] === 16) || ["II*\0", "MM\0*"].includes(text.slice(0, 4));
}

/** @param {Blob} file */
async function isShown(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
    return true;
  } catch {
    return false;
  } finally {
    URL.revokeObjectURL(image.src);
  }
}

/** Return a small picture of an image; null if the browser cannot show it as it is. @param {Blob} file @returns {Promise<Blob | null>} */
export async function thumbnail(file) {
  try {
    if (await isDeep(file)) return null;
    const whole = await createImageBitmap(file);
    const scale = Math.min(1, 160 / Math.max(whole.width, whole.height));
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(whole.width * scale)), Math.max(1, Math.round(whole.height * scale)));
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.imageSmoothingQuality = "high";
    context.drawImage(whole, 0, 0, canvas.width, canvas.height);
    whole.close();
    return await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
  } catch {
    return null;
  }
}
