// The matrix: a labelled table while it can be read, a canvas with a cross-hair beyond that.
// Both are one focus stop; arrow keys move, and the pair under the pointer or the cross-hair is described in words.

import { el, number } from "./dom.js";

const MOST_LABELLED = 24;
const SIGN = { v: "✓", x: "✕", "?": "?", q: "⊘", "-": "" };
const WORD = { v: "validated", x: "failed", "?": "unknown", q: "quarantined", "-": "the cluster itself" };
const CLASS = { v: "v", x: "x", "?": "q", q: "out", "-": "self" };

export class Matrix {
  constructor(body, description, faults) {
    this.body = body;
    this.description = description;
    this.beside = faults;
    this.at = { row: 0, column: 0 };
    this.matrix = null;
    this.reasons = new Map();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.paint());
    addEventListener("resize", () => this.paint());
  }

  show(matrix) {
    const focused = this.body.contains(document.activeElement);
    this.matrix = matrix;
    this.reasons = new Map(matrix.reasons.map((r) => [`${r.client}>${r.server}`, r.reason]));
    this.at.row = Math.min(this.at.row, Math.max(0, matrix.clusters.length - 1));
    this.at.column = Math.min(this.at.column, Math.max(0, matrix.clusters.length - 1));
    if (matrix.clusters.length < 2) {
      this.canvas = null;
      this.beside.replaceChildren();
      this.body.replaceChildren(el("p", { class: "calm" }, "There is no pair to prove yet."));
      return;
    }
    const labelled = matrix.clusters.length <= MOST_LABELLED;
    this.body.replaceChildren(...(labelled ? this.grid() : this.dense()));
    this.beside.replaceChildren(this.faults());
    this.paint();
    if (focused) this.focus();
  }

  focus() {
    const cell = this.canvas ?? this.body.querySelector(`[data-row="${this.at.row}"][data-column="${this.at.column}"]`);
    cell?.focus({ preventScroll: true });
  }

  describe(row, column) {
    const { clusters, rows } = this.matrix;
    const [client, server, cell] = [clusters[row], clusters[column], rows[row][column]];
    if (cell === "-") this.description.textContent = `${client}: the cluster itself`;
    else {
      const why = this.reasons.get(`${client}>${server}`);
      this.description.textContent = `${client} → ${server}: ${WORD[cell]}${why ? `. ${why}` : ""}`;
    }
    this.description.dataset.cell = CLASS[cell];
  }

  move(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1], Home: [0, -1e9], End: [0, 1e9] }[event.key];
    if (!step) return false;
    event.preventDefault();
    const last = this.matrix.clusters.length - 1;
    const clamp = (n) => Math.min(last, Math.max(0, n));
    this.at = { row: clamp(this.at.row + step[0]), column: clamp(this.at.column + step[1]) };
    this.describe(this.at.row, this.at.column);
    return true;
  }

  grid() {
    this.canvas = null;
    const { clusters, rows } = this.matrix;
    const head = el("tr", {}, el("td", {}), clusters.map((name) => el("th", { scope: "col" }, el("span", {}, name))));
    const lines = clusters.map((client, r) => el("tr", {}, el("th", { scope: "row" }, client), clusters.map((server, c) => {
      const cell = rows[r][c];
      const first = r === this.at.row && c === this.at.column;
      const why = this.reasons.get(`${client}>${server}`);
      const label = cell === "-" ? "the cluster itself" : `${client} to ${server}: ${WORD[cell]}${why ? `. ${why}` : ""}`;
      return el("td", { class: `cell ${CLASS[cell]}`, "data-row": r, "data-column": c, tabindex: first ? 0 : -1, "aria-label": label, title: label }, SIGN[cell]);
    })));
    const grid = el("table", { class: "grid", role: "grid", "aria-label": "Ordered pairs of clusters: rows call, columns answer" },
      el("thead", {}, head), el("tbody", {}, lines));
    const place = (event) => event.target.closest("td.cell");
    const describe = (event) => { const cell = place(event); if (cell) this.describe(+cell.dataset.row, +cell.dataset.column); };
    grid.addEventListener("mouseover", describe);
    grid.addEventListener("focusin", describe);
    grid.addEventListener("keydown", (event) => {
      const from = place(event);
      if (from && this.move(event)) {
        from.tabIndex = -1;
        const to = grid.querySelector(`[data-row="${this.at.row}"][data-column="${this.at.column}"]`);
        to.tabIndex = 0;
        to.focus();
      }
    });
    return [el("div", { class: "scroll" }, grid)];
  }

  dense() {
    const { clusters, pairs, valid, failed, unknown, quarantined } = this.matrix;
    const label = `${number(clusters.length)} clusters, ${number(pairs)} ordered pairs: ${number(valid)} validated, ${number(failed)} failed, ${number(unknown)} unknown${quarantined ? `, ${number(quarantined)} with quarantined clusters` : ""}. Arrow keys move between pairs.`;
    this.canvas = el("canvas", { tabindex: 0, role: "img", "aria-label": label });
    const place = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const n = clusters.length;
      const clamp = (x) => Math.min(n - 1, Math.max(0, Math.floor(x)));
      return { row: clamp((event.clientY - box.top) / box.height * n), column: clamp((event.clientX - box.left) / box.width * n) };
    };
    this.canvas.addEventListener("mousemove", (event) => { this.at = place(event); this.describe(this.at.row, this.at.column); this.paint(true); });
    this.canvas.addEventListener("mouseleave", () => this.paint());
    this.canvas.addEventListener("keydown", (event) => { if (this.move(event)) this.paint(true); });
    this.canvas.addEventListener("blur", () => this.paint());
    return [el("div", { class: "dense" }, this.canvas)];
  }

  // Repaints the canvas; with the cross-hair where the described pair is.
  paint(cross = document.activeElement === this.canvas) {
    const canvas = this.canvas;
    if (!canvas || !this.matrix) return;
    const { clusters, rows } = this.matrix;
    const n = clusters.length;
    const ratio = devicePixelRatio || 1;
    const size = Math.max(1, Math.floor(Math.min(canvas.parentElement.clientWidth, 760) * ratio / n)) * n;
    if (canvas.width !== size) { canvas.width = size; canvas.height = size; }
    canvas.style.width = `${size / ratio}px`;
    canvas.style.height = `${size / ratio}px`;
    const step = size / n;
    const gap = step >= 5 ? Math.max(1, Math.round(step / 8)) : 0;
    const style = getComputedStyle(canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const fill = { v: colour("--cell-good"), x: colour("--bad"), "?": colour("--cell-dim"), q: colour("--warn"), "-": colour("--line") };
    const g = canvas.getContext("2d");
    g.clearRect(0, 0, size, size);
    for (const kind of ["-", "v", "q", "?", "x"]) {
      g.fillStyle = fill[kind];
      for (let r = 0; r < n; r++) {
        for (let c = 0; c < n; c++) {
          if (rows[r][c] === kind) g.fillRect(c * step, r * step, step - gap, step - gap);
        }
      }
    }
    if (!cross) return;
    g.strokeStyle = colour("--ink");
    g.lineWidth = Math.max(1, ratio);
    g.strokeRect(0, this.at.row * step, size, step);
    g.strokeRect(this.at.column * step, 0, step, size);
  }

  faults() {
    const { reasons, reasons_omitted: omitted } = this.matrix;
    if (!reasons.length) return "";
    const shown = reasons.slice(0, 40);
    const more = reasons.length - shown.length + omitted;
    return el("details", { class: "faults", open: true },
      el("summary", {}, `Pairs that are not validated (${number(reasons.length + omitted)})`),
      el("ul", { class: "plain" }, shown.map((r) => el("li", {},
        el("span", { class: `cell ${{ failed: "x", quarantined: "out" }[r.result] ?? "q"}`, "aria-hidden": "true" }), el("b", {}, `${r.client} → ${r.server}`), ` ${r.result}: ${r.reason}`)),
      more > 0 ? el("li", { class: "muted" }, `and ${number(more)} more: federation verify lists them`) : ""));
  }
}
