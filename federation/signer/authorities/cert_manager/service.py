"""cert-manager in one management cluster: a CertificateRequest is created, awaited by a watch, and removed.

What is learned of the issuer's chain comes with the leaves, so nothing is known of it before the first one, and it is
forgotten when none has come for a while: an authority whose chain was judged bad asks for no leaf, and would never
learn that the issuer was repaired.

**Answers.** Source: cert-manager's ``pkg/util/pki/parse_certificate_chain.go`` and its API document:
``status.certificate`` begins with the leaf and leaves a self-signed root out; ``status.ca``, set "on a best-effort
basis", is the root where the issuer knows it, or the highest intermediate, or whatever an external issuer thinks fit.
What a request that brought no certificate means for its caller is said here too.
"""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Sequence
from typing import Final

from federation.core.clock import Clock
from federation.core.config.authorities.settings import CertManagerAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterInvalid,
    ClusterUnauthorized,
    ConfigurationError,
    InvalidValue,
)
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import MAX_PATH, single_chain
from federation.core.pki.pem import parse_certificates
from federation.kubernetes.credentials import fingerprint
from federation.signer.authorities.authority import BackEndContext, LeafRequest, ServiceAnswer, ServiceView
from federation.signer.authorities.cert_manager.connection import (
    NOT_FOUND,
    ManagementConnection,
    check_issuer,
    not_ready,
)
from federation.signer.authorities.cert_manager.failures import answer_lost, authority_error
from federation.signer.authorities.cert_manager.requests import (
    Creation,
    NotCreated,
    Outstanding,
    Waiting,
    certificate_request,
    duration,
)
from federation.signer.authorities.cert_manager.verdict import (
    Blocked,
    Deleted,
    Denied,
    Failed,
    Invalid,
    Issued,
    Pending,
    Unreadable,
    Verdict,
)

MOST_IN_CA: Final = 32
"""Some issuers put a whole bundle there, though it is meant to be one certificate."""


def read_answer(issued: Issued) -> ServiceAnswer:
    """The leaf and what is above it.

    Of ``ca`` only what continues the chain upwards is taken; the rest of a bundle would be no part of one
    chain. Raises AuthorityViolation with the reason ``garbage``.
    """
    leaf, *above = _certificates(issued.certificate, "status.certificate", MAX_PATH)
    offered = _certificates(issued.ca, "status.ca", MOST_IN_CA) if issued.ca else ()
    return ServiceAnswer(leaf.der, _continued((leaf, *above), offered)[1:])


def chain_above(answer: ServiceAnswer) -> tuple[Certificate, ...]:
    """The certificates above the leaf in their order, its issuer first; empty where they form no chain."""
    try:
        return single_chain((Certificate.from_der(answer.der), *answer.chain))[1:]
    except InvalidValue:
        return ()  # the check of the answer says so


def _continued(chain: Sequence[Certificate], offered: Sequence[Certificate]) -> tuple[Certificate, ...]:
    continued = list(dict.fromkeys(chain))
    while len(continued) < MAX_PATH and not continued[-1].is_self_signed:
        top = continued[-1]
        above = next((c for c in offered if c not in continued and top.is_signed_by(c)), None)
        if above is None:
            break
        continued.append(above)
    return tuple(continued)


def _certificates(field: str, name: str, most: int) -> tuple[Certificate, ...]:
    try:
        certificates = parse_certificates(binascii.a2b_base64(field, strict_mode=True), where=name)
    except InvalidValue as error:
        raise _garbage(str(error)) from None
    except ValueError:  # not base64, or not even ASCII
        raise _garbage(f"{name}: this is not base64") from None
    if len(certificates) > most:
        raise _garbage(f"{name}: {len(certificates)} certificates, at most {most} are read")
    return certificates


def _garbage(what: str) -> AuthorityViolation:
    return AuthorityViolation(f"cert-manager returned no certificate: {what[:200]}", reason="garbage")


_COMPARE: Final = "compare what it allows with this cluster's policy in the hub"


