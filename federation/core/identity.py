"""Trust domains, SPIFFE IDs, cluster names and the hub's own identity: values that cannot be wrong once made.

Rules come from the SPIFFE-ID specification (section 2: trust domain and path character sets, 255 and 2048 byte
limits) and from Kubernetes' object names (RFC 1123 label for namespaces, RFC 1123 subdomain for service accounts and
nodes; its ``IsDNS1123Subdomain`` limits a name to 253 characters and no single label of it). Both are applied at
once, so an identity made here is valid in both worlds and holds no character that a naive consumer could split on: no
comma, no space, no percent sign, no empty or dot segment.

The hub's identity says which hub an object in a member cluster belongs to: each hub draws one once and writes it on
its objects. A field manager's name says that *a* hub wrote an object, not which one. Two hubs with different roots
that take each other's objects for their own overwrite one another for ever, and workloads trust now the one and now
the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self

from federation.core.errors import InvalidValue

MAX_TRUST_DOMAIN_BYTES: Final = 255
MAX_SPIFFE_ID_BYTES: Final = 2048
MAX_SUBDOMAIN_CHARACTERS: Final = 253

_TRUST_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.ASCII)
_CLUSTER_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._:/-]{0,251}[A-Za-z0-9])?", re.ASCII)
_SPIFFE = re.compile(r"spiffe://([^/]+)/ns/([^/]+)/sa/([^/]+)", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class TrustDomain:
    """A SPIFFE trust domain name, lower case, at most 255 bytes. Raises :class:`InvalidValue`."""

    name: str

    def __post_init__(self) -> None:
        if len(self.name) > MAX_TRUST_DOMAIN_BYTES or not _TRUST_DOMAIN.fullmatch(self.name):
            raise InvalidValue(
                f"{self.name[:80]!r} is not a trust domain",
                remedy="use lower-case letters, digits, '.', '-' and '_', for example mesh.example.org",
            )

    def __str__(self) -> str:
        return self.name


def another_mesh(trust_domain: TrustDomain | str) -> str:
    """What an operator does who meant to give another trust domain to a mesh of this one."""
    return (
        f"put trust_domain = {str(trust_domain)!r} back; for another mesh run a hub of its own, with a state of its own"
        " ([state]) and roots of its own, and move clusters to it one by one"
    )


@dataclass(frozen=True, slots=True, order=True)
class ClusterName:
    """The name an operator gives a member cluster: an RFC 1123 label. Raises :class:`InvalidValue`."""

    value: str

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.value):
            raise InvalidValue(
                f"{self.value[:80]!r} is not a cluster name",
                remedy="use at most 63 lower-case letters, digits and '-', starting and ending with a letter or digit",
            )

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class ClusterId:
    """Istio's ``global.multiCluster.clusterName``: what workloads send as ``clusterid``. Raises InvalidValue."""

    value: str

    def __post_init__(self) -> None:
        if not _CLUSTER_ID.fullmatch(self.value):
            raise InvalidValue(
                f"{self.value[:80]!r} is not a cluster ID",
                remedy="the hub takes at most 253 letters, digits and '.', '_', ':', '/', '-', the first and last no "
                "sign: set global.multiCluster.clusterName of that mesh to such a name, and register it",
            )

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class ServiceAccountRef:
    """A namespace and a service account in it, by Kubernetes' naming rules. Raises :class:`InvalidValue`."""

    namespace: str
    name: str

    def __post_init__(self) -> None:
        if not _LABEL.fullmatch(self.namespace):
            raise InvalidValue(f"{self.namespace[:80]!r} is not a namespace name (RFC 1123 label)")
        if not is_subdomain(self.name):
            raise InvalidValue(f"{self.name[:80]!r} is not a service account name (RFC 1123 subdomain)")

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @classmethod
    def from_username(cls, username: str) -> Self:
        """Parse ``system:serviceaccount:<namespace>:<name>``, the user name the API server gives (KEP-1205)."""
        parts = username.split(":")
        if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"]:
            raise InvalidValue(f"{username[:80]!r} is not the user name of a service account")
        return cls(parts[2], parts[3])


