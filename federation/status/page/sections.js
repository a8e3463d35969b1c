// One function a section: a part of the status in, nodes out. Nothing here keeps state.

import { ago, badge, day, duration, el, number, plural, short, table } from "./dom.js";

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
  return [
    figure("Ordered pairs valid", number(matrix.valid), number(matrix.pairs), pairNote, matrix.proven ? "good" : matrix.failed ? "bad" : "warn"),
    figure("Clusters healthy", number(well), number(clusters.length), unwell(clusters), well === clusters.length ? "good" : "warn"),
    figure("Generation of trust", bundle ? number(bundle.generation) : "none", "", bundle ? `since ${day(bundle.created)}` : "nothing is in force", bundle ? "plain" : "bad"),
    figure("Next expiry", next ? days(next[0]) : "—", "", next ? next[2] : "", next ? tone(next[1]) : "bad"),
    figure("Signers ready", number(ready), number(signers.filter((s) => !s.stale).length), `${number(status.certificates_issued)} certificates`, ready ? "good" : "bad"),
  ];
}

const tone = (expiry) => ({ ok: "plain", notice: "plain", warning: "warn" })[expiry] ?? "bad";
const days = (left) => (left < 0 ? "expired" : left < 2 ? `${Math.round(left * 24)} h` : `${number(Math.floor(left))} days`);

function unwell(clusters) {
  const count = (health) => clusters.filter((c) => c.health === health).length;
  return ["failing", "degraded", "unknown", "quarantined"].map((h) => [count(h), h]).filter(([n]) => n).map(([n, h]) => `${n} ${h}`).join(", ") || "all of them";
}

export function attention(status, now) {
  if (!status.attention.length) return [el("p", { class: "calm" }, "Nothing.")];
  return [el("ul", { class: "attention" }, status.attention.map((item) =>
    el("li", { class: item.severity },
      badge(item.severity, SEVERITY[item.severity]),
      el("div", {},
        el("p", { class: "what" }, item.detail.startsWith(`${item.where} `) ? "" : [el("b", {}, item.where), " "], item.detail),
        item.remedy ? el("p", { class: "remedy" }, el("span", {}, "What to do: "), item.remedy) : "",
        item.consequences.length ? el("p", { class: "remedy" }, el("span", {}, "What follows: "), item.consequences.map(follows).join("; ")) : ""),
      item.since ? el("time", { datetime: item.since, title: item.since }, `for ${duration((now - Date.parse(item.since)) / 1000)}`) : "")))];
}

function follows(c) {
  if (c.where === "matrix") return c.detail;
  const what = c.detail.startsWith(`${c.where} `) ? c.detail : `${c.where}: ${c.detail}`;
  return `${what}${c.count > 1 ? ` (and ${number(c.count - 1)} more)` : ""}${c.remedy ? ` (${c.remedy})` : ""}`;
}

const RANK = { failing: 0, unknown: 1, quarantined: 2, degraded: 3, healthy: 4 };

export function clusters(status, now, { find, onlyTroubled }) {
  const shown = status.clusters
    .filter((c) => (!onlyTroubled || c.health !== "healthy") && (c.name.includes(find) || c.cluster_id.toLowerCase().includes(find)))
    .sort((a, b) => RANK[a.health] - RANK[b.health] || a.name.localeCompare(b.name, "en", { numeric: true }));
  if (!shown.length) return [el("p", { class: "calm" }, status.clusters.length ? "No cluster matches." : "No cluster is registered.")];
  const rows = shown.map((c) => {
    const p = c.publication;
    return el("tr", {},
      el("th", { scope: "row" }, c.name, el("small", {}, [c.cluster_id, c.network].filter(Boolean).join(" · "))),
      el("td", {}, badge(c.health), c.health === "healthy" && !c.proof.unknown ? "" : el("small", { class: "why" }, c.summary),
        c.joining ? el("small", { title: c.joining.detail }, `joins: step ${number(c.joining.number)} of ${number(c.joining.of)}, ${c.joining.steps[c.joining.number - 1].what}?`) : ""),
      el("td", {}, badge(c.connection.state, c.connection.state, c.connection.detail), el("small", {}, c.connection.version)),
      el("td", {}, badge(c.signing.state, c.signing.state, c.signing.detail), el("small", {}, c.signing.attestation.join(", ")),
        c.trusted_node_accounts.length ? el("small", {}, `ambient: ${c.trusted_node_accounts.join(", ")}`) : ""),
      el("td", {}, badge(p.state, p.state === "unknown" ? "unknown" : `${number(p.current)} of ${number(p.selected)}`, p.detail),
        el("small", {}, p.read_back ? `read back ${ago(p.read_back, now)}` : "not read back"), ...c.control_planes.map(controlPlane), webhooks(c.webhooks), trustBundle(c.cluster_trust_bundle)),
      el("td", {}, proof(c.proof)),
      el("td", { class: "num" }, number(c.signing.issued), el("small", {}, c.signing.last_issued ? `last ${ago(c.signing.last_issued, now)}` : "none yet")),
      el("td", {}, workloads(c.workloads)));
  });
  return [table("Registered clusters, those with faults first",
    ["Cluster", "Health", "API server", "Signing", "Namespaces with the bundle", "Pairs proved", { text: "Certificates", class: "num" }, "Workloads with one"], rows)];
}

