// Tuning with one button, and every setting of the server under "Advanced".

import { all, get, idempotencyKey, post } from "../api.js";
import { actionButton, announce, h, newId, put } from "../dom.js";
import { modelTitle } from "../format.js";
import { showProblem } from "../problem.js";
import { go } from "../router.js";
import { markFaults, schemaForm } from "../schema_form.js";

const OTHERS = [
  "shots", "epochs", "views", "lr", "batch_size", "val_fraction", "logit_adjustment", "tuned_share", "resize", "reject_below",
  "refit", "precision", "seed", "sampling_seed", "backbone", "parent", "keep_old", "keep_strength", "max_old_loss",
];

function chooser(label, items, preset, extra = []) {
  const id = newId("choose");
  const select = h("select", { id, data: { setting: label } }, h("option", { value: "" }, `default (${preset})`),
    extra.map((one) => h("option", { value: one }, one)),
    items.map((one) => h("option", { value: one.name }, `${one.name}: ${one.title.replace(/^[^:]*: /, "")}`)));
  const own = h("div", { class: "own-fields" });
  let form = null;
  const change = () => {
    const chosen = items.find((one) => one.name === (select.value || preset));
    form = chosen ? schemaForm(chosen.config_schema) : null;
    put(own, form && form.element.childElementCount > 0 && h("fieldset", {}, h("legend", {}, `Settings of ${chosen.title}`), form.element,
      chosen.source && h("p", { class: "help" }, `Source: ${chosen.source}`)));
  };
  select.addEventListener("change", change);
  change();
  return {
    element: h("div", { class: "chooser" }, h("div", { class: "field" }, h("label", { for: id }, label), select), own),
    select,
    values: () => form?.values() ?? {},
    field: (name) => form?.field(name) ?? null,
  };
}

async function advanced() {
  const [methods, { backbones }, models] = await Promise.all([get("methods"), get("backbones"), all("models", 200)]);
  const schema = methods.config_schema;
  const properties = schema.properties;
  const method = chooser("method", methods.items, properties.method.default, ["auto"]);
  const regularizer = chooser("regularizer", methods.regularizers, "npt where the method moves features");
  const rest = schemaForm(schema, {
    only: OTHERS.filter((name) => name in properties).concat(Object.keys(properties).filter((name) => !OTHERS.includes(name)
      && !["method", "method_config", "regularizer", "regularizer_config", "class_names"].includes(name))),
    options: {
      backbone: backbones.map((one) => [one.name, one.name]),
      parent: models.items.map((one) => [one.id, modelTitle(one)]),
    },
  });
  const element = h("div", {}, method.element, regularizer.element, h("fieldset", {}, h("legend", {}, "The tuning"), rest.element));
  return {
    element,
    values() {
      const config = rest.values();
      for (const [name, one] of [["method", method], ["regularizer", regularizer]]) {
        if (one.select.value) config[name] = one.select.value;
        const own = one.values();
        if (Object.keys(own).length > 0) config[`${name}_config`] = own;
      }
      return config;
    },
    fieldOf(path) {
      const [head, ...tail] = path.split(".");
      if (head === "method_config") return method.field(tail[0]) ?? method.select;
      if (head === "regularizer_config") return regularizer.field(tail[0]) ?? regularizer.select;
      if (head === "method") return method.select;
      if (head === "regularizer") return regularizer.select;
      return rest.field(head);
    },
  };
}

/**
 * The panel that starts a tuning.
 * @param {object} dataset
 * @param {Map<string, string>} names - Classes that were renamed.
 * @param {string} called - What the model is called unless the person says otherwise.
 */
export function tuner(dataset, names, called) {
  const place = h("div", {});
  const nameId = newId("model");
  const name = h("input", { id: nameId, type: "text", maxlength: 200, value: called, autocomplete: "off" });
  const inside = h("div", {});
  const suggested = {};
  let settings = null;
  let key = null;
  let sent = "";
  const details = h("details", { class: "advanced" }, h("summary", {}, "Advanced"), inside);
  details.addEventListener("toggle", async () => {
    if (!details.open || settings !== null) return;
    try {
      settings = await advanced();
      put(inside, settings.element);
    } catch (error) {
      showProblem(inside, error);
    }
  });

  async function start() {
    put(place);
    const config = { ...suggested, ...settings?.values() };
    if (names.size > 0) config.class_names = Object.fromEntries(names);
    const form = new FormData();
    form.set("dataset_id", dataset.id);
    if (name.value.trim()) form.set("name", name.value.trim());
    if (Object.keys(config).length > 0) form.set("config", JSON.stringify(config));
    const asked = JSON.stringify([...form]);
    if (asked !== sent) [key, sent] = [idempotencyKey(), asked]; // the same request twice starts one job
    try {
      const job = await post("tune", form, { "Idempotency-Key": key });
      announce("The tuning is started");
      go(`#/jobs/${job.id}`);
    } catch (error) {
      sent = "";
      showProblem(place, error);
      if (settings) markFaults(inside, settings.fieldOf, error.problem?.errors);
    }
  }

  return {
    use: (config) => Object.assign(suggested, config),
    element: h("div", { class: "tuner" },
      h("div", { class: "field" }, h("label", { for: nameId }, "Call the model"), name),
      h("div", { class: "buttons" }, actionButton("Tune", start, { class: "primary", id: "tune" })),
      place, details),
  };
}
