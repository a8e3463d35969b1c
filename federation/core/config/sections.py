"""Sections of ``clusters.toml`` that are the hub's own: trust, door, signer and status."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from federation.core.config.authorities import check_successor, read_authority
from federation.core.config.credential_sources import read_conjur, read_spiffe
from federation.core.config.model import (
    AnchorPin,
    DoorConfig,
    SignerConfig,
    StatusConfig,
    TrustConfig,
)
from federation.core.config.references import AuthorityContext
from federation.core.config.tables import Table, suggested_cluster
from federation.core.config.values import (
    address,
    boolean,
    dns_name,
    fingerprint,
    integer,
    made_by,
    relative_to,
    seconds,
)
from federation.core.identity import ClusterName, TrustDomain

DAY: Final = 86400.0
MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""gRPC's own default limit; anything near it is not a certificate request."""

_DOOR: Final = DoorConfig(server_names=())  # these stand for the model's defaults, and nothing else
_STATUS: Final = StatusConfig()


def read_trust(
    table: Table,
    directory: Path,
    trust_domain: TrustDomain | None,
    members: frozenset[ClusterName] | None,
) -> TrustConfig:
    """``[trust]`` with its ``[[trust.anchors]]``; at least one anchor has to be pinned.

    ``members`` are the registered clusters, None where not all of them could be read.
    """
    with table:
        publish = table.get("publish_intermediates", boolean, False)
        entries = table.tables("anchors")
        anchors: list[AnchorPin] = []
        for entry in entries:
            anchor = _anchor(entry, directory, trust_domain)
            if anchor is not None:
                _check_anchor(entry, anchor, anchors, members)
                anchors.append(anchor)
        if not entries:
            table.mistake(
                "anchors",
                "pins no anchor, so no certificate could be trusted",
                "add [[trust.anchors]] with the file and sha256 of your root; pins are never inferred",
            )
        if len(anchors) == len(entries) and anchors and all(anchor.staged for anchor in anchors):
            table.mistake(
                "anchors",
                "are all staged, and a staged anchor is published only once a rotation says so",
                "remove staged from the root that is in use",
            )
    return TrustConfig(anchors=tuple(anchors), publish_intermediates=publish)


def _check_anchor(
    entry: Table, anchor: AnchorPin, before: list[AnchorPin], members: frozenset[ClusterName] | None
) -> None:
    if any(anchor.sha256 == other.sha256 for other in before):
        entry.mistake("sha256", "pins the same anchor a second time", "keep it once")
    for cluster in anchor.clusters:
        if members is not None and cluster not in members:
            entry.mistake(
                "cluster",
                f"names {cluster}, which is not registered",
                f"{suggested_cluster(str(cluster), map(str, members))}; leave it out where it is the own CA of none",
            )


def _anchor(table: Table, directory: Path, own: TrustDomain | None) -> AnchorPin | None:
    with table:
        file = table.require("file", relative_to(directory), "name the PEM file that holds this root")
        pin = table.require(
            "sha256",
            fingerprint,
            "pin the root: `openssl x509 -noout -fingerprint -sha256 -in FILE`, compared with its owner",
        )
        domain = table.get("trust_domain", made_by(TrustDomain), own)
        clusters = table.one_or_more("cluster", made_by(ClusterName))
        allow_foreign = table.get("allow_foreign_trust_domain", boolean, False)
        staged = table.get("staged", boolean, False)
        if domain is not None and own is not None:
            _check_trust_domain(table, domain, own, allowed=allow_foreign)
    if file is None or pin is None or domain is None:
        return None
    return AnchorPin(
        file=file,
        sha256=pin,
        trust_domain=domain,
        clusters=clusters,
        allow_foreign_trust_domain=allow_foreign,
        staged=staged,
    )


def _check_trust_domain(table: Table, domain: TrustDomain, own: TrustDomain, *, allowed: bool) -> None:
    if domain == own and allowed:
        table.mistake(
            "allow_foreign_trust_domain",
            f"overrides nothing: this anchor is of the hub's own trust domain {own}",
            "remove it, or name the anchor's real trust_domain",
        )
    elif domain != own and allowed:
        table.warning(
            "allow_foreign_trust_domain",
            f"the CA of {domain} is merged into the bundle, so it can speak for {own} as well",
        )
    elif domain != own:
        table.mistake(
            "trust_domain",
            f"is {domain}, not the hub's {own}: merged into one bundle, this root could speak for {own} too",
            "leave this anchor out, or accept that with allow_foreign_trust_domain = true",
        )


