// All models, and the names that programs ask for them by.

import { download, get, remove, sendJson } from "../api.js";
import { actionButton, announce, given, h, put } from "../dom.js";
import { count, modelTitle, percent, when } from "../format.js";
import { confirmed } from "../parts/confirm.js";
import { listing } from "../parts/listing.js";
import { showProblem } from "../problem.js";
import { go } from "../router.js";
import { upload } from "../upload.js";

function importer() {
  const place = h("div", {});
  const input = h("input", { type: "file", accept: ".zip,application/zip", class: "sr-only", tabindex: "-1", "aria-hidden": "true", "data-pick": "model" });
  input.addEventListener("change", async () => {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    put(place, h("p", { class: "quiet", role: "status" }, `Importing ${file.name}…`));
    try {
      const model = await upload("models/import", file);
      announce(`${modelTitle(model)} is imported`);
      go(`#/models/${model.id}`);
    } catch (error) {
      showProblem(place, error);
    }
  });
  return h("div", {}, h("div", { class: "buttons" }, h("button", { type: "button", onclick: () => input.click() }, "Import a model"), input,
    h("span", { class: "quiet" }, "A zip that “Export” made, here or on another server.")), place);
}

async function aliases(place, titles) {
  const { items } = await get("aliases?limit=200");
  const problemPlace = h("div", {});
  const fail = (error) => showProblem(problemPlace, error);
  const again = () => aliases(place, titles).catch(fail);
  const link = (id) => h("a", { href: `#/models/${id}` }, given(titles.get(id) ?? id));
  const row = (one) => h("tr", {}, h("th", { scope: "row" }, given(one.alias)), h("td", {}, link(one.model)),
    h("td", {}, one.previous ? link(one.previous) : "–"), h("td", {}, when(one.updated_at)),
    h("td", { class: "row-buttons" },
      one.previous && one.previous !== one.model && titles.has(one.previous) && actionButton("Roll back", async () => {
        await sendJson("PUT", `aliases/${encodeURIComponent(one.alias)}`, { model: one.previous });
        announce(`${one.alias} points to ${titles.get(one.previous)} again`);
        await again();
      }, { fail, "aria-label": `Roll ${one.alias} back` }),
      actionButton("Delete", async () => {
        if (!(await confirmed(`Delete the alias ${one.alias}?`, "The model stays; programs that ask for this name get an error."))) return;
        await remove(`aliases/${encodeURIComponent(one.alias)}`);
        await again();
      }, { fail, class: "danger", "aria-label": `Delete the alias ${one.alias}` })));
  put(place, h("h2", { id: "aliases-title" }, "Aliases"), problemPlace,
    items.length === 0 ? h("p", { class: "quiet" }, "None yet. “Publish” on a model's page makes one: a name that you move to the next version, and back.")
      : h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "List of aliases" }, h("table", { class: "listing" },
        h("thead", {}, h("tr", {}, ["Alias", "Model", "Before", "Moved"].map((text) => h("th", { scope: "col" }, text)), h("th", { scope: "col" }, h("span", { class: "sr-only" }, "Actions")))),
        h("tbody", {}, items.map(row)))));
}

export async function modelsView(place, { signal }) {
  const titles = new Map();
  const list = await listing({
    path: "models",
    caption: "Models, newest first",
    columns: ["Model", "Method", "Classes", "Accuracy", "Zero-shot", "Made", ""],
    placeholder: "name, method, class, id…",
    empty: h("span", {}, "No model yet. ", h("a", { href: "#/" }, "Make one"), "."),
    words: (one) => [modelTitle(one), one.id, one.method, one.regularizer, one.backbone, ...one.labels].join(" "),
    cells: (one, drop, fail) => {
      const name = modelTitle(one);
      titles.set(one.id, name);
      return [
        h("a", { href: `#/models/${one.id}` }, given(name)), `${one.method}${one.regularizer !== "none" ? ` + ${one.regularizer}` : ""}`,
        h("span", { title: one.labels.slice(0, 50).join(", ") }, count(one.labels.length, "class", "classes")),
        percent(one.metrics?.tuned?.accuracy), percent(one.metrics?.zero_shot?.accuracy), when(one.created_at),
        h("div", { class: "row-buttons" },
          h("a", { class: "button", href: `#/try?model=${one.id}`, "aria-label": `Try ${name}` }, "Try"),
          actionButton("Export", () => download(`models/${one.id}/export`, `${one.id}.zip`, { Accept: "application/zip" }), { fail, "aria-label": `Export ${name}` }),
          actionButton("Delete", async () => {
            if (!(await confirmed(`Delete ${name}?`, "It cannot be brought back. Export it first if it may be wanted again."))) return;
            await remove(`models/${one.id}`);
            announce(`${name} is deleted`);
            drop();
          }, { fail, class: "danger", "aria-label": `Delete ${name}` })),
      ];
    },
  }, signal);
  const aliasPlace = h("section", { "aria-labelledby": "aliases-title" });
  put(place, h("h1", { tabindex: "-1" }, "Models"), importer(), h("section", { "aria-label": "All models" }, list), aliasPlace);
  await aliases(aliasPlace, titles);
}
