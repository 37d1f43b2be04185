// What a tuning came to: beside zero-shot, what is taken for what, how to use it.

import { download, get } from "../api.js";
import { actionButton, given, h, put } from "../dom.js";
import { count, modelTitle, number, percent } from "../format.js";
import { storedKey } from "../key.js";
import { showProblem } from "../problem.js";
import { confusion } from "./confusion.js";
import { geometryView } from "./geometry.js";
import { publisher } from "./publish.js";
import { snippets } from "./snippets.js";
import { trier } from "./trier.js";

function section(id, title, ...inside) {
  return h("section", { "aria-labelledby": `${id}-title`, id }, h("h2", { id: `${id}-title` }, title), inside);
}

function words(paired) {
  const { difference, p_value: p } = paired;
  const points = `${Math.abs(100 * difference).toFixed(1)} points`;
  if (difference === 0) return "Tuned and zero-shot are right equally often.";
  const sure = p < 0.05 ? `more than chance (p = ${p.toPrecision(2)})` : `which can be chance (p = ${p.toPrecision(2)})`;
  return `Tuned is ${points} ${difference > 0 ? "better" : "worse"}, ${sure}.`;
}

function one(name, told, colour) {
  const [low, high] = told.accuracy_interval ?? [null, null];
  return h("div", { class: `figure ${colour}` }, h("dt", {}, name), h("dd", {}, h("b", {}, percent(told.accuracy)),
    low !== null && h("small", {}, `95 %: ${percent(low, 0)} to ${percent(high, 0)}`)));
}

function beside(report) {
  const { zero_shot: before, tuned: after, paired } = report.metrics;
  if (!after) return h("p", { class: "notice warn" }, h("strong", {}, "Not measured. "), given(report.evaluation.reason));
  const worst = [...after.per_class].filter((row) => row.support > 0).sort((a, b) => a.f1 - b.f1).slice(0, 5);
  const line = (label) => before.per_class.find((row) => row.label === label);
  return [
    h("dl", { class: "numbers" }, one("Tuned", after, "two"), one("Zero-shot", before, "one")),
    h("p", {}, words(paired), ` Measured on ${count(after.count, "picture")} that it was not tuned on: tuning put ${paired.only_tuned_right} right and ${paired.only_zero_shot_right} wrong.`),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Weakest classes" }, h("table", {}, h("caption", {}, "The weakest classes"),
      h("thead", {}, h("tr", {}, ["Class", "Pictures", "F1 tuned", "F1 zero-shot", "Precision", "Recall"].map((text, i) => h("th", { scope: "col", class: i > 0 && "number" }, text)))),
      h("tbody", {}, worst.map((row) => h("tr", {}, h("th", { scope: "row" }, given(row.label)), [row.support, number(row.f1, 2), number(line(row.label)?.f1, 2), number(row.precision, 2), number(row.recall, 2)].map((value) => h("td", { class: "number" }, String(value)))))))),
  ];
}

function report(model, place) {
  if (storedKey()) {
    return actionButton("Save the report", () => download(`models/${model.id}/report`, `${model.id}.html`, { Accept: "text/html" }), { fail: (error) => showProblem(place, error) });
  }
  return h("a", { class: "button", href: `models/${model.id}/report`, target: "_blank", rel: "noopener" }, "Open the report");
}

function shapes(report) {
  const { pictures, initial, tuned } = report.geometry;
  if (!pictures?.initial && !pictures?.tuned) return null;
  const view = geometryView(report.dataset.classes.map((one) => one.label));
  view.add({ title: "before the first step", picture: pictures.initial, numbers: initial });
  view.add({ title: "tuned", picture: pictures.tuned, numbers: tuned });
  return view.element;
}

/** Everything about a model's result, in `place`; also on the page of the job that made it. */
export async function modelResult(place, modelId, signal, { geometry = false } = {}) {
  const [model, told] = await Promise.all([get(`models/${modelId}`, { signal }), get(`models/${modelId}/report`, { signal }).catch((error) => {
    if (error.problem?.status === 404) return null; // imported without one
    throw error;
  })]);
  const problemPlace = h("div", {});
  const name = modelTitle(model);
  const shape = geometry && told ? shapes(told) : null;
  put(place,
    section("result", "Result",
      h("p", {}, h("strong", {}, given(name)), `: ${model.method}${model.regularizer && model.regularizer !== "none" ? ` with ${model.regularizer}` : ""} on ${model.backbone}, ${count(model.labels.length, "class", "classes")}.`),
      told ? beside(told) : h("p", { class: "notice info" }, "There is no report with this model."),
      h("div", { class: "buttons" }, told && report(model, problemPlace),
        h("a", { class: "button", href: `#/models/${model.id}` }, "The model")), problemPlace),
    section("try", "Try it", trier([{ id: model.id, title: name, model, report: told }], signal).element),
    told?.metrics.tuned && section("confusion", "What is taken for what", confusion(told)),
    shape && section("geometry", "Geometry of the classes", shape),
    section("publish", "Publish", publisher(model.id, [...model.aliases])),
    section("use", "Use it", snippets(model.id)));
  return model;
}
