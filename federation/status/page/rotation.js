// The rotation: its steps, the gate with its evidence, who is left out, what has been, what was asked for.
// Nodes out, nothing kept; `ask` is called with the operation of a button, `identify` by a reader who
// wants to operate.

import { ago, at, badge, button, cluster, clusters, duration, el, number, plural, prose, short, time, wide } from "./dom.js";

const MARK = { done: "✓", current: "●", ahead: "" };
const MOST = 60;
const LEFT_TO_DO = ["successor_signs", "pin_retired", "pin_admitted"];
const OF_LEAVES = ["drained", "new_drained", "earlier"]; // a quarantine does not shorten these waits
const ABORTABLE = ["STAGED", "PUBLISHING", "SOAKED", "CANARY", "ACTIVE"];

export function shownAtAll(status, operations) {
  return Boolean(status.rotation || status.rotation_problem || status.rotation_plan?.new || status.quarantined.length || operations?.operations.length);
}

export function rotation(status, operations, now, ask, identify) {
  const { rotation: r, quarantined } = status;
  const may = Boolean(operations?.accepted);
  return [
    status.rotation_problem ? el("p", { class: "note bad" }, el("b", {}, "Not known: "), `${status.rotation_problem}. Neither the rotation nor quarantines can be determined before that is mended.`) : r ? heading(r, now) : el("p", { class: "calm" }, "No rotation was ever started."),
    r ? steps(r) : "",
    r?.paused ? el("p", { class: "note warn" }, el("b", {}, "It does not go on by itself: "), r.paused) : "",
    r?.deadline ? el("p", { class: "note bad" }, el("b", {}, "Emergency: "), `the compromised side is left by ${at(r.deadline)}`, r.ttl_cap ? `; certificates live ${duration(r.ttl_cap)} at most` : "", ".") : "",
    r ? gate(r, now) : "",
    r?.under_way ? behind(status) : "",
    r?.deadline ? losses(r) : "",
    !r?.under_way ? leftToDo(status) || plan(status.rotation_plan) : "",
    may ? buttons(status, ask) : "",
    !may && operations?.with_token ? el("p", { class: "buttons" }, button("Operate …", identify)) : "",
    quarantined.length ? [el("h3", {}, "Quarantined"), out(quarantined, may, now, ask)] : "",
    r ? sides(r) : "",
    r ? history(r) : "",
    operations?.operations.length ? audit(operations.operations, now) : "",
  ].flat(2);
}

function heading(r, now) {
  const how = r.paused ? "paused" : r.under_way ? (r.automatic ? "it goes on by itself" : "step by step") : "at rest";
  return el("p", { class: "fact" }, `Rotation ${number(r.number)} of the ${r.kind}, in `, el("b", {}, r.state), r.since ? [" ", time("since", r.since, now)] : "", `; ${how}. `, `${r.author}: ${r.reason}`);
}

function steps(r) {
  return el("ol", { class: "steps", "aria-label": "States of this rotation" }, r.steps.map((s) =>
    el("li", { class: s.mark, "aria-current": s.mark === "current" ? "step" : null },
      el("span", { class: "dot", "aria-hidden": "true" }, MARK[s.mark]),
      el("span", { class: "name" }, s.state, el("span", { class: "sr" }, ` (${s.mark})`)),
      s.since ? el("time", { datetime: s.since, title: s.since }, `${s.since.slice(5, 10)} ${s.since.slice(11, 16)}`) : "",
      s.state === "UNPUBLISHING" && r.waves.length ? el("small", {}, waves(r.waves)) : "",
      s.state === "CANARY" && r.canary.length ? el("small", {}, r.canary.join(", ")) : "")));
}

const waves = (every) => `${every.filter((w) => w.state === "removed").length} of ${plural(every.length, "wave")}`;

function gate(r, now) {
  const g = r.gate;
  if (!g) return "";
  const title = el("h3", {}, `Gate out of ${r.state}`);
  if (!g.known) return [title, el("p", {}, badge("unknown", "not known"), " ", g.detail)];
  const opens = g.opens_at ? ["opens ", time("in", g.opens_at, now), ` at the earliest, at ${at(g.opens_at)}`] : "when it opens cannot be determined";
  const unmet = g.conditions.filter((c) => !c.met);
  const met = g.conditions.filter((c) => c.met);
  return [
    title,
    el("p", {}, g.open ? badge("ok", "open") : badge("pending", "closed"), " ", g.open ? "every condition is met" : opens),
    g.waits_for.length ? el("p", { class: "waits" }, el("b", {}, "Waits for: "), clusters(g.waits_for, 12)) : "",
    unmet.length ? conditions("Conditions that are not met", unmet) : "",
    met.length ? el("details", { "data-key": "met", open: !unmet.length }, el("summary", {}, `Met (${met.length})`), conditions("Conditions that are met", met)) : "",
  ];
}

