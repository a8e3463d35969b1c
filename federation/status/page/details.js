// One thing by itself: a cluster, a pair, a generation. Each has an address, so that it can be sent to a colleague.
// A function each: its name and the status in, a title and nodes out; null where there is no such thing.

import { ago, at, badge, cluster, clusters, el, lasting, link, number, plural, time, wide } from "./dom.js";
import { CLASS, WORD } from "./matrix.js";
import * as sections from "./sections.js";
import { fingerprint } from "./trust.js";

export function detail(kind, parts, status, now) {
  const show = { clusters: clusterDetail, pairs: pairDetail, generations: generationDetail }[kind];
  return show?.(status, now, ...parts) ?? null;
}

const facts = (...every) => el("dl", { class: "facts" }, every.filter(Boolean).map(([name, ...value]) =>
  el("div", {}, el("dt", {}, name), el("dd", {}, ...value))));

const said = (...parts) => parts.filter(Boolean).map((part) => el("small", {}, part));

function concerning(status, names) {
  return status.attention.filter((item) => names.some((name) => item.where === name || item.clusters.includes(name)));
}

function clusterDetail(status, now, name) {
  const c = status.clusters.find((each) => each.name === name);
  if (!c) return null;
  const { connection: reached, signing, publication: p, workloads: w } = c;
  const until = lasting([c], now);
  const items = concerning(status, [name]);
  const refused = Object.entries(signing.refused).sort((a, b) => b[1] - a[1]).slice(0, 12);
  return {
    title: c.name,
    kind: "Cluster",
    nodes: [
      el("p", { class: "lead" }, badge(c.health), items.length ? "" : ` ${c.summary}.`),
      items.length ? sections.attention(items, status, now, status.summary) : "",
      facts(
        ["Certificates there", until || "until when they last is not known", ...said(w.detail, w.remedy && !w.fine ? `What to do: ${w.remedy}` : "")],
        ["API server", badge(reached.state), " ", reached.version, ...said(reached.detail), reached.since ? el("small", {}, "so ", time("since", reached.since, now)) : ""],
        ["Signing", badge(signing.state), ...said(signing.detail, signing.attestation.length ? `checked by ${signing.attestation.join(", ")}` : "", `${number(signing.issued)} certificates issued`), signing.last_issued ? el("small", {}, "the last ", ago(signing.last_issued, now)) : ""],
        ["Namespaces with the bundle", badge(p.state, p.state === "unknown" ? "unknown" : `${number(p.current)} of ${number(p.selected)}`), ...said(p.detail, p.remedy ? `What to do: ${p.remedy}` : ""), el("small", {}, p.read_back ? ["read back ", ago(p.read_back, now)] : "not read back"), p.generation ? el("small", {}, "all hold generation ", link(number(p.generation), "generations", String(p.generation)), " at least") : ""],
        ["Pairs proved", sections.proof(c.proof), ...said(c.proof.probe_detail)],
        ["Workloads", sections.workloads(w), ...said(w.never_requested.length ? `never asked: ${w.never_requested.join(", ")}` : "", w.ended_pods.length ? `ended: ${w.ended_pods.join(", ")}` : "")],
        ["Istio", c.control_planes.map(sections.controlPlane), sections.webhooks(c.webhooks), sections.trustBundle(c.cluster_trust_bundle), c.control_planes.length || c.webhooks.state !== "none" ? "" : "no control plane is reported"],
        ["Registered as", `cluster ID ${c.cluster_id}${c.network ? `, network ${c.network}` : ""}`],
        c.quarantine ? ["Quarantined", c.quarantine.reason, ...said(`by ${c.quarantine.author}`), el("small", {}, ago(c.quarantine.since, now))] : null),
      c.joining ? joining(c.joining) : "",
      strip(status.matrix, name),
      signing.signers.length ? [el("h3", {}, "As each signer sees it"), wide("As each signer sees it", ["Signer", "State", "Detail"], signing.signers.map((s) =>
        el("tr", { "data-key": s.replica }, el("th", { scope: "row" }, s.replica), el("td", {}, badge(s.state)), el("td", { class: "wrap" }, s.detail || s.attestation || "—"))))] : "",
      c.credentials.length ? [el("h3", {}, "The hub's credentials there"), wide("The hub's credentials there", ["Role", "Ends", "Renewal"], c.credentials.map((k) => credential(k, now)))] : "",
      refused.length ? [el("h3", {}, "Refused there, by reason"), el("ul", { class: "reasons" }, refused.map(([reason, n]) => el("li", {}, el("code", {}, reason), " ", el("b", {}, number(n)))))] : "",
    ],
  };
}