def refusal(
    verdict: Pending | Blocked | Denied | Failed | Invalid | Unreadable | Deleted,
    config: CertManagerAuthorityConfig,
) -> AuthorityError | AuthorityUnavailable:
    """What a verdict other than a certificate means, as an error."""
    match verdict:
        case Denied(message=message):
            return AuthorityRefused(
                f"the approver denied the request: {message}",
                reason="denied",
                remedy=f"the approver: {_COMPARE}",
            )
        case Invalid(message=message):
            return AuthorityRefused(
                f"the issuer takes the request for invalid: {message}",
                reason="invalid_request",
                remedy=f"the issuer: {_COMPARE}",
            )
        case Failed(message=message):
            # Any error of what is behind an issuer ends so, an outage as well as a rule of its own.
            return AuthorityUnavailable(
                f"the issuer failed: {message}",
                reason="failed",
                remedy=f"look at the {config.issuer_kind} {config.issuer_name} and at what is behind it",
            )
        case Blocked(reason="issuer_not_found", message=message):
            return AuthorityMisconfigured(message, reason="issuer_not_found", remedy=NOT_FOUND)
        case Blocked(message=message):
            return AuthorityUnavailable(message, reason="issuer_not_ready", remedy=not_ready(config))
        case Unreadable(problem=problem):
            return AuthorityViolation(f"the CertificateRequest: {problem}", reason="garbage")
        case Deleted():
            return AuthorityUncertain(
                "the request was deleted before it was decided: it may have been issued",
                reason="request_deleted",
                remedy=f"find who deletes CertificateRequests in the namespace {config.namespace}",
            )
    return AuthorityUncertain(f"nothing was decided: {verdict.message}")


def lateness(
    waiting: Waiting, creation: Creation, config: CertManagerAuthorityConfig, *, watching: bool
) -> AuthorityUnavailable:
    """Why nothing came in time. Issuers sign only what was approved, so what was not was not issued."""
    within = f"within {config.timeout:g} s"
    match waiting.last:
        case Pending(approved=False, message="") if watching:
            return AuthorityUnavailable(
                f"no approver approved or denied the request {within}",
                reason="not_approved",
                remedy="run cert-manager's own approver, or one whose policy covers the hub's requests",
            )
        case Pending(message=message) if message:
            return AuthorityUncertain(f"the issuer did not answer {within}; it says: {message}")
        case Pending():
            return AuthorityUncertain(f"the issuer did not answer {within}: it may still issue")
    error = creation.result() if creation.done() and not creation.cancelled() else None
    if error is not None:
        return AuthorityUncertain(f"the management cluster: {error.what}: the request may be there")
    return AuthorityUncertain(f"the request was not seen {within}: it may be there and issued")


CHAIN_MEMORY: Final = 60.0
"""Seconds for which a chain is reported after the last leaf that came with it."""

_ID_BYTES: Final = 8


