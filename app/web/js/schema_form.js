// A form from a JSON Schema of flat settings. An empty field means: as the server has it by default.

import { h, newId } from "./dom.js";

function unwrapped(schema) {
  const choices = schema.anyOf?.filter((one) => one.type !== "null") ?? [];
  return choices.length === 1 ? { ...choices[0], description: schema.description, default: schema.default } : { ...schema, choices };
}

function shown(value) {
  if (value === null || value === undefined) return "auto";
  return typeof value === "boolean" ? (value ? "yes" : "no") : String(value);
}

function select(id, values, preset) {
  return h("select", { id }, h("option", { value: "" }, `default (${preset})`),
    values.map((one) => h("option", { value: JSON.stringify(one) }, shown(one))));
}

function bounds(kind) {
  const step = kind.type === "integer" ? 1 : "any";
  return { min: kind.minimum ?? kind.exclusiveMinimum, max: kind.maximum ?? kind.exclusiveMaximum, step };
}

function control(id, schema) {
  const kind = unwrapped(schema);
  const preset = shown(schema.default);
  if (kind.enum) return [select(id, kind.enum, preset), (text) => JSON.parse(text)];
  if (kind.type === "boolean") return [select(id, [true, false], preset), (text) => JSON.parse(text)];
  if (kind.type === "integer" || kind.type === "number") {
    return [h("input", { id, type: "number", inputmode: "decimal", placeholder: preset, ...bounds(kind) }), Number];
  }
  if (kind.choices?.some((one) => one.type === "number")) { // a number, or one of some words
    const words = newId("words");
    const options = kind.choices.flatMap((one) => one.enum ?? []);
    const input = h("span", { class: "with-list" }, h("input", { id, type: "text", list: words, placeholder: preset, autocomplete: "off" }),
      h("datalist", { id: words }, options.map((one) => h("option", { value: one }))));
    return [input, (text) => (options.includes(text) ? text : Number.isNaN(Number(text)) ? text : Number(text))];
  }
  if (kind.type === "object" || kind.type === "array") return null;
  return [h("input", { id, type: "text", placeholder: preset, autocomplete: "off" }), (text) => text];
}

/**
 * Fields for the properties of a schema.
 * @param {object} schema - Its `properties` are shown in their order; objects and lists are left out.
 * @param {{only?: string[], options?: object}} how - Which properties; `options`: names to [value, text] for a choice
 *   that the schema does not know, as of models.
 * @returns {{element: Element, values: () => object, field: (name: string) => Element|null}}
 */
export function schemaForm(schema, { only = Object.keys(schema.properties ?? {}), options = {} } = {}) {
  const fields = new Map();
  const element = h("div", { class: "fields" });
  for (const name of only) {
    const property = schema.properties[name];
    const id = newId("field");
    const made = options[name]
      ? [h("select", { id }, h("option", { value: "" }, `default (${shown(property.default)})`),
        options[name].map(([value, text]) => h("option", { value: JSON.stringify(value) }, text))), (text) => JSON.parse(text)]
      : control(id, property);
    if (made === null) continue;
    const [shell, read] = made;
    const input = shell.matches("input, select") ? shell : shell.querySelector("input");
    input.dataset.setting = name;
    input.setAttribute("aria-describedby", `${id}-help`);
    element.append(h("div", { class: "field" }, h("label", { for: id }, name), shell,
      h("p", { class: "help", id: `${id}-help` }, property.description ?? "")));
    fields.set(name, { input, read });
  }
  return {
    element,
    field: (name) => fields.get(name)?.input ?? null,
    values: () => Object.fromEntries([...fields].filter(([, { input }]) => input.value.trim() !== "" || input.validity.badInput)
      .map(([name, { input, read }]) => [name, input.validity.badInput ? "not a number" : read(input.value.trim())])),
  };
}

/** Mark the fields that a problem of the server names; `fieldOf` finds them by path. */
export function markFaults(root, fieldOf, errors = []) {
  for (const input of root.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  let first = null;
  for (const { path } of errors) {
    const input = fieldOf(path);
    if (!input) continue;
    input.setAttribute("aria-invalid", "true");
    first ??= input;
  }
  if (first) {
    first.closest("details")?.setAttribute("open", "");
    first.focus();
  }
}
