"""A cluster in a box: an API server on loopback, and the hands of a test or demo inside it.

::

    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("shop")
        cluster.create_service_account("shop", "cart")
        pod = cluster.create_pod("shop", "cart-1", "cart")
        token = cluster.token("shop", "cart", pod="cart-1")
        cluster.write_kubeconfig(path)

What is done through these methods happens at once and is no request: it reaches clients as watch events only. Of
kube-controller-manager there is what the hub can notice: namespaces get filled and emptied. Kubeconfig documents are
for the users of a sandbox cluster.

:class:`World` is what an administrator and the kubelet do in a member cluster: namespaces, service accounts, pods,
tokens, grants. It speaks the Kubernetes API only, with an administrator's kubeconfig, so that the demo and the
end-to-end tests run the same steps on a cluster in a box and on a real one.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import msgspec
import yaml

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterNotFound, InvalidValue
from federation.core.identity import ClusterName
from federation.kubernetes.session import ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver import rbac
from federation_sandbox.apiserver.authentication import (
    MASTERS,
    Algorithm,
    Authenticator,
    ClusterCa,
    KeyPair,
    KeyRing,
    ServiceAccountTokens,
    authenticated,
    server_context,
)
from federation_sandbox.apiserver.discovery import Discovery
from federation_sandbox.apiserver.faults import Fault, Faults, Hang, Silence
from federation_sandbox.apiserver.patches import merge_patch
from federation_sandbox.apiserver.resources import (
    CLUSTER_TRUST_BUNDLES,
    CONFIG_MAPS,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    Resource,
    ResourceTable,
)
from federation_sandbox.apiserver.rest import Rest
from federation_sandbox.apiserver.reviews import Reviews
from federation_sandbox.apiserver.server import Handler, Journal, Parts, Server
from federation_sandbox.apiserver.store import Obj, Store, check_type, decode, encode, metadata
from federation_sandbox.apiserver.tables import Tables
from federation_sandbox.apiserver.writes import DeleteOptions, Target, Writes

ROOT_CA = "kube-root-ca.crt"


class NamespaceControllers:
    """The service account, root CA and namespace controllers, acting at once.

    ``enabled`` turns all of it off, as in a cluster whose controller manager is down: namespaces stay empty
    when they are made and Terminating when they are deleted, until they are finalized.
    """

    def __init__(self, store: Store, table: ResourceTable, writes: Writes, ca_pem: bytes) -> None:
        self._store = store
        self._table = table
        self._writes = writes
        self._ca_pem = ca_pem.decode()
        self._user = authenticated("system:kube-controller-manager", (MASTERS,))
        self.enabled = True
        writes.on_namespace_created = self._fill
        writes.on_namespace_terminating = self._empty

    def finalize(self, name: str) -> None:
        """Remove everything in a terminating namespace, then the namespace itself."""
        for resource in self._table:
            if resource.namespaced:
                for stored in self._store.all(resource, name):
                    self._store.remove(resource, name, stored.name)
        namespace = self._store.get(NAMESPACES, "", name)
        if namespace is not None and "deletionTimestamp" in metadata(namespace.value):
            self._store.remove(NAMESPACES, "", name)

    def _fill(self, name: str) -> None:
        if not self.enabled:
            return
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
        bundle = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ROOT_CA},
            "data": {"ca.crt": self._ca_pem},
        }
        for resource, obj in ((SERVICE_ACCOUNTS, account), (CONFIG_MAPS, bundle)):
            target = Target(
                resource=resource, namespace=name, name="", user=self._user, manager="kube-controller-manager"
            )
            self._writes.create(target, obj)

    def _empty(self, name: str) -> None:
        if self.enabled:
            self.finalize(name)


FIELD_MANAGER: Final = "cluster-administrator"
APPLY: Final = "application/apply-patch+yaml"
PLURALS: Final = {
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ConfigMap": "configmaps",
    "Namespace": "namespaces",
    "Pod": "pods",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ServiceAccount": "serviceaccounts",
}


def object_path(item: Mapping[str, Any]) -> str:
    """The API path of a Kubernetes object given as a dictionary."""
    kind, version = item["kind"], item["apiVersion"]
    if kind not in PLURALS:
        raise InvalidValue(f"objects of kind {kind!r} are not known here")
    prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
    metadata = item["metadata"]
    place = f"/namespaces/{metadata['namespace']}" if "namespace" in metadata else ""
    return f"{prefix}{place}/{PLURALS[kind]}/{quote(metadata['name'])}"


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Libyaml's safe loader where PyYAML was built with it: ten times as quick, and every cluster reads its manifests."""


