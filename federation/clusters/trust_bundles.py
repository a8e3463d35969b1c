"""The ClusterTrustBundle API of a member cluster: in which version it is served, and which object Istio reads.

Name, signer and the absence of labels are istiod's (istio ``pilot/pkg/config/kube/clustertrustbundle``); Istio's
charts mount the object by its name where ``ENABLE_CLUSTER_TRUST_BUNDLE_API`` is set, and give it the suffix of
``global.trustBundleName``, which renames the ConfigMap as well. The API is KEP-3257: v1alpha1 since Kubernetes 1.27,
v1beta1 since 1.33, v1 in 1.37; the first two only with a feature gate.
"""

from __future__ import annotations

from typing import Final

import msgspec

from federation.core.errors import ClusterGarbage, ClusterNotFound
from federation.kubernetes.session import ClusterSession

GROUP: Final = "certificates.k8s.io"
RESOURCE: Final = "clustertrustbundles"
KIND: Final = "ClusterTrustBundle"
VERSIONS: Final = ("v1", "v1beta1", "v1alpha1")
"""The newest and most stable first: they are tried in this order."""

SIGNER: Final = "istio.io/istiod-ca"
"""The signer name of the object; writing the object takes the verb ``attest`` on this name."""

MANIFESTS: Final = "manifests/member/cluster-trust-bundle"
"""Grants what the object takes; applied only where it is wanted."""

_USUAL_CONFIG_MAP: Final = "istio-ca-root-cert"
_USUAL_SUFFIX: Final = "root-cert"
NEEDED: Final = frozenset({"list", "watch", "patch"})
"""The verbs that are used of it."""


class _Resource(msgspec.Struct):
    name: str
    verbs: list[str] = []


class _Resources(msgspec.Struct):
    resources: list[_Resource] | None = None


_decode: Final = msgspec.json.Decoder(_Resources).decode


def trust_bundle_name(config_map: str) -> str:
    """The object that a mesh reads whose root is in the ConfigMap of that name."""
    suffix = _USUAL_SUFFIX if config_map == _USUAL_CONFIG_MAP else config_map
    return f"{SIGNER.replace('/', ':')}:{suffix}"


def collection(version: str) -> str:
    """Where all of them are, in that version."""
    return f"/apis/{GROUP}/{version}/{RESOURCE}"


async def served_version(session: ClusterSession) -> str:
    """The version to use, empty where the cluster serves none. Raises ClusterErrors.

    Each is looked up in discovery: an API that is not there answers 403, not 404, to callers without rights.
    """
    for version in VERSIONS:
        try:
            answer = await session.get(f"/apis/{GROUP}/{version}")
        except ClusterNotFound:
            continue
        try:
            if serves(answer):
                return version
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            problem = f"discovery of {GROUP}/{version} is not what the API promises: {error}"
            raise ClusterGarbage(problem, where=str(session.name)) from None
    return ""


def serves(answer: bytes) -> bool:
    """Whether an APIResourceList names the resource, with every verb that is used. Raises MsgspecError."""
    found = _decode(answer).resources or ()
    return any(resource.name == RESOURCE and set(resource.verbs) >= NEEDED for resource in found)
