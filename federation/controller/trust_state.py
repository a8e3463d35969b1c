"""What the leader holds to be in force, shared with everything that works by it. Changed in one place only."""

from __future__ import annotations

from dataclasses import dataclass, field

from federation.controller.generations import bundle_of
from federation.core.pki.certificate import Certificate
from federation.state.documents import Generation


@dataclass(slots=True)
class TrustState:
    """The generation in force with its anchors, and the numbers of the contents that may still be held."""

    generation: Generation | None = None
    anchors: tuple[Certificate, ...] = ()
    numbers: dict[str, int] = field(default_factory=dict)
    """Digest of a bundle -> the newest generation with that content."""

    @property
    def number(self) -> int:
        """The number in force, 0 where there is none."""
        return self.generation.number if self.generation else 0

    def adopt(self, generation: Generation) -> None:
        """Work by that generation from now on. Raises InvalidValue where its bundle cannot be read."""
        self.anchors = bundle_of(generation).certificates
        self.generation = generation
        self.numbers[generation.sha256] = generation.number

    def is_ours(self, digest: str) -> bool:
        """True for the content of a generation."""
        return digest in self.numbers
