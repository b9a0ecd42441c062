// The calls of the page's server.

import { MASK_SIDE } from "./mask.js";

/**
 * @typedef {object} Opened A picture that the server knows.
 * @property {string} image_id
 * @property {number} width original pixels of the upright picture
 * @property {number} height
 * @property {boolean} known whether it had been encoded before
 * @property {number} seconds
 */

/** An answer that is no result, or none at all. */
export class CallError extends Error {
  /**
   * @param {string} code what to go by, such as "unavailable"
   * @param {string} message for the user
   */
  constructor(code, message) {
    super(message);
    this.code = code;
  }

  /** Whether the same call may succeed later, by itself. */
  get passing() {
    return ["unavailable", "offline", "timeout"].includes(this.code);
  }
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 * @returns {Promise<Response>}
 */
async function call(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "omit", ...options });
  } catch (error) {
    if (options?.signal?.aborted) throw error;
    throw new CallError("offline", "This page’s own server does not answer. Is hqsam ui still running?");
  }
  if (response.ok) return response;
  let answer = null;
  try {
    answer = await response.json();
  } catch {
    // Whatever stands between did not answer in our words.
  }
  throw new CallError(answer?.code ?? "failed", answer?.message ?? `The server answered ${response.status}.`);
}

/** @returns {Promise<{ready: boolean, url: string, max_bytes: number}>} */
export async function status() {
  return (await call("/api/status")).json();
}

/**
 * @param {Blob} file
 * @param {AbortSignal} signal
 * @returns {Promise<Opened>}
 */
export async function open(file, signal) {
  let body;
  try {
    // Read first: a file that was deleted or changed meanwhile is not a server that is gone.
    body = await file.arrayBuffer();
  } catch {
    throw new CallError("file", "The file cannot be read any more. Choose it again.");
  }
  const headers = { "content-type": "application/octet-stream" };
  return (await call("/api/pictures", { method: "POST", headers, body, signal })).json();
}

/**
 * @param {string} imageId
 * @param {object} prompt points, labels, box and mode
 * @param {Float32Array | null} refine logits of an earlier mask
 * @param {AbortSignal} signal
 * @returns {Promise<{logits: Float32Array, iou: number}>}
 */
export async function segment(imageId, prompt, refine, signal) {
  const response = await post(`/api/pictures/${imageId}/mask`, prompt, refine ? [refine] : [], signal);
  const logits = new Float32Array(await response.arrayBuffer());
  if (logits.length !== MASK_SIDE * MASK_SIDE) throw new CallError("failed", "The mask came back incomplete.");
  return { logits, iou: Number(response.headers.get("x-mask-iou")) };
}

/**
 * @param {string} imageId
 * @param {string} name of the download, such as "mask.png"
 * @param {object} fields
 * @param {Float32Array[]} masks
 * @returns {Promise<Blob>}
 */
export async function download(imageId, name, fields, masks) {
  return (await post(`/api/pictures/${imageId}/${name}`, fields, masks)).blob();
}

/**
 * A line of JSON, and behind it the masks as they are in memory.
 *
 * @param {string} path
 * @param {object} fields
 * @param {Float32Array[]} masks
 * @param {AbortSignal} [signal]
 */
function post(path, fields, masks, signal) {
  const body = new Blob([JSON.stringify(fields), "\n", ...masks]);
  const headers = { "content-type": "application/octet-stream" };
  return call(path, { method: "POST", headers, body, signal });
}
