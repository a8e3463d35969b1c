// Asks the API every two seconds and shows what it says. What is old is never shown as if it were still so: without an
// answer for five seconds, or with an error, the verdict is "Unknown" and all colour of health is taken away.

import { $, duration, plural } from "./dom.js";
import { Matrix } from "./matrix.js";
import * as operate from "./operate.js";
import { rotation, shownAtAll } from "./rotation.js";
import * as sections from "./sections.js";

const EVERY = 2000;
const PATIENCE = 4000;
const STALE = 5000;
const TOKEN = "federation-status-token";
const VERDICT = { healthy: "Healthy", degraded: "Degraded", failing: "Failing" };

const state = { status: null, operations: null, answered: 0, received: 0, since: 0, error: "", asking: false, shown: new Map(), find: "", onlyTroubled: false };
const matrix = new Matrix($("matrix").querySelector(".body"), $("pair"), $("faults"));

function stored(value) {
  try {
    if (value === undefined) return sessionStorage.getItem(TOKEN) ?? "";
    if (value) sessionStorage.setItem(TOKEN, value);
    else sessionStorage.removeItem(TOKEN);
  } catch { /* storage is denied: the token then lives while this page does */ }
  return value ?? "";
}
let token = stored();

const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
const get = (path, tag) => fetch(path, { headers: tag ? { ...headers(), "If-None-Match": tag } : headers(), cache: "no-store", credentials: "omit", redirect: "error", signal: AbortSignal.timeout(PATIENCE) });

async function ask() {
  if (state.asking || document.hidden || !$("token-form").hidden) return;
  state.asking = true;
  try {
    const [answer, operations] = await Promise.all([get("api/v1/status", state.status && state.tag), get("api/v1/operations", state.operations && state.operationsTag).catch(() => null)]);
    if (answer.status === 401) return askForToken();
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
    state.answered = performance.now();
    state.error = "";
    render();
  } catch (error) {
    state.error = error.name === "TimeoutError" ? "the hub did not answer in time" : error instanceof TypeError ? "the hub does not answer" : error.message;
  } finally {
    state.asking = false;
    tick();
  }
}

const KEPT = "It is kept in this tab until you close it, and sent to this hub only.";
const askToOperate = () => askForToken(`You may read. To operate, give the operate token; it reads as well. ${KEPT}`);

function askForToken(why = token ? "That token was not accepted." : KEPT) {
  $("token-why").textContent = why;
  token = stored("");
  state.status = null;
  operate.close();
  state.shown.clear();
  $("content").hidden = true;
  $("token-form").hidden = false;
  $("token").value = "";
  $("token").focus();
}

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = stored($("token").value.trim());
  $("token-form").hidden = true;
  $("live").textContent = "connecting";
  ask();
});

// The hub's own time: the instant of the last new answer plus what has passed here since.
const hubNow = () => Date.parse(state.status.generated) + (performance.now() - state.received);

function show(id, part, nodes) {
  const key = JSON.stringify(part);
  if (state.shown.get(id) === key) return;
  state.shown.set(id, key);
  const body = $(id).querySelector(".body") ?? $(id);
  const open = [...body.querySelectorAll("details")].map((d) => d.open);
  body.replaceChildren(...nodes().filter(Boolean));
  if (open.length) body.querySelectorAll("details").forEach((d, i) => { if (open[i] !== undefined) d.open = open[i]; });
}

function render() {
  const s = state.status;
  const now = hubNow();
  const minute = Math.floor(now / 60000);
  $("content").hidden = false;
  $("domain").textContent = s.trust_domain;
  show("figures", [s.matrix.valid, s.matrix.failed, s.matrix.unknown, s.clusters.map((c) => c.health), s.bundle, s.authorities, s.signers.map((r) => [r.ready, r.stale]), s.certificates_issued], () => sections.figures(s));
  show("attention", [s.attention, minute], () => sections.attention(s, now));
  $("attention-title").textContent = s.attention.length ? `Needs attention (${s.attention.length})` : "Needs attention";
  $("rotation").hidden = !shownAtAll(s, state.operations);
  show("rotation", [s.rotation, s.rotation_plan, s.quarantined, s.clusters.map((c) => c.connection.state), state.operations, Math.floor(now / 10000)], () => rotation(s, state.operations, now, operate.prepare, askToOperate));
  show("clusters", [s.clusters, state.find, state.onlyTroubled, Math.floor(now / 10000)], () => sections.clusters(s, now, state));
  if (state.shown.get("matrix") !== JSON.stringify([s.matrix.clusters, s.matrix.rows, s.matrix.reasons])) {
    state.shown.set("matrix", JSON.stringify([s.matrix.clusters, s.matrix.rows, s.matrix.reasons]));
    matrix.show(s.matrix);
  }
  show("bundle", [s.bundle, s.authorities, s.generations, s.proposals], () => sections.bundle(s));
  show("roles", [s.signers, s.controllers, s.config_problems, s.insecure_options, s.open_policies], () => sections.roles(s, now));
  show("counts", [s.certificates_issued, s.refusals], () => sections.counts(s));
}

function tick() {
  const asked = !$("token-form").hidden;
  const silent = performance.now() - state.answered;
  const stale = !asked && (state.error !== "" && silent > EVERY || silent > STALE || !state.status);
  document.body.toggleAttribute("data-stale", stale);
  const live = $("live");
  if (asked) live.textContent = "locked";
  else if (!state.status) live.textContent = state.error || "connecting";
  else if (stale) live.textContent = `no answer for ${duration(silent / 1000)}`;
  else live.textContent = "live";
  live.dataset.state = asked ? "locked" : stale ? "stale" : "live";
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
    }
  }
  $("verdict").dataset.verdict = verdict;
  document.title = s ? `${stale ? "Unknown" : VERDICT[verdict]} · ${plural(s.clusters.length, "cluster")} · Federation hub` : "Federation hub";
  if (state.wasStale !== stale) { state.wasStale = stale; matrix.paint(); }
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function say(word, summary) {
  if ($("verdict-word").textContent !== word) $("verdict-word").textContent = word;
  if ($("verdict-summary").textContent !== summary) $("verdict-summary").textContent = summary;
}

$("find").addEventListener("input", (event) => { state.find = event.target.value.trim().toLowerCase(); if (state.status) render(); });
$("only-troubled").addEventListener("change", (event) => { state.onlyTroubled = event.target.checked; if (state.status) render(); });
document.addEventListener("visibilitychange", () => { tick(); ask(); });
operate.listen(headers, ask);
setInterval(ask, EVERY);
setInterval(tick, 1000);
ask();
