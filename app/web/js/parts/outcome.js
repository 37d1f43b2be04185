// What came of a job that ended.

import { download, get } from "../api.js";
import { actionButton, given, h, put } from "../dom.js";
import { count, percent } from "../format.js";
import { showProblem } from "../problem.js";
import { modelResult } from "./result.js";

function openReport(path, filename, text, place) {
  return actionButton(text, () => download(path, filename, { Accept: "text/html" }), { fail: (error) => showProblem(place, error) });
}

async function comparison(place, job) {
  const told = await get(`jobs/${job.id}/comparison`);
  const problemPlace = h("div", {});
  put(place, h("section", {}, h("h2", {}, "Which is better"), h("p", {}, told.test?.words ?? ""),
    h("table", {}, h("caption", {}, "Best first"), h("thead", {}, h("tr", {}, ["Model", "Accuracy"].map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", {}, told.contestants.map((one) => h("tr", {}, h("th", { scope: "row" }, given(one.title ? `${one.title} v${one.version}` : one.name)), h("td", {}, percent(one.metrics?.accuracy)))))),
    openReport(`jobs/${job.id}/comparison`, "comparison.html", "Save the comparison as a page", problemPlace), problemPlace));
}

function batch(place, job) {
  const problemPlace = h("div", {});
  const save = (format) => actionButton(`Save as ${format.toUpperCase()}`, () => download(`jobs/${job.id}/results?format=${format}`, `${job.id}.${format}`), { fail: (error) => showProblem(problemPlace, error) });
  put(place, h("section", {}, h("h2", {}, "Answers"), h("p", {}, `${count(job.result?.images ?? 0, "file")} looked at, ${count(job.result?.unreadable ?? 0, "file")} unreadable.`),
    h("div", { class: "buttons" }, save("csv"), save("jsonl")), problemPlace));
}

/** Show it in `place`. */
export async function outcome(place, job, signal) {
  if (job.status !== "succeeded") {
    if (job.dataset_id) put(place, h("p", {}, h("a", { href: `#/datasets/${job.dataset_id}` }, "Back to the data set, to tune again")));
    return;
  }
  if (job.kind === "tune" && job.model_id) await modelResult(place, job.model_id, signal);
  else if (job.kind === "compare") await comparison(place, job);
  else if (job.kind === "predict") batch(place, job);
  else if (job.kind === "audit") put(place, h("p", {}, h("a", { href: `#/datasets/${job.dataset_id}` }, "What the audit found")));
}

