// The same from a terminal or a program, to copy.

import { address } from "../api.js";
import { announce, h } from "../dom.js";
import { storedKey } from "../key.js";

function copyable(title, text) {
  const button = h("button", { type: "button", class: "copy" }, "Copy");
  const pre = h("pre", { tabindex: "0", "aria-label": title }, text);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // no secure context, or not allowed: mark it, so that the person can
      getSelection().selectAllChildren(pre);
      button.textContent = "Marked: press Ctrl+C";
      return;
    }
    button.textContent = "Copied";
    announce(`${title} copied`);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return h("div", { class: "snippet" }, h("div", { class: "snippet-head" }, h("h3", {}, title), button), pre);
}

/** How to predict with a model, by id or alias. */
export function snippets(model) {
  const base = address(".").replace(/\/$/, "");
  const header = storedKey() ? ' -H "Authorization: Bearer $NPT_KEY"' : "";
  const key = storedKey() ? ', key=os.environ["NPT_KEY"]' : "";
  const curl = `curl${header} -F images=@picture.png -F model=${model} -F top_k=3 ${base}/predict`;
  const python = `${key ? "import os\n\n" : ""}from app.client import Client

with Client("${base}"${key}) as client:
    for answer in client.predict(["picture.png"], model="${model}", top_k=3):
        print(answer.filename, answer.best.label, answer.best.probability)`;
  return h("div", { class: "columns wide" }, copyable("With curl", curl), copyable("In Python", python));
}
