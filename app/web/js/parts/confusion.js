// What is taken for what, as a table one can click into: the pictures behind each number.

import { announce, given, h, newId, put } from "../dom.js";
import { count } from "../format.js";
import { showProblem } from "../problem.js";
import { picturesAt } from "./classes.js";

const MOST = 24;
const PICTURES = 60;

/** Classes to show: all of few; of many, those of the most frequent mistakes. */
function chosen(matrix) {
  if (matrix.length <= MOST) return matrix.map((_, i) => i);
  const pairs = matrix.flatMap((row, i) => row.map((n, j) => [n, i, j])).filter(([n, i, j]) => n > 0 && i !== j).sort((a, b) => b[0] - a[0]);
  const kept = new Set();
  for (const [, i, j] of pairs) {
    if (kept.size >= MOST - 1) break;
    kept.add(i).add(j);
  }
  for (let i = 0; kept.size < Math.min(MOST, matrix.length); i += 1) kept.add(i);
  return [...kept].sort((a, b) => a - b);
}

async function pictures(place, report, [i, j], which, labels) {
  const { samples, answers } = report.evaluation;
  const right = i === j;
  const words = right ? `${labels[i]}, and taken for it` : `${labels[i]}, taken for ${labels[j]}`;
  const known = report.examples?.wrong.filter((one) => one.label === labels[i] && one.predicted === labels[j]) ?? [];
  const paths = answers ? samples.filter((_, n) => answers.label[n] === i && answers[which][n] === j) : known.map((one) => one.path);
  const title = h("h3", {}, given(words), ` (${count(paths.length, "picture")})`);
  const shown = paths.slice(0, PICTURES);
  const thumbs = h("div", { class: "thumbs" });
  put(place, title, thumbs, paths.length > shown.length && h("p", { class: "quiet" }, `The first ${shown.length}.`));
  announce(`${words}: ${count(paths.length, "picture")}`);
  try {
    const found = shown.length > 0 && report.dataset.id ? await picturesAt(report.dataset.id, shown) : [];
    put(thumbs, found.length > 0 ? found : shown.map((path) => h("code", {}, given(path))));
  } catch (error) {
    if (error.problem?.status !== 404) return showProblem(thumbs, error);
    put(thumbs, known.map((one) => one.image && h("img", { class: "thumb", src: one.image, alt: one.path })),
      h("p", { class: "quiet" }, "The data set is not on this server any more: ", given(shown.join(", "))));
  }
}

/** The matrix of a report, tuned first, zero-shot at a click. */
export function confusion(report) {
  const labels = report.dataset.classes.map((one) => one.label);
  const behind = h("div", { class: "behind" });
  const table = h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" });
  const group = newId("which");

  function draw(which) {
    const matrix = report.metrics[which].confusion;
    const indices = chosen(matrix);
    const most = Math.max(1, ...indices.map((i) => Math.max(...indices.map((j) => matrix[i][j]))));
    const cell = (i, j) => {
      const n = matrix[i][j];
      if (n === 0) return h("td", { class: "cell empty" }, "·");
      const kind = i === j ? "right" : "wrong";
      const button = h("button", { type: "button", "aria-label": `${labels[i]} taken for ${labels[j]}: ${n}`, onclick: () => {
        table.querySelectorAll("[aria-pressed]").forEach((one) => one.removeAttribute("aria-pressed"));
        button.setAttribute("aria-pressed", "true");
        pictures(behind, report, [i, j], which, labels);
      } }, String(n));
      return h("td", { class: `cell ${kind}`, style: { "--weight": `${Math.round(15 + (65 * n) / most)}%` } }, button);
    };
    put(behind, h("p", { class: "quiet" }, "Choose a number to see its pictures."));
    put(table, h("table", { class: "confusion" },
      h("caption", {}, "Rows: what a picture shows. Columns: what it was taken for."),
      h("thead", {}, h("tr", {}, h("td", {}), indices.map((j) => h("th", { scope: "col", title: labels[j] }, given(labels[j]))))),
      h("tbody", {}, indices.map((i) => h("tr", {}, h("th", { scope: "row", title: labels[i] }, given(labels[i])), indices.map((j) => cell(i, j)))))));
  }

  const choice = (which, text, checked) => {
    const id = newId("which");
    return [h("input", { type: "radio", id, name: group, checked, onchange: () => draw(which) }), h("label", { for: id }, text)];
  };
  const rest = labels.length > MOST && h("p", { class: "quiet" }, `Of ${labels.length} classes, those of the most frequent mistakes; the report has more.`);
  draw("tuned");
  return h("div", {}, h("fieldset", { class: "choice" }, h("legend", { class: "sr-only" }, "Whose answers"), choice("tuned", "Tuned", true), choice("zero_shot", "Zero-shot", false)), table, rest, behind);
}