function workloads(w) {
  const state = w.state === "stopped" ? "failed" : w.state === "unknown" ? "unknown" : w.fine ? "ok" : "degraded";
  const shown = w.workloads === null ? (w.with_certificate ? `${number(w.with_certificate)} hold one` : "unknown") : `${number(w.with_certificate)} of ${number(w.workloads)}`;
  return [badge(state, shown, w.detail),
    w.sidecars === null ? "" : el("small", {}, `${number(w.sidecars)} sidecars, ${number(w.asked)} have asked the hub`)];
}

function controlPlane(p) {
  const until = p.not_after ? ` until ${day(p.not_after)}` : "";
  return el("small", { title: [p.detail, p.names.join(", ")].filter(Boolean).join("; ") }, `istiod (${p.namespace}) ${p.state}${until}`);
}

function webhooks(w) {
  if (w.state === "none") return "";
  return el("small", { title: w.detail }, `webhooks ${w.state.replace("_", " ")}`);
}

function trustBundle(b) {
  if (!b.version) return "";
  return el("small", { title: b.detail }, `ClusterTrustBundle (${b.version}) ${b.state}`);
}

function proof(p) {
  if (!p.pairs) return badge("ok", "no pair");
  return badge(p.failed ? "failed" : p.unknown ? "unknown" : p.quarantined ? "quarantined" : "ok", `${number(p.valid)} of ${number(p.pairs)}`,
    p.failed || p.unknown || p.quarantined ? `${p.failed} failed, ${p.unknown} unknown, ${p.quarantined} with quarantined clusters` : "");
}

export function bundle(status) {
  const b = status.bundle;
  if (!b) return [el("p", { class: "calm" }, "No generation of trust that can be verified is in force.")];
  const expiry = (a) => badge(a.expiry, a.expiry === "expired" ? "expired" : `${days(a.days_left)} left`);
  const anchors = b.anchors.map((a) => el("tr", {},
    el("th", { scope: "row" }, a.subject, el("small", { class: "mono", title: a.sha256 }, `sha256 ${short(a.sha256)}`)),
    el("td", {}, a.kind, a.foreign_override ? el("small", { class: "why" }, "foreign, by override") : ""),
    el("td", {}, a.origin, el("small", {}, [a.trust_domain, a.cluster].filter(Boolean).join(" · "))),
    el("td", {}, expiry(a), el("small", {}, `until ${day(a.not_after)}`))));
  const authorities = status.authorities.map((a) => el("tr", {},
    el("th", { scope: "row" }, a.name, el("small", {}, a.subject)),
    el("td", {}, a.kind, el("small", {}, [a.use === "successor" ? "successor" : "", a.signs ? "signs" : "does not sign"].filter(Boolean).join(", "))),
    el("td", {}, badge(a.state, a.state, a.detail), el("small", {}, `${plural(a.signers.length, "signer")}`),
      a.violations ? el("small", { class: "why" }, `ALARM: ${a.last_violation}`) : ""),
    el("td", {}, a.quota ? `${number(a.rate)} of ${number(a.quota)} a second` : a.circuit ? `${number(a.rate)} a second` : "—",
      el("small", {}, [a.capacity ? `carries ${number(a.capacity)} workloads` : "", a.queued ? `${number(a.queued)} wait` : "",
        a.circuit && a.circuit !== "closed" ? `circuit ${a.circuit}` : ""].filter(Boolean).join(", "))),
    el("td", {}, expiry(a), el("small", {}, `until ${day(a.not_after)}`))));
  const generations = status.generations.map((g) => el("tr", {},
    el("th", { scope: "row" }, number(g.number)),
    el("td", {}, g.in_force ? badge("current", "in force") : el("span", { class: "muted" }, "earlier")),
    el("td", {}, g.reason, el("small", {}, g.author)),
    el("td", {}, day(g.created), el("small", {}, plural(g.anchors.length, "anchor")))));
  const proposals = status.proposals.map((p) => el("tr", {},
    el("th", { scope: "row" }, p.subject, el("small", { class: "mono wrap" }, p.sha256)),
    el("td", {}, p.cluster || "—"), el("td", {}, p.origin), el("td", {}, day(p.not_after))));
  return [
    el("p", { class: "fact" }, `Generation ${number(b.generation)} of ${b.trust_domain}, ${number(b.size)} bytes, `, el("span", { class: "mono", title: b.sha256 }, `sha256 ${short(b.sha256)}`)),
    scroll(table("Anchors in force", ["Anchor", "Kind", "Where it comes from", "Expires"], anchors)),
    authorities.length ? [el("h3", {}, "Signed with"), scroll(table("Authorities", ["Authority", "Kind", "State", "Use", "Expires"], authorities))] : "",
    proposals.length ? [el("h3", {}, "Found, and not trusted"), scroll(table("Proposals", ["Anchor", "Cluster", "Where it was found", "Expires"], proposals))] : "",
    status.member_cas.length ? [el("h3", {}, "Brought by clusters, and leaving"), el("ul", { class: "plain" }, status.member_cas.map(leaving))] : "",
    status.unpinned.length ? [el("h3", {}, "Not pinned any more, and needed still"), el("ul", { class: "plain" }, status.unpinned.map(unpinned))] : "",
    el("details", {}, el("summary", {}, `Generations (${status.generations.length})`), scroll(table("Generations", ["Number", "", "Reason", "Created"], generations))),
  ].flat();
}

