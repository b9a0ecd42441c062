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

/**
 * Replace a list's rows if something in them changed; the focus stays on the row's control of the
 * same `data-key`.
 *
 * @param {HTMLElement} list @param {string} state of the rows @param {() => Node[]} rows
 */
export function renew(list, state, rows) {
  if (list.dataset.state === state) return;
  list.dataset.state = state;
  const focused = list.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement).dataset.key : undefined;
  list.replaceChildren(...rows());
  if (!focused) return;
  const again = list.querySelector(`[data-key="${CSS.escape(focused)}"]`) ?? list.querySelector("[aria-current=true]");
  if (again instanceof HTMLElement) again.focus();
}
