// Images that browsers show, and the way to those that they do not.

import * as api from "./api.js";

/** Brands in the header of HEIC and HEIF files. */
const HEIF = new Set(["heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"]);

/**
 * Return an image that the browser can show: the file itself, or a JPEG made by the page's server.
 *
 * @param {Blob} file
 * @returns {Promise<Blob>}
 * @throws {api.CallError} with the reason why it can be neither shown nor segmented
 */
export async function showable(file) {
  const head = new Uint8Array(await file.slice(0, 26).arrayBuffer().catch(() => new ArrayBuffer(0)));
  const text = String.fromCharCode(...head);
  if (text.slice(4, 8) === "ftyp" && HEIF.has(text.slice(8, 12))) {
    throw new api.CallError("image", "This is a HEIC image, which HQ-SAM’s server does not read. Save it as JPEG or PNG first.");
  }
  // 16-bit PNG files: browsers show them, but not as the model sees them.
  const deep = text.slice(1, 4) === "PNG" && head[24] === 16;
  return deep || !(await isShown(file)) ? api.shown(file) : file;
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

/** Return a small picture of an image; null if the browser cannot show it. @param {Blob} file @returns {Promise<Blob | null>} */
export async function thumbnail(file) {
  try {
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
