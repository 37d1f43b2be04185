// Calls of the server. What it refuses becomes an ApiProblem with its own words.

import { askForKey, keyHeaders } from "./key.js";

/** A refusal: the problem document of the server, or one of ours where no answer came. */
export class ApiProblem extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.problem = problem;
  }

  get code() {
    return this.problem.code;
  }
}

const UNREACHABLE = {
  code: "unreachable",
  title: "The server does not answer",
  detail: "Check that it runs and that the connection works; then try again.",
};

/** Where the API is: beside the page, whatever path the page has. */
export function address(path) {
  return new URL(path, document.baseURI.split("#")[0]).href;
}

function problemOf(status, type, text) {
  if (/[/+]json\b/.test(type)) {
    try {
      return JSON.parse(text);
    } catch {
      // falls through: it says it is JSON and is not
    }
  }
  return { code: "unreadable", status, title: `The answer cannot be read (${status})`, detail: text.slice(0, 300) };
}

/**
 * Send a request; asks for a key and sends it again where one is wanted.
 * @returns {Promise<Response>} A good answer.
 */
export async function send(path, { headers = {}, ...options } = {}) {
  let asked = false;
  for (;;) {
    let answer;
    try {
      answer = await fetch(address(path), { ...options, headers: { Accept: "application/json", ...headers, ...keyHeaders() } });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiProblem(UNREACHABLE);
    }
    if (answer.ok) return answer;
    const problem = problemOf(answer.status, answer.headers.get("Content-Type") ?? "", await answer.text());
    if (answer.status === 401 && !asked && (await askForKey(problem.detail))) {
      asked = true;
      continue;
    }
    throw new ApiProblem(problem);
  }
}

export async function get(path, options) {
  return (await send(path, options)).json();
}

export async function sendJson(method, path, body) {
  const answer = await send(path, { method, body: JSON.stringify(body), headers: { "Content-Type": "application/json" } });
  return answer.status === 204 ? null : answer.json();
}

export async function post(path, body = undefined, headers = {}) {
  return (await send(path, { method: "POST", body, headers })).json();
}

export async function remove(path) {
  await send(path, { method: "DELETE" });
}

/** Every page of a list, up to `most` items. */
export async function all(path, most = 1000) {
  const items = [];
  let cursor = null;
  do {
    const mark = cursor === null ? "" : `&cursor=${encodeURIComponent(cursor)}`;
    const page = await get(`${path}${path.includes("?") ? "&" : "?"}limit=200${mark}`);
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor !== null && items.length < most);
  return { items, more: cursor !== null };
}

/** A file of the server, saved under a name: a link could not send the key. */
export async function download(path, filename, headers = {}) {
  const url = URL.createObjectURL(await (await send(path, { headers })).blob());
  const link = document.createElement("a");
  link.href = url;
  link.download = filename;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

/** A key that no other request has; also where the page is not in a secure context. */
export function idempotencyKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}
