"""What must hold between the keys of ``clusters.toml`` and between its tables; each rule is a function of its own.

A rule reads the values that it needs and reports at a :class:`~federation.core.config.mistakes.Place`. Where one of
them is missing or wrong, that mistake is known already, and the rule says nothing; all others run. Rules within a table
of an authority or of a cluster are in its own module.
"""

from __future__ import annotations

from contextlib import suppress

from federation.core.config.authorities.section import AuthorityTable, check_authority, check_successor
from federation.core.config.authorities.settings import RemoteAuthorityConfig
from federation.core.config.authorities.vault import AppRoleLogin, VaultTable, VaultTransitTable
from federation.core.config.clusters import check_cluster, check_credentials, check_members
from federation.core.config.discovery import check_discovery
from federation.core.config.hub import (
    MOST_NAMESPACE,
    AnchorTable,
    HubTable,
    KubeconfigSecretsTable,
    ListenerConfig,
    ObjectsTable,
    StatusConfig,
)
from federation.core.config.mistakes import DependsOnMistake, Place, suggested_cluster
from federation.core.config.types import is_plain_http


def check_hub(place: Place, hub: HubTable) -> None:
    """What must hold between keys and between sections of the whole file."""
    place.check(
        hub,
        _check_listener,
        _check_signer,
        _check_controller,
        _check_status,
        _check_state,
        _check_kubeconfig_secrets,
        _check_discovery,
        _check_clusters,
        _check_trust,
    )


def _check_trust(place: Place, hub: HubTable) -> None:
    place.check(hub, _something_pinned, _something_published, _pins_differ)
    for at, anchor in zip(place.below("trust").each("anchors"), hub.trust.anchors, strict=True):
        at.check((hub, anchor), _own_trust_domain, _clusters_registered)


def _something_pinned(place: Place, hub: HubTable) -> None:
    if not hub.trust.anchors:
        place.mistake(
            "trust.anchors",
            "pins no anchor, so no certificate could be trusted",
            "add [[trust.anchors]] with the file and sha256 of your root; pins are never inferred",
        )


def _something_published(place: Place, hub: HubTable) -> None:
    if hub.trust.anchors and all(anchor.staged for anchor in hub.trust.anchors):
        place.mistake(
            "trust.anchors",
            "are all staged, and a staged anchor is published only once a rotation says so",
            "remove staged from the root that is in use",
        )


def _pins_differ(place: Place, hub: HubTable) -> None:
    seen: set[str] = set()

    def rule(at: Place, anchor: AnchorTable) -> None:
        if anchor.sha256 in seen:
            at.mistake("sha256", "pins the same anchor a second time", "keep it once")
        seen.add(anchor.sha256)

    for at, anchor in zip(place.below("trust").each("anchors"), hub.trust.anchors, strict=True):
        at.check(anchor, rule)


def _own_trust_domain(at: Place, pinned: tuple[HubTable, AnchorTable]) -> None:
    """A merged root speaks for every trust domain, so a foreign one is a decision that stays visible."""
    hub, anchor = pinned
    own, domain, allowed = (
        hub.trust_domain,
        anchor.trust_domain or hub.trust_domain,
        anchor.allow_foreign_trust_domain,
    )
    if domain == own and allowed:
        at.mistake(
            "allow_foreign_trust_domain",
            f"overrides nothing: this anchor is of the hub's own trust domain {own}",
            "remove it, or name the anchor's real trust_domain",
        )
    elif domain != own and allowed:
        at.warning(
            "allow_foreign_trust_domain",
            f"the CA of {domain} is merged into the bundle, so it can speak for {own} as well",
        )
    elif domain != own:
        at.mistake(
            "trust_domain",
            f"is {domain}, not the hub's {own}: merged into one bundle, this root could speak for {own} too",
            "leave this anchor out, or accept that with allow_foreign_trust_domain = true",
        )


def _clusters_registered(at: Place, pinned: tuple[HubTable, AnchorTable]) -> None:
    hub, anchor = pinned
    if not anchor.cluster:
        return
    members = {str(cluster.name) for cluster in hub.clusters}
    for cluster in map(str, anchor.cluster):
        if cluster not in members:
            at.mistake(
                "cluster",
                f"names {cluster}, which is not registered",
                f"{suggested_cluster(cluster, members)}; leave it out where it is the own CA of none",
            )


def _check_listener(place: Place, hub: HubTable) -> None:
    place.below("listener").check(hub.listener, _share_of_a_cluster)


