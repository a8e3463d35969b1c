"""The leader's first duty: from the configured sources to the generation in force, again and again.

**Intermediates** get into the bundle where the operator asks for them: the public part of the authority's chain. The
controller has no key and reads none: only the certificate file is opened, and where the authority has none (a service
that issues from requests), what the signers report of its chain is taken. An intermediate gets in only if it reaches
a pinned anchor by the hub's own path validation, and goes out of the bundle with that anchor: one that is trusted by
itself would outlive its root (Envoy validates with partial chains).

**Reported chains** are public, and nothing of them is believed: what does not reach a pinned anchor never gets in.
Reports of signers that are gone count as well, since their leaves may be alive. Where one report cannot be read, what
the others say is not all there is: that is reported as a problem, and the last known good stays in the bundle.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from federation.controller.generations import InForce, Ledger, bundle_of, plan_generation, require_mesh
from federation.controller.in_force import TrustState
from federation.controller.sources.anchors import (
    OK,
    BundlePlan,
    FileContent,
    Gathered,
    SourceFiles,
    combine,
    gather_pins,
    gather_retained,
    plan_bundle,
    roots_in_force,
)
from federation.core.clock import Clock
from federation.core.config.authorities.settings import certificate_file
from federation.core.config.hub import HubConfig
from federation.core.documents.encoding import decode
from federation.core.documents.keys import SIGNERS, StateDamaged
from federation.core.documents.signer import SignerReport
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue, StateUnavailable
from federation.core.identity import TrustDomain
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.path_rules import Purpose
from federation.core.pki.pem import parse_certificates
from federation.core.rotation.effects import clusters_behind, published
from federation.core.rotation.record import RotationRecord, Setback, State
from federation.core.trust.bundle import Anchor, TrustBundle
from federation.state.store import StateConflict, StateStore, read_many

_logger = logging.getLogger(__name__)


def gather_intermediates(
    source: str,
    content: FileContent,
    *,
    anchors: Sequence[Anchor],
    known: Sequence[Certificate],
    trust_domain: TrustDomain,
    at: datetime,
) -> Gathered:
    """The intermediates of the source that reach an anchor; ``known`` are those in the bundle in force.

    Where the source gives none, those known stay while their anchor does. Nothing here is ever lacking:
    leaves come with their intermediates, so a bundle without them still validates.
    """
    roots = [anchor.certificate for anchor in anchors]
    state = OK
    try:
        chain = _chain(content, roots, at)
    except InvalidValue as error:
        chain = tuple(certificate for certificate in known if _reaches(certificate, known, roots, at))
        retained = f"{len(chain)} known before stay in the bundle" if chain else "none was known before"
        state = f"{error.what}; {retained}"
    found = tuple(
        Anchor(
            certificate=certificate,
            origin=f"the authority's chain, read from {source}",
            kind="intermediate",
            trust_domain=trust_domain,
        )
        for certificate in chain
    )
    return Gathered(found, {f"{source} (intermediates)": state})


def _chain(content: FileContent, roots: Sequence[Certificate], at: datetime) -> tuple[Certificate, ...]:
    if content.problem:
        raise InvalidValue(content.problem)
    certificates = parse_certificates(content.data, where="")
    below = tuple(c for c in certificates if not c.is_self_signed)
    if not below:
        raise InvalidValue("it holds no intermediate")
    for certificate in below:
        rest = tuple(c for c in below if c != certificate)
        verify_chain((certificate, *rest), roots, at, purpose=Purpose.AUTHORITY)
    return below


def _reaches(
    certificate: Certificate, known: Sequence[Certificate], roots: Sequence[Certificate], at: datetime
) -> bool:
    try:
        verify_chain((certificate, *known), roots, at, purpose=Purpose.AUTHORITY)
    except InvalidValue:
        return False
    return True


MOST_SIGNERS: Final = 256

REPORTED: Final = "the signers' reports of the authority"


async def reported_chains(store: StateStore) -> FileContent:
    """Every intermediate that any signer reports, each once; or in words why it is not known what they report."""
    chains: dict[str, None] = {}
    try:
        keys = await store.keys(SIGNERS)
        if len(keys) > MOST_SIGNERS:
            return FileContent(
                problem=f"{len(keys)} signers have reports, and {MOST_SIGNERS} are read at most"
            )
        for key, stored in (await read_many(store, keys)).items():
            if isinstance(stored, StateDamaged):
                raise stored
            report = decode(stored.data, SignerReport, key=key) if stored is not None else None
            for authority in (report.authority, report.successor) if report is not None else ():
                if authority is not None and authority.chain_pem:
                    chains[authority.chain_pem] = None
    except StateUnavailable as error:
        return FileContent(problem=str(error))
    if not chains:
        return FileContent(problem="no signer reports the authority's chain yet")
    return FileContent("".join(chains).encode())


MOST_SETBACKS: Final = 10
MOST_NUMBERS: Final = 50
"""Older generations that are recognised in what clusters still hold."""


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
        self.withheld: str | None = None
        """Why the bundle is not what the configuration asks for; None where it is."""
        self.problem: StateUnavailable | None = None
        self._lost: Generation | None = None
        self._set_back = (0, 0)
        self.setbacks: list[Setback] = []
        """The last times that what is in force was found to be set back."""

    async def update(self, config: HubConfig, record: RotationRecord | None) -> bool:
        """Read every source once; True where another generation is in force for any cluster than before.

        ``record`` says which pinned roots a rotation withholds or has removed, and which clusters wait for their
        wave; without it (it cannot be read) no other generation is made. What fails is reported in :attr:`states`,
        :attr:`withheld` and :attr:`problem`, and changes nothing.
        """
        changed = False  # what was adopted stays adopted, whatever goes wrong after that
        try:
            in_force = await self._ledger.read()
            require_mesh(in_force, config.trust_domain)
            await self._recover(in_force)
            changed = await self._adopt(in_force)
            bundle = await self._plan(config, in_force, record) if record is not None else None
            if bundle is not None and record is not None:
                changed = await self._advance(bundle, in_force, config, clusters_behind(record)) or changed
        except StateConflict as error:
            _logger.info("another controller wrote first: %s", error)
            return changed
        except (StateUnavailable, InvalidValue) as error:
            problem = error if isinstance(error, StateUnavailable) else StateUnavailable(str(error))
            if str(problem) != str(self.problem):
                _logger.error(
                    "generations cannot be persisted: %s", error.diagnostics(), extra={"reason": error.reason}
                )
            self.problem = problem.without_frames()
            return changed
        self.problem = None
        return changed

    @property
    def unwritten(self) -> str | None:
        """Why what is in force may not be what was wanted at the last reading; None where nothing is known."""
        if self.withheld is not None:
            return self.withheld
        return str(self.problem) if self.problem is not None else None

    async def _adopt(self, in_force: InForce) -> bool:
        """Work by what the store says, unless that went backwards."""
        generation = in_force.generation
        self._look_back(in_force)
        if (
            generation is None
            or generation.number < self._trust.number
            or (generation == self._trust.generation and in_force.behind == self._trust.behind)
        ):
            return False
        if not self._trust.numbers:
            self._trust.numbers.update(await self._ledger.numbers(most=MOST_NUMBERS))
        self._trust.adopt(generation, in_force.behind)
        return True

    async def _recover(self, in_force: InForce) -> None:
        """Read the generation that signers have delivered where the store names an older one."""
        delivered, self._lost = self._trust.delivered, None
        if in_force.generation is not None and self._trust.number < delivered > in_force.generation.number:
            self._lost = await self._ledger.generation(delivered)

    def _look_back(self, in_force: InForce) -> None:
        """Note where the store names an older generation than this process has seen in force."""
        number = in_force.generation.number if in_force.generation is not None else 0
        known = max(self._trust.number, self._trust.delivered)
        if number >= known:
            self._set_back = (0, 0)
            return
        if (number, known) == self._set_back:
            return
        self._set_back = (number, known)
        found = Setback(
            at=self._clock.now().timestamp(),
            what=f"generation {number} was found in force in the state store, and {known} had been",
            done="a generation above both is made of what is pinned and of what was in force; no anchor is taken away",
        )
        _logger.error("the state was set back: %s; %s", found.what, found.done)
        self.setbacks = [*self.setbacks, found][-MOST_SETBACKS:]

    async def _plan(self, config: HubConfig, in_force: InForce, record: RotationRecord) -> TrustBundle | None:
        gathered = await self._gather(config, in_force, record)
        for source, state in gathered.sources.items():
            if state != self.states.get(source):
                level = logging.INFO if state == "ok" else logging.ERROR
                _logger.log(level, "trust source %s: %s", source, state, extra={"source": source})
        self.states = dict(gathered.sources)
        anchors = bundle_of(in_force.generation) if in_force.generation else None
        unpinned = _unpinned(config, record, self._roots_in_force(in_force))
        plan = BundlePlan(None, unpinned) if unpinned is not None else plan_bundle(gathered, anchors)
        if plan.withheld is not None and plan.withheld != self.withheld:
            _logger.error("the bundle stays as it is: %s", plan.withheld, extra={"reason": "withheld"})
        self.withheld = plan.withheld
        return plan.bundle

    async def _gather(self, config: HubConfig, in_force: InForce, record: RotationRecord) -> Gathered:
        roots = published(record, config.trust.pins, config.trust.staged, self._roots_in_force(in_force))
        file = certificate_file(config.signer.authority) if config.trust.publish_intermediates else None
        wanted = [pin.file for pin in config.trust.anchors]
        contents = await self._files.read(wanted if file is None else [*wanted, file])
        anchors = bundle_of(in_force.generation).certificates if in_force.generation else ()
        known = self._known | {certificate.sha256: certificate for certificate in anchors}
        every = gather_pins(config.trust.anchors, contents, known)
        retained = gather_retained(
            roots - config.trust.pins,
            await self._generations_with(roots - config.trust.pins, in_force, record),
        )
        self._known = {a.certificate.sha256: a.certificate for a in (*every.anchors, *retained.anchors)}
        pins = [pin for pin in config.trust.anchors if pin.sha256 in roots]
        gathered = combine(gather_pins(pins, contents, self._known), retained)
        if not config.trust.publish_intermediates:
            return gathered
        chain = await reported_chains(self._store) if file is None else contents.get(file, FileContent())
        return combine(
            gathered,
            gather_intermediates(
                REPORTED if file is None else str(file),
                chain,
                anchors=gathered.anchors,
                known=[certificate for certificate in anchors if not certificate.is_self_signed],
                trust_domain=config.trust_domain,
                at=self._clock.now(),
            ),
        )

    def _roots_in_force(self, in_force: InForce) -> frozenset[str]:
        """The roots of every generation that some cluster gets, and of the one that this process knows to be in force.

        The latter counts where the state store was set back.
        """
        return frozenset(roots_in_force(self._generations(in_force), 0.0))

    def _newest(self, in_force: InForce) -> tuple[Generation | None, Mapping[str, Generation]]:
        """The newest generation that was in force, and which clusters were given an older one.

        Where the state store was set back, what it names may lack a root that is signed under by now: no gate waits
        for a wave with that. Then it is what this process knows, or what signers deliver.
        """
        if in_force.generation is not None and in_force.generation.number < self._trust.number:
            return self._trust.generation, self._trust.behind
        if self._lost is not None:
            return self._lost, {}
        return in_force.generation, in_force.behind

    def _generations(self, in_force: InForce) -> list[Generation]:
        found = [in_force.generation, *in_force.behind.values(), self._trust.generation, self._lost]
        return [generation for generation in found if generation is not None]

    async def _generations_with(
        self, wanted: frozenset[str], in_force: InForce, record: RotationRecord
    ) -> list[Generation]:
        """The generations that the bytes of these anchors may be read from."""
        found = self._generations(in_force)
        lacking = wanted - roots_in_force(found, 0.0).keys()
        for number in sorted(
            {record.unpinned[sha256].generation for sha256 in lacking & record.unpinned.keys()}
        ):
            generation = await self._ledger.generation(number)
            found += [generation] if generation is not None else []
        return found

    @property
    def roots(self) -> tuple[Certificate, ...]:
        """Every root that could be read and is pinned, published or not, or is published still."""
        return tuple(self._known.values())

    async def _advance(
        self, bundle: TrustBundle, in_force: InForce, config: HubConfig, waiting: frozenset[str]
    ) -> bool:
        before = in_force.generation
        newest, given = self._newest(in_force)
        behind = {name: given.get(name, newest) for name in sorted(waiting) if newest is not None}
        generation = plan_generation(
            bundle,
            in_force,
            now=self._clock.now(),
            author=self._author,
            trust_domain=config.trust_domain,
            floor=max(self._trust.number, self._trust.delivered),
            evidence={"configuration": config.digest},
        )
        if not self._allowed():
            return False
        if generation is not None:
            await self._ledger.keep(behind.values())
            in_force = await self._ledger.put_in_force(generation, in_force, behind=behind)
        elif behind.keys() != in_force.behind.keys() and before is not None:
            waves_left = {name: older for name, older in in_force.behind.items() if name in waiting}
            if waves_left == in_force.behind:
                return False  # a removal that begins makes a generation first
            in_force = await self._ledger.put_behind(in_force, waves_left)
        else:
            return False
        if in_force.generation is not None:
            self._trust.adopt(in_force.generation, in_force.behind)
        return True


def _unpinned(config: HubConfig, record: RotationRecord, anchors: frozenset[str]) -> str | None:
    """Why a rotation cannot go on with these pins; None where it can. A pin taken out early changes nothing."""
    rotation = record.under_way
    if rotation is None:
        return None
    lacking = {rotation.old.root, rotation.new.root} - config.trust.pins - anchors - record.unpinned.keys()
    if rotation.state is State.UNPUBLISHING:
        lacking -= {rotation.old.root}  # what goes needs no pin
    if not lacking:
        return None
    return (
        f"rotation {rotation.number} is under way and the configuration no longer pins "
        f"{', '.join(sorted(lacking))}: pin it again, or abort the rotation first"
    )
