"""What is trusted and what was found: generations, the one in force, anchors that clusters or back ends named."""

from __future__ import annotations

import msgspec

from federation.core.clock import Instant


class AnchorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One certificate of a bundle, with where it came from."""

    sha256: str
    subject: str
    kind: str  # root | intermediate | accepted
    origin: str
    trust_domain: str
    cluster: str = ""
    not_before: float
    not_after: float
    foreign_override: bool = False
    odd: str = ""  # what is odd about it, which keeps no verifier from trusting it
    refused: str = ""  # why verifiers do not trust what is signed below it


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """A change of trust: strictly increasing number, reason, author, time, content."""

    number: int
    created: float
    reason: str
    author: str
    trust_domain: str
    sha256: str  # of bundle_pem
    bundle_pem: str
    anchors: list[AnchorRecord]
    evidence: dict[str, str] = {}


class Current(msgspec.Struct, frozen=True, kw_only=True):
    """Which generation is in force. Clusters in ``behind`` still get the older one named there."""

    number: int
    sha256: str
    behind: dict[str, int] = {}

    def number_for(self, cluster: str) -> int:
        """The generation that this cluster is to hold and to be given."""
        return self.behind.get(cluster, self.number)


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """An anchor that was found but is not pinned; only a person can accept it. ``cluster`` is empty for a CA's own."""

    sha256: str
    subject: str
    cluster: str
    origin: str
    not_after: Instant
    first_seen: Instant = 0.0
    pem: str = ""  # the certificate itself, for the person who accepts it
    places: list[str] = []  # namespaces that it was seen in, the first few; "" for what is in none


class Dismissal(msgspec.Struct, frozen=True, kw_only=True):
    """An operator's word that an anchor which was found needs no attention. It ends with the anchor there."""

    sha256: str
    author: str
    at: float
    reason: str = ""
    operation: str = ""  # the id of the one that dismissed it


class FoundAnchors(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one cluster, or named by back ends, and is not pinned.

    ``crowded``: more was found than is kept, and has no place until some of this is answered.
    """

    found: list[Proposal] = []
    dismissed: list[Dismissal] = []
    crowded: bool = False
