"""What the leader takes to be in force, shared with everything that works by it. It is changed in one place only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from federation.controller.generations import bundle_of
from federation.controller.sources.anchors import roots_in_force
from federation.core.documents.trust import Current, Generation
from federation.core.pki.certificate import Certificate
from federation.core.rotation.record import Unpinned


@dataclass(slots=True)
class TrustState:
    """The generation in force with its anchors, and the numbers of the contents that may still be in use."""

    generation: Generation | None = None
    anchors: tuple[Certificate, ...] = ()
    numbers: dict[str, int] = field(default_factory=dict)
    """Digest of a bundle -> the newest generation with that content."""

    delivered: int = 0
    """The highest number that signers say they deliver, where it is above the one in force."""

    behind: Mapping[str, Generation] = field(default_factory=dict)
    """Clusters that still get an older generation: their wave of a removal has not come yet."""

    @property
    def newest(self) -> int:
        """The highest number that is known here, of a generation in force or of one before."""
        return max(self.number, self.delivered, *self.numbers.values(), 0)

    @property
    def number(self) -> int:
        """The number in force, 0 where there is none."""
        return self.generation.number if self.generation else 0

    def adopt(self, generation: Generation, behind: Mapping[str, Generation] | None = None) -> None:
        """Use that generation from now on. Raises InvalidValue where its bundle cannot be read."""
        self.anchors = bundle_of(generation).certificates
        self.generation = generation
        self.behind = dict(behind or {})
        for older in self.behind.values():
            self.numbers.setdefault(older.sha256, older.number)
        self.numbers[generation.sha256] = generation.number

    @property
    def current(self) -> Current:
        """What is in force, as it is persisted."""
        digest = self.generation.sha256 if self.generation else ""
        behind = {name: older.number for name, older in self.behind.items()}
        return Current(number=self.number, sha256=digest, behind=behind)

    def for_cluster(self, name: str) -> Generation | None:
        """The generation that this cluster is to have."""
        return self.behind.get(name, self.generation)

    def roots(self, now: float) -> dict[str, Unpinned]:
        """The roots (SHA-256) of every generation that some cluster gets, as the record notes one without a pin."""
        found = [*([self.generation] if self.generation else []), *self.behind.values()]
        return roots_in_force(found, now)

    def is_ours(self, digest: str) -> bool:
        """True for the content of a generation."""
        return digest in self.numbers
