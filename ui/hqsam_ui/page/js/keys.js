// Keys that work everywhere on the page but where one types.

/** Inputs that use keys themselves. */
const TYPING = "input[type=text], select, textarea, dialog *";

/**
 * @param {Record<string, (event: KeyboardEvent) => void>} keys by `event.key`; "Ctrl+" and
 *   "Shift+" before it
 * @param {(digit: number) => void} onDigit
 */
export function listen(keys, onDigit) {
  window.addEventListener("keydown", (event) => {
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
