"""Clusters that could be registered, as sources in the hub's own cluster name them: sightings, and proposals. Pure.

Sources are Istio's remote secrets (``istioctl create-remote-secret``), Secrets with a label, and ClusterProfiles
(``multicluster.x-k8s.io/v1alpha1``). Each object is reduced to names, the address of an API server and the
fingerprints of its CA. No credential in it is kept, shown or used: to register a cluster takes an administrator's own.

Kubeconfigs are refused where Istio refuses them (``sanitizeKubeConfig`` of its ``pkg/kube/multicluster``): exec plugins
and auth providers, and files of keys, certificates and tokens, which would be files of the process that reads it.
They are refused where the hub refuses its own, too: no TLS verification, plain HTTP, a CA in a file.

Merging gives the same in whatever order objects come. Where sources disagree nothing is chosen: it is said.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Final
from urllib.parse import urlsplit

import msgspec

from federation.core.documents.discovery import (
    DiscoveredCluster,
    DiscoverySource,
    DiscoveryState,
    Sighting,
)
from federation.core.errors import ConfigurationError, InvalidValue
from federation.core.identity import ClusterId, ClusterName
from federation.core.pki.pem import der_blocks
from federation.kubernetes.kubeconfig import Material, parse_cluster, parse_foreign_kubeconfig

ISTIO_LABEL: Final = "istio/multiCluster=true"
CLUSTER_API_NAME: Final = "cluster.x-k8s.io/cluster-name"
"""The label by which Cluster API says whose kubeconfig a Secret holds."""

KUBECONFIG_KEYS: Final = ("kubeconfig", "value")
"""Where a labelled Secret holds its kubeconfig; ``value`` is Cluster API's."""

MOST_KUBECONFIG_BYTES: Final = 64 * 1024
"""One for a single cluster has 3 to 6 KiB."""

MOST_ENTRIES: Final = 16
"""Keys of one Secret, and access providers of one ClusterProfile: istioctl writes one."""

MOST_SIGHTINGS: Final = 500
"""In all: a document of them stays well below what the state store takes."""

MOST_NAME: Final = 253
MOST_SERVER: Final = 512
MOST_CA: Final = 8  # certificates: a CA with its next one is two
MOST_LISTED: Final = 6  # disagreements of one cluster, and places in one of them

_FEATURES: Final = {
    "exec": "an exec plugin",
    "command": "an exec plugin",
    "apiVersion": "an exec plugin",
    "interactiveMode": "an exec plugin",
    "env": "an exec plugin",
    "auth-provider": "an auth provider",
    "insecure-skip-tls-verify": "insecure-skip-tls-verify",
    "username": "a user name or password",
    "as": "impersonation",
    "proxy-url": "a proxy that is not supported",
    "server": "a server that is no https:// URL",
    "tls-server-name": "a tls-server-name that is no host name",
    "certificate-authority-data": "a CA that is not base64",
}
"""What is wrong with a kubeconfig, by the last part of the key that its reader names. Its text is not repeated."""


class _Meta(msgspec.Struct, rename="camel"):
    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None


class _Secret(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str | None] | None = None


class _Provider(msgspec.Struct):
    name: str = ""
    cluster: dict[str, object] | None = None


class _ProfileStatus(msgspec.Struct, rename="camel"):
    access_providers: list[_Provider] | None = None
    credential_providers: list[_Provider] | None = None


class _Profile(msgspec.Struct):
    metadata: _Meta
    status: _ProfileStatus | None = None


_decode_secret: Final = msgspec.json.Decoder(_Secret).decode
_decode_profile: Final = msgspec.json.Decoder(_Profile).decode


@dataclass(frozen=True, slots=True)
class RegisteredCluster:
    """A cluster of the configuration, with how the hub reaches it; ``server`` is empty where that is not known.

    ``ca`` are fingerprints, as in a sighting.
    """

    name: str
    cluster_id: str
    server: str = ""
    ca: tuple[str, ...] = ()


