"""The table of resources: what each is called and where its type differs from the general rule."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One resource of the API. Tests register their own in place of a CustomResourceDefinition."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()  # `kubectl get all`
    subresources: frozenset[str] = frozenset()
    selectable: frozenset[str] = frozenset()  # field selectors beyond metadata.name and metadata.namespace
    label_name: bool = False  # names are RFC 1123 labels, not subdomains
    path_name: bool = False  # names are path segments: anything but "/", "%", "." and ".." (RBAC)
    put_creates: bool = False  # PUT to a name that does not exist creates it
    needs_version: bool = False  # PUT without a resourceVersion is refused
    returns_deleted: bool = False  # DELETE answers with the object instead of a Status
    strategic: bool = True  # built-in types take strategic merge patches, custom resources refuse them

    @property
    def api_version(self) -> str:
        """``v1`` or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_resource(self) -> str:
        """``configmaps`` or ``leases.coordination.k8s.io``, as messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def has_status(self) -> bool:
        """Whether ``status`` is written through its own subresource only."""
        return "status" in self.subresources


def _core(plural: str, kind: str, **traits: object) -> Resource:
    return Resource(group="", version="v1", plural=plural, kind=kind, **traits)  # type: ignore[arg-type]


RBAC = "rbac.authorization.k8s.io"
CERTIFICATES = "certificates.k8s.io"
ADMISSION = "admissionregistration.k8s.io"

NAMESPACES = _core(
    "namespaces",
    "Namespace",
    namespaced=False,
    singular="namespace",
    short_names=("ns",),
    subresources=frozenset({"status", "finalize"}),
    selectable=frozenset({"status.phase"}),
    label_name=True,
    returns_deleted=True,
)
PODS = _core(
    "pods",
    "Pod",
    singular="pod",
    short_names=("po",),
    categories=("all",),
    subresources=frozenset({"status", "portforward"}),
    selectable=frozenset(
        {"spec.nodeName", "spec.serviceAccountName", "status.phase", "status.podIP", "spec.schedulerName"}
    ),
    returns_deleted=True,
)
SERVICES = _core(
    "services",
    "Service",
    singular="service",
    short_names=("svc",),
    subresources=frozenset({"status"}),
    returns_deleted=True,
)
SERVICE_ACCOUNTS = _core(
    "serviceaccounts",
    "ServiceAccount",
    singular="serviceaccount",
    short_names=("sa",),
    subresources=frozenset({"token"}),
    returns_deleted=True,
)
NODES = _core(
    "nodes",
    "Node",
    namespaced=False,
    singular="node",
    short_names=("no",),
    subresources=frozenset({"status"}),
)
CONFIG_MAPS = _core("configmaps", "ConfigMap", singular="configmap", short_names=("cm",))
SECRETS = _core("secrets", "Secret", singular="secret", selectable=frozenset({"type"}))
EVENTS = _core(
    "events",
    "Event",
    singular="event",
    short_names=("ev",),
    put_creates=True,
    selectable=frozenset(
        {
            "involvedObject.apiVersion",
            "involvedObject.fieldPath",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.resourceVersion",
            "involvedObject.uid",
            "reason",
            "reportingComponent",
            "type",
        }
    ),
)
LEASES = Resource(
    group="coordination.k8s.io",
    version="v1",
    plural="leases",
    kind="Lease",
    singular="lease",
    put_creates=True,
)
DEPLOYMENTS = Resource(
    group="apps",
    version="v1",
    plural="deployments",
    kind="Deployment",
    singular="deployment",
    short_names=("deploy",),
    categories=("all",),
    subresources=frozenset({"status"}),
)
DAEMON_SETS = Resource(
    group="apps",
    version="v1",
    plural="daemonsets",
    kind="DaemonSet",
    singular="daemonset",
    short_names=("ds",),
    categories=("all",),
    subresources=frozenset({"status"}),
)
CLUSTER_ROLES = Resource(
    group=RBAC, version="v1", plural="clusterroles", kind="ClusterRole", namespaced=False, path_name=True
)
CLUSTER_ROLE_BINDINGS = Resource(
    group=RBAC,
    version="v1",
    plural="clusterrolebindings",
    kind="ClusterRoleBinding",
    namespaced=False,
    path_name=True,
)
ROLES = Resource(group=RBAC, version="v1", plural="roles", kind="Role", path_name=True)
ROLE_BINDINGS = Resource(group=RBAC, version="v1", plural="rolebindings", kind="RoleBinding", path_name=True)
MUTATING_WEBHOOKS = Resource(
    group=ADMISSION,
    version="v1",
    plural="mutatingwebhookconfigurations",
    kind="MutatingWebhookConfiguration",
    namespaced=False,
)
VALIDATING_WEBHOOKS = Resource(
    group=ADMISSION,
    version="v1",
    plural="validatingwebhookconfigurations",
    kind="ValidatingWebhookConfiguration",
    namespaced=False,
)
CERTIFICATE_SIGNING_REQUESTS = Resource(
    group=CERTIFICATES,
    version="v1",
    plural="certificatesigningrequests",
    kind="CertificateSigningRequest",
    namespaced=False,
    short_names=("csr",),
    subresources=frozenset({"status", "approval"}),
    selectable=frozenset({"spec.signerName"}),
)
_CLUSTER_TRUST_BUNDLE = Resource(
    group=CERTIFICATES,
    version="v1",
    plural="clustertrustbundles",
    kind="ClusterTrustBundle",
    namespaced=False,
    singular="clustertrustbundle",
    path_name=True,
    needs_version=True,
    selectable=frozenset({"spec.signerName"}),
)
CLUSTER_TRUST_BUNDLES = {
    version: replace(_CLUSTER_TRUST_BUNDLE, version=version) for version in ("v1", "v1beta1", "v1alpha1")
}
"""Not built in: Kubernetes 1.36 serves none of them unless its feature gate and ``--runtime-config`` say so."""

BUILT_IN = (
    NAMESPACES,
    PODS,
    SERVICES,
    SERVICE_ACCOUNTS,
    NODES,
    CONFIG_MAPS,
    SECRETS,
    EVENTS,
    LEASES,
    DEPLOYMENTS,
    DAEMON_SETS,
    CLUSTER_ROLES,
    CLUSTER_ROLE_BINDINGS,
    ROLES,
    ROLE_BINDINGS,
    MUTATING_WEBHOOKS,
    VALIDATING_WEBHOOKS,
    CERTIFICATE_SIGNING_REQUESTS,
)


class ResourceTable:
    """Every resource of one server, found by group, version and plural name, or by kind for manifests."""

    def __init__(self, resources: Iterable[Resource] = BUILT_IN) -> None:
        self._by_path: dict[tuple[str, str, str], Resource] = {}
        self._by_kind: dict[tuple[str, str], Resource] = {}
        for resource in resources:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        """Serve one more resource; it appears in discovery at once."""
        self._by_path[resource.group, resource.version, resource.plural] = resource
        self._by_kind[resource.api_version, resource.kind] = resource

    def remove(self, resource: Resource) -> None:
        """Serve a resource no longer, as after a restart with another ``--runtime-config``. Its objects stay."""
        self._by_path.pop((resource.group, resource.version, resource.plural), None)
        self._by_kind.pop((resource.api_version, resource.kind), None)

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource at that path, if there is one."""
        return self._by_path.get((group, version, plural))

    def of_kind(self, api_version: str, kind: str) -> Resource | None:
        """The resource that a manifest's ``apiVersion`` and ``kind`` name, if there is one."""
        return self._by_kind.get((api_version, kind))

    def named(self, plural: str) -> Resource:
        """The resource named ``pods`` or ``leases.coordination.k8s.io``. Raises LookupError."""
        for resource in self:
            if plural in {resource.plural, resource.group_resource}:
                return resource
        raise LookupError(f"this server has no resource {plural!r}; register it first")

    def __iter__(self) -> Iterator[Resource]:
        return iter(self._by_path.values())
