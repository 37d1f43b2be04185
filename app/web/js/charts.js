// Curves that grow while a job runs.

import uPlot from "../vendor/uplot.js";
import { colour, onThemeChange } from "./theme.js";

const COLOURS = ["two", "one", "three", "four", "soft"];
const HEIGHT = 210;

/**
 * A chart of one number over epochs, a line for each stage of the tuning.
 * @param {Element} place - Gets the chart and follows its width.
 * @param {{title: string, share?: boolean}} what - `share`: the number is 0 to 1.
 * @param {AbortSignal} signal - Ends it.
 */
export function curve(place, { title, share = false }, signal) {
  const stages = new Map(); // stage -> Map of epoch -> value
  let plot = null;
  let drawn = "";
  let waiting = false;

  function data() {
    const epochs = [...new Set([...stages.values()].flatMap((one) => [...one.keys()]))].sort((a, b) => a - b);
    return [epochs, ...[...stages.values()].map((one) => epochs.map((epoch) => one.get(epoch) ?? null))];
  }

  function options() {
    const axis = { stroke: colour("soft"), grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const show = (value) => (value === null || value === undefined ? "–" : share ? `${Math.round(100 * value)} %` : value.toFixed(Math.abs(value) < 10 ? 2 : 0));
    return {
      width: Math.max(200, place.clientWidth),
      height: HEIGHT,
      cursor: { drag: { x: false, y: false } },
      legend: { show: false },
      scales: { x: { time: false }, y: share ? { range: (_, low) => [Math.min(0.5, Math.floor(10 * (low ?? 0)) / 10), 1.005] } : {} },
      axes: [
        { ...axis, size: 34, values: (_, all) => all.map((one) => (Number.isInteger(one) ? String(one) : "")) },
        { ...axis, size: 48, values: (_, all) => all.map(show) },
      ],
      series: [{}, ...[...stages.keys()].map((stage, i) => ({ label: stage, stroke: colour(COLOURS[i % COLOURS.length]), width: 2, spanGaps: true, points: { show: false } }))],
    };
  }

  function draw() {
    waiting = false;
    if (signal.aborted || stages.size === 0) return;
    const key = [...stages.keys()].join("|");
    if (plot === null || drawn !== key) {
      plot?.destroy();
      plot = new uPlot(options(), data(), place);
      plot.root.setAttribute("role", "img");
      drawn = key;
    } else {
      plot.setData(data());
    }
    const last = [...stages].at(-1);
    const value = [...last[1].values()].at(-1);
    plot.root.setAttribute("aria-label", `${title}, ${last[0]}: ${last[1].size} points, now ${share ? `${Math.round(100 * value)} %` : value.toFixed(3)}`);
  }

  function later() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(draw);
  }

  const again = () => {
    drawn = "";
    later();
  };
  const watch = new ResizeObserver(() => {
    if (plot && Math.abs(plot.width - place.clientWidth) > 2) plot.setSize({ width: Math.max(200, place.clientWidth), height: HEIGHT });
  });
  watch.observe(place);
  const off = onThemeChange(again);
  signal.addEventListener("abort", () => {
    off();
    watch.disconnect();
    plot?.destroy();
  });

  return {
    /** One more point. */
    add(stage, epoch, value) {
      if (stages.get(stage)?.has(epoch) && epoch > 0) return; // the first one is that of the whole epoch
      if (value === null || value === undefined || epoch === null || epoch === undefined) return;
      if (!stages.has(stage)) stages.set(stage, new Map());
      stages.get(stage).set(epoch, value);
      later();
    },
    /** Names of the lines and the classes of their colours. */
    legend: () => [...stages.keys()].map((stage, i) => [stage, COLOURS[i % COLOURS.length]]),
  };
}
