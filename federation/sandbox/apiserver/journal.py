"""What was asked of the server, for tests that count: one record a request, and totals."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from federation.sandbox.apiserver.requests import RequestInfo

WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})
_KEPT = 10_000
_REVIEWS = frozenset({"authentication.k8s.io", "authorization.k8s.io"})


@dataclass(frozen=True, slots=True)
class Record:
    """One answered request. ``status`` is the HTTP code, 0 where the connection was cut or hung instead."""

    user: str
    info: RequestInfo
    status: int

    @property
    def writes(self) -> bool:
        """Whether it could change an object: reviews and token requests are POSTs that do not."""
        return (
            self.info.verb in WRITES and self.info.group not in _REVIEWS and self.info.subresource != "token"
        )


class Journal:
    """All requests since the start or the last :meth:`reset`. Watches are recorded when they begin."""

    def __init__(self) -> None:
        self.totals: Counter[tuple[str, str, int]] = Counter()
        self.recent: deque[Record] = deque(maxlen=_KEPT)
        self.on_record: Callable[[Record], None] = lambda _: None

    def add(self, record: Record) -> None:
        """Count a request."""
        resource = record.info.full_resource or record.info.path
        self.totals[record.info.verb, resource, record.status] += 1
        self.recent.append(record)
        self.on_record(record)

    def count(self, *, verb: str = "", resource: str = "", status: int | None = None) -> int:
        """How many requests match; ``resource`` is ``pods``, ``pods/status`` or a path like ``/version``."""
        return sum(
            number
            for (one_verb, one_resource, one_status), number in self.totals.items()
            if verb in {"", one_verb} and resource in {"", one_resource} and status in {None, one_status}
        )

    @property
    def writes(self) -> int:
        """Successful requests that could change an object."""
        return sum(record.writes and 200 <= record.status < 300 for record in self.recent)

    def by(self, user: str) -> list[Record]:
        """The recent requests of one user."""
        return [record for record in self.recent if record.user == user]

    def reset(self) -> None:
        """Start counting anew."""
        self.totals.clear()
        self.recent.clear()
