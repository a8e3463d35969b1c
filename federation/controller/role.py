"""The controller role: waits to lead, leads, and reports either way.

Any number of controllers may run; the store lets one lead. Only that one writes generations and publishes.
The others keep reporting that they are there, so that status shows who would take over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from typing import Final

from federation.controller.leader import Leader, LeadershipLostError
from federation.controller.member import Member, OpensMember
from federation.controller.reporting import STORE_TIMEOUT, ReportWriter, heartbeat
from federation.controller.rotation.operations import OperationMac
from federation.core.clock import Clock
from federation.core.config.types import Address
from federation.core.documents.controller import ControllerReport
from federation.core.documents.encoding import decode
from federation.core.documents.keys import CONTROLLERS
from federation.core.documents.trust import Proposal
from federation.core.errors import StateUnavailable
from federation.runtime.config_source import ConfigSource
from federation.runtime.processes import OpenFiles
from federation.state.store import StateStore

_logger = logging.getLogger(__name__)

LEADERSHIP: Final = "controller"
RETRY: Final = 2.0


class ControllerRole:
    """One controller process.

    ``signer_address`` says where its probes reach the listener, over the configuration. ``open_member`` opens one
    member cluster, as :meth:`Member.open <federation.controller.member.Member.open>` does.
    """

    def __init__(
        self,
        *,
        config: ConfigSource,
        store: StateStore,
        clock: Clock,
        replica: str,
        jitter: random.Random,
        mac: OperationMac,
        signer_address: Address | None = None,
        open_member: OpensMember = Member.open,
    ) -> None:
        self._open_member = open_member
        self._config = config
        self._store = store
        self._clock = clock
        self._replica = replica
        self._jitter = jitter
        self._mac = mac
        self._signer_address = signer_address
        self._started = clock.now().timestamp()
        self._leader: Leader | None = None
        self._cannot_lead = ""
        self._open_files = OpenFiles(clock)
        self._reports = ReportWriter(
            store,
            self._key,
            self.report,
            clock=clock,
            also=lambda: self._leader and self._leader.proves_in_force,
        )
        self._earlier: list[Proposal] = []
        self._former: ControllerReport | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then give leadership up and take the report back."""
        await self._read_earlier()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._keep_leading()), tasks.create_task(self._reports.run())]
            await stop.wait()
            for task in running:
                task.cancel()
        with contextlib.suppress(StateUnavailable, TimeoutError):
            async with asyncio.timeout(STORE_TIMEOUT):
                await self._store.delete(self._key)
        _logger.info("the controller has stopped", extra={"replica": self._replica})

    @property
    def leads(self) -> bool:
        """Whether this controller leads now: not where it has lost its leadership, and its work is still ending."""
        return self._leader is not None and self._leader.leads

    def report(self) -> ControllerReport:
        """What this controller sees now."""
        config = self._config.current
        leader = self._leader if self._leader is not None and self._leader.loaded else None
        base = ControllerReport(
            replica=self._replica,
            started=self._started,
            updated=self._clock.now().timestamp(),
            heartbeat=heartbeat(len(config.clusters)),
            leader=leader is not None,
            ready=not (self._reports.problem or self._cannot_lead),
            reasons=[reason for reason in (self._reports.problem, self._cannot_lead) if reason],
            config_digest=config.digest,
            config_problems=list(self._config.problems),
            warnings=list(config.warnings),
            proposals=self._earlier,
            open_files=self._open_files.count,
            open_files_limit=self._open_files.limit,
        )
        if leader is None:
            return base
        reasons = [*base.reasons, *leader.not_ready()]
        return ControllerReport(
            **{
                name: getattr(base, name) for name in ("replica", "started", "updated", "heartbeat", "leader")
            },
            ready=not reasons,
            reasons=reasons,
            config_digest=base.config_digest,
            config_problems=base.config_problems,
            warnings=base.warnings,
            generation=leader.trust.number,
            sources=leader.source_states(),
            clusters=leader.clusters(),
            matrix=leader.matrix,
            hub=leader.hub.id,
            proposals=leader.proposals(),
            dismissed=leader.dismissed,
            proposals_stored=leader.proposals_stored,
            proposals_problems=leader.proposals_problems,
            rotation=leader.rotation.report,
            listener=leader.listener,
            open_files=base.open_files,
            open_files_limit=base.open_files_limit,
        )

    @property
    def _key(self) -> str:
        return f"{CONTROLLERS}{self._replica}"

    async def _keep_leading(self) -> None:
        while True:
            try:
                await self._lead()
            except* LeadershipLostError:
                _logger.warning("leadership was lost", extra={"replica": self._replica})
            except* StateUnavailable as group:
                error = group.exceptions[0]
                self._cannot_lead = str(error)
                _logger.error("cannot lead: %s", error, extra={"reason": "state_unavailable"})
            await self._clock.sleep(RETRY)

    async def _lead(self) -> None:
        self._cannot_lead = ""
        async with self._store.lead(LEADERSHIP, identity=self._replica) as leadership:
            _logger.info("this controller leads", extra={"replica": self._replica})
            self._leader = Leader(
                config=self._config,
                store=self._store.of_leader(leadership),
                leadership=leadership,
                clock=self._clock,
                replica=self._replica,
                jitter=self._jitter,
                signer_address=self._signer_address,
                changed=self._reports.note_change,
                mac=self._mac,
                former=self._former,
                open_member=self._open_member,
            )
            try:
                await self._leader.run()
            finally:
                self._leader = None

    async def _read_earlier(self) -> None:
        """What a controller of this name reported before it was killed.

        The first report replaces that one, and the leader has to find in it what an earlier version found, which
        is nowhere else.
        """
        with contextlib.suppress(StateUnavailable, TimeoutError):
            async with asyncio.timeout(STORE_TIMEOUT):
                stored = await self._store.read(self._key)
            report = decode(stored.data, ControllerReport, key=self._key) if stored is not None else None
            self._former = report
            if report is not None and not report.proposals_stored:
                self._earlier = report.proposals