def read_kustomization(directory: Path) -> list[dict[str, Any]]:
    """Every object of a Kustomize directory that only lists resources."""
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text("utf-8"))
    objects: list[dict[str, Any]] = []
    for name in kustomization["resources"]:
        text = (directory / name).read_text("utf-8")
        objects.extend(item for item in yaml.load_all(text, Loader=_LOADER) if item)
    return objects


PATIENT: Final = ClusterTimeouts(connect=60.0, request=60.0)
"""An administrator waits for a machine that is busy; what gives up in time is the hub."""


class MemberWorld:
    """One member cluster through its administrator's eyes."""

    def __init__(self, name: ClusterName, session: ClusterSession, kubeconfig: Path) -> None:
        self.name = name
        self.kubeconfig = kubeconfig
        self.session: Final = session
        """For requests that have no method here."""

    @classmethod
    async def open(cls, name: ClusterName, kubeconfig: Path, *, clock: Clock) -> Self:
        """Connect as the administrator of that kubeconfig."""
        session = await ClusterSession.open(
            Credentials(kubeconfig=kubeconfig), cluster=name, timeouts=PATIENT, clock=clock
        )
        return cls(name, session, kubeconfig)

    async def close(self) -> None:
        """Close the connection; what was created stays."""
        await self.session.close()

    async def apply(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Server-side apply each object, in order, as an administrator would with kubectl."""
        for item in objects:
            await self.session.request(
                "PATCH",
                object_path(item),
                params={"fieldManager": FIELD_MANAGER, "force": "true"},
                body=msgspec.json.encode(item),
                content_type=APPLY,
            )

    async def add_namespace(self, name: str, **labels: str) -> None:
        """Create a namespace, or set its labels."""
        await self.apply(
            [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}]
        )

    async def add_workload(self, namespace: str, service_account: str) -> str:
        """Create a namespace, a service account and a pod that runs as it; returns the pod's name."""
        await self.add_namespace(namespace)
        pod = f"{service_account}-0"
        place = {"namespace": namespace}
        await self.apply(
            [
                {
                    "apiVersion": "v1",
                    "kind": "ServiceAccount",
                    "metadata": {"name": service_account, **place},
                },
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": pod, **place},
                    "spec": {
                        "serviceAccountName": service_account,
                        "automountServiceAccountToken": False,
                        "containers": [{"name": "app", "image": "app"}],
                    },
                },
            ]
        )
        return pod

    async def token(
        self,
        namespace: str,
        service_account: str,
        *,
        pod: str | None = None,
        audience: str = "",
        seconds: int = 3600,
    ) -> str:
        """A token of the service account by TokenRequest, bound to the pod where one is named."""
        spec: dict[str, Any] = {"audiences": [audience] if audience else [], "expirationSeconds": seconds}
        if pod is not None:
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod}
        answer = await self.session.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token",
            body=msgspec.json.encode(
                {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
            ),
        )
        token: str = msgspec.json.decode(answer)["status"]["token"]
        return token

    async def config_map(self, namespace: str, name: str) -> dict[str, Any] | None:
        """A ConfigMap as the cluster holds it, or None."""
        try:
            answer = await self.session.get(f"/api/v1/namespaces/{namespace}/configmaps/{name}")
        except ClusterNotFound:
            return None
        found: dict[str, Any] = msgspec.json.decode(answer)
        return found

    async def delete(self, path: str) -> None:
        """Delete the object at that API path, at once."""
        await self.session.request("DELETE", path, params={"gracePeriodSeconds": "0"})

    async def write_role_kubeconfig(self, path: Path, *, service_account: str, seconds: int = 86400) -> Path:
        """A kubeconfig that holds nothing but the cluster's address, its CA and a token of that service account."""
        admin = yaml.safe_load(self.kubeconfig.read_text("utf-8"))
        cluster = dict(admin["clusters"][0]["cluster"])
        if "certificate-authority" in cluster:
            authority = Path(cluster.pop("certificate-authority"))
            cluster["certificate-authority-data"] = base64.b64encode(authority.read_bytes()).decode("ascii")
        token = await self.token("federation-system", service_account, seconds=seconds)
        name = str(self.name)
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": name, "cluster": cluster}],
            "users": [{"name": service_account, "user": {"token": token}}],
            "contexts": [{"name": name, "context": {"cluster": name, "user": service_account}}],
            "current-context": name,
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(document), "utf-8")
        return path


