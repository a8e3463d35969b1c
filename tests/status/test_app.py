"""The status API through HTTP: what it answers, to whom, and what it says when it does not know."""

from __future__ import annotations

import asyncio
from dataclasses import replace as with_changes
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

import federation.status
from federation.core.config.hub import StatusConfig
from federation.core.config.types import Address
from federation.core.documents.controller import Operation
from federation.core.rotation.record import State
from tests.status.conftest import Running, Start
from tests.status.rotations import LOSSES, met, plan, quarantine, report_rotation, rotate, unmet
from tests.status.worlds import PEM, SHA
from tests.support.seals import OPERATE_TOKEN, READ_TOKEN, token_file

PAGE = Path(federation.status.__file__).with_name("page")

API = (
    "status",
    "clusters",
    "clusters/east",
    "matrix",
    "bundle",
    "generations",
    "rotation",
    "history",
    "operations",
)
GUARDED = (*(f"/api/v1/{path}" for path in API), "/api/v1/bundle.pem", "/metrics", "/openapi.json")
TOKEN = READ_TOKEN


async def test_every_answer_is_what_the_openapi_document_says(start: Start) -> None:
    async with start() as hub:
        status, document, _ = await hub.get("/openapi.json")
        assert (status, document["openapi"]) == (200, "3.1.0")
        paths = {f"/api/v1/{path}": f"/api/v1/{path.replace('/east', '/{name}')}" for path in API}
        paths |= {"/healthz": "/healthz", "/readyz": "/readyz"}
        for path, documented in paths.items():
            status, body, _ = await hub.get(path)
            assert status == 200, path
            check(document, document["paths"][documented]["get"]["responses"]["200"]["content"], body)
        status, body, response = await hub.get("/api/v1/clusters/nowhere")
        assert (status, response.content_type) == (404, "application/problem+json")
        check(
            document, document["paths"]["/api/v1/clusters/{name}"]["get"]["responses"]["404"]["content"], body
        )


def check(document: dict[str, Any], content: dict[str, Any], body: object) -> None:
    (media,) = content.values()
    schema = {**media["schema"], "components": document["components"]}
    jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    ).validate(body)


@pytest.mark.parametrize("state", list(State))
async def test_a_rotation_in_any_state_is_what_the_openapi_document_says(start: Start, state: State) -> None:
    async with start(operates=True) as hub:
        rotate(
            hub.world,
            state,
            met("read_back"),
            unmet("leaves", "west", 2e9),
            deadline=2e9,
            paused="an operator paused it",
        )
        assert hub.world.leader is not None
        leader = hub.world.leader.rotation
        report_rotation(hub.world, replace(leader, losses=LOSSES, plan=plan(hub.world.now).plan))
        quarantine(hub.world, "north", returning=True)
        asked = Operation(id="20261124120000.00", verb="start", author="operator", asked=hub.world.now)
        hub.world.operations = (asked, replace(asked, id="20261124120001.00", verb="abort", outcome="done"))
        await hub.settle()
        _, document, _ = await hub.get("/openapi.json")
        for path in ("status", "rotation", "operations", "matrix", "clusters/north"):
            status, body, _ = await hub.get(f"/api/v1/{path}")
            assert status == 200
            documented = f"/api/v1/{path.replace('/north', '/{name}')}"
            check(document, document["paths"][documented]["get"]["responses"]["200"]["content"], body)
        _, operations, _ = await hub.get("/api/v1/operations")
        assert [o["verb"] for o in operations["operations"]] == ["abort", "start"]
        assert operations["accepted"] is True
        _, rotation, _ = await hub.get("/api/v1/rotation")
        assert rotation["state"] == state.value


async def test_operations_that_are_decided_are_read_once(start: Start) -> None:
    async with start() as hub:
        asked = Operation(id="20261124120000.00", verb="start", author="a", asked=1.0)
        many = [replace(asked, id=f"20261124120{n:03d}.00", outcome="done") for n in range(60)]
        hub.world.operations = (asked, *many)
        await hub.settle()
        _, body, _ = await hub.get("/api/v1/operations")
        assert (len(body["operations"]), body["accepted"]) == (50, False)
        assert body["operations"][0]["id"] == "20261124120059.00"
        before = hub.store.readings
        await hub.clock.advance(0.6)
        await hub.get("/api/v1/operations")
        assert hub.store.readings - before < 20


