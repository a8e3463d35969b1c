"""``kind = "cert-manager"``: which issuer, and how the hub reaches the cluster that cert-manager runs in."""

from __future__ import annotations

import re
from typing import Final

from federation.core.config.authorities.common import AuthorityContext, read_name, read_remote
from federation.core.config.authorities.settings import CertManagerAuthorityConfig
from federation.core.config.clusters import Credentials, read_credentials
from federation.core.config.mistakes import Table, printable
from federation.core.config.types import dns_name, label, object_name, string
from federation.core.errors import InvalidValue

_CERT_MANAGER: Final = CertManagerAuthorityConfig(  # for its defaults
    name="", credentials=Credentials(kubeconfig=None), namespace="", issuer_name=""
)
_KIND: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}", re.ASCII)


def read_cert_manager(table: Table, context: AuthorityContext) -> CertManagerAuthorityConfig | None:
    """An issuer of cert-manager in the management cluster."""
    name = read_name(table)
    remote = read_remote(table, _CERT_MANAGER, context)
    credentials = read_credentials(
        table,
        context.directory,
        "name a kubeconfig of the management cluster, or set in_cluster = true where the hub runs in it",
    )
    namespace = table.require(
        "namespace",
        label("a namespace name"),
        "name the namespace of the requests: one of their own, where only the hub may create them",
    )
    issuer = table.require("issuer_name", object_name, "name the Issuer or ClusterIssuer of the intermediate")
    kind = table.get("issuer_kind", _kind, _CERT_MANAGER.issuer_kind)
    group = table.get("issuer_group", dns_name, _CERT_MANAGER.issuer_group)
    if name is None or credentials is None or namespace is None or issuer is None:
        return None
    return CertManagerAuthorityConfig(
        name=name,
        credentials=credentials,
        namespace=namespace,
        issuer_name=issuer,
        issuer_kind=kind,
        issuer_group=group,
        **remote,
    )


def _kind(value: object) -> str:
    text = string(value)
    if not _KIND.fullmatch(text):
        raise InvalidValue(
            f"{printable(text)!r} is not a kind",
            remedy='write it as Kubernetes does, for example "ClusterIssuer"',
        )
    return text
