"""A stand-in for the API servers of many clusters, cheaper than the hub that asks them: what is measured is the hub.

`python -m tests.bench.stand_in DIRECTORY NAMESPACES PODS NAME...` opens a TLS port for each cluster, writes
`NAME-ROLE.kubeconfig` for an administrator and both roles, and then does what lines of JSON on standard input say.

What the hub asks is answered as kube-apiserver would: lists in pages, watches with bookmarks that go on from a version,
server-side apply with its watch event, tokens of service accounts, their keys and reviews, 401 without a token. It is
no API server for tests (that is the sandbox): nothing is deleted, permissions are not checked, one hub is the only
writer, and what nothing asks for is not there. Requests without an answer are counted by `unanswered`, so that a
measurement can say that there were none.

Cheap is what it does for each request: one pattern over the head, one lookup, bytes that were put together before.
Namespaces, pods and service accounts are made anew from their number for each page and take no memory.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import secrets
import sys
import time
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import formatdate
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl, unquote

import uvloop

from federation_sandbox.apiserver.authentication import (
    ANONYMOUS,
    Authenticator,
    ClusterCa,
    KeyRing,
    ServiceAccountTokens,
    server_context,
)
from federation_sandbox.apiserver.protobuf import MAGIC, read_protobuf
from federation_sandbox.apiserver.rbac import Rbac
from federation_sandbox.apiserver.resources import Resource
from federation_sandbox.apiserver.reviews import AUTHENTICATION, Reviews
from federation_sandbox.apiserver.status import ApiError
from federation_sandbox.apiserver.store import Obj, Store, Stored, encode, timestamp
from federation_sandbox.cluster import DEFAULT_ISSUER, kubeconfig
from federation_sandbox.ports import free_port
from tests.bench.members import obey_lines
from tests.bench.processes import allow_many_files

SYSTEM: Final = (
    "default",
    "federation-system",
    "istio-system",
    "kube-node-lease",
    "kube-public",
    "kube-system",
)
OWN_ACCOUNTS: Final = ("federation-controller", "federation-istiod", "federation-probe", "federation-signer")
FIRST_VERSION: Final = 1000
"""Of every object that was there before the hub came."""

BOOKMARKS: Final = 60.0
ROLES: Final = ("admin", "signer", "controller")
_BEFORE: Final = "2026-01-01T00:00:00Z"


def namespace_name(number: int) -> str:
    """The name of a namespace by its number; the system's come first."""
    return SYSTEM[number] if number < len(SYSTEM) else f"team-{number - len(SYSTEM):04}"


def pod_name(number: int) -> str:
    return f"web-6d4cf56db6-{number:06}"


@dataclass(frozen=True)
class Item:
    """One object that is there from the beginning. Nothing but its metadata is asked for."""

    namespace: str
    name: str
    uid: str
    shown: bytes


@dataclass(frozen=True)
class Asked:
    """A request's target, taken apart."""

    parts: tuple[str, ...]
    query: Mapping[str, str]
    namespace: str
    resource: str
    name: str
    subresource: str
    selected: str
    """The name that a field selector asks for."""


_SELECTED: Final = re.compile(r"(?:^|,)metadata\.name=([^,]+)")


@lru_cache(maxsize=65536)
def read_target(target: str) -> Asked:
    path, _, query_text = target.partition("?")
    query = dict(parse_qsl(query_text))
    parts = tuple(unquote(part) for part in path.split("/") if part)
    rest = parts[2:] if parts[:1] == ("api",) else parts[3:] if parts[:1] == ("apis",) else ()
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource, name, subresource = (*rest, "", "", "")[:3]
    selected = _SELECTED.search(query.get("fieldSelector", ""))
    return Asked(parts, query, namespace, resource, name, subresource, selected[1] if selected else "")


