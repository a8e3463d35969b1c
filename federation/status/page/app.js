// Asks the API and shows what it says; the event stream says when to ask at once. What is old is never shown as if it
// were still so: without an answer for some seconds, or with an error, the verdict is "Unknown" and all colour of health
// is taken away.

import { history } from "./charts.js";
import { detail, nothing } from "./details.js";
import { $, clock, duration, keepTime, morph, plural } from "./dom.js";
import { Matrix } from "./matrix.js";
import * as operate from "./operate.js";
import { rotation, shownAtAll } from "./rotation.js";
import * as sections from "./sections.js";
import { Source } from "./source.js";
import * as session from "./session.js";
import { bundle } from "./trust.js";

const STALE = 3000; // silence beyond the time between two questions, after which nothing counts any more
const HISTORY = 20000; // between two questions for the last hours
const VERDICT = { healthy: "Healthy", degraded: "Degraded", failing: "Failing" };

const state = {
  status: null, operations: null, history: null, historyAt: -Infinity, answered: 0, received: 0, error: "", asking: false, again: false,
  shown: new Map(), find: "", onlyTroubled: false, place: [], scrolled: 0,
};
const matrix = new Matrix($("matrix").querySelector(".body"));
const source = new Source({ headers: session.headers, ask });
const asksForToken = () => !$("token-form").hidden;

async function ask() {
  if (document.hidden || asksForToken()) return;
  if (state.asking) { state.again = true; return; } // what has just changed may not be in the answer on its way
  state.asking = true;
  try {
    const wantsHistory = performance.now() - state.historyAt > HISTORY;
    const [answer, operations, hours] = await Promise.all([
      source.get("api/v1/status", state.status && state.tag),
      source.get("api/v1/operations", state.operations && state.operationsTag).catch(() => null),
      wantsHistory ? source.get("api/v1/history", state.history && state.historyTag).catch(() => null) : null,
    ]);
    if (answer.status === 401 || answer.status === 403) {
      const refusal = await answer.json().catch(() => ({}));
      return askForToken(session.whyRefused(answer.status, refusal.detail));
    }
    if (answer.status !== 304) { // otherwise the hub says nothing new
      const body = await answer.json();
      if (!answer.ok) throw new Error(body.detail || body.title || `status ${answer.status}`);
      state.status = body;
      state.tag = answer.headers.get("ETag");
      state.received = performance.now();
    }
    if (operations?.status !== 304) {
      state.operations = operations?.ok ? await operations.json() : null;
      state.operationsTag = operations?.headers.get("ETag");
    }
    if (hours?.ok || hours?.status === 304) state.historyAt = performance.now();
    if (hours?.ok) {
      state.history = await hours.json();
      state.historyTag = hours.headers.get("ETag");
    }
    state.answered = performance.now();
    state.error = "";
    session.accepted();
    render();
  } catch (error) {
    state.error = error.name === "TimeoutError" ? "the hub did not answer in time" : error instanceof TypeError ? "the hub does not answer" : error.message;
  } finally {
    state.asking = false;
    tick();
    if (state.again) { state.again = false; setTimeout(() => source.soon(), 0); }
  }
}

const askToOperate = () => askForToken(`You may read. To operate, give a token that may; it reads as well. ${session.KEPT}`);

function askForToken(why) {
  $("token-why").textContent = why;
  session.forget();
  source.stop();
  state.status = state.operations = state.history = null;
  state.historyAt = -Infinity;
  operate.close();
  state.shown.clear();
  $("content").hidden = true;
  $("token-form").hidden = false;
  $("token").value = "";
  $("token").focus();
  tick();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  session.give($("token").value.trim());
  $("token").value = "";
  $("token-form").hidden = true;
  $("live").textContent = "connecting";
  source.start();
});
$("forget").addEventListener("click", () => askForToken("The token is forgotten."));

// The hub's own time: the instant of the last new answer plus what has passed here since.
const hubNow = () => Date.parse(state.status.generated) + (performance.now() - state.received);

// Draws a part anew where what it is made of is different. What does not differ in the page is not touched.
function show(id, part, nodes) {
  const key = JSON.stringify(part);
  if (state.shown.get(id) === key) return;
  state.shown.set(id, key);
  const made = nodes();
  if (made) morph($(id).querySelector(".body, .charts") ?? $(id), made);
}

function render() {
  const s = state.status;
  const now = hubNow();
  const start = performance.now();
  $("content").hidden = false;
  $("domain").textContent = s.trust_domain;
  const shownDetail = state.place.length > 0;
  $("overview").hidden = shownDetail;
  $("detail").hidden = !shownDetail;
  if (shownDetail) renderDetail(s, now);
  else renderOverview(s, now);
  keepTime(now);
  makeScrollable();
  performance.clearMeasures("render");
  performance.measure("render", { start });
}

