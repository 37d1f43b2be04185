// The beginning: pictures in.

import { address, get } from "../api.js";
import { h, put, actionButton } from "../dom.js";
import { acceptDrops, chosenFiles } from "../drop.js";
import { receiver } from "../parts/receive.js";
import { showProblem } from "../problem.js";
import { go } from "../router.js";

function fileButton(text, take, options) {
  const input = h("input", { type: "file", class: "sr-only", tabindex: "-1", "aria-hidden": "true", ...options });
  input.addEventListener("change", async () => {
    const files = chosenFiles(input);
    input.value = "";
    await take(files);
  });
  return [h("button", { type: "button", onclick: () => input.click(), class: options.class }, text), input];
}

async function backboneNote(place) {
  const { backbones } = await get("backbones");
  const first = backbones.find((one) => one.default) ?? backbones[0];
  if (first && !first.knows_photographs) {
    put(place, h("p", { class: "notice info" }, h("strong", {}, `This server runs the backbone “${first.name}”. `), first.description,
      " For photographs the operator adds a real CLIP with NPT_BACKBONES."));
  }
}

export function startView(place) {
  const { element: sending, take, send } = receiver((dataset) => go(`#/datasets/${dataset.id}`));
  const area = h("section", { class: "drop", "aria-labelledby": "drop-title" },
    h("h2", { id: "drop-title" }, "Drop a zip, or folders of pictures"),
    h("p", { class: "quiet" }, "One folder for each class; its name says what the pictures show. Eight pictures a class are a good start."),
    h("div", { class: "buttons" },
      fileButton("Choose a zip", take, { accept: ".zip,application/zip", "data-pick": "zip" }),
      fileButton("Choose a folder", take, { webkitdirectory: true, multiple: true, "data-pick": "folder" }),
      actionButton("Use the sample", async () => {
        const answer = await fetch(address("web/samples/digits.zip"));
        await send(await answer.blob(), "digits.zip");
      }, { fail: (error) => showProblem(sending, error) })),
    sending);
  acceptDrops(area, take);
  const note = h("div", {});
  backboneNote(note).catch((error) => showProblem(note, error));
  put(place,
    h("h1", { tabindex: "-1" }, "From pictures to a classifier"),
    h("p", { class: "lead" }, "Give a handful of labelled pictures. The server tunes the prompts of a frozen CLIP on them, shows what that came to, and classifies new pictures with what it learned."),
    area,
    note,
    h("section", { class: "steps", "aria-label": "How it goes" },
      h("ol", {},
        h("li", {}, h("strong", {}, "Look. "), "You see the classes, how many pictures each has, and what an audit finds."),
        h("li", {}, h("strong", {}, "Tune. "), "One button; you watch loss, accuracy and the geometry of the classes."),
        h("li", {}, h("strong", {}, "Try. "), "Drop a picture, or take one with the camera, and compare with no tuning at all."))));
}
