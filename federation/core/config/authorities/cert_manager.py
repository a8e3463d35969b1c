"""``kind = "cert-manager"``: which issuer, and how the hub reaches the cluster that cert-manager runs in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Final, Literal

from federation.core.config.authorities.common import limits_of
from federation.core.config.authorities.settings import CertManagerAuthorityConfig, RemoteAuthorityConfig
from federation.core.config.clusters import CredentialsTable, check_credentials
from federation.core.config.mistakes import Place, printable
from federation.core.config.tables import Needed
from federation.core.config.types import dns_name, label, number, object_name, read_as, seconds, string
from federation.core.errors import InvalidValue

_KIND: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}", re.ASCII)


@read_as("kind of a Kubernetes object")
def _kind(value: object) -> str:
    text = string(value)
    if not _KIND.fullmatch(text):
        raise InvalidValue(
            f"{printable(text)!r} is not a kind",
            remedy='write it as Kubernetes does, for example "ClusterIssuer"',
        )
    return text


@dataclass(frozen=True, kw_only=True)
class CertManagerTable(RemoteAuthorityConfig, CredentialsTable):
    """cert-manager in one management cluster, with any Issuer or ClusterIssuer."""

    kind: Literal["cert-manager"] = "cert-manager"
    """CertificateRequests in one management cluster."""
    namespace: Annotated[
        str,
        label("a namespace name"),
        Needed("name the namespace of the requests: one of their own, where only the hub may create them"),
    ]
    """The namespace of the requests: one of their own, where only the hub may create them."""
    issuer_name: Annotated[str, object_name, Needed("name the Issuer or ClusterIssuer of the intermediate")]
    """The issuer."""
    issuer_kind: Annotated[str, _kind] = "ClusterIssuer"
    """Issuer (of that namespace), ClusterIssuer, or the kind of an external one."""
    issuer_group: Annotated[str, dns_name] = "cert-manager.io"
    """The issuer's API group."""
    quota: Annotated[float, number(0, 100_000)] = 20.0
    """Certificates per second for all signers together; cert-manager's own client is limited to 20 requests a second
    by default.
    """
    timeout: Annotated[float, seconds(0.1, 120)] = 8.0
    """How long one request may take: less than listener.deadline. An issuer may have to ask a service of its own."""

    def check(self, place: Place) -> None:
        """What must hold between its keys."""
        check_credentials(
            place,
            self,
            "name a kubeconfig of the management cluster, or set in_cluster = true where the hub runs in it",
        )

    def build(self) -> CertManagerAuthorityConfig:
        """The authority's settings, once nothing in the file is wrong."""
        return CertManagerAuthorityConfig(
            **limits_of(self),
            credentials=self.credentials,
            namespace=self.namespace,
            issuer_name=self.issuer_name,
            issuer_kind=self.issuer_kind,
            issuer_group=self.issuer_group,
        )
