"""Certificates per second through the real listener: TLS, gRPC, token, CSR, policy, signature, chain.

The signer runs as its own process on credentials that the member manifests grant; callers are connections of
their own, as Istio's agents are. Signer CPU is counted by the kernel, so that the callers' share of the
machine does not distort it; rates are what two cores gave for signer, callers and cluster together.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.identity import ServiceAccountRef, SpiffeId
from federation.core.istio.ca_protocol import METHOD, decode_response
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.path_rules import Purpose
from federation.core.pki.pem import parse_certificates
from federation_sandbox.box import SERVER_NAME, DevelopmentCa, private_key_pem
from federation_sandbox.ports import free_port
from tests.bench.callers import Call, Crowd, Load, cycle, header_block
from tests.bench.handler import TRUST_DOMAIN, requests
from tests.bench.processes import cpu_seconds, resident_bytes
from tests.bench.report import Line, Report, at_least, at_most
from tests.bench.rig import Child, Rig, child, real_kubeconfigs, real_rig, sandbox_rig, serves

GROUP = "Signing, through TLS and gRPC"
LEVELS = (1, 16, 64, 256)
ACCOUNT = ServiceAccountRef("shop", "cart")
IDLE = 400


@dataclass
class Result:
    """A load and what the servers spent on it."""

    load: Load
    cpu: float

    @property
    def micros(self) -> float:
        """Microseconds of server CPU for one answered call."""
        return self.cpu / max(1, len(self.load.latencies)) * 1e6


async def prepare_calls(rig: Rig, name: str, count: int) -> list[Call]:
    """Calls with a token each, all of one pod's."""
    pod = await rig.members[name].world.add_workload(ACCOUNT.namespace, ACCOUNT.name)
    return await calls_of(rig, name, ACCOUNT, pod, count)


async def calls_of(
    rig: Rig, name: str, account: ServiceAccountRef, pod: str, count: int, *, life: int = 3600
) -> list[Call]:
    """Calls of that pod, which is there and runs as that account, with a token each that lives so many seconds."""
    world = rig.members[name].world
    messages = requests(SpiffeId(TRUST_DOMAIN, account), min(count, 64))
    slots = asyncio.Semaphore(16)

    async def one(number: int) -> Call:
        async with slots:
            token = await world.token(
                account.namespace, account.name, pod=pod, audience="istio-ca", seconds=life
            )
        headers = {"authorization": f"Bearer {token}", "clusterid": str(rig.members[name].cluster_id)}
        return Call(header_block(METHOD, SERVER_NAME, headers), messages[number % len(messages)])

    return list(await asyncio.gather(*(one(number) for number in range(count))))


async def load(crowd: Crowd, servers: list[Child], callers: int, seconds: float) -> Result:
    """Run a closed loop of this many callers; the result has the CPU time that these servers spent on it."""
    await crowd.grow(callers)
    before = cpu_seconds(server.pid for server in servers)
    done = await crowd.closed_loop(callers, seconds)
    await asyncio.sleep(0.05)
    return Result(done, cpu_seconds(server.pid for server in servers) - before)


def check(crowd: Crowd, root: Certificate) -> int:
    """Verify the first reply of every caller as a workload would; how many were verified."""
    checked = 0
    for caller in crowd.callers:
        if caller.first_reply:
            elements = decode_response(caller.first_reply[5:])
            leaf, *issuers = [parse_certificates(e.encode(), where="reply")[0] for e in elements[:-1]]
            now = datetime.now(UTC)
            verify_chain((leaf, *issuers), [root], now, purpose=Purpose.CLIENT)
            checked += 1
    return checked


def rows(report: Report, label: str, callers: int, result: Result) -> None:
    done = result.load
    note = f"p50 {done.quantile(0.5) * 1e3:.1f} ms, p99 {done.quantile(0.99) * 1e3:.1f} ms"
    if done.failed:
        note += f", {done.failed} FAILED"
    report.add(Line(GROUP, f"{label}, {callers} callers", done.rate, "/s", note=note))


async def levels(
    report: Report, rig: Rig, servers: list[Child], calls: Iterator[Call], seconds: float
) -> None:
    """Every number of callers in turn."""
    async with rig.crowd(calls) as crowd:
        await load(crowd, servers, 16, seconds / 4)  # warm
        for callers in LEVELS:
            rows(report, "token keys", callers, await load(crowd, servers, callers, seconds))
        verified = check(crowd, rig.ca.root)
        assert verified == max(LEVELS), f"only {verified} callers have got a good certificate"


