"""An authority that issues from a request: a PKI service, whose chain is judged before it is asked to sign.

What the service says of itself is looked at again and again. It may sign while its chain reaches a root that
the bundle in force holds; a root that only the service names is a proposal for a person, and trusted by
nobody. What it returns for an order is a stranger's word, and ``checked.py`` judges it.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from datetime import datetime

import msgspec

from federation.core.clock import Clock
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    FederationError,
)
from federation.core.identity import TrustDomain
from federation.core.pki.authority_check import check_intermediate
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import encode_certificates
from federation.core.pki.validity import LEAST_USEFUL_LIFE
from federation.signer.authorities.interface import (
    Answer,
    CertificateService,
    IssuedLeaf,
    LeafOrder,
    ServiceView,
)
from federation.signer.authorities.looks import Looks
from federation.signer.authorities.proposals import Proposals
from federation.signer.authorities.revocation import RevocationList, read_revocations
from federation.state.documents import AuthorityReport

_logger = logging.getLogger(__name__)


class ServiceAuthority:
    """Implements KeptAuthority, KnowsIssuers and PublishesRevocations."""

    def __init__(
        self,
        service: CertificateService,
        *,
        name: str,
        kind: str,
        poll_seconds: float,
        trust_domain: TrustDomain,
        clock: Clock,
        jitter: random.Random,
        hosts: Callable[[], tuple[str, ...]] = tuple,
        ztunnel: Callable[[], bool] = lambda: False,
    ) -> None:
        """``hosts`` are the names of the door, whose certificate it has to sign as well."""
        self._service = service
        self._name = name
        self._kind = kind
        self._looks = Looks(poll_seconds=poll_seconds, jitter=jitter)
        self._trust_domain = trust_domain
        self._hosts = hosts
        self._ztunnel = ztunnel
        self._clock = clock
        self._anchors: tuple[Certificate, ...] = ()
        self._view: ServiceView | None = None
        self._issuers: tuple[Certificate, ...] = ()
        self._crl: RevocationList | None = None
        self._proposals = Proposals(name, clock)
        self._refused: AuthorityRefused | None = None
        self._problem: FederationError | None = AuthorityUnavailable("it was not asked yet", where=name)

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while they are not known."""
        return self._issuers

    @property
    def can_sign(self) -> bool:
        """True while the service answers and what it says of itself is good."""
        return self._problem is None

    @property
    def pause(self) -> float:
        """Seconds until the next look at the service: soon after one that failed."""
        return self._looks.pause

    async def issue(self, order: LeafOrder) -> IssuedLeaf:
        """What the service returned for the order, unjudged; raises the problem where there is one."""
        if self._problem is not None:
            raise copy(
                self._problem
            )  # for each its own: one that is raised again and again grows its traceback
        try:
            answer = await self._service.issue(order)
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            if isinstance(error, AuthorityRefused):
                self._refused = error
            self._doubt_confirmed(error)
            raise
        self._refused = None
        if answer.chain and (not self._issuers or self._signed_with_another(answer)):
            self._learn(answer.chain)
        return IssuedLeaf(answer.der, answer.chain or self._issuers, built_by_hub=False)

    def describe(self) -> AuthorityReport:
        """Ready, degraded (it refuses some requests, or something about it is odd), or unavailable."""
        report = AuthorityReport(
            name=self._name,
            kind=self._kind,
            state="ready",
            proposals=self._proposals.documents(),
            crl_next_update=self._crl.next_update.timestamp() if self._crl and self._crl.next_update else 0.0,
            crl_revoked=self._crl.revoked if self._crl else 0,
        )
        if self._issuers:
            own = self._issuers[0]
            below_root = [issuer for issuer in self._issuers if not issuer.is_self_signed]
            report = msgspec.structs.replace(
                report,
                subject=own.subject,
                sha256=own.sha256,
                not_after=self._ends.timestamp(),
                chain_pem=encode_certificates(below_root).decode("ascii"),
            )
        problem = self._problem
        if problem is None and self._issuers and self._ends_too_soon:
            problem = AuthorityMisconfigured(
                f"the intermediate or its root ends at {self._ends:%Y-%m-%d %H:%M:%S} UTC",
                where=self._name,
                reason="issuer_expired",
                remedy="have the service issue from a new intermediate now; workloads cannot renew",
            )
        if problem is not None:
            return msgspec.structs.replace(
                report,
                state="unavailable",
                reason=problem.reason,
                detail=str(problem),
                remedy=problem.remedy,
            )
        doubt = self._looks.doubt
        if doubt is not None:
            return msgspec.structs.replace(
                report,
                state="degraded",
                reason=doubt.reason,
                detail=f"the last look at it failed, and requests go on: {doubt}",
                remedy=doubt.remedy,
            )
        if self._refused is not None:
            return msgspec.structs.replace(
                report,
                state="degraded",
                reason=self._refused.reason,
                detail=str(self._refused),
                remedy=self._refused.remedy,
            )
        warnings = self._view.warnings if self._view is not None else ()
        if warnings:
            return msgspec.structs.replace(
                report, state="degraded", reason="warning", detail="; ".join(warnings)
            )
        return report

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on: the self-signed ones of the bundle in force."""
        self._anchors = tuple(anchor for anchor in anchors if anchor.is_self_signed)
        if self._view is not None:
            self._judge(self._view)

    async def refresh(self) -> bool:
        """Ask the service and judge what it says; what is wrong is kept for :meth:`describe`."""
        try:
            view = await self._service.look()
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            self._looks.failed(error)
            if self._looks.doubt is None or self._problem is not None or self._view is None:
                self._view = None
                self._fail(error)
            else:
                _logger.warning("a look at the authority failed: %s", error, extra={"authority": self._name})
            return False
        self._looks.went_well()
        return self._judge(view)

    async def revocation_list(self) -> bytes:
        """The newest CRL in DER, verified; raises AuthorityUnavailable where there is none."""
        if self._crl is None:
            raise AuthorityUnavailable("it has no CRL", where=self._name, reason="no_crl")
        return self._crl.der

    async def close(self) -> None:
        """Let go of the service."""
        await self._service.close()

    @property
    def _ends(self) -> datetime:
        return min(issuer.not_after for issuer in self._issuers)

    @property
    def _ends_too_soon(self) -> bool:
        return self._clock.now() + LEAST_USEFUL_LIFE > self._ends

    def _doubt_confirmed(self, error: AuthorityError | AuthorityUnavailable) -> None:
        """A request failed after a look had: the earlier good one counts no longer."""
        silent = isinstance(error, AuthorityUnavailable) and not isinstance(error, AuthorityThrottled)
        if silent and self._looks.doubt is not None and self._problem is None:
            self._view = None
            self._fail(copy(error))

    def _judge(self, view: ServiceView) -> bool:
        self._view = view
        self._proposals.note(view.chain, self._anchors)
        try:
            self._take_up(view)
        except (AuthorityError, AuthorityUnavailable) as error:
            error.where = error.where or self._name
            if self._proposals and error.reason == "no_anchor":
                error.remedy = "compare the proposed root's fingerprint with its owner, then pin it"
            self._issuers = ()
            self._fail(error)
            return False
        if self._problem is not None:
            _logger.info("the authority can sign", extra={"authority": self._name})
        self._problem = None
        return True

    def _take_up(self, view: ServiceView) -> None:
        if not self._anchors:
            raise AuthorityUnavailable("there is no bundle yet to judge it by", where=self._name)
        if (
            not view.chain
        ):  # told only with a leaf: what was learned has to stand by the anchors and the time of now
            if self._issuers and (self._issuers[-1] not in self._anchors or self._ends_too_soon):
                self._issuers = ()  # or nothing would ever be asked that tells of new ones
            return
        # The configuration may have changed since it was taken up: that must not stop workloads.
        in_use = bool(self._issuers) and view.chain[0] == self._issuers[0]
        path = self._path(view.chain, anew=not in_use)
        self._crl = self._judged_crl(view, path)
        if path != self._issuers:
            self._issuers = path

    def _signed_with_another(self, answer: Answer) -> bool:
        """Whether a service that tells its chain only with a leaf signs below another intermediate by now."""
        tells = self._view is not None and bool(self._view.chain)
        return not tells and self._issuers[0] not in answer.chain

    def _learn(self, chain: tuple[Certificate, ...]) -> None:
        """Take the chain that came with a leaf, where the service tells it only so; the leaf is judged elsewhere."""
        try:
            self._issuers = self._path(chain, anew=True)
        except AuthorityError as error:
            _logger.debug("the chain that came with a leaf is not taken: %s", error)

    def _path(self, chain: tuple[Certificate, ...], *, anew: bool) -> tuple[Certificate, ...]:
        """The way to a root; ``anew`` judged by the door's names of now as well, and for ztunnel."""
        return check_intermediate(
            chain,
            chain[0].public_key,
            self._anchors,
            self._clock.now(),
            trust_domain=self._trust_domain,
            hosts=self._hosts() if anew else (),
            ztunnel=anew and self._ztunnel(),
        )

    def _judged_crl(self, view: ServiceView, path: Sequence[Certificate]) -> RevocationList | None:
        """The CRL, where the issuer signed it; one that nobody can verify is refused whole."""
        if view.crl_der is None:
            return None
        crl = read_revocations(view.crl_der, issuers=path)
        revoked = next((c for c in path[:-1] if crl.issuer == c.x509.issuer and crl.revokes(c.serial)), None)
        if revoked is not None:
            raise AuthorityMisconfigured(
                f"the CRL of its issuer revokes {revoked.subject} ({revoked.sha256[:16]})",
                reason="issuer_revoked",
                remedy="have the service issue from another intermediate; treat this one's key as lost",
            )
        return crl

    def _fail(self, problem: AuthorityError | AuthorityUnavailable) -> None:
        if str(problem) != str(self._problem):
            _logger.log(
                logging.ERROR if isinstance(problem, AuthorityError) else logging.WARNING,
                "the authority cannot sign: %s",
                problem.diagnostics(),
                extra={"authority": self._name, "reason": problem.reason},
            )
        self._problem = problem
