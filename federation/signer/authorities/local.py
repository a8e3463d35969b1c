"""An intermediate whose chain and key are mounted files, taken up together or not at all.

Both are read anew every few seconds, because mounted Secrets change by a symlink swap that no portable
notification reports. A pair is taken up when key and certificate agree and the intermediate may sign leaves
under a root of the bundle in force; otherwise the last good pair stays, the authority is degraded and says
why. A pair whose root has left the bundle signs nothing any more: its leaves would chain to an anchor that
nobody holds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from federation.core.clock import Clock
from federation.core.config.model import LocalAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityUnavailable,
    FederationError,
    InvalidValue,
)
from federation.core.identity import TrustDomain
from federation.core.pki.authority_check import check_intermediate
from federation.core.pki.certificate import Certificate
from federation.core.pki.keys import PrivateKey, load_private_key, signer
from federation.core.pki.leaf import LeafProfile, LeafTemplate
from federation.core.pki.pem import MAX_PEM_BYTES, parse_certificates
from federation.core.pki.validity import LEAST_USEFUL_LIFE
from federation.signer.authorities.interface import IssuedLeaf, LeafOrder
from federation.signer.authorities.key_file import read_bounded, read_key_file
from federation.state.documents import AuthorityReport

READ_TIMEOUT: Final = 10.0  # seconds; a volume that hangs must not hang the role

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A chain (intermediate first) and the key that goes with it."""

    chain: tuple[Certificate, ...]
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Signing:
    """A pair that was judged good, with all that one signature needs."""

    pair: _Pair
    issuers: tuple[Certificate, ...]
    templates: Mapping[LeafProfile, LeafTemplate]
    sign: Callable[[bytes], bytes] = field(repr=False)

    @property
    def not_after(self) -> datetime:
        """When the first of the issuers ends."""
        return min(issuer.not_after for issuer in self.issuers)