def _share_of_a_cluster(place: Place, listener: ListenerConfig) -> None:
    limit = listener.max_concurrent
    if place.has("max_concurrent_per_cluster") and listener.max_concurrent_per_cluster > limit:
        place.mistake(
            "max_concurrent_per_cluster",
            f"is above max_concurrent ({limit}), so one cluster could take the whole listener",
            "lower it, or raise max_concurrent",
        )


def _check_signer(place: Place, hub: HubTable) -> None:
    place = place.below("signer")
    place.check(hub, _ports_left, _conjur_ca_used, _authority, _successor, _rotation_leads_on)
    for name in ("authority", "successor"):
        with suppress(DependsOnMistake):
            table = getattr(hub.signer, name)
            place.below(name).check((hub, table), _answers_in_time, _wrapped_for_one)


def _ports_left(place: Place, hub: HubTable) -> None:
    health = hub.signer.health_listen
    if health is not None and health.port and health.port + hub.signer.processes > 65535:
        place.mistake("health_listen", "leaves no port for the last process", "use a lower port")


def _conjur_ca_used(place: Place, hub: HubTable) -> None:
    conjur = hub.signer.conjur
    if conjur is not None and is_plain_http(conjur.url) and conjur.ca_file is not None:
        place.mistake("conjur.ca_file", "is never used: the url is http", "use https, or remove it")


def _answers_in_time(place: Place, signs: tuple[HubTable, AuthorityTable | None]) -> None:
    """A back end that takes too long leaves the listener time to answer."""
    hub, table = signs
    if isinstance(table, RemoteAuthorityConfig) and table.timeout >= hub.listener.deadline:
        place.mistake(
            "timeout",
            f"is {table.timeout:g} s and listener.deadline {hub.listener.deadline:g} s: "
            "the listener would give up first",
            "lower it, or raise listener.deadline",
        )


def _wrapped_for_one(place: Place, signs: tuple[HubTable, AuthorityTable | None]) -> None:
    hub, table = signs
    if not isinstance(table, VaultTable | VaultTransitTable) or not isinstance(table.auth, AppRoleLogin):
        return
    if table.auth.secret_id_wrapped and hub.signer.processes != 1:
        place.warning(
            "auth.secret_id_wrapped",
            "a wrapping token is good for one process, once: set signer.processes = 1 where `federation hub` starts"
            " the signers, and give each replica a token of its own",
        )


def _authority(place: Place, hub: HubTable) -> None:
    check_authority(place, "authority", hub.signer.authority)


def _successor(place: Place, hub: HubTable) -> None:
    if hub.signer.successor is not None:
        check_authority(place, "successor", hub.signer.successor)


def _rotation_leads_on(place: Place, hub: HubTable) -> None:
    if hub.signer.successor is not None:
        check_successor(place, hub.signer.authority, hub.signer.successor)


def _check_status(place: Place, hub: HubTable) -> None:
    status = place.below("status")
    status.check(hub.status, _tls_whole, _exposure, _callers_distinct, _oidc_lets_someone_in)
    if hub.status.kubernetes is not None:
        check_credentials(
            status.below("kubernetes"), hub.status.kubernetes, "name a kubeconfig, or set in_cluster = true"
        )


def _callers_distinct(place: Place, status: StatusConfig) -> None:
    names, digests = set[str](), set[str]()
    for at, token in zip(place.each("tokens"), status.tokens, strict=True):
        if token.name in names:
            at.mistake("name", "is that of another token", "give each holder a name: the audit shows it")
        if token.sha256 in digests:
            at.mistake("sha256", "is that of another token", "make a token for each holder")
        names.add(token.name)
        digests.add(token.sha256)


def _oidc_lets_someone_in(place: Place, status: StatusConfig) -> None:
    if status.oidc is not None and not status.oidc.read and not status.oidc.operate:
        place.below("oidc").mistake(
            "read", "is missing, and operate too, so no one would be let in", "name values of rights_claim"
        )


def _tls_whole(place: Place, _: StatusConfig) -> None:
    for name, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
        if place.has(name) and not place.has(other):
            place.mistake(other, f"is missing beside {name}", "name both for TLS, or neither")


