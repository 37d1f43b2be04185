// The classes of a data set: some pictures of each, how many there are, and what each is called in the prompts.

import { get } from "../api.js";
import { actionButton, announce, given, h, newId, put } from "../dom.js";
import { count } from "../format.js";
import { showProblem } from "../problem.js";

const AT_FIRST = 60;
const EACH = 4;
const MORE = 60;

/** A class name as the server reads it in a prompt. */
export function promptName(label) {
  return label.replaceAll("_", " ");
}

function picture(one) {
  if (one.image === null) return h("span", { class: "thumb missing", role: "img", "aria-label": `${one.path}: ${one.message}` }, "?");
  return h("img", { class: "thumb", src: one.image, alt: one.path, title: one.path, loading: "lazy" });
}

/** Pictures of a data set by their paths. */
export async function picturesAt(datasetId, paths, { side = 64 } = {}) {
  const query = paths.map((path) => `path=${encodeURIComponent(path)}`).join("&");
  const page = await get(`datasets/${datasetId}/thumbnails?side=${side}&limit=100&${query}`);
  return page.items.map(picture);
}

function card(dataset, { label, images }, most, names) {
  const id = newId("name");
  const thumbs = h("div", { class: "thumbs" });
  const preset = promptName(label);
  const input = h("input", { id, type: "text", value: preset, maxlength: 200, autocomplete: "off", data: { label } });
  input.addEventListener("input", () => {
    if (input.value.trim() === "" || input.value === preset) names.delete(label);
    else names.set(label, input.value.trim());
    element.classList.toggle("renamed", names.has(label));
  });
  const more = images > EACH && actionButton(`Show ${Math.min(images, MORE)} pictures`, async (button) => {
    const page = await get(`datasets/${dataset.id}/thumbnails?label=${encodeURIComponent(label)}&limit=${MORE}`);
    put(thumbs, page.items.map(picture));
    button.remove();
    announce(`${page.items.length} pictures of ${label}`);
  }, { class: "link", fail: (error) => showProblem(thumbs, error) });
  const bar = h("span", { class: "share", "aria-hidden": "true" }, h("span", { style: { width: `${Math.max(2, (100 * images) / most)}%` } }));
  const element = h("li", { class: "class-card" }, thumbs,
    h("div", { class: "class-facts" },
      h("label", { for: id }, "Folder ", h("strong", {}, given(label)), ", called"), input,
      h("p", { class: "counted" }, count(images, "picture"), bar), more));
  return { element, thumbs, label };
}

/**
 * The cards of all classes.
 * @param {object} dataset - As the API tells it.
 * @returns {{element: Element, names: Map<string, string>, load: () => Promise<void>}} `names`: what was renamed.
 */
export function classCards(dataset) {
  const names = new Map();
  const most = Math.max(...dataset.classes.map((one) => one.images));
  const list = h("ul", { class: "class-cards" });
  const rest = h("div", {});
  const cards = new Map();
  let made = 0;

  const small = (classes) => classes.reduce((sum, one) => sum + Math.min(EACH, one.images), 0);

  async function fill(from, to) { // pictures come class by class, in the order of the cards
    let at = small(dataset.classes.slice(0, from));
    const end = at + small(dataset.classes.slice(from, to));
    while (at < end) {
      const limit = Math.min(100, end - at);
      const page = await get(`datasets/${dataset.id}/thumbnails?per_class=${EACH}&limit=${limit}&cursor=${at}`);
      for (const one of page.items) cards.get(one.label)?.thumbs.append(picture(one));
      at += limit;
    }
  }

  async function grow(n) {
    const from = made;
    const some = dataset.classes.slice(from, from + n);
    made += some.length;
    for (const one of some) {
      const drawn = card(dataset, one, most, names);
      cards.set(one.label, drawn);
      list.append(drawn.element);
    }
    const left = dataset.classes.length - made;
    put(rest, left > 0 && actionButton(`Show ${Math.min(left, AT_FIRST)} more of ${dataset.classes.length} classes`, () => grow(AT_FIRST), { fail: (error) => showProblem(rest, error) }));
    await fill(from, made);
  }

  return { element: h("div", {}, list, rest), names, load: () => grow(AT_FIRST) };
}