function credential(k, now) {
  if (!k.issued && !k.expires && !k.renews && !k.problem) {
    return el("tr", { "data-key": k.role }, el("th", { scope: "row" }, k.role), el("td", { colspan: 2 }, "nothing is reported"));
  }
  const state = k.problem ? badge("failed", "not renewed") : k.renews ? badge("ok", "renews itself") : badge("unknown", "renewed by others");
  return el("tr", { "data-key": k.role }, el("th", { scope: "row" }, k.role),
    el("td", {}, k.expires ? time("in", k.expires, now) : "no end is known"),
    el("td", { class: "wrap" }, state, ...said(k.problem, k.remedy)));
}

function joining(j) {
  return [el("h3", {}, "Joining"), el("ol", { class: "steps", "aria-label": "Steps of joining" }, j.steps.map((s, i) => {
    const mark = s.done ? "done" : i + 1 === j.number ? "current" : "ahead";
    return el("li", { class: mark, "aria-current": mark === "current" ? "step" : null },
      el("span", { class: "dot", "aria-hidden": "true" }, { done: "✓", current: "●", ahead: "" }[mark]),
      el("span", { class: "name" }, s.step), el("small", {}, s.what));
  })), el("p", { class: "wrap" }, j.detail), j.remedy ? el("p", { class: "remedy" }, el("span", {}, "What to do: "), j.remedy) : ""];
}

// Its peers by what each direction is; those that validate both ways only as a number.
function strip(matrix, name) {
  const i = matrix.clusters.indexOf(name);
  if (i < 0 || matrix.clusters.length < 2) return "";
  const why = new Map(matrix.reasons.map((r) => [`${r.client}>${r.server}`, r.reason]));
  const peers = matrix.clusters.map((peer, k) => ({ peer, calls: matrix.rows[i][k], answers: matrix.rows[k][i] })).filter((_, k) => k !== i);
  const faulty = peers.filter((p) => p.calls !== "v" || p.answers !== "v");
  const cell = (kind, from, to) => el("td", {}, el("span", { class: `cell ${CLASS[kind]}`, "aria-hidden": "true" }), " ", link(WORD[kind], "pairs", from, to),
    ...said(why.get(`${from}>${to}`)));
  return [el("h3", {}, "Its peers"),
    el("p", { class: "fact" }, `${plural(peers.length - faulty.length, "peer")} of ${number(peers.length)} validate in both directions`, faulty.length ? "" : [": ", clusters(peers.map((p) => p.peer), 12)], "."),
    faulty.length ? wide("Peers that do not validate in both directions", ["Peer", `${name} calls`, `${name} answers`], faulty.slice(0, 60).map((p) =>
      el("tr", { "data-key": p.peer }, el("th", { scope: "row" }, cluster(p.peer)), cell(p.calls, name, p.peer), cell(p.answers, p.peer, name)))) : "",
    faulty.length > 60 ? el("p", { class: "muted" }, `and ${number(faulty.length - 60)} more`) : ""];
}

