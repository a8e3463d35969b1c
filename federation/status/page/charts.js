// Charts drawn by hand as SVG: bars over the last hours, and certificates on a line of time. Nodes out, nothing kept.

import { day, days, duration, el, number, short, svg } from "./dom.js";

const BARS = 72;
const MINUTES = [1, 2, 5, 10, 15, 30];
const HEIGHT = 44;
const STEP = 10; // units of one bar, the gap included
const GAP = 2;

// Groups of `size`, the last one full up to now, so that the newest bar does not jump. A group of which nothing is known is null.
function grouped(values, size, join) {
  const groups = [];
  for (let end = values.length; end > 0; end -= size) {
    const known = values.slice(Math.max(0, end - size), end).filter((v) => v !== null);
    groups.unshift(known.length ? known.reduce(join) : null);
  }
  return groups;
}

const hour = (milliseconds) => new Date(milliseconds).toISOString().slice(11, 16);

// One chart: `values` for each step, null where nothing is known. `join` puts neighbours together.
export function bars({ title, tone, values, first, step, join, unit, now }) {
  const size = MINUTES.find((minutes) => values.length / minutes <= BARS) ?? MINUTES.at(-1);
  const groups = grouped(values, size, join);
  const begin = (i) => Date.parse(first) + (values.length - (groups.length - i) * size) * step * 1000;
  const highest = Math.max(0, ...groups.filter((v) => v !== null));
  const known = groups.filter((v) => v !== null);
  const total = known.length ? known.reduce(join) : 0;
  const each = size * step === 60 ? "a minute" : `${size} min`;
  const drawn = groups.map((value, i) => {
    const x = (Math.max(BARS, groups.length) - groups.length + i) * STEP;
    const words = `${hour(begin(i))} UTC: ${value === null ? "not known" : `${number(value)} ${unit}`}`;
    const tall = value === null ? HEIGHT : value && Math.max(2, (value / highest) * HEIGHT);
    const shape = { x, y: HEIGHT - tall, width: STEP - GAP, height: tall, class: value === null ? "gap" : tone };
    return tall ? svg("rect", shape, svg("title", {}, words)) : "";
  });
  const width = Math.max(BARS, groups.length) * STEP;
  const label = `${title}: ${number(total)} ${unit} since ${hour(begin(0))} UTC; ` +
    (highest ? `at most ${number(highest)} in ${size === 1 ? "one minute" : `${size} minutes`}` : "none in any minute") +
    (known.length < groups.length ? `; not known for ${number(groups.length - known.length)} of ${number(groups.length)} bars` : "");
  return el("figure", { class: "chart", "data-key": title },
    el("figcaption", {}, el("span", {}, title), el("strong", {}, known.length ? number(total) : "—")),
    svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
      svg("line", { x1: 0, x2: width, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5, class: "base" }), drawn),
    el("p", { class: "axis", "aria-hidden": "true" },
      el("span", {}, `${duration(Math.max(BARS, groups.length) * size * step)} ago`), el("span", {}, `most ${number(highest)} in ${each}`), el("span", {}, hour(now))));
}

const sum = (a, b) => a + b;
const most = (a, b) => Math.max(a, b);

export function history(h, now) {
  const given = { first: h.first, step: h.step, now };
  return [
    bars({ ...given, title: "Issued to workloads", tone: "good", values: h.issued, join: sum, unit: "certificates" }),
    bars({ ...given, title: "Refused", tone: "bad", values: h.refused, join: sum, unit: "requests" }),
    bars({ ...given, title: "Ended without a renewal", tone: "warn", values: h.ended, join: most, unit: "pods" }),
  ];
}

const DAY = 86400000;
const YEAR = 365.25 * DAY;

// Every certificate that trust rests on, once: anchors in force, and the intermediates that signers have.
export function certificates(status) {
  const found = new Map();
  for (const a of status.bundle?.anchors ?? []) {
    found.set(a.sha256, { ...a, what: a.kind, note: a.cluster || a.origin });
  }
  for (const a of status.authorities) {
    if (!a.not_after) continue;
    const known = found.get(a.sha256) ?? { ...a, not_before: null, what: "intermediate", note: "" };
    const note = `${a.use === "successor" ? "successor, " : ""}${a.signs ? "signs" : "does not sign"} (${a.name})`;
    found.set(a.sha256 || a.name, { ...known, note });
  }
  return [...found.values()].filter((c) => c.not_after).sort((a, b) => a.not_after.localeCompare(b.not_after));
}

// They end at very different times: the line ends where the last one does, but no later than six years from now.
export function timeline(status, now) {
  const every = certificates(status);
  if (!every.length) return [];
  const begins = every.map((c) => (c.not_before ? Date.parse(c.not_before) : now));
  const from = Math.max(Math.min(now - 30 * DAY, ...begins), now - YEAR);
  const last = Math.max(...every.map((c) => Date.parse(c.not_after)));
  const to = Math.min(Math.max(last, now + 90 * DAY) + (last - from) * 0.02, now + 6 * YEAR);
  const x = (instant) => ((Math.min(Math.max(instant, from), to) - from) / (to - from)) * 1000;
  const tone = { ok: "good", notice: "good", warning: "warn" };
  const rows = every.slice(0, 40).map((c) => {
    const end = Date.parse(c.not_after);
    const start = c.not_before ? Date.parse(c.not_before) : now;
    const bar = { x: x(start), width: Math.max(3, x(end) - x(start)), y: 4, height: 8, rx: 3 };
    return el("li", { "data-key": c.sha256 || c.name },
      el("p", {}, el("b", {}, c.subject || c.name || short(c.sha256)), el("span", { class: "muted" }, ` ${c.what}${c.note ? `, ${c.note}` : ""}`)),
      svg("svg", { viewBox: "0 0 1000 16", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("rect", { ...bar, class: tone[c.expiry] ?? "bad" }),
        svg("line", { x1: x(now), x2: x(now), y1: 0, y2: 16, class: "now" })),
      el("p", { class: "ends" }, end > to ? "→ " : "", day(c.not_after), el("small", {}, c.expiry === "expired" ? "expired" : `${days(c.days_left)} left`)));
  });
  return [
    el("ol", { class: "timeline", "aria-label": "Certificates by when they end" }, rows),
    el("div", { class: "timeline scale", "aria-hidden": "true" }, el("p", {}), el("p", { class: "axis" },
      el("span", {}, day(new Date(from).toISOString())), el("span", {}, "the line is now"), el("span", {}, day(new Date(to).toISOString()))), el("p", {})),
  ];
}
