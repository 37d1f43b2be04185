// One job, live: what it does, how it goes, and at its end what came of it. A page that is loaded again takes all of it up.

import { get, post } from "../api.js";
import { curve } from "../charts.js";
import { actionButton, announce, given, h, put } from "../dom.js";
import { jobTitle, percent, when } from "../format.js";
import { geometryView } from "../parts/geometry.js";
import { phases } from "../parts/phases.js";
import { outcome } from "../parts/outcome.js";
import { problemNotice, showProblem } from "../problem.js";
import { follow } from "../sse.js";

const ENDED = new Set(["succeeded", "failed", "cancelled"]);

function legendOf(chart, place) {
  put(place, chart.legend().map(([stage, colour]) => h("span", { class: `key ${colour}` }, stage)));
}

/** The two curves of a tuning. */
function curves(signal) {
  const [lossPlace, accuracyPlace] = [h("div", { class: "chart" }), h("div", { class: "chart" })];
  const [lossKeys, accuracyKeys] = [h("p", { class: "keys" }), h("p", { class: "keys" })];
  const loss = curve(lossPlace, { title: "Loss" }, signal);
  const accuracy = curve(accuracyPlace, { title: "Accuracy while tuning", share: true }, signal);
  const element = h("div", { class: "columns" },
    h("figure", {}, h("h3", {}, "Loss"), lossPlace, lossKeys),
    h("figure", {}, h("h3", {}, "Accuracy while tuning"), accuracyPlace, accuracyKeys, h("figcaption", {}, "On the pictures it is tuned on; what counts is measured on others at the end.")));
  return {
    element,
    add(progress) {
      if (progress.phase !== "tuning") return;
      const stage = progress.stage ?? "tuning";
      loss.add(stage, progress.epoch, progress.loss);
      accuracy.add(stage, progress.epoch, progress.accuracy);
      legendOf(loss, lossKeys);
      legendOf(accuracy, accuracyKeys);
    },
  };
}

/** Labels of the model that a tuning makes, in its order: a parent's first. */
async function labelsOf(job) {
  try {
    const own = (await get(`datasets/${job.dataset_id}`)).classes.map((one) => one.label);
    const old = job.config.parent ? (await get(`models/${job.config.parent}`)).labels : [];
    return [...old, ...own.filter((label) => !old.includes(label))];
  } catch {
    return []; // deleted meanwhile: numbers stand for them
  }
}

export async function jobView(place, { id, signal }) {
  let job = await get(`jobs/${id}`, { signal });
  const tunes = job.kind === "tune";
  const standing = phases(job.kind);
  const line = h("div", {});
  const result = h("div", {});
  const warnings = h("div", {});
  const problemPlace = h("div", {});
  const charts = tunes ? curves(signal) : null;
  const shape = tunes ? geometryView(await labelsOf(job)) : null;
  const numbers = h("p", { class: "now-numbers" });
  const cancel = actionButton("Cancel", async () => {
    job = { ...job, ...(await post(`jobs/${id}/cancel`)) };
    show();
  }, { fail: (error) => showProblem(problemPlace, error), id: "cancel" });
  const live = charts && h("section", { "aria-labelledby": "live-title" }, h("h2", { id: "live-title" }, "How it goes"), charts.element, shape.element);

  function show() {
    standing.show(job);
    cancel.hidden = ENDED.has(job.status);
    cancel.disabled = job.cancel_requested;
    const { loss, accuracy } = job.progress;
    numbers.textContent = job.status === "running" && loss !== null && loss !== undefined
      ? `Loss ${loss.toFixed(3)}, accuracy while tuning ${percent(accuracy)}` : "";
    put(warnings, job.warnings.map((text) => h("p", { class: "notice warn" }, h("strong", {}, "Mind: "), given(text))));
  }

  function end() {
    show();
    announce(`${jobTitle(job)}: ${job.status}`);
    if (job.error) put(problemPlace, problemNotice({ problem: job.error }));
    outcome(result, job, signal).catch((error) => {
      if (!signal.aborted) showProblem(result, error);
    });
  }

  const on = {
    event(kind, data) {
      put(line);
      if (kind === "snapshot") job = data;
      else if (kind === "status") job = { ...job, status: data.status, queue_position: null };
      else if (kind === "progress") {
        job = { ...job, status: ENDED.has(job.status) ? job.status : "running", progress: data };
        charts?.add(data);
      } else if (kind === "geometry") {
        shape?.add({ title: `${data.stage ?? "tuning"}, epoch ${data.epoch}`, picture: data.picture, numbers: data.geometry });
      } else if (kind === "end") {
        job = data;
        end();
        return;
      }
      show();
    },
    lost: () => put(line, h("p", { class: "notice warn", role: "status" }, h("strong", {}, "The connection is lost. "), "The job goes on; this view does too as soon as the server answers.")),
    back: () => put(line),
    refused: (error) => showProblem(problemPlace, error),
  };

  put(place,
    h("h1", { tabindex: "-1" }, given(jobTitle(job))),
    h("p", { class: "quiet" }, `Asked for ${when(job.created_at)}.`, job.dataset_id && [" ", h("a", { href: `#/datasets/${job.dataset_id}` }, "The data set"), "."]),
    line,
    h("section", { "aria-label": "Progress" }, standing.element, numbers, problemPlace, warnings, h("div", { class: "buttons" }, cancel)),
    result, live);
  show();
  follow(id, on, signal);
}