function pairDetail(status, now, from, to) {
  const { matrix } = status;
  const [row, column] = [matrix.clusters.indexOf(from), matrix.clusters.indexOf(to)];
  if (row < 0 || column < 0 || row === column) return null;
  const cell = matrix.rows[row][column];
  const reason = matrix.reasons.find((r) => r.client === from && r.server === to)?.reason;
  const both = [from, to].map((name) => status.clusters.find((c) => c.name === name)).filter(Boolean);
  const items = concerning(status, [from, to]);
  const state = { v: "ok", x: "failed", "?": "unknown", q: "quarantined" }[cell];
  const back = matrix.rows[column][row];
  return {
    title: `${from} → ${to}`,
    kind: "Pair",
    nodes: [
      el("p", { class: "lead" }, badge(state, WORD[cell]), " ", reason ? `${reason}.` : cell === "v" ? `A workload in ${from} that calls one in ${to} gets through: a mutual TLS handshake with what workloads there hold succeeds.` : ""),
      items.length ? sections.attention(items, status, now, status.summary) : "",
      facts(
        ["The other direction", link(`${to} → ${from}`, "pairs", to, from), ` ${WORD[back]}`],
        ["Proved with", "generation ", link(number(matrix.generation), "generations", String(matrix.generation)), matrix.computed ? el("small", {}, ago(matrix.computed, now)) : ""]),
      wide("Both clusters", ["Cluster", "Health", "Holds generation", "Namespaces", "Certificates there"], both.map((c) => el("tr", { "data-key": c.name },
        el("th", { scope: "row" }, cluster(c.name), el("small", {}, c.name === from ? "calls" : "answers")),
        el("td", {}, badge(c.health), c.health === "healthy" ? "" : el("small", { class: "why" }, c.summary)),
        el("td", {}, c.publication.generation ? link(number(c.publication.generation), "generations", String(c.publication.generation)) : "—"),
        el("td", {}, c.publication.state === "unknown" ? "unknown" : `${number(c.publication.current)} of ${number(c.publication.selected)}`),
        el("td", { class: "wrap" }, lasting([c], now) || "not known")))),
    ],
  };
}

function generationDetail(status, now, text) {
  const g = status.generations.find((each) => String(each.number) === text);
  if (!g) return null;
  const before = status.generations.find((each) => each.number < g.number); // they are newest first
  const known = new Map([...(status.bundle?.anchors ?? []), ...status.authorities].map((a) => [a.sha256, a.subject]));
  const anchor = (sha256) => el("li", { class: "wrap" }, el("b", {}, known.get(sha256) ?? "not in force any more"), " ", fingerprint(sha256));
  const added = before ? g.anchors.filter((a) => !before.anchors.includes(a)) : [];
  const gone = before ? before.anchors.filter((a) => !g.anchors.includes(a)) : [];
  const behind = status.clusters.filter((c) => c.publication.generation !== g.number || c.publication.state !== "current");
  const late = status.signers.filter((s) => !s.stale && s.generation !== g.number);
  const list = (title, every) => (every.length ? [el("h3", {}, title), el("ul", { class: "plain" }, every.map(anchor))] : "");
  return {
    title: `Generation ${number(g.number)}`,
    kind: "Generation of trust",
    nodes: [
      el("p", { class: "lead" }, g.in_force ? badge("current", "in force") : badge("unknown", "not in force"), ` ${g.reason}.`),
      facts(
        ["Made", at(g.created), el("small", {}, ago(g.created, now)), el("small", {}, `by ${g.author}`)],
        ["SHA-256 of its bytes", el("code", { class: "wrap" }, g.sha256)],
        g.in_force ? ["Clusters that hold it everywhere", `${number(status.clusters.length - behind.length)} of ${number(status.clusters.length)}`, behind.length ? el("small", {}, "not yet, or not known: ", clusters(behind.map((c) => c.name), 12)) : ""] : null,
        g.in_force ? ["Signers that hand it out", `${number(status.signers.filter((s) => !s.stale).length - late.length)} of ${number(status.signers.filter((s) => !s.stale).length)}`, ...said(late.length ? `not yet: ${late.map((s) => s.replica).join(", ")}` : "")] : null,
        before ? ["Before it", link(`generation ${number(before.number)}`, "generations", String(before.number)), ...said(added.length || gone.length ? "" : "the same anchors")] : null),
      list("Came with it", added),
      list("Left with it", gone),
      list(`All its anchors (${number(g.anchors.length)})`, g.anchors),
      Object.keys(g.evidence).length ? [el("h3", {}, "Evidence"), facts(...Object.entries(g.evidence).map(([name, value]) => [name, value]))] : "",
    ],
  };
}

export const nothing = (kind, parts) => ({
  title: "Nothing there",
  kind: "Not found",
  nodes: [el("p", {}, `The hub knows no ${{ clusters: "cluster", pairs: "pair of clusters", generations: "generation" }[kind] ?? "page"} “${parts.join(" → ")}”. It may have been removed since; of generations the newest 20 are shown.`)],
});
