"""What an administrator does in a member cluster so that the hub can work there, and what undoes it.

Everything is asked before anything is written: each object is applied as a dry run first, by which the API server says
what the administrator may not do (RBAC's escalation check included) and which other field manager holds a field. An
object that is there already and bears no mark is used and not marked: it was made by someone else, who keeps it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal

import msgspec

from federation.clusters.istio_inventory import IstioFound, read_istio
from federation.clusters.member_objects import (
    FIELD_MANAGER,
    NAMESPACE,
    PART_OF,
    PLURALS,
    Object,
    collection_path,
    describe,
    group_of,
    mark_of,
    marked,
    object_path,
)
from federation.clusters.permissions import CheckResult
from federation.clusters.preflight import Checks, ServerVersion, check_clock, check_hubs, check_version
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import PublicationConfig
from federation.core.errors import (
    ClusterConflict,
    ClusterForbidden,
    ClusterGarbage,
    ClusterNotFound,
    FederationError,
)
from federation.core.identity import HubIdentity
from federation.kubernetes.answers import harmless
from federation.kubernetes.objects import (
    MAX_PAGES,
    METADATA_ONLY_LIST,
    MarkedMeta,
    annotations_of,
    decode_page,
    find_writers,
)
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession

APPLY: Final = "application/apply-patch+yaml"
ROLES: Final = ("signer", "controller")
State = Literal["create", "change", "unchanged"]
_VOLATILE: Final = frozenset({"managedFields", "resourceVersion", "generation"})


def account_of(role: str) -> str:
    """The service account that a role works as."""
    return f"federation-{role}"


class AlreadyRegistered(FederationError):
    """Another hub, or this one under another name, has registered the cluster."""

    default_reason = "already_registered"


@dataclass(frozen=True, slots=True)
class PlannedObject:
    """One object as it will be applied; ``own`` where it bears the hub's mark, so that ``remove`` deletes it."""

    item: Object
    state: State
    own: bool

    def __str__(self) -> str:
        there = {"create": "create", "change": "change", "unchanged": "there"}[self.state]
        whose = "" if self.own or self.state == "create" else "  (made by someone else; `remove` leaves it)"
        return f"{there:<8}{describe(self.item)}{whose}"


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A token and when it ends, as the API server says. The token does not show in its repr."""

    text: str
    expires: datetime

    def __repr__(self) -> str:
        return f"IssuedToken(expires={self.expires})"


@dataclass(frozen=True, slots=True)
class MarkedObject:
    """An object in the cluster that bears this hub's mark for this name."""

    kind: str
    namespace: str
    name: str
    uid: str
    resource_version: str

    def __str__(self) -> str:
        return describe({"kind": self.kind, "metadata": self._metadata})

    @property
    def _metadata(self) -> dict[str, str]:
        return {"name": self.name} | ({"namespace": self.namespace} if self.namespace else {})

    @property
    def path(self) -> str:
        """Its API path."""
        return object_path({"kind": self.kind, "metadata": self._metadata})


