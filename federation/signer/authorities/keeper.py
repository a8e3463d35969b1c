"""The authority in use, and how another one takes its place without failing a request.

A changed configuration makes a new authority. It takes over as soon as it can sign; until then the old one
goes on, and the report says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from federation.core.clock import Clock
from federation.core.config.model import LocalAuthorityConfig
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.signer.authorities.local import LocalAuthority
from federation.state.documents import AuthorityReport


class AuthorityKeeper:
    """Keeps one authority, and exchanges it with the configuration; ``on_change`` is given the new one."""

    def __init__(
        self,
        config: LocalAuthorityConfig,
        *,
        trust_domain: TrustDomain,
        clock: Clock,
        on_change: Callable[[LocalAuthority], None],
    ) -> None:
        self._trust_domain = trust_domain
        self._clock = clock
        self._on_change = on_change
        self._anchors: tuple[Certificate, ...] = ()
        self.current = self._make(config)
        self._next: LocalAuthority | None = None

    def configure(self, config: LocalAuthorityConfig) -> None:
        """Use an authority of this configuration as soon as it can sign."""
        if config == self.current.config:
            self._next = None
        elif self._next is None or config != self._next.config:
            self._next = self._make(config)

    def trust(self, anchors: Iterable[Certificate]) -> None:
        """Judge by these anchors from now on."""
        self._anchors = tuple(anchors)
        for authority in (self.current, self._next):
            if authority is not None:
                authority.trust(self._anchors)

    async def refresh(self) -> None:
        """Look at the files of the authority in use and of its follower, and exchange them if that can sign."""
        await self.current.load()
        follower = self._next
        if follower is None:
            return
        await follower.load()
        if follower is self._next and (follower.issuers or not self.current.issuers):
            self.current, self._next = follower, None
            self._on_change(follower)

    async def run(self) -> None:
        """Keep looking until cancelled."""
        while True:
            await self.refresh()
            await self._clock.sleep(self.current.config.poll_seconds)

    def describe(self) -> AuthorityReport:
        """The authority in use, and why the one that is to follow does not."""
        report = self.current.describe()
        if self._next is None:
            return report
        waiting = self._next.describe()
        return msgspec.structs.replace(
            report,
            state="degraded" if report.state == "ready" else report.state,
            detail="; ".join(
                filter(None, (report.detail, f"{waiting.name} cannot take over: {waiting.detail}"))
            ),
            remedy=waiting.remedy or report.remedy,
        )

    def _make(self, config: LocalAuthorityConfig) -> LocalAuthority:
        authority = LocalAuthority(config, trust_domain=self._trust_domain, clock=self._clock)
        authority.trust(self._anchors)
        return authority
