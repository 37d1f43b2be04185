// The geometry of the classes while they are tuned: each moment that was measured can be looked at again.

import { given, h, newId, put } from "../dom.js";
import { framePlane } from "./frame_plane.js";
import { heatMap } from "./heat_map.js";

function told(numbers) {
  const parts = [];
  const add = (name, text) => {
    const value = numbers?.[name];
    if (value !== null && value !== undefined) parts.push(`${text} ${value.toFixed(3)}`);
  };
  add("equiangularity_mean", "mean distance of the cosines from the frame's");
  add("duality", "cosine of text and image directions");
  add("within_class", "spread within classes");
  return parts.length > 0 ? `${parts[0][0].toUpperCase()}${parts.join(", ").slice(1)}.` : "";
}

/**
 * The two pictures and a slider over the moments.
 * @param {string[]} labels - Of all classes, in the model's order; where they do not fit, numbers stand for them.
 * @returns {{element: Element, add: (moment: {title: string, picture: object, numbers: object}) => void}}
 */
export function geometryView(labels) {
  const [plane, map] = [framePlane(), heatMap()];
  const moments = [];
  const id = newId("moment");
  const slider = h("input", { id, type: "range", min: 0, max: 0, step: 1, value: 0 });
  const title = h("output", { for: id, class: "moment" });
  const numbers = h("p", { class: "quiet" });
  const part = h("p", { class: "quiet" });
  let follows = true;

  const nameOf = (of) => (i) => (labels.length === of ? labels[i] : `class ${i + 1}`);

  function show(i) {
    const { picture, title: text, numbers: measured } = moments[i];
    const names = picture.classes.map(nameOf(picture.of));
    plane.show(picture, names);
    map.show(picture, names);
    title.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    numbers.textContent = told(measured);
    put(part, picture.classes.length < picture.of && `${picture.classes.length} of ${picture.of} classes are shown, spread evenly: `,
      picture.classes.length < picture.of && given(`${names.slice(0, 8).join(", ")}${names.length > 8 ? "…" : ""}`));
  }

  slider.addEventListener("input", () => {
    follows = Number(slider.value) === moments.length - 1;
    show(Number(slider.value));
  });

  const element = h("div", { class: "geometry", hidden: true },
    h("div", { class: "columns wide" },
      h("figure", {}, h("h3", {}, "Directions in a plane of the frame"), plane.element,
        h("figcaption", {}, "Rings: the corners of a simplex frame, where all classes are equally far apart. Dots: the class directions, turned onto it as well as they fit.")),
      h("figure", {}, h("h3", {}, "Cosine of each pair"), map.element,
        h("figcaption", {}, h("span", { class: "key one" }, "nearer to each other than in a frame"), " ", h("span", { class: "key two" }, "further apart"), "; pale is as it should be."))),
    h("div", { class: "moments" }, h("label", { for: id }, "Moment"), slider, title), numbers, part);

  return {
    element,
    add(moment) {
      if (!moment.picture) return;
      moments.push(moment);
      slider.max = moments.length - 1;
      element.hidden = false;
      if (!follows) return;
      slider.value = moments.length - 1;
      show(moments.length - 1);
    },
  };
}