def serving_pair_files(ca: DevelopmentCa, directory: Path) -> tuple[Path, Path]:
    """Chain and key of a serving certificate right under the root, for servers that are not the hub's."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(ca.root.x509.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(SERVER_NAME)]), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.root_key.public_key()), critical=False
        )
    )
    certificate = Certificate.from_der(
        builder.sign(ca.root_key, hashes.SHA256()).public_bytes(serialization.Encoding.DER), where="bench"
    )
    chain, key_file = directory / "empty.pem", directory / "empty.key"
    chain.write_bytes(certificate.pem)
    key_file.touch(mode=0o600)
    key_file.write_bytes(private_key_pem(key))
    return chain, key_file


@contextlib.asynccontextmanager
async def empty_server(rig: Rig, calls: Iterator[Call]) -> AsyncIterator[tuple[Child, Crowd]]:
    """The same gRPC server with an empty listener, and callers of it."""
    chain, key = serving_pair_files(rig.ca, rig.directory)
    port = free_port()
    with child(
        rig.directory, "empty", "tests.bench.empty_listener", str(port), str(chain), str(key)
    ) as server:
        await serves(port, server)
        async with Crowd(
            "127.0.0.1", port, trust=rig.ca.root.pem, server_name=SERVER_NAME, calls=calls
        ) as crowd:
            yield server, crowd


async def over_empty_calls(report: Report, rig: Rig, calls: list[Call], seconds: float) -> None:
    """CPU per certificate over CPU per empty call, in turns, so that both see the same machine."""
    ratios: list[float] = []
    full = empty = 0.0
    async with (
        rig.signers(1) as servers,
        rig.crowd(cycle(calls)) as issuing,
        empty_server(rig, cycle(calls)) as (server, calling),
    ):
        for crowd, measured in ((issuing, servers), (calling, [server])):
            await load(crowd, measured, 16, seconds / 3)
        for _ in range(4):
            full = (await load(issuing, servers, 16, seconds)).micros
            empty = (await load(calling, [server], 16, seconds)).micros
            ratios.append(full / empty)
        await idle_memory(report, rig, servers[0], calls)
    report.add(Line(GROUP, "signer CPU for one certificate", full, "us CPU", note="16 callers"))
    report.add(Line(GROUP, "CPU for one empty call of the same server", empty, "us CPU", note="16 callers"))
    ratio = sorted(ratios)[len(ratios) // 2]
    report.add(Line(GROUP, "certificate over empty call", ratio, "x", at_most(1.7)))


async def idle_memory(report: Report, rig: Rig, server: Child, calls: list[Call]) -> None:
    """What a connection holds that has had its certificate and waits for its next renewal."""
    async with rig.crowd(cycle(calls)) as crowd:
        await crowd.join(100)
        before = resident_bytes(server.pid)
        await crowd.join(100 + IDLE)
        await asyncio.sleep(0.5)
        each = (resident_bytes(server.pid) - before) / IDLE / 1024
    report.add(
        Line(GROUP, "memory of an idle caller's connection", each, "KiB", at_most(60), f"{IDLE} of them")
    )


async def processes(report: Report, rig: Rig, calls: list[Call], seconds: float) -> None:
    """Two signers over one, in turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(2):
        for count in (1, 2):
            async with rig.signers(count) as servers, rig.crowd(cycle(calls)) as crowd:
                await load(crowd, servers, 64, seconds / 3)
                rates[count].append((await load(crowd, servers, 64, seconds)).load.rate)
    one, two = (sum(rates[count]) / len(rates[count]) for count in (1, 2))
    report.add(Line(GROUP, "two signer processes, 64 callers", two, "/s", note=f"one: {one:,.0f}/s"))
    note = "the callers share the two cores"
    report.add(Line(GROUP, "two signer processes over one", two / one, "x", at_least(1.6), note))


async def token_reviews(report: Report, rig: Rig, calls: list[Call], *, quick: bool) -> None:
    """The same with one TokenReview for each certificate.

    Every token is used once, so that no verdict is remembered. For the ratio both kinds take turns.
    """
    real = bool(real_kubeconfigs())
    label = "TokenReview" if real else "TokenReview (cluster in a box)"
    share, seconds = (1300, 1.0) if quick else (4000, 2.5)
    turns = 3
    directory = rig.directory / "reviews"
    opened = (
        real_rig(directory, attestation="token-review")
        if real
        else sandbox_rig(directory, ["reviewing"], attestation="token-review")
    )
    async with opened as reviewing:
        await reviewing.write_generation()
        (name,) = reviewing.members
        fresh = iter(await prepare_calls(reviewing, name, share * (len(LEVELS) + turns)))
        async with (
            rig.signers(1) as by_keys,
            reviewing.signers(1) as by_review,
            rig.crowd(cycle(calls)) as keyed,
            reviewing.crowd(fresh) as reviewed,
        ):
            for callers in LEVELS:
                rows(report, label, callers, await load(reviewed, by_review, callers, seconds))
            await load(keyed, by_keys, 64, seconds / 2)
            ratios: list[float] = []
            for _ in range(turns):
                with_keys = (await load(keyed, by_keys, 64, seconds / 2)).load.rate
                with_review = (await load(reviewed, by_review, 64, seconds / 2)).load.rate
                if not with_review:
                    raise RuntimeError("the tokens that were made ran out: a share of them is too small")
                ratios.append(with_keys / with_review)
    ratio = sorted(ratios)[turns // 2]
    if real:
        report.add(Line(GROUP, "token keys over TokenReview, 64 callers", ratio, "x", at_least(3)))
    else:
        name = "token keys over TokenReview (real kube-apiserver)"
        note = "FEDERATION_REAL_KUBECONFIGS names none"
        report.add(Line(GROUP, "token keys over TokenReview (cluster in a box)", ratio, "x"))
        report.add(Line(GROUP, name, None, "x", at_least(3), note))


async def run(report: Report, directory: Path, *, quick: bool) -> None:
    seconds = 1.0 if quick else 4.0
    async with sandbox_rig(directory / "keys", ["east"]) as rig:
        await rig.write_generation()
        calls = await prepare_calls(rig, "east", 300 if quick else 1500)
        async with rig.signers(1) as servers:
            await levels(report, rig, servers, cycle(calls), seconds)
        await over_empty_calls(report, rig, calls, seconds)
        await processes(report, rig, calls, seconds)
        await token_reviews(report, rig, calls, quick=quick)
