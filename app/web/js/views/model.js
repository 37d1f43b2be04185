// One model: its result, and what can be done with it.

import { download, remove } from "../api.js";
import { actionButton, given, h, put } from "../dom.js";
import { bytes, modelTitle, when } from "../format.js";
import { confirmed } from "../parts/confirm.js";
import { modelResult } from "../parts/result.js";
import { showProblem } from "../problem.js";
import { go } from "../router.js";

export async function modelView(place, { id, signal }) {
  const result = h("div", {});
  const model = await modelResult(result, id, signal, { geometry: true });
  const problemPlace = h("div", {});
  const fail = (error) => showProblem(problemPlace, error);
  const from = model.lineage.ancestors[0];
  put(place,
    h("h1", { tabindex: "-1" }, given(modelTitle(model))),
    h("p", { class: "quiet" }, `Tuned ${when(model.created_at)}, ${bytes(model.size_bytes)}. Id `, h("code", {}, model.id), "."),
    h("p", { class: "links" },
      model.dataset_id && h("a", { href: `#/datasets/${model.dataset_id}` }, "Its data set"),
      model.job_id && h("a", { href: `#/jobs/${model.job_id}` }, "Its tuning"),
      from && (from.present ? h("a", { href: `#/models/${from.id}` }, "The model it went on from") : h("span", {}, "It went on from a model that is not here"))),
    result,
    h("section", { "aria-labelledby": "manage-title" }, h("h2", { id: "manage-title" }, "Manage"),
      h("div", { class: "buttons" },
        actionButton("Export", () => download(`models/${id}/export`, `${id}.zip`, { Accept: "application/zip" }), { fail }),
        actionButton("Delete", async () => {
          if (!(await confirmed(`Delete ${modelTitle(model)}?`, "It cannot be brought back. Export it first if it may be wanted again."))) return;
          await remove(`models/${id}`);
          go("#/models", { replace: true });
        }, { fail, class: "danger" })), problemPlace));
}
