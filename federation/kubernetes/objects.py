"""What the hub keeps of a watched object, how watch lines and list pages are decoded, and who else writes one.

Only metadata is asked for where only metadata is needed: the API server then sends a tenth of the bytes and nothing
that would have to be kept secret. The structs are typed, so anything else in their place is refused while it is
decoded. Objects are flat, strings that repeat are interned, and labels are kept only where asked for: a cluster that
has been broken into can make the hub hold many small objects, but no large ones.

Who else writes the bundle's ConfigMap follows from what Kubernetes records (``metadata.managedFields``) and what hubs
leave on it.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from federation.core.errors import ClusterGarbage
from federation.core.identity import mark_in
from federation.kubernetes.answers import harmless
from federation.kubernetes.session import ClusterSession

METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
"""``accept`` for one object or a watch of them (Kubernetes API concepts, "Metadata-only fetches")."""

METADATA_ONLY_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
"""``accept`` for a list."""

MAX_LABEL_VALUE: Final = 63

T = TypeVar("T")

Payload: TypeAlias = bytes | msgspec.Raw
"""The JSON of one object; a Raw is a view into the answer it came in, and must not be kept."""


class ObjectKey(NamedTuple):
    """Where an object is: ``namespace`` is empty for cluster-scoped objects."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Item(NamedTuple, Generic[T]):
    """A decoded object: its key, its version, and what is kept of it."""

    key: ObjectKey
    resource_version: str
    value: T


Decode: TypeAlias = Callable[[Payload], Item[T]]
"""Takes an object apart; raises :class:`msgspec.MsgspecError` where it is not one."""


def pack_uid(uid: str) -> bytes:
    """A UID as it is kept: 16 bytes for one that Kubernetes made (RFC 9562), more for any other."""
    return bytes.fromhex(uid.replace("-", "")) if _UUID(uid) else _OTHER + uid.encode()


_UUID_BYTES: Final = 16
_OTHER: Final = bytes(_UUID_BYTES + 1)  # longer than a UUID: neither is taken for the other


def _uuid(digits: str) -> str:
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


_UUID: Final = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").fullmatch


