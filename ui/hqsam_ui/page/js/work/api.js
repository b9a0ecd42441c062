// Calls to the page's server.

import { MASK_SIZE } from "../mask/field.js";

export const OFFLINE = "The page’s own server does not answer. Is hqsam ui still running?";

/**
 * @typedef {object} Opened An image that the server has encoded.
 * @property {string} image_id of what the server was sent
 * @property {string} sha256 of the file
 * @property {number} width original pixels of the upright image
 * @property {number} height
 * @property {boolean} known whether it was encoded before
 * @property {number} seconds
 *
 * @typedef {{ready: boolean, model: string | null, url: string, max_image_bytes: number, folder: string | null}} Status
 */

/** A call failed: the server answered with an error, or not at all. */
export class CallError extends Error {
  /**
   * @param {string} code such as "unavailable"
   * @param {string} message for the user
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  /** Whether the same call may succeed later. */
  get temporary() {
    return ["unavailable", "offline", "timeout"].includes(this.code);
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
export async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", ...options });
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new CallError("offline", OFFLINE);
  }
  if (response.ok) return response;
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // Not the page's own server: a proxy, for example.
  }
  throw new CallError(answer?.code ?? "failed", answer?.message ?? `The server answered ${response.status}.`);
}

/** @returns {Promise<Status>} */
export async function status() {
  return (await call("/api/status")).json();
}

/**
 * @param {Blob} file
 * @param {AbortSignal} signal
 * @returns {Promise<Opened>}
 */
export async function open(file, signal) {
  const body = await bytes(file);
  const headers = { "content-type": "application/octet-stream" };
  return (await call("/api/images", { method: "POST", headers, body, signal })).json();
}

/**
 * @param {string} imageId
 * @param {object} prompt points, labels, box and mode
 * @param {Float32Array | null} refine logits of an earlier mask
 * @param {AbortSignal} signal
 * @returns {Promise<{logits: Float32Array, iou: number}>}
 */
export async function segment(imageId, prompt, refine, signal) {
  const response = await post(`/api/images/${imageId}/mask`, prompt, refine ? [refine] : [], signal);
  const logits = new Float32Array(await response.arrayBuffer());
  if (logits.length !== MASK_SIZE * MASK_SIZE) throw new CallError("failed", "The server’s answer is incomplete.");
  return { logits, iou: Number(response.headers.get("x-mask-iou")) };
}

/**
 * Find all objects in an image.
 *
 * @param {string} imageId
 * @param {AbortSignal} signal
 * @returns {Promise<import("../mask/rle.js").Rle[]>}
 */
export async function everything(imageId, signal) {
  return (await (await call(`/api/images/${imageId}/everything`, { method: "POST", signal })).json()).masks;
}

/** Return an image that the browser cannot show as a JPEG. @param {Blob} file @returns {Promise<Blob>} */
export async function shown(file) {
  const headers = { "content-type": "application/octet-stream" };
  return (await call("/api/shown", { method: "POST", headers, body: await bytes(file) })).blob();
}

/** Read a file first: fetch would report a deleted or changed one like a missing server. @param {Blob} file */
async function bytes(file) {
  try {
    return await file.arrayBuffer();
  } catch {
    throw new CallError("file", "The file can no longer be read. Choose it again.");
  }
}

/**
 * Send a line of JSON, followed by the masks' bytes.
 *
 * @param {string} path
 * @param {object} fields
 * @param {Float32Array[]} masks
 * @param {AbortSignal} [signal]
 */
function post(path, fields, masks, signal) {
  const text = `${JSON.stringify(fields)}\n`;
  // Browsers send a text sooner than a blob.
  const body = masks.length ? new Blob([text, ...masks]) : text;
  const headers = { "content-type": "application/octet-stream" };
  return call(path, { method: "POST", headers, body, signal });
}
