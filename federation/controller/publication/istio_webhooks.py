"""Which CA kube-apiserver verifies each istiod by: the webhook configurations of Istio in a member cluster.

istiod writes the roots that it serves under into the ``caBundle`` of its webhooks whenever they change
(``pkg/webhooks`` of istio/istio). So they show from outside what istiod has really loaded from its files; before its
first start they are empty. A caBundle that cannot be read trusts nothing. The right to read is granted for all
webhook configurations, since Istio's have no fixed names; nothing is remembered of others.

What a cluster may have the hub read is bounded, since one that has been broken into could keep the loop busy or fill
the memory with it: different caBundles at a time, and bytes of them in a time. A cluster that goes beyond is not
read.

A watch takes a connection, and there are many clusters. istiod patches both kinds when its roots change, so one kind is
watched, and the other is listed soon after a change of that, every :data:`POLL_AT_REST` seconds otherwise, and more
often while something waits for it.

A watch that is silent is listed anew, which takes a moment, and nothing has gone wrong. Meanwhile what was seen last
counts, with the time at which it was: each gate decides how old it may be. Else a soak would begin anew each time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Final
from weakref import WeakValueDictionary

import msgspec

from federation.clusters.health import ClusterHealth
from federation.clusters.istio_inventory import FoundWebhook, read_webhook
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig
from federation.core.documents.controller import WebhookReport
from federation.core.errors import ClusterForbidden
from federation.core.pki.pem import readable_certificates
from federation.core.rotation.world import ControlPlane, Webhook
from federation.core.trust.bundle import MAX_BUNDLE_BYTES
from federation.kubernetes.objects import Item, Payload, WireMeta, key_of
from federation.kubernetes.reflector import Change, Reflector
from federation.kubernetes.session import ClusterSession

WATCHED: Final = "mutating"
POLLED: Final = "validating"

POLL_AT_REST: Final = 45.0
"""Seconds between two lists: gates take what is at most a minute old, and at rest none waits."""

POLL_AWAITED: Final = 4.0
"""Seconds while a rotation is under way or the cluster joins. Its connection is not closed in between."""

MOST_WEBHOOKS: Final = 64
"""Configurations of one cluster that call an istiod: one or two for each revision or tag. Where there are more, none
counts as known: no gate may open by those that happened to be read."""

MOST_BUNDLES: Final = 64
"""Different caBundles of one cluster at a time: an istiod gives all its webhooks the same."""

MOST_CERTIFICATES: Final = 128
"""Of one caBundle: to take them apart takes the loop some milliseconds."""

MOST_BYTES: Final = 16 * 1024 * 1024
"""Of caBundles that were not read before: at once, and again in each :data:`PER_SECONDS`."""

PER_SECONDS: Final = 300.0

MOST_ANCHORS: Final = 16
"""Of one webhook that are reported. One report covers all clusters, and a state store takes no larger one."""

MOST_TEXT: Final = 320  # characters of a namespace with a service, or of a host

MOST_NAMED: Final = 3
GRANT: Final = "apply manifests/member to that cluster: it lets the controller read webhook configurations"

_PATH: Final = "/apis/admissionregistration.k8s.io/v1/{}webhookconfigurations"
_OTHER: Final = Webhook(name="", istiod="")
"""The value for a webhook that calls no istiod."""


class _Object(msgspec.Struct):
    metadata: WireMeta


_decode_meta: Final = msgspec.json.Decoder(_Object).decode


class _Anchors:
    """The anchors of the caBundles that webhooks have, read once and within bounds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._read: WeakValueDictionary[bytes, frozenset[str]] = WeakValueDictionary()
        self._left = float(MOST_BYTES)
        self._at = clock.monotonic()

    def common(self, bundles: Iterable[bytes]) -> frozenset[str]:
        """What every one of them trusts. Raises ValidationError beyond the bounds."""
        usable = [bundle if len(bundle) <= MAX_BUNDLE_BYTES else b"" for bundle in bundles]
        if not all(usable):
            return frozenset()
        key = b"".join(sha256(bundle).digest() for bundle in usable)
        anchors = self._read.get(key)
        if anchors is None:
            self._spend(sum(map(len, usable)))
            anchors = frozenset.intersection(*map(_parse, usable)) if usable else frozenset()
            if anchors:
                self._read[key] = anchors  # for as long as some webhook has it
        return anchors

    def _spend(self, size: int) -> None:
        now = self._clock.monotonic()
        self._left = min(MOST_BYTES, self._left + (now - self._at) * MOST_BYTES / PER_SECONDS)
        self._at = now
        if len(self._read) >= MOST_BUNDLES:
            raise msgspec.ValidationError(f"more than {MOST_BUNDLES} different caBundles call an istiod")
        if size > self._left:
            raise msgspec.ValidationError("the caBundles change more often than the hub reads them")
        self._left -= size