class ObjectMeta(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The metadata of one object. ``deletion`` is its deletionTimestamp in seconds since the epoch.

    A signer keeps one of these for every pod of the mesh, a million in a large one: so the UID is packed.
    """

    namespace: str
    name: str
    packed_uid: bytes
    deletion: float | None = None
    label_pairs: tuple[tuple[str, str], ...] = ()

    @property
    def uid(self) -> str:
        """The UID as the API server writes it."""
        packed = self.packed_uid
        return _uuid(packed.hex()) if len(packed) == _UUID_BYTES else packed[len(_OTHER) :].decode()

    @property
    def labels(self) -> dict[str, str]:
        """The labels that the decoder was made to keep."""
        return dict(self.label_pairs)


class PodMeta(ObjectMeta, frozen=True, gc=False, array_like=True):
    """The metadata of a pod, with what Istio's annotations say that it is; their text is not kept.

    ``created`` is its creationTimestamp in seconds since the epoch, 0 where it has none.
    """

    created: float = 0.0
    sidecar: bool = False  # sidecar.istio.io/status: a proxy was injected (istio pkg/kube/inject/webhook.go)
    ambient: bool = False  # ambient.istio.io/redirection: enabled (istio cni/pkg/util/podutil.go)


# Limits of Kubernetes' own validation: RFC 1123 names of at most 253 bytes, labels of at most 63.
_Name: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_Namespace: TypeAlias = Annotated[str, msgspec.Meta(max_length=63)]
_SomeVersion: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=128)]
_Opaque: TypeAlias = Annotated[str, msgspec.Meta(max_length=128)]


class WireMeta(msgspec.Struct, rename="camel", gc=False):
    """``metadata`` as it comes over the wire; for decoders of whole objects as well."""

    name: _Name
    resource_version: _SomeVersion
    namespace: _Namespace = ""
    uid: _Opaque = ""
    deletion_timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    labels: msgspec.Raw = msgspec.Raw()  # see labels_of


MAX_LABELS_BYTES: Final = 64 * 1024
"""Of the labels of one object: hundreds of the longest. Beyond, it counts as having none."""


def labels_of(meta: WireMeta) -> dict[str, str]:
    """The labels of an object; none where there are far too many, which a hostile API server could send."""
    if not 0 < len(memoryview(meta.labels)) <= MAX_LABELS_BYTES:
        return {}
    return _decode_labels(meta.labels) or {}


_decode_labels: Final = msgspec.json.Decoder(dict[str, str] | None).decode


class MarkedMeta(WireMeta, rename="camel", gc=False):
    """The same with annotations, for objects that bear the mark of the hub that wrote them."""

    annotations: msgspec.Raw = msgspec.Raw()  # see annotations_of


MAX_ANNOTATIONS_BYTES: Final = 6 * 256 * 1024 + 64 * 1024
"""Of the annotations of one object, as JSON. Kubernetes takes 256 KiB of them, and Go writes some characters as six
(``<`` is one). Beyond, it counts as having none."""


def annotations_of(meta: MarkedMeta) -> dict[str, object]:
    """The annotations of an object; none where there are more than an API server takes."""
    if not 0 < len(memoryview(meta.annotations)) <= MAX_ANNOTATIONS_BYTES:
        return {}
    return _decode_annotations(meta.annotations) or {}


_decode_annotations: Final = msgspec.json.Decoder(dict[str, object] | None).decode


class _WireObject(msgspec.Struct, gc=False):
    metadata: WireMeta


def key_of(meta: WireMeta) -> ObjectKey:
    """The key, its namespace interned: thousands of objects share a few hundred of them."""
    return ObjectKey(sys.intern(meta.namespace), sys.intern(meta.name))


def metadata_decoder(labels: Collection[str] = ()) -> Decode[ObjectMeta]:
    """A decoder that keeps only the labels named, and no value that Kubernetes would refuse."""
    kept = frozenset(labels)
    decode = msgspec.json.Decoder(_WireObject).decode

    def item(payload: Payload) -> Item[ObjectMeta]:
        meta = decode(payload).metadata
        key = key_of(meta)
        pairs: tuple[tuple[str, str], ...] = ()
        if kept:
            pairs = tuple(
                (sys.intern(k), sys.intern(v))
                for k, v in sorted(labels_of(meta).items())
                if k in kept and len(v) <= MAX_LABEL_VALUE
            )
        deletion = meta.deletion_timestamp.timestamp() if meta.deletion_timestamp else None
        value = ObjectMeta(key.namespace, key.name, pack_uid(meta.uid), deletion, pairs)
        return Item(key, meta.resource_version, value)

    return item


decode_metadata: Final = metadata_decoder()
"""Metadata without labels."""


AMBIENT_ENABLED: Final = "enabled"


class _PodAnnotations(msgspec.Struct, gc=False):
    """Those two and no other one: what an application writes there is not even decoded."""

    sidecar: msgspec.Raw = msgspec.field(name="sidecar.istio.io/status", default=msgspec.Raw())
    ambient: str = msgspec.field(name="ambient.istio.io/redirection", default="")


class _WirePodMeta(WireMeta, rename="camel", gc=False):
    creation_timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    annotations: _PodAnnotations | None = None


class _WirePod(msgspec.Struct, gc=False):
    metadata: _WirePodMeta


_decode_wire_pod: Final = msgspec.json.Decoder(_WirePod).decode


def decode_pod(payload: Payload) -> Item[PodMeta]:
    """A pod's metadata without labels."""
    meta = _decode_wire_pod(payload).metadata
    key = ObjectKey(
        sys.intern(meta.namespace), meta.name
    )  # names of pods do not repeat: the table would only grow
    marks = meta.annotations or _NO_ANNOTATIONS
    value = PodMeta(
        key.namespace,
        key.name,
        pack_uid(meta.uid),
        meta.deletion_timestamp.timestamp() if meta.deletion_timestamp else None,
        created=meta.creation_timestamp.timestamp() if meta.creation_timestamp else 0.0,
        sidecar=bool(marks.sidecar),
        ambient=marks.ambient == AMBIENT_ENABLED,
    )
    return Item(key, meta.resource_version, value)


_NO_ANNOTATIONS: Final = _PodAnnotations()


class WatchEvent(msgspec.Struct, gc=False):
    """One line of a watch (``meta/v1.WatchEvent``), its object still encoded."""

    type: str
    object: msgspec.Raw


class _ListMeta(msgspec.Struct, rename="camel", gc=False):
    resource_version: _SomeVersion
    continue_: Annotated[str, msgspec.Meta(max_length=64 * 1024)] = msgspec.field(name="continue", default="")


class ListPage(msgspec.Struct):
    """One page of a list, its objects still encoded."""

    metadata: _ListMeta
    items: list[msgspec.Raw] | None = None  # Go's API machinery writes null for an empty slice
    kind: str = ""


decode_event: Final = msgspec.json.Decoder(WatchEvent).decode
decode_page: Final = msgspec.json.Decoder(ListPage).decode


class _Version(msgspec.Struct, rename="camel", gc=False):
    resource_version: _SomeVersion


class _Versioned(msgspec.Struct, gc=False):
    metadata: _Version


_decode_versioned: Final = msgspec.json.Decoder(_Versioned).decode


def decode_version(payload: Payload) -> str:
    """The resourceVersion of an object without a name: what a bookmark is."""
    return _decode_versioned(payload).metadata.resource_version


FIELD_MANAGER: Final = "federation-hub"
"""The field manager of the hub's server-side applies; a field that another manager owns is not the hub's."""

MAX_PAGES: Final = 100
MAX_NAME: Final = 128  # Kubernetes allows no longer field manager
MOST_MANAGED_BYTES: Final = 768 * 1024
"""Of one object's managedFields. Beyond, its writers count as unknown: no API server keeps so much for one object."""


class OwnedFields(msgspec.Struct, gc=False):
    """What one manager owns of an object, as ``f:<field>`` (FieldsV1); a section that is odd counts as none of it."""

    data: Any = msgspec.field(name="f:data", default=None)
    spec: Any = msgspec.field(name="f:spec", default=None)


class ManagedFields(msgspec.Struct, gc=False):
    """One entry of ``managedFields``: who owns which fields."""

    manager: str = ""
    subresource: str = ""
    fields: OwnedFields | None = msgspec.field(name="fieldsV1", default=None)

    def owns_any(self, section: Literal["data", "spec"], fields: Iterable[str]) -> bool:
        """Whether it owns one of these fields of that section, itself and not by a subresource."""
        if self.fields is None or self.subresource:
            return False
        owned = self.fields.data if section == "data" else self.fields.spec
        return isinstance(owned, dict) and any(f"f:{field}" in owned for field in fields)


class ManagedMeta(MarkedMeta, rename="camel", gc=False):
    """The same with who owns what, for objects that others may write as well."""

    managed_fields: msgspec.Raw = msgspec.Raw()  # see managed_fields_of


def managed_fields_of(meta: ManagedMeta) -> list[ManagedFields]:
    """Who owns what of an object; nothing where there is more of that than an API server stores."""
    if not 0 < len(memoryview(meta.managed_fields)) <= MOST_MANAGED_BYTES:
        return []
    return _decode_managed(meta.managed_fields) or []


_decode_managed: Final = msgspec.json.Decoder(list[ManagedFields] | None).decode


class _ManagedObject(msgspec.Struct, gc=False):
    metadata: ManagedMeta


_decode_managed_object: Final = msgspec.json.Decoder(_ManagedObject).decode


def is_written_by(managed: Iterable[ManagedFields], manager: str = FIELD_MANAGER) -> bool:
    """Whether that manager still owns something of the object."""
    return any(entry.manager == manager for entry in managed)


ISTIOD: Final = "pilot-discovery"
"""The field manager of istiod, while its CA is on."""


def stop_writers(writers: Collection[str]) -> str:
    """What ends that others than the hub write what it writes: istiod by its setting, others where they run."""
    others = sorted({harmless(writer) for writer in writers if not writer.startswith(ISTIOD)})
    ways = ["set ENABLE_CA_SERVER=false in istiod"] if any(w.startswith(ISTIOD) for w in writers) else []
    if others:
        ways.append(
            f"stop what writes there as {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
        )
    return ", and ".join(ways) or "find what else writes it there, and stop that"


def owners_of(
    managed: Iterable[ManagedFields],
    section: Literal["data", "spec"],
    fields: Collection[str],
    *,
    ours: str = FIELD_MANAGER,
) -> set[str]:
    """The managers, other than ``ours``, that own one of these fields; their names interned, they repeat."""
    return {
        sys.intern(entry.manager[:MAX_NAME])
        for entry in managed
        if entry.manager != ours and entry.owns_any(section, fields)
    }


@dataclass(frozen=True, slots=True)
class Writers:
    """Who writes it, with the number of namespaces: ``others`` by their field managers, ``hubs`` by their identities.

    The identity is empty for a hub that left none.
    """

    others: Counter[str] = field(default_factory=Counter)
    hubs: Counter[str] = field(default_factory=Counter)


async def find_writers(
    session: ClusterSession, *, config_map: str, key: str, ours: str = FIELD_MANAGER
) -> Writers:
    """Each other manager that owns the key, and each hub that wrote the object. Raises ClusterErrors."""
    found = Writers()
    params = {"fieldSelector": f"metadata.name={config_map}", "limit": "500"}
    for _ in range(MAX_PAGES):
        answer = await session.get("/api/v1/configmaps", params=params, accept=METADATA_ONLY_LIST)
        try:
            page = decode_page(answer)
            for raw in page.items or ():
                meta = _decode_managed_object(raw).metadata
                managed = managed_fields_of(meta)
                found.others.update(owners_of(managed, "data", [key], ours=ours))
                if is_written_by(managed, ours):
                    found.hubs[mark_in(annotations_of(meta))] += 1
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            problem = f"list of {config_map} is not what the API promises: {error}"
            raise ClusterGarbage(problem, where=str(session.name)) from None
        if not page.metadata.continue_:
            break
        params["continue"] = page.metadata.continue_
    return found
