// What went wrong, in the server's words.

import { given, h } from "./dom.js";

const MOST = 50;

function faults(errors) {
  const shown = errors.slice(0, MOST).map((one) =>
    h("li", {}, one.path ? [h("code", {}, given(one.path)), ": "] : null, given(one.message)));
  const rest = errors.length - shown.length;
  return h("ul", { class: "faults" }, shown, rest > 0 && h("li", {}, `and ${rest} more`));
}

/** A notice about an error; what is no refusal of the server is told as it is. */
export function problemNotice(error) {
  const problem = error.problem ?? { title: "The page made a mistake", detail: String(error.message ?? error) };
  const listed = problem.errors ?? [];
  const detail = problem.detail && problem.detail !== problem.title ? h("p", {}, given(problem.detail)) : null;
  return h("div", { class: "notice bad", role: "alert" },
    h("strong", {}, problem.title ?? "Refused"), detail, listed.length > 0 && faults(listed));
}

/** Show an error in a place that is kept for that, and bring it into view. */
export function showProblem(place, error) {
  if (error.name === "AbortError") return;
  if (!error.problem) console.error(error);
  const notice = problemNotice(error);
  place.replaceChildren(notice);
  notice.scrollIntoView({ block: "nearest" });
}