async def test_every_path_of_the_document_is_served_and_every_api_path_is_in_it(start: Start) -> None:
    async with start() as hub:
        _, document, _ = await hub.get("/openapi.json")
        for path in document["paths"]:
            async with hub.session.head(hub.url + path.replace("{name}", "east")) as response:
                assert response.status == 200, path


async def test_the_bundle_is_given_as_its_very_bytes_with_its_date_and_tag(start: Start) -> None:
    async with start() as hub:
        status, body, response = await hub.get("/api/v1/bundle.pem")
        assert (status, body, response.content_type) == (200, PEM.encode(), "application/x-pem-file")
        assert "Last-Modified" in response.headers
        again, nothing, _ = await hub.get(
            "/api/v1/bundle.pem", headers={"If-None-Match": response.headers["ETag"]}
        )
        assert (again, nothing) == (304, b"")
        _, bundle, _ = await hub.get("/api/v1/bundle")
        assert (bundle["generation"], bundle["sha256"]) == (7, SHA)


async def test_a_storm_of_scrapes_costs_one_reading(start: Start) -> None:
    async with start() as hub:
        await hub.get("/api/v1/status")
        readings = hub.store.readings
        answers = await asyncio.gather(*(hub.get("/metrics") for _ in range(40)))
        assert {status for status, _, _ in answers} == {200}
        assert hub.store.readings == readings
        await hub.clock.advance(0.6)
        await hub.get("/metrics")
        assert hub.store.readings > readings


async def test_a_change_is_seen_within_half_a_second(start: Start) -> None:
    async with start() as hub:
        _, before, _ = await hub.get("/api/v1/status")
        hub.world.set_cells({("east", "west"): "x"}, {"east>west": "the anchor R1 is missing in east"})
        await hub.settle()
        _, after, _ = await hub.get("/api/v1/status")
        assert (before["verdict"], after["verdict"]) == ("healthy", "failing")
        _, matrix, _ = await hub.get("/api/v1/matrix")
        assert matrix["reasons"] == [
            {
                "client": "east",
                "server": "west",
                "result": "failed",
                "reason": "the anchor R1 is missing in east",
            }
        ]


async def test_time_alone_takes_the_green_away(start: Start) -> None:
    async with start() as hub:
        _, before, _ = await hub.get("/api/v1/status")
        await hub.clock.advance(10)
        _, after, _ = await hub.get("/api/v1/status")
        assert (before["verdict"], after["verdict"]) == ("healthy", "failing")
        assert after["matrix"]["valid"] == 0


async def test_attention_is_dated_from_when_it_was_first_seen(start: Start) -> None:
    async with start() as hub:
        hub.world.edit_leader(sources={"pinned": "unreadable"})
        await hub.settle()
        _, first, _ = await hub.get("/api/v1/status")
        await hub.clock.advance(2)
        _, second, _ = await hub.get("/api/v1/status")
        assert first["attention"][0]["since"] == first["generated"] != second["generated"]
        assert second["attention"][0]["since"] == first["generated"]


async def test_a_store_that_cannot_be_read_is_503_everywhere_and_never_what_was_known(
    start: Start, tmp_path: Path
) -> None:
    async with start() as hub:
        assert (await hub.get("/readyz"))[0] == 200
        documents = tmp_path / "state" / "documents"
        documents.rename(tmp_path / "gone")
        documents.write_text("not a directory")
        await hub.clock.advance(0.6)
        for path in (*GUARDED[:-1], "/readyz"):
            status, body, _ = await hub.get(path)
            assert status == 503, path
            assert str(tmp_path) not in str(body)
        assert (await hub.get("/healthz"))[0] == 200
        documents.unlink()
        (tmp_path / "gone").rename(documents)
        await hub.clock.advance(0.6)
        assert (await hub.get("/readyz"))[0] == 200


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b'{"number": "seven", "rotation": "x"}', b"\xff\xfe", b"null" * 100]
)
@pytest.mark.parametrize(
    "key",
    [
        "current",
        "generations/000000000007",
        "signers/signer-0",
        "controllers/controller-0",
        "rotation",
        "orders",
        "operations/20261124120000.0011223344556677",
    ],
)
async def test_a_damaged_document_is_reported_and_nothing_crashes(
    start: Start, key: str, garbage: bytes
) -> None:
    async with start() as hub:
        await hub.store.write(key, garbage)
        await hub.clock.advance(0.6)
        status, body, _ = await hub.get("/api/v1/status")
        assert (status, body["verdict"]) == (200, "failing")
        assert key in [item["where"] for item in body["attention"] if item["code"] == "state_damaged"]
        assert (await hub.get("/metrics"))[0] == 200
        assert (await hub.get("/api/v1/rotation"))[0] == (503 if key in {"rotation", "orders"} else 200)