// A list rather than a table: it is read on a phone at night.
function conditions(label, every) {
  const lines = every.slice(0, MOST).map((c) => el("li", { "data-key": `${c.name} ${c.cluster}` },
    c.met ? badge("ok", "met") : badge("pending", "not met"),
    el("div", {}, el("b", {}, c.name), c.cluster ? [" · ", cluster(c.cluster)] : "", el("p", { class: "wrap" }, c.detail),
      c.until && !c.met ? el("p", { class: "muted" }, `until ${at(c.until)}`) : "")));
  if (every.length > MOST) lines.push(el("li", {}, `and ${number(every.length - MOST)} more`));
  return el("ul", { class: "conditions", "aria-label": label }, lines);
}

// Who does not hold or follow yet what is in force.
function behind(status) {
  const out = new Set(status.quarantined.map((q) => q.cluster));
  const late = status.clusters.filter((c) => !out.has(c.name) && c.publication.state !== "current");
  const signers = status.signers.filter((s) => !s.stale && !(s.follows_directives && s.holds_bundle_in_force));
  const lines = [
    ...late.slice(0, MOST).map((c) => el("li", { "data-key": c.name }, el("b", {}, cluster(c.name)), ": ", c.publication.detail || `its publication is ${c.publication.state}`)),
    ...signers.map((s) => el("li", { "data-key": s.replica }, el("b", {}, s.replica), s.follows_directives ? ": " : `: still follows ${s.directives || "what was given before"}; `, `hands out generation ${number(s.generation)}`)),
  ];
  if (late.length > MOST) lines.push(el("li", {}, `and ${number(late.length - MOST)} more`));
  return lines.length ? [el("h3", {}, "Behind"), el("ul", { class: "plain" }, lines)] : el("p", { class: "muted" }, "No one is behind: every cluster holds its bundle, and every signer follows.");
}

function losses(r) {
  const side = r.state === "ABORTING" ? "new" : "old";
  const rows = r.losses.filter((l) => l.side === side).flatMap((l) => l.clusters.map((c) => el("tr", {},
    el("th", { scope: "row" }, cluster(c.cluster)), el("td", { class: "wrap" }, l.what), el("td", {}, l.at_removal ? "at the removal" : "at once"), el("td", {}, c.until ? at(c.until) : "it is published there"))));
  if (!rows.length) return [];
  return [el("h3", {}, "What fails"), wide("What fails", ["Cluster", "What", "From", "Until"], rows.slice(0, MOST))];
}

function leftToDo(status) {
  const left = status.attention.filter((a) => LEFT_TO_DO.includes(a.code));
  if (status.rotation?.state !== "RETIRED" || !left.length) return null;
  return [
    el("h3", {}, "Left for you to do"),
    el("p", {}, "In one change of the configuration of every replica of both roles; then destroy the old key. Another rotation can be planned once that is done."),
    el("ul", { class: "plain" }, left.map((a) => el("li", { class: "wrap" }, el("b", {}, a.where), ": ", prose(a.remedy)))),
  ];
}

function plan(p) {
  if (!p || !p.new) return [];
  const why = p.problem || p.conditions.find((c) => !c.met)?.detail;
  return [
    el("h3", {}, "What a start would do"),
    p.ready
      ? el("p", {}, badge("ok", "ready"), ` a rotation of the ${p.kind} from ${p.old.subject} to ${p.new.subject}, in ${duration(p.takes)} at least; canary: ${p.canary.join(", ") || "none"}`)
      : el("p", { class: "wrap" }, badge("pending", "not now"), " ", why, p.remedy ? el("small", {}, ` ${p.remedy}`) : ""),
  ];
}

function out(quarantined, may, now, ask) {
  const rows = quarantined.map((q) => el("tr", { "data-key": q.cluster },
    el("th", { scope: "row" }, cluster(q.cluster)),
    el("td", {}, badge("quarantined", q.returning ? "returning" : "out")),
    el("td", { class: "wrap" }, q.reason, el("small", {}, q.author)),
    el("td", { class: "wrap" }, q.waits_for.map((c) => c.detail).join("; ") || "—"),
    el("td", {}, ago(q.since, now)),
    el("td", {}, may && !q.returning ? button("Release", () => ask({ verb: "release", arguments: { cluster: q.cluster }, confirm: q.cluster, text: `${q.cluster} gets what is in force, and certificates again once it is caught up.` })) : "")));
  return wide("Quarantined clusters", ["Cluster", "State", "Reason", "Waits for", "Since", ""], rows);
}

