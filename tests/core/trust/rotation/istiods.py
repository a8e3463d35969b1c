"""A simulated control plane: its Secret, what istiod has loaded of it, and the caBundle of its webhooks.

istiod reads its files at its start and again some time after they change; it patches its webhooks at most
:data:`PATCH_LAG` after that. Its certificate comes from the listener, like those of workloads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

PATCH_LAG: Final = 6.0  # less than the soak, and less than the maximum age of a read-back


@dataclass(frozen=True, slots=True)
class Files:
    """The content of the Secret: the issuer and expiry of its certificate, and the roots of its ca.crt."""

    issuer: str
    not_after: float
    roots: frozenset[str]


@dataclass(frozen=True, slots=True)
class Seen:
    """What was last read back of it."""

    secret: Files | None
    generation: int
    bundle: frozenset[str]
    at: float


@dataclass(slots=True)
class Istiod:
    """``secret`` is mounted, ``generation`` the one that its ca.crt is of; ``runs_with`` is what istiod has taken up.

    ``bundle`` is the caBundle of its webhooks. While it is ``unprovided`` the controller cannot write its Secret,
    and while it is ``forbidden`` istiod cannot patch its webhooks. ``worked`` once both who verify it could: what
    never worked no rotation broke.
    """

    secret: Files | None = None
    generation: int = 0
    runs_with: Files | None = None
    bundle: frozenset[str] = frozenset()
    unpatched_since: float | None = None
    unprovided: bool = False
    forbidden: bool = False
    worked: bool = False
    seen: Seen | None = None

    def start(self, now: float) -> None:
        """Kill and start it: it serves with what is mounted, or not at all."""
        self.runs_with = self.secret
        self._changed(now)

    def take_up(self, now: float) -> None:
        """Load what has changed; if there was nothing at its start it does not read again."""
        if self.runs_with is not None:
            self.runs_with = self.secret
            self._changed(now)

    def _changed(self, now: float) -> None:
        if self.runs_with is None or self.runs_with.roots == self.bundle:
            self.unpatched_since = None
        elif self.unpatched_since is None:
            self.unpatched_since = now

    def patch(self) -> None:
        if self.runs_with is not None and not self.forbidden:
            self.bundle, self.unpatched_since = self.runs_with.roots, None

    def patch_what_is_due(self, now: float) -> None:
        if self.unpatched_since is not None and now - self.unpatched_since > PATCH_LAG:
            self.patch()