def _exposure(place: Place, status: StatusConfig) -> None:
    """Without a token only this machine may ask, unless the operator insists, loudly."""
    exposed = not status.listen.is_loopback
    if status.insecure_allow_unauthenticated and status.lets_readers_in:
        given = "read_token_file" if status.read_token_file else "the callers that are configured"
        place.mistake(
            "insecure_allow_unauthenticated", f"contradicts {given}", "keep the token and remove this"
        )
    elif status.insecure_allow_unauthenticated and exposed:
        place.warning(
            "insecure_allow_unauthenticated",
            f"anyone who reaches {status.listen} can read the state of every cluster",
        )
    elif exposed and not status.lets_readers_in:
        place.mistake(
            "read_token_file",
            f"is missing while {status.listen} can be reached from other machines",
            "set read_token_file, listen on 127.0.0.1, or accept it with insecure_allow_unauthenticated = true",
        )
    elif exposed and not place.has("certificate_file"):
        place.warning(
            "listen", f"bearer tokens reach {status.listen} without TLS: set certificate_file and key_file"
        )


def _check_controller(place: Place, hub: HubTable) -> None:
    place.check(hub, _name_verifiable, _address_reachable, _time_to_notice, _proofs_fresh, _watches_fresh)


def _name_verifiable(place: Place, hub: HubTable) -> None:
    name = hub.controller.proof.signer_server_name
    if name and name not in hub.listener.server_names:
        place.mistake(
            "controller.proof.signer_server_name",
            "is not one of listener.server_names, so the probe could never verify the listener",
            "use one of them, or leave it out",
        )


def _address_reachable(place: Place, hub: HubTable) -> None:
    """Port 0 lets a server choose, and means nothing to a client."""
    found = hub.controller.proof.signer_address
    if found is not None and found.port == 0:
        place.mistake(
            "controller.proof.signer_address",
            "has port 0, which nothing can connect to",
            "name the port that is listened on",
        )


def _time_to_notice(place: Place, hub: HubTable) -> None:
    if hub.controller.rotation.soak == 0:
        place.warning(
            "controller.rotation.soak",
            "0 leaves no time between the moment when every cluster trusts both roots and the first certificate "
            "under the new one, to notice what read-back and proof do not see",
        )


def _proofs_fresh(place: Place, hub: HubTable) -> None:
    fresh, interval = hub.controller.rotation.fresh, hub.controller.proof.interval
    if fresh < interval:
        place.warning(
            "controller.rotation.fresh",
            f"{fresh:g} s is shorter than controller.proof.interval ({interval:g} s), so a gate "
            "can be open only for that long after each proof: raise it, or prove more often",
        )


def _watches_fresh(place: Place, hub: HubTable) -> None:
    """A quiet watch says nothing for ``watch_silence``: what it showed must not count as old before that."""
    fresh = hub.controller.rotation.fresh
    quiet = [str(cluster.name) for cluster in hub.clusters if cluster.timeouts.watch_silence > fresh]
    if quiet:
        place.warning(
            "controller.rotation.fresh",
            f"{fresh:g} s is shorter than watch_silence of {', '.join(quiet)}: a rotation would wait for what"
            " did not change",
        )


def _check_state(place: Place, hub: HubTable) -> None:
    state = hub.state
    if isinstance(state, ObjectsTable):
        place.below("state").check(state, _objects_reached, _namespace_short)


def _objects_reached(place: Place, state: ObjectsTable) -> None:
    check_credentials(
        place, state, "set in_cluster = true where the hub runs in that cluster, or name a kubeconfig of it"
    )


def _check_kubeconfig_secrets(place: Place, hub: HubTable) -> None:
    if hub.kubeconfig_secrets is not None:
        place.below("kubeconfig_secrets").check(hub.kubeconfig_secrets, _secrets_reached, _secrets_differ)


def _secrets_reached(place: Place, secrets: KubeconfigSecretsTable) -> None:
    check_credentials(
        place, secrets, "set in_cluster = true where the hub runs in that cluster, or name a kubeconfig of it"
    )


def _secrets_differ(place: Place, secrets: KubeconfigSecretsTable) -> None:
    """Who can write the other role's Secret could give it another API server, or take its token."""
    if secrets.signer == secrets.controller:
        place.mistake(
            "controller",
            "is the signer's Secret as well",
            "give each role a Secret that the other cannot read",
        )


def _namespace_short(place: Place, state: ObjectsTable) -> None:
    if len(state.namespace) > MOST_NAMESPACE:
        place.mistake(
            "namespace",
            f"has {len(state.namespace)} characters: that of the signers adds to it",
            f"use at most {MOST_NAMESPACE}",
        )


def _check_discovery(place: Place, hub: HubTable) -> None:
    if hub.discovery is not None:
        check_discovery(place.below("discovery"), hub.discovery)


def _check_clusters(place: Place, hub: HubTable) -> None:
    members = list(zip(place.each("clusters"), hub.clusters, strict=True))
    for at, cluster in members:
        check_cluster(at, cluster)
    check_members(members)
