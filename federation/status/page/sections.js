// The overview: one function a section, a part of the status in, nodes out. Nothing here keeps state, but for what the rows
// of the clusters were built of: a row is built anew only where something in it is different.

import { ago, badge, clusters as links, cluster, day, days, el, lasting, link, number, prose, table, time, wide } from "./dom.js";

const SEVERITY = { critical: "Critical", warning: "Warning", notice: "Notice" };

export function figures(status) {
  const { matrix, clusters, bundle, signers } = status;
  const well = clusters.filter((c) => c.health === "healthy").length;
  const ready = signers.filter((s) => s.ready).length;
  const ends = [...(bundle?.anchors ?? []).map((a) => [a.days_left, a.expiry, `${a.kind} in the bundle`]),
    ...status.authorities.filter((a) => a.signs && a.not_after).map((a) => [a.days_left, a.expiry, `intermediate of ${a.name}`])];
  const next = ends.reduce((a, b) => (a && a[0] <= b[0] ? a : b), null);
  const figure = (name, value, of, note, tone) =>
    el("div", { class: `figure ${tone}` },
      el("dt", {}, name),
      el("dd", {}, el("strong", {}, value), of ? el("span", { class: "of" }, ` of ${of}`) : "", el("small", {}, note)));
  const pairNote = matrix.failed || matrix.unknown || matrix.quarantined
    ? [[matrix.failed, "fail"], [matrix.unknown, "unknown"], [matrix.quarantined, "quarantined"]].filter(([n]) => n).map(([n, what]) => `${number(n)} ${what}`).join(", ")
    : matrix.pairs ? "every pair validates" : "no pair to prove";
  const generation = bundle ? link(number(bundle.generation), "generations", String(bundle.generation)) : "none";
  return [
    figure("Ordered pairs valid", number(matrix.valid), number(matrix.pairs), pairNote, matrix.proven ? "good" : matrix.failed ? "bad" : "warn"),
    figure("Clusters healthy", number(well), number(clusters.length), unwell(clusters), well === clusters.length ? "good" : "warn"),
    figure("Generation of trust", generation, "", bundle ? `since ${day(bundle.created)}` : "nothing is in force", bundle ? "plain" : "bad"),
    figure("Next expiry", next ? days(next[0]) : "—", "", next ? next[2] : "", next ? tone(next[1]) : "bad"),
    figure("Signers ready", number(ready), number(signers.filter((s) => !s.stale).length), `${number(status.certificates_issued)} certificates`, ready ? "good" : "bad"),
  ];
}

const tone = (expiry) => ({ ok: "plain", notice: "plain", warning: "warn" })[expiry] ?? "bad";

function unwell(clusters) {
  const count = (health) => clusters.filter((c) => c.health === health).length;
  return ["failing", "degraded", "unknown", "quarantined"].map((h) => [count(h), h]).filter(([n]) => n).map(([n, h]) => `${n} ${h}`).join(", ") || "all of them";
}

// What needs attention, those in `items`; severest first, as the hub gives them. What `said` says already, above, is not
// said again.
export function attention(items, status, now, said = "") {
  if (!items.length) return [el("p", { class: "calm" }, "Nothing.")];
  return [el("ul", { class: "attention" }, items.map((item) => {
    const until = item.severity === "notice" ? "" : untilWhen(item, status, now);
    const names = status.clusters.map((c) => c.name);
    return el("li", { class: item.severity, "data-key": `${item.code} ${item.where}` },
      badge(item.severity, SEVERITY[item.severity]),
      el("div", {},
        el("p", { class: "what" }, what(item, names, said)),
        until ? el("p", { class: "remedy" }, el("span", {}, "Certificates there: "), until) : "",
        item.remedy ? el("p", { class: "remedy todo" }, el("span", {}, "What to do: "), prose(item.remedy)) : "",
        item.consequences.length ? el("p", { class: "remedy" }, el("span", {}, "What follows: "), prose(item.consequences.map(follows).join("; "))) : "",
        about(item, names)),
      item.since ? time("since", item.since, now) : "");
  }))];
}

// Where and what. A cluster's name leads to the cluster.
function what(item, names, said) {
  const place = el("b", {}, names.includes(item.where) ? cluster(item.where) : item.where);
  const known = item.fact && item.detail.startsWith(item.fact) && said.toLowerCase().startsWith(item.fact.toLowerCase());
  const rest = known ? item.detail.slice(item.fact.length).replace(/^[\s:;,.]+/, "") : "";
  if (rest) return [place, ": ", rest];
  return item.detail.startsWith(`${item.where} `) ? [place, item.detail.slice(item.where.length)] : [place, " ", item.detail];
}

