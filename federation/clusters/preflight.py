"""``federation clusters check``: whether the hub can do its job in a cluster, and no more than its job.

Every finding is complete by itself, with its remedy; what cannot be checked because something before it failed is left
out. Nothing is changed in the cluster: reviews and a token request store no object.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

import msgspec
from kubernetes_asyncio.client import (
    ApiClient,
    AuthenticationV1TokenRequest,
    AuthorizationV1Api,
    CoreV1Api,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
    V1SubjectAccessReviewStatus,
    V1TokenRequestSpec,
)

from federation.clusters.health import CLOCK_SKEW_LIMIT, CLOCK_SKEW_WARNING
from federation.clusters.istio_findings import compare_istio
from federation.clusters.istio_inventory import read_istio
from federation.clusters.permissions import (
    CONTROLLER_EXCESSIVE,
    SIGNER_EXCESSIVE,
    CheckResult,
    Outcome,
    Permission,
    Role,
    controller_needs,
    create_account,
    istiod_needs,
    own_token,
    signer_needs,
    trust_bundle_needs,
)
from federation.clusters.trust_bundles import MANIFESTS, served_version, trust_bundle_name
from federation.core.clock import Clock
from federation.core.config.clusters import ClusterConfig, Credentials
from federation.core.config.hub import HubConfig
from federation.core.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterNotFound,
    ConfigurationError,
    FederationError,
    InvalidValue,
)
from federation.core.identity import NO_HUB, HubIdentity
from federation.core.jwks import parse_key_set
from federation.kubernetes.answers import harmless
from federation.kubernetes.generated_api import generated_api
from federation.kubernetes.objects import METADATA_ONLY_LIST, Writers, decode_page, find_writers, stop_writers
from federation.kubernetes.session import ClusterSession

KEYS_TYPE: Final = "application/jwk-set+json"  # kube-apiserver answers 406 to those who want anything else
OLDEST_VERSION: Final = (1, 22)
"""Server-side apply, bound tokens and issuer discovery are stable since then."""

OLDEST_TESTED: Final = (1, 34)

_GIT_VERSION = re.compile(r"v?(\d{1,3})\.(\d{1,3})\.")


class ServerVersion(msgspec.Struct, rename="camel"):
    """The answer of ``/version``."""

    git_version: str


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str = ""


async def check_cluster(
    config: ClusterConfig, hub: HubConfig, *, clock: Clock, identity: HubIdentity | None = None
) -> tuple[CheckResult, ...]:
    """Every finding about one cluster, in a fixed order. Raises nothing that the cluster could cause.

    ``identity`` is of the hub that is configured so, without an ID where it has drawn none yet; None where its state
    cannot be read here.
    """
    registry = Checks(config, "hub")
    _check_registry(registry, hub)
    signer, controller = Checks(config, "signer"), Checks(config, "controller")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_check_role(signer, config.signer, clock, partial(_check_signer, signer)))
        tasks.create_task(
            _check_role(
                controller,
                config.controller,
                clock,
                partial(_check_controller, controller, hub=hub, identity=identity),
            )
        )
    return (*registry.results, *signer.results, *controller.results)


class Checks:
    """Collects the findings of one role."""

    def __init__(self, config: ClusterConfig, role: Role) -> None:
        self.config = config
        self.role = role
        self.results: list[CheckResult] = []

    def add(self, check: str, outcome: Outcome, detail: str, remedy: str = "") -> None:
        """One more finding."""
        self.results.append(CheckResult(str(self.config.name), self.role, check, outcome, detail, remedy))

    @asynccontextmanager
    async def guarded(
        self, check: str, *, otherwise: Outcome = "failed", remedy: str = ""
    ) -> AsyncIterator[None]:
        """Turn a failure of the cluster into the finding; an answer of another shape as well.

        ``remedy`` is for what is forbidden or not there; every other failure knows its own.
        """
        try:
            yield
        except FederationError as error:
            ours = remedy if isinstance(error, ClusterForbidden | ClusterNotFound) else ""
            self.add(check, otherwise, error.what, ours or error.remedy)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            garbage = f"the answer is not what the API promises: {error}"
            self.add(check, otherwise, garbage, ClusterGarbage.default_remedy)


def _check_registry(checks: Checks, hub: HubConfig) -> None:
    config = checks.config
    twins = [str(c.name) for c in hub.clusters if c.cluster_id == config.cluster_id and c.name != config.name]
    if twins:
        checks.add(
            "cluster_id",
            "failed",
            f"{config.cluster_id} is also the cluster_id of {', '.join(twins)}",
            "give each mesh its own global.multiCluster.clusterName, and register that",
        )
    else:
        checks.add("cluster_id", "ok", f"{config.cluster_id} is registered once")
    if config.signer == config.controller:
        checks.add(
            "separate_credentials",
            "warning",
            "both roles use the same credentials: a thief of one can sign and publish",
            "give each role its own service account (manifests/member) and kubeconfig",
        )
    else:
        checks.add("separate_credentials", "ok", "each role has its own credentials")


async def _check_role(
    checks: Checks,
    credentials: Credentials,
    clock: Clock,
    further: Callable[[ClusterSession, ApiClient], Awaitable[None]],
) -> None:
    config = checks.config
    try:
        session = await ClusterSession.open(
            credentials, cluster=config.name, timeouts=config.timeouts, clock=clock
        )
    except ConfigurationError as error:
        for finding in error.findings:
            checks.add(
                "credentials", "failed", f"{finding.file}: {finding.key}: {finding.problem}", finding.remedy
            )
        return
    except ClusterError as error:
        checks.add("credentials", "failed", error.what, error.remedy)
        return
    checks.add("credentials", "ok", f"for {session.server}")
    async with session:
        try:
            answer = await session.get("/version")
        except ClusterError as error:
            checks.add("reachable", "failed", f"{error.reason}: {error.what}", error.remedy)
            if session.clock_skew:  # a refusal has a Date as well, and a clock that is off may be its cause
                check_clock(checks, session.clock_skew)
            return
        checks.add("reachable", "ok", f"{session.server} answers")
        async with checks.guarded("version"):
            check_version(checks, msgspec.json.decode(answer, type=ServerVersion).git_version)
        check_clock(checks, session.clock_skew)
        async with generated_api(session) as api:
            await _check_own_token(checks, session, api)
            await further(session, api)


def check_version(checks: Checks, text: str) -> None:
    """Whether the hub works with that version of Kubernetes."""
    match = _GIT_VERSION.match(text)
    if match is None:
        checks.add(
            "version", "warning", f"{text[:40]!r} is no version of Kubernetes", "check what answers there"
        )
        return
    version = int(match[1]), int(match[2])
    if version < OLDEST_VERSION:
        checks.add("version", "failed", f"{harmless(text)} is too old", "upgrade it to 1.22 or later")
    elif version < OLDEST_TESTED:
        checks.add(
            "version",
            "warning",
            f"{harmless(text)} is older than what the hub is tested with",
            "upgrade it to 1.34",
        )
    else:
        checks.add("version", "ok", harmless(text))


def check_clock(checks: Checks, skew: float) -> None:
    """How far the cluster's clock is from this machine's, in seconds."""
    size = abs(skew)
    outcome: Outcome = "ok"
    if size >= CLOCK_SKEW_WARNING:
        outcome = "warning" if size < CLOCK_SKEW_LIMIT else "failed"
    side = "behind" if skew > 0 else "ahead of"
    remedy = "" if outcome == "ok" else "repair NTP on the side that is wrong"
    checks.add("clock", outcome, f"its clock is {size:.0f} s {side} this machine's", remedy)


async def _check_signer(checks: Checks, session: ClusterSession, api: ApiClient) -> None:
    await _check_permissions(checks, api, signer_needs(), SIGNER_EXCESSIVE)
    config = checks.config
    needs_keys = config.attestation == "token-keys"
    otherwise: Outcome = "failed" if needs_keys else "warning"
    remedy = "grant system:service-account-issuer-discovery (manifests/member)"
    if not needs_keys:
        remedy += "; until then every token costs a TokenReview"
    async with checks.guarded("issuer", otherwise=otherwise, remedy=remedy):
        answer = await session.get("/.well-known/openid-configuration")
        issuer = msgspec.json.decode(answer, type=_Discovery).issuer
        if config.issuer and issuer != config.issuer:
            checks.add(
                "issuer",
                "failed",
                f"it publishes {issuer[:200]!r}, registered is {config.issuer!r}",
                "register the issuer it publishes, if this is the right cluster, and the one before in "
                "`former_issuers` while tokens of it live",
            )
        else:
            checks.add("issuer", "ok", harmless(issuer))
    async with checks.guarded("token_keys", otherwise=otherwise, remedy=remedy):
        document = await session.get("/openid/v1/jwks", accept=KEYS_TYPE)
        checks.add("token_keys", *_judge_keys(document, needs_keys=needs_keys))


def _judge_keys(document: bytes, *, needs_keys: bool) -> tuple[Outcome, str, str]:
    """What the signer makes of the published keys: it reads them in the same way."""
    try:
        keys = parse_key_set(document, where="/openid/v1/jwks")
    except InvalidValue as error:
        if needs_keys:
            return "failed", error.what, "use attestation = auto or token-review"
        return "warning", f"{error.what}, so every token is reviewed", error.remedy
    usable = f"{len(keys)} published"
    if not keys.left_out:
        return "ok", usable, ""
    without = "refused" if needs_keys else "reviewed"
    what = f"{usable} that can be used, and {keys.left_out} that cannot: tokens of those are {without}"
    return "warning", what, "service account keys are RSA of 2048 bits or more, or EC, each with a `kid`"


async def _check_controller(
    checks: Checks,
    session: ClusterSession,
    api: ApiClient,
    *,
    hub: HubConfig,
    identity: HubIdentity | None,
) -> None:
    publication = hub.controller.publication
    needs = controller_needs(config_map=publication.config_map, probe=checks.config.probe)
    await _check_permissions(checks, api, needs, CONTROLLER_EXCESSIVE)
    await _check_probe(checks, api)
    trust_bundle = await _check_trust_bundle(checks, session, api, trust_bundle_name(publication.config_map))
    async with checks.guarded("bundle_writers"):
        writers = await find_writers(session, config_map=publication.config_map, key=publication.key)
        check_hubs(checks, writers, identity)
        if writers.others:
            named = _counted(writers.others)
            checks.add(
                "bundle_writers",
                "warning",
                f"others write {publication.config_map}: {named}",
                stop_writers(writers.others),
            )
        else:
            checks.add("bundle_writers", "ok", f"no writer but hubs is recorded for {publication.config_map}")
    await _check_istiod_certificate(checks, session, api)
    found = await read_istio(session, checks.config)
    checks.results += compare_istio(found, checks.config, hub, trust_bundle=trust_bundle)


def check_hubs(checks: Checks, writers: Writers, identity: HubIdentity | None) -> None:
    """Whether another hub has written to the cluster, by the marks on the objects."""
    check, marks = "hubs", writers.hubs
    if identity is None and any(marks):
        checks.add(
            check,
            "warning",
            f"hubs have written there: {_counted(marks)}; the identity of this one cannot be read here",
            "compare with what `federation status --json` shows under controllers; a second one is another hub",
        )
        return
    own = identity or NO_HUB
    others = Counter({mark: n for mark, n in marks.items() if mark and not own.owns(mark)})
    if others:
        checks.add(
            check,
            "failed",
            f"another hub has written there, of the identity {_counted(others)}: this one will write nothing",
            "find that hub. Remove the cluster from one of the two; to take it over with this one, stop the other "
            "there and name its identity in controller.adopt_hubs",
        )
    elif marks[""] and not own.id:
        checks.add(
            check,
            "warning",
            f"a hub that left no identity has written there ({marks['']}): an earlier release, and not this hub, which "
            "has not run yet",
            "find that hub, and see that only one of the two has this cluster",
        )
    else:
        checks.add(check, "ok", "no other hub has written there")


def _counted(names: Counter[str]) -> str:
    """The first few with how often each occurs."""
    return ", ".join(f"{harmless(name) or 'none'} ({count})" for name, count in sorted(names.items())[:5])


async def _check_probe(checks: Checks, api: ApiClient) -> None:
    probe = checks.config.probe
    request = AuthenticationV1TokenRequest(
        spec=V1TokenRequestSpec(audiences=[checks.config.audience], expiration_seconds=600)
    )
    async with checks.guarded("probe", remedy=create_account(probe)):
        await CoreV1Api(api).create_namespaced_service_account_token(probe.name, probe.namespace, request)
        checks.add("probe", "ok", f"tokens of {probe} are given")


async def _check_istiod_certificate(checks: Checks, session: ClusterSession, api: ApiClient) -> None:
    """Whether the hub can keep istiod's certificate, and whether it is there: by the Secret's metadata alone."""
    istio, check = checks.config.istio, "istio_certificate"
    if not istio.provide_certificate:
        return
    async with checks.guarded(check):
        missing = [p for p in istiod_needs(istio) if not await _allowed(api, p)]
        if missing:
            checks.add(
                check,
                "failed",
                "may not " + "; ".join(f"{p} (needed to {p.why})" for p in missing),
                "create the namespace of istiod, then apply manifests/member; or set provide_certificate = false in "
                "[clusters.istio] and make the Secret by other means",
            )
            return
        absent = [place for place in istio.namespaces if not await _has_secret(session, place, istio.secret)]
        if absent:
            checks.add(
                check,
                "warning",
                f"Secret {istio.secret} is not yet in {', '.join(absent)}",
                "run the hub, which writes it (`federation status` says what keeps it from that), before istiod starts",
            )
        else:
            checks.add(check, "ok", f"Secret {istio.secret} is in {', '.join(istio.namespaces)}")


async def _has_secret(session: ClusterSession, namespace: str, name: str) -> bool:
    answer = await session.get(
        f"/api/v1/namespaces/{namespace}/secrets",
        params={"fieldSelector": f"metadata.name={name}"},
        accept=METADATA_ONLY_LIST,
    )
    return bool(decode_page(answer).items)


async def _check_trust_bundle(
    checks: Checks, session: ClusterSession, api: ApiClient, name: str
) -> bool | None:
    """Whether one can be published; None where that is not known.

    It is optional: asked only where the cluster serves the API and the operator has not said "off".
    """
    if checks.config.istio.cluster_trust_bundle == "off":
        return False
    check = "cluster_trust_bundle"
    can: bool | None = None
    async with checks.guarded(
        check,
        otherwise="warning",
        remedy="bind the ClusterRole system:discovery to the group system:authenticated there, as Kubernetes does by "
        "itself",
    ):
        version = await served_version(session)
        missing = [p for p in trust_bundle_needs(name) if version and not await _allowed(api, p)]
        can = bool(version) and not missing
        if not version:
            checks.add(check, "ok", "the cluster serves no ClusterTrustBundles")
        elif can:
            checks.add(check, "ok", f"{name} can be published by {version}")
        else:
            checks.add(
                check,
                "warning",
                f"the cluster serves ClusterTrustBundles ({version}), and {name} is not published: may not "
                + "; ".join(map(str, missing)),
                f'apply {MANIFESTS} to that cluster, or set cluster_trust_bundle = "off" in its [clusters.istio]',
            )
    return can


async def _check_own_token(checks: Checks, session: ClusterSession, api: ApiClient) -> None:
    """Whether the role can renew the token that it works with; nothing where it works with none that ends."""
    life = session.credential_life
    if life.account is None or not life.length:
        return
    ends = f"its token ends {datetime.fromtimestamp(life.expires, UTC):%Y-%m-%d %H:%M:%S} UTC"
    async with checks.guarded("own_token", otherwise="warning"):
        if await _allowed(api, own_token(life.account)):
            checks.add("own_token", "ok", f"it may renew its token; {ends}")
            return
        checks.add(
            "own_token",
            "warning",
            f"it may not ask for tokens of {life.account}: {ends}, and the cluster is lost to the {checks.role} then "
            "unless something else renews it",
            "apply manifests/member there (own-tokens.yaml), or leave it so where something of yours renews the token",
        )


async def _check_permissions(
    checks: Checks, api: ApiClient, needed: Iterable[Permission], excessive: Iterable[Permission]
) -> None:
    async with checks.guarded("permissions"):
        missing = [p for p in needed if not await _allowed(api, p)]
        if missing:
            checks.add(
                "permissions",
                "failed",
                "may not " + "; ".join(f"{p} (needed to {p.why})" for p in missing),
                "apply manifests/member to that cluster",
            )
        else:
            checks.add("permissions", "ok", "everything this role needs")
    async with checks.guarded("excess_permissions"):
        too_much = [p for p in excessive if await _allowed(api, p)]
        if too_much:
            checks.add(
                "excess_permissions",
                "warning",
                "may " + "; ".join(f"{p} (and could {p.why})" for p in too_much),
                "use the service account of manifests/member, not an administrator's kubeconfig",
            )
        else:
            checks.add("excess_permissions", "ok", "nothing beyond its part")


async def _allowed(api: ApiClient, permission: Permission) -> bool:
    """What the API server says of the hub's own right. Raises ClusterErrors."""
    resource, _, subresource = permission.resource.partition("/")
    attributes = V1ResourceAttributes(
        verb=permission.verb,
        group=permission.group or None,
        resource=resource,
        subresource=subresource or None,
        namespace=permission.namespace or None,
        name=permission.name or None,
    )
    review = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
    answer = await AuthorizationV1Api(api).create_self_subject_access_review(review)
    if not isinstance(answer.status, V1SubjectAccessReviewStatus):
        raise ClusterGarbage("the answer to an access review has no status")
    return bool(answer.status.allowed)
