// The table of instances, and what the figures are now.

import { $, clone, number } from "./dom.js";
import { alive, rateNow, reasons, summaryNow } from "./figures.js";
import { duration, ms, short } from "./format.js";

export function showTiles() {
  const { streams, rates, p50_ms, p99_ms, lag_ms } = summaryNow();
  const tiles = [
    ["Streams", number.format(streams), ""],
    ["Publishes", short(rates.published), "per second"],
    ["Deliveries", short(rates.delivered), "per second"],
    ["Publishing to written", p99_ms === null ? "–" : ms(p99_ms), p50_ms === null ? "p99; nothing published now" : `p99; p50 is ${ms(p50_ms)}`],
    ["Resumes", short(rates.resumed), "per second"],
    ["Gaps", number.format(count("gaps")), "in 15 minutes", count("gaps") > 0],
    ["Refusals", number.format(count("refusals")), "in 15 minutes"],
    ["Loop lag", ms(lag_ms ?? 0), "of the slowest instance", lag_ms > 250],
  ];
  const list = $("tiles");
  while (list.children.length < tiles.length) list.append(clone("tile"));
  tiles.forEach(([label, value, more, isBad], at) => {
    const [labelSlot, valueSlot, moreSlot] = list.children[at].children;
    labelSlot.textContent = label;
    valueSlot.textContent = value;
    moreSlot.textContent = more;
    list.children[at].classList.toggle("alert", Boolean(isBad));
  });
}

const count = (name) => reasons(name).reduce((sum, [, n]) => sum + n, 0);

export function showReasons() {
  for (const name of ["closes", "gaps", "refusals"]) {
    const found = reasons(name).slice(0, 12);
    const list = $(name);
    if (!found.length) {
      list.replaceChildren(Object.assign(document.createElement("li"), { className: "none", textContent: "none in 15 minutes" }));
      continue;
    }
    const bars = found.map(([reason, n]) => {
      const bar = clone("bar");
      const [label, countSlot, progress] = bar.children;
      label.textContent = reason;
      countSlot.textContent = number.format(n);
      Object.assign(progress, { max: found[0][1], value: n });
      progress.setAttribute("aria-hidden", "true");
      return bar;
    });
    list.replaceChildren(...bars);
  }
}

export function showInstances() {
  const all = alive().sort((a, b) => String(a.now.place).localeCompare(String(b.now.place)));
  $("instances-count").textContent = number.format(all.length);
  const body = $("instance-rows");
  while (body.children.length > all.length) body.lastElementChild.remove();
  while (body.children.length < all.length) body.append(clone("instance-row"));
  all.forEach((known, at) => showInstance(body.children[at], known));
}

// No figures come any more, so no state is known.
export function showUnknown() {
  for (const { children } of $("instance-rows").children) Object.assign(children[1], { textContent: "unknown", className: "warn" });
}

function showInstance(row, known) {
  const { now } = known;
  const problems = now.store.problems;
  const [name, state, streams, publishes, deliveries, lag, store, uptime, version] = row.children;
  name.textContent = now.place;
  state.textContent = now.draining ? "draining" : problems.length ? "not ready" : "ready";
  state.className = now.draining ? "warn" : problems.length ? "bad" : "good";
  streams.textContent = number.format(now.streams);
  publishes.textContent = `${short(rateNow(known, "published"))}/s`;
  deliveries.textContent = `${short(rateNow(known, "delivered"))}/s`;
  lag.textContent = ms(now.lag_ms);
  store.textContent = problems.length ? problems.join("; ") : now.store.name;
  uptime.textContent = duration(now.uptime);
  version.textContent = now.version || "unknown";
}
