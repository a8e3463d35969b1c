"""A signer's own health and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as with_changes
from pathlib import Path

import aiohttp
from msgspec.structs import replace

from federation.core.config.hub import StatusConfig
from federation.core.config.types import Address
from federation.core.documents.controller import ControllerReport
from federation.core.documents.signer import SignerReport
from federation.status.server import create_health_app, create_probes_app, serve
from tests.status.worlds import FixedConfig, controller, hub_config, signer
from tests.support.clock import VirtualClock
from tests.support.seals import READ_TOKEN, token_file

NAMES = ["east", "west"]
LISTEN = Address("127.0.0.1", 0)


def always(report: SignerReport | ControllerReport) -> Callable[[], SignerReport | ControllerReport]:
    return lambda: report


async def test_readiness_follows_the_report_and_health_does_not() -> None:
    clock = VirtualClock()
    report = signer("signer-0", NAMES, clock.now().timestamp())
    app = create_health_app(lambda: report, config=FixedConfig(hub_config(NAMES)), clock=clock)
    async with serve(app, listen=LISTEN, clock=clock) as address, aiohttp.ClientSession() as session:
        async with session.get(f"http://{address}/readyz") as response:
            assert (response.status, await response.json()) == (200, {"ready": True, "reasons": []})
        report = replace(report, ready=False, reasons=["no bundle yet"])
        async with session.get(f"http://{address}/readyz") as response:
            assert (response.status, (await response.json())["reasons"]) == (503, ["no bundle yet"])
        async with session.get(f"http://{address}/healthz") as response:
            assert response.status == 200
        async with session.get(f"http://{address}/api/v1/status") as response:
            assert response.status == 404


async def test_a_kubelet_gets_liveness_and_readiness_and_no_word_more() -> None:
    answers = [True, False]

    async def is_ready() -> bool:
        return answers.pop(0)

    app = create_probes_app(is_ready)
    async with serve(app, listen=LISTEN, clock=VirtualClock()) as address, aiohttp.ClientSession() as session:
        for status in (200, 503):
            async with session.get(f"http://{address}/readyz") as response:
                assert response.status == status
        async with session.get(f"http://{address}/healthz") as response:
            assert response.status == 200
        for path in ("/metrics", "/api/v1/status", "/"):
            async with session.get(f"http://{address}{path}") as response:
                assert response.status == 404


async def test_metrics_of_either_role_are_guarded_by_the_status_token(tmp_path: Path) -> None:
    clock = VirtualClock()
    now = clock.now().timestamp()
    status = StatusConfig(listen=LISTEN, read_token_file=token_file(tmp_path / "token"))
    config = FixedConfig(with_changes(hub_config(NAMES), status=status))
    for report, expected in (
        (signer("signer-0", NAMES, now), 'certificates_issued_total{cluster="east",replica="signer-0"} 40.0'),
        (controller(NAMES, now), 'federation_controller_leader{replica="controller-0"} 1.0'),
    ):
        app = create_health_app(always(report), config=config, clock=clock)
        async with serve(app, listen=LISTEN, clock=clock) as address, aiohttp.ClientSession() as session:
            async with session.get(f"http://{address}/metrics") as response:
                assert response.status == 401
            headers = {"Authorization": f"Bearer {READ_TOKEN}"}
            async with session.get(f"http://{address}/metrics", headers=headers) as response:
                assert expected in await response.text()
