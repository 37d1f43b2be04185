// "Are you sure", as a dialog of the page.

import { h, newId } from "../dom.js";

/** Ask; true where the person says yes. */
export function confirmed(question, detail, yes = "Delete") {
  const [title, text] = [newId("title"), newId("text")];
  return new Promise((resolve) => {
    const finish = (sure) => {
      dialog.close();
      dialog.remove();
      resolve(sure);
    };
    const dialog = h("dialog", { class: "dialog", "aria-labelledby": title, "aria-describedby": text },
      h("h2", { id: title }, question), h("p", { id: text }, detail),
      h("div", { class: "buttons" },
        h("button", { type: "button", class: "danger", onclick: () => finish(true) }, yes),
        h("button", { type: "button", autofocus: true, onclick: () => finish(false) }, "Keep it")));
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      finish(false);
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}
