"""What the hub can notice of kube-controller-manager: namespaces get filled and emptied."""

from __future__ import annotations

from federation.sandbox.apiserver.objects import metadata
from federation.sandbox.apiserver.resources import CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS, ResourceTable
from federation.sandbox.apiserver.store import Store
from federation.sandbox.apiserver.users import MASTERS, authenticated
from federation.sandbox.apiserver.writes import Target, Writes

ROOT_CA = "kube-root-ca.crt"


class NamespaceControllers:
    """The service account, root CA and namespace controllers, acting at once.

    ``enabled`` turns all of it off, as in a cluster whose controller manager is down: namespaces stay empty
    when they are made and Terminating when they are deleted, until somebody finalizes them.
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
