"""Traces of issuance, an extra: one for each call, from the listener through attestation and policy to the back end.

Off, nothing of this runs: the signer is put together of :class:`Issuance` and :class:`IstioCaService` themselves. On,
of the two classes below, which put spans around the steps of those. OpenTelemetry is imported only then.

A call that names its trace (``traceparent``, W3C Trace Context) is a part of that trace. It does not decide whether the
trace is kept: every caller could fill the collector. A share of all traces is kept, by their numbers.
Attributes are names that the audit log has, and reasons: no token, no key, no certificate, and no text of an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from federation.core.call_slots import CallSlot
from federation.core.errors import ConfigurationError, FederationError, Mistake
from federation.signer.accounting import CountedCall
from federation.signer.attestation.attestor import Caller, ClusterAttestor, TokenEvidence
from federation.signer.authorities.authority import CheckedLeaf, LeafRequest
from federation.signer.authorities.authority_set import AuthoritySlot
from federation.signer.generations import IssuanceContext
from federation.signer.issuance import Issuance, SigningRequest, VerifiedRequest
from federation.signer.listeners.grpc import Answered
from federation.signer.listeners.istio_ca import IstioCaService
from federation.signer.registry import Registered
from federation.signer.revalidation import Delivery

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

EXPORTER: Final = "OTEL_TRACES_EXPORTER"
SHARE: Final = "OTEL_TRACES_SAMPLER_ARG"
USUAL_SHARE: Final = 0.1
TRACEPARENT: Final = "traceparent"
LONGEST_TRACEPARENT: Final = 128
SPAN: Final = "istio.v1.auth.IstioCertificateService/CreateCertificate"
FLUSH_MS: Final = 3000


class Tracing:
    """Makes spans. ``provider`` decides which are kept and where they go."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("federation")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def call(self, metadata: Iterable[tuple[str, str | bytes]]) -> Iterator[Span]:
        """The span of one call, in the trace that its caller names, if it names one."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        named = [value for name, value in metadata if name == TRACEPARENT and isinstance(value, str)]
        carrier = {TRACEPARENT: named[0]} if len(named) == 1 and len(named[0]) <= LONGEST_TRACEPARENT else {}
        context = self._propagator.extract(carrier, Context())
        service, _, method = SPAN.rpartition("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        with self._span(SPAN, SpanKind.SERVER, attributes, context) as span:
            yield span

    @contextmanager
    def step(self, name: str, attributes: Mapping[str, Any], *, leaves: bool = False) -> Iterator[Span]:
        """A span within the one that is open; ``leaves`` says that something outside of this process is asked."""
        from opentelemetry.trace import SpanKind

        with self._span(name, SpanKind.CLIENT if leaves else SpanKind.INTERNAL, attributes, None) as span:
            yield span

    @contextmanager
    def _span(self, name: str, kind: Any, attributes: Mapping[str, Any], context: Any) -> Iterator[Span]:
        from opentelemetry.trace import Status, StatusCode

        with self._tracer.start_as_current_span(
            name,
            context=context,
            kind=kind,
            attributes=attributes,
            record_exception=False,  # its text may hold what a caller sent
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR))
                span.set_attribute("error.type", _reason(error))
                raise

    def close(self) -> None:
        """Hand over what is left, and end. It blocks, for some seconds at most."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


def _reason(error: BaseException) -> str:
    """A word of the code, never a text."""
    if isinstance(error, FederationError):
        return error.reason
    if isinstance(error, Answered):
        return error.code.name
    return type(error).__name__


def open_tracing(environment: Mapping[str, str], *, replica: str) -> Tracing | None:
    """Traces as OpenTelemetry's own variables ask for them; None where ``OTEL_TRACES_EXPORTER`` is not ``otlp``.

    Where they go, with which headers and by which CA, the exporter reads from ``OTEL_EXPORTER_OTLP_...`` itself. It
    sends from a thread of its own, and drops what its bounded queue does not hold.

    Raises:
        ConfigurationError: a variable cannot be used, or the extra is not installed.

    """
    exporter = environment.get(EXPORTER, "none").strip() or "none"
    if exporter == "none" or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    if exporter != "otlp":
        raise _mistake(EXPORTER, f"{exporter!r} is not supported", "set it to otlp, or to none")
    share = _share(environment.get(SHARE, ""))
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import TraceIdRatioBased
    except ImportError as error:
        what = f"traces need a package that is missing: {error.name}"
        raise _mistake(EXPORTER, what, "install federation-hub with its extra otel") from None
    name = environment.get("OTEL_SERVICE_NAME") or "federation-signer"
    resource = Resource.create({"service.name": name, "service.instance.id": replica})
    provider = TracerProvider(sampler=TraceIdRatioBased(share), resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _share(text: str) -> float:
    try:
        share = float(text) if text else USUAL_SHARE
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise _mistake(SHARE, f"{text!r} is not a share of all calls", "set it to a number from 0 to 1")
    return share


def _mistake(variable: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Mistake("the environment", variable, problem, remedy)])


class TracedIssuance(Issuance):
    """Issues as :class:`Issuance` does, with a span around each step."""

    def __init__(self, tracing: Tracing, **parts: Any) -> None:
        """``parts`` are those of :class:`Issuance`."""
        super().__init__(**parts)
        self._tracing = tracing

    async def _attest(
        self, evidence: TokenEvidence, call_slot: CallSlot, call: CountedCall
    ) -> tuple[Registered, ClusterAttestor, Caller]:
        with self._tracing.step("attest", {}) as span:
            found = await super()._attest(evidence, call_slot, call)
            span.set_attribute("federation.cluster", found[0].name)
            span.set_attribute("federation.proved_by", found[2].proved_by)
            return found

    async def _permit(
        self,
        member: Registered,
        attestor: ClusterAttestor,
        caller: Caller,
        request: SigningRequest,
        source: str,
    ) -> VerifiedRequest:
        with self._tracing.step("policy", {"federation.cluster": member.name}):
            return await super()._permit(member, attestor, caller, request, source)

    async def _record(self, delivery: Delivery) -> None:
        with self._tracing.step("record", {"federation.generation": delivery.generation}, leaves=True):
            await super()._record(delivery)

    async def _sign(
        self, authority: AuthoritySlot, wanted: LeafRequest, context: IssuanceContext, now: datetime
    ) -> CheckedLeaf:
        about = {
            "federation.cluster": wanted.cluster,
            "federation.authority": authority.settings.authority.name,
        }
        with self._tracing.step("sign", about, leaves=True):
            return await super()._sign(authority, wanted, context, now)


class TracedService(IstioCaService):
    """Answers as :class:`IstioCaService` does, with a span around each call."""

    def __init__(self, tracing: Tracing, *parts: Any) -> None:
        """``parts`` are those of :class:`IstioCaService`."""
        super().__init__(*parts)
        self._tracing = tracing

    async def handle(
        self, message: bytes, metadata: Iterable[tuple[str, str | bytes]], *, slot: CallSlot
    ) -> bytes:
        """The reply to this message. Raises Answered."""
        with self._tracing.call(metadata):
            return await super().handle(message, metadata, slot=slot)
