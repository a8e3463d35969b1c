"""What needed attention when a process was killed needs it when the next one has taken its place."""

from __future__ import annotations

import pytest

from federation.controller.publication.publisher import FIRST_WAIT, IMMEDIATE, QUIET, Contention
from federation.core.documents.controller import ControllerReport, ControlPlaneReport
from federation.core.documents.encoding import decode
from federation.core.documents.signer import AuthorityReport, RefusalsReport, SignerReport
from federation.core.errors import AttestationRefused, AuthorityViolation
from federation.signer.accounting import NO_CLUSTER, Accounting
from federation.signer.authorities.authority import Alarms
from federation.signer.role import Heartbeat
from federation.state.files import FileStore
from tests.controller.world import NAME, World, eventually, root
from tests.support.clock import VirtualClock


def test_a_fight_is_known_at_once_and_forgotten_as_any_other() -> None:
    contention = Contention()
    contention.recall(["shop"], ["gitops"], "2" * 32, 100.0)
    assert contention.contested(100.0) == ["shop"]
    assert contention.writers(100.0) == ["gitops"]
    assert contention.rival(100.0) == "2" * 32
    assert contention.wait("shop", 100.0) == FIRST_WAIT
    later = 100.0 + QUIET + 1
    assert (contention.contested(later), contention.writers(later), contention.rival(later)) == ([], [], "")


def test_refused_callers_stay_refused_until_one_gets_a_certificate() -> None:
    before = RefusalsReport(count=7, since=10.0, last=20.0, reason="csr_trust_domain", detail="x", remedy="y")
    accounting = Accounting()
    accounting.recall("east", refusals=before, unproven=RefusalsReport())
    assert accounting.refusals("east") == before
    accounting.note_refusal("east", AttestationRefused("no"), now=30.0)
    assert (accounting.refusals("east").count, accounting.refusals("east").since) == (8, 10.0)
    accounting.count_issued("east", seconds=0.1, now=40.0)
    assert accounting.refusals("east").count == 0
    accounting.recall("east", refusals=before, unproven=before)
    assert accounting.refusals("east").count == 0, "what is known by now is newer"
    accounting.keep(["west"])
    assert accounting.unproven(NO_CLUSTER) == RefusalsReport()


def test_an_alarm_continues_after_a_restart() -> None:
    alarms = Alarms(VirtualClock())
    before = AuthorityReport(
        name="a", kind="vault", state="ready", violations=3, last_violation="a CA", last_violation_at=5.0
    )
    alarms.absorb(before)
    assert (alarms.violations, alarms.last_violation) == (3, "a CA")
    alarms.violated(AuthorityViolation("another key"))
    assert (alarms.violations, alarms.last_violation) == (4, "another key")


async def test_the_report_of_a_killed_signer_is_read_before_it_is_replaced(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    clock = VirtualClock()
    store = FileStore(tmp_path_factory.mktemp("state"), clock)
    recalled: list[SignerReport] = []

    def report() -> SignerReport:
        return SignerReport(replica="a", started=float(len(recalled)), updated=0.0, heartbeat=2.0, ready=True)

    async def once() -> None:
        raise StopAsyncIteration

    for _ in range(2):
        heartbeat = Heartbeat(store, replica="a", clock=clock, report=report, recall=recalled.append)
        with pytest.raises(RuntimeError):
            await _until_shared(heartbeat)
    assert [found.started for found in recalled] == [0.0]
    stored = await store.read("signers/a")
    assert stored is not None
    assert decode(stored.data, SignerReport, key="a").started == 1.0
    await heartbeat.withdraw()
    third = Heartbeat(store, replica="a", clock=clock, report=report, recall=recalled.append)
    with pytest.raises(RuntimeError):
        await _until_shared(third)
    assert len(recalled) == 1, "it was ended in good order"


async def _until_shared(heartbeat: Heartbeat) -> None:
    async def end() -> None:
        raise RuntimeError

    await heartbeat.run(end)


def is_read(report: ControllerReport) -> bool:
    return report.clusters["west"].publication.selected > 0 and report.clusters["west"].state != "unavailable"


async def test_a_contested_cluster_is_contested_after_its_controller_was_killed(two: World) -> None:
    """The next one has seen no edit yet, and the object holds what it should at this moment."""
    async with two.controller() as killed:
        await two.published()
        for number in range(IMMEDIATE + 1):
            await two.until(lambda r, n=number: r.clusters["west"].publication.restored == n)  # type: ignore[misc]
            await eventually(lambda: two.observed("west", "default") == root().pem.decode())
            edit = {"data": {"root-cert.pem": f"edit {number}"}}
            two.clusters["west"].patch("configmaps", "default", NAME, edit, manager="gitops")
        report = await two.until(lambda r: r.clusters["west"].reason == "other_writers")
        started, since = report.started, report.clusters["west"].since
        stored = await two.store.read("controllers/one")
        assert stored is not None
    assert killed is not None
    await two.store.write("controllers/one", stored.data)  # as a killed one leaves it
    two.clusters["west"].delete("configmaps", "default", NAME)
    async with two.controller():
        report = await two.until(lambda r: r.started != started and "west" in r.clusters and is_read(r))
        west = report.clusters["west"]
        assert (west.reason, west.since) == ("other_writers", since)
        assert "gitops" in west.publication.other_writers


async def test_a_contested_istiod_certificate_stays_contested_after_the_controller_was_killed(
    one: World,
) -> None:
    """The Secret is correct at this moment, but the writer that keeps changing it is still there."""
    east = one.clusters["east"]

    def secret() -> dict[str, str]:
        found = east.get("secrets", "istio-system", "istiod-tls")
        return found["data"] if found is not None else {}

    async with one.controller():
        await one.published()
        for number in range(IMMEDIATE + 1):
            await one.until(lambda r, n=number: _plane(r).restored == n and _plane(r).current)  # type: ignore[misc]
            east.patch(
                "secrets", "istio-system", "istiod-tls", {"data": {"ca.crt": "eA=="}}, manager="gitops"
            )
        report = await one.until(lambda r: "gitops keeps changing it" in _plane(r).detail)
        started = report.started
        good = await one.until(lambda r: _plane(r).current and _plane(r).contested)
        stored = await one.store.read("controllers/one")
        assert stored is not None
    assert secret()
    assert _plane(good).attention
    await one.store.write("controllers/one", stored.data)  # as a killed one leaves it
    async with one.controller():
        report = await one.until(
            lambda r: r.started != started and "east" in r.clusters and _plane(r).read_back > 0
        )
        assert _plane(report).contested
        assert "gitops keeps changing it" in _plane(report).detail


def _plane(report: ControllerReport) -> ControlPlaneReport:
    (found,) = report.clusters["east"].control_planes
    return found
