// The matrix: a labelled table while it can be read; beyond that a table of those that are alike, or a canvas of every
// pair with labelled axes. Each is one focus stop; arrow keys move, and the pair under the pointer or the cross-hair is
// described in words. Enter opens it.

import { $, button, cluster, el, link, morph, number, plural, route, scroll } from "./dom.js";
import { groups } from "./groups.js";

const MOST_LABELLED = 24;
const SIGN = { v: "✓", x: "✕", "?": "?", q: "⊘", "-": "" };
export const WORD = { v: "validated", x: "failed", "?": "unknown", q: "quarantined", "-": "the cluster itself" };
export const CLASS = { v: "v", x: "x", "?": "q", q: "out", "-": "self" };
const LINE = 13; // pixels that a label needs on its axis
const MOST_CAUSES = 30;
const SIDE = 820; // the widest that the canvas gets, with its labels

export class Matrix {
  constructor(body) {
    this.body = body;
    this.at = { row: 0, column: 0 };
    this.matrix = null;
    this.wanted = null; // groups | pairs, once a reader has chosen
    this.canvas = this.makeCanvas();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    new ResizeObserver(() => this.paint()).observe(body);
    const place = (event) => event.target.closest?.("td.cell");
    const describe = (event) => { const cell = place(event); if (cell) this.describe(+cell.dataset.row, +cell.dataset.column); };
    body.addEventListener("mouseover", describe);
    body.addEventListener("focusin", describe);
    body.addEventListener("click", describe);
    body.addEventListener("keydown", (event) => {
      const from = place(event);
      if (!from || !this.move(event)) return;
      from.tabIndex = -1;
      const to = body.querySelector(`[data-row="${this.at.row}"][data-column="${this.at.column}"]`);
      to.tabIndex = 0;
      to.focus();
    });
  }

  show(matrix) {
    this.matrix = matrix;
    this.reasons = new Map(matrix.reasons.map((r) => [`${r.client}>${r.server}`, r.reason]));
    this.groups = groups(matrix);
    this.draw();
  }

  // How it is drawn: `table` of every cluster, `groups` in a table, or every pair on the canvas.
  get mode() {
    if (this.matrix.clusters.length <= MOST_LABELLED) return "table";
    if (!this.grouping) return "pairs";
    return this.wanted ?? (this.groups.length > 1 ? "groups" : "pairs");
  }

  get grouping() { return this.groups.length <= Math.min(MOST_LABELLED, this.matrix.clusters.length / 2); }

  draw() {
    const { clusters } = this.matrix;
    const { mode } = this;
    this.axis = mode === "table" ? clusters.map((_, i) => [i]) : mode === "groups" ? this.groups : this.groups.flat().map((i) => [i]);
    const last = Math.max(0, this.axis.length - 1);
    this.at = { row: Math.min(this.at.row, last), column: Math.min(this.at.column, last) };
    $("pair").hidden = clusters.length < 2;
    if (clusters.length < 2) {
      morph(this.body, [el("p", { class: "calm" }, "There is no pair to prove yet.")]);
      morph($("faults"), []);
      return;
    }
    if (mode === "pairs") this.canvas.setAttribute("aria-label", this.summary());
    morph(this.body, [this.choice(), mode === "pairs" ? el("div", { class: "dense", "data-key": "dense" }) : this.grid()]);
    if (mode === "pairs") this.body.querySelector(".dense").append(this.canvas);
    morph($("faults"), [this.faults()]);
    this.paint();
  }

  choice() {
    if (this.mode === "table" || !this.grouping || this.groups.length < 2) return "";
    const option = (mode, label) => button(label, () => { this.wanted = mode; this.draw(); }, { "aria-pressed": String(this.mode === mode) });
    return el("p", { class: "choice", role: "group", "aria-label": "How the matrix is drawn", "data-key": "choice" },
      option("groups", `Grouped by what differs (${number(this.groups.length)})`), option("pairs", "Every pair"));
  }

  summary() {
    const { clusters, pairs, valid, failed, unknown, quarantined } = this.matrix;
    return `${number(clusters.length)} clusters, ${number(pairs)} ordered pairs: ${number(valid)} validated, ${number(failed)} failed, ${number(unknown)} unknown${quarantined ? `, ${number(quarantined)} with quarantined clusters` : ""}. Arrow keys move between pairs, Enter opens one.`;
  }

  name(row) {
    const [first, ...more] = this.axis[row];
    const { clusters } = this.matrix;
    return more.length > 2 ? `${clusters[first]} and ${number(more.length)} more` : [first, ...more].map((i) => clusters[i]).join(", ");
  }

  // What a row is to a column: the same for every pair of the two groups.
  cell(row, column) {
    const [from, to] = [this.axis[row], this.axis[column]];
    if (row !== column) return this.matrix.rows[from[0]][to[0]];
    return from.length > 1 ? this.matrix.rows[from[0]][from[1]] : "-";
  }

