"""Whether a cluster answers at all, and as which version: asked seldom while all is well, else each second."""

from __future__ import annotations

from typing import Final

import msgspec

from federation.clusters.session import SMALL_ANSWER_BYTES, ClusterSession
from federation.core.clock import Clock
from federation.core.errors import ClusterError, ClusterGarbage

EVERY: Final = 60.0  # seconds
TIMEOUT: Final = 3.0


class _Version(msgspec.Struct, rename="camel"):
    git_version: str = ""


class Pulse:
    """One cluster's; ``version`` and ``problem`` are of the last answer."""

    def __init__(self, session: ClusterSession, *, timeout: float, clock: Clock) -> None:
        self._session = session
        self._timeout = min(TIMEOUT, timeout)
        self._clock = clock
        self._answered = float("-inf")
        self.version = ""
        self.problem: ClusterError | None = None

    @property
    def due(self) -> bool:
        """True where it has not answered for a while, or not well."""
        return self.problem is not None or self._clock.monotonic() - self._answered > EVERY

    async def ask(self) -> bool:
        """Ask once; True where the cluster answers again after it did not."""
        before = self.problem
        try:
            answer = await self._session.get("/version", timeout=self._timeout, most_bytes=SMALL_ANSWER_BYTES)
            self.version = msgspec.json.decode(answer, type=_Version).git_version[:64]
        except ClusterError as error:
            self.problem = error
            return False
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            self.problem = ClusterGarbage(
                "the answer to /version is not what the API promises", where=str(self._session.name)
            )
            return False
        self.problem, self._answered = None, self._clock.monotonic()
        return before is not None
