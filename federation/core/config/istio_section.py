"""``[clusters.istio]``: what the hub does for Istio's control plane in one cluster."""

from __future__ import annotations

from typing import Final

from federation.core.config.label_selector import check_label_value
from federation.core.config.model import IstioConfig
from federation.core.config.tables import Table
from federation.core.config.values import (
    boolean,
    dns_name,
    label,
    made_by,
    object_name,
    one_of,
    service_account,
)

CLUSTER_TRUST_BUNDLE: Final = ("auto", "off")
_ISTIO: Final = IstioConfig()  # for its defaults


def read_istio(table: Table) -> IstioConfig:
    """The section; every key has a default, so that a cluster without it gets a control plane's certificate."""
    with table:
        namespaces = table.list_of("namespaces", label("a namespace name"), _ISTIO.namespaces)
        if table.is_empty("namespaces"):
            table.mistake(
                "namespaces",
                "names no namespace of istiod",
                "name at least one, or set provide_certificate = false",
            )
        return IstioConfig(
            provide_certificate=table.get("provide_certificate", boolean, _ISTIO.provide_certificate),
            namespaces=namespaces,
            revisions=table.list_of("revisions", label("a revision of Istio"), _ISTIO.revisions),
            extra_names=table.list_of("extra_names", dns_name, _ISTIO.extra_names),
            secret=table.get("secret", object_name, _ISTIO.secret),
            account=table.get("account", service_account, _ISTIO.account),
            mesh_id=table.get("mesh_id", made_by(check_label_value), _ISTIO.mesh_id),
            cluster_trust_bundle=table.get(
                "cluster_trust_bundle", one_of(CLUSTER_TRUST_BUNDLE), _ISTIO.cluster_trust_bundle
            ),
        )