function buttons(status, ask) {
  const { rotation: r, rotation_plan: p } = status;
  const offered = [];
  const offer = (label, operation) => offered.push(button(label, () => ask(operation), { "data-key": label }));
  if (r?.under_way) {
    const confirm = `rotation ${r.number}`;
    if (r.gate?.open && (r.paused || !r.automatic)) offer("Advance", { verb: "advance", arguments: {}, confirm, text: `The rotation leaves ${r.state}; its gate is open.` });
    if (ABORTABLE.includes(r.state)) offer("Abort", { verb: "abort", arguments: {}, confirm, reason: "asked", text: "The old authority signs again, and the new root is removed once nothing needs it. After a restore it is refused until the old root is trusted everywhere again." });
    if (r.state === "UNPUBLISHING") offer("Restore the old root", { verb: "restore", arguments: {}, confirm, reason: "asked", text: "The old root is published again, and the rotation goes back to ACTIVE." });
    const left = new Set(status.quarantined.map((q) => q.cluster));
    const unreachable = status.clusters.filter((c) => !left.has(c.name) && r.gate?.conditions.some((w) => !w.met && w.cluster === c.name && !OF_LEAVES.includes(w.name)) && !["ready", "degraded"].includes(c.connection.state));
    for (const c of unreachable.slice(0, 4)) offer(`Quarantine ${c.name}`, { verb: "quarantine", arguments: { cluster: c.name }, confirm: c.name, reason: "needed", text: `Nothing is issued in ${c.name} from then on, and no gate waits until it is reached; the last ones still wait until its certificates have expired.` });
  } else if (p?.ready) {
    offer("Start", { verb: "start", arguments: {}, confirm: "start", reason: "asked", text: `Starts a rotation of the ${p.kind} to ${p.new.subject}.` });
  }
  return offered.length ? el("p", { class: "buttons" }, offered) : "";
}

function sides(r) {
  const row = (name, s) => el("tr", {}, el("th", { scope: "row" }, name),
    el("td", { class: "wrap" }, s.subject || "—", el("small", { class: "mono", title: s.intermediate }, short(s.intermediate))),
    el("td", { class: "wrap" }, s.root_subject || "—", el("small", { class: "mono", title: s.root }, short(s.root))));
  return el("details", { "data-key": "sides" }, el("summary", {}, "Both sides"), wide("Both sides", ["", "Intermediate", "Root"], [row("Old", r.old), row("New", r.new)]));
}

function history(r) {
  const rows = r.history.map((t) => el("tr", {},
    el("td", {}, at(t.at)),
    el("th", { scope: "row" }, `${t.before} → ${t.after}`),
    el("td", { class: "wrap" }, t.reason, el("small", {}, t.author)),
    el("td", { class: "wrap" }, el("ul", { class: "plain" }, t.evidence.map((c) => el("li", {}, `${c.met ? "✓" : "✕"} ${c.name}${c.cluster ? ` (${c.cluster})` : ""}: ${c.detail}`))),
      t.evidence_omitted ? el("small", {}, `and ${number(t.evidence_omitted)} more`) : "")));
  return el("details", { "data-key": "history" }, el("summary", {}, `Steps taken (${r.history.length})`), wide("Steps taken, newest first", ["When", "Step", "Why", "Evidence"], rows));
}

function audit(every, now) {
  const rows = every.slice(0, MOST).map((o) => el("tr", { "data-key": o.id },
    el("td", {}, ago(o.asked, now)),
    el("th", { scope: "row" }, o.verb, el("small", {}, Object.entries(o.arguments).map(([k, v]) => `${k}: ${v}`).join("; "))),
    el("td", { class: "wrap" }, o.author, o.sealed === false ? el("small", {}, badge("failed", "no controller's seal")) : null),
    el("td", {}, o.outcome === "done" ? badge("ok", "done") : o.outcome ? badge("failed", "refused") : badge("unknown", "undecided")),
    el("td", { class: "wrap" }, o.detail, o.remedy ? el("small", {}, o.remedy) : "")));
  return el("details", { "data-key": "audit" }, el("summary", {}, `Operations asked for (${every.length})`), wide("Operations, newest first", ["Asked", "What", "By", "Outcome", "Detail"], rows));
}