def kubeconfig(
    *, cluster: str, server: str, ca_pem: bytes, user: str, credential: KeyPair | str
) -> dict[str, Any]:
    """A ``v1 Config`` with one cluster, user and context; the credential is a key pair or a bearer token."""

    def encoded(data: bytes) -> str:
        return base64.b64encode(data).decode()

    if isinstance(credential, KeyPair):
        secret = {
            "client-certificate-data": encoded(credential.certificate),
            "client-key-data": encoded(credential.key),
        }
    else:
        secret = {"token": credential}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "preferences": {},
        "clusters": [
            {"name": cluster, "cluster": {"server": server, "certificate-authority-data": encoded(ca_pem)}},
        ],
        "users": [{"name": user, "user": secret}],
        "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": user}}],
        "current-context": cluster,
    }


# kubeadm's default, the same in every cluster it makes: clusters are distinguished by their keys, not by their issuers.
DEFAULT_ISSUER = "https://kubernetes.default.svc.cluster.local"
_FIRST_NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_MANAGER = "sandbox"


class SandboxCluster:
    """One cluster. ``clock`` dates objects, tokens and answers; ``skew`` shifts it.

    Without ``node_claims`` tokens do not name the pod's node, as before Kubernetes 1.30.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Clock | None = None,
        issuer: str = DEFAULT_ISSUER,
        kube_version: str = "v1.36.2",
        signing_algorithm: Algorithm = "RS256",
        controllers: bool = True,
        node_claims: bool = True,
        cluster_trust_bundles: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.issuer = issuer
        self.skew = timedelta(0)
        self.store = Store()
        self.resources = ResourceTable()
        self.serve_cluster_trust_bundles(*cluster_trust_bundles)
        self.faults = Faults()
        self.requests = Journal()
        self.pod_ports: dict[tuple[str, str, int], int] = {}
        """Ports of this machine by namespace, pod and port: where a port-forward leads."""
        self.keys = KeyRing(signing_algorithm)
        self._clock: Clock = clock or SystemClock()
        self._ca = ClusterCa(name)
        self._certificates: dict[tuple[str, tuple[str, ...]], KeyPair] = {}
        self._writes = Writes(self.store, self.now)
        self._tokens = ServiceAccountTokens(
            self.store, self.keys, self.now, issuer=issuer, audiences=(issuer,)
        )
        self._tokens.node_claims = node_claims
        self._authenticator = Authenticator(self._tokens)
        self.controllers = NamespaceControllers(self.store, self.resources, self._writes, self._ca.pem)
        self.controllers.enabled = controllers
        self._user = authenticated(_MANAGER, (MASTERS,))
        access = rbac.Rbac(self.store)
        reviews = Reviews(self._authenticator, access, self._tokens)
        self.tokens_shown = reviews.shown
        tables = Tables(self.now)
        parts = Parts(
            store=self.store,
            table=self.resources,
            keys=self.keys,
            authenticator=self._authenticator,
            rbac=access,
            reviews=reviews,
            discovery=Discovery(self.resources, reviews, kube_version),
            rest=Rest(self.store, self._writes, self._tokens, self.faults, access, tables=tables),
            tables=tables,
            faults=self.faults,
            journal=self.requests,
            now=self.now,
            pod_ports=self.pod_ports,
            issuer=lambda: self.issuer,
            address=lambda: f"127.0.0.1:{self._server.port}",
        )
        self._server = Server(Handler(parts), server_context(self._ca))
        self.apply_manifest(rbac.bootstrap())
        for namespace in _FIRST_NAMESPACES:
            self.create_namespace(namespace)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen on loopback; again on the same port after :meth:`stop`. The objects stay."""
        if not self._server.listening:
            await self._server.open()

    async def stop(self) -> None:
        """Close the port, end every watch and cut every connection. The objects stay."""
        for subscription in self.store.subscriptions():
            subscription.close()
        self.faults.clear()
        await self._server.close()

    async def down(self) -> None:
        """As :meth:`stop`, but the faults stay: the machine is gone, its troubles are not."""
        await self._server.close()

    async def up(self) -> None:
        """Come back on the same port."""
        await self.start()

    def cut_connections(self) -> None:
        """Cut every connection at once, watches in mid-stream; new ones are accepted."""
        self._server.cut()

    def end_watches(self) -> None:
        """End every watch in good order, as an API server does before it restarts."""
        for subscription in self.store.subscriptions():
            subscription.close()

    @contextmanager
    def hung(self) -> Iterator[Fault]:
        """Connections are still accepted, but nothing is answered and running watches fall silent.

        The fault that is yielded counts the requests that hang.
        """
        with self.faults.inject(Hang()) as hang, self.faults.inject(Silence()):
            yield hang

    def now(self) -> datetime:
        """The cluster's idea of the time."""
        return self._clock.now() + self.skew

    @property
    def url(self) -> str:
        """The server's address. Known once it has been started."""
        return f"https://127.0.0.1:{self._server.port}"

    @property
    def ca_pem(self) -> bytes:
        """The cluster's CA certificate."""
        return self._ca.pem

    def user_token(self, username: str, groups: Sequence[str] = ()) -> str:
        """A new opaque bearer token for a user."""
        token = secrets.token_urlsafe(24)
        self._authenticator.add_token(token, authenticated(username, tuple(groups)))
        return token

    def revoke_token(self, token: str) -> None:
        """Accept a token of :meth:`user_token` no longer."""
        self._authenticator.revoke(token)

    def client_certificate(self, username: str, groups: Sequence[str] = ()) -> KeyPair:
        """A client certificate for a user, the same one each time."""
        key = username, tuple(groups)
        if key not in self._certificates:
            self._certificates[key] = self._ca.client(username, groups)
        return self._certificates[key]

    def kubeconfig(
        self, user: str = "admin", *, groups: Sequence[str] = (), token: str = ""
    ) -> dict[str, Any]:
        """A kubeconfig with a bearer token where one is given, else with a client certificate.

        ``admin`` is in group ``system:masters``; everybody else may do what the RBAC objects in the cluster
        allow.
        """
        groups = (MASTERS,) if user == "admin" and not groups else tuple(groups)
        credential = token or self.client_certificate(user, groups)
        return kubeconfig(
            cluster=self.name, server=self.url, ca_pem=self.ca_pem, user=user, credential=credential
        )

    def service_account_kubeconfig(
        self, namespace: str, name: str, *, expiration: int = 86400
    ) -> dict[str, Any]:
        """A kubeconfig with a token of a service account for this API server."""
        token = self.token(namespace, name, audiences=(self.issuer,), expiration=expiration)
        return self.kubeconfig(f"{namespace}-{name}", token=token)

    def write_kubeconfig(
        self, path: Path | str, user: str = "admin", *, groups: Sequence[str] = (), token: str = ""
    ) -> Path:
        """Write :meth:`kubeconfig` to a file that only its owner can read."""
        file = Path(path)
        file.touch(mode=0o600)
        file.write_text(
            json.dumps(self.kubeconfig(user, groups=groups, token=token), indent=2) + "\n", "utf-8"
        )
        return file

    def register(self, resource: Resource) -> Resource:
        """Serve one more resource, as a CustomResourceDefinition would."""
        self.resources.add(resource)
        return resource

    def serve_cluster_trust_bundles(self, *versions: str) -> None:
        """Serve ClusterTrustBundles in these versions and no others, as an upgrade or a downgrade does."""
        for version, resource in CLUSTER_TRUST_BUNDLES.items():
            if version in versions:
                self.resources.add(resource)
            else:
                self.resources.remove(resource)
            for subscription in self.store.subscriptions(resource):
                subscription.close()

    def create(self, plural: str, obj: Mapping[str, Any], *, namespace: str = "", manager: str = "") -> Obj:
        """Create any object. Raises ApiError as the server would answer."""
        resource = self.resources.named(plural)
        copy = check_type(resource, decode(encode(obj)))
        namespace = namespace or copy["metadata"].get("namespace", "")
        return self._writes.create(self._target(resource, namespace, "", manager=manager), copy)

    def create_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> Obj:
        """Create a namespace."""
        return self.create("namespaces", {"metadata": {"name": name, "labels": dict(labels or {})}})

    def create_service_account(self, namespace: str, name: str) -> Obj:
        """Create a service account."""
        return self.create("serviceaccounts", {"metadata": {"name": name}}, namespace=namespace)

    def create_pod(
        self,
        namespace: str,
        name: str,
        service_account: str = "default",
        *,
        node: str = "node-1",
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        phase: str = "Running",
    ) -> Obj:
        """Create a pod on a node, and the node where it does not exist."""
        if node and self.store.get(NODES, "", node) is None:
            self.create("nodes", {"metadata": {"name": node}})
        spec = {"serviceAccountName": service_account, "containers": [{"name": "app", "image": "app"}]}
        meta: Obj = {"name": name, "labels": dict(labels or {})}
        meta |= {"annotations": dict(annotations)} if annotations else {}
        self.create(
            "pods",
            {"metadata": meta, "spec": spec | ({"nodeName": node} if node else {})},
            namespace=namespace,
        )
        return self.set_pod_phase(namespace, name, phase)

    def set_pod_phase(self, namespace: str, name: str, phase: str) -> Obj:
        """Report a pod's phase, as its kubelet does."""
        target = self._target(PODS, namespace, name, subresource="status")
        return self._writes.patch(target, lambda pod: pod | {"status": pod["status"] | {"phase": phase}})

    def delete(self, plural: str, namespace: str, name: str, *, grace: int = 0) -> None:
        """Delete an object; a pod with ``grace`` seconds lingers, terminating, until it is deleted again."""
        target = self._target(self.resources.named(plural), namespace, name)
        self._writes.delete(target, DeleteOptions(grace_seconds=grace))

    def get(self, plural: str, namespace: str, name: str) -> Obj | None:
        """A copy of any object, or None."""
        stored = self.store.get(self.resources.named(plural), namespace, name)
        return stored.copy() if stored is not None else None

    def objects(self, plural: str, namespace: str = "") -> list[Obj]:
        """Copies of all objects of a resource, of one namespace where one is given."""
        return [stored.copy() for stored in self.store.all(self.resources.named(plural), namespace)]

    def config_map(self, namespace: str, name: str) -> Obj | None:
        """A copy of a ConfigMap, or None."""
        return self.get(CONFIG_MAPS.plural, namespace, name)

    def patch(
        self,
        plural: str,
        namespace: str,
        name: str,
        change: Mapping[str, Any],
        *,
        subresource: str = "",
        manager: str = "",
    ) -> Obj:
        """Merge a patch into an object or its status, as an operator with kubectl or a controller would."""
        resource = self.resources.named(plural)
        target = self._target(resource, namespace, name, subresource=subresource, manager=manager)
        return self._writes.patch(target, lambda obj: merge_patch(obj, decode(encode(change))))

    def apply_manifest(self, objects: Iterable[Mapping[str, Any]]) -> None:
        """Apply objects in order, as ``kubectl apply --server-side --force-conflicts`` would."""
        for obj in objects:
            resource = self.resources.of_kind(str(obj.get("apiVersion")), str(obj.get("kind")))
            if resource is None:
                raise LookupError(
                    f"this cluster has no {obj.get('apiVersion')} {obj.get('kind')}; register it first"
                )
            config = decode(encode(obj))
            meta = config["metadata"]
            self._writes.apply(
                self._target(resource, meta.get("namespace", ""), meta["name"]), config, force=True
            )

    def token(
        self,
        namespace: str,
        service_account: str,
        *,
        pod: str = "",
        audiences: Sequence[str] = ("istio-ca",),
        expiration: int = 3600,
    ) -> str:
        """A token of a service account, bound to a pod where one is named, as the kubelet projects it."""
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod} if pod else None
        spec = {"audiences": list(audiences), "expirationSeconds": expiration, "boundObjectRef": bound}
        return self._tokens.request(namespace, service_account, spec)[0]

    def change_issuer(self, issuer: str, *, keep: bool = True) -> None:
        """Issue tokens in another name from now on; those of the former one are taken where it is kept."""
        self._tokens.former_issuers = {self.issuer} if keep else set()
        self.issuer = self._tokens.issuer = issuer

    def compact(self) -> None:
        """Forget the history: every older resource version and continue token is answered with 410."""
        self.store.compact()

    def _target(
        self, resource: Resource, namespace: str, name: str, *, subresource: str = "", manager: str = ""
    ) -> Target:
        return Target(
            resource=resource,
            namespace=namespace,
            name=name,
            user=self._user,
            manager=manager or _MANAGER,
            subresource=subresource,
        )