def _parse(bundle: bytes) -> frozenset[str]:
    """What kube-apiserver trusts by it; nothing where it is no PEM."""
    return frozenset(certificate.sha256 for certificate in readable_certificates(bundle))


class IstioWebhooks:
    """The webhooks of one cluster that call an istiod; run it as a task."""

    def __init__(
        self,
        session: ClusterSession,
        cluster: ClusterConfig,
        *,
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[], None],
        awaited: Callable[[], bool] = lambda: False,
    ) -> None:
        """``awaited`` says whether something waits for what istiod writes there."""
        self._clock = clock
        self._awaited = awaited
        self._rest = min(POLL_AT_REST, cluster.timeouts.watch_silence / 2)
        self._anchors = _Anchors(clock)
        self._changed = True
        self._seen: tuple[float, tuple[Webhook, ...]] | None = None
        self._too_many = 0
        self._revisions: dict[str, tuple[str, ...]] = {}
        self._revisions_of: dict[str, tuple[Webhook, ...]] = {}  # what these were last read from
        self._on_change = on_change
        self._lasting = 2 * cluster.timeouts.watch_silence
        self._watches = {
            kind: Reflector(
                session,
                _PATH.format(kind),
                decode=self._decoder(kind),
                timeouts=cluster.timeouts,
                clock=clock,
                jitter=jitter,
                on_change=self._noticed if kind == POLLED else self._noticed_by_watch,
                poll=self._poll if kind == POLLED else None,
            )
            for kind in (WATCHED, POLLED)
        }

    async def run(self) -> None:
        """Watch one kind and poll the other until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for watch in self._watches.values():
                tasks.create_task(watch.run())

    def _poll(self) -> float:
        return POLL_AWAITED if self._awaited() else self._rest

    def _noticed_by_watch(self, change: Change[Webhook]) -> None:
        if _OTHER not in (change.old, change.new):
            self._watches[POLLED].list_soon()
        self._noticed(change)

    def _noticed(self, _: Change[Webhook]) -> None:
        self._changed = True
        self._on_change()

    def _seen_now(self) -> tuple[float, tuple[Webhook, ...]] | None:
        """Since when what was seen last is known by the monotonic clock, and what that is; None: not known now."""
        watches = self._watches.values()
        if all(watch.fresh for watch in watches):
            if self._changed or self._seen is None:
                every = [hook for watch in watches for hook in watch.items.values() if hook.name]
                self._too_many = len(every) if len(every) > MOST_WEBHOOKS else 0
                found = tuple(sorted(every, key=lambda hook: hook.name)[:MOST_WEBHOOKS])
                self._changed = False
            else:
                found = self._seen[1]
            self._seen = min(watch.last_seen for watch in watches), found
        elif self._seen is not None and (
            any(watch.problem is not None for watch in watches)
            or self._clock.monotonic() - self._seen[0] > self._lasting
        ):
            self._seen = None
        return self._seen

    @property
    def found(self) -> tuple[Webhook, ...] | None:
        """Those that call an istiod, by name, as they were at :attr:`read_at`; None where that is not known now."""
        seen = self._seen_now()
        return seen[1] if seen is not None and not self._too_many else None

    @property
    def problem(self) -> str | None:
        """Why they are not known, with what to do; None where they are."""
        for watch in self._watches.values():
            if isinstance(watch.problem, ClusterForbidden):
                return f"{watch.problem.what}; {GRANT}"
            if watch.problem is not None:
                return watch.problem.diagnostics()
        if self.found is not None:
            return None
        if self._too_many:
            why = f"{self._too_many} of them call an istiod, more than {MOST_WEBHOOKS}"
            return f"{why}; find what makes them in that cluster, and delete them"
        return "they are being listed"

    @property
    def read_at(self) -> float:
        """When :attr:`found` was last known to be so, in seconds since the epoch; 0 where it is not known."""
        seen = self._seen_now()
        return (
            self._clock.now().timestamp() - (self._clock.monotonic() - seen[0]) if seen is not None else 0.0
        )

    @property
    def unread(self) -> str | None:
        """Why none of them counts as read, and will not by itself; None while that is not known."""
        forbidden = any(isinstance(watch.problem, ClusterForbidden) for watch in self._watches.values())
        return self.problem if forbidden or (self._too_many and self.found is None) else None

    def revisions(self, namespace: str) -> tuple[str, ...]:
        """The revisions whose Services webhooks call in that namespace, as last known.

        They are what is verified: a tag's webhooks call the Service of the revision that it names. A renewal at a
        moment at which webhooks are not known must not lose their names.
        """
        found = self.found
        if found is not None and found is not self._revisions_of.get(namespace):
            self._revisions_of[namespace] = found
            services = [hook.istiod.removeprefix(f"{namespace}/istiod-") for hook in found]
            named = {s for s, hook in zip(services, found, strict=True) if s != hook.istiod}
            self._revisions[namespace] = tuple(sorted(named))
        return self._revisions.get(namespace, ())

    def report(self, planes: Iterable[ControlPlane]) -> list[WebhookReport]:
        """Each of them, with whether it verifies the certificate that the hub provides to its istiod."""
        served = {plane.name.partition("/")[0]: plane for plane in planes}
        return [
            WebhookReport(
                name=hook.name,
                istiod=hook.istiod,
                revision=hook.revision,
                state=_state(hook, served),
                anchors=sorted(hook.anchors)[:MOST_ANCHORS],
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
        return Webhook(
            name=found.name,
            # No namespace is called "https:", so a remote istiod is never taken for one that the hub provides.
            istiod=f"{found.namespace or 'https:/'}/{found.service}"[:MOST_TEXT],
            revision=found.revision[:MOST_TEXT],
            anchors=self._anchors.common(found.ca_bundles),
        )


def _state(hook: Webhook, served: Mapping[str, ControlPlane]) -> str:
    """Whether it has the root of the certificate in the hub's Secret: verifies | empty | other_ca | not_provided."""
    plane = served.get(hook.istiod.partition("/")[0])
    if plane is None:
        return "not_provided"
    if not hook.anchors:
        return "empty"
    return "verifies" if not plane.root or plane.root in hook.anchors else "other_ca"


