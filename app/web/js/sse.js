// Following a job. The stream is fetched, since EventSource cannot send a key; a broken line is taken up where it broke.

import { createParser } from "../vendor/eventsource-parser.js";
import { ApiProblem, send } from "./api.js";

const FIRST = "0-0"; // before every id: the events that were, so that a page that is loaded again has the whole curve
const QUIET_MS = 45_000; // the server says something every 15 s
const RETRY_MS = [500, 1000, 2000, 4000, 8000];

const pause = (ms, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); resolve(); }, { once: true });
});

async function readOnce(jobId, after, onEvent, onOpen, signal) {
  const line = new AbortController();
  const stop = () => line.abort();
  signal.addEventListener("abort", stop, { once: true });
  let watch = setTimeout(stop, QUIET_MS);
  try {
    const answer = await send(`jobs/${jobId}/events`, {
      headers: { Accept: "text/event-stream", "Last-Event-ID": after }, cache: "no-store", signal: line.signal,
    });
    onOpen();
    const parser = createParser({ onEvent });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      clearTimeout(watch);
      watch = setTimeout(stop, QUIET_MS);
      parser.feed(value);
    }
  } finally {
    clearTimeout(watch);
    signal.removeEventListener("abort", stop);
  }
}

/**
 * Follow a job from its beginning to its end.
 * @param {string} jobId
 * @param {object} on - `event(kind, data)`; `lost()` and `back()` when the line breaks and works again; `refused(error)`
 *   when the server will not tell, which ends it.
 * @param {AbortSignal} signal - Ends it.
 */
export async function follow(jobId, on, signal) {
  let after = FIRST;
  let ended = false;
  let failures = 0;
  const take = (event) => {
    if (event.id) after = event.id;
    failures = 0;
    ended ||= event.event === "end";
    on.event(event.event, JSON.parse(event.data));
  };
  while (!ended && !signal.aborted) {
    try {
      await readOnce(jobId, after, take, () => on.back?.(), signal);
    } catch (error) {
      const final = error instanceof ApiProblem && error.problem.status >= 400 && error.problem.status < 500 && error.problem.status !== 429;
      if (final && !signal.aborted) {
        on.refused?.(error);
        return;
      }
    }
    if (ended || signal.aborted) return;
    if (failures > 0) on.lost?.();
    await pause(RETRY_MS[Math.min(failures, RETRY_MS.length - 1)], signal);
    failures += 1;
  }
}
