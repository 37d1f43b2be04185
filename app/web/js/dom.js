// Elements from data. Text is always set as text: a class called "<img onerror=…>" is a class called that.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, options, children) {
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.setAttribute("class", value);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else if (name in element && typeof value === "boolean") element[name] = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * An element of HTML.
 * @param {string} name - Its tag.
 * @param {object} options - Attributes; `onclick` and such are listeners, `style` an object of properties.
 * @param {...(Node|string|Array|null)} children - Strings become text.
 */
export function h(name, options = {}, ...children) {
  return fill(document.createElement(name), options, children);
}

/** An element of SVG. */
export function s(name, options = {}, ...children) {
  return fill(document.createElementNS(SVG, name), options, children);
}

/** Put these children in the place of those there are. */
export function put(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Text that people gave: its direction of writing stays its own affair. */
export function given(text) {
  return h("bdi", {}, String(text));
}

let said = 0;

/** Say something to screen readers, in the page's one live region. */
export function announce(text) {
  const place = document.getElementById("live");
  const number = ++said;
  place.textContent = "";
  setTimeout(() => {
    if (number === said) place.textContent = text;
  }, 50);
}

let ids = 0;

/** An id that no other element has. */
export function newId(prefix = "x") {
  return `${prefix}-${++ids}`;
}

/** A button that is busy while its work runs, and tells `fail` when it goes wrong. */
export function actionButton(text, work, { fail, ...options } = {}) {
  const button = h("button", { type: "button", ...options }, text);
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-busy") === "true") return;
    button.setAttribute("aria-busy", "true");
    try {
      await work(button);
    } catch (error) {
      if (!fail) throw error;
      fail(error);
    } finally {
      button.removeAttribute("aria-busy");
    }
  });
  return button;
}
