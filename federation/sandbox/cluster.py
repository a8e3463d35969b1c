"""A cluster in a box: an API server on loopback, and the hands of a test or demo inside it.

::

    async with SandboxCluster("east") as cluster:
        cluster.create_namespace("shop")
        cluster.create_service_account("shop", "cart")
        pod = cluster.create_pod("shop", "cart-1", "cart")
        token = cluster.token("shop", "cart", pod="cart-1")
        cluster.write_kubeconfig(path)

What is done through these methods happens at once and is no request: it reaches clients as watch events only.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from federation.core.clock import Clock
from federation.runtime.clock import SystemClock
from federation.sandbox.apiserver import rbac
from federation.sandbox.apiserver.authentication import Authenticator
from federation.sandbox.apiserver.discovery import Discovery
from federation.sandbox.apiserver.faults import Fault, Faults, Hang, Silence
from federation.sandbox.apiserver.handler import Handler, Parts
from federation.sandbox.apiserver.journal import Journal
from federation.sandbox.apiserver.objects import Obj, check_type, decode, encode
from federation.sandbox.apiserver.patches import merge_patch
from federation.sandbox.apiserver.resources import (
    CLUSTER_TRUST_BUNDLES,
    CONFIG_MAPS,
    NODES,
    PODS,
    Resource,
    ResourceTable,
)
from federation.sandbox.apiserver.rest import Rest
from federation.sandbox.apiserver.reviews import Reviews
from federation.sandbox.apiserver.server import Server
from federation.sandbox.apiserver.service_account_tokens import ServiceAccountTokens
from federation.sandbox.apiserver.store import Store
from federation.sandbox.apiserver.tls import ClusterCa, KeyPair, server_context
from federation.sandbox.apiserver.token_keys import Algorithm, KeyRing
from federation.sandbox.apiserver.users import MASTERS, authenticated
from federation.sandbox.apiserver.writes import DeleteOptions, Target, Writes
from federation.sandbox.controllers import NamespaceControllers
from federation.sandbox.kubeconfig import kubeconfig

# kubeadm's default, the same in every cluster it makes: issuers do not tell clusters apart, keys do.
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
        parts = Parts(
            store=self.store,
            table=self.resources,
            keys=self.keys,
            authenticator=self._authenticator,
            rbac=access,
            reviews=reviews,
            discovery=Discovery(self.resources, reviews, kube_version),
            rest=Rest(self.store, self._writes, self._tokens, self.faults, access),
            faults=self.faults,
            journal=self.requests,
            now=self.now,
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

    def create(self, plural: str, obj: Mapping[str, Any], *, namespace: str = "") -> Obj:
        """Create any object. Raises ApiError as the server would answer."""
        resource = self.resources.named(plural)
        copy = check_type(resource, decode(encode(obj)))
        namespace = namespace or copy["metadata"].get("namespace", "")
        return self._writes.create(self._target(resource, namespace, ""), copy)

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
