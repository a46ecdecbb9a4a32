// The charts of the last 15 minutes, drawn by uPlot. The build adds it to the package; if it is missing, the page shows figures only.

import { clone, $ } from "./dom.js";
import { STEP, STEPS } from "./figures.js";
import { ms, short } from "./format.js";

// By chart: title, series (name of a column, label, number of a colour), unit of the values.
const CHARTS = [
  { title: "Streams", series: [["streams", "open", 0]], format: short },
  { title: "Publishes", series: [["published", "per second", 2]], format: short },
  { title: "Deliveries", series: [["delivered", "per second", 0]], format: short },
  { title: "From publishing to written", series: [["p99_ms", "p99", 3], ["p50_ms", "p50", 2]], format: ms },
  { title: "Resumes and closes", series: [["resumed", "resumes per second", 0], ["closes", "closes per second", 4]], format: short },
  { title: "Gaps and refusals", series: [["gaps", "gaps per second", 3], ["refusals", "refusals per second", 5]], format: short },
];
const HEIGHT = 150;

const charts = [];
let uPlot = null;

export async function makeCharts() {
  try {
    uPlot = (await import("./uPlot.js")).default;
    const style = document.createElement("link");
    Object.assign(style, { rel: "stylesheet", href: new URL("uPlot.css", import.meta.url).href });
    document.head.append(style);
  } catch {
    $("no-charts").hidden = false;
    return;
  }
  for (const { title, series, format } of CHARTS) {
    const figure = clone("chart");
    figure.querySelector(".title").textContent = title;
    figure.querySelector(".legend").replaceChildren(...series.map(([, label, hue]) => legendOf(label, hue)));
    $("charts").append(figure);
    charts.push({ title, series, format, figure, plot: null });
  }
  for (const chart of charts) draw(chart);
  new ResizeObserver(fit).observe($("charts"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.forEach(draw));
}

function legendOf(label, hue) {
  const span = document.createElement("span");
  span.className = `key hue-${hue}`;
  span.append(label, " ", document.createElement("b"));
  return span;
}

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const width = (chart) => Math.max(200, Math.floor(chart.figure.querySelector(".plot").clientWidth));
const fit = () => charts.forEach((chart) => chart.plot?.setSize({ width: width(chart), height: HEIGHT }));

function draw(chart) {
  const data = chart.plot?.data ?? [[], ...chart.series.map(() => [])];
  chart.plot?.destroy();
  const axis = { stroke: colour("--muted"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
  chart.plot = new uPlot({
    width: width(chart), height: HEIGHT, padding: [8, 20, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: "dashboard" }, points: { size: 7 } },
    scales: { x: { time: true }, y: { range: (_, __, most) => [0, nice(most)] } },
    axes: [
      { ...axis, size: 26, splits: () => [900, 600, 300, 0].map((ago) => newest - ago), values: (_, times) => times.map(minutesAgo) },
      { ...axis, size: 52, space: 36, values: (_, values) => values.map((value) => chart.format(value)) },
    ],
    series: [{}, ...chart.series.map(([, , hue], index) => ({
      stroke: colour(`--hue-${hue}`), width: 2, spanGaps: false, points: { show: false },
      fill: index || chart.series.length > 1 ? undefined : `${colour(`--hue-${hue}`)}1f`,
    }))],
    hooks: { setCursor: [(plot) => showValues(chart, plot.cursor.idx)] },
  }, data, chart.figure.querySelector(".plot"));
}

// The top of the scale; an empty chart goes from 0 to 1.
const nice = (most) => (most > 0 ? most * 1.1 : 1);

let newest = 0;
function minutesAgo(at) {
  const minutes = Math.round((newest - at) / 60);
  return minutes <= 0 ? "now" : `−${minutes} min`;
}

export function showCharts({ times, columns }) {
  newest = times.at(-1);
  for (const chart of charts) {
    if (!chart.plot) continue;
    chart.plot.setData([times, ...chart.series.map(([name]) => columns[name])]);
    showValues(chart, chart.plot.cursor.idx);
    describe(chart);
  }
}

// Shows in each legend the value under the pointer, or the newest one.
function showValues(chart, index) {
  const values = chart.figure.querySelectorAll(".key b");
  chart.series.forEach((_, at) => {
    const column = chart.plot?.data[at + 1] ?? [];
    const value = (index ?? null) === null ? column.at(-1) : column[index];
    values[at].textContent = value === null || value === undefined ? "–" : chart.format(value);
  });
}

// The chart in words, for screen readers.
function describe(chart) {
  const words = chart.series.map(([, label], at) => {
    const values = chart.plot.data[at + 1].filter((value) => value !== null);
    if (!values.length) return `${label}: none yet`;
    return `${label}: ${chart.format(values.at(-1))} now, at most ${chart.format(Math.max(...values))}`;
  });
  const text = `${words.join("; ")}.`;
  const range = chart.figure.querySelector(".range");
  if (range.textContent !== text) range.textContent = text;
  chart.figure.querySelector(".plot").setAttribute("aria-label", `${chart.title} over the last ${(STEP * STEPS) / 60} minutes. ${text}`);
}
