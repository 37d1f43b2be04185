// The API key: kept for this tab, or in this browser where the person wants that. Asked for when the server wants one.

import { h, put } from "./dom.js";
import { memory } from "./memory.js";

const NAME = "npt-key";
const [forTab, forBrowser] = [memory("sessionStorage"), memory("localStorage")];
let asking = null;

export function storedKey() {
  return forTab.get(NAME) ?? forBrowser.get(NAME);
}

function store(key, remember) {
  forTab.remove(NAME);
  forBrowser.remove(NAME);
  if (key) (remember ? forBrowser : forTab).set(NAME, key);
  showButton();
}

/** Headers that say who asks. */
export function keyHeaders() {
  const key = storedKey();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

/** Show the header's button once a key matters here. */
export function showButton(wanted = false) {
  const button = document.getElementById("key-button");
  if (wanted || storedKey()) button.hidden = false;
  button.textContent = storedKey() ? "Key: set" : "Key";
}

/**
 * Ask for a key; requests that wait meanwhile share the one question.
 * @param {string} why - What the server said.
 * @returns {Promise<boolean>} Whether one was given.
 */
export function askForKey(why = "") {
  asking ??= ask(why).finally(() => {
    asking = null;
  });
  return asking;
}

function ask(why) {
  showButton(true);
  const input = h("input", {
    id: "key-input", type: "password", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "key-why",
  });
  const remember = h("input", { id: "key-remember", type: "checkbox" });
  const dialog = h("dialog", { class: "dialog", "aria-labelledby": "key-title" });
  return new Promise((resolve) => {
    const finish = (given) => {
      dialog.close();
      dialog.remove();
      resolve(given);
    };
    const save = () => {
      const key = input.value.trim();
      if (!key) {
        input.focus();
        return;
      }
      store(key, remember.checked);
      finish(true);
    };
    const forget = storedKey() && h("button", { type: "button", onclick: () => { store(null); finish(true); } }, "Forget the key");
    const submit = (event) => {
      event.preventDefault(); // nothing is sent by the form itself
      save();
    };
    put(dialog, h("form", { onsubmit: submit }, [
      h("h2", { id: "key-title" }, "API key"),
      h("p", { id: "key-why" }, why || "Requests of this page are sent with this key."),
      h("label", { for: "key-input" }, "Key"),
      input,
      h("p", { class: "check" }, remember, h("label", { for: "key-remember" }, "Keep it in this browser, not for this tab alone")),
      h("div", { class: "buttons" },
        h("button", { type: "submit", class: "primary" }, "Use this key"),
        forget,
        h("button", { type: "button", onclick: () => finish(false) }, "Not now")),
    ]));
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      finish(false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