  words(row, column) {
    const [from, to] = [this.axis[row], this.axis[column]];
    const cell = this.cell(row, column);
    if (cell === "-") return `${this.name(row)}: the cluster itself`;
    const why = cell === "v" ? "" : this.why(from, to);
    const count = row === column ? from.length * (from.length - 1) : from.length * to.length;
    const pairs = count > 1 ? ` in ${number(count)} pairs` : "";
    const what = row === column ? `${this.name(row)}, among themselves` : `${this.name(row)} → ${this.name(column)}`;
    return `${what}: ${WORD[cell]}${pairs}${why ? `. ${why}` : ""}`;
  }

  // The reason of the first of these pairs that has one: the hub does not give all of very many.
  why(from, to) {
    const { clusters } = this.matrix;
    for (const client of from) {
      for (const server of to) {
        const reason = this.reasons.get(`${clusters[client]}>${clusters[server]}`);
        if (reason) return reason;
      }
    }
    return "";
  }

  // The pair that a cell stands for, where it is a single one.
  pair(row, column) {
    const single = row !== column && this.axis[row].length === 1 && this.axis[column].length === 1;
    return single ? [this.axis[row][0], this.axis[column][0]].map((i) => this.matrix.clusters[i]) : null;
  }

  describe(row, column) {
    const pair = this.pair(row, column);
    $("pair").textContent = this.words(row, column);
    $("pair").dataset.cell = CLASS[this.cell(row, column)];
    morph($("pair-link"), pair ? [link("More about this pair", "pairs", ...pair)] : []);
  }

