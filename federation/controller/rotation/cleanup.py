"""What processes that are gone have left in the store: removed by the leader once nothing can depend on it.

A process that ends in good order removes its report; one that is killed does not, and in a cluster each has its own
name. How far a signer's leaves reach has to outlive it, or a rotation would forget leaves that are alive. It is removed
only if every bound has ended for longer than its signer itself would keep it, by a clock that another process
confirms, and only in the version that was judged. A signer that is alive after all finds
at its next write that its document is gone, and makes it anew out of its memory (``signer/expiry_bounds.py``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from federation.controller.rotation.observer import report_of, table_of
from federation.core.clock import Clock
from federation.core.config.hub import HubConfig
from federation.core.documents.controller import ControllerReport
from federation.core.documents.encoding import decode
from federation.core.documents.keys import CALLERS, CONTROLLERS, EXPIRY_BOUNDS, PINS, SIGNERS, StateDamaged
from federation.core.documents.signer import SignerReport
from federation.core.errors import StateUnavailable
from federation.state.liveness import is_live
from federation.state.store import StateConflict, StateStore, Stored, read_many

_logger = logging.getLogger(__name__)

EVERY: Final = 60.0  # seconds between two runs
GONE: Final = 86400.0  # seconds without a report after which its writer is not expected any more
SIGNERS_KEEP: Final = 86400.0  # seconds after its end for which a signer itself keeps a bound
MOST_AT_ONCE: Final = 8  # removals of one run

_Found = Mapping[str, Stored | StateDamaged | None]


@dataclass(frozen=True, slots=True)
class Left:
    """A document that may be removed in the version that was judged."""

    key: str
    version: str


class Leftovers:
    """Finds them and removes them. Only the leader may, between two readings of the expiry bounds."""

    def __init__(self, store: StateStore, clock: Clock, allowed: Callable[[], bool]) -> None:
        self._store = store
        self._clock = clock
        self._allowed = allowed
        self._ran_at = clock.monotonic()  # a controller that has just begun to lead has better things to do
        self._problem = ""

    async def remove(self, config: HubConfig) -> None:
        """Remove some, where the time for it has come. What fails is logged and tried again."""
        if self._clock.monotonic() - self._ran_at < EVERY:
            return
        self._ran_at = self._clock.monotonic()
        try:
            for left in (await self._judge(config))[:MOST_AT_ONCE]:
                if self._allowed():
                    await self._remove(left)
        except StateUnavailable as error:
            if str(error) != self._problem:
                _logger.warning("what is left of processes that are gone stays: %s", error.diagnostics())
            self._problem = str(error)
        else:
            self._problem = ""

    async def _remove(self, left: Left) -> None:
        try:
            await self._store.delete(left.key, expected=left.version)
        except StateConflict:
            _logger.info("%s is written again and stays", left.key)
        else:
            _logger.info("%s is removed: its writer is gone, and nothing depends on it", left.key)

    async def _judge(self, config: HubConfig) -> list[Left]:
        now = self._clock.now().timestamp()
        signers = await read_many(self._store, await self._store.keys(SIGNERS))
        expiry_bounds = await read_many(self._store, await self._store.keys(EXPIRY_BOUNDS))
        left = gone_callers(await self._store.keys(CALLERS), signers, expiry_bounds, now=now)
        callers = await read_many(self._store, tuple(left)[:MOST_AT_ONCE])  # each may be large
        left = gone_callers(await self._store.keys(PINS), signers, expiry_bounds, now=now, kind=PINS)
        pins = await read_many(self._store, tuple(left)[:MOST_AT_ONCE])
        controllers = await read_many(self._store, await self._store.keys(CONTROLLERS))
        if not _confirmed(signers, now):
            return []
        skew = config.controller.rotation.skew
        return [
            *ended_expiry_bounds(expiry_bounds, signers, now=now, skew=skew),
            *(Left(key, stored.version) for key, stored in callers.items() if isinstance(stored, Stored)),
            *(Left(key, stored.version) for key, stored in pins.items() if isinstance(stored, Stored)),
            *gone_signers(signers, expiry_bounds, now=now),
            *gone_controllers(controllers, config, now=now),
        ]


def ended_expiry_bounds(expiry_bounds: _Found, signers: _Found, *, now: float, skew: float) -> Iterator[Left]:
    """Bounds of signers that are gone, all of which have ended long ago. What cannot be read stays."""
    for key, stored in expiry_bounds.items():
        if not isinstance(stored, Stored):
            continue
        signer = f"{SIGNERS}{key.removeprefix(EXPIRY_BOUNDS)}"
        if signers.get(signer) is not None and not _is_gone(_signer(signer, signers[signer]), now):
            continue
        try:
            bounds = table_of(key, stored).values()
        except StateDamaged:
            continue
        if all(until + SIGNERS_KEEP + skew < now for until in bounds):
            yield Left(key, stored.version)


def gone_callers(
    keys: Iterable[str], signers: _Found, expiry_bounds: _Found, *, now: float, kind: str = CALLERS
) -> Iterator[str]:
    """Which pods a signer that is gone has issued certificates to, once all of these have ended long ago.

    Those that are alive have taken over what is still of use (``signer/callers.py``). The same goes for the pins
    that it remembered (``kind`` is how their keys begin).
    """
    for key in keys:
        replica = key.removeprefix(kind)
        signer = f"{SIGNERS}{replica}"
        gone = signers.get(signer) is None or _is_gone(_signer(signer, signers[signer]), now)
        if gone and f"{EXPIRY_BOUNDS}{replica}" not in expiry_bounds:
            yield key


def gone_signers(signers: _Found, expiry_bounds: _Found, *, now: float) -> Iterator[Left]:
    """Reports of signers that are gone and whose leaves are: until then their chains are published."""
    for key, stored in signers.items():
        bounds = f"{EXPIRY_BOUNDS}{key.removeprefix(SIGNERS)}"
        if isinstance(stored, Stored) and bounds not in expiry_bounds and _is_gone(_signer(key, stored), now):
            yield Left(key, stored.version)


def gone_controllers(controllers: _Found, config: HubConfig, *, now: float) -> Iterator[Left]:
    """Reports of controllers that are gone, unless they alone name a proposal that is still open.

    Since proposals are documents of their own, only reports of earlier versions do, until a leader has taken them over.
    """
    reports = {key: _controller(key, stored) for key, stored in controllers.items()}
    live = [report for report in reports.values() if report is not None and is_live(report, now)]
    known = {(proposal.cluster, proposal.sha256) for report in live for proposal in report.proposals}
    registered = {str(cluster.name) for cluster in config.clusters}
    taken_over = any(report.leader and report.proposals_stored for report in live)
    for key, stored in controllers.items():
        report = reports[key]
        if report is None or not isinstance(stored, Stored) or not _is_gone(report, now):
            continue
        proposals = ((p.cluster, p.sha256) for p in report.proposals if p.sha256 not in config.trust.pins)
        if (
            taken_over
            or report.proposals_stored
            or all(proposal in known or proposal[0] not in registered for proposal in proposals)
        ):
            yield Left(key, stored.version)


def _confirmed(signers: _Found, now: float) -> bool:
    """Whether another process takes it for the same time: by a clock that is ahead, everything has ended."""
    reports = (_signer(key, stored) for key, stored in signers.items())
    return any(report is not None and is_live(report, now) for report in reports)


def _is_gone(report: SignerReport | ControllerReport | None, now: float) -> bool:
    """A report that cannot be read says nothing about its writer."""
    return report is not None and now - report.updated > GONE


def _signer(key: str, stored: Stored | StateDamaged | None) -> SignerReport | None:
    try:
        return report_of(key, stored) if stored is not None else None
    except StateDamaged:
        return None


def _controller(key: str, stored: Stored | StateDamaged | None) -> ControllerReport | None:
    try:
        return decode(stored.data, ControllerReport, key=key) if isinstance(stored, Stored) else None
    except StateDamaged:
        return None
