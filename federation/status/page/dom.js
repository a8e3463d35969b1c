// Small means to build the page. Text goes in as text nodes only: names and subjects come from other machines.

export const $ = (id) => document.getElementById(id);

function make(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "act") node.act = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

// An element; `act` is what a button does when it is pressed.
export const el = (tag, attributes = {}, ...children) => make(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  make(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// One listener for every button: a button that stays where it is while the page is drawn anew does what it says now.
document.addEventListener("click", (event) => {
  const pressed = event.target instanceof Element ? event.target.closest("button") : null;
  pressed?.act?.(event);
});

export const button = (label, act, attributes = {}) => el("button", { type: "button", ...attributes, act }, label);

// Makes the children of `parent` what `wanted` says, and leaves alone what is the same: the focus, what is selected, what
// is scrolled or opened stays, and a screen reader hears of nothing that did not change. Children with a data-key are
// the same where that is; others by place and kind. A node with data-same stands for the one that is there already.
export function morph(parent, wanted) {
  const keyed = new Map();
  for (const child of parent.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
  let next = parent.firstChild;
  for (const node of wanted.flat(3).filter((each) => each !== null && each !== undefined && each !== "")) {
    const fresh = node instanceof Node ? node : document.createTextNode(node);
    const key = fresh.dataset?.key;
    const known = key ? keyed.get(key) : next;
    if (known && (known === fresh || alike(known, fresh))) {
      if (known === next) next = next.nextSibling;
      else parent.insertBefore(known, next);
      if (known !== fresh && fresh.dataset?.same === undefined) update(known, fresh);
    } else {
      parent.insertBefore(fresh, next);
    }
  }
  while (next) {
    const gone = next;
    next = next.nextSibling;
    gone.remove();
  }
}

const alike = (a, b) =>
  a.nodeType === b.nodeType && a.nodeName === b.nodeName && a.dataset?.key === b.dataset?.key;

const LEFT_ALONE = new Set(["open", "tabindex"]); // a reader opens details; the page makes what scrolls focusable

function update(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  old.act = fresh.act;
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !LEFT_ALONE.has(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !(name === "open" && old.nodeName === "DETAILS")) old.setAttribute(name, value);
  }
  morph(old, [...fresh.childNodes]);
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

// What is wider than the screen scrolls by itself, and can be reached by the keyboard while it does.
export const scroll = (label, child) => el("div", { class: "scroll", role: "group", "aria-label": label }, child);

export function table(caption, heads, rows) {
  const columns = heads.map((h) => (h === "" ? el("td", {}) : el("th", { scope: "col", class: h.class }, h.text ?? h)));
  return el("table", {},
    el("caption", { class: "sr" }, caption),
    el("thead", {}, el("tr", {}, columns)),
    el("tbody", {}, rows));
}

export const wide = (caption, heads, rows) => scroll(caption, table(caption, heads, rows));

// A place of this page. Names may hold nothing that has to be written otherwise in an address, but who knows.
export const route = (...parts) => `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
export const link = (words, ...parts) => el("a", { href: route(...parts) }, words);
export const cluster = (name) => link(name, "clusters", name);
export const clusters = (names, most = 6) => {
  const shown = names.slice(0, most).flatMap((name, i) => [i ? ", " : "", cluster(name)]);
  return names.length > most ? [...shown, ` and ${number(names.length - most)} more`] : shown;
};

// A sentence of the hub's: what stands between backquotes is a command or a key.
export const prose = (text) => text.split("`").map((part, i) => (i % 2 ? el("code", {}, part) : part));

export const number = (n) => n.toLocaleString("en");

export function duration(seconds) {
  const s = Math.abs(seconds);
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${number(Math.round(s / 86400))} days`;
}

// Times relative to now, in the hub's own time. They are kept true by `keepTime`, without building anything anew.
const FORMS = {
  ago: (s) => (s < 2 ? "now" : `${duration(s)} ago`),
  since: (s) => `for ${duration(s)}`,
  left: (s) => (s < 0 ? `${duration(s)} left` : "expired"),
  in: (s) => (s < 0 ? `in ${duration(s)}` : "now"),
};

const said = (form, iso, now) => FORMS[form]((now - Date.parse(iso)) / 1000);

export function time(form, iso, now) {
  return el("time", { datetime: iso, title: at(iso), "data-form": form }, said(form, iso, now));
}

export function keepTime(now) {
  for (const node of document.querySelectorAll("time[data-form]")) {
    const words = said(node.dataset.form, node.dateTime, now);
    if (node.firstChild.data !== words) node.firstChild.data = words;
  }
}

export const ago = (iso, now) => (iso ? time("ago", iso, now) : "never");
export const at = (iso) => (iso ? `${iso.slice(0, 10)} ${iso.slice(11, 19)} UTC` : "a time that is not known");
export const day = (iso) => (iso ? iso.slice(0, 10) : "not known");
export const short = (sha) => `${sha.slice(0, 8)}…${sha.slice(-4)}`;
export const plural = (n, one, many = `${one}s`) => `${number(n)} ${n === 1 ? one : many}`;
export const days = (left) => (left < 0 ? "expired" : left < 2 ? `${Math.round(left * 24)} h` : `${number(Math.floor(left))} days`);

// A time of day, with its date where that is another one than now's.
export function clock(iso, now) {
  const today = new Date(now).toISOString().slice(0, 10);
  return `${iso.slice(0, 10) === today ? "" : `${iso.slice(0, 10)} `}${iso.slice(11, 16)} UTC`;
}

// Until when certificates last in these clusters, in words; empty where it is not known of any.
export function lasting(every, now) {
  const ends = every.map((c) => c.workloads).filter((w) => w.last_end);
  if (!ends.length) return "";
  const last = ends.map((w) => w.last_end).sort().at(-1);
  const first = ends.map((w) => w.first_end).filter(Boolean).sort()[0];
  if (Date.parse(last) <= now) return `the last one ended at ${clock(last, now)}`;
  const sooner = first && first < last ? `the first ends ${Date.parse(first) <= now ? "now" : `at ${clock(first, now)}`}, ` : "";
  return `${sooner}the last at ${clock(last, now)}, in ${duration((Date.parse(last) - now) / 1000)}`;
}
