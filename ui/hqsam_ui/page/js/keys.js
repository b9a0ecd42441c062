// Keys that work everywhere on the page but where one types.

const FIELDS = "input[type=text], select";

/** Inputs that use keys themselves. */
const TYPING = `${FIELDS}, dialog *`;

/**
 * @param {Record<string, (event: KeyboardEvent) => void>} keys by `event.key`; "Ctrl+" and
 *   "Shift+" before it
 * @param {(digit: number) => void} onDigit
 */
export function listen(keys, onDigit) {
  window.addEventListener("keydown", (event) => {
    // Escape leaves a field, back to the keys of the page; so does Enter, once a class is chosen.
    if (event.target instanceof HTMLElement && event.target.matches(FIELDS) && (event.key === "Escape" || (event.key === "Enter" && event.target.matches("select")))) {
      event.preventDefault();
      return event.target.blur();
    }
    if (event.altKey || !(event.target instanceof Element) || event.target.matches(TYPING) || document.querySelector("dialog[open]")) return;
    const { key } = event;
    if (event.target.matches("input[type=range]") && key.startsWith("Arrow")) return;
    const modifier = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
    const shifted = `${modifier}${event.shiftKey ? "Shift+" : ""}${key.toLowerCase()}`;
    const plain = event.shiftKey && /^[a-z]$/i.test(key) ? undefined : (keys[modifier + key] ?? keys[modifier + key.toLowerCase()]);
    const digit = !modifier && /^[1-9]$/.test(key);
    const act = digit ? () => onDigit(Number(key)) : (keys[shifted] ?? plain);
    if (!act) return;
    // Buttons have the key themselves.
    if (key === "Enter" && !modifier && event.target.matches("button, a, input")) return;
    event.preventDefault();
    act(event);
  });
}
