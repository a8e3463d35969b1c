"""One document in a ConfigMap: its format, and the bounded calls to the API server that holds the state.

::

    data:
      header: federation-state/1 <mark> <encoding> <length> <sha256>
      document: <the document as it is>          encoding "plain"
    binaryData:
      document: <the document, zlib>             encoding "zlib"

Small documents stay readable (``kubectl get configmap NAME -o jsonpath='{.data.document}'``). Large ones are
compressed, which spares etcd most of it: what replicas report every few seconds repeats itself. ``mark`` is 32 random
hex digits, new with every write: by them a writer whose answer was lost distinguishes its own write from another's.
The checksum covers key, mark and data: what was edited by hand, cut, or restored under another document's name is
distinguished from a sound one.

Calls are tried again where that may help, and every failure is typed. Every write of the store carries a random mark
or a resourceVersion, so each may be sent twice: whether an earlier attempt had landed, its caller finds out by
reading.
"""

from __future__ import annotations

import random
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Protocol

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_before_delay

from federation.core.clock import Clock
from federation.core.documents.keys import StateDamaged, damaged, unknown_format
from federation.core.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterGone,
    ClusterNotFound,
    ClusterServerError,
    ClusterThrottled,
    ClusterTimeout,
    ClusterUnauthorized,
    ClusterUnreachable,
    ClusterWithheld,
    StateUnavailable,
)
from federation.state.record import FORMAT, MAGIC, MAX_DATA_BYTES
from federation.state.store import LeadershipLost, Stored

ATTEMPTS: Final = 3

FIRST_WAIT: Final = 0.1
"""Seconds, doubled with each attempt and jittered; a server that asks for more (429) gets it."""

GRANTS: Final = (
    "apply manifests/hub to the hub's cluster: its Roles grant what each role needs in that namespace"
)

CREDENTIALS: Final = "renew the credentials of [state], or mount the pod's service account token"

NOT_KUBERNETES: Final = (
    "something other than a Kubernetes API answers there: check the credentials of [state] and proxies"
)

MISSING: Final = "apply manifests/hub to the hub's cluster; if the namespace was lost, restore what was in it"

PLAIN_BYTES: Final = 16 * 1024
"""Up to this size a document is stored as it is: what a person wants to read is smaller than this."""

MAX_OBJECT_BYTES: Final = 900 * 1024
"""What an object may hold, in base64 where it is binary. Kubernetes refuses 1 MiB of values, etcd 1.5 MiB in all."""

MAX_COMPRESSED_BYTES: Final = MAX_OBJECT_BYTES // 4 * 3
KEY_ANNOTATION: Final = "federation-hub/key"

LABELS: Final[Mapping[str, str]] = {
    "app.kubernetes.io/managed-by": "federation-hub",
    "app.kubernetes.io/part-of": "federation-hub",
    "federation-hub/state": "document",
}
"""For people and their tools. The store itself finds documents by name: a label is too easily lost."""

_MAGIC: Final = MAGIC.decode()

_HEADER: Final = re.compile(
    rf"{_MAGIC}{FORMAT.decode()} ([0-9a-f]{{32}}) (plain|zlib) (\d{{1,8}}) ([0-9a-f]{{64}})"
)

_LEVEL: Final = 1  # reports shrink to a thirtieth with it, and the next level takes twice the time


@dataclass(frozen=True, slots=True)
class Draft:
    """A document on its way into its object: what differs between two objects is their metadata only."""

    mark: str
    data: dict[str, str]
    binary_data: dict[str, bytes]

    def body(self, *, key: str, name: str, version: str = "") -> bytes:
        """The object as JSON; with ``version`` one that replaces that version and no other."""
        metadata: dict[str, Any] = {"name": name, "labels": LABELS, "annotations": {KEY_ANNOTATION: key}}
        if version:
            metadata["resourceVersion"] = version
        return msgspec.json.encode(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": metadata,
                "data": self.data,
                "binaryData": self.binary_data,
            }
        )


