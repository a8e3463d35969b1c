"""What each role may and must not do in a member cluster, as questions for a SelfSubjectAccessReview.

``manifests/member`` grants exactly what is needed. What is excessive is what would let a stolen role leave its part:
a signer that can publish, either of them reading other Secrets than istiod's or minting the tokens of others. Results
are those of ``federation clusters check``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from federation.clusters.trust_bundles import GROUP, RESOURCE, SIGNER
from federation.core.config.clusters import IstioConfig
from federation.core.identity import ServiceAccountRef

OF_MANIFESTS: Final = frozenset(
    ServiceAccountRef("federation-system", name) for name in ("federation-probe", "federation-istiod")
)
"""The accounts that manifests/member makes for the hub to ask certificates with."""


def create_account(account: ServiceAccountRef) -> str:
    """What to do where an account that the hub asks certificates with is not there."""
    if account in OF_MANIFESTS:
        return "apply manifests/member to that cluster: it makes that account"
    return (
        f"create {account} there with the rights of manifests/member, or configure the account that it makes"
    )


OTHER_WRITER: Final = "kube-system"
"""A namespace whose accounts the hub never uses: a right that extends to it is too wide."""


@dataclass(frozen=True, slots=True)
class Permission:
    """One verb on one resource; ``why`` completes "may ..., which is needed to / and could"."""

    verb: str
    resource: str = ""
    why: str = ""
    group: str = ""
    namespace: str = ""
    name: str = ""

    def __str__(self) -> str:
        thing = f"{self.resource}.{self.group}" if self.group else self.resource
        named = f" {self.name}" if self.name else ""
        place = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {thing}{named}{place}"


def signer_needs() -> tuple[Permission, ...]:
    """What the signer uses."""
    watched = tuple(
        Permission(verb, resource, "see at once when a token's pod or account is gone")
        for resource in ("pods", "serviceaccounts")
        for verb in ("list", "watch")
    )
    review = Permission(
        "create", "tokenreviews", "check tokens where the published keys do not do", "authentication.k8s.io"
    )
    return (review, *watched)


def own_token(account: ServiceAccountRef) -> Permission:
    """What lets a role renew the token that it works with; manifests/member/own-tokens.yaml grants it."""
    return Permission(
        "create",
        "serviceaccounts/token",
        "renew its token before it ends",
        namespace=account.namespace,
        name=account.name,
    )


def controller_needs(*, config_map: str, probe: ServiceAccountRef) -> tuple[Permission, ...]:
    """What the controller uses; its ConfigMap is the only one it may touch."""
    namespaces = tuple(
        Permission(verb, "namespaces", "know where the bundle belongs") for verb in ("list", "watch")
    )
    bundle = tuple(
        Permission(verb, "configmaps", "publish the bundle and read it back", name=config_map)
        for verb in ("list", "watch", "create", "patch")
    )
    token = Permission(
        "create",
        "serviceaccounts/token",
        "prove what workloads get",
        namespace=probe.namespace,
        name=probe.name,
    )
    webhooks = tuple(
        Permission(
            verb,
            f"{kind}webhookconfigurations",
            "see by which CA kube-apiserver verifies istiod, which rotations wait for",
            group="admissionregistration.k8s.io",
        )
        for kind, verb in (("mutating", "list"), ("mutating", "watch"), ("validating", "list"))
    )
    return (*namespaces, *bundle, *webhooks, token)


def istio_reads() -> tuple[Permission, ...]:
    """What the check of Istio's settings reads, of a control plane without a revision's name.

    All of it is optional: each right that is missing makes the check see less. A revision has its own names.
    """
    why = "compare what runs of Istio with what the hub needs"
    names = (
        ("apps", "deployments", "istiod"),
        ("apps", "daemonsets", "ztunnel"),
        ("", "configmaps", "istio"),
        ("", "configmaps", "istio-sidecar-injector"),
    )
    return tuple(Permission("list", resource, why, group=group, name=name) for group, resource, name in names)


def trust_bundle_needs(name: str) -> tuple[Permission, ...]:
    """What the controller uses where it publishes the ClusterTrustBundle of that name as well."""
    why = "publish the ClusterTrustBundle and read it back"
    verbs = ("list", "watch", "create", "patch")
    return (
        *(Permission(verb, RESOURCE, why, group=GROUP, name=name) for verb in verbs),
        Permission("attest", "signers", why, group=GROUP, name=SIGNER),
    )


def istiod_needs(istio: IstioConfig) -> tuple[Permission, ...]:
    """What the controller uses to keep istiod's certificate; nothing where it is not to provide one."""
    if not istio.provide_certificate:
        return ()
    secrets = tuple(
        Permission(
            verb,
            "secrets",
            "keep istiod's certificate and read it back",
            namespace=namespace,
            name=istio.secret,
        )
        for namespace in istio.namespaces
        for verb in ("list", "watch", "create", "patch")
    )
    token = Permission(
        "create",
        "serviceaccounts/token",
        "get istiod's certificate",
        namespace=istio.account.namespace,
        name=istio.account.name,
    )
    return (*secrets, token)


EXCESSIVE: Final = (
    Permission("get", "secrets", "read every key and token there"),
    Permission("list", "secrets", "read every key and token there"),
    Permission("create", "pods", "run as any service account there"),
    Permission("create", "serviceaccounts/token", "become any account there", namespace=OTHER_WRITER),
    Permission("impersonate", "users", "act as any user there"),
    Permission(
        "create", "clusterrolebindings", "grant itself anything there", group="rbac.authorization.k8s.io"
    ),
)
"""Too much for either role."""

SIGNER_EXCESSIVE: Final = (
    *EXCESSIVE,
    Permission("create", "configmaps", "publish what it signs: who can sign must not publish"),
    Permission("patch", "configmaps", "publish what it signs: who can sign must not publish"),
)

CONTROLLER_EXCESSIVE: Final = (
    *EXCESSIVE,
    Permission("patch", "configmaps", "change any ConfigMap, not only the bundle's"),
    Permission("patch", "namespaces", "relabel namespaces"),
    Permission("attest", "signers", "publish trust in the name of any signer", group=GROUP),
)


Outcome: TypeAlias = Literal["ok", "warning", "failed"]
Role: TypeAlias = Literal["hub", "signer", "controller", "administrator"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One finding: ``outcome`` of one ``check`` for one role ("hub" where it concerns the registry)."""

    cluster: str
    role: Role
    check: str
    outcome: Outcome
    detail: str
    remedy: str = ""