async def test_a_truncated_file_is_reported(start: Start, tmp_path: Path) -> None:
    async with start() as hub:
        (file,) = (tmp_path / "state" / "documents").glob("*signer-0*")
        file.write_bytes(file.read_bytes()[:40])
        await hub.clock.advance(0.6)
        _, body, _ = await hub.get("/api/v1/status")
        assert body["verdict"] == "failing"
        assert body["attention"][0]["where"] == "signers/signer-0"


async def test_a_bundle_whose_bytes_were_exchanged_is_not_handed_out(start: Start) -> None:
    async with start() as hub:
        forged = PEM.replace("A", "B").replace("b", "c")
        seven = hub.world.generations[7]
        hub.world.generations[7] = type(seven)(
            **{name: getattr(seven, name) for name in seven.__struct_fields__} | {"bundle_pem": forged}
        )
        await hub.settle()
        assert (await hub.get("/api/v1/bundle.pem"))[0] == 503
        _, body, _ = await hub.get("/api/v1/status")
        assert (body["verdict"], body["bundle"]) == ("failing", None)


async def test_readiness_reports_an_unready_controller_without_its_reasons(start: Start) -> None:
    ready = True
    holder: list[Running] = []

    def report() -> Any:
        leader = holder[0].world.leader
        assert leader is not None
        return leader

    async with start(report=report) as hub:
        holder.append(hub)
        assert (await hub.get("/readyz"))[0] == 200
        ready = False
        hub.world.edit_leader(ready=ready, reasons=["/etc/federation/root.pem: cannot be read"])
        status, body, _ = await hub.get("/readyz")
        reason = "the controller is not ready: its log and /api/v1/status say why"
        assert (status, body) == (503, {"ready": False, "reasons": [reason]})


async def test_only_get_and_head_are_answered(start: Start) -> None:
    async with start() as hub:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"):
            async with hub.session.request(method, f"{hub.url}/api/v1/status", data=b"x" * 5000) as response:
                assert (method, response.status, response.headers["Allow"]) == (method, 405, "GET, HEAD")
                assert response.content_type == "application/problem+json"
        async with hub.session.head(f"{hub.url}/api/v1/status") as response:
            assert (response.status, await response.read()) == (200, b"")


async def test_every_answer_carries_the_security_headers_and_no_software_version(start: Start) -> None:
    async with start() as hub:
        for path in (*GUARDED, "/", "/app.js", "/healthz", "/nowhere", "/api/v1/%2e%2e/etc"):
            _, body, response = await hub.get(path)
            headers = response.headers
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
            assert headers["Cache-Control"] == ("no-cache" if path in {"/", "/app.js"} else "no-store")
            assert "aiohttp" not in str(headers).lower() + str(body).lower()[:2000]
            assert "python" not in str(headers).lower()


SVG = b"http://www.w3.org/2000/svg"  # the name of a namespace: nothing is fetched there


async def test_the_page_takes_nothing_from_elsewhere(start: Start) -> None:
    async with start() as hub:
        for path in sorted("" if each.name == "index.html" else each.name for each in PAGE.iterdir()):
            status, body, _ = await hub.get(f"/{path}")
            assert status == 200
            assert b"://" not in body.replace(SVG, b"")
            assert b"innerHTML" not in body
            assert b"style=" not in body


