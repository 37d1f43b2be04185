// The class directions in a plane where those of a simplex frame are the corners of a regular polygon.

import { s } from "../dom.js";

const NAMED = 24;
const CUT = 12;

/** Where corner i of m lies; the same places as the server's. */
export function corner(i, m) {
  const angle = (2 * Math.PI * i) / m;
  return [Math.cos(angle), Math.sin(angle)];
}

/** @returns {{element: SVGElement, show: (picture: object, names: string[]) => void}} */
export function framePlane() {
  const element = s("svg", { class: "plane", viewBox: "-1.62 -1.35 3.24 2.7", role: "img" });
  let drawn = 0;
  let marks = [];

  function build(m, names) {
    const corners = Array.from({ length: m }, (_, i) => corner(i, m));
    const outline = s("polygon", { class: "outline", points: corners.map(([x, y]) => `${x},${-y}`).join(" ") });
    marks = corners.map(([x, y], i) => {
      const name = names[i].length > CUT ? `${names[i].slice(0, CUT - 1)}…` : names[i];
      const anchor = Math.abs(x) < 0.2 ? "middle" : x > 0 ? "start" : "end";
      return {
        line: s("line", { class: "gap", x1: x, y1: -y }),
        ring: s("circle", { class: "ring", cx: x, cy: -y, r: 0.055 }),
        dot: s("circle", { class: "dot", r: 0.045 }),
        name: m <= NAMED && s("text", { x: 1.24 * x, y: -1.2 * y + 0.035, "text-anchor": anchor }, name),
      };
    });
    element.replaceChildren(outline, ...marks.flatMap((one) => [one.line, one.ring, one.name].filter(Boolean)), ...marks.map((one) => one.dot));
    drawn = m;
  }

  return {
    element,
    show(picture, names) {
      if (drawn !== picture.points.length) build(picture.points.length, names);
      let away = 0;
      picture.points.forEach(([x, y], i) => {
        const { line, dot } = marks[i];
        const [cx, cy] = corner(i, drawn);
        away += Math.hypot(x - cx, y - cy) / drawn;
        line.setAttribute("x2", x);
        line.setAttribute("y2", -y);
        dot.style.setProperty("transform", `translate(${x}px, ${-y}px)`);
      });
      element.setAttribute("aria-label", `${drawn} class directions in a plane; on average ${away.toFixed(2)} from their corner of the simplex frame.`);
    },
  };
}
