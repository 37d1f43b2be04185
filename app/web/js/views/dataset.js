// One data set: its classes, what the audit found, and the tuning that begins here.

import { get } from "../api.js";
import { given, h, put } from "../dom.js";
import { bytes, count, datasetTitle, when } from "../format.js";
import { classCards } from "../parts/classes.js";
import { findings } from "../parts/findings.js";
import { tuner } from "../parts/tuner.js";
import { problemNotice } from "../problem.js";

function balance(dataset) {
  const counts = dataset.classes.map((one) => one.images);
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  if (least === most) return `Every class has ${count(most, "picture")}.`;
  return `The classes have ${least} to ${most} pictures: the largest has ${(most / least).toFixed(1)} times the smallest.`;
}

function splits(dataset) {
  const names = Object.keys(dataset.splits);
  if (names.length < 2) return null;
  const total = (split) => Object.values(dataset.splits[split]).reduce((sum, n) => sum + n, 0);
  return h("p", {}, `Parts: ${names.map((name) => `${name} ${total(name)}`).join(", ")}.`);
}

function leftOut(dataset) {
  const skipped = Object.entries(dataset.skipped).map(([kind, n]) => `${n} ${kind}`);
  return [
    skipped.length > 0 && h("p", { class: "quiet" }, `Passed over: ${skipped.join(", ")}.`),
    dataset.left_out.length > 0 && h("details", {}, h("summary", {}, `${count(dataset.left_out.length, "file")} cannot be used`),
      h("ul", { class: "faults" }, dataset.left_out.slice(0, 100).map((one) => h("li", {}, h("code", {}, given(one.path)), ": ", given(one.message))))),
  ];
}

export async function datasetView(place, { id, signal }) {
  const dataset = await get(`datasets/${id}`, { signal });
  const title = datasetTitle(dataset);
  const cards = classCards(dataset);
  const panel = tuner(dataset, cards.names, title);
  put(place,
    h("h1", { tabindex: "-1" }, given(title)),
    h("p", { class: "lead" }, `${count(dataset.images, "picture")} in ${count(dataset.classes.length, "class", "classes")}, ${bytes(dataset.size_bytes)}, stored ${when(dataset.created_at)}.`),
    dataset.parent && h("p", { class: "quiet" }, "Made by an edit of ", h("a", { href: `#/datasets/${dataset.parent}` }, "another data set"), "."),
    h("section", { "aria-labelledby": "tune-title" }, h("h2", { id: "tune-title" }, "Tune"),
      h("p", { class: "quiet" }, "The settings are good as they are. Rename classes below if folders are not called what the pictures show."), panel.element),
    h("section", { "aria-labelledby": "classes-title" }, h("h2", { id: "classes-title" }, "Classes"),
      h("p", {}, balance(dataset)), splits(dataset), cards.element),
    h("section", { "aria-labelledby": "audit-title" }, h("h2", { id: "audit-title" }, "What the audit found"),
      findings(dataset, panel.use, signal), leftOut(dataset)));
  cards.load().catch((error) => cards.element.append(problemNotice(error)));
}