class Registrar:
    """An administrator's session in one cluster, for the hub ``hub`` that calls the cluster ``cluster``."""

    def __init__(self, session: ClusterSession, *, hub: HubIdentity, cluster: str) -> None:
        self._session = session
        self._hub = hub
        self._cluster = cluster

    async def check(
        self, config: ClusterConfig, publication: PublicationConfig
    ) -> tuple[list[CheckResult], IstioFound]:
        """Reachable, version, clock, other hubs, and what runs of Istio. Raises ClusterErrors where nothing answers."""
        checks = Checks(config, "administrator")
        answer = await self._session.get("/version")
        checks.add("reachable", "ok", f"{self._session.server} answers")
        async with checks.guarded("version"):
            check_version(checks, msgspec.json.decode(answer, type=ServerVersion).git_version)
        check_clock(checks, self._session.clock_skew)
        async with checks.guarded("hubs"):
            writers = await find_writers(
                self._session, config_map=publication.config_map, key=publication.key
            )
            check_hubs(checks, writers, self._hub)
        found = await read_istio(self._session, config)
        checks.add("istio", "ok", _istio_text(found))
        return checks.results, found

    async def plan(self, objects: Iterable[Object], namespaces: Sequence[str]) -> list[PlannedObject]:
        """What would be created and changed, nothing of which is done; namespaces of Istio first, which stay.

        Raises AlreadyRegistered; ClusterForbidden, with a remedy, where the administrator's rights do not do.
        """
        planned = []
        for name in namespaces:
            item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
            if await self._live(item) is None:
                await self._dry_run(item)
                planned.append(PlannedObject(item, "create", own=False))
        return planned + [await self._planned(item) for item in objects]

    async def _planned(self, item: Object) -> PlannedObject:
        live = await self._live(item)
        if live is not None and "deletionTimestamp" in live["metadata"]:
            raise FederationError(
                f"{describe(item)} there is being deleted",
                where=self._cluster,
                remedy="run this again once it is gone; its conditions say what keeps it",
            )
        own = live is None or self._is_own(item, live)
        wanted = marked(item, hub=self._hub.id, cluster=self._cluster) if own else item
        result = await self._dry_run(wanted)
        if live is None or result is None:
            return PlannedObject(wanted, "create", own)
        same = _without_volatile(result) == _without_volatile(live)
        return PlannedObject(wanted, "unchanged" if same else "change", own)

    def _is_own(self, item: Object, live: Object) -> bool:
        hub, name = mark_of(live)
        if hub and not self._hub.owns(hub):
            raise AlreadyRegistered(
                f"{describe(item)} there was made by the hub with the identity {harmless(hub)}",
                where=self._cluster,
                remedy="remove the cluster from that hub first; one cluster has one hub",
            )
        if hub and name != self._cluster:
            raise AlreadyRegistered(
                f"this hub has registered that cluster already, as {harmless(name) or 'one without a name'}",
                where=self._cluster,
                remedy=f"name another cluster, or `federation clusters remove {harmless(name)}` first",
            )
        return bool(hub)

    async def _live(self, item: Object) -> Object | None:
        try:
            answer = await self._session.get(object_path(item))
        except ClusterNotFound:
            return None
        except ClusterForbidden as error:
            raise ClusterForbidden(error.what, where=error.where, remedy=NOT_ENOUGH) from error
        return _decoded(answer, describe(item))

    async def _dry_run(self, item: Object) -> Object | None:
        """The object as it would be; None where that cannot be known before its namespace, or its role, is there."""
        try:
            return await self._apply(item, dry_run=True)
        except ClusterNotFound:
            await self._require(item)
            return None

    async def _require(self, item: Object) -> None:
        """Raise ClusterForbidden where the administrator may not create that kind of object there."""
        kind, namespace = item["kind"], item["metadata"].get("namespace", "")
        if not await self.may("create", PLURALS[kind], group=group_of(kind), namespace=namespace):
            raise ClusterForbidden(
                f"this administrator may not create {describe(item)}",
                where=self._cluster,
                remedy=NOT_ENOUGH,
            )

    async def may(self, verb: str, resource: str, *, group: str = "", namespace: str = "") -> bool:
        """Whether the administrator may do that. Raises ClusterErrors."""
        resource, _, subresource = resource.partition("/")
        attributes = {
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "namespace": namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        answer = await self._session.request(
            "POST",
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            body=msgspec.json.encode(review),
            most_bytes=SMALL_ANSWER_BYTES,
        )
        status = _decoded(answer, "the answer to an access review").get("status")
        return isinstance(status, dict) and status.get("allowed") is True

    async def _apply(self, item: Object, *, dry_run: bool = False) -> Object:
        params = {"fieldManager": FIELD_MANAGER} | ({"dryRun": "All"} if dry_run else {})
        try:
            answer = await self._session.request(
                "PATCH",
                object_path(item),
                params=params,
                body=msgspec.json.encode(item),
                content_type=APPLY,
            )
        except ClusterForbidden as error:
            raise ClusterForbidden(error.what, where=error.where, remedy=NOT_ENOUGH) from error
        except ClusterConflict as error:
            raise ClusterConflict(
                error.what,
                where=error.where,
                remedy=f"{describe(item)} is there with another content: compare it with manifests/member, and correct "
                "or delete it",
            ) from error
        return _decoded(answer, describe(item))

    async def apply(self, planned: Iterable[PlannedObject], done: Callable[[str], None]) -> None:
        """Apply what is not there as planned; ``done`` gets a line for each. Raises ClusterErrors."""
        for each in planned:
            if each.state != "unchanged":
                await self._apply(each.item)
                done(f"{describe(each.item)} in {self._cluster}")

    async def issue(self, account: str, *, seconds: float) -> IssuedToken:
        """A token of one of the hub's accounts for the API server itself (TokenRequest). Raises ClusterErrors."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": int(seconds)},
        }
        answer = await self._session.request(
            "POST",
            f"{collection_path('ServiceAccount', NAMESPACE)}/{account}/token",
            body=msgspec.json.encode(request),
            most_bytes=SMALL_ANSWER_BYTES,
        )
        try:
            status = msgspec.json.decode(answer, type=_TokenRequest).status
        except (msgspec.MsgspecError, UnicodeError):
            raise ClusterGarbage(f"what is given for {account} is no token", where=self._cluster) from None
        return IssuedToken(status.token, status.expires)

    async def own_objects(self) -> list[MarkedObject]:
        """Everything with this hub's mark for this name, in an order in which it can be deleted.

        Raises AlreadyRegistered where the accounts are another hub's; ClusterErrors.
        """
        return [found for kind in reversed(list(PLURALS)) async for found in self._own_of(kind)]

    async def _own_of(self, kind: str) -> AsyncIterator[MarkedObject]:
        params = {"labelSelector": PART_OF, "limit": "500"}
        for _ in range(MAX_PAGES):
            answer = await self._session.get(collection_path(kind), params=params, accept=METADATA_ONLY_LIST)
            page = decode_page(answer)
            for raw in page.items or ():
                meta = msgspec.json.decode(raw, type=_Marked).metadata
                hub, name = mark_of({"metadata": {"annotations": annotations_of(meta)}})
                if self._hub.owns(hub) and name == self._cluster:
                    yield MarkedObject(kind, meta.namespace, meta.name, meta.uid, meta.resource_version)
            if not page.metadata.continue_:
                return
            params["continue"] = page.metadata.continue_

    async def delete(self, found: MarkedObject) -> None:
        """Delete it, if it is still the one that was found. Raises ClusterErrors; not where it is gone."""
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": found.uid, "resourceVersion": found.resource_version},
        }
        try:
            await self._session.request("DELETE", found.path, body=msgspec.json.encode(options))
        except ClusterNotFound:
            return
        except ClusterConflict as error:
            raise ClusterConflict(
                f"{found} was changed meanwhile, and is not deleted",
                where=self._cluster,
                remedy="see who changes it, then run this again",
            ) from error

    async def left_in(self, namespace: str, *, config_map: str) -> list[str]:
        """What a namespace still holds that neither Kubernetes nor the hub makes there; it is not to be deleted then.

        Looked for are workloads, their data and their accounts, not every kind that a cluster may serve.
        """
        made = {
            "configmaps": {*SYSTEM_CONFIG_MAPS, config_map},
            "serviceaccounts": SYSTEM_ACCOUNTS,
        }
        left = []
        for path in LOOKED_FOR:
            plural = path.rpartition("/")[2]
            base, _, _ = path.rpartition("/")
            try:
                answer = await self._session.get(
                    f"{base}/namespaces/{namespace}/{plural}",
                    params={"limit": "100"},
                    accept=METADATA_ONLY_LIST,
                )
            except ClusterNotFound:
                continue  # the cluster does not serve that kind
            for raw in decode_page(answer).items or ():
                name = msgspec.json.decode(raw, type=_Marked).metadata.name
                if name not in made.get(plural, ()):
                    left.append(f"{plural}/{name}")
        return left


NOT_ENOUGH: Final = (
    "use the kubeconfig of an administrator who may create namespaces, service accounts, roles and bindings there and "
    "has the rights that these roles grant (the ClusterRole cluster-admin does)"
)
SYSTEM_CONFIG_MAPS: Final = frozenset({"kube-root-ca.crt", "openshift-service-ca.crt"})
SYSTEM_ACCOUNTS: Final = frozenset({"default", "builder", "deployer"})
LOOKED_FOR: Final = (
    *(f"/api/v1/{plural}" for plural in ("pods", "services", "configmaps", "secrets", "serviceaccounts")),
    "/api/v1/persistentvolumeclaims",
    *(f"/apis/apps/v1/{plural}" for plural in ("deployments", "statefulsets", "daemonsets")),
    *(f"/apis/batch/v1/{plural}" for plural in ("jobs", "cronjobs")),
)


class _Marked(msgspec.Struct):
    metadata: MarkedMeta


class _TokenStatus(msgspec.Struct):
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=64 * 1024, pattern=r"^[!-~]+$")]
    expires: Annotated[datetime, msgspec.Meta(tz=True)] = msgspec.field(name="expirationTimestamp")


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus


def _decoded(answer: bytes, what: str) -> Object:
    try:
        found = msgspec.json.decode(answer)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("metadata", {}), dict):
        raise ClusterGarbage(f"{what} is not what the API promises")
    return found


def _without_volatile(item: Object) -> Object:
    meta = {key: value for key, value in item["metadata"].items() if key not in _VOLATILE}
    return item | {"metadata": meta}


def cluster_names(found: IstioFound) -> list[str]:
    """What the istiods there call the cluster (global.multiCluster.clusterName), where that is known."""
    return sorted({istiod.cluster_name for istiod in found.istiods if istiod.cluster_name})


def _istio_text(found: IstioFound) -> str:
    lines = list(_istiods(found))
    unread = f"; could not read {found.unread[0].what}" if found.unread else ""
    return ("; ".join(lines) or "no istiod runs there yet") + unread


def _istiods(found: IstioFound) -> Iterator[str]:
    for istiod in found.istiods[:5]:
        own = {True: "its own CA is on", False: "its own CA is off", None: "its CA is not known"}[
            istiod.ca_server
        ]
        yield f"{istiod} ({own}, cluster name {istiod.cluster_name or 'not known'})"
