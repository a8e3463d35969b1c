"""Every back end: certificates per second through its authority, compared with what limits it.

Measured is the authority as the signer's slot builds it, with limiter and circuit breaker, for 64 callers with P-256
keys; every leaf is verified as it is before delivery. Quotas are lifted, or they would be what is measured. The rate is
compared with the lower of two limits measured at the same time: the back end's own (``limits.py``), and that of the hub
with a local key, which is what one signer process issues to 64 callers of its listener. The three are measured in
turns, so that they run on an equally busy machine. The authority is only a part of the signer: each line also has what
one core of a whole signer would issue with that back end, computed from the CPU time of both.

The servers of the tests run in a process of their own on the last core, which the hub does not use. A real Vault or
OpenBao is measured where FEDERATION_REAL_VAULT names one, otherwise that of the tests.
"""

from __future__ import annotations

import asyncio
import base64
import os
import pickle
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import count
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from federation.core.config.authorities.settings import (
    AuthorityConfig,
    AwsPcaAuthorityConfig,
    RemoteAuthorityConfig,
)
from federation.core.errors import FederationError
from federation.core.pki.certificate import Certificate
from federation.core.pki.development import generate_key
from federation.core.pki.keys import KeyKind
from federation.core.pki.leaf import draw_serial
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import (
    Alarms,
    AuthoritySettings,
    LeafRequest,
    ManagedAuthority,
    issue_checked,
)
from federation.signer.authorities.authority_set import AuthoritySlot, SlotContext
from tests.authorities.aws_world import with_keys
from tests.authorities.back_end import SERVER_NAME, back_end_context, order
from tests.authorities.real_vault import ADDRESS
from tests.bench.callers import Crowd, Load, cycle
from tests.bench.limits import Limit, limit_of
from tests.bench.processes import leaving_a_core, own_cpu
from tests.bench.report import Line, Report, at_least
from tests.bench.rig import Child, child, sandbox_rig
from tests.bench.signing import Result, load, prepare_calls

GROUP = "Back ends, through their authorities"
CALLERS = 64
TOKENS = 300
SHARE = 0.8
AWS_PCA_QUOTA = 25.0  # IssueCertificate, a second: moto has none, and the pace of the hub is made for it
DEADLINE = 20.0  # the listener's is 10 s; a server that shares two cores with its callers gets longer

HERE = ("local", "pkcs11")
"""Libraries of this process, opened in it."""

ELSEWHERE = ("conjur", "vault", "vault_transit", "cert_manager", "aws_kms", "aws_pca")
REAL = {"vault": "real_vault", "vault_transit": "real_vault_transit"}

OWN_LIMITS = {
    "local": "raw P-256 signatures",
    "conjur": "raw P-256 signatures",
    "pkcs11": "raw signatures of SoftHSM2",
    "vault": "raw answers of the tests' server",
    "vault_transit": "raw answers of the tests' server",
    "real_vault": "raw answers of the real server",
    "real_vault_transit": "raw answers of the real server",
    "cert_manager": "create, issue, delete at the tests' cluster",
    "aws_kms": "raw answers of moto",
    "aws_pca": "AWS's quota, far below moto's raw answers",
}


@dataclass
class Turns:
    """Certificates per second in each turn, and microseconds of CPU for one: the authority's, the whole signer's."""

    authority: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)
    hub: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    hub_cpu: list[float] = field(default_factory=list)
    failed: int = 0
    failure: str = ""

    @property
    def ratio(self) -> float:
        """The median of the turns' own ratios."""
        every = zip(self.authority, self.own, self.hub, strict=True)
        return statistics.median(rate / min(own, hub) for rate, own, hub in every)

    @property
    def whole(self) -> float:
        """Certificates per second that one core of a signer would issue with this back end."""
        return 1e6 / (statistics.median(self.cpu) + statistics.median(self.hub_cpu))


@dataclass
class HubLimit:
    """One signer process with a local key, asked through its listener."""

    crowd: Crowd
    servers: list[Child]

    async def measure(self, seconds: float) -> Result:
        """What 64 callers get."""
        return await load(self.crowd, self.servers, CALLERS, seconds)


@asynccontextmanager
async def hub_limit(directory: Path) -> AsyncIterator[HubLimit]:
    """A signer for one cluster in a box; idle until it is measured."""
    async with sandbox_rig(directory, ["east"]) as rig:
        await rig.write_generation()
        calls = await prepare_calls(rig, "east", TOKENS)
        async with rig.signers(1) as servers, rig.crowd(cycle(calls)) as crowd:
            hub = HubLimit(crowd, servers)
            await hub.measure(1.0)  # warm
            yield hub


@asynccontextmanager
async def kept(settings: AuthoritySettings, root: Certificate) -> AsyncIterator[ManagedAuthority]:
    """The authority as a signer's slot makes it, ready to sign."""
    back_ends = replace(back_end_context(), hosts=lambda: (SERVER_NAME,))
    context = SlotContext(back_ends=back_ends, deadline=DEADLINE, lifetime=lambda: 3600.0)
    slot = AuthoritySlot(settings, context, on_change=lambda: None)
    slot.trust((root,))
    try:
        await slot.refresh()
        yield slot.current
    finally:
        await slot.current.close()


def without_quota(config: AuthorityConfig) -> AuthorityConfig:
    return replace(config, quota=0.0) if isinstance(config, RemoteAuthorityConfig) else config


