// Short ways to the document's elements.

/** @param {string} id @returns {HTMLElement} */
export const element = (id) => {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element ${id}`);
  return found;
};

/** @param {string} id */
export const button = (id) => /** @type {HTMLButtonElement} */ (element(id));

/** @param {string} id */
export const input = (id) => /** @type {HTMLInputElement} */ (element(id));

/** @param {string} id */
export const select = (id) => /** @type {HTMLSelectElement} */ (element(id));

/** @param {string} id @param {string} text */
export function write(id, text) {
  const target = element(id);
  // Screen readers would read an unchanged text again.
  if (target.textContent !== text) target.textContent = text;
}

/**
 * Make an element.
 *
 * @template {keyof HTMLElementTagNameMap} T
 * @param {T} tag
 * @param {Record<string, any>} attributes those that are functions listen: `onclick`, for example
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[T]}
 */
export function make(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/** @param {import("../model/classes.js").Rgb} color */
export function swatch(color) {
  const made = make("span", { class: "swatch" });
  made.style.backgroundColor = `rgb(${color.join(" ")})`;
  return made;
}

/** What rows of lists show. @type {WeakMap<Element, string>} */
const states = new WeakMap();

/**
 * Show rows in a list. Those whose state is the same stay as they are; the focus stays on the
 * control of the same `data-key`. Tells whether something changed.
 *
 * @template T
 * @param {HTMLElement} list @param {readonly T[]} all
 * @param {(one: T, place: number) => unknown} stateOf all that a row shows, as JSON; no two are the same
 * @param {(one: T, place: number) => Element} make
 */
export function renew(list, all, stateOf, make) {
  const before = new Map([...list.children].map((row) => [states.get(row), row]));
  const rows = all.map((one, place) => {
    const state = JSON.stringify(stateOf(one, place));
    const row = before.get(state) ?? make(one, place);
    states.set(row, state);
    return row;
  });
  if (rows.length === before.size && rows.every((row, i) => row === list.children[i])) return false;
  const { activeElement } = document;
  const focused = list.contains(activeElement) ? /** @type {HTMLElement} */ (activeElement).dataset.key : undefined;
  const staying = new Set(rows);
  for (const row of before.values()) if (!staying.has(row)) row.remove();
  rows.forEach((row, i) => row !== list.children[i] && list.insertBefore(row, list.children[i] ?? null));
  if (!focused || list.contains(document.activeElement)) return true;
  const again = list.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? list.querySelector("[aria-current=true]");
  if (again instanceof HTMLElement) again.focus();
  return true;
}