class Collection(ABC):
    """The objects of one resource in one cluster."""

    def __init__(self, kind: str, group_version: str) -> None:
        self.kind, self.group_version = kind, group_version

    @abstractmethod
    def page(self, asked: Asked, first: int, limit: int, *, partial: bool) -> tuple[list[bytes], bool]:
        """So many of the objects that are asked for, from that number on, and whether there are more."""


def _managed(manager: str, fields: str) -> str:
    return (
        f'"managedFields":[{{"manager":"{manager}","operation":"Update","apiVersion":"v1","time":"{_BEFORE}",'
        f'"fieldsType":"FieldsV1","fieldsV1":{fields}}}]'
    )


class Fixed(Collection):
    """Objects that are made from their number each time. The same number has another UID in another cluster."""

    kind_number = 0

    def __init__(self, kind: str, *, cluster: int, count: int, teams: int) -> None:
        super().__init__(kind, "v1")
        self.count, self.teams = count, teams
        self._uid = f"{cluster:08x}-{self.kind_number:04x}-4000-8000-"

    @abstractmethod
    def item(self, number: int) -> Item:
        """The object of that number."""

    @abstractmethod
    def number(self, namespace: str, name: str) -> int:
        """Which number an object of that name would have, if there is one."""

    def find(self, namespace: str, name: str) -> Item | None:
        number = self.number(namespace, name)
        found = self.item(number) if 0 <= number < self.count else None
        return found if found and (found.namespace, found.name) == (namespace, name) else None

    def page(self, asked: Asked, first: int, limit: int, *, partial: bool) -> tuple[list[bytes], bool]:
        if asked.selected:
            found = self.find(asked.namespace, asked.selected)
            return [found.shown] if found is not None else [], False
        end = min(first + limit, self.count)
        return [self.item(number).shown for number in range(first, end)], end < self.count

    def _item(self, number: int, namespace: str, name: str, more: str) -> Item:
        uid = f"{self._uid}{number:012x}"
        place = f'"namespace":"{namespace}",' if namespace else ""
        text = (
            '{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{'
            f'"name":"{name}",{place}"uid":"{uid}","resourceVersion":"{FIRST_VERSION}",'
            f'"creationTimestamp":"{_BEFORE}",{more}}}}}'
        )
        return Item(namespace, name, uid, text.encode())


def _digits(text: str) -> int:
    return int(text) if text.isdecimal() else -1


def namespace_number(name: str) -> int:
    if name in SYSTEM:
        return SYSTEM.index(name)
    digits = _digits(name.removeprefix("team-"))
    return digits + len(SYSTEM) if digits >= 0 else -1


class Namespaces(Fixed):
    kind_number = 1
    _MANAGED = _managed(
        "kubectl-create", '{"f:metadata":{"f:labels":{".":{},"f:kubernetes.io/metadata.name":{}}}}'
    )

    def item(self, number: int) -> Item:
        name = namespace_name(number)
        labels = f'"labels":{{"kubernetes.io/metadata.name":"{name}"}},'
        return self._item(number, "", name, labels + self._MANAGED)

    def number(self, namespace: str, name: str) -> int:
        return namespace_number(name)


class Pods(Fixed):
    """Spread over the teams; without a sidecar, since nothing asks for certificates in their names."""

    kind_number = 2
    _REST = (
        '"generateName":"web-6d4cf56db6-","labels":{"app":"web","pod-template-hash":"6d4cf56db6"},'
        '"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-6d4cf56db6",'
        '"uid":"0f0c2a52-6d3c-4b6e-9a55-1f0f7ac5c0a1","controller":true,"blockOwnerDeletion":true}],'
        + _managed(
            "kube-controller-manager",
            '{"f:metadata":{"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{}},'
            '"f:ownerReferences":{".":{},"k:{\\"uid\\":\\"0f0c2a52-6d3c-4b6e-9a55-1f0f7ac5c0a1\\"}":{}}},'
            '"f:spec":{"f:containers":{"k:{\\"name\\":\\"web\\"}":{".":{},"f:image":{},"f:imagePullPolicy":{},'
            '"f:name":{},"f:ports":{},"f:resources":{},"f:terminationMessagePath":{}}},"f:dnsPolicy":{},'
            '"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:serviceAccount":{}}}',
        )
    )

    def item(self, number: int) -> Item:
        team = namespace_name(len(SYSTEM) + number % self.teams)
        return self._item(number, team, pod_name(number), self._REST)

    def number(self, namespace: str, name: str) -> int:
        return _digits(name.rpartition("-")[2])


