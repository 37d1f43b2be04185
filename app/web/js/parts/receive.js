// Pictures on their way to the server: a zip as it is, folders zipped here first.

import { announce, given, h, put } from "../dom.js";
import { bytes, count } from "../format.js";
import { foldersOf, isUseful, pack, tooMuch } from "../pack.js";
import { showProblem } from "../problem.js";
import { upload } from "../upload.js";

const isZip = (file) => /\.zip$/i.test(file.name) || file.type === "application/zip" || file.type === "application/x-zip-compressed";

/**
 * The place where a sending is shown, and what to do with files.
 * @param {(dataset: object) => void} done - Given the stored data set.
 * @returns {{element: Element, take: Function, send: Function}}
 */
export function receiver(done) {
  const element = h("div", { class: "receiver" });
  let pile = [];

  const bar = (words) => {
    const progress = h("progress", { max: 1, value: 0, "aria-label": words });
    const text = h("p", { class: "quiet" }, words);
    const stop = new AbortController();
    put(element, h("div", { class: "sending" }, text, progress, h("button", { type: "button", onclick: () => stop.abort() }, "Stop")));
    return { progress, text, signal: stop.signal };
  };

  async function send(blob, name) {
    const { progress, text, signal } = bar(`Sending ${name}`);
    announce(`Sending ${name}`);
    try {
      const dataset = await upload(`datasets?filename=${encodeURIComponent(name)}`, blob, {
        signal,
        onProgress: (sent, total) => {
          progress.value = sent / total;
          text.textContent = sent < total ? `Sending ${name}: ${bytes(sent)} of ${bytes(total)}` : `${name} is sent; the server looks at it`;
          if (sent >= total) progress.removeAttribute("value");
        },
      });
      put(element);
      done(dataset);
    } catch (error) {
      put(element);
      showProblem(element, error);
    }
  }

  async function zipAndSend() {
    const files = pile;
    const refusal = tooMuch(files);
    if (refusal !== null) {
      pile = [];
      showProblem(element, Object.assign(new Error(), { problem: { title: "The folder is too large", detail: refusal } }));
      return;
    }
    const { progress, text, signal } = bar("Zipping the pictures");
    let blob;
    try {
      blob = await pack(files, (n) => {
        progress.value = n / files.length;
        text.textContent = `Zipping: ${n} of ${count(files.length, "file")}`;
      }, signal);
    } catch (error) {
      put(element);
      const detail = `A file cannot be read (${error.message}); it may have been moved or changed.`;
      showProblem(element, error.name === "AbortError" ? error : Object.assign(error, { problem: { title: "The folder cannot be zipped", detail } }));
      return;
    }
    pile = [];
    const top = new Set(files.map((one) => one.path.split("/")[0]));
    await send(blob, `${top.size === 1 ? [...top][0] : "pictures"}.zip`);
  }

  function showPile() {
    const folders = foldersOf(pile);
    put(element, h("div", { class: "notice info" },
      h("strong", {}, "One class so far."),
      h("p", {}, "A folder of pictures is a class, and a classifier needs at least two. Add the next folder, or send what is here."),
      h("ul", {}, [...folders].map(([folder, n]) => h("li", {}, given(folder || "(no folder)"), `: ${count(n, "file")}`))),
      h("div", { class: "buttons" },
        h("button", { type: "button", onclick: zipAndSend }, "Send it all the same"),
        h("button", { type: "button", onclick: () => { pile = []; put(element); } }, "Forget it"))));
    announce("One class so far. Add the next folder.");
  }

  /** Files that were dropped or chosen. */
  async function take(files) {
    if (files.length === 1 && isZip(files[0].file) && pile.length === 0) {
      await send(files[0].file, files[0].file.name);
      return;
    }
    const useful = files.filter(isUseful);
    if (useful.length === 0) {
      if (files.length > 0) {
        const names = files.slice(0, 3).map((one) => one.path).join(", ");
        showProblem(element, Object.assign(new Error(), { problem: {
          title: "There is no picture in it",
          detail: `Found ${names}${files.length > 3 ? ` and ${files.length - 3} more` : ""}. Drop one zip, or folders of JPEG, PNG, WebP, BMP, GIF or TIFF pictures.`,
        } }));
      }
      return;
    }
    pile = [...pile, ...useful];
    const hasTable = pile.some((one) => /\.(jsonl|csv)$/i.test(one.path));
    if (foldersOf(pile).size < 2 && !hasTable) showPile();
    else await zipAndSend();
  }

  return { element, take, send };
}
