// Light, dark, or what the system says. The choice stays in this browser.

import { memory } from "./memory.js";

const KEY = "npt-theme";
const kept = memory("localStorage");
const ORDER = ["system", "light", "dark"];
const listeners = new Set();

function current() {
  return document.documentElement.dataset.theme ?? "system";
}

function show(button) {
  button.textContent = `Theme: ${current()}`;
}

/** Call `redraw` whenever colours change: canvases do not follow style sheets. Returns a function that ends it. */
export function onThemeChange(redraw) {
  listeners.add(redraw);
  return () => listeners.delete(redraw);
}

/** The value of a colour of the style sheet, as it is now. */
export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

export function startTheme(button) {
  const changed = () => listeners.forEach((redraw) => redraw());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", changed);
  button.addEventListener("click", () => {
    const next = ORDER[(ORDER.indexOf(current()) + 1) % ORDER.length];
    if (next === "system") {
      delete document.documentElement.dataset.theme;
      kept.remove(KEY);
    } else {
      document.documentElement.dataset.theme = next;
      kept.set(KEY, next);
    }
    show(button);
    changed();
  });
  show(button);
}
