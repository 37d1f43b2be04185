// A picture, and what one or several models make of it, beside what they would without tuning.

import { post } from "../api.js";
import { actionButton, announce, h, newId, put } from "../dom.js";
import { acceptDrops, chosenFiles, pastedPictures } from "../drop.js";
import { percent } from "../format.js";
import { showProblem } from "../problem.js";
import { answerColumn } from "./answers.js";
import { camera } from "./camera.js";
import { promptName } from "./classes.js";

const TOP = 5;

async function predict(picture, models, extra) {
  const form = new FormData();
  form.set("images", picture, picture.name || "picture");
  for (const model of models) form.append("model", model);
  form.set("top_k", String(TOP));
  for (const [name, value] of Object.entries(extra)) form.set(name, value);
  const told = await post("predict", form);
  return told.results ?? [told];
}

/** The names a model's classes have in prompts: zero-shot is asked with the same words. */
function promptNames({ model, report }) {
  const told = new Map((report?.dataset?.classes ?? []).map((one) => [one.label, one.name]));
  return new Map(model.labels.map((label) => [told.get(label) ?? promptName(label), label]));
}

async function zeroShot(picture, target, labels) {
  const names = labels === null ? promptNames(target) : new Map(labels.map((name) => [name, name]));
  if (names.size < 2) return null;
  const [told] = await predict(picture, ["zero-shot"], { labels: JSON.stringify([...names.keys()]), backbone: target.model.backbone });
  for (const prediction of told.predictions) for (const one of prediction.top) one.label = names.get(one.label) ?? one.label;
  return told;
}

/**
 * The panel.
 * @param {{id: string, title: string, model: object, report: object|null}[]} targets - Models to ask.
 * @returns {{element: Element, setTargets: Function}}
 */
export function trier(targets, signal) {
  let picture = null;
  let turn = 0;
  const [labelsId, zeroId] = [newId("labels"), newId("zero")];
  const image = h("img", { class: "tried", alt: "The picture that is tried", hidden: true });
  const answers = h("div", { class: "answers" });
  const labels = h("textarea", { id: labelsId, rows: 2, placeholder: "one name a line, or with commas", "aria-describedby": `${labelsId}-help` });
  const zero = h("input", { id: zeroId, type: "checkbox", checked: true });
  const input = h("input", { type: "file", accept: "image/*", class: "sr-only", tabindex: "-1", "aria-hidden": "true", "data-pick": "picture" });
  const cam = camera((file) => take(file), signal);

  function newNames() {
    const names = labels.value.split(/[\n,]/).map((one) => one.trim()).filter(Boolean);
    return names.length > 0 ? [...new Set(names)] : null;
  }

  async function ask() {
    if (picture === null || targets.length === 0) return;
    const mine = ++turn;
    answers.setAttribute("aria-busy", "true");
    const names = newNames();
    try {
      const extra = names ? { labels: JSON.stringify(names) } : {};
      const [tuned, plain] = await Promise.all([
        predict(picture, targets.map((one) => one.id), extra),
        zero.checked ? zeroShot(picture, targets[0], names) : null,
      ]);
      if (mine !== turn) return; // another picture was given meanwhile
      put(answers, tuned.map((result, i) => answerColumn(targets[i].title, result, "two")), plain && answerColumn("Zero-shot", plain, "one"));
      const [best] = tuned[0].predictions[0].top;
      if (best) announce(`${targets[0].title} says ${best.label}, ${percent(best.probability)}`);
    } catch (error) {
      if (mine === turn) showProblem(answers, error);
    } finally {
      if (mine === turn) answers.removeAttribute("aria-busy");
    }
  }

  function take(file) {
    picture = file;
    if (image.src) URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(file);
    image.hidden = false;
    return ask();
  }

  input.addEventListener("change", () => {
    const [first] = chosenFiles(input);
    input.value = "";
    if (first) take(first.file);
  });
  zero.addEventListener("change", ask);
  document.addEventListener("paste", (event) => {
    const [first] = pastedPictures(event);
    if (!first) return;
    event.preventDefault();
    take(first);
  }, { signal });
  signal.addEventListener("abort", () => image.src && URL.revokeObjectURL(image.src));

  const area = h("div", { class: "drop small" },
    h("p", {}, "Drop a picture here, paste one, or"),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", onclick: () => input.click() }, "Choose a picture"), input, cam?.button),
    cam?.element);
  acceptDrops(area, ([first]) => first && take(first.file));
  const element = h("div", { class: "trier" }, area,
    h("details", {}, h("summary", {}, "Other class names"),
      h("div", { class: "field" }, h("label", { for: labelsId }, "Classify among these names with the learned prompt"), labels,
        h("p", { class: "help", id: `${labelsId}-help` }, "New names are allowed. Empty: the model's own classes."),
        h("div", { class: "buttons" }, actionButton("Ask again", ask)))),
    h("p", { class: "check" }, zero, h("label", { for: zeroId }, "Zero-shot beside it")),
    h("div", { class: "tried-row" }, image, answers));
  return {
    element,
    setTargets(chosen) {
      targets = chosen;
      return ask();
    },
  };
}