def sightings_in(source: DiscoverySource, payload: bytes) -> list[Sighting]:
    """What one object of that source, as the API server's JSON, says of clusters.

    Raises msgspec.MsgspecError where it is no such object.
    """
    match source:
        case "cluster_profile":
            return _of_profile(_decode_profile(payload))
        case "istio_secret":
            return _of_istio_secret(_decode_secret(payload))
        case _:
            return _of_labelled_secret(_decode_secret(payload))


def unusable(source: DiscoverySource, namespace: str, name: str, problem: str) -> Sighting:
    """For an object of which nothing could be read, and why."""
    return Sighting(
        source=source, namespace=namespace, object=_shown(name), name=_shown(name), problem=problem
    )


def fingerprints(pem: bytes | None) -> tuple[str, ...]:
    """SHA-256 fingerprints of the certificates in it, each once and in order; of None there are none."""
    return tuple(sorted({hashlib.sha256(der).hexdigest() for der in der_blocks(pem or b"")}))


def _of_istio_secret(secret: _Secret) -> list[Sighting]:
    """One for each key, which is what Istio calls the cluster."""
    entries = sorted((secret.data or {}).items())
    return [
        _of_kubeconfig("istio_secret", secret.metadata, key, key, text or "")
        for key, text in entries[:MOST_ENTRIES]
    ]


def _of_labelled_secret(secret: _Secret) -> list[Sighting]:
    meta, data = secret.metadata, secret.data or {}
    name = (meta.labels or {}).get(CLUSTER_API_NAME) or meta.name
    key = next((key for key in KUBECONFIG_KEYS if key in data), None)
    if key is None:
        problem = f"the Secret has none of the keys {' and '.join(KUBECONFIG_KEYS)}"
        return [_sighting("labelled_secret", meta, "", name, problem=problem)]
    return [_of_kubeconfig("labelled_secret", meta, key, name, data[key] or "")]


def _of_kubeconfig(source: DiscoverySource, meta: _Meta, key: str, name: str, text: str) -> Sighting:
    try:
        found = _Found.of_kubeconfig(text)
    except InvalidValue as error:
        return _sighting(source, meta, key, name, problem=error.what)
    return _sighting(source, meta, key, name, found)


def _of_profile(profile: _Profile) -> list[Sighting]:
    """One for each access provider; of two of the same name the one that is not deprecated counts, as in the API."""
    meta, status = profile.metadata, profile.status or _ProfileStatus()
    providers = {provider.name: provider for provider in status.credential_providers or ()}
    providers |= {provider.name: provider for provider in status.access_providers or ()}
    if not providers:
        problem = "the ClusterProfile has no access provider, so it names no API server"
        return [_sighting("cluster_profile", meta, "", meta.name, problem=problem)]
    found = []
    for name, provider in sorted(providers.items())[:MOST_ENTRIES]:
        try:
            entry = _Found.of_cluster(provider.cluster)
        except InvalidValue as error:
            found.append(_sighting("cluster_profile", meta, name, meta.name, problem=error.what))
        else:
            found.append(_sighting("cluster_profile", meta, name, meta.name, entry))
    return found