function leaving(o) {
  const waits = o.undeclared.length ? `declare the takeover once only the hub issues in ${o.undeclared.join(", ")}` : o.waits_for.map((c) => (c.cluster ? `${c.cluster}: ${c.detail}` : c.detail)).join("; ");
  return el("li", { class: "wrap" }, el("b", {}, o.subject), ` leaves the bundle by itself. ${waits ? `It waits: ${waits}.` : "Nothing keeps it."}`);
}

function unpinned(u) {
  const waits = u.waits_for.map((c) => (c.cluster ? `${c.cluster}: ${c.detail}` : c.detail)).join("; ");
  return el("li", { class: "wrap" }, el("b", {}, u.subject || short(u.sha256)), " stays in the bundle until nothing needs it. ",
    !u.known ? "No leading controller reports what needs it." : waits ? `It waits: ${waits}.` : "Nothing keeps it.");
}

const scroll = (child) => el("div", { class: "scroll" }, child);

export function roles(status, now) {
  const report = (r) => (r.stale ? badge("stale", "not seen", r.reasons.join("; ")) : badge(r.ready ? "ready" : "unavailable", r.ready ? "ready" : "not ready", r.reasons.join("; ")));
  const why = (r) => (r.ready ? "" : el("small", { class: "why" }, r.reasons.join("; ")));
  const signers = status.signers.map((s) => el("tr", {},
    el("th", { scope: "row" }, s.replica, el("small", {}, s.address)),
    el("td", {}, report(s), why(s)),
    el("td", {}, s.holds_bundle_in_force ? badge("current", `generation ${number(s.generation)}`) : badge(s.stale ? "unknown" : "pending", `generation ${number(s.generation)}`),
      s.generations_behind ? el("small", {}, `${s.generations_behind} behind`) : "",
      s.directives ? el("small", {}, `${s.follows_directives ? "follows" : "STILL FOLLOWS"} ${s.directives}`) : ""),
    el("td", {}, day(s.serving_not_after) === "not known" ? "—" : untilThen(s.serving_not_after, now),
      s.listener === "refused" ? badge("unavailable", "refused by new callers", s.listener_detail) : "",
      s.listener === "not_met" ? el("small", { title: s.listener_detail }, "not proved by new connections") : ""),
    el("td", { class: "num" }, number(s.issued), el("small", {}, `${number(s.refused)} refused`)),
    el("td", {}, ago(s.updated, now))));
  const controllers = status.controllers.map((c) => el("tr", {},
    el("th", { scope: "row" }, c.replica),
    el("td", {}, report(c), why(c)),
    el("td", {}, c.leader ? "leads" : "on standby"),
    el("td", {}, `generation ${number(c.generation)}`),
    el("td", {}, ago(c.updated, now))));
  const facts = (title, lines) => (lines.length ? [el("h3", {}, title), el("ul", { class: "plain" }, lines.map((l) => el("li", {}, l)))] : []);
  return [
    scroll(table("Signers", ["Signer", "State", "Hands out", "Serving certificate", { text: "Certificates", class: "num" }, "Last seen"], signers)),
    el("h3", {}, "Controllers"),
    scroll(table("Controllers", ["Controller", "State", "Role", "Publishes", "Last seen"], controllers)),
    ...facts("Configuration refused", status.config_problems),
    ...facts("Insecure options in force", status.insecure_options),
    ...facts("Clusters that may have any identity which is not reserved", status.open_policies),
  ];
}

function untilThen(iso, now) {
  const left = (Date.parse(iso) - now) / 1000;
  return left > 0 ? `${duration(left)} left` : badge("expired", "expired");
}

export function counts(status) {
  const refused = Object.entries(status.refusals).sort((a, b) => b[1] - a[1]);
  return [
    el("p", { class: "fact" }, `${plural(status.certificates_issued, "certificate")} issued by the signers on record since each of them started.`),
    refused.length
      ? scroll(table("Refusals by reason", ["Reason of refusal", { text: "Requests", class: "num" }],
        refused.map(([reason, n]) => el("tr", {}, el("th", { scope: "row", class: "mono" }, reason), el("td", { class: "num" }, number(n))))))
      : el("p", { class: "calm" }, "No request was refused."),
  ];
}