  move(event) {
    if (event.key === "Enter") {
      const pair = this.pair(this.at.row, this.at.column);
      if (pair) location.hash = route("pairs", ...pair);
      return false;
    }
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -1e9], End: [0, 1e9] }[event.key];
    if (!step) return false;
    event.preventDefault();
    const last = this.axis.length - 1;
    const clamp = (n) => Math.min(last, Math.max(0, n));
    this.at = { row: clamp(this.at.row + step[0]), column: clamp(this.at.column + step[1]) };
    this.describe(this.at.row, this.at.column);
    return true;
  }

  grid() {
    const places = [...this.axis.keys()];
    const brief = (i) => (this.axis[i].length > 1 ? `${number(this.axis[i].length)} alike` : this.name(i));
    const label = (i) => (this.axis[i].length > 1 ? this.name(i) : cluster(this.name(i)));
    const head = el("tr", {}, el("td", {}), places.map((c) => el("th", { scope: "col" }, el("span", {}, brief(c)))));
    const lines = places.map((r) => el("tr", {}, el("th", { scope: "row" }, label(r)), places.map((c) => {
      const kind = this.cell(r, c);
      const words = this.words(r, c);
      const first = r === this.at.row && c === this.at.column;
      return el("td", { class: `cell ${CLASS[kind]}`, "data-row": r, "data-column": c, tabindex: first ? 0 : -1, "aria-label": words, title: words }, SIGN[kind]);
    })));
    const what = this.mode === "groups" ? "Groups of clusters that are alike: rows call, columns answer" : "Ordered pairs of clusters: rows call, columns answer";
    return el("div", { class: "scroll", "data-key": this.mode }, el("table", { class: "grid", role: "grid", "aria-label": what }, el("thead", {}, head), el("tbody", {}, lines)));
  }

  makeCanvas() {
    const canvas = el("canvas", { tabindex: 0, role: "application", "aria-roledescription": "matrix" });
    const look = (event) => {
      const box = canvas.getBoundingClientRect();
      const { margin, step } = this.scale;
      const clamp = (x) => Math.min(this.axis.length - 1, Math.max(0, Math.floor(x)));
      this.at = { row: clamp((event.clientY - box.top - margin) / step), column: clamp((event.clientX - box.left - margin) / step) };
      this.describe(this.at.row, this.at.column);
      this.paint(true);
    };
    canvas.addEventListener("mousemove", look);
    canvas.addEventListener("click", look);
    canvas.addEventListener("mouseleave", () => this.paint());
    canvas.addEventListener("keydown", (event) => { if (this.move(event)) this.paint(true); });
    canvas.addEventListener("focus", () => { if (this.axis) { this.describe(this.at.row, this.at.column); this.paint(true); } });
    canvas.addEventListener("blur", () => this.paint());
    return canvas;
  }

  // Paints the canvas anew; with the cross-hair where the described pair is.
  paint(cross = document.activeElement === this.canvas) {
    const { canvas } = this;
    if (!canvas.isConnected || !this.matrix || this.mode !== "pairs") return;
    const { clusters, rows } = this.matrix;
    const n = this.axis.length;
    const order = this.axis.map(([i]) => i);
    const ratio = devicePixelRatio || 1;
    const room = Math.min(canvas.parentElement.clientWidth, SIDE);
    if (!room) return;
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const g = canvas.getContext("2d");
    const font = `11px ${style.fontFamily}`;
    g.font = font;
    const longest = Math.max(...clusters.map((name) => g.measureText(name).width));
    const margin = Math.ceil(Math.min(longest + 8, room < 500 ? 76 : 150));
    const step = Math.max(1, Math.floor(((room - margin) * ratio) / n)) / ratio;
    const size = margin + step * n;
    this.scale = { margin, step };
    const pixels = Math.round(size * ratio);
    if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
    canvas.style.width = canvas.style.height = `${size}px`;
    g.setTransform(ratio, 0, 0, ratio, 0, 0);
    g.clearRect(0, 0, size, size);
    const gap = step * ratio >= 5 ? Math.max(1, Math.round((step * ratio) / 8)) / ratio : 0;
    const fill = { v: colour("--cell-good"), x: colour("--bad"), "?": colour("--cell-dim"), q: colour("--warn"), "-": colour("--line") };
    for (const kind of ["-", "v", "q", "?", "x"]) {
      g.fillStyle = fill[kind];
      for (let r = 0; r < n; r++) {
        const row = rows[order[r]];
        for (let c = 0; c < n; c++) {
          if (row[order[c]] === kind) g.fillRect(margin + c * step, margin + r * step, step - gap, step - gap);
        }
      }
    }
    this.labels(g, { order, margin, step, font, ink: colour("--ink"), muted: colour("--muted"), paper: colour("--card") }, cross);
    if (!cross) return;
    g.strokeStyle = colour("--ink");
    g.lineWidth = 1;
    g.strokeRect(margin, margin + this.at.row * step, step * n, step);
    g.strokeRect(margin + this.at.column * step, margin, step, step * n);
  }

  // Names on both axes, as many as there is room for: those of small groups first, for they are what differs.
  labels(g, { order, margin, step, font, ink, muted, paper }, cross) {
    const { clusters } = this.matrix;
    const small = new Set(this.groups.filter((members) => members.length <= 3).flat());
    const places = [...order.keys()];
    const placed = [];
    for (const i of [...places.filter((p) => small.has(order[p])), ...places]) {
      if (placed.every((other) => Math.abs(other - i) * step >= LINE)) placed.push(i);
    }
    const cut = (name) => {
      if (g.measureText(name).width <= margin - 8) return name;
      let end = name.length;
      while (end > 1 && g.measureText(`${name.slice(0, end)}…`).width > margin - 8) end--;
      return `${name.slice(0, end)}…`;
    };
    const write = (i, upright, box) => {
      const name = cut(clusters[order[i]]);
      const middle = margin + (i + 0.5) * step;
      g.save();
      g.translate(upright ? middle : margin - 6, upright ? margin - 6 : middle);
      if (upright) g.rotate(-Math.PI / 2);
      if (box) {
        g.fillStyle = paper;
        g.fillRect(upright ? -4 : -margin, -LINE / 2 - 1, margin + 4, LINE + 2);
      }
      g.fillStyle = box || small.has(order[i]) ? ink : muted;
      g.font = box ? `bold ${font}` : font;
      g.textAlign = upright ? "left" : "right";
      g.textBaseline = "middle";
      g.fillText(name, 0, 0.5);
      g.restore();
    };
    g.font = font;
    for (const i of placed) { write(i, false); write(i, true); }
    if (cross) { write(this.at.row, false, true); write(this.at.column, true, true); }
  }

  // Pairs that are not validated, those for one reason together.
  faults() {
    const { reasons, reasons_omitted: omitted } = this.matrix;
    if (!reasons.length) return "";
    const causes = new Map();
    for (const r of reasons) {
      const why = `${r.result}: ${r.reason}`;
      if (!causes.has(why)) causes.set(why, { why, result: r.result, pairs: [] });
      causes.get(why).pairs.push(r);
    }
    const kind = { failed: "x", quarantined: "out" };
    const pair = (r) => link(`${r.client} → ${r.server}`, "pairs", r.client, r.server);
    const which = ({ pairs }) => (pairs.length === 1 ? [pair(pairs[0])]
      : [`${number(pairs.length)} pairs`, el("small", {}, " (", pairs.slice(0, 3).flatMap((r, i) => [i ? ", " : "", pair(r)]), pairs.length > 3 ? ", …)" : ")")]);
    const shown = [...causes.values()].slice(0, MOST_CAUSES);
    const left = [...causes.values()].slice(MOST_CAUSES).reduce((sum, c) => sum + c.pairs.length, omitted);
    return el("details", { class: "faults", open: true },
      el("summary", {}, `Pairs that are not validated (${number(reasons.length + omitted)})`),
      scroll("Pairs that are not validated", el("ul", { class: "plain" }, shown.map((cause) => el("li", {},
        el("span", { class: `cell ${kind[cause.result] ?? "q"}`, "aria-hidden": "true" }), el("b", {}, which(cause)), ` ${cause.why}`)),
      left > 0 ? el("li", { class: "muted" }, `and ${plural(left, "other", "others")}: federation verify lists them`) : "")));
  }
}