@dataclass(frozen=True, slots=True)
class _Found:
    """All that is kept of a kubeconfig, or of a ClusterProfile's provider."""

    server: str
    ca: tuple[str, ...]

    @classmethod
    def of_kubeconfig(cls, encoded: str) -> _Found:
        """Of a kubeconfig in base64. Raises InvalidValue, which repeats nothing of it."""
        try:
            text = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            raise InvalidValue("its kubeconfig is not base64") from None
        if len(text) > MOST_KUBECONFIG_BYTES:
            raise InvalidValue(f"its kubeconfig is larger than {MOST_KUBECONFIG_BYTES // 1024} KiB")
        try:
            entry = parse_foreign_kubeconfig(text, file="kubeconfig")
        except ConfigurationError as error:
            raise InvalidValue(f"its kubeconfig {_refusal(error)}") from None
        files = {
            "certificate-authority": entry.authority.file,
            "client-certificate": entry.certificate.file,
            "client-key": entry.key.file,
            "tokenFile": entry.token_file,
        }
        if named := [key for key, file in files.items() if file]:
            raise InvalidValue(f"its kubeconfig names a file ({', '.join(named)}), which is refused")
        return cls._checked(entry.server, entry.authority)

    @classmethod
    def of_cluster(cls, value: object) -> _Found:
        """Of a ClusterProfile's provider. Raises InvalidValue, which repeats nothing of it."""
        try:
            entry = parse_cluster(value, file="cluster")
        except ConfigurationError as error:
            raise InvalidValue(f"its access provider {_refusal(error)}") from None
        if entry.authority.file:
            raise InvalidValue("its access provider names a file (certificate-authority), which is refused")
        return cls._checked(entry.server, entry.authority)

    @classmethod
    def _checked(cls, server: str, authority: Material) -> _Found:
        if len(server) > MOST_SERVER:
            raise InvalidValue(f"its server is a URL of more than {MOST_SERVER} characters")
        ca = fingerprints(authority.data)
        if authority.data is not None and not ca:
            raise InvalidValue("its certificate authority is no certificate")
        if len(ca) > MOST_CA:
            raise InvalidValue(f"its certificate authority has more than {MOST_CA} certificates")
        return cls(server, ca)


def _refusal(error: ConfigurationError) -> str:
    """What is refused, in words of our own: any text may be in the file, and a name in it may be a secret."""
    keys = {re.split(r"[.\]]", finding.key)[-1] for finding in error.findings}
    named = sorted({_FEATURES[key] for key in keys if key in _FEATURES})
    return f"has {' and '.join(named)}, which is refused" if named else "cannot be used as a kubeconfig"


def _sighting(
    source: DiscoverySource,
    meta: _Meta,
    entry: str,
    name: str,
    found: _Found | None = None,
    *,
    problem: str = "",
) -> Sighting:
    return Sighting(
        source=source,
        namespace=_shown(meta.namespace),
        object=_shown(meta.name),
        entry=_shown(entry),
        name=_shown(name),
        cluster_id=name if source == "istio_secret" and _is_cluster_id(name) else "",
        server=found.server if found else "",
        ca=list(found.ca) if found else [],
        problem=problem,
    )


def _shown(text: str) -> str:
    """A bounded form of a name that can do no harm in a terminal or a log line."""
    return "".join(c if " " <= c <= "~" else "?" for c in text[:MOST_NAME])


def _is_cluster_id(text: str) -> bool:
    try:
        ClusterId(text)
    except InvalidValue:
        return False
    return True


def _is_cluster_name(text: str) -> bool:
    try:
        ClusterName(text)
    except InvalidValue:
        return False
    return True


def proposals(
    sightings: Iterable[Sighting],
    *,
    registered: Sequence[RegisteredCluster] = (),
    names: Sequence[str] = ("*",),
    ignore: Sequence[str] = (),
    first_seen: Callable[[str], float] = lambda _: 0.0,
) -> list[DiscoveredCluster]:
    """The clusters that these name, by name, with what their sources disagree about.

    ``registered`` are the clusters of the configuration. A name that a pattern of ``ignore`` matches is ignored, and so
    is one that is not registered and that none of ``names`` matches. ``first_seen`` says of a name since when it is
    known. At most MOST_SIGHTINGS of the sightings count.
    """
    counted = [one for one, _ in groupby(sorted(sightings))][:MOST_SIGHTINGS]
    by_name: dict[str, list[Sighting]] = defaultdict(list)
    for sighting in counted:
        by_name[sighting.name].append(sighting)
    by_server: dict[str, set[str]] = defaultdict(set)
    for sighting in counted:
        if not sighting.problem:
            by_server[_normal(sighting.server)].add(sighting.name)
    known = {each.name: each for each in registered} | {each.cluster_id: each for each in registered}

    def state(name: str) -> DiscoveryState:
        if any(fnmatchcase(name, pattern) for pattern in ignore):
            return "ignored"
        if name in known:
            return "registered"
        return "open" if any(fnmatchcase(name, pattern) for pattern in names) else "ignored"

    found = []
    for name, seen in sorted(by_name.items()):
        usable = [sighting for sighting in seen if not sighting.problem]
        disagreements = [
            *_disagreements(usable),
            *_other_than_registered(usable, known.get(name)),
            *_other_names(name, usable, by_server, registered),
        ]
        servers, cas = {_normal(one.server) for one in usable}, {tuple(one.ca) for one in usable}
        ids = {sighting.cluster_id for sighting in seen if sighting.cluster_id}
        found.append(
            DiscoveredCluster(
                name=name,
                state=state(name),
                cluster=name if _is_cluster_name(name) else "",
                cluster_id=min(ids, default=""),
                server=min(one.server for one in usable) if len(servers) == 1 else "",
                ca=list(min(cas)) if len(servers) == len(cas) == 1 else [],
                disagreements=disagreements[:MOST_LISTED],
                sightings=seen,
                first_seen=first_seen(name),
            )
        )
    return found