function renderOverview(s, now) {
  const { clusters } = s;
  show("figures", [s.matrix.valid, s.matrix.failed, s.matrix.unknown, clusters.map((c) => c.health), s.bundle, s.authorities, s.signers.map((r) => [r.ready, r.stale]), s.certificates_issued], () => sections.figures(s));
  show("attention", [s.attention, s.summary, clusters.map((c) => [c.name, c.signing.state, c.workloads])], () => sections.attention(s.attention, s, now, s.summary));
  $("attention-title").textContent = s.attention.length ? `Needs attention (${s.attention.length})` : "Needs attention";
  $("rotation").hidden = !shownAtAll(s, state.operations);
  show("rotation", [s.rotation, s.rotation_plan, s.rotation_problem, s.quarantined, s.attention, clusters.map((c) => [c.name, c.connection.state, c.publication]), s.signers, state.operations], () => rotation(s, state.operations, now, operate.prepare, askToOperate));
  show("clusters", [clusters, state.find, state.onlyTroubled], () => sections.clusters(s, now, state));
  show("matrix", [s.matrix.clusters, s.matrix.rows, s.matrix.reasons, s.matrix.reasons_omitted], () => { matrix.show(s.matrix); return null; });
  show("bundle", [s.bundle, s.authorities, s.generations, s.proposals, s.member_cas, s.unpinned], () => bundle(s, now));
  show("roles", [s.signers, s.controllers, s.config_problems, s.insecure_options, s.open_policies], () => sections.roles(s, now));
  show("counts", [s.certificates_issued, s.refusals], () => sections.counts(s));
  if (state.history) {
    show("hours", [state.history], () => history(state.history, now));
    $("hours-since").textContent = `counted by the controller that answers, since ${clock(state.history.since, now)}`;
  }
}

function renderDetail(s, now) {
  const [kind, ...parts] = state.place;
  const found = detail(kind, parts, s, now) ?? nothing(kind, parts);
  $("detail-kind").textContent = found.kind;
  if ($("detail-title").textContent !== found.title) $("detail-title").textContent = found.title;
  show("detail", [state.place, s], () => found.nodes);
}

// What is wider or longer than its place scrolls: it is a stop of the keyboard for as long as that is so.
function makeScrollable() {
  for (const node of document.querySelectorAll(".scroll")) {
    const scrolls = node.scrollWidth > node.clientWidth + 1 || node.scrollHeight > node.clientHeight + 1;
    if (scrolls !== (node.tabIndex === 0)) scrolls ? node.setAttribute("tabindex", "0") : node.removeAttribute("tabindex");
  }
}

// The place that the address names: nothing for the overview. What is no place of the page changes nothing.
function go(focus = true) {
  if (location.hash && !location.hash.startsWith("#/")) return;
  let parts;
  try {
    parts = location.hash.slice(2).split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    parts = ["?"];
  }
  if (!state.place.length) state.scrolled = scrollY;
  const back = state.place.length && !parts.length;
  state.place = parts;
  if (!state.status) return;
  render();
  tick();
  scrollTo(0, back ? state.scrolled : 0);
  if (focus && parts.length) $("detail-title").focus({ preventScroll: true });
  else if (focus) $("main").focus({ preventScroll: true });
}

function tick() {
  const asked = asksForToken();
  const silent = performance.now() - state.answered;
  const stale = !asked && (state.error !== "" && silent > source.every || silent > source.every + STALE || !state.status);
  document.body.toggleAttribute("data-stale", stale);
  const live = $("live");
  if (asked) live.textContent = "locked";
  else if (!state.status) live.textContent = state.error || "connecting";
  else if (stale) live.textContent = `no answer for ${duration(silent / 1000)}`;
  else live.textContent = "live";
  live.dataset.state = asked ? "locked" : stale ? "stale" : "live";
  live.title = source.streams ? "the event stream says when something changes" : "asks for changes every two seconds";
  session.tick();
  const s = state.status;
  let verdict = "unknown";
  if (!asked && !s && state.error) {
    say("Unknown", `${sentence(state.error)} Nothing is known.`);
    $("content").hidden = false;
    $("content").dataset.empty = "";
  } else if (s) {
    delete $("content").dataset.empty;
    if (stale) {
      const answered = new Date(Date.now() - silent).toLocaleTimeString();
      say("Unknown", `${sentence(state.error || "the hub does not answer")} What follows is its last answer, of ${answered}; it may no longer be so.`);
    } else {
      verdict = s.verdict;
      say(VERDICT[verdict] ?? "Unknown", s.summary);
      keepTime(hubNow());
    }
  }
  $("verdict").dataset.verdict = verdict;
  const place = state.place.length ? `${$("detail-title").textContent} · ` : "";
  document.title = s ? `${stale ? "Unknown" : VERDICT[verdict]} · ${place}${plural(s.clusters.length, "cluster")} · Federation hub` : "Federation hub";
  if (state.wasStale !== stale) { state.wasStale = stale; matrix.paint(); }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function say(word, summary) {
  if ($("verdict-word").textContent !== word) $("verdict-word").textContent = word;
  if ($("verdict-summary").textContent !== summary) $("verdict-summary").textContent = summary;
}

$("find").addEventListener("input", (event) => { state.find = event.target.value.trim().toLowerCase(); if (state.status) render(); });
$("only-troubled").addEventListener("change", (event) => { state.onlyTroubled = event.target.checked; if (state.status) render(); });
$("skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); });
addEventListener("hashchange", () => go());
addEventListener("resize", () => { if (state.status) makeScrollable(); });
document.addEventListener("visibilitychange", () => {
  tick();
  if (document.hidden) source.stop();
  else if (!asksForToken()) source.start();
});
operate.listen(session.headers, () => source.soon());
setInterval(tick, 1000);
go(false);
source.start();
