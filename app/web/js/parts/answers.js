// What models say of a picture: a column each, their best classes as bars.

import { given, h } from "../dom.js";
import { percent } from "../format.js";
import { problemNotice } from "../problem.js";

function bar({ label, probability, similarity }, best) {
  const told = similarity === null ? "" : ` (similarity ${similarity.toFixed(3)})`;
  return h("li", { class: best ? "best" : "", title: `${label}: ${percent(probability, 2)}${told}` },
    h("span", { class: "answer-label" }, given(label)),
    h("span", { class: "answer-bar", "aria-hidden": "true" }, h("span", { style: { width: `${Math.max(0.5, 100 * probability)}%` } })),
    h("span", { class: "answer-share" }, percent(probability)));
}

/**
 * One column.
 * @param {string} title - Whose answer.
 * @param {object} result - One entry of what `/predict` says, of one picture.
 */
export function answerColumn(title, result, colour) {
  const [prediction] = result.predictions;
  return h("div", { class: `answer ${colour}` },
    h("h3", {}, given(title)),
    prediction.error ? problemNotice({ problem: prediction.error }) : h("ol", {}, prediction.top.map((one, i) => bar(one, i === 0))),
    prediction.rejected && h("p", { class: "notice warn" }, h("strong", {}, "Not sure enough. "), `Its best probability is below ${result.reject_below}.`),
    h("p", { class: "quiet" }, result.calibrated ? "Its probabilities were calibrated on pictures it was not tuned on." : "Its probabilities are not calibrated."),
    (result.warnings ?? []).map((text) => h("p", { class: "notice warn" }, given(text))));
}
