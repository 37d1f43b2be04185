// The cosines of all pairs of class directions, coloured by how far each is from that of a simplex frame.

import { s } from "../dom.js";

const FULL = 0.5; // a deviation this large has the full colour

/** @returns {{element: SVGElement, show: (picture: object, names: string[]) => void}} */
export function heatMap() {
  const element = s("svg", { class: "heat", role: "img" });
  let cells = [];

  function build(m, names) {
    element.setAttribute("viewBox", `0 0 ${m} ${m}`);
    cells = Array.from({ length: m }, (_, i) => Array.from({ length: m }, (__, j) => {
      const title = s("title", {});
      const rect = s("rect", { x: j + 0.03, y: i + 0.03, width: 0.94, height: 0.94, class: i === j ? "self" : "near" }, title);
      return { rect, title, pair: `${names[i]} and ${names[j]}` };
    }));
    element.replaceChildren(...cells.flat().map((one) => one.rect));
  }

  return {
    element,
    show(picture, names) {
      const m = picture.cosines.length;
      if (cells.length !== m) build(m, names);
      let worst = [0, ""];
      for (let i = 0; i < m; i += 1) {
        for (let j = 0; j < m; j += 1) {
          if (i === j) continue;
          const { rect, title, pair } = cells[i][j];
          const value = picture.cosines[i][j];
          const away = value - picture.target;
          rect.setAttribute("class", away > 0 ? "near" : "far");
          rect.style.setProperty("fill-opacity", Math.min(1, Math.abs(away) / FULL).toFixed(3));
          title.textContent = `${pair}: ${value.toFixed(2)}`;
          if (Math.abs(away) > Math.abs(worst[0])) worst = [away, `${pair} (${value.toFixed(2)})`];
        }
      }
      element.setAttribute("aria-label", `Cosines of ${m} by ${m} class directions; a simplex frame has ${picture.target.toFixed(2)} everywhere. Furthest from it: ${worst[1]}.`);
    },
  };
}
