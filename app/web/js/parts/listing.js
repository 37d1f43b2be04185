// A list of the server with a search, page by page.

import { get } from "../api.js";
import { actionButton, announce, h, newId, put } from "../dom.js";
import { count } from "../format.js";
import { showProblem } from "../problem.js";

const PAGE = 100;
const MOST = 5000;

/**
 * A table that is searched while one types: all pages are read then.
 * @param {object} what
 * @param {string} what.path - Of the list.
 * @param {string} what.caption
 * @param {string[]} what.columns
 * @param {(item: object, drop: () => void, fail: (error: Error) => void) => (string|Node)[]} what.cells - The first is the
 *   row's heading; `drop` takes the row away.
 * @param {(item: object) => string} what.words - What the search looks at.
 * @param {string} what.placeholder - Of the search.
 * @param {Node|string} what.empty - Shown where there is nothing.
 */
export async function listing({ path, caption, columns, cells, words, placeholder, empty }, signal) {
  const search = h("input", { id: newId("search"), type: "search", placeholder, autocomplete: "off" });
  const body = h("tbody");
  const said = h("p", { class: "quiet", role: "status" });
  const problemPlace = h("div", {});
  const foot = h("div", {});
  const fail = (error) => showProblem(problemPlace, error);
  const rows = [];
  let cursor = null;
  let done = false;

  async function read() {
    const mark = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}limit=${PAGE}${mark}`, { signal });
    cursor = page.next_cursor;
    done = cursor === null;
    for (const item of page.items) {
      const row = h("tr");
      const drop = () => {
        rows.splice(rows.findIndex((one) => one.row === row), 1);
        row.remove();
        show();
        search.focus();
      };
      const [head, ...rest] = cells(item, drop, fail);
      put(row, h("th", { scope: "row" }, head), rest.map((cell) => h("td", {}, cell)));
      rows.push({ row, text: words(item).toLowerCase() });
      body.append(row);
    }
  }

  function show() {
    const wanted = search.value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const { row, text } of rows) {
      row.hidden = !wanted.every((word) => text.includes(word));
      seen += row.hidden ? 0 : 1;
    }
    const all = `${rows.length}${done ? "" : " or more"}`;
    said.textContent = wanted.length > 0 ? `${seen} of ${all}` : count(rows.length, "entry", "entries") + (done ? "" : " so far");
    put(foot, !done && actionButton("Show more", async () => {
      await read();
      show();
    }, { fail }), done && rows.length === 0 && h("p", {}, empty));
    table.hidden = rows.length === 0;
  }

  search.addEventListener("input", async () => {
    show();
    try {
      while (!done && rows.length < MOST && search.value.trim() !== "") {
        await read();
        show();
      }
    } catch (error) {
      if (!signal.aborted) fail(error);
    }
    announce(said.textContent);
  });

  const table = h("div", { class: "scroll tall", tabindex: "0", role: "region", "aria-label": caption }, h("table", { class: "listing" },
    h("caption", { class: "sr-only" }, caption),
    h("thead", {}, h("tr", {}, columns.map((text) => h("th", { scope: "col" }, text || h("span", { class: "sr-only" }, "Actions"))))), body));
  await read();
  show();
  return h("div", {}, h("div", { class: "field" }, h("label", { for: search.id }, "Find"), search), said, problemPlace, table, foot);
}
