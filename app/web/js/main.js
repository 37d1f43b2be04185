// Where the page begins: what is shown for which address.

import { h, put } from "./dom.js";
import { askForKey, showButton } from "./key.js";
import { reload, startRouter } from "./router.js";
import { startTheme } from "./theme.js";
import { datasetView } from "./views/dataset.js";
import { datasetsView } from "./views/datasets.js";
import { jobView } from "./views/job.js";
import { jobsView } from "./views/jobs.js";
import { modelView } from "./views/model.js";
import { modelsView } from "./views/models.js";
import { startView } from "./views/start.js";
import { tryView } from "./views/try.js";

const ROUTES = {
  start: { nav: "start", view: startView },
  datasets: { nav: "datasets", view: datasetsView },
  jobs: { nav: "jobs", view: jobsView },
  models: { nav: "models", view: modelsView },
  "datasets/": { nav: "datasets", view: datasetView },
  "jobs/": { nav: "jobs", view: jobView },
  "models/": { nav: "models", view: modelView },
  try: { nav: "try", view: tryView },
  "?": {
    nav: null,
    view: (place) => put(place, h("h1", { tabindex: "-1" }, "There is no such page"), h("p", {}, h("a", { href: "#/" }, "To the beginning"))),
  },
};

startTheme(document.getElementById("theme-button"));
showButton();
document.getElementById("key-button").addEventListener("click", async () => {
  if (await askForKey()) reload();
});
document.querySelector("[data-skip]").addEventListener("click", (event) => {
  event.preventDefault(); // the address says what is shown; it is not to change
  document.getElementById("content").focus();
});
startRouter(ROUTES, document.getElementById("content"));