class ServiceAccounts(Fixed):
    """The hub's own, and ``default`` in every namespace."""

    kind_number = 3

    def item(self, number: int) -> Item:
        if number < len(OWN_ACCOUNTS):
            return self._item(number, "federation-system", OWN_ACCOUNTS[number], '"labels":{}')
        return self._item(number, namespace_name(number - len(OWN_ACCOUNTS)), "default", '"labels":{}')

    def number(self, namespace: str, name: str) -> int:
        if name in OWN_ACCOUNTS:
            return OWN_ACCOUNTS.index(name)
        number = namespace_number(namespace)
        return number + len(OWN_ACCOUNTS) if number >= 0 else -1


@dataclass(frozen=True, eq=False)
class Body:
    """What one field manager has applied. The same bytes are one object, so that it is compared by identity."""

    manager: str
    content: Mapping[str, Any]


@lru_cache(maxsize=4096)
def read_body(manager: str, raw: bytes) -> Body:
    content = json.loads(raw)
    if not isinstance(content, dict):
        raise TypeError("not an object")
    return Body(manager, content)


@lru_cache(maxsize=4096)
def merged(applied: tuple[Body, ...]) -> tuple[bytes, bytes]:
    """The end of an object's metadata, and what follows its metadata."""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    rest: dict[str, Any] = {}
    managed: list[dict[str, Any]] = []
    for body in applied:
        meta = body.content.get("metadata") or {}
        labels |= meta.get("labels") or {}
        annotations |= meta.get("annotations") or {}
        parts = [part for part in ("labels", "annotations") if meta.get(part)]
        owned: dict[str, Any] = {"f:metadata": {f"f:{part}": _owned(meta[part]) for part in parts}}
        for name, value in body.content.items():
            if name in {"apiVersion", "kind", "metadata"}:
                continue
            rest[name] = rest.get(name, {}) | value if isinstance(value, dict) else value
            owned[f"f:{name}"] = _owned(value)
        entry = {"manager": body.manager, "operation": "Apply", "apiVersion": "v1", "time": _BEFORE}
        managed.append(entry | {"fieldsType": "FieldsV1", "fieldsV1": owned})
    meta = {"labels": labels, "annotations": annotations, "managedFields": managed}
    return encode(meta)[1:], b"," + encode(rest)[1:] if rest else b"}"


def _owned(value: Any) -> dict[str, Any]:
    return {f"f:{key}": {} for key in value} if isinstance(value, dict) else {}


_PARTIAL: Final = b'{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1",'


