// A picture and several models: what does each of them make of it?

import { all, get } from "../api.js";
import { given, h, newId, put } from "../dom.js";
import { count, modelTitle, percent } from "../format.js";
import { trier } from "../parts/trier.js";
import { showProblem } from "../problem.js";

const MOST = 16;

export async function tryView(place, { query, signal }) {
  const { items, more } = await all("models", 200);
  const wanted = new Set(query.getAll("model"));
  const heading = h("h1", { tabindex: "-1" }, "Try it");
  if (items.length === 0) {
    put(place, heading, h("p", {}, "There is no model yet. ", h("a", { href: "#/" }, "Make one"), "."));
    return;
  }
  const chosen = new Map();
  const panel = trier([], signal);
  const problemPlace = h("div", {});
  const search = h("input", { id: newId("search"), type: "search", placeholder: "name, method, class…" });
  const list = h("ul", { class: "choices" });

  async function reportOf(model) {
    return get(`models/${model.id}/report`, { signal }).catch((error) => {
      if (error.problem?.status === 404) return null;
      throw error;
    });
  }

  async function choose(model, on) {
    put(problemPlace);
    try {
      if (on) chosen.set(model.id, { id: model.id, title: modelTitle(model), model, report: await reportOf(model) });
      else chosen.delete(model.id);
      const targets = items.filter((one) => chosen.has(one.id)).map((one) => chosen.get(one.id));
      if (targets.length > MOST) put(problemPlace, h("p", { class: "notice warn", role: "alert" }, `At most ${MOST} models at once.`));
      await panel.setTargets(targets.slice(0, MOST));
    } catch (error) {
      showProblem(problemPlace, error);
    }
  }

  function entry(model, checked) {
    const id = newId("model");
    const box = h("input", { type: "checkbox", id, checked, onchange: () => choose(model, box.checked) });
    const measured = model.metrics?.tuned?.accuracy;
    return h("li", { data: { find: [modelTitle(model), model.method, ...model.labels].join(" ").toLowerCase() } }, box,
      h("label", { for: id }, h("strong", {}, given(modelTitle(model))), ` ${model.method}, ${count(model.labels.length, "class", "classes")}${measured === undefined ? "" : `, ${percent(measured)}`}`));
  }

  const first = items.some((one) => wanted.has(one.id)) ? wanted : new Set([items[0].id]);
  put(list, items.map((model) => entry(model, first.has(model.id))));
  search.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase();
    for (const one of list.children) one.hidden = text !== "" && !one.dataset.find.includes(text);
  });
  put(place, heading,
    h("section", { "aria-labelledby": "which-title" }, h("h2", { id: "which-title" }, "Which models"),
      items.length > 6 && h("div", { class: "field" }, h("label", { for: search.id }, "Find"), search), list,
      more && h("p", { class: "quiet" }, "The newest 200."), problemPlace),
    h("section", { "aria-labelledby": "picture-title" }, h("h2", { id: "picture-title" }, "The picture"), panel.element));
  for (const model of items) if (first.has(model.id)) await choose(model, true);
}