class LocalAuthority:
    """Signs with a key that this process holds. Implements Authority and KnowsIssuers."""

    def __init__(self, config: LocalAuthorityConfig, *, trust_domain: TrustDomain, clock: Clock) -> None:
        self.config = config
        self._trust_domain = trust_domain
        self._clock = clock
        self._anchors: tuple[Certificate, ...] = ()
        self._read: tuple[bytes, bytes] | None = None
        self._candidate: _Pair | None = None
        self._signing: _Signing | None = None
        self._problem: FederationError | None = AuthorityUnavailable(
            "its files were not read yet", where=config.name
        )

    @property
    def issuers(self) -> tuple[Certificate, ...]:
        """Issuer first, root last; empty while nothing can be signed."""
        return self._signing.issuers if self._signing is not None else ()

    async def issue(self, order: LeafOrder) -> IssuedLeaf:
        """The leaf that was ordered; raises why there is no pair where there is none."""
        signing = self._signing
        if signing is None:
            raise self._why()
        template = signing.templates[order.profile]
        validity = order.validity
        tbs = template.tbs(order.spki_der, order.san, order.serial, validity.not_before, validity.not_after)
        return IssuedLeaf(template.assemble(tbs, signing.sign(tbs)), signing.issuers, built_by_hub=True)

    def describe(self) -> AuthorityReport:
        """Ready with the pair in the files, degraded with an older one, else unavailable; with the reason."""
        problem, signing = self._problem, self._signing
        report = AuthorityReport(name=self.config.name, kind=self.config.kind, state="unavailable")
        if signing is not None:
            ends = signing.not_after
            own = signing.pair.chain[0]
            usable = self._clock.now() + LEAST_USEFUL_LIFE <= ends
            report = AuthorityReport(
                name=report.name,
                kind=report.kind,
                state=("degraded" if problem is not None else "ready") if usable else "unavailable",
                subject=own.subject,
                sha256=own.sha256,
                not_after=ends.timestamp(),
                detail="" if usable else f"the intermediate or its root ends at {ends:%Y-%m-%d %H:%M:%S} UTC",
                remedy="" if usable else "mount a new intermediate now; workloads cannot renew",
            )
        if problem is None or (report.detail and signing is not None):
            return report
        kept = f"; still signing with {signing.pair.chain[0].subject}" if signing is not None else ""
        return AuthorityReport(
            name=report.name,
            kind=report.kind,
            state=report.state,
            subject=report.subject,
            sha256=report.sha256,
            not_after=report.not_after,
            detail=f"{problem}{kept}",
            remedy=problem.remedy,
        )

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on: the self-signed ones of the bundle in force."""
        self._anchors = tuple(anchor for anchor in anchors if anchor.is_self_signed)
        self._judge()

    async def load(self) -> None:
        """Read both files and take them up if they are good; what is wrong is kept for :meth:`describe`."""
        try:
            async with asyncio.timeout(READ_TIMEOUT):
                self._read, self._candidate = await asyncio.to_thread(self._read_files)
        except TimeoutError:
            self._fail(
                AuthorityUnavailable(
                    f"reading its files took over {READ_TIMEOUT:g} s", where=self.config.name
                )
            )
        except AuthorityError as error:
            self._read = self._candidate = None
            self._fail(error)
        self._judge()

    async def run(self) -> None:
        """Keep loading until cancelled."""
        while True:
            await self.load()
            await self._clock.sleep(self.config.poll_seconds)

    def _read_files(self) -> tuple[tuple[bytes, bytes], _Pair]:
        """Both files and what they hold; parsed only when changed, for checking an RSA key takes long."""
        config = self.config
        try:
            read = read_bounded(config.certificate_file, MAX_PEM_BYTES), read_key_file(config.key_file)
            if read == self._read and self._candidate is not None:
                return read, self._candidate
            chain = parse_certificates(read[0], where=str(config.certificate_file))
            return read, _Pair(chain, load_private_key(read[1], where=str(config.key_file)))
        except OSError as error:
            raise AuthorityMisconfigured(
                f"cannot read {error.filename}: {error.strerror}",
                where=config.name,
                reason="file_unreadable",
                remedy="mount chain and key where the configuration says, readable by the signer",
            ) from None
        except InvalidValue as error:
            raise AuthorityMisconfigured(
                str(error), where=config.name, remedy=error.remedy, reason="file_invalid"
            ) from None

    def _judge(self) -> None:
        """Take up the pair that was read if it is good, else keep the one in use if that still is."""
        candidate = self._candidate
        if candidate is not None:
            try:
                self._signing = self._make(candidate)
            except (AuthorityError, AuthorityUnavailable) as error:
                self._fail(error)
            else:
                if self._problem is not None:
                    _logger.info(
                        "the authority signs with %s",
                        candidate.chain[0].subject,
                        extra={"authority": self.config.name, "sha256": candidate.chain[0].sha256},
                    )
                self._problem = None
                return
        if self._signing is not None:
            try:
                self._signing = self._make(self._signing.pair)
            except (AuthorityError, AuthorityUnavailable) as error:
                self._signing = None
                self._fail(error)

    def _make(self, pair: _Pair) -> _Signing:
        """The pair with its way to a root; the same object as before where nothing has changed."""
        if not self._anchors:
            raise AuthorityUnavailable("there is no bundle yet to judge it by", where=self.config.name)
        path = check_intermediate(
            pair.chain,
            pair.key.public_key(),
            self._anchors,
            self._clock.now(),
            trust_domain=self._trust_domain,
        )
        if self._signing is not None and self._signing.pair == pair and self._signing.issuers == path:
            return self._signing
        templates = {profile: LeafTemplate(pair.chain[0], profile) for profile in LeafProfile}
        return _Signing(pair, path, MappingProxyType(templates), signer(pair.key))

    def _fail(self, problem: AuthorityError | AuthorityUnavailable) -> None:
        if str(problem) != str(self._problem):
            _logger.log(
                logging.ERROR if isinstance(problem, AuthorityError) else logging.INFO,
                "the authority's files are not taken up: %s",
                problem.diagnostics(),
                extra={"authority": self.config.name, "reason": problem.reason},
            )
        self._problem = problem

    def _why(self) -> FederationError:
        return self._problem or AuthorityUnavailable("there is no intermediate", where=self.config.name)
