"""Callers that try again as Istio's agents do: what each attempt came to, and whether a certificate came of it."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import Final, Self

from tests.bench.callers import END_STREAM, GRPC_STATUS, HEADERS, Call, Caller

ATTEMPTS: Final = 5
FIRST_BACKOFF: Final = 0.1
RETRYABLE: Final = frozenset({None, 1, 4, 8, 10, 13, 14})
"""The codes that Istio's agents try again after; None where the connection ended without one."""

TIMEOUT: Final = 10.0
"""Seconds for a connection and for an answer."""

CODES: Final = {
    1: "Canceled",
    2: "Unknown",
    3: "InvalidArgument",
    4: "DeadlineExceeded",
    5: "NotFound",
    6: "AlreadyExists",
    7: "PermissionDenied",
    8: "ResourceExhausted",
    9: "FailedPrecondition",
    10: "Aborted",
    11: "OutOfRange",
    12: "Unimplemented",
    13: "Internal",
    14: "Unavailable",
    15: "DataLoss",
    16: "Unauthenticated",
}
"""Names of gRPC's status codes, as Go prints them."""


class Agent(Caller):
    """One agent's connection; ``status`` is the gRPC status of its last call where it was not answered."""

    def __init__(self) -> None:
        super().__init__(self._answered)
        self.status: int | None = None
        self.calls = 0
        self._waiting: asyncio.Future[bool] | None = None

    def _answered(self, _: Caller) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(self.answered)

    def _take(self, kind: int, flags: int, payload: bytearray) -> None:
        if kind == HEADERS and flags & END_STREAM:
            found = GRPC_STATUS.search(bytes(payload))
            self.status = int(found[1]) if found else None
        super()._take(kind, flags, payload)

    async def ask(self, call: Call) -> bool:
        """Whether the call brought a message. Raises TimeoutError where nothing came in time."""
        self.status = None
        self.calls += 1
        self._waiting = asyncio.get_running_loop().create_future()
        self.call(call)
        async with asyncio.timeout(TIMEOUT):
            return await self._waiting


@dataclass(slots=True)
class Renewal:
    """One renewal: the connection to use next, and why each attempt that brought no certificate did not."""

    agent: Agent | None
    answered: bool = False
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Endpoint:
    """The listener as its callers reach it."""

    host: str
    port: int
    server_name: str
    tls: ssl.SSLContext

    @classmethod
    def trusting(cls, host: str, port: int, *, server_name: str, trust: str) -> Self:
        """Whose certificate these roots, as PEM, have to stand for."""
        tls = ssl.create_default_context(cadata=trust)
        tls.set_alpn_protocols(["h2"])
        return cls(host, port, server_name, tls)

    async def connect(self) -> Agent:
        """A new connection. Raises OSError and TimeoutError."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT):
            _, agent = await loop.create_connection(
                Agent, self.host, self.port, ssl=self.tls, server_hostname=self.server_name
            )
        return agent

    async def renew(self, call: Call, agent: Agent | None) -> Renewal:
        """One renewal with its attempts, on that connection where there is one and it is open."""
        done = Renewal(agent)
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(FIRST_BACKOFF * 2 ** (attempt - 1))
            try:
                if done.agent is None or done.agent.failure:
                    done.agent = await self.connect()
                if await done.agent.ask(call):
                    done.answered = True
                    return done
                done.failures.append(CODES.get(done.agent.status or 0, "ended without a status"))
                if done.agent.status not in RETRYABLE:
                    break
            except (OSError, TimeoutError) as error:
                done.failures.append(type(error).__name__)
                if done.agent is not None:
                    done.agent.close()
                done.agent = None
        return done
