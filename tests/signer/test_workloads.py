"""What a signer reports of the pods of a cluster: sidecars, who has asked, who holds a certificate, who is refused."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest

from federation.core.documents.signer import (
    RefusalsReport,
    SignerClusterReport,
    SignerReport,
    WorkloadsReport,
)
from federation.core.identity import SpiffeId
from federation.core.trust.liveness import SignsOfLife, Vitality, assess
from federation.kubernetes.objects import decode_pod
from federation.signer import callers
from federation.state.liveness import refusals_of, signs_of_life
from tests.signer.running_signer import RunningSigner, eventually, identity_of, running_signer
from tests.support import pki

SIDECAR = {"sidecar.istio.io/status": '{"revision":"default"}'}
AMBIENT = {"ambient.istio.io/redirection": "enabled"}


def seen(hub: RunningSigner, cluster: str = "east") -> WorkloadsReport:
    return hub.role.report().clusters[cluster].workloads


def life(hub: RunningSigner) -> SignsOfLife:
    found = signs_of_life([hub.role.report()], "east")
    assert found is not None
    return found


async def asks(hub: RunningSigner, pod: str, **options: object) -> grpc.StatusCode:
    """A workload with a sidecar asks."""
    box = hub.clusters["east"]
    token = box.token("foo", "bar", pod=pod)
    return (await hub.ask("east", token, **options)).code  # type: ignore[arg-type]


def pods(hub: RunningSigner, *names: str, **annotations: dict[str, str]) -> None:
    box = hub.clusters["east"]
    if box.get("namespaces", "", "foo") is None:
        box.create_namespace("foo")
        box.create_service_account("foo", "bar")
    for name in names:
        box.create_pod("foo", name, "bar", annotations=annotations.get(name, SIDECAR))


def test_of_a_pod_s_annotations_two_are_looked_at_and_none_is_kept() -> None:
    item = decode_pod(
        b'{"metadata":{"name":"a","namespace":"b","uid":"u","resourceVersion":"1",'
        b'"creationTimestamp":"2026-11-24T10:00:00Z","annotations":{"sidecar.istio.io/status":"secret-text",'
        b'"ambient.istio.io/redirection":"pending","other":"secret-text"}}}'
    )
    assert (item.value.sidecar, item.value.ambient) == (True, False)
    assert item.value.created == 1795514400.0
    assert "secret-text" not in repr(item)
    none = decode_pod(b'{"metadata":{"name":"a","resourceVersion":"1","annotations":null}}').value
    assert (none.sidecar, none.ambient, none.created) == (False, False, 0.0)


async def test_sidecars_that_have_not_asked_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "moved", "old", "plain", "young", plain={})
        await eventually(lambda: seen(hub).sidecars == 3)
        assert (seen(hub).workloads, seen(hub).never_requested) == (0, []), "they may only just have started"
        assert await asks(hub, "moved") is grpc.StatusCode.OK
        await eventually(lambda: (seen(hub).asked, seen(hub).with_certificate) == (1, 1))
        monkeypatch.setattr(callers, "YOUNG", 0.0)
        await eventually(lambda: seen(hub).never_requested == ["foo/old", "foo/young"])
        assert seen(hub).workloads == 3
        assert assess(life(hub), hub.clock.now().timestamp()).vitality is Vitality.NEVER_REQUESTED
        assert await asks(hub, "plain") is grpc.StatusCode.OK  # no sidecar that is known of, and it asks
        await eventually(
            lambda: (seen(hub).workloads, seen(hub).with_certificate, seen(hub).sidecars) == (4, 2, 3)
        )
        assert assess(life(hub), hub.clock.now().timestamp()).fine


async def test_a_pod_that_ended_or_went_needs_no_certificate(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "job", "gone", "stays")
        for pod in ("job", "gone", "stays"):
            assert await asks(hub, pod) is grpc.StatusCode.OK
        await eventually(lambda: seen(hub).workloads == 3)
        box = hub.clusters["east"]
        box.set_pod_phase("foo", "job", "Succeeded")
        box.delete("pods", "foo", "gone")
        await eventually(lambda: (seen(hub).workloads, seen(hub).sidecars) == (1, 1))


async def test_a_certificate_that_ends_without_a_renewal_is_named(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "a")
        assert await asks(hub, "a", seconds=3) is grpc.StatusCode.OK
        await eventually(lambda: seen(hub).with_certificate == 1)
        await eventually(lambda: (seen(hub).with_certificate, seen(hub).lapsed) == (0, 1))
        assert seen(hub).ended == ["foo/a"]
        assert assess(life(hub), hub.clock.now().timestamp()).vitality is Vitality.STOPPED
        assert await asks(hub, "a") is grpc.StatusCode.OK
        await eventually(lambda: (seen(hub).with_certificate, seen(hub).ended) == (1, []))


async def test_the_hub_s_own_probe_is_no_sign_of_life(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        box = hub.clusters["east"]
        box.create_pod("federation-system", "probe-0", "federation-probe")
        token = box.token("federation-system", "federation-probe", pod="probe-0")
        identity = identity_of("federation-system", "federation-probe")
        assert (await hub.ask("east", token, identity=identity)).code is grpc.StatusCode.OK
        await eventually(lambda: seen(hub).workloads == 0)
        report = hub.role.report().clusters["east"]
        assert (report.issued, report.workload_issued_at) == (1, 0.0)


async def test_ambient_pods_are_counted_beside_the_workloads(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "a", "b", a=AMBIENT, b=AMBIENT)
        await eventually(lambda: seen(hub).ambient == 2)
        assert assess(life(hub), hub.clock.now().timestamp()).vitality is Vitality.NEVER_REQUESTED


async def test_where_pods_are_not_watched_only_certificates_are_counted(tmp_path: Path) -> None:
    def review(hub: RunningSigner) -> None:
        hub.options["east"] = 'attestation = "token-review"'

    async with running_signer(tmp_path, setup=review) as hub:
        await eventually(lambda: "token-review" in seen(hub).detail)
        pods(hub, "a")
        assert not assess(life(hub), hub.clock.now().timestamp()).fine
        assert await asks(hub, "a") is grpc.StatusCode.OK
        await eventually(lambda: seen(hub).with_certificate == 1)
        assert (seen(hub).workloads, seen(hub).watched, seen(hub).sidecars) == (None, False, None)
        assert assess(life(hub), hub.clock.now().timestamp()).fine


async def test_a_restart_keeps_all_known_workloads(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "a")
        assert await asks(hub, "a") is grpc.StatusCode.OK
        await eventually(lambda: seen(hub).with_certificate == 1)
        await hub.stop()
        await hub.start()
        await hub.ready()
        await eventually(lambda: (seen(hub).with_certificate, seen(hub).asked) == (1, 1))
        assert seen(hub).known_from == 0.0


async def test_a_watch_that_is_down_makes_counts_unknown(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "a")
        await eventually(lambda: seen(hub).sidecars == 1)
        await hub.clusters["east"].down()
        await eventually(lambda: seen(hub).workloads is None)
        assert "not watched at present" in seen(hub).detail
        assert assess(life(hub), hub.clock.now().timestamp()).vitality is Vitality.UNKNOWN


async def test_why_callers_are_refused_is_reported_until_one_is_served(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "a")
        other = pki.csr_pem(SpiffeId.parse("spiffe://other.example/ns/foo/sa/bar"))
        for _ in range(2):
            assert await asks(hub, "a", csr=other) is grpc.StatusCode.UNAUTHENTICATED
        refused = hub.role.report().clusters["east"].refusals
        assert (refused.count, refused.reason) == (2, "csr_trust_domain")
        assert "spiffe://other.example/ns/foo/sa/bar" in refused.detail
        assert "trust domain is cluster.local" in refused.detail
        assert refused.remedy.startswith("set meshConfig.trustDomain to cluster.local")
        assert "csr_trust_domain" in life(hub).refusal
        assert await asks(hub, "a") is grpc.StatusCode.OK
        refused = refusals_of([hub.role.report()], "east")
        assert (refused.count, refused.since, refused.reason) == (0, 0.0, "csr_trust_domain")
        assert life(hub).refusal == ""


async def test_callers_of_no_registered_cluster_are_counted_separately(tmp_path: Path) -> None:
    async with running_signer(tmp_path) as hub:
        pods(hub, "a")
        token = hub.clusters["east"].token("foo", "bar", pod="a")
        assert (await hub.ask("nowhere", token)).code is grpc.StatusCode.UNAUTHENTICATED
        unattributed = hub.role.report().unattributed
        assert (unattributed.count, unattributed.reason) == (1, "unknown_cluster")
        assert "'nowhere'" in unattributed.detail
        assert token not in repr(hub.role.report())


async def test_callers_of_a_removed_cluster_are_reported_apart(tmp_path: Path) -> None:
    async with running_signer(tmp_path, ["east", "west"]) as hub:
        pods(hub, "a")
        token = hub.clusters["east"].token("foo", "bar", pod="a")

        async def refused(cluster: str) -> None:
            assert (await hub.ask(cluster, token)).code is grpc.StatusCode.UNAUTHENTICATED

        hub.registered = ["east"]
        await hub.reconfigure()
        for cluster in ("nowhere", "west", "west"):
            await refused(cluster)
        report = hub.role.report()
        assert (report.removed.count, report.removed.reason) == (2, "removed_cluster")
        unattributed = report.unattributed
        assert (unattributed.count, unattributed.reason) == (1, "unknown_cluster"), "nothing hides it"
        hub.registered = ["east", "west"]
        await hub.reconfigure()
        await refused("west")
        assert hub.role.report().clusters["west"].unproven.reason == "token_of_another_cluster"
        assert hub.role.report().removed.count == 2


@pytest.mark.parametrize("order", [1, -1])
def test_a_signer_that_sees_no_workloads_does_not_outvote_one_that_sees_them_without_certificates(
    order: int,
) -> None:
    """A mesh that is cut off would look like one that has nothing to serve, and gates would open."""
    reports = [
        WorkloadsReport(workloads=40, with_certificate=0, lapsed=40, detail=""),
        WorkloadsReport(workloads=0, with_certificate=0, lapsed=0, detail=""),
    ][::order]
    signers = [
        SignerReport(
            replica=f"signer-{number}",
            started=0.0,
            updated=1000.0,
            heartbeat=2.0,
            ready=True,
            clusters={"east": SignerClusterReport(state="ready", workloads=each)},
        )
        for number, each in enumerate(reports)
    ]
    assert assess(signs_of_life(signers, "east"), 1.0).vitality is Vitality.STOPPED


def test_refusals_of_several_signers_count_from_the_last_certificate_of_any() -> None:
    early = RefusalsReport(count=5, since=100.0, last=200.0, reason="early")
    late = RefusalsReport(count=3, since=150.0, last=400.0, reason="late")

    def reported(*each: tuple[RefusalsReport, float]) -> RefusalsReport:
        signers = [
            SignerReport(
                replica="x",
                started=0.0,
                updated=1000.0,
                heartbeat=2.0,
                ready=True,
                clusters={
                    "east": SignerClusterReport(state="ready", workload_issued_at=issued, refusals=refusals)
                },
            )
            for refusals, issued in each
        ]
        return refusals_of(signers, "east")

    found = reported((early, 0.0), (late, 300.0))
    assert (found.count, found.since, found.reason) == (3, 300.0, "late")
    assert reported((early, 500.0), (late, 0.0)).count == 0
    assert reported((early, 0.0), (late, 0.0)).count == 8