@dataclass(frozen=True, slots=True)
class Found:
    """An object as it was read: its version, and what it holds, still to be checked."""

    name: str
    version: str
    data: Mapping[str, str]
    binary_data: Mapping[str, bytes]

    @property
    def mark(self) -> str:
        """Which write made it, as far as its header can be read."""
        match = _HEADER.fullmatch(self.data.get("header", ""))
        return match[1] if match else ""


class _Metadata(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str


class _ConfigMap(msgspec.Struct, rename="camel"):
    kind: str
    metadata: _Metadata
    data: dict[str, str] | None = None
    binary_data: dict[str, bytes] | None = None


_config_map = msgspec.json.Decoder(_ConfigMap)


def pack(key: str, mark: str, data: bytes) -> Draft:
    """The document's content; raises StateUnavailable for more than an object holds."""
    if len(data) > MAX_DATA_BYTES:
        raise _too_large(key, f"{len(data)} bytes, and the store takes {MAX_DATA_BYTES}")
    text = _as_text(data)
    encoding = "zlib" if text is None else "plain"
    header = f"{_MAGIC}{FORMAT.decode()} {mark} {encoding} {len(data)} {_digest(key, mark, data)}"
    if text is not None:
        return Draft(mark, {"header": header, "document": text}, {})
    compressed = zlib.compress(data, _LEVEL)
    if len(compressed) > MAX_COMPRESSED_BYTES:
        raise _too_large(
            key,
            f"{len(data)} bytes, {len(compressed)} compressed, and an object takes {MAX_COMPRESSED_BYTES}",
        )
    return Draft(mark, {"header": header}, {"document": compressed})


def opened(answer: bytes, *, name: str, where: str) -> Found:
    """The object in an API server's answer; raises StateUnavailable where it is not that object."""
    try:
        found = _config_map.decode(answer)
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise _garbage(str(error)[:200], where) from None
    if found.kind != "ConfigMap" or found.metadata.name != name or not found.metadata.resource_version:
        raise _garbage("it is another object", where)
    return Found(
        found.metadata.name, found.metadata.resource_version, found.data or {}, found.binary_data or {}
    )


def unpack(key: str, found: Found, *, where: str) -> Stored:
    """The document in an object; raises StateDamaged naming the object where it is damaged."""
    header = found.data.get("header", "")
    if header.startswith(_MAGIC) and not header.startswith(f"{_MAGIC}{FORMAT.decode()} "):
        raise unknown_format(where)
    match = _HEADER.fullmatch(header)
    if match is None:
        raise _damaged("its header cannot be read", key, where)
    mark, encoding, length, digest = match[1], match[2], int(match[3]), match[4]
    data = _content(key, found, encoding, length, where)
    if len(data) != length:
        raise _damaged(f"it holds {len(data)} bytes of {length}", key, where)
    if _digest(key, mark, data) != digest:
        raise _damaged("its checksum does not match", key, where)
    return Stored(data=data, version=found.version)


def _as_text(data: bytes) -> str | None:
    if len(data) > PLAIN_BYTES:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def _content(key: str, found: Found, encoding: str, length: int, where: str) -> bytes:
    if encoding == "plain":
        text = found.data.get("document")
        if text is None:
            raise _damaged("it holds no document", key, where)
        return text.encode()
    compressed = found.binary_data.get("document")
    if compressed is None:
        raise _damaged("it holds no document", key, where)
    if length > MAX_DATA_BYTES:
        raise _damaged(f"{length} bytes are more than the store takes", key, where)
    inflater = zlib.decompressobj()
    try:  # no more than is promised, whatever was put there
        data = inflater.decompress(compressed, length + 1)
    except zlib.error:
        raise _damaged("it cannot be decompressed", key, where) from None
    if not inflater.eof or inflater.unused_data:
        raise _damaged("its compressed content is not what was written", key, where)
    return data


def _digest(key: str, mark: str, data: bytes) -> str:
    return sha256(b"%s\0%s\0%s" % (key.encode(), mark.encode(), data)).hexdigest()


def _too_large(key: str, how: str) -> StateUnavailable:
    return StateUnavailable(
        f"the document is too large for a Kubernetes object: {how}",
        where=key,
        remedy='keep the state in files ([state] kind = "files", manifests/volume), or run fewer clusters per hub',
    )


def _damaged(what: str, key: str, where: str) -> StateDamaged:
    namespace, _, name = where.removeprefix("ConfigMap ").partition("/")
    first = (
        "find out who wrote to it, in the hub's cluster: "
        f"`kubectl -n {namespace} get configmap {name} -o yaml --show-managed-fields`"
    )
    return damaged(what, key=key, where=where, first=first)


def _garbage(what: str, where: str) -> StateUnavailable:
    return StateUnavailable(
        f"the answer is not the ConfigMap that was requested: {what}",
        where=where,
        remedy=NOT_KUBERNETES,
    )


class KubernetesApi(Protocol):
    """What is needed of a session with a cluster. Raises ClusterErrors and nothing else."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | None = None,
        permitted: Callable[[], bool] | None = None,
    ) -> bytes:
        """The body of a 2xx answer, within ``timeout`` seconds.

        A write is not sent where ``permitted`` is false by the time that it could be: ClusterWithheld.
        """
        ...


class StateThrottled(StateUnavailable):
    """The API server asks for a wait of ``retry_after`` seconds, more than the call could wait."""

    def __init__(self, what: str, *, where: str, remedy: str, retry_after: float) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.retry_after = retry_after


class StoreCalls:
    """The calls of one store. ``timeout`` in seconds for one request, ``budget`` for all attempts at it.

    ``permitted`` says whether this process may still write; each attempt asks (default: it may always).
    """

    def __init__(
        self,
        api: KubernetesApi,
        clock: Clock,
        *,
        timeout: float,
        budget: float,
        jitter: random.Random,
        permitted: Callable[[], bool] | None = None,
    ) -> None:
        self._permitted = permitted
        self._api = api
        self._clock = clock
        self._timeout = timeout
        self._budget = budget
        self._jitter = jitter

    async def call(
        self,
        method: str,
        path: str,
        *,
        where: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accept: str = "application/json",
    ) -> bytes:
        """The answer. Raises ClusterNotFound, ClusterConflict and ClusterGone as they come, else StateUnavailable."""
        attempts = AsyncRetrying(
            sleep=self._clock.sleep,
            retry=retry_if_exception(_may_pass),
            wait=self._wait,
            stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(self._budget),
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    return await self._api.request(
                        method,
                        path,
                        params=params,
                        body=body,
                        accept=accept,
                        timeout=self._timeout,
                        permitted=None if method == "GET" else self._permitted,
                    )
        except (ClusterNotFound, ClusterConflict, ClusterGone):
            raise
        except ClusterThrottled as error:
            raise StateThrottled(
                error.what, where=where, remedy=error.remedy, retry_after=error.retry_after
            ) from error
        except ClusterWithheld as error:
            raise LeadershipLost(where=where) from error
        except ClusterError as error:
            raise StateUnavailable(error.what, where=where, remedy=_remedy(error)) from error
        raise AssertionError("an attempt returns or raises")

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ClusterThrottled):
            return error.retry_after
        return FIRST_WAIT * 2.0 ** (state.attempt_number - 1) * (0.5 + self._jitter.random())


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ClusterUnreachable):
        return error.reason != "tls"
    # Garbage: above all an answer that was cut short, of a request that may have been carried out.
    return isinstance(error, (ClusterTimeout, ClusterThrottled, ClusterServerError, ClusterGarbage))


def _remedy(error: ClusterError) -> str:
    match error:
        case ClusterForbidden():
            return GRANTS
        case ClusterUnauthorized():
            return CREDENTIALS
        case ClusterUnreachable():
            return "check the server address and certificate authority of [state], and the network path"
        case ClusterServerError() if error.remedy != ClusterServerError.default_remedy:
            return error.remedy  # it knows more: a webhook there cannot be called
        case ClusterTimeout() | ClusterServerError():
            return "check the API server of the hub's cluster; the hub keeps trying"
        case _:
            return error.remedy