def read_door(table: Table) -> DoorConfig:
    """``[door]``: the gRPC server that workloads call."""
    with table:
        names = table.list_of("server_names", dns_name, ())
        if not table.has("server_names") or table.is_empty("server_names"):
            table.mistake(
                "server_names",
                "names no server, so no agent could verify the door",
                "list the hosts of the meshes' caAddress, for example federation-hub.federation-system.svc",
            )
        limit = table.get("max_concurrent", integer(1, 100_000), _DOOR.max_concurrent)
        share = min(_DOOR.max_concurrent_per_cluster, limit)
        share = table.get("max_concurrent_per_cluster", integer(1, 100_000), share)
        if share > limit:
            table.mistake(
                "max_concurrent_per_cluster",
                f"is above max_concurrent ({limit}), so one cluster could take the whole door",
                "lower it, or raise max_concurrent",
            )
        size = table.get("max_message_bytes", integer(16_384, MAX_MESSAGE_BYTES), _DOOR.max_message_bytes)
        keepalive = table.get("min_keepalive_interval", seconds(1, 30), _DOOR.min_keepalive_interval)
        return DoorConfig(
            listen=table.get("listen", address, _DOOR.listen),
            server_names=names,
            serving_lifetime=table.get("serving_lifetime", seconds(60, 90 * DAY), _DOOR.serving_lifetime),
            max_message_bytes=size,
            max_concurrent=limit,
            max_concurrent_per_cluster=share,
            receive_deadline=table.get("receive_deadline", seconds(0.1, 60), _DOOR.receive_deadline),
            deadline=table.get("deadline", seconds(0.1, 300), _DOOR.deadline),
            min_keepalive_interval=keepalive,
            max_connections=table.get("max_connections", integer(16, 1_000_000), _DOOR.max_connections),
            max_handshake_rate=float(
                table.get("max_handshake_rate", integer(1, 100_000), int(_DOOR.max_handshake_rate))
            ),
            max_connection_idle=table.get(
                "max_connection_idle", seconds(10, 7 * DAY), _DOOR.max_connection_idle
            ),
            max_connection_age=table.get(
                "max_connection_age", seconds(10, 7 * DAY), _DOOR.max_connection_age
            ),
            drain=table.get("drain", seconds(0, 600), _DOOR.drain),
        )


def read_signer(table: Table, directory: Path, door: DoorConfig) -> SignerConfig | None:
    """``[signer]`` with its authority and its successor, ``[signer.conjur]`` and ``[signer.spiffe]``."""
    with table:
        processes = table.get("processes", integer(0, 256), 0)
        health = table.get("health_listen", address, None)
        if health is not None and health.port and health.port + processes > 65535:
            table.mistake("health_listen", "leaves no port for the last process", "use a lower port")
        context = AuthorityContext(
            directory=directory,
            door_deadline=door.deadline,
            has_conjur=table.has("conjur"),
            has_spiffe=table.has("spiffe"),
            processes=processes,
        )
        conjur = read_conjur(table.table("conjur"), context) if context.has_conjur else None
        spiffe = read_spiffe(table.table("spiffe")) if context.has_spiffe else None
        successor = read_authority(table.table("successor"), context) if table.has("successor") else None
        if not table.has("authority"):
            table.mistake(
                "authority", "is missing, so nothing could be signed", f"add [{table.path('authority')}]"
            )
            return None
        authority = read_authority(table.table("authority"), context)
        if authority is not None and successor is not None:
            check_successor(table, authority, successor)
    if authority is None:
        return None
    return SignerConfig(
        processes=processes,
        health_listen=health,
        authority=authority,
        successor=successor,
        conjur=conjur,
        spiffe=spiffe,
    )


def read_status(table: Table, directory: Path) -> StatusConfig:
    """``[status]``: without a token only this machine may ask, unless the operator insists, loudly."""
    path = relative_to(directory)
    with table:
        status = StatusConfig(
            listen=table.get("listen", address, _STATUS.listen),
            read_token_file=_read_token_file(table, path),
            operate_token_file=table.get("operate_token_file", path, None),
            certificate_file=table.get("certificate_file", path, None),
            key_file=table.get("key_file", path, None),
            insecure_allow_unauthenticated=table.get("insecure_allow_unauthenticated", boolean, False),
        )
        for name, other in (("certificate_file", "key_file"), ("key_file", "certificate_file")):
            if table.has(name) and not table.has(other):
                table.mistake(other, f"is missing beside {name}", "name both for TLS, or neither")
        _check_exposure(table, status)
    return status


def _read_token_file(table: Table, path: Callable[[object], Path]) -> Path | None:
    """``read_token_file``, or ``token_file``, as it was called when one token did both."""
    former = table.get("token_file", path, None)
    current = table.get("read_token_file", path, None)
    if former is not None and current is not None:
        table.mistake("token_file", "stands beside read_token_file, which it was renamed to", "remove it")
    elif former is not None:
        table.warning(
            "token_file",
            "it is called read_token_file now, and grants reading only: operations need a token of their own in "
            "operate_token_file",
        )
    return current or former


def _check_exposure(table: Table, status: StatusConfig) -> None:
    exposed = not status.listen.is_loopback
    if status.insecure_allow_unauthenticated and status.read_token_file is not None:
        table.mistake(
            "insecure_allow_unauthenticated", "contradicts read_token_file", "keep the token and remove this"
        )
    elif status.insecure_allow_unauthenticated and exposed:
        table.warning(
            "insecure_allow_unauthenticated",
            f"anyone who reaches {status.listen} can read the state of every cluster",
        )
    elif exposed and status.read_token_file is None:
        table.mistake(
            "read_token_file",
            f"is missing while {status.listen} can be reached from other machines",
            "set read_token_file, listen on 127.0.0.1, or accept it with insecure_allow_unauthenticated = true",
        )
    elif exposed and not table.has("certificate_file"):
        table.warning(
            "listen", f"bearer tokens reach {status.listen} without TLS: set certificate_file and key_file"
        )