@dataclass(frozen=True, slots=True, order=True)
class NodeName:
    """The name of a Kubernetes node, an RFC 1123 subdomain. Raises :class:`InvalidValue`."""

    value: str

    def __post_init__(self) -> None:
        if not is_subdomain(self.value):
            raise InvalidValue(f"{self.value[:80]!r} is not a node name (RFC 1123 subdomain)")

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True, order=True)
class SpiffeId:
    """A workload identity in Istio's form: ``spiffe://<trust domain>/ns/<namespace>/sa/<service account>``."""

    trust_domain: TrustDomain
    service_account: ServiceAccountRef

    def __post_init__(self) -> None:
        if len(str(self)) > MAX_SPIFFE_ID_BYTES:
            raise InvalidValue(
                f"the SPIFFE ID is longer than {MAX_SPIFFE_ID_BYTES} bytes (SPIFFE-ID, section 2.3)"
            )

    def __str__(self) -> str:
        account = self.service_account
        return f"spiffe://{self.trust_domain}/ns/{account.namespace}/sa/{account.name}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Parse a URI in exactly Istio's form; anything else raises :class:`InvalidValue`."""
        match = _SPIFFE.fullmatch(uri) if len(uri) <= MAX_SPIFFE_ID_BYTES else None
        if match is None:
            raise InvalidValue(
                f"{uri[:120]!r} is not of the form spiffe://<trust domain>/ns/<namespace>/sa/<name>"
            )
        return cls(TrustDomain(match[1]), ServiceAccountRef(match[2], match[3]))


def is_subdomain(name: str) -> bool:
    """True for an RFC 1123 subdomain as Kubernetes takes it, which most objects' names are."""
    return len(name) <= MAX_SUBDOMAIN_CHARACTERS and _SUBDOMAIN.fullmatch(name) is not None


ANNOTATION: Final = "federation-hub/hub"
"""On each object that a hub writes into a member cluster. Its value is the hub's identity."""

NUMBER: Final = "federation-hub/generation"
"""On each bundle's ConfigMap: the number of the generation that it was written for. What is published says by it that
a state that was set back is older, though nothing else remembers it.
"""

MOST_DIGITS: Final = 12  # of such a number: the keys of generations have room for no more
MOST_MARK: Final = 64  # characters that are used of an annotation, which any client may have written
NO_IDENTITY: Final = "(empty)"
"""What an annotation that is there and holds nothing reads as. The hub's own claim of the object meets it as it meets
any other mark (Kubernetes, "Server-Side Apply", Conflicts), so it must not read as none.
"""
_ID: Final = re.compile(r"[0-9a-f]{32}", re.ASCII)


def new_id(random_bytes: Callable[[int], bytes]) -> str:
    """An identity that no other hub has."""
    return random_bytes(16).hex()


def is_identity(text: str) -> bool:
    """Whether it has the form of a hub's identity."""
    return _ID.fullmatch(text) is not None


def check_id(text: str) -> str:
    """The identity of a hub. Raises InvalidValue where it is none."""
    if not is_identity(text):
        raise InvalidValue(
            f"{text[:80]!r} is not the identity of a hub",
            remedy="write the 32 hex digits that status shows, which are in the annotation federation-hub/hub as well",
        )
    return text


def mark_in(annotations: Mapping[str, object] | None) -> str:
    """The mark that is written on an object, bounded; empty where there is none. It need not be an identity."""
    value = (annotations or {}).get(ANNOTATION)
    if value is None:
        return ""
    return (value if isinstance(value, str) else "")[:MOST_MARK] or NO_IDENTITY


def number_in(annotations: Mapping[str, object] | None) -> int:
    """The number of the generation that is written on an object; 0 where there is none."""
    value = (annotations or {}).get(NUMBER, "")
    known = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= MOST_DIGITS
    return int(value) if isinstance(value, str) and known else 0


@dataclass(frozen=True, slots=True)
class HubIdentity:
    """Of this hub. ``adopts`` are identities whose objects are its own by an operator's word.

    An empty ``id`` is a hub without one: then the field manager's name has to do.
    """

    id: str = ""
    adopts: frozenset[str] = field(default_factory=frozenset)

    def owns(self, mark: str) -> bool:
        """Whether an object with that mark is this hub's, or was adopted."""
        return bool(mark) and (mark == self.id or mark in self.adopts)

    def is_other(self, mark: str) -> bool:
        """Whether it is another hub's."""
        return bool(self.id and mark) and not self.owns(mark)

    @property
    def annotations(self) -> dict[str, str]:
        """What every object that this hub writes carries."""
        return {ANNOTATION: self.id} if self.id else {}


NO_HUB: Final = HubIdentity()
