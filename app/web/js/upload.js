// Sending a large file with its progress, which `fetch` does not tell.

import { ApiProblem, address } from "./api.js";
import { askForKey, keyHeaders } from "./key.js";

function once(path, blob, type, onProgress, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address(path));
    request.setRequestHeader("Content-Type", type);
    request.setRequestHeader("Accept", "application/json");
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.upload.addEventListener("progress", (event) => onProgress(event.loaded, event.total || blob.size));
    request.addEventListener("load", () => {
      let body = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        body = { code: "unreadable", title: `The answer cannot be read (${request.status})`, detail: request.responseText.slice(0, 300) };
      }
      if (request.status < 300) resolve(body);
      else reject(Object.assign(new ApiProblem(body), { status: request.status }));
    });
    request.addEventListener("error", () =>
      reject(new ApiProblem({ code: "unreachable", title: "The upload broke off", detail: "The server cannot be reached, or it closed the line. Try again." })));
    request.addEventListener("abort", () => reject(new DOMException("The upload was stopped.", "AbortError")));
    signal?.addEventListener("abort", () => request.abort());
    request.send(blob);
  });
}

/**
 * Send a file as the body of a request.
 * @param {(sent: number, total: number) => void} onProgress - Bytes.
 */
export async function upload(path, blob, { type = "application/zip", onProgress = () => {}, signal } = {}) {
  try {
    return await once(path, blob, type, onProgress, signal);
  } catch (error) {
    if (error.status === 401 && (await askForKey(error.problem.detail))) return once(path, blob, type, onProgress, signal);
    throw error;
  }
}
