// Small means to build the page. Text goes in as text nodes only: names and subjects come from other machines.

export const $ = (id) => document.getElementById(id);

export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const GLYPH = {
  healthy: "✓", ready: "✓", current: "✓", ok: "✓",
  degraded: "▲", warning: "▲", pending: "▲", joining: "▲",
  failing: "✕", unavailable: "✕", failed: "✕", critical: "✕", expired: "✕",
  unknown: "?", stale: "?", notice: "i", quarantined: "⊘",
};

const TONE = {
  healthy: "good", ready: "good", current: "good", ok: "good",
  degraded: "warn", warning: "warn", pending: "warn", joining: "warn",
  failing: "bad", unavailable: "bad", failed: "bad", critical: "bad", expired: "bad",
  unknown: "dim", stale: "dim", notice: "info", quarantined: "warn",
};

// A state as a word with a sign: colour is never the only difference.
export function badge(state, word = state, title = "") {
  const sign = el("span", { class: "sign", "aria-hidden": "true" }, GLYPH[state] ?? "?");
  return el("span", { class: `badge ${TONE[state] ?? "dim"}`, title: title || null }, sign, word);
}

export function table(caption, heads, rows) {
  return el("table", {},
    el("caption", { class: "sr" }, caption),
    el("thead", {}, el("tr", {}, heads.map((h) => el("th", { scope: "col", class: h.class }, h.text ?? h)))),
    el("tbody", {}, rows));
}

export const number = (n) => n.toLocaleString("en");

export function duration(seconds) {
  const s = Math.abs(seconds);
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${number(Math.round(s / 86400))} days`;
}

export const ago = (iso, now) => {
  if (!iso) return "never";
  const seconds = (now - Date.parse(iso)) / 1000;
  return seconds < 2 ? "now" : `${duration(seconds)} ago`;
};

export const day = (iso) => (iso ? iso.slice(0, 10) : "not known");
export const short = (sha) => `${sha.slice(0, 8)}…${sha.slice(-4)}`;
export const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
