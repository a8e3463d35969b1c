"""One Lease (coordination.k8s.io/v1): read, create and replace, each write over the version that was last seen."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

from federation.core.errors import ClusterNotFound, StateUnavailable
from federation.state.kubernetes_api import MISSING, NOT_KUBERNETES, Calls

_LABELS: Final = {
    "app.kubernetes.io/managed-by": "federation-hub",
    "app.kubernetes.io/part-of": "federation-hub",
}


class LeaseSpec(msgspec.Struct, frozen=True, rename="camel"):
    """Who holds it and since when; an empty one is anybody's."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str


class _Lease(msgspec.Struct):
    kind: str
    metadata: _Metadata
    spec: LeaseSpec | None = None


_lease = msgspec.json.Decoder(_Lease)


class Lease:
    """The object, and what it held when it was last seen.

    Everything raises StateUnavailable; the writes raise ClusterConflict where somebody else wrote to it.
    """

    def __init__(self, calls: Calls, *, namespace: str, name: str) -> None:
        self.name: Final = name
        self.spec = LeaseSpec()
        self._calls = calls
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._where = f"Lease {namespace}/{name}"
        self._version = ""

    async def read(self) -> LeaseSpec | None:
        """What it holds now, None where there is none."""
        try:
            return self._opened(await self._calls.call("GET", self._path, where=self._where))
        except ClusterNotFound:
            return None

    async def create(self, spec: LeaseSpec) -> None:
        """Make it; ClusterConflict where it is there."""
        try:
            answer = await self._calls.call(
                "POST", self._collection, where=self._where, body=self._body(spec, version="")
            )
        except ClusterNotFound as error:
            raise StateUnavailable("its namespace is not there", where=self._where, remedy=MISSING) from error
        self._opened(answer)

    async def replace(self, spec: LeaseSpec) -> None:
        """Write over the version last seen, and over no other; where it has vanished, it is made again."""
        body = self._body(spec, version=self._version)
        self._opened(await self._calls.call("PUT", self._path, where=self._where, body=body))

    def _body(self, spec: LeaseSpec, *, version: str) -> bytes:
        metadata: dict[str, Any] = {"name": self.name, "labels": _LABELS}
        if version:
            metadata["resourceVersion"] = version
        fields = {name: value for name, value in msgspec.to_builtins(spec).items() if value is not None}
        return msgspec.json.encode(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": metadata,
                "spec": fields,
            }
        )

    def _opened(self, answer: bytes) -> LeaseSpec:
        try:
            found = _lease.decode(answer)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise self._garbage(str(error)[:200]) from None
        if found.kind != "Lease" or found.metadata.name != self.name or not found.metadata.resource_version:
            raise self._garbage("it is another object")
        self._version, self.spec = found.metadata.resource_version, found.spec or LeaseSpec()
        return self.spec

    def _garbage(self, what: str) -> StateUnavailable:
        return StateUnavailable(
            f"the answer is not the Lease that was asked for: {what}",
            where=self._where,
            remedy=NOT_KUBERNETES,
        )


def micro_time(when: datetime) -> str:
    """``meta/v1.MicroTime``: RFC 3339 in UTC with exactly six digits."""
    return when.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
