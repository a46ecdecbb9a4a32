// The figures of all instances, from the events of `_stats`: the newest ones, and steps of five seconds over fifteen minutes.
//
// Counts arrive as totals since the instance's start, so a missed event costs nothing. An instance is known by a name that a
// restart changes.

export const STEP = 5; // seconds
export const STEPS = 180;
const NOW_SECONDS = 5; // rates of now are over so many
const GONE_SECONDS = 6; // an instance that is silent for so long is gone
const MAX_INSTANCES = 1000;

const SUMS = ["gaps", "closes", "refusals"]; // by reason
const COUNTS = ["published", "delivered", "resumed", ...SUMS];

const instances = new Map(); // name -> { now, recent: [sample], steps: Map(step -> sample) }
let newest = 0; // the broker's time, in seconds, of the newest figures

const stepOf = (at) => Math.floor(at / STEP);
const total = (value) => (typeof value === "object" && value ? Object.values(value).reduce((sum, n) => sum + n, 0) : value);

function instance(name) {
  if (!instances.has(name) && instances.size < MAX_INSTANCES) instances.set(name, { now: null, at: 0, recent: [], steps: new Map() });
  return instances.get(name);
}

// The figures of one instance at the broker's time `at`, in seconds.
export function takeNow(at, figures) {
  const known = instance(String(figures.instance));
  if (!known) return;
  newest = Math.max(newest, at);
  const sample = { ...figures, at };
  known.now = sample;
  known.at = at;
  known.recent.push(sample);
  while (known.recent.length > 1 && at - known.recent[1].at >= NOW_SECONDS) known.recent.shift();
  known.steps.set(stepOf(at), worst(known.steps.get(stepOf(at)), sample));
  forgetOld();
}

// Of the latencies in a step the worst counts, of all else the newest.
function worst(before, sample) {
  if (!before) return sample;
  const most = (name) => (before[name] === null ? sample[name] : Math.max(before[name], sample[name] ?? 0));
  return { ...sample, p50_ms: most("p50_ms"), p99_ms: most("p99_ms"), lag_ms: most("lag_ms") };
}

// The last 15 minutes of one instance, as columns.
export function takePast(at, { instance: name, age, ...columns }) {
  const known = instance(String(name));
  if (!known || !Array.isArray(age)) return;
  newest = Math.max(newest, at);
  age.forEach((seconds, row) => {
    const step = stepOf(at - seconds);
    if (known.steps.has(step)) return;
    const sample = { at: at - seconds };
    for (const [column, values] of Object.entries(columns)) {
      sample[column] = SUMS.includes(column)
        ? Object.fromEntries(Object.entries(values).map(([reason, counts]) => [reason, counts[row]]))
        : values[row];
    }
    known.steps.set(step, sample);
  });
  forgetOld();
}

function forgetOld() {
  const oldest = stepOf(newest) - STEPS - 2;
  for (const [name, known] of instances) {
    for (const step of known.steps.keys()) if (step < oldest) known.steps.delete(step);
    if (!known.steps.size) instances.delete(name);
  }
}

export const isGone = (known) => newest - known.at > GONE_SECONDS;
export const alive = () => [...instances.values()].filter((known) => known.now && !isGone(known));
export const heardAt = () => newest;

const rate = (sample, before, name) => Math.max(0, total(sample[name] ?? 0) - total(before[name] ?? 0)) / (sample.at - before.at);

// Of one instance over the last seconds; 0 before there are samples of two moments.
export function rateNow({ recent }, name) {
  const [first, last] = [recent[0], recent.at(-1)];
  return first.at === last.at ? 0 : rate(last, first, name);
}

export function summaryNow() {
  const all = alive();
  const sum = (of) => all.reduce((so, known) => so + of(known), 0);
  const most = (name) => all.reduce((so, { now }) => (now[name] === null ? so : Math.max(so ?? 0, now[name])), null);
  return {
    streams: sum(({ now }) => now.streams),
    rates: Object.fromEntries(COUNTS.map((name) => [name, sum((known) => rateNow(known, name))])),
    p50_ms: most("p50_ms"), p99_ms: most("p99_ms"), lag_ms: most("lag_ms"),
  };
}

// Columns for the charts: the times of the steps that are over, and by name a value for each, or null.
export function series() {
  const last = stepOf(newest) - 1;
  const first = last - STEPS + 1;
  const times = Array.from({ length: STEPS }, (_, index) => (first + index) * STEP);
  const columns = Object.fromEntries(["streams", "p50_ms", "p99_ms", "lag_ms", ...COUNTS].map((name) => [name, Array(STEPS).fill(null)]));
  for (const { steps } of instances.values()) {
    for (let index = 0; index < STEPS; index += 1) {
      const step = first + index;
      const sample = steps.get(step) ?? steps.get(step - 1); // its sample may lie just beyond the border
      if (!sample) continue;
      columns.streams[index] += sample.streams;
      for (const name of ["p50_ms", "p99_ms", "lag_ms"])
        if (sample[name] !== null) columns[name][index] = Math.max(columns[name][index] ?? 0, sample[name]);
      const before = [1, 2, 3].map((back) => steps.get(step - back)).find((one) => one && one.at < sample.at);
      if (before) for (const name of COUNTS) columns[name][index] += rate(sample, before, name);
    }
  }
  return { times, columns };
}

// How often each reason of `name` occurred in the last 15 minutes, over all instances; most frequent first.
export function reasons(name) {
  const counts = new Map();
  for (const { now, at, steps } of instances.values()) {
    const samples = [...steps.entries()].sort(([a], [b]) => a - b).map(([, sample]) => sample);
    if (!samples.length) continue;
    const isNew = now && at - now.uptime > samples[0].at - STEP; // then all that it counts belongs to these minutes
    for (const [reason, count] of Object.entries(samples.at(-1)[name] ?? {})) {
      const more = count - (isNew ? 0 : (samples[0][name]?.[reason] ?? 0));
      if (more > 0) counts.set(reason, (counts.get(reason) ?? 0) + more);
    }
  }
  return [...counts].sort(([, a], [, b]) => b - a);
}
