// All jobs.

import { post } from "../api.js";
import { actionButton, given, h, put } from "../dom.js";
import { jobTitle, percent, when } from "../format.js";
import { listing } from "../parts/listing.js";

function came(job) {
  if (job.error) return given(job.error.title ?? job.error.detail);
  if (job.model_id) return h("a", { href: `#/models/${job.model_id}` }, job.metrics?.tuned ? `model, ${percent(job.metrics.tuned.accuracy)}` : "model");
  const { step, total_steps: total } = job.progress;
  return job.status === "running" && total > 0 ? percent(step / total, 0) : "";
}

export async function jobsView(place, { query, signal }) {
  const status = query.get("status") ?? "";
  const choices = ["", "running", "queued", "succeeded", "failed", "cancelled"];
  const filter = h("p", { class: "links" }, choices.map((one) => h("a", {
    href: one ? `#/jobs?status=${one}` : "#/jobs", "aria-current": one === status ? "true" : null,
  }, one || "all")));
  const list = await listing({
    path: status ? `jobs?status=${encodeURIComponent(status)}` : "jobs",
    caption: "Jobs, newest first",
    columns: ["Job", "State", "Came to", "Asked for", ""],
    placeholder: "name, kind, state, id…",
    empty: status ? `No job is ${status}.` : "No job yet.",
    words: (one) => [jobTitle(one), one.kind, one.id, one.status, one.config?.method].join(" "),
    cells: (one, drop, fail) => {
      const state = h("span", { class: `state ${one.status}` }, one.status);
      const cancel = ["queued", "running"].includes(one.status) && actionButton("Cancel", async (button) => {
        const told = await post(`jobs/${one.id}/cancel`);
        state.textContent = told.status === "cancelled" ? told.status : "stopping";
        button.remove();
      }, { fail, "aria-label": `Cancel ${jobTitle(one)}` });
      return [h("a", { href: `#/jobs/${one.id}` }, given(jobTitle(one))), state, came(one), when(one.created_at), h("div", { class: "row-buttons" }, cancel)];
    },
  }, signal);
  put(place, h("h1", { tabindex: "-1" }, "Jobs"), h("section", { "aria-label": "All jobs" }, filter, list));
}
