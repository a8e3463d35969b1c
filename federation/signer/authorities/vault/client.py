"""One Vault or OpenBao over HTTP: headers, redirects, retries, TLS, statuses, and answers decoded strictly.

By Vault's API documentation ("Status codes", ``/sys/health``): 412 and most 5xx are worth another try and say that
nothing was done; 429 asks for fewer requests; 307 names the active node where a standby does not forward. That one is
followed once, never from https to http, and never to another path, for the token goes with it. An answer that is lost
is never asked for again: the first may have issued.

TLS verifies by Vault's CA file and shows, where the hub logs in by one, the client certificate of now.

Vault's API wraps results in ``data`` and refusals in ``errors`` (HTTP API, "Error response"). Texts come from the
other side: they are cut, freed of control characters and of every secret that was sent along.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

import msgspec
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type
from yarl import URL

from federation.core.clock import Clock
from federation.core.config.authorities.settings import VaultServer
from federation.core.errors import (
    AuthorityMisconfigured,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
)
from federation.kubernetes.answers import harmless
from federation.signer.authorities.credentials import OwnCredentials
from federation.signer.authorities.http import HttpAnswer, Outward, TransportSecurity, retry_after

MAX_TEXT: Final = 200
NOT_VAULT: Final = "something other than Vault answers at that address: check it, and proxies on the way"

T = TypeVar("T")


class _Data(msgspec.Struct, Generic[T], frozen=True):
    data: T


class _Errors(msgspec.Struct, frozen=True):
    errors: tuple[str, ...]


_errors = msgspec.json.Decoder(_Errors)


@dataclass(frozen=True, slots=True)
class VaultAnswer:
    """One answer. Neither its body nor what is ``hidden`` in its texts is ever shown."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    hidden: tuple[str, ...] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """True for a 2xx."""
        return 200 <= self.status <= 299

    @property
    def refusal(self) -> str | None:
        """What Vault says is wrong, as one harmless line; None where this is not how Vault refuses."""
        try:
            text = " ".join("; ".join(_errors.decode(self.body).errors).split())
        except (msgspec.MsgspecError, UnicodeError):
            return None
        for secret in self.hidden:
            if secret:
                text = text.replace(secret, "[redacted]")
        return harmless(text)[:MAX_TEXT]

    @property
    def why(self) -> str:
        """The status, and what Vault says where it says something."""
        return f"{self.status} {self.refusal}" if self.refusal else str(self.status)

    def says(self, *texts: str) -> bool:
        """True where the refusal holds one of these, in lower case."""
        refusal = (self.refusal or "").lower()
        return any(text in refusal for text in texts)

    def data(self, shape: type[T], *, what: str) -> T:
        """What the body has under ``data``, in this shape. Raises as :meth:`read` does."""
        wrapped: Any = _Data
        found: _Data[T] = self.read(wrapped[shape], what=what)
        return found.data

    def read(self, shape: type[T], *, what: str) -> T:
        """The body in this shape. Raises AuthorityUnavailable with the reason ``garbage``."""
        try:
            return msgspec.json.decode(self.body, type=shape)
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise AuthorityUnavailable(
                f"the answer to {what} is not what Vault's API promises",
                reason="garbage",
                remedy=NOT_VAULT,
            ) from None


def transport_security(server: VaultServer, credentials: OwnCredentials) -> TransportSecurity:
    """TLS to this server: by its CA file, and with the client certificate of now where the hub logs in by one."""
    certificate = server.auth.certificate if server.auth.method == "cert" else None
    return TransportSecurity(
        server.address,
        server.ca_file,
        reason="tls_files",
        remedy="put the CA of Vault's own certificate into ca_file; a client certificate needs its own key",
        client=partial(credentials.client_certificate, certificate) if certificate is not None else None,
    )


ATTEMPTS: Final = 3
FIRST_WAIT: Final = 0.1  # seconds, doubled with each attempt and drawn from its upper half
LONGEST_WAIT: Final = 1.0
LEAST_TIME: Final = 0.05  # seconds; with less left there is no point in asking

_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_FROM_GATEWAYS: Final = frozenset({502, 504})
_NO_LEADER: Final = ("no active", "not active", "standby")
_PERMANENT: Final = (
    "unable to find pki issuer",
    "requested usage",
    "requested version for signing",
    "missing name in alias",
)
"""Said with 500 though no repetition helps: an operator has to correct the engine or the credential."""

_STANDBY: Final = (
    "see whether it has an active node, and whether the address reaches that or a node that forwards"
)


class NodeState(NamedTuple):
    """Why a node answers no requests, as its status says (API documentation, "/sys/health")."""

    reason: str
    what: str
    remedy: str

    def error(self, request: str = "", *, where: str = "") -> AuthorityUnavailable:
        """The error for a caller; ``request`` is what was asked."""
        what = f"{self.what} ({request})" if request else self.what
        return AuthorityUnavailable(what, where=where, reason=self.reason, remedy=self.remedy)


SEALED: Final = NodeState(
    "vault_sealed",
    "it is sealed",
    "unseal it (`bao operator unseal`, `vault operator unseal`), and see why it was sealed",
)
UNINITIALISED: Final = NodeState(
    "vault_uninitialised",
    "it is not initialised",
    "initialise it (`bao operator init`), or point the address at the right one",
)
DR_SECONDARY: Final = NodeState(
    "dr_secondary",
    "it is a disaster recovery secondary, which answers no requests",
    "point the address at the primary, or promote this one",
)
_ALWAYS: Final[Mapping[int, NodeState]] = {
    472: DR_SECONDARY,
    473: NodeState("vault_standby", "it is a performance standby that cannot answer", _STANDBY),
    501: UNINITIALISED,
}
"""Statuses that mean the same for every request."""


class VaultClient:
    """Requests to one server. ``jitter`` spreads retries."""

    def __init__(
        self,
        server: VaultServer,
        credentials: OwnCredentials,
        *,
        where: str,
        timeout: float,
        clock: Clock,
        jitter: random.Random,
    ) -> None:
        self._namespace = server.namespace.strip("/")
        self._where = where
        self._timeout = timeout
        self._clock = clock
        self._jitter = jitter
        self._security = transport_security(server, credentials)
        self._outward = Outward(
            server.address, where=where, timeout=timeout, tls=lambda: self._security.context
        )

    async def refresh(self) -> tuple[str, ...]:
        """Take up changed TLS files, as :meth:`TransportSecurity.refresh` does."""
        return await self._security.refresh()

    async def close(self) -> None:
        """Close every connection."""
        await self._outward.close()

    async def health(self) -> VaultAnswer:
        """What ``/sys/health`` answers, whatever its status. It is no part of any namespace."""
        answer = await self._outward.call("GET", "/v1/sys/health")
        return VaultAnswer(answer.status, answer.headers, answer.body)

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        body: Mapping[str, object] | None = None,
        hidden: tuple[str, ...] = (),
        timeout: float | None = None,
        may_issue: bool = False,
    ) -> VaultAnswer:
        """The answer with 2xx, 4xx, or a 500 that no repetition helps; all others are errors.

        ``path`` starts with ``/v1/`` and is percent-encoded. ``hidden`` are secrets of the body. ``timeout``
        in seconds covers every attempt and the waits between. Raises AuthorityThrottled, AuthorityUnavailable
        with the reason ``vault_sealed``, ``vault_standby``, ``vault_uninitialised``, ``dr_secondary``,
        ``behind``, ``server_error`` or one of :meth:`Outward.call`'s, AuthorityMisconfigured
        (``redirect_refused``), and AuthorityUncertain where ``may_issue``.
        """
        until = self._clock.monotonic() + (self._timeout if timeout is None else timeout)
        headers = {"X-Vault-Request": "true"}  # an Agent may insist on it, as a guard against forged requests
        if self._namespace:
            headers["X-Vault-Namespace"] = self._namespace
        if token:
            headers["X-Vault-Token"] = token
        data = msgspec.json.encode(body) if body is not None else None
        if data is not None:
            headers["Content-Type"] = "application/json"

        async def attempt() -> VaultAnswer:
            answer = await self._send(
                method,
                path,
                headers=headers,
                data=data,
                timeout=max(until - self._clock.monotonic(), LEAST_TIME),
                may_issue=may_issue,
            )
            judged = VaultAnswer(answer.status, answer.headers, answer.body, (token, *hidden))
            self._judge(judged, f"{method} {path}", may_issue)
            return judged

        try:
            return await attempt()  # the good case pays nothing for the machinery of repetitions
        except _TryAgain:
            pause = self._pause(1)
            if self._clock.monotonic() + pause + LEAST_TIME > until:
                raise
            await self._clock.sleep(pause)

        def stop(state: RetryCallState) -> bool:
            late = self._clock.monotonic() + state.upcoming_sleep + LEAST_TIME > until
            return state.attempt_number >= ATTEMPTS - 1 or late

        retrying = AsyncRetrying(
            sleep=self._clock.sleep,
            wait=lambda state: self._pause(state.attempt_number + 1),
            stop=stop,
            retry=retry_if_exception_type(_TryAgain),
            reraise=True,
        )
        return await retrying(attempt)

    def _pause(self, attempts: int) -> float:
        """Seconds before the next attempt; ``attempts`` were made."""
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** (attempts - 1))
        return self._jitter.uniform(longest / 2, longest)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        data: bytes | None,
        timeout: float,
        may_issue: bool,
    ) -> HttpAnswer:
        """One attempt, and one more at the active node where a standby names it."""
        until = self._clock.monotonic() + timeout
        node: URL | None = None
        for _ in range(2):
            answer = await self._outward.call(
                method,
                path,
                headers=headers,
                body=data,
                timeout=max(until - self._clock.monotonic(), LEAST_TIME),
                may_issue=may_issue,
                base=node,
            )
            if answer.status not in _REDIRECTS:
                return answer
            node = self._active_node(answer, path)
        raise AuthorityUnavailable(
            "one standby node refers to the next",
            where=self._where,
            reason="vault_standby",
            remedy=_STANDBY,
        )

    def _active_node(self, answer: HttpAnswer, path: str) -> URL:
        """Where a 307 points, if the token may go there."""
        base = self._outward.base
        try:
            target = base.join(URL(answer.headers.get("Location", ""), encoded=True))
            same = answer.status == 307 and target.raw_path == path and bool(target.host)
        except ValueError:
            same = False
        if not same:
            raise AuthorityMisconfigured(
                f"it redirects ({answer.status}) to something that is not the same request at another node",
                where=self._where,
                reason="redirect_refused",
                remedy=NOT_VAULT,
            )
        plain = target.scheme != "https"
        if plain and (base.scheme == "https" or target.scheme != "http" or target.host not in _LOOPBACK):
            raise AuthorityMisconfigured(
                f"it redirects to {target.scheme}://{target.host}, where the token would travel in the open",
                where=self._where,
                reason="redirect_refused",
                remedy="set api_addr of every Vault node to its https address",
            )
        return target.origin()

    def _judge(self, answer: VaultAnswer, what: str, may_issue: bool) -> None:
        """Raise where the answer is none."""
        status, why = answer.status, f"{what}: {answer.why}"
        if status == 429:
            raise AuthorityThrottled(
                why,
                where=self._where,
                retry_after=retry_after(answer.headers.get("Retry-After", ""), self._clock),
            )
        if status in _ALWAYS:
            raise _ALWAYS[status].error(what, where=self._where)
        if status == 412:
            raise _TryAgain(
                why,
                where=self._where,
                reason="behind",
                remedy="see whether replication of Vault's nodes lags",
            )
        if status < 500 or (status == 500 and answer.says(*_PERMANENT)):
            return
        if may_issue and answer.refusal is None and status in _FROM_GATEWAYS:
            raise AuthorityUncertain(f"{why} from a gateway: it may have issued", where=self._where)
        if answer.says("sealed"):
            raise SEALED.error(what, where=self._where)
        if answer.says(*_NO_LEADER):
            raise _TryAgain(why, where=self._where, reason="vault_standby", remedy=_STANDBY)
        raise _TryAgain(
            why, where=self._where, reason="server_error", remedy="look at Vault's log; the hub keeps trying"
        )


class _TryAgain(AuthorityUnavailable):
    """Nothing was done, and another attempt may go better."""
