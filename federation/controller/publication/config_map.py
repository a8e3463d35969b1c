"""The ConfigMap every workload's trust is mounted from: what it should be, what it is, and the difference.

Istio's own object (``istio-ca-root-cert``, key ``root-cert.pem``, label ``istio.io/config: "true"``), written by
server-side apply under the field manager ``federation-hub``. Force takes the key's ownership from its former
owner; other labels and annotations belong to others and stay. Other data keys do not: the object is what
workloads mount, and istio-csr wipes them as well. An apply cannot remove what another manager owns, so that
takes a merge patch of its own.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

import msgspec

from federation.core.config.hub import PublicationConfig
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue
from federation.core.identity import NO_HUB, NUMBER, HubIdentity, mark_in, number_in
from federation.core.trust.bundle import MAX_BUNDLE_BYTES
from federation.kubernetes.objects import (
    FIELD_MANAGER,
    Item,
    ManagedMeta,
    Payload,
    annotations_of,
    is_written_by,
    key_of,
    labels_of,
    managed_fields_of,
    owners_of,
)

APPLY: Final = "application/apply-patch+yaml"  # JSON is YAML
MERGE: Final = "application/merge-patch+json"
LABEL: Final = "istio.io/config"

MOST_EXTRA_KEYS: Final = 32
MOST_WRITERS: Final = 8
MOST_CONTENT_BYTES: Final = 4 * 1024 * 1024
"""Of contents that are not ours, for one cluster: a broken-into one cannot make the hub hold more."""


@dataclass(frozen=True, slots=True)
class Target:
    """What every selected namespace should hold. The body is serialised once for all of them."""

    name: str
    key: str
    generation: int
    created: float  # seconds since the epoch
    sha256: str
    body: bytes = field(repr=False)
    hub: HubIdentity = NO_HUB
    claim: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, generation: Generation, config: PublicationConfig, hub: HubIdentity = NO_HUB) -> Target:
        """The target of that generation, written by that hub. Raises InvalidValue where no object would hold it."""
        if len(generation.bundle_pem) > MAX_BUNDLE_BYTES:
            raise InvalidValue(
                f"a bundle of {len(generation.bundle_pem)} bytes does not fit into a ConfigMap"
            )
        marks = hub.annotations | {NUMBER: str(generation.number)} if hub.annotations else {}
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": config.config_map,
                "labels": {LABEL: "true"},
                **({"annotations": marks} if marks else {}),
            },
            "data": {config.key: generation.bundle_pem},
        }
        return cls(
            name=config.config_map,
            key=config.key,
            generation=generation.number,
            created=generation.created,
            sha256=generation.sha256,
            body=msgspec.json.encode(body),
            hub=hub,
            claim=msgspec.json.encode(
                body | {"metadata": {"name": config.config_map, "annotations": hub.annotations}, "data": {}}
            ),
        )

    @property
    def claimant(self) -> str:
        """The field manager of the claim: of this hub alone, so that the API server refuses a second hub's.

        All hubs write the content under one manager's name, and by force; two that did so with the mark would take
        it from one another (Kubernetes, "Server-Side Apply", Conflicts).
        """
        return f"{FIELD_MANAGER}-claim-{self.hub.id}"

    def is_met_by(self, observed: ObservedConfigMap | None) -> bool:
        """True where nothing would have to be written.

        What an earlier release of the hub has written, or an adopted hub, gets this hub's mark.
        """
        return (
            observed is not None
            and observed.sha256 == self.sha256
            and observed.labelled
            and not observed.extra
            and is_marked(self.hub, observed.hub, ours=observed.ours)
        )

    def path(self, namespace: str) -> str:
        """Where the object is in that namespace."""
        return f"/api/v1/namespaces/{namespace}/configmaps/{self.name}"


def is_marked(hub: HubIdentity, mark: str, *, ours: bool) -> bool:
    """Whether an object whose content is right needs no other mark; ``ours``: the field manager is the hub's.

    Another hub's mark stays: it is replaced with the object, or not at all.
    """
    if not hub.id or mark == hub.id or hub.is_other(mark):
        return True
    return not mark and not ours


class ObservedConfigMap(msgspec.Struct, frozen=True, gc=False):
    """What one namespace holds, as far as it matters; equal ones are one object in memory.

    ``sha256`` is the digest of the key's value, empty where there is none. ``extra`` are further keys, as
    ``data/<key>`` or ``binaryData/<key>``. ``writers`` are other field managers that own the key. ``ours``
    says that a hub has written the object: it still owns something of it, if only the label. ``hub`` is the identity
    of the one that says it did, ``generation`` the number that it wrote, 0 for none.
    """

    sha256: str
    labelled: bool
    extra: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()
    ours: bool = False
    hub: str = ""
    generation: int = 0


def wipe_body(extra: Iterable[str]) -> bytes:
    """A merge patch (RFC 7396) that removes these keys and touches nothing else."""
    body: dict[str, dict[str, None]] = {}
    for place in extra:
        section, _, key = place.partition("/")
        body.setdefault(section, {})[key] = None
    return msgspec.json.encode(body)


class Contents:
    """The distinct contents one cluster holds, by digest, within a bound; the oldest go first, and none of ``ours``."""

    def __init__(
        self, *, most_bytes: int = MOST_CONTENT_BYTES, ours: Callable[[str], bool] = lambda _: False
    ) -> None:
        self._most = most_bytes
        self._ours = ours
        self._bytes = 0
        self._kept: OrderedDict[str, str] = OrderedDict()
        self._last = ("", "")  # most namespaces hold the same: comparing is far cheaper than hashing

    def note(self, text: str) -> str:
        """The digest of the text, which is remembered."""
        last, digest = self._last
        if text == last and digest:
            return digest
        digest = sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        if digest in self._kept:
            self._kept.move_to_end(digest)
        else:
            self._kept[digest] = text
            self._bytes += len(text)
            if self._bytes > self._most:
                self._drop(digest)
        self._last = text, digest
        return digest

    def _drop(self, newest: str) -> None:
        for digest in [digest for digest in self._kept if digest != newest and not self._ours(digest)]:
            self._bytes -= len(self._kept.pop(digest))
            if self._bytes <= self._most:
                return

    def __contains__(self, digest: str) -> bool:
        return digest in self._kept

    def get(self, digest: str) -> bytes | None:
        """The content of that digest, None where it is not remembered any more."""
        text = self._kept.get(digest)
        return None if text is None else text.encode("utf-8", "surrogatepass")


class _ConfigMap(msgspec.Struct, rename="camel", gc=False):
    metadata: ManagedMeta
    data: dict[str, str] | None = None
    binary_data: dict[str, msgspec.Raw] | None = None


class ConfigMapDecoder:
    """Takes a ConfigMap apart for a reflector; contents go to ``contents``."""

    def __init__(self, key: str, contents: Contents) -> None:
        self._key = key
        self._contents = contents
        self._decode = msgspec.json.Decoder(_ConfigMap).decode
        self._shared: dict[ObservedConfigMap, ObservedConfigMap] = {}

    def __call__(self, payload: Payload) -> Item[ObservedConfigMap]:
        """The ConfigMap as an item. Raises msgspec.MsgspecError where it is none."""
        found = self._decode(payload)
        meta = found.metadata
        managed = managed_fields_of(meta)
        value = (found.data or {}).get(self._key)
        annotations = annotations_of(meta)
        observed = ObservedConfigMap(
            self._contents.note(value) if value is not None else "",
            labels_of(meta).get(LABEL) == "true",
            self._extra(found),
            tuple(sorted(owners_of(managed, "data", [self._key]))[:MOST_WRITERS]),
            is_written_by(managed),
            sys.intern(mark_in(annotations)),
            number_in(annotations),
        )
        if len(self._shared) > 10_000:
            self._shared.clear()
        return Item(key_of(meta), meta.resource_version, self._shared.setdefault(observed, observed))

    def _extra(self, found: _ConfigMap) -> tuple[str, ...]:
        if (
            len(found.data or ()) <= 1
            and not found.binary_data
            and (not found.data or self._key in found.data)
        ):
            return ()
        places = [f"data/{key}" for key in found.data or () if key != self._key]
        places += [f"binaryData/{key}" for key in found.binary_data or ()]
        return tuple(sorted(places)[:MOST_EXTRA_KEYS])
