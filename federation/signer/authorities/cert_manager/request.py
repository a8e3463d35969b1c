"""The CertificateRequest of one order, and where such objects are.

Source: cert-manager's ``pkg/apis/certmanager/v1`` (types_certificaterequest.go) and the checks of its webhook
(``internal/apis/certmanager/validation``). The webhook sets no least ``duration`` here: the hour of
``MinimumCertificateDuration`` holds for Certificate objects only.
"""

from __future__ import annotations

import base64
from datetime import datetime, timedelta
from typing import Final

import msgspec

from federation.core.config.authority_model import CertManagerAuthorityConfig
from federation.core.pki.leaf import LeafProfile
from federation.signer.authorities.interface import LeafOrder

GROUP: Final = "cert-manager.io"
API: Final = f"/apis/{GROUP}/v1"

MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "federation-hub"
INSTANCE: Final = "federation-hub/instance"
"""The label that tells the requests of one process from those of its replicas."""

IDENTITY: Final = "federation-hub/identity"
CLUSTER: Final = "federation-hub/cluster"
"""Annotations for people and for approvers: for whom it is, and for a workload of which member cluster."""

_USAGES: Final = {
    LeafProfile.WORKLOAD: ("digital signature", "key encipherment", "server auth", "client auth"),
    LeafProfile.SERVING: ("digital signature", "key encipherment", "server auth"),
}


def collection(namespace: str) -> str:
    """The path of the CertificateRequests of a namespace."""
    return f"{API}/namespaces/{namespace}/certificaterequests"


def duration(not_after: datetime, now: datetime, margin: float) -> int:
    """For how many whole seconds to ask, at least one.

    An issuer counts from when it signs (its CA issuer: ``NotBefore`` now, ``NotAfter`` now plus duration), and
    that may be ``margin`` seconds from now. So much is left out: a leaf must not outlive what was ordered, nor
    the issuer that the order was cut to.
    """
    return max(1, int((not_after - now - timedelta(seconds=margin)).total_seconds()))


def certificate_request(
    config: CertManagerAuthorityConfig, order: LeafOrder, *, name: str, instance: str, seconds: int
) -> bytes:
    """The object to create, as JSON.

    Its name is drawn here and not by the server (``generateName``): where the answer to the creation is lost,
    the request can still be awaited and removed, and sending it twice makes one request.
    """
    annotations = {IDENTITY: ", ".join(order.names)} | ({CLUSTER: order.cluster} if order.cluster else {})
    return msgspec.json.encode(
        {
            "apiVersion": f"{GROUP}/v1",
            "kind": "CertificateRequest",
            "metadata": {
                "name": name,
                "namespace": config.namespace,
                "labels": {MANAGED_BY: MANAGER, INSTANCE: instance},
                "annotations": annotations,
            },
            "spec": {
                "request": base64.b64encode(order.csr_pem.encode("ascii")).decode("ascii"),
                "isCA": False,
                "usages": _USAGES[order.profile],
                "duration": f"{seconds}s",
                "issuerRef": {
                    "name": config.issuer_name,
                    "kind": config.issuer_kind,
                    "group": config.issuer_group,
                },
            },
        }
    )
