// Where a job stands: its phases, how far it is, how long it will take.

import { h, put } from "../dom.js";
import { duration } from "../format.js";

const PHASES = {
  tune: ["unpacking", "encoding", "tuning", "evaluating", "saving"],
  audit: ["unpacking", "encoding", "auditing"],
  predict: ["unpacking", "predicting", "saving"],
  compare: ["unpacking", "encoding", "evaluating", "saving"],
};

const WORDS = {
  queued: "Waiting for its turn", running: "Running", succeeded: "Done", failed: "Failed", cancelled: "Cancelled",
};

/** The progress of a job; `show(job)` draws what is known of it now. */
export function phases(kind) {
  const bar = h("progress", { max: 1, "aria-label": "Progress of the job" });
  const words = h("p", { class: "standing" });
  const steps = h("ol", { class: "phases" });
  const known = PHASES[kind] ?? [];
  const items = new Map(known.map((phase) => [phase, h("li", {}, phase)]));
  put(steps, [...items.values()]);

  function told(job) {
    if (job.status === "queued") {
      const ahead = job.queue_position > 0 ? ` ${job.queue_position} before it.` : "";
      const soon = job.starts_in_seconds !== null && job.starts_in_seconds !== undefined ? ` Starts in about ${duration(job.starts_in_seconds)}.` : "";
      return `${WORDS.queued}.${ahead}${soon}`;
    }
    if (job.status !== "running") return WORDS[job.status] ?? job.status;
    if (job.cancel_requested) return "Stopping…";
    const { phase, stage, epoch, eta_seconds: eta } = job.progress;
    const where = [stage, epoch ? `epoch ${epoch}` : null].filter(Boolean).join(", ");
    return `${phase ?? "starting"}${where ? ` (${where})` : ""}${eta !== null && eta !== undefined ? `, about ${duration(eta)} left` : ""}`;
  }

  function show(job) {
    words.textContent = told(job);
    const { phase, step, total_steps: total } = job.progress;
    const ended = ["succeeded", "failed", "cancelled"].includes(job.status);
    if (job.status === "succeeded") bar.value = 1;
    else if (total > 0) bar.value = step / total;
    else if (!ended) bar.removeAttribute("value");
    else bar.value = 0;
    bar.classList.toggle("stopped", job.status === "failed" || job.status === "cancelled");
    const at = job.status === "succeeded" ? known.length : known.indexOf(phase);
    [...items.values()].forEach((item, i) => {
      item.className = i < at ? "past" : i === at ? (ended ? "stopped" : "now") : "";
      if (i === at && !ended) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
  }

  return { element: h("div", { class: "progress" }, words, bar, steps), show };
}
