// What the audit of a data set found, and what can be done about it.

import { get, sendJson } from "../api.js";
import { actionButton, announce, given, h, put } from "../dom.js";
import { count } from "../format.js";
import { showProblem } from "../problem.js";
import { go } from "../router.js";
import { picturesAt } from "./classes.js";

const WAITING = new Set(["queued", "running"]);
const POLL_MS = 1500;

const WORDS = {
  structure: "No job has looked at the pictures.",
  queued: "A job is about to look at the pictures.",
  running: "A job is looking at the pictures…",
  done: "A job has looked at every picture.",
  failed: "The audit failed; what follows is what names and counts tell.",
  cancelled: "The audit was cancelled; what follows is what names and counts tell.",
};

function suggestion(dataset, finding, useConfig, place) {
  const { edit, config } = finding.suggest ?? {};
  if (edit) {
    const changes = Object.keys(edit.relabel ?? {}).length + (edit.remove ?? []).length;
    return actionButton(`Make a data set with ${count(changes, "correction")}`, async () => {
      const made = await sendJson("POST", `datasets/${dataset.id}/edit`, edit);
      go(`#/datasets/${made.id}`);
    }, { fail: (error) => showProblem(place, error) });
  }
  if (config) {
    const told = Object.entries(config).map(([name, value]) => `${name} = ${JSON.stringify(value)}`).join(", ");
    return actionButton(`Tune with ${told}`, async (button) => {
      useConfig(config);
      button.disabled = true;
      announce(`The tuning will use ${told}`);
    });
  }
  return null;
}

function detail(item) {
  const facts = Object.entries(item).filter(([name]) => name !== "path")
    .map(([name, value]) => `${name} ${typeof value === "number" ? Number(value.toFixed(3)) : Array.isArray(value) ? value.join(", ") : value}`);
  return h("li", {}, item.path !== undefined && h("code", {}, given(item.path)), item.path !== undefined && facts.length > 0 && ": ", given(facts.join(", ")));
}

function one(dataset, finding, useConfig) {
  const place = h("div", {});
  const pictures = h("div", { class: "thumbs" });
  const isPicture = finding.paths.some((path) => /\.\w{3,4}$/.test(path));
  const more = h("details", {}, h("summary", {}, `${count(finding.count, "case")}${finding.count > finding.paths.length ? `, ${finding.paths.length} shown` : ""}`),
    pictures, h("ul", { class: "faults" }, finding.items.length > 0 ? finding.items.map(detail) : finding.paths.map((path) => h("li", {}, h("code", {}, given(path))))));
  if (isPicture) {
    more.addEventListener("toggle", async () => {
      if (!more.open || pictures.childElementCount > 0) return;
      try {
        put(pictures, await picturesAt(dataset.id, finding.paths));
      } catch (error) {
        showProblem(pictures, error);
      }
    });
  }
  const warns = finding.severity === "warning";
  return h("li", { class: `notice ${warns ? "warn" : "info"}` },
    h("strong", {}, warns ? "Look: " : "Note: "), given(finding.message),
    finding.paths.length > 0 && more, suggestion(dataset, finding, useConfig, place), place);
}

/**
 * The findings, kept up to date while a job looks.
 * @param {(config: object) => void} useConfig - Takes what a finding suggests for the tuning.
 */
export function findings(dataset, useConfig, signal) {
  const status = h("p", { class: "quiet" });
  const list = h("ul", { class: "findings" });
  const element = h("div", {}, status, list);

  function show(audit) {
    const clean = audit.status === "done" && audit.findings.length === 0;
    status.textContent = clean ? "A job has looked at every picture and found nothing to mind." : WORDS[audit.status] ?? audit.status;
    put(list, audit.findings.map((finding) => one(dataset, finding, useConfig)));
  }

  async function watch() {
    let audit = dataset.audit;
    while (WAITING.has(audit.status) && !signal.aborted) {
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
      if (signal.aborted) return;
      try {
        const before = audit.status;
        ({ audit } = await get(`datasets/${dataset.id}`, { signal }));
        if (audit.status !== before) show(audit);
        if (!WAITING.has(audit.status)) announce(`Audit: ${status.textContent} ${count(audit.findings.length, "finding")}.`);
      } catch (error) {
        if (error.code !== "unreachable") return; // deleted meanwhile, or no longer allowed
      }
    }
  }

  show(dataset.audit);
  watch();
  return element;
}