// The other clusters that it is about.
function about(item, names) {
  const others = item.clusters.filter((name) => name !== item.where && names.includes(name));
  return others.length ? el("p", { class: "remedy about" }, el("span", {}, others.length === 1 ? "Cluster: " : "Clusters: "), links(others)) : "";
}

// Until when certificates last where their renewal is at stake. Some findings say so themselves.
function untilWhen(item, status, now) {
  if (item.detail.includes("certificates there last")) return "";
  const concerned = item.clusters.length ? status.clusters.filter((c) => item.clusters.includes(c.name)) : status.clusters;
  return lasting(concerned.filter((c) => ["unavailable", "unknown"].includes(c.signing.state) || c.workloads.state === "stopped"), now);
}

function follows(c) {
  if (c.where === "matrix") return c.detail;
  const words = c.detail.includes(c.where) ? c.detail : `${c.where}: ${c.detail}`;
  return `${words}${c.count > 1 ? ` (and ${number(c.count - 1)} more)` : ""}${c.remedy ? ` (${c.remedy})` : ""}`;
}

const RANK = { failing: 0, unknown: 1, quarantined: 2, degraded: 3, healthy: 4 };
const drawn = new Map(); // by name: what the row in the page was built of

export function clusters(status, now, { find, onlyTroubled }) {
  const shown = status.clusters
    .filter((c) => (!onlyTroubled || c.health !== "healthy") && (c.name.includes(find) || c.cluster_id.toLowerCase().includes(find)))
    .sort((a, b) => RANK[a.health] - RANK[b.health] || a.name.localeCompare(b.name, "en", { numeric: true }));
  const names = new Set(shown.map((c) => c.name));
  for (const name of drawn.keys()) if (!names.has(name)) drawn.delete(name);
  if (!shown.length) return [el("p", { class: "calm" }, status.clusters.length ? "No cluster matches." : "No cluster is registered.")];
  const rows = shown.map((c) => {
    const content = JSON.stringify(c);
    if (drawn.get(c.name) === content) return el("tr", { "data-key": c.name, "data-same": true });
    drawn.set(c.name, content);
    return clusterRow(c, now);
  });
  return [table("Registered clusters, those with faults first",
    ["Cluster", "Health", "API server", "Signing", "Namespaces with the bundle", "Pairs proved", { text: "Certificates", class: "num" }, "Workloads with one"], rows)];
}

function clusterRow(c, now) {
  const p = c.publication;
  const calm = c.health === "healthy" && !c.proof.unknown;
  return el("tr", { "data-key": c.name },
    el("th", { scope: "row" }, cluster(c.name), el("small", {}, [c.cluster_id, c.network].filter(Boolean).join(" · "))),
    el("td", {}, badge(c.health), calm ? "" : el("small", { class: "why" }, c.summary),
      c.joining ? el("small", { title: c.joining.detail }, `joins: step ${number(c.joining.number)} of ${number(c.joining.of)}, ${c.joining.steps[c.joining.number - 1].what}?`) : ""),
    el("td", {}, badge(c.connection.state, c.connection.state, c.connection.detail), el("small", {}, c.connection.version)),
    el("td", {}, badge(c.signing.state, c.signing.state, c.signing.detail), el("small", {}, c.signing.attestation.join(", ")),
      c.trusted_node_accounts.length ? el("small", {}, `ambient: ${c.trusted_node_accounts.join(", ")}`) : ""),
    el("td", {}, badge(p.state, p.state === "unknown" ? "unknown" : `${number(p.current)} of ${number(p.selected)}`, p.detail),
      el("small", {}, p.read_back ? ["read back ", ago(p.read_back, now)] : "not read back"), ...c.control_planes.map(controlPlane), webhooks(c.webhooks), trustBundle(c.cluster_trust_bundle)),
    el("td", {}, proof(c.proof)),
    el("td", { class: "num" }, number(c.signing.issued), el("small", {}, c.signing.last_issued ? ["last ", ago(c.signing.last_issued, now)] : "none yet")),
    el("td", {}, workloads(c.workloads), c.workloads.last_end ? el("small", {}, "first ends ", time("in", c.workloads.first_end ?? c.workloads.last_end, now), ", last ", time("in", c.workloads.last_end, now)) : ""));
}