def same_server(one: str, other: str) -> bool:
    """Whether both are the URL of one API server, however it is written."""
    return _normal(one) == _normal(other)


def _normal(server: str) -> str:
    """Case of the host and the port of https do not matter, nor does a slash at the end."""
    try:
        parts = urlsplit(server)
        return f"{(parts.hostname or '').lower()}:{parts.port or 443}{parts.path.rstrip('/')}"
    except ValueError:
        return server


def _disagreements(usable: Sequence[Sighting]) -> Iterator[str]:
    """What the sightings of one name say differently: the API server, or the CA of the same one."""
    servers: dict[str, list[Sighting]] = defaultdict(list)
    for sighting in usable:
        servers[_normal(sighting.server)].append(sighting)
    if len(servers) > 1:
        sides = [f"{each[0].server} by {each[0].place}" for _, each in sorted(servers.items())]
        yield f"sources name different API servers: {_listed(sides)}"
    for _, each in sorted(servers.items()):
        cas = {tuple(sighting.ca): sighting for sighting in reversed(each)}
        if len(cas) > 1:
            sides = [f"{_named(ca)} by {sighting.place}" for ca, sighting in sorted(cas.items())]
            yield f"sources name different CAs of {each[0].server}: {_listed(sides)}"


def _other_than_registered(usable: Sequence[Sighting], cluster: RegisteredCluster | None) -> Iterator[str]:
    """Where the name is a registered cluster's, and the sightings are of another API server."""
    if cluster is None or not cluster.server:
        return
    for sighting in usable:
        if set(sighting.ca) & set(cluster.ca):
            continue  # the same CA: one cluster, perhaps by another address
        if not same_server(sighting.server, cluster.server):
            yield (
                f"the hub reaches the registered cluster {cluster.name} at {cluster.server}, and {sighting.place} "
                f"names {sighting.server}, which nothing shows to be the same cluster"
            )
        elif sighting.ca and cluster.ca:
            yield (
                f"the hub verifies {cluster.server} by {_named(cluster.ca)}, and {sighting.place} names "
                f"{_named(sighting.ca)}"
            )


def _other_names(
    name: str,
    usable: Sequence[Sighting],
    by_server: Mapping[str, set[str]],
    registered: Sequence[RegisteredCluster],
) -> Iterator[str]:
    """Where one API server has another name as well: found, or registered."""
    for server in sorted({_normal(sighting.server) for sighting in usable}):
        shown = next(sighting.server for sighting in usable if _normal(sighting.server) == server)
        owners = [
            each.name
            for each in registered
            if each.server and _normal(each.server) == server and name not in {each.name, each.cluster_id}
        ]
        if owners:
            yield f"{shown} is the API server of the registered cluster {_listed(sorted(owners))}"
        others = sorted(by_server.get(server, set()) - {name} - set(owners))
        if others:
            yield f"{shown} was found as {_listed(others)} too"


def _named(ca: Sequence[str]) -> str:
    return f"a CA with SHA-256 {', '.join(each[:16] for each in ca)}" if ca else "the system's CAs"


def _listed(sides: Sequence[str]) -> str:
    more = f" and {len(sides) - MOST_LISTED} more" if len(sides) > MOST_LISTED else ""
    return "; ".join(sides[:MOST_LISTED]) + more
