"""The leader's first duty: from the configured sources to the generation in force, again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from federation.controller.generations import InForce, Ledger, bundle_of, plan_generation
from federation.controller.sources.files import Content, SourceFiles
from federation.controller.sources.intermediates import gather_intermediates
from federation.controller.sources.pinned import Gathered, gather_pins
from federation.controller.sources.plan import combine, plan_bundle
from federation.controller.sources.reported import REPORTED, reported_chains
from federation.controller.trust_state import TrustState
from federation.core.clock import Clock
from federation.core.config.authority_model import certificate_file
from federation.core.config.model import HubConfig
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.pki.certificate import Certificate
from federation.core.trust.bundle import TrustBundle
from federation.state.store import StateConflict, StateStore

MOST_NUMBERS: Final = 50
"""Older generations that are recognised in what clusters still hold."""

_log = logging.getLogger(__name__)


class TrustSources:
    """Keeps the generation in force what configuration and sources say. Only the leader may run it."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        store: StateStore,
        trust: TrustState,
        author: str,
        clock: Clock,
        allowed: Callable[[], bool],
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._trust = trust
        self._author = author
        self._clock = clock
        self._allowed = allowed
        self._files = SourceFiles()
        self._known: dict[str, Certificate] = {}
        self.states: dict[str, str] = {}
        """Each source: ``ok``, or why its last known good is used."""
        self.held_back = ""
        """Why the bundle is not what the configuration asks for; empty where it is."""
        self.problem: StateUnavailable | None = None

    async def update(self, config: HubConfig) -> bool:
        """Look at every source once; True where another generation is in force than before.

        What fails is kept in :attr:`states`, :attr:`held_back` and :attr:`problem`, and changes nothing.
        """
        try:
            in_force = await self._ledger.read()
            changed = await self._adopt(in_force)
            bundle = await self._plan(config, in_force)
            if bundle is not None:
                changed = await self._advance(bundle, in_force, config) or changed
        except StateConflict as error:
            _log.info("another controller wrote first: %s", error)
            return False
        except (StateUnavailable, InvalidValue) as error:
            problem = error if isinstance(error, StateUnavailable) else StateUnavailable(str(error))
            if str(problem) != str(self.problem):
                _log.error(
                    "generations cannot be kept: %s", error.diagnostics(), extra={"reason": error.reason}
                )
            self.problem = problem
            return False
        self.problem = None
        return changed

    async def _adopt(self, in_force: InForce) -> bool:
        """Work by what the store says, unless that went backwards."""
        generation = in_force.generation
        if (
            generation is None
            or generation.number < self._trust.number
            or generation == self._trust.generation
        ):
            return False
        if not self._trust.numbers:
            self._trust.numbers.update(await self._ledger.numbers(most=MOST_NUMBERS))
        self._trust.adopt(generation)
        return True

    async def _plan(self, config: HubConfig, in_force: InForce) -> TrustBundle | None:
        gathered = await self._gather(config, in_force)
        for source, state in gathered.sources.items():
            if state != self.states.get(source):
                level = logging.INFO if state == "ok" else logging.ERROR
                _log.log(level, "trust source %s: %s", source, state, extra={"source": source})
        self.states = dict(gathered.sources)
        plan = plan_bundle(gathered, bundle_of(in_force.generation) if in_force.generation else None)
        if plan.held_back and plan.held_back != self.held_back:
            _log.error("the bundle stays as it is: %s", plan.held_back, extra={"reason": "held_back"})
        self.held_back = plan.held_back
        return plan.bundle

    async def _gather(self, config: HubConfig, in_force: InForce) -> Gathered:
        pins = config.trust.anchors
        file = certificate_file(config.signer.authority) if config.trust.publish_intermediates else None
        wanted = [pin.file for pin in pins]
        contents = await self._files.read(wanted if file is None else [*wanted, file])
        published = bundle_of(in_force.generation).certificates if in_force.generation else ()
        known = self._known | {certificate.sha256: certificate for certificate in published}
        gathered = gather_pins(pins, contents, known)
        self._known = {anchor.certificate.sha256: anchor.certificate for anchor in gathered.anchors}
        if not config.trust.publish_intermediates:
            return gathered
        chain = await reported_chains(self._store) if file is None else contents.get(file, Content())
        return combine(
            gathered,
            gather_intermediates(
                REPORTED if file is None else str(file),
                chain,
                anchors=gathered.anchors,
                known=[certificate for certificate in published if not certificate.is_self_signed],
                trust_domain=config.trust_domain,
                at=self._clock.now(),
            ),
        )

    async def _advance(self, bundle: TrustBundle, in_force: InForce, config: HubConfig) -> bool:
        generation = plan_generation(
            bundle,
            in_force,
            now=self._clock.now(),
            author=self._author,
            trust_domain=config.trust_domain,
            floor=self._trust.number,
            evidence={"configuration": config.digest},
        )
        if generation is None or not self._allowed():
            return False
        await self._ledger.put_in_force(generation, in_force)
        self._trust.adopt(generation)
        return True