export function workloads(w) {
  const state = w.state === "stopped" ? "failed" : w.state === "unknown" ? "unknown" : w.fine ? "ok" : "degraded";
  const shown = w.workloads === null ? (w.with_certificate ? `${number(w.with_certificate)} hold one` : "unknown") : `${number(w.with_certificate)} of ${number(w.workloads)}`;
  return [badge(state, shown, w.detail),
    w.sidecars === null ? "" : el("small", {}, `${number(w.sidecars)} sidecars, ${number(w.asked)} have asked the hub`)];
}

export function controlPlane(p) {
  const until = p.not_after ? ` until ${day(p.not_after)}` : "";
  return el("small", { title: [p.detail, p.names.join(", ")].filter(Boolean).join("; ") }, `istiod (${p.namespace}) ${p.state}${until}`);
}

export function webhooks(w) {
  if (w.state === "none") return "";
  return el("small", { title: w.detail }, `webhooks ${w.state.replace("_", " ")}`);
}

export function trustBundle(b) {
  if (!b.version) return "";
  return el("small", { title: b.detail }, `ClusterTrustBundle (${b.version}) ${b.state}`);
}

export function proof(p) {
  if (!p.pairs) return badge("ok", "no pair");
  return badge(p.failed ? "failed" : p.unknown ? "unknown" : p.quarantined ? "quarantined" : "ok", `${number(p.valid)} of ${number(p.pairs)}`,
    p.failed || p.unknown || p.quarantined ? `${p.failed} failed, ${p.unknown} unknown, ${p.quarantined} with quarantined clusters` : "");
}

export function roles(status, now) {
  const report = (r) => (r.stale ? badge("stale", "not seen", r.reasons.join("; ")) : badge(r.ready ? "ready" : "unavailable", r.ready ? "ready" : "not ready", r.reasons.join("; ")));
  const why = (r) => (r.ready ? "" : el("small", { class: "why" }, r.reasons.join("; ")));
  const signers = status.signers.map((s) => el("tr", { "data-key": s.replica },
    el("th", { scope: "row" }, s.replica, el("small", {}, s.address)),
    el("td", {}, report(s), why(s)),
    el("td", {}, badge(s.holds_bundle_in_force ? "current" : s.stale ? "unknown" : "pending", `generation ${number(s.generation)}`),
      s.generations_behind ? el("small", {}, `${s.generations_behind} behind`) : "",
      s.directives ? el("small", {}, `${s.follows_directives ? "follows" : "STILL FOLLOWS"} ${s.directives}`) : ""),
    el("td", {}, s.serving_not_after ? time("left", s.serving_not_after, now) : "—",
      s.listener === "refused" ? badge("unavailable", "refused by new callers", s.listener_detail) : "",
      s.listener === "not_met" ? el("small", { title: s.listener_detail }, "not proved by new connections") : ""),
    el("td", { class: "num" }, number(s.issued), el("small", {}, `${number(s.refused)} refused`)),
    el("td", {}, ago(s.updated, now))));
  const controllers = status.controllers.map((c) => el("tr", { "data-key": c.replica },
    el("th", { scope: "row" }, c.replica),
    el("td", {}, report(c), why(c)),
    el("td", {}, c.leader ? "leads" : "on standby"),
    el("td", {}, `generation ${number(c.generation)}`),
    el("td", {}, ago(c.updated, now))));
  const facts = (title, lines) => (lines.length ? [el("h3", {}, title), el("ul", { class: "plain" }, lines.map((l) => el("li", {}, l)))] : []);
  return [
    wide("Signers", ["Signer", "State", "Hands out", "Serving certificate", { text: "Certificates", class: "num" }, "Last seen"], signers),
    el("h3", {}, "Controllers"),
    wide("Controllers", ["Controller", "State", "Role", "Publishes", "Last seen"], controllers),
    ...facts("Configuration refused", status.config_problems),
    ...facts("Insecure options in force", status.insecure_options),
    status.open_policies.length ? [el("h3", {}, "Clusters that may have any identity which is not reserved"), el("p", { class: "wrap" }, links(status.open_policies, 24))] : "",
  ];
}

export function counts(status) {
  const refused = Object.entries(status.refusals).sort((a, b) => b[1] - a[1]);
  return [
    el("p", { class: "fact" }, `${number(status.certificates_issued)} certificates issued by the signers on record since each of them started. `,
      refused.length ? "Refused since then, by reason:" : "No request was refused."),
    refused.length
      ? el("ul", { class: "reasons" }, refused.map(([reason, n]) => el("li", {}, el("code", {}, reason), " ", el("b", {}, number(n)))))
      : "",
  ];
}
