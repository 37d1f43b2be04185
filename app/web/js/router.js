// The part of the address after `#` says what is shown, so that reload, back and links work. Views end by a signal.

import { announce, h, put } from "./dom.js";
import { problemNotice } from "./problem.js";

let running = null;

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // half an escape; nothing is called that
  }
}

/** `#/jobs/ID?x=1` as { parts: ["jobs", "ID"], query }. */
export function whereabouts(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  return { parts: path.split("/").filter(Boolean).map(decoded), query: new URLSearchParams(query) };
}

/** Go somewhere; `replace` leaves no step to come back to. */
export function go(hash, { replace = false } = {}) {
  if (replace) location.replace(hash);
  else location.hash = hash;
}

/** Show what the address says again. */
export function reload() {
  window.dispatchEvent(new HashChangeEvent("hashchange"));
}

function mark(nav) {
  for (const link of document.querySelectorAll("[data-nav]")) {
    if (link.dataset.nav === nav) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function show(routes, main, focus) {
  running?.abort();
  running = new AbortController();
  const { signal } = running;
  const { parts, query } = whereabouts();
  const [name = "start", ...rest] = parts;
  const route = (rest.length > 0 ? routes[`${name}/`] : routes[name]) ?? routes["?"];
  mark(route.nav);
  const place = h("div", { class: "view" });
  put(main, place);
  try {
    await route.view(place, { id: rest[0], query, signal });
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    if (!error.problem) console.error(error);
    put(place, h("h1", { tabindex: "-1" }, "This cannot be shown"), problemNotice(error));
  }
  if (signal.aborted) return;
  const title = place.querySelector("h1");
  document.title = title ? `${title.textContent} – NPT Service` : "NPT Service";
  if (focus && title) {
    title.focus({ preventScroll: true });
    window.scrollTo(0, 0);
    announce(title.textContent);
  }
}

/**
 * Begin.
 * @param {object} routes - `name` and `name/` (with an id) to { nav, view(place, {id, query, signal}) }; `?` for the rest.
 */
export function startRouter(routes, main) {
  window.addEventListener("hashchange", () => show(routes, main, true));
  show(routes, main, false);
}
