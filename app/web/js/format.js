// Numbers and times as people read them.

const WHEN = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

export function percent(value, digits = 1) {
  return value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`;
}

export function number(value, digits = 3) {
  return value === null || value === undefined ? "–" : Number(value).toFixed(digits);
}

export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString()} ${n === 1 ? one : many}`;
}

export function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 1 : 0)} ${units[unit]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

export function when(text) {
  return text ? WHEN.format(new Date(text)) : "–";
}

/** A model as people call it: name and version, else the end of its id. */
export function modelTitle(model) {
  return model.name ? `${model.name} v${model.version}` : `model …${model.id.slice(-6)}`;
}

/** A data set as people call it: its file, else the beginning of its id. */
export function datasetTitle(dataset) {
  return dataset.filename?.replace(/\.zip$/i, "") || `data set ${dataset.id.slice(0, 8)}`;
}

const KINDS = { tune: "Tuning", audit: "Audit", predict: "Batch", compare: "Comparison" };

export function jobTitle(job) {
  return `${KINDS[job.kind] ?? job.kind}${job.name ? ` “${job.name}”` : ""}`;
}
