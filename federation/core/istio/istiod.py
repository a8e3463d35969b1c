"""The DNS names by which an istiod is reached, and the service account that may have a certificate for them. Pure.

Agents verify ``istiod[-<revision>].<namespace>.svc``, kube-apiserver the same for webhooks, remote clusters
``istiod-remote``, and old proxies ``istio-pilot``: the names that istiod's own CA and istio-csr put into it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Final

from federation.core.config.clusters import IstioConfig
from federation.core.config.hub import HubConfig

DEFAULT_REVISION: Final = "default"
"""The revision whose istiod's Service has no suffix."""

MOST_REVISIONS: Final = 16
"""In one certificate: a request with more and longer names than these is larger than the signer reads."""

_FIXED: Final = ("istiod-remote", "istio-pilot")
_SERVICE: Final = re.compile(r"istiod-[a-z0-9]([a-z0-9-]{0,54}[a-z0-9])?", re.ASCII)


def istiod_names(istio: IstioConfig, namespace: str, revisions: Iterable[str]) -> tuple[str, ...]:
    """The names of the istiods in that namespace: of the default revision, of those configured, or else of these.

    A revision that is found and that no certificate may name is left out: a request with it would be refused as a
    whole, and the istiods of all others with it.
    """
    found = (r for r in revisions if is_istiod_name(istio, f"istiod-{r}.{namespace}.svc"))
    named = sorted({*istio.revisions, *found} - {DEFAULT_REVISION})[:MOST_REVISIONS]
    services = ["istiod", *(f"istiod-{revision}" for revision in named), *_FIXED]
    own = [f"{service}.{namespace}.svc" for service in services]
    return tuple(dict.fromkeys((*own, *istio.extra_names)))


def istiods_of(config: HubConfig, clusters: Collection[str] | None = None) -> tuple[str, ...]:
    """The names of the istiods for which the hub provides certificates, in these clusters; None: in all."""
    each = (
        cluster.istio
        for cluster in config.clusters
        if cluster.istio.provide_certificate and (clusters is None or str(cluster.name) in clusters)
    )
    names = (
        name
        for istio in each
        for namespace in istio.namespaces
        for name in istiod_names(istio, namespace, ())
    )
    return tuple(dict.fromkeys(names))


def revision_of_service(service: str) -> str:
    """The revision whose istiod has a Service of that name; empty for the default one and for what is none."""
    revision = service.removeprefix("istiod-")
    return revision if revision != "remote" and _SERVICE.fullmatch(service) else ""


def is_istiod_name(istio: IstioConfig, host: str) -> bool:
    """Whether a certificate for istiod may hold that name.

    Where no revision is configured any is taken: they are found by webhooks, whose names the namespace's owners
    choose. A name of a namespace that is not configured never is.
    """
    if host in istio.extra_names:
        return True
    service, _, rest = host.partition(".")
    namespace, _, suffix = rest.rpartition(".")
    if suffix != "svc" or namespace not in istio.namespaces:
        return False
    if service == "istiod" or service in _FIXED:
        return True
    if istio.revisions:
        return service.removeprefix("istiod-") in istio.revisions and service.startswith("istiod-")
    return bool(_SERVICE.fullmatch(service))