class Applied:
    """An object that is there because it was applied."""

    __slots__ = ("_meta", "bodies", "name", "namespace", "version")

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace, self.name = namespace, name
        self.bodies: tuple[Body, ...] = ()
        self.version = 0
        meta = {
            "name": name,
            "namespace": namespace,
            "uid": str(uuid.uuid4()),
            "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        self._meta = encode(meta)[:-1]

    def apply(self, body: Body) -> bool:
        """Whether that changes it."""
        if body in self.bodies:
            return False
        self.bodies = (*(each for each in self.bodies if each.manager != body.manager), body)
        return True

    def show(self, head: bytes, *, partial: bool) -> bytes:
        meta, rest = merged(self.bodies)
        end = b"}" if partial else rest
        return b'%b"metadata":%b,"resourceVersion":"%d",%b%b' % (
            _PARTIAL if partial else head,
            self._meta,
            self.version,
            meta,
            end,
        )


class Written(Collection):
    """Objects that are applied."""

    def __init__(self, kind: str, group_version: str) -> None:
        super().__init__(kind, group_version)
        self.head = f'{{"kind":"{kind}","apiVersion":"{group_version}",'.encode()
        self.objects: dict[tuple[str, str], Applied] = {}

    def matching(self, asked: Asked) -> list[Applied]:
        """Those in the namespace, and of the name, that are asked for; in the order in which they came."""
        return [
            each
            for each in self.objects.values()
            if asked.namespace in {"", each.namespace} and asked.selected in {"", each.name}
        ]

    def page(self, asked: Asked, first: int, limit: int, *, partial: bool) -> tuple[list[bytes], bool]:
        found = self.matching(asked)
        shown = [each.show(self.head, partial=partial) for each in found[first : first + limit]]
        return shown, first + limit < len(found)

    def named(self, namespace: str, name: str) -> Applied:
        """The object of that name, which is made where there is none."""
        found = self.objects.get((namespace, name))
        if found is None:
            found = self.objects[namespace, name] = Applied(namespace, name)
        return found


class Watch:
    """An open watch on one connection, with its bookmarks and its end."""

    def __init__(self, connection: Connection, cluster: Cluster, asked: Asked, *, partial: bool) -> None:
        self._connection, self._cluster, self._asked = connection, cluster, asked
        self.partial = partial
        loop = asyncio.get_running_loop()
        seconds = float(asked.query.get("timeoutSeconds") or 1800)
        self._bookmarks = loop.call_later(BOOKMARKS * random.random(), self._bookmark)
        self._end = loop.call_later(seconds, self._finish)
        self._open = cluster.watches[asked.resource]
        self._open.add(self)

    def wants(self, found: Applied) -> bool:
        asked = self._asked
        return asked.namespace in {"", found.namespace} and asked.selected in {"", found.name}

    def send(self, kind: bytes, shown: bytes) -> None:
        line = b'{"type":"%b","object":%b}\n' % (kind, shown)
        self._connection.write(b"%x\r\n%b\r\n" % (len(line), line))

    def close(self) -> None:
        """Its connection is gone, or its time is over."""
        self._bookmarks.cancel()
        self._end.cancel()
        self._open.discard(self)
        self._connection.watch = None

    def _bookmark(self) -> None:
        collection = self._cluster.collections[self._asked.resource]
        kind, api_version = shown_kind(collection, partial=self.partial)
        meta = {"resourceVersion": str(self._cluster.version)}
        self.send(b"BOOKMARK", encode({"kind": kind, "apiVersion": api_version, "metadata": meta}))
        self._bookmarks = asyncio.get_running_loop().call_later(BOOKMARKS, self._bookmark)

    def _finish(self) -> None:
        self._connection.write(b"0\r\n\r\n")
        self.close()


def shown_kind(collection: Collection, *, partial: bool) -> tuple[str, str]:
    """Kind and apiVersion of an object in an answer."""
    if partial:
        return "PartialObjectMetadata", "meta.k8s.io/v1"
    return collection.kind, collection.group_version


@dataclass
class Counts:
    """What was asked of the clusters of this process, and what was written since the last reset."""

    requests: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[str] = field(default_factory=Counter)
    written: set[tuple[str, str]] = field(default_factory=set)
    """The ConfigMaps: cluster and namespace."""

    last: float = 0.0
    """When the last of them was written, by CLOCK_MONOTONIC, which all processes share."""


class Cluster:
    """One cluster."""

    def __init__(self, number: int, name: str, teams: int, pods: int, counts: Counts) -> None:
        self.name, self.counts = name, counts
        self.version = FIRST_VERSION
        self.refused: frozenset[str] = frozenset()
        every = teams + len(SYSTEM)
        webhooks = "admissionregistration.k8s.io/v1"
        self.namespaces = Namespaces("Namespace", cluster=number, count=every, teams=teams)
        self.pods = Pods("Pod", cluster=number, count=pods, teams=teams)
        accounts = every + len(OWN_ACCOUNTS)
        self.accounts = ServiceAccounts("ServiceAccount", cluster=number, count=accounts, teams=teams)
        self.collections: dict[str, Collection] = {
            "namespaces": self.namespaces,
            "pods": self.pods,
            "serviceaccounts": self.accounts,
            "configmaps": Written("ConfigMap", "v1"),
            "secrets": Written("Secret", "v1"),
            "mutatingwebhookconfigurations": Written("MutatingWebhookConfiguration", webhooks),
            "validatingwebhookconfigurations": Written("ValidatingWebhookConfiguration", webhooks),
        }
        self.watches: dict[str, set[Watch]] = {resource: set() for resource in self.collections}
        keys, store = KeyRing("ES256"), cast("Store", _Objects(self.collections))
        self._tokens = ServiceAccountTokens(
            store, keys, lambda: datetime.now(UTC), issuer=DEFAULT_ISSUER, audiences=(DEFAULT_ISSUER,)
        )
        self._reviews = Reviews(Authenticator(self._tokens), Rbac(store), self._tokens)
        self.credentials = {role: secrets.token_urlsafe(24) for role in ROLES}
        self.known = frozenset(token.encode() for token in self.credentials.values())
        resources = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": "certificates.k8s.io/v1"}
        self._documents: dict[tuple[str, ...], bytes] = {
            ("version",): b'{"major":"1","minor":"36","gitVersion":"v1.36.2","platform":"stand-in"}',
            ("openid", "v1", "jwks"): encode(keys.jwks()),
            (".well-known", "openid-configuration"): encode(
                keys.discovery(DEFAULT_ISSUER, f"{DEFAULT_ISSUER}/openid/v1/jwks")
            ),
            ("apis", "certificates.k8s.io", "v1"): encode(resources | {"resources": []}),
        }

    def answer(
        self, connection: Connection, method: str, asked: Asked, body: bytes, *, partial: bool
    ) -> None:
        """Answer one request on that connection."""
        collection = self.collections.get(asked.resource)
        match method:
            case "GET" if collection is not None and not asked.name:
                if asked.query.get("watch"):
                    self._watch(connection, collection, asked, partial=partial)
                else:
                    connection.reply(200, self._list(collection, asked, partial=partial))
            case "GET" if asked.parts in self._documents:
                kind = b"application/jwk-set+json" if asked.parts[-1] == "jwks" else JSON
                connection.reply(200, self._documents[asked.parts], kind)
            case "GET" if asked.parts[:2] == ("apis", "certificates.k8s.io"):
                connection.reply(404, b"404 page not found\n", b"text/plain")
            case "PATCH" if isinstance(collection, Written) and asked.name:
                self._apply(connection, collection, asked, body, partial=partial)
            case "POST" if asked.subresource == "token":
                self._post(connection, lambda: self._token(asked, body))
            case "POST" if asked.resource == "tokenreviews":
                self._post(connection, lambda: self._review(body))
            case _:
                self.counts.unanswered[f"{method} /{'/'.join(asked.parts)}"] += 1
                connection.reply(404, b"404 page not found\n", b"text/plain")

    def _list(self, collection: Collection, asked: Asked, *, partial: bool) -> bytes:
        self.counts.requests["list"] += 1
        first, limit = int(asked.query.get("continue") or 0), int(asked.query.get("limit") or sys.maxsize)
        items, more = collection.page(asked, first, limit, partial=partial)
        kind, version = shown_kind(collection, partial=partial)
        return b'{"kind":"%bList","apiVersion":"%b","metadata":{"resourceVersion":"%d"%b},"items":[%b]}' % (
            kind.encode(),
            version.encode(),
            self.version,
            b',"continue":"%d"' % (first + limit) if more else b"",
            b",".join(items),
        )

    def _watch(self, connection: Connection, collection: Collection, asked: Asked, *, partial: bool) -> None:
        self.counts.requests["watch"] += 1
        after = int(asked.query.get("resourceVersion") or 0)
        connection.begin_stream()
        watch = connection.watch = Watch(connection, self, asked, partial=partial)
        if isinstance(collection, Written):
            newer = (each for each in collection.matching(asked) if each.version > after)
            for found in sorted(newer, key=lambda each: each.version):
                watch.send(b"MODIFIED", found.show(collection.head, partial=partial))

    def _apply(
        self, connection: Connection, collection: Written, asked: Asked, raw: bytes, *, partial: bool
    ) -> None:
        self.counts.requests["apply"] += 1
        namespace = asked.namespace
        if namespace in self.refused and asked.resource == "configmaps":
            connection.reply(403, _forbidden(asked))
            return
        found = collection.named(namespace, asked.name)
        created = not found.bodies
        changed = found.apply(read_body(asked.query.get("fieldManager", ""), raw))
        if changed:
            self.version += 1
            found.version = self.version
            if asked.resource == "configmaps":
                self.counts.written.add((self.name, namespace))
                self.counts.last = time.monotonic()
        connection.reply(201 if created else 200, found.show(collection.head, partial=partial))
        for watch in self.watches[asked.resource] if changed else ():
            if watch.wants(found):
                shown = found.show(collection.head, partial=watch.partial)
                watch.send(b"ADDED" if created else b"MODIFIED", shown)

    def _post(self, connection: Connection, made: Callable[[], Obj]) -> None:
        try:
            connection.reply(201, encode(made()))
        except ApiError as error:
            connection.reply(error.code, encode(error.status()))

    def _token(self, asked: Asked, body: bytes) -> Obj:
        self.counts.requests["token"] += 1
        token, until, spec = self._tokens.request(asked.namespace, asked.name, json.loads(body)["spec"])
        status = {"token": token, "expirationTimestamp": timestamp(until)}
        kind = {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1"}
        return kind | {"metadata": {}, "spec": spec, "status": status}

    def _review(self, body: bytes) -> Obj:
        self.counts.requests["review"] += 1
        asked = read_protobuf(body, "TokenReview") if body.startswith(MAGIC) else json.loads(body)
        answer = self._reviews.answer(AUTHENTICATION, "tokenreviews", "", asked, ANONYMOUS)
        assert answer is not None, "this review is known"
        return answer


class _Objects:
    """As much of the sandbox's store as its tokens look at: whether pods and service accounts are there."""

    def __init__(self, collections: Mapping[str, Collection]) -> None:
        self._collections = collections

    def get(self, resource: Resource, namespace: str, name: str) -> Stored | None:
        collection = self._collections.get(resource.plural)
        found = collection.find(namespace, name) if isinstance(collection, Fixed) else None
        if found is None:
            return None
        value = json.loads(found.shown)
        return Stored(value | {"spec": {"serviceAccountName": "default"}}, FIRST_VERSION)


def _forbidden(asked: Asked) -> bytes:
    who = "system:serviceaccount:federation-system:federation-controller"
    message = (
        f'{asked.resource} "{asked.name}" is forbidden: User "{who}" cannot patch resource "{asked.resource}" '
        f'in API group "" in the namespace "{asked.namespace}"'
    )
    details = {"name": asked.name, "kind": asked.resource}
    return encode(ApiError(403, "Forbidden", message, details=details).status())


JSON: Final = b"application/json"
_REASONS: Final = {200: b"OK", 201: b"Created", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found"}
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TOKEN: Final = re.compile(rb"\r\nauthorization: *bearer ([^\r]+)", re.IGNORECASE)
_UNAUTHORIZED: Final = encode(ApiError(401, "Unauthorized", "Unauthorized").status())


class Connection(asyncio.Protocol):
    """One connection of a client to one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._unread = b""
        self._transport: asyncio.Transport | None = None
        self.watch: Watch | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self.watch is not None:
            self.watch.close()

    def data_received(self, data: bytes) -> None:
        unread = self._unread + data if self._unread else data
        while (end := unread.find(b"\r\n\r\n") + 4) > 3:
            head = unread[:end]
            length = _LENGTH.search(head)
            whole = end + (int(length[1]) if length is not None else 0)
            if len(unread) < whole:
                break
            self._take(head, unread[end:whole])
            unread = unread[whole:]
        self._unread = unread

    def _take(self, head: bytes, body: bytes) -> None:
        method, target, _ = head.split(b" ", 2)
        token = _TOKEN.search(head)
        if token is None or token[1] not in self._cluster.known:
            self.reply(401, _UNAUTHORIZED)
            return
        asked = read_target(target.decode("ascii"))
        partial = b"as=PartialObjectMetadata" in head
        self._cluster.answer(self, method.decode("ascii"), asked, body, partial=partial)

    def reply(self, status: int, body: bytes, kind: bytes = JSON) -> None:
        self.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nDate: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (status, _REASONS.get(status, b"Error"), kind, _date(int(time.time())), len(body), body)
        )

    def begin_stream(self) -> None:
        self.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nDate: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
            % _date(int(time.time()))
        )

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


@lru_cache(maxsize=2)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


class Fleet:
    """All clusters of this process, and the orders about them."""

    def __init__(self, names: list[str], teams: int, pods: int) -> None:
        self.counts = Counts()
        self._listening: list[
            tuple[asyncio.Server, int]
        ] = []  # a port is reserved as long as its number is kept
        self.clusters = [Cluster(n, name, teams, pods, self.counts) for n, name in enumerate(names, 1)]

    async def open(self, directory: Path) -> None:
        """Listen for each cluster, and write its kubeconfigs. One CA serves all of them."""
        loop, ca = asyncio.get_running_loop(), ClusterCa("stand-in")
        context = server_context(ca)
        for cluster in self.clusters:
            port = free_port()
            server = await loop.create_server(
                partial(Connection, cluster), "127.0.0.1", port, ssl=context, backlog=512
            )
            self._listening.append((server, port))
            for role, token in cluster.credentials.items():
                document = kubeconfig(
                    cluster=cluster.name,
                    server=f"https://127.0.0.1:{port}",
                    ca_pem=ca.pem,
                    user=role,
                    credential=token,
                )
                file = directory / f"{cluster.name}-{role}.kubeconfig"
                file.touch(mode=0o600)
                file.write_text(json.dumps(document))

    async def close(self) -> None:
        """Listen no longer."""
        for server, _ in self._listening:
            server.close()
        self._listening.clear()

    async def obey(self, order: Mapping[str, Any]) -> Any:
        """Do what one line says; the answer."""
        counts = self.counts
        match order["do"]:
            case "reset":
                counts.written.clear()
            case "written":
                return {"count": len(counts.written), "last": counts.last}
            case "watched":  # in how many clusters each resource is watched
                resources = self.clusters[0].watches
                return {each: sum(bool(c.watches[each]) for c in self.clusters) for each in resources}
            case "refuse":
                for cluster in self.clusters:
                    cluster.refused = frozenset(order["namespaces"])
            case "unanswered":
                return counts.unanswered
            case "requests":
                return counts.requests
            case _:
                raise ValueError(order)
        return None


async def serve(directory: Path, teams: int, pods: int, names: list[str]) -> None:
    fleet = Fleet(names, teams, pods)
    await fleet.open(directory)
    await obey_lines(fleet.obey, ready=len(names))


if __name__ == "__main__":
    allow_many_files()
    uvloop.run(serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
