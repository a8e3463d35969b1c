"""Traces: one from the listener to the back end, sent by OpenTelemetry to a collector; off unless asked for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

from federation.core.errors import ConfigurationError
from federation.signer import role
from federation.signer.issuance import Issuance
from federation.signer.tracing import TracedIssuance, Tracing, open_tracing
from tests.signer.running_signer import running_signer

CALLER = "0af7651916cd43dd8448eb211c80319c"
STEPS = {"attest", "policy", "record", "sign"}


class Collector:
    """Takes traces as OTLP over HTTP, and has the bodies."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        self.bodies.append(await request.read())
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host, port = runner.addresses[0]
        found.url = f"http://{host}:{port}/v1/traces"
        yield found
    finally:
        await runner.cleanup()


def tracing_to(url: str, monkeypatch: pytest.MonkeyPatch, share: str = "1") -> Tracing:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", url)
    asked = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER_ARG": share}
    found = open_tracing(asked, replica="signer-0")
    assert found is not None
    return found


async def test_a_call_is_one_trace_from_the_caller_s_to_the_back_end_without_any_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    async with collector() as seen:
        tracing = tracing_to(seen.url, monkeypatch)
        async with running_signer(tmp_path, setup=lambda made: setattr(made, "tracing", tracing)) as hub:
            token = hub.pod("east")
            asked = [("traceparent", f"00-{CALLER}-b7ad6b7169203331-00")]
            answer = await hub.ask("east", token, metadata=asked)
            assert answer.code is grpc.StatusCode.OK, answer
            refused = await hub.ask("east", token + "x", metadata=[("traceparent", "not one")])
            assert refused.code is not grpc.StatusCode.OK
        await asyncio.to_thread(tracing.close)
        whole = [span for span in all_spans(seen) if span.trace_id.hex() == CALLER]
        (call,) = [span for span in whole if span.name.endswith("/CreateCertificate")]
        assert call.parent_span_id.hex() == "b7ad6b7169203331"
        assert {span.name for span in whole if span.parent_span_id == call.span_id} == STEPS
        (attest,) = [span for span in whole if span.name == "attest"]
        assert {each.key: each.value.string_value for each in attest.attributes}[
            "federation.cluster"
        ] == "east"
        (failed,) = [
            span
            for span in all_spans(seen)
            if span.name.endswith("/CreateCertificate") and span.trace_id.hex() != CALLER
        ]
        assert failed.status.code == 2
        for body in seen.bodies:
            assert token.encode() not in body
            assert b"BEGIN " not in body
            assert b"eyJ" not in body


def all_spans(seen: Collector) -> list[Any]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    return [
        span
        for body in seen.bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


async def test_a_caller_does_not_decide_that_its_trace_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    async with collector() as seen:
        tracing = tracing_to(seen.url, monkeypatch, share="0")
        async with running_signer(tmp_path, setup=lambda made: setattr(made, "tracing", tracing)) as hub:
            asked = [("traceparent", f"00-{CALLER}-b7ad6b7169203331-01")]
            answer = await hub.ask("east", hub.pod("east"), metadata=asked)
            assert answer.code is grpc.StatusCode.OK, answer
        await asyncio.to_thread(tracing.close)
        assert seen.bodies == []


async def test_off_the_signer_is_put_together_of_what_has_no_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(role, "TracedIssuance", None)
    monkeypatch.setattr(role, "TracedService", None)
    async with running_signer(tmp_path) as hub:
        answer = await hub.ask("east", hub.pod("east"))
        assert answer.code is grpc.StatusCode.OK, answer


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}],
)
def test_it_is_off_unless_it_is_asked_for(environment: dict[str, str]) -> None:
    assert open_tracing(environment, replica="signer-0") is None


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER: 'jaeger' is not supported"),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER_ARG": "2"},
            "OTEL_TRACES_SAMPLER_ARG: '2' is not",
        ),
        (
            {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_TRACES_SAMPLER_ARG": "all"},
            "set it to a number from 0 to 1",
        ),
    ],
)
def test_what_cannot_be_used_is_said(environment: dict[str, str], why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_tracing(environment, replica="signer-0")

    assert why in str(caught.value)


def test_without_the_packages_it_says_which_extra_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError) as caught:
        open_tracing({"OTEL_TRACES_EXPORTER": "otlp"}, replica="signer-0")

    assert "install federation-hub with its extra otel" in str(caught.value)


def test_every_step_that_has_a_span_is_one_of_issuance() -> None:
    own = {name for name in vars(TracedIssuance) if name.startswith("_") and not name.startswith("__")}

    assert own == {"_attest", "_permit", "_record", "_sign"}
    assert own <= set(vars(Issuance))