async def test_a_token_guards_all_but_health_and_the_empty_page(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "token"
    token_file(file, TOKEN + "\n")
    async with start(status=StatusConfig(listen=Address("127.0.0.1", 0), read_token_file=file)) as hub:
        good = {"Authorization": f"Bearer {TOKEN}"}
        for path in GUARDED:
            status, body, response = await hub.get(path)
            assert status == 401, path
            assert response.headers["WWW-Authenticate"] == 'Bearer realm="federation-hub"'
            assert "east" not in str(body)
            assert (await hub.get(path, headers=good))[0] == 200
        for wrong in (
            "Bearer nope",
            f"Basic {TOKEN}",
            TOKEN,
            "Bearer",
            "Bearer ",
            f"Bearer {TOKEN}x",
            "Bearer ü",
        ):
            assert (await hub.get("/api/v1/status", headers={"Authorization": wrong}))[0] == 401, wrong
        for path in ("/healthz", "/readyz", "/", "/app.js"):
            assert (await hub.get(path))[0] == 200
        file.write_text(OPERATE_TOKEN)
        assert (await hub.get("/api/v1/status", headers=good))[0] == 401
        assert (await hub.get("/api/v1/status", headers={"Authorization": f"bearer {OPERATE_TOKEN}"}))[
            0
        ] == 200


@pytest.mark.parametrize("content", ["", " \n", None])
async def test_a_token_file_without_a_token_admits_no_caller(
    start: Start, tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "token"
    if content is not None:
        token_file(file, content)
    async with start(status=StatusConfig(listen=Address("127.0.0.1", 0), read_token_file=file)) as hub:
        for header in ("Bearer ", "Bearer x", ""):
            status, body, _ = await hub.get("/api/v1/status", headers={"Authorization": header})
            assert status == 503
            assert str(tmp_path) not in str(body)
    assert "token" in caplog.text


async def test_no_token_is_ever_logged(
    start: Start, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    file = tmp_path / "token"
    token_file(file, TOKEN)
    async with start(status=StatusConfig(listen=Address("127.0.0.1", 0), read_token_file=file)) as hub:
        assert (await hub.get("/api/v1/status", headers={"Authorization": f"Bearer {TOKEN}"}))[0] == 200
        assert (await hub.get("/api/v1/status", headers={"Authorization": "Bearer wrong-one"}))[0] == 401
    assert TOKEN not in caplog.text
    assert "wrong-one" not in caplog.text


async def test_without_a_token_only_local_names_are_answered(start: Start) -> None:
    async with start() as hub:
        for host, expected in (
            ("evil.example.com", 403),
            ("localhost:8080", 200),
            ("[::1]:8080", 200),
            ("10.0.0.1", 403),
        ):
            assert (await hub.get("/api/v1/status", headers={"Host": host}))[0] == expected, host
        insecure = with_changes(hub.config.current.status, insecure_allow_unauthenticated=True)
        hub.config.current = with_changes(hub.config.current, status=insecure)
        assert (await hub.get("/api/v1/status", headers={"Host": "evil.example.com"}))[0] == 200


async def test_metrics_are_in_the_text_format_and_name_the_state(start: Start) -> None:
    async with start() as hub:
        hub.world.set_cells({("east", "west"): "x"})
        hub.world.edit_on_signer("signer-0", "east", refused={'od"d\nreason': 3})
        await hub.settle()
        status, body, response = await hub.get("/metrics")
        assert status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        assert samples["federation_verdict", "failing"] == 1
        assert samples["federation_matrix_pairs",] == 6
        assert samples["federation_matrix_valid",] == 5
        assert samples["federation_certificates_issued_total", "east", "signer-0"] == 40
        assert samples["federation_requests_refused_total", "east", 'od"d\nreason', "signer-0"] == 3
        assert samples["federation_cluster_up", "west"] == 1
        assert samples["federation_publication_lag_seconds", "west"] == 3.2
        assert samples["federation_generation",] == 7
        assert samples["federation_issuance_seconds_bucket", "0.01", "signer-1"] == 30
        assert samples["federation_controller_leader", "controller-0"] == 1
        names = {name for name, *_ in samples}
        assert {
            "federation_anchor_not_after_timestamp_seconds",
            "federation_intermediate_not_after_timestamp_seconds",
            "federation_serving_not_after_timestamp_seconds",
            "federation_signer_report_age_seconds",
        } <= names


async def test_a_stale_leader_is_not_up_in_the_metrics(start: Start) -> None:
    async with start() as hub:
        await hub.clock.advance(30)
        _, body, _ = await hub.get("/metrics")
        text = body.decode()
        assert 'federation_cluster_up{cluster="east"} 0.0' in text
        assert 'federation_controller_leader{replica="controller-0"} 0.0' in text
        assert 'federation_signer_ready{replica="signer-0"} 0.0' in text
        assert "federation_matrix_valid 0.0" in text