def webhook_health(reports: Iterable[WebhookReport], unread: str | None = None) -> ClusterHealth | None:
    """What is wrong with the istiods that these webhooks call; None where nothing is.

    ``unread`` is why they cannot be read, with what to do after a semicolon: then nothing is known of these istiods,
    and a rotation waits.
    """
    if unread is not None:
        why, _, remedy = unread.rpartition("; ")
        detail = f"by which CA kube-apiserver verifies istiod is not known: {why}"
        return ClusterHealth("degraded", "webhooks_unread", detail, remedy)
    reports = list(reports)
    for state, reason, detail, remedy in _PROBLEMS:
        found = [report for report in reports if report.state == state]
        if found:
            names = ", ".join(f"{r.name} (calls {r.istiod})" for r in found[:MOST_NAMED])
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            return ClusterHealth("degraded", reason, f"{detail}: {names}{more}", remedy)
    return None


_PROBLEMS: Final = (
    (
        "other_ca",
        "istiod_other_ca",
        "kube-apiserver verifies istiod by another CA than that of the certificate which the hub provides",
        (
            "restart istiod, which loads the Secret at its start; where its own CA is still on, see docs/rotation.md;"
            " where there is no such istiod any more, delete the webhook configuration"
        ),
    ),
    (
        "empty",
        "istiod_not_served",
        "istiod has written no caBundle, so it serves neither its webhooks nor agents over TLS",
        (
            "start istiod; where it runs, restart it: it reads its certificate only at its start; where there is no"
            " such istiod any more, delete the webhook configuration"
        ),
    ),
)
