// The trust bundle: its certificates on a line of time, where each comes from, what signs, what was found, and the
// generations before.

import { timeline } from "./charts.js";
import { badge, cluster, day, days, el, link, number, plural, short, wide } from "./dom.js";

export function bundle(status, now) {
  const b = status.bundle;
  const proposals = found(status.proposals);
  if (!b) return [el("p", { class: "calm" }, "No generation of trust that can be verified is in force."), proposals];
  const expiry = (a) => badge(a.expiry, a.expiry === "expired" ? "expired" : `${days(a.days_left)} left`);
  const anchors = b.anchors.map((a) => el("tr", {},
    el("th", { scope: "row" }, a.subject, fingerprint(a.sha256)),
    el("td", {}, a.kind, a.foreign_override ? el("small", { class: "why" }, "foreign, by override") : ""),
    el("td", {}, a.origin, el("small", {}, a.trust_domain, a.trust_domain && a.cluster ? " · " : "", a.cluster ? cluster(a.cluster) : "")),
    el("td", {}, expiry(a), el("small", {}, `until ${day(a.not_after)}`))));
  const authorities = status.authorities.map((a) => el("tr", {},
    el("th", { scope: "row" }, a.name, el("small", {}, a.subject)),
    el("td", {}, a.kind, el("small", {}, [a.use === "successor" ? "successor" : "", a.signs ? "signs" : "does not sign"].filter(Boolean).join(", "))),
    el("td", {}, badge(a.state, a.state, a.detail), el("small", {}, plural(a.signers.length, "signer")),
      a.violations ? el("small", { class: "why" }, `ALARM: ${a.last_violation}`) : ""),
    el("td", {}, a.quota ? `${number(a.rate)} of ${number(a.quota)} a second` : a.circuit ? `${number(a.rate)} a second` : "—",
      el("small", {}, [a.capacity ? `carries ${number(a.capacity)} workloads` : "", a.queued ? `${number(a.queued)} wait` : "",
        a.circuit && a.circuit !== "closed" ? `circuit ${a.circuit}` : ""].filter(Boolean).join(", "))),
    el("td", {}, expiry(a), el("small", {}, `until ${day(a.not_after)}`))));
  const generations = status.generations.map((g) => el("tr", { "data-key": String(g.number) },
    el("th", { scope: "row" }, link(number(g.number), "generations", String(g.number))),
    el("td", {}, g.in_force ? badge("current", "in force") : el("span", { class: "muted" }, "earlier")),
    el("td", {}, g.reason, el("small", {}, g.author)),
    el("td", {}, day(g.created), el("small", {}, plural(g.anchors.length, "anchor")))));
  return [
    el("p", { class: "fact" }, "Generation ", link(number(b.generation), "generations", String(b.generation)), ` of ${b.trust_domain}, ${number(b.size)} bytes, `, el("span", { class: "mono", title: b.sha256 }, `sha256 ${short(b.sha256)}`)),
    timeline(status, now),
    proposals,
    status.member_cas.length ? [el("h3", {}, "Brought by clusters, and leaving"), el("ul", { class: "plain" }, status.member_cas.map(leaving))] : "",
    status.unpinned.length ? [el("h3", {}, "Not pinned any more, and needed still"), el("ul", { class: "plain" }, status.unpinned.map(unpinned))] : "",
    details("anchors", `Anchors in force (${number(b.anchors.length)})`, wide("Anchors in force", ["Anchor", "Kind", "Where it comes from", "Expires"], anchors)),
    authorities.length ? details("authorities", `Signed with (${number(authorities.length)})`, wide("Authorities", ["Authority", "Kind", "State", "Use", "Expires"], authorities), true) : "",
    details("generations", `Generations (${number(status.generations.length)})`, wide("Generations", ["Number", "In force", "Reason", "Created"], generations)),
  ].flat(2);
}

const details = (key, summary, body, open = false) => el("details", { "data-key": key, open }, el("summary", {}, summary), body);

export const fingerprint = (sha256) => el("small", { class: "mono", title: sha256 }, `sha256 ${short(sha256)}`);

function found(proposals) {
  if (!proposals.length) return "";
  const rows = proposals.map((p) => el("tr", { "data-key": `${p.sha256} ${p.cluster} ${p.origin}` },
    el("th", { scope: "row" }, p.subject, el("small", { class: "mono wrap" }, p.sha256)),
    el("td", {}, p.cluster ? cluster(p.cluster) : "—"), el("td", {}, p.origin), el("td", {}, day(p.not_after))));
  return [el("h3", {}, "Found, and not trusted"),
    el("p", { class: "fact" }, "Nothing that is found is trusted by itself; above it says what to do about each."),
    wide("Found, and not trusted", ["Anchor", "Cluster", "Where it was found", "Expires"], rows)];
}

const waiting = (conditions) => conditions.map((c) => (c.cluster ? `${c.cluster}: ${c.detail}` : c.detail)).join("; ");

function leaving(o) {
  const waits = o.undeclared.length ? `declare the takeover once only the hub issues in ${o.undeclared.join(", ")}` : waiting(o.waits_for);
  return el("li", { class: "wrap" }, el("b", {}, o.subject), ` leaves the bundle by itself. ${waits ? `It waits: ${waits}.` : "Nothing keeps it."}`);
}

function unpinned(u) {
  const waits = waiting(u.waits_for);
  return el("li", { class: "wrap" }, el("b", {}, u.subject || short(u.sha256)), " stays in the bundle until nothing needs it. ",
    !u.known ? "No leading controller reports what needs it." : waits ? `It waits: ${waits}.` : "Nothing keeps it.");
}
