"""Which CA kube-apiserver verifies each istiod by: the webhook configurations of Istio in a member cluster, watched.

istiod writes the roots that it serves under into the ``caBundle`` of its webhooks whenever they change
(``pkg/webhooks`` of istio/istio). So they show from outside what istiod has really taken up from its files; before its
first start they are empty. A caBundle that cannot be read trusts nothing. The right to watch is granted for all webhook
configurations, since Istio's have no fixed names; of others nothing is kept.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from hashlib import sha256
from typing import Final

import msgspec

from federation.clusters.health import ClusterHealth
from federation.clusters.istio_found import FoundWebhook, read_webhook
from federation.clusters.objects import Item, Payload, WireMeta, key_of
from federation.clusters.reflector import Reflector
from federation.clusters.session import ClusterSession
from federation.controller.proof.participants import ContentReader
from federation.core.clock import Clock
from federation.core.config.model import ClusterConfig
from federation.core.errors import ClusterForbidden
from federation.core.trust.bundle import MAX_BUNDLE_BYTES
from federation.core.trust.rotation.world import ControlPlane, Webhook
from federation.state.documents import WebhookReport

KINDS: Final = ("mutating", "validating")
MOST_WEBHOOKS: Final = 64
"""Configurations of one cluster that are looked at: one or two a revision or a tag."""

MOST_NAMED: Final = 3
GRANT: Final = "apply manifests/member to that cluster: it lets the controller watch webhook configurations"

_PATH: Final = "/apis/admissionregistration.k8s.io/v1/{}webhookconfigurations"
_OTHER: Final = Webhook(name="", istiod="")
"""Stands for a webhook that calls no istiod."""


class _Object(msgspec.Struct):
    metadata: WireMeta


_decode_meta: Final = msgspec.json.Decoder(_Object).decode


class IstioWebhooks:
    """The webhooks of one cluster that call an istiod; run it as a task."""

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        *,
        reader: ContentReader,
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[], None],
    ) -> None:
        self._clock = clock
        self._reader = reader
        self._watches = {
            kind: Reflector(
                session,
                _PATH.format(kind),
                decode=self._decoder(kind),
                timeouts=cluster.timeouts,
                clock=clock,
                jitter=jitter,
                on_change=lambda _: on_change(),
            )
            for kind in KINDS
        }

    async def run(self) -> None:
        """Watch both kinds until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches.values():
                tasks.create_task(watch.run())

    @property
    def found(self) -> tuple[Webhook, ...] | None:
        """Those that call an istiod, by name; None where that is not known now."""
        if not all(watch.fresh for watch in self._watches.values()):
            return None
        every = [hook for watch in self._watches.values() for hook in watch.items.values() if hook.name]
        return tuple(sorted(every, key=lambda hook: hook.name)[:MOST_WEBHOOKS])

    @property
    def problem(self) -> str:
        """Why they are not known, with what to do; empty where they are."""
        for watch in self._watches.values():
            if isinstance(watch.problem, ClusterForbidden):
                return f"{watch.problem.what}; {GRANT}"
            if watch.problem is not None:
                return watch.problem.diagnostics()
        return "" if self.found is not None else "they are being listed"

    @property
    def read_at(self) -> float:
        """When both were last known to be as they are, in seconds since the epoch."""
        silent = self._clock.monotonic() - min(watch.heard for watch in self._watches.values())
        return self._clock.now().timestamp() - silent

    def revisions(self, namespace: str) -> tuple[str, ...]:
        """The revisions whose webhooks call an istiod of that namespace."""
        found = self.found or ()
        return tuple(sorted({h.revision for h in found if h.istiod.partition("/")[0] == namespace}))

    def report(self, planes: Iterable[ControlPlane]) -> list[WebhookReport]:
        """Each of them, with whether it verifies the certificate that the hub provides to its istiod."""
        held = {plane.name.partition("/")[0]: plane.held for plane in planes}
        return [
            WebhookReport(
                name=hook.name,
                istiod=hook.istiod,
                revision=hook.revision,
                state=_state(hook, held),
                anchors=sorted(hook.held),
            )
            for hook in self.found or ()
        ]

    def _decoder(self, kind: str) -> Callable[[Payload], Item[Webhook]]:
        def decode(payload: Payload) -> Item[Webhook]:
            meta = _decode_meta(payload).metadata
            found = read_webhook(msgspec.Raw(payload), kind)
            hook = _OTHER if found is None else self._webhook(found)
            return Item(key_of(meta), meta.resource_version, hook)

        return decode

    def _webhook(self, found: FoundWebhook) -> Webhook:
        held: frozenset[str] | None = None
        for bundle in found.ca_bundles:
            anchors = self._anchors(bundle)
            held = anchors if held is None else held & anchors
        return Webhook(
            name=found.name,
            istiod=f"{found.namespace}/{found.service}" if found.namespace else f"remote/{found.service}",
            revision=found.revision,
            held=held or frozenset(),
        )

    def _anchors(self, bundle: bytes) -> frozenset[str]:
        """What a caBundle trusts; nothing where it is empty, larger than any bundle, or no PEM."""
        if not bundle or len(bundle) > MAX_BUNDLE_BYTES:
            return frozenset()
        content = self._reader.read(bundle, sha256=sha256(bundle).hexdigest(), where="a caBundle")
        return frozenset(certificate.sha256 for certificate in content.certificates)


def _state(hook: Webhook, held: dict[str, frozenset[str] | None]) -> str:
    """Whether it has a root in common with the hub's Secret: verifies | empty | other_ca | not_provided."""
    namespace = hook.istiod.partition("/")[0]
    if namespace not in held:
        return "not_provided"
    if not hook.held:
        return "empty"
    anchors = held[namespace]
    return "verifies" if anchors is None or hook.held & anchors else "other_ca"


def webhook_health(reports: Iterable[WebhookReport]) -> ClusterHealth | None:
    """What is wrong with the istiods that these webhooks call; None where nothing is."""
    reports = list(reports)
    for state, reason, detail, remedy in _TROUBLES:
        found = [report for report in reports if report.state == state]
        if found:
            names = ", ".join(f"{r.name} (calls {r.istiod})" for r in found[:MOST_NAMED])
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            return ClusterHealth("degraded", reason, f"{detail}: {names}{more}", remedy)
    return None


_TROUBLES: Final = (
    (
        "other_ca",
        "istiod_other_ca",
        "kube-apiserver verifies istiod by another CA than that of the certificate which the hub provides",
        "restart istiod, which takes the Secret up at its start; where its own CA is still on, see docs/rotation.md",
    ),
    (
        "empty",
        "istiod_not_served",
        "istiod has written no caBundle, so it serves neither its webhooks nor agents over TLS",
        "start istiod; where it runs, restart it: it looks for its certificate only at its start",
    ),
)
