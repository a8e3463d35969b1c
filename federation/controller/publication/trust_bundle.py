"""The ClusterTrustBundle of one cluster: what it should be, what it is, and what that means to status and gates. Pure.

Pods mount it in the place of the ConfigMap where ``ENABLE_CLUSTER_TRUST_BUNDLE_API`` is set, and others as they like,
so what it holds is trusted there. It is published where the cluster serves the API and the hub may write it; where it
exists it counts in every gate, even if the hub did not write it. One that was seen once and cannot be read now counts
as unknown: pods may still have mounted its content. The operator's way out is ``cluster_trust_bundle = "off"``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, Literal, TypeAlias

import msgspec

from federation.clusters.objects import Item, MarkedMeta, Payload, annotations_of, key_of
from federation.clusters.trust_bundles import GROUP, KIND, MANIFESTS, SIGNER, collection, trust_bundle_name
from federation.clusters.writers import FIELD_MANAGER, stop_writers
from federation.controller.publication.config_map import (
    MOST_MANAGED_BYTES,
    MOST_WRITERS,
    Contents,
    Held,
    is_marked,
)
from federation.controller.publication.joining import MemberFacts
from federation.controller.publication.read_back import KEPT, YIELDED
from federation.core.config.model import PublicationConfig
from federation.core.errors import ClusterError, ClusterForbidden
from federation.core.hub_identity import NO_HUB, HubIdentity, mark_in
from federation.state.documents import Generation

State: TypeAlias = Literal["off", "not_served", "forbidden", "pending", "current", "contested", "unknown"]

APPLY: Final = f"apply {MANIFESTS} to that cluster"
JOIN: Final = "`federation clusters join` shows the next step for this cluster"
OFF: Final = 'set cluster_trust_bundle = "off" in its [clusters.istio]'


@dataclass(frozen=True, slots=True)
class BundleTarget:
    """What the object should hold."""

    name: str
    sha256: str
    pem: str = field(repr=False)
    hub: HubIdentity = NO_HUB

    @classmethod
    def of(cls, generation: Generation, config: PublicationConfig, hub: HubIdentity = NO_HUB) -> BundleTarget:
        """The target of that generation, written by that hub."""
        return cls(trust_bundle_name(config.config_map), generation.sha256, generation.bundle_pem, hub)

    def is_met_by(self, held: HeldBundle | None) -> bool:
        """True where nothing would have to be written. The signer cannot differ: the name begins with it."""
        return (
            held is not None and held.sha256 == self.sha256 and is_marked(self.hub, held.hub, ours=held.ours)
        )

    def path(self, version: str) -> str:
        """Where the object is, in that version of the API."""
        return f"{collection(version)}/{self.name}"

    def body(self, version: str) -> bytes:
        """The configuration to apply, in that version of the API."""
        return msgspec.json.encode(
            {
                "apiVersion": f"{GROUP}/{version}",
                "kind": KIND,
                "metadata": {
                    "name": self.name,
                    **({"annotations": self.hub.annotations} if self.hub.annotations else {}),
                },
                "spec": {"signerName": SIGNER, "trustBundle": self.pem},
            }
        )


class HeldBundle(msgspec.Struct, frozen=True, gc=False):
    """What the object holds: the digest of its certificates, who else owns them, and whether a hub wrote it, which."""

    sha256: str
    writers: tuple[str, ...] = ()
    ours: bool = False
    hub: str = ""

    def as_held(self) -> Held:
        """The same as of a namespace's ConfigMap."""
        return Held(self.sha256, labelled=True, writers=self.writers, ours=self.ours, hub=self.hub)


class _OwnedSpec(msgspec.Struct, gc=False):
    spec: dict[str, msgspec.Raw] = msgspec.field(name="f:spec", default_factory=dict)


class _Managed(msgspec.Struct, gc=False):
    manager: str = ""
    fields: _OwnedSpec | None = msgspec.field(name="fieldsV1", default=None)


class _Meta(MarkedMeta, rename="camel", gc=False):
    managed_fields: msgspec.Raw = msgspec.Raw()


_decode_managed: Final = msgspec.json.Decoder(list[_Managed] | None).decode


def _managed(meta: _Meta) -> list[_Managed]:
    """Who owns what of it; nobody that is known where there is more of that than an API server keeps."""
    if not 0 < len(memoryview(meta.managed_fields)) <= MOST_MANAGED_BYTES:
        return []
    return _decode_managed(meta.managed_fields) or []


class _Spec(msgspec.Struct, rename="camel", gc=False):
    trust_bundle: str = ""


class _Bundle(msgspec.Struct, gc=False):
    metadata: _Meta
    spec: _Spec = msgspec.field(default_factory=_Spec)


