// All data sets.

import { remove } from "../api.js";
import { actionButton, announce, given, h, put } from "../dom.js";
import { bytes, count, datasetTitle, when } from "../format.js";
import { confirmed } from "../parts/confirm.js";
import { listing } from "../parts/listing.js";

export async function datasetsView(place, { signal }) {
  const list = await listing({
    path: "datasets",
    caption: "Data sets, newest first",
    columns: ["Data set", "Pictures", "Classes", "Size", "Audit", "Stored", ""],
    placeholder: "file, class, id…",
    empty: h("span", {}, "No data set yet. ", h("a", { href: "#/" }, "Send one"), "."),
    words: (one) => [datasetTitle(one), one.id, ...one.classes.map((found) => found.label)].join(" "),
    cells: (one, drop, fail) => {
      const name = datasetTitle(one);
      const warnings = one.audit.findings.filter((found) => found.severity === "warning").length;
      return [
        h("a", { href: `#/datasets/${one.id}` }, given(name)), one.images.toLocaleString(),
        h("span", { title: one.classes.slice(0, 50).map((found) => found.label).join(", ") }, String(one.classes.length)), bytes(one.size_bytes),
        warnings > 0 ? count(warnings, "warning") : one.audit.status, when(one.created_at),
        h("div", { class: "row-buttons" },
          h("a", { class: "button", href: `#/datasets/${one.id}`, "aria-label": `Tune on ${name}` }, "Tune"),
          actionButton("Delete", async () => {
            if (!(await confirmed(`Delete ${name}?`, "Its pictures go. Models that were tuned on it hold it: the server refuses then."))) return;
            await remove(`datasets/${one.id}`);
            announce(`${name} is deleted`);
            drop();
          }, { fail, class: "danger", "aria-label": `Delete ${name}` })),
      ];
    },
  }, signal);
  put(place, h("h1", { tabindex: "-1" }, "Data sets"), h("p", {}, h("a", { class: "button", href: "#/" }, "Send another")), h("section", { "aria-label": "All data sets" }, list));
}