class Callers:
    """Callers of one authority: each requests its next certificate as soon as it has one."""

    def __init__(self, authority: ManagedAuthority, root: Certificate, requests: list[LeafRequest]) -> None:
        self._authority = authority
        self._root = root
        self._requests = requests
        self._numbers = count()
        self._clock = SystemClock()
        self._alarms = Alarms(self._clock)
        self.failure = ""

    async def once(self) -> None:
        """Request one certificate."""
        number = next(self._numbers)
        wanted = msgspec.structs.replace(
            self._requests[number % len(self._requests)],
            serial=draw_serial(os.urandom),
            cluster=f"c{number % 8}",
        )
        await issue_checked(
            self._authority, wanted, anchors=(self._root,), at=self._clock.now(), alarms=self._alarms
        )

    async def load(self, seconds: float) -> Load:
        """Run all callers for about this many seconds, until the last has its certificate."""
        found, began = Load(0.0), time.perf_counter()

        async def keep_asking() -> None:
            while (now := time.perf_counter()) < began + seconds:
                try:
                    await self.once()
                except FederationError as error:
                    found.failed += 1
                    self.failure = error.diagnostics()
                    await asyncio.sleep(0.05)
                else:
                    found.latencies.append(time.perf_counter() - now)

        await asyncio.gather(*(keep_asking() for _ in range(CALLERS)))
        found.seconds = time.perf_counter() - began
        return found


async def take_turns(callers: Callers, own: Limit, hub: HubLimit, *, turns: int, seconds: float) -> Turns:
    found = Turns()
    await callers.load(seconds / 2)  # warm
    await own(seconds / 4)
    for _ in range(turns):
        signer = await hub.measure(seconds)
        found.hub.append(signer.load.rate)
        found.hub_cpu.append(signer.micros)
        found.own.append(await own(seconds))
        with own_cpu() as used:
            got = await callers.load(seconds)
        found.authority.append(got.rate)
        found.cpu.append(used[0] / max(1, len(got.latencies)) * 1e6)
        found.failed += got.failed
    found.failure = callers.failure
    return found


Opened: TypeAlias = tuple[AuthoritySettings, Certificate]


@asynccontextmanager
async def opened(kind: str, directory: Path, core: int) -> AsyncIterator[Opened]:
    """Settings and root of a back end. Raises Missing where it cannot be had."""
    if kind in HERE:
        try:
            async with import_module(f"tests.authorities.of_{kind}").open_back_end(directory) as back_end:
                yield back_end.settings, back_end.root
        except pytest.skip.Exception as skipped:
            raise Missing(str(skipped.msg)) from None
        return
    with child(directory, kind, "tests.bench.back_end_host", kind, str(directory), str(core)) as host:
        said = host.answer()
        if "missing" in said:
            raise Missing(said["missing"])
        settings = pickle.loads(base64.b64decode(said["settings"]))  # of our own child
        yield settings, parse_certificates(said["root"].encode(), where="root")[0]


class Missing(Exception):
    """The back end cannot be had on this machine."""


async def measure(kind: str, directory: Path, hub: HubLimit, *, turns: int, seconds: float) -> Turns:
    with leaving_a_core() as core:
        async with opened(kind, directory, core) as (settings, root):
            return await measure_opened(settings, root, hub, turns=turns, seconds=seconds)


async def measure_opened(
    settings: AuthoritySettings, root: Certificate, hub: HubLimit, *, turns: int, seconds: float
) -> Turns:
    config = without_quota(settings.authority)
    requests = [order(key=generate_key(KeyKind.EC_P256)) for _ in range(CALLERS)]
    async with (
        kept(replace(settings, authority=config), root) as authority,
        limit_of(config, requests[0]) as own,
    ):
        callers = Callers(authority, root, requests)
        found = await take_turns(callers, own, hub, turns=turns, seconds=seconds)
        if isinstance(config, AwsPcaAuthorityConfig):
            found.own = [min(rate, AWS_PCA_QUOTA) for rate in found.own]
        return found


def rows(report: Report, kind: str, found: Turns) -> None:
    rate, own = statistics.median(found.authority), statistics.median(found.own)
    cpu = statistics.median(found.cpu)
    note = f"{OWN_LIMITS[kind]}: {own:,.0f}/s; {cpu:,.0f} us CPU here: {found.whole:,.0f}/s a core with the listener"
    if found.failed:
        note += f"; {found.failed} FAILED: {found.failure}"
    report.add(Line(GROUP, f"{kind}, {CALLERS} callers", rate, "/s", note=note))
    lower = "its own" if own < statistics.median(found.hub) else "the hub's with a local key"
    report.add(Line(GROUP, f"{kind} over the lower limit", found.ratio, "x", at_least(SHARE), lower))


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    turns, seconds = (3, 0.5) if quick else (5, 2.0)
    real = bool(os.environ.get(ADDRESS))
    kinds = [*HERE, *(REAL.get(kind, kind) if real else kind for kind in ELSEWHERE)]
    hub_rates: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        with_keys(patch)
        async with hub_limit(directory / "hub") as hub:
            for kind in kinds:
                place = directory / kind
                place.mkdir()
                try:
                    found = await measure(kind, place, hub, turns=turns, seconds=seconds)
                except Missing as missing:
                    name = f"{kind} over the lower limit"
                    report.add(Line(GROUP, name, None, "x", at_least(SHARE), str(missing)))
                    continue
                rows(report, kind, found)
                hub_rates += found.hub
    limit = statistics.median(hub_rates)
    report.add(Line(GROUP, f"hub with a local key, {CALLERS} callers of its listener", limit, "/s"))