class BundleDecoder:
    """Takes a ClusterTrustBundle apart for a reflector; contents go to ``contents``."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._decode = msgspec.json.Decoder(_Bundle).decode

    def __call__(self, payload: Payload) -> Item[HeldBundle]:
        """The object as an item. Raises msgspec.MsgspecError where it is none."""
        found = self._decode(payload)
        meta = found.metadata
        managed = _managed(meta)
        held = HeldBundle(
            self._contents.note(found.spec.trust_bundle),
            _writers(managed),
            any(entry.manager == FIELD_MANAGER for entry in managed),
            mark_in(annotations_of(meta)),
        )
        return Item(key_of(meta), meta.resource_version, held)


def _writers(managed: Iterable[_Managed]) -> tuple[str, ...]:
    names = {
        entry.manager[:128]
        for entry in managed
        if entry.manager != FIELD_MANAGER
        and entry.fields is not None
        and "f:trustBundle" in entry.fields.spec
    }
    return tuple(sorted(names)[:MOST_WRITERS])


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What is known of the object now.

    ``version`` is the served version, "" for none, None where that was not learned yet; ``problem`` is why the API was
    not asked or the object not read. ``readable``: it was listed, and its watch is open and not silent. ``refusal`` is
    why the last write failed. ``kept`` and ``yielded``: what it holds stays for now, because it is a CA of the
    cluster's own that is not accepted, or because its writer would put it back. ``known``: it was seen there once, by
    this controller or by an earlier one.
    """

    version: str | None = None
    problem: ClusterError | None = None
    readable: bool = False
    held: HeldBundle | None = None
    met: bool = False
    refusal: ClusterError | None = None
    kept: bool = False
    yielded: bool = False
    contested: bool = False
    writers: tuple[str, ...] = ()
    known: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleStatus:
    """What is reported of it; ``counted`` where gates have to count it."""

    state: State
    counted: bool = False
    detail: str = ""
    remedy: str = ""


SWITCHED_OFF: Final = BundleStatus(state="off", detail="the configuration says so")


def judge(seen: Observed) -> BundleStatus:
    """The state of the object."""
    if isinstance(seen.problem, ClusterForbidden) and not seen.readable:
        return _unreadable(seen.problem, known=seen.known)
    if seen.version is None:
        why = seen.problem.what if seen.problem is not None else "the cluster was not asked yet"
        remedy = seen.problem.remedy if seen.problem is not None else ""
        return _unknown(f"whether it serves ClusterTrustBundles is not known: {why}", remedy)
    if not seen.version:
        if not seen.known:
            return BundleStatus(state="not_served", detail="the cluster serves no ClusterTrustBundles")
        why = (
            "it was there, and the cluster does not serve the API any more: pods may still hold what it held"
        )
        return _unknown(why, f"serve the API again; or, once no pod mounts it, {OFF}")
    if not seen.readable:
        why = seen.problem.what if seen.problem is not None else "it is being listed, or its watch is silent"
        return _unknown(f"it is not read back: {why}", seen.problem.remedy if seen.problem else "")
    return _missing(seen) if seen.held is None else _there(seen)


def _unknown(detail: str, remedy: str) -> BundleStatus:
    return BundleStatus(state="unknown", counted=True, detail=detail, remedy=remedy)


def _unreadable(problem: ClusterError, *, known: bool) -> BundleStatus:
    if known:
        return _unknown(
            f"it was there, and the hub may not read it any more: {problem.what}", f"{APPLY}, or {OFF}"
        )
    return BundleStatus(
        state="forbidden", detail=f"the hub may not read it: {problem.what}", remedy=f"{APPLY}, or {OFF}"
    )


def _missing(seen: Observed) -> BundleStatus:
    if isinstance(seen.refusal, ClusterForbidden):
        return BundleStatus(
            state="forbidden",
            counted=seen.known,
            detail=f"the cluster serves ClusterTrustBundles, and the hub may not make it: {seen.refusal.what}",
            remedy=f"{APPLY}, or {OFF}",
        )
    return _pending(seen, "it is not there yet", counted=seen.known)


def _there(seen: Observed) -> BundleStatus:
    others = ", ".join(seen.writers) or "another writer"
    if seen.contested:
        return BundleStatus(
            state="contested",
            counted=True,
            detail=f"{others} keeps rewriting it",
            remedy=stop_writers(seen.writers),
        )
    if seen.met:
        return BundleStatus(state="current", counted=True)
    if seen.kept:
        return BundleStatus(
            state="pending",
            counted=True,
            detail=KEPT,
            remedy="`federation trust list` names the CA: accept it, or set own_anchors for this cluster",
        )
    if seen.yielded:
        return BundleStatus(state="pending", counted=True, detail=f"{YIELDED}: {others}", remedy=JOIN)
    if isinstance(seen.refusal, ClusterForbidden):
        return BundleStatus(
            state="forbidden",
            counted=True,
            detail=f"it holds another bundle than the one in force, and the hub may not write it: {seen.refusal.what}",
            remedy=f"{APPLY}; or, once no pod mounts it, {OFF}",
        )
    return _pending(seen, "it holds another bundle than the one in force", counted=True)


def _pending(seen: Observed, what: str, *, counted: bool) -> BundleStatus:
    refusal = seen.refusal
    detail = f"{what}: {refusal.what}" if refusal is not None else what
    remedy = refusal.remedy if refusal is not None else ""
    return BundleStatus(state="pending", counted=counted, detail=detail, remedy=remedy)


def with_bundle(
    facts: MemberFacts,
    name: str,
    status: BundleStatus,
    *,
    met: bool,
    anchors: frozenset[str] | None,
    read_back_at: float,
) -> MemberFacts:
    """What a cluster holds, the object counted as one more place where its trust comes from.

    ``anchors`` are those in the object, None where it is not there; ``met`` is as in :class:`Observed`.
    """
    if not status.counted or facts.held is None:
        return facts
    if status.state == "unknown":
        detail = f"ClusterTrustBundle {name}: {status.detail}"
        return replace(facts, held=None, current=False, detail=detail)
    if met:
        detail = f"{facts.detail}; so does ClusterTrustBundle {name}"
    else:
        detail = f"{facts.detail}; ClusterTrustBundle {name} does not: {status.detail}"
    return replace(
        facts,
        held=facts.held & (anchors or frozenset()),
        current=facts.current and met,
        read_back_at=min(facts.read_back_at, read_back_at),
        detail=detail,
    )
