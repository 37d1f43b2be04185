// An alias: the name under which programs ask for a model.

import { get, sendJson } from "../api.js";
import { actionButton, announce, given, h, newId, put } from "../dom.js";
import { showProblem } from "../problem.js";

/**
 * Point an alias to a model.
 * @param {string} modelId
 * @param {string[]} aliases - What points to it now.
 */
export function publisher(modelId, aliases) {
  const place = h("div", {});
  const now = h("p", {});
  const id = newId("alias");
  const names = newId("aliases");
  const list = h("datalist", { id: names });
  const input = h("input", { id, type: "text", list: names, placeholder: "champion", autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  const told = () => put(now, aliases.length === 0 ? "No alias points to it." : ["It answers as ", aliases.map((one, i) => [i > 0 && ", ", h("strong", {}, given(one))]), "."]);
  get("aliases?limit=200").then(({ items }) => put(list, items.map((one) => h("option", { value: one.alias })))).catch(() => {});
  const go = actionButton("Publish", async () => {
    put(place);
    const name = input.value.trim() || input.placeholder;
    const alias = await sendJson("PUT", `aliases/${encodeURIComponent(name)}`, { model: modelId });
    if (!aliases.includes(alias.alias)) aliases.push(alias.alias);
    told();
    const words = alias.previous && alias.previous !== modelId ? `“${alias.alias}” points here now; before, it was ${alias.previous}.` : `“${alias.alias}” points here now.`;
    put(place, h("p", { class: "notice good", role: "status" }, given(words)));
    announce(words);
  }, { fail: (error) => showProblem(place, error) });
  told();
  return h("div", {}, now, h("div", { class: "inline-form" }, h("label", { for: id }, "Publish as"), input, list, go), place);
}