class CertManager:
    """Implements CertificateService."""

    def __init__(self, config: CertManagerAuthorityConfig, context: BackEndContext) -> None:
        self._config = config
        self._context = context
        self._clock: Clock = context.clock
        self._instance = context.random_bytes(_ID_BYTES).hex()
        self._outstanding = Outstanding()
        self._connection: ManagementConnection | None = None
        self._made_of = ""  # which kubeconfig
        self._connecting = asyncio.Lock()
        self._left: set[asyncio.Task[None]] = set()
        self._closed = False
        self._chain: tuple[Certificate, ...] = ()
        self._learned = 0.0

    async def poll(self) -> ServiceView:
        """Whether the cluster answers, the requests can be watched, and the issuer is ready."""
        odd = await self._follow_credentials()
        connection = await self._checked()
        if self._clock.monotonic() - self._learned > CHAIN_MEMORY:
            self._chain = ()
        return ServiceView(chain=self._chain, warnings=odd + _warnings(connection))

    async def issue(self, wanted: LeafRequest) -> ServiceAnswer:
        """One request, from its creation to its removal; see the package's table of reasons in the docs."""
        name = f"federation-{self._instance}-{self._context.random_bytes(_ID_BYTES).hex()}"
        connection = await self._ready()
        waiting = self._outstanding.expect(name)
        creation = connection.create(name, self._body(wanted, name))
        creation.add_done_callback(lambda done: _note(done, waiting))
        try:
            async with asyncio.timeout(self._config.timeout):
                outcome = await waiting.decided
        except TimeoutError:
            raise lateness(waiting, creation, self._config, watching=connection.watching) from None
        finally:
            self._outstanding.forget(name)
            connection.remove(name, creation)
        if isinstance(outcome, NotCreated):
            raise outcome.error
        return self._answer(outcome)

    async def close(self) -> None:
        """Remove the requests that are left, then close the session."""
        self._closed = True
        async with self._connecting:
            connection, self._connection = self._connection, None
            if connection is not None:
                await connection.close()
        for task in self._left:
            task.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)

    async def _checked(self) -> ManagementConnection:
        """A connection that was checked; made once more where its credentials are refused: they may have rotated."""
        for last in (False, True):
            connection = await self._connected()
            try:
                await connection.check()
                await check_issuer(connection.session, self._config)
            except ClusterUnauthorized as error:
                await self._disconnect(connection)
                if last:
                    raise authority_error(error) from None
            except ClusterError as error:
                raise authority_error(error) from None
            else:
                break
        return connection

    async def _follow_credentials(self) -> tuple[str, ...]:
        """Go over to a changed kubeconfig once it was seen to work; what prevents it, as warnings."""
        before = self._connection
        if before is None or before.ended:
            return ()
        connection: ManagementConnection | None = None
        try:
            made_of = await fingerprint(self._config.credentials)
            if made_of == self._made_of:
                return ()
            connection = await self._open()
            await connection.check()
        except (ConfigurationError, ClusterError) as error:
            if connection is not None:
                await connection.close()
            return (f"its kubeconfig has changed and cannot be taken up: {error.diagnostics()}",)
        async with self._connecting:
            taken = self._connection is before and not self._closed
            if taken:
                self._connection, self._made_of = connection, made_of
        if taken:
            task = asyncio.create_task(self._leave(before), name="leave a management cluster's connection")
            self._left.add(task)
            task.add_done_callback(self._left.discard)
        else:
            await connection.close()
        return ()

    async def _leave(self, connection: ManagementConnection) -> None:
        """Close it once every request that was begun with it has had its time."""
        try:
            await self._clock.sleep(2 * self._config.timeout)
        finally:
            await connection.close()

    async def _open(self) -> ManagementConnection:
        return await ManagementConnection.open(
            self._config, self._outstanding, instance=self._instance, context=self._context
        )

    async def _connected(self) -> ManagementConnection:
        async with self._connecting:
            if self._closed:
                raise AuthorityUnavailable("it was closed", reason="closed")
            if self._connection is not None:
                if not self._connection.ended:
                    return self._connection
                connection, self._connection = self._connection, None
                await connection.close()
            try:
                self._made_of = await fingerprint(self._config.credentials)
                self._connection = await self._open()
            except ConfigurationError as error:
                raise AuthorityMisconfigured(
                    f"the management cluster: {error.what}", reason="credentials", remedy=error.remedy
                ) from None
            except ClusterError as error:
                raise authority_error(error) from None
            return self._connection

    async def _disconnect(self, connection: ManagementConnection) -> None:
        async with self._connecting:
            if self._connection is connection:
                self._connection = None
        await connection.close()

    async def _ready(self) -> ManagementConnection:
        """A connection whose watch has begun: what is created from now on is seen."""
        connection = await self._connected()
        try:
            await connection.synced()
        except ClusterError as error:
            raise authority_error(error) from None
        return connection

    def _body(self, wanted: LeafRequest, name: str) -> bytes:
        seconds = duration(wanted.validity.not_after, self._clock.now(), self._config.timeout)
        return certificate_request(self._config, wanted, name=name, instance=self._instance, seconds=seconds)

    def _answer(self, verdict: Verdict) -> ServiceAnswer:
        if not isinstance(verdict, Issued):
            raise refusal(verdict, self._config)
        answer = read_answer(verdict)
        above = chain_above(answer)
        if above != self._chain:
            self._chain = above
        self._learned = self._clock.monotonic()
        return answer


def _note(creation: Creation, waiting: Waiting) -> None:
    """A caller need not wait where there is no request, or where it is not known and asking anew is better."""
    error = None if creation.cancelled() else creation.result()
    if error is not None and not answer_lost(error):
        waiting.decide(NotCreated(authority_error(error, creating=True)))


def _warnings(connection: ManagementConnection) -> tuple[str, ...]:
    """What an operator has to correct though leaves are issued; an outage shows elsewhere, and passes."""
    problem = connection.unremovable
    if not isinstance(problem, ClusterForbidden | ClusterDenied | ClusterInvalid):
        return ()
    error = authority_error(problem)
    return (f"CertificateRequests are left behind: {error.diagnostics()}",)
