"""What runs of Istio in a member cluster, as the controller's account may read it. Changes nothing.

Only objects of fixed names are read, in whatever namespace they are: Deployments ``istiod[-<revision>]``, the
ConfigMaps ``istio`` and ``istio-sidecar-injector`` of each revision, DaemonSets of ztunnel, and the webhook
configurations that call an istiod, by which revisions are found (istio/istio, manifests/charts). They are listed with a
field selector on the name, as ``resourceNames`` of RBAC requires. Each of these rights is optional: what could not
be read is listed in ``unread`` with the reason, and nothing is concluded from its absence.

No Secret is read. Whether a CA is plugged in by the Secret ``cacerts`` cannot be seen here: istiod's chart mounts it
whether it exists or not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from federation.clusters.permissions import Permission
from federation.core.config.clusters import ClusterConfig
from federation.core.errors import (
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterTimeout,
    ClusterUnreachable,
    InvalidValue,
)
from federation.core.istio.istiod import DEFAULT_REVISION
from federation.kubernetes.answers import harmless
from federation.kubernetes.objects import decode_page
from federation.kubernetes.safe_yaml import load_yaml
from federation.kubernetes.session import ClusterSession

MAX_OBJECTS: Final = 500
"""In one list; if there are more, that is reported, and they are not read."""

MAX_ENTRIES: Final = 64
"""Volumes, webhooks or aliases of one object that are read."""

MAX_REVISIONS: Final = 16
MAX_MESH_BYTES: Final = 128 * 1024
MAX_YAML_BYTES: Final = 2 * MAX_MESH_BYTES
"""Of all mesh settings of a cluster together: YAML takes seconds for a megabyte, and this is read again and again."""

MAX_VALUE: Final = 1024
"""Characters of one setting; longer ones are cut."""

CLUSTER_NAME_DEFAULT: Final = "Kubernetes"
"""What Istio's charts write where global.multiCluster.clusterName is not set."""

WATCHED_ENVIRONMENT: Final = frozenset(
    {
        "CA_TRUSTED_NODE_ACCOUNTS",
        "CLUSTER_ID",
        "ENABLE_CA_SERVER",
        "ENABLE_CLUSTER_TRUST_BUNDLE_API",
        "EXTERNAL_CA",
        "ISTIO_MULTIROOT_MESH",
        "PILOT_CA_CERT_CONFIGMAP",
        "PILOT_CERT_PROVIDER",
        "PILOT_SKIP_VALIDATE_TRUST_DOMAIN",
        "REVISION",
        "USE_CACERTS_FOR_SELF_SIGNED_CA",
        "CA_ADDRESS",
        "ISTIO_META_CLUSTER_ID",
        "NETWORK",
    }
)
"""The variables of istiod and ztunnel that are kept; others may hold anything, and are dropped while they are read."""

_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})

T = TypeVar("T")


def parse_go_bool(text: str | None, default: bool) -> bool:
    """What Go's strconv.ParseBool takes; Istio goes on with the default where it takes nothing (pkg/env)."""
    if text in _TRUE:
        return True
    return False if text in _FALSE else default


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The variables of one container that are read: ``literal`` with their values, ``indirect`` without."""

    literal: tuple[tuple[str, str], ...] = ()
    indirect: frozenset[str] = frozenset()  # taken from elsewhere (valueFrom), so the value is not known

    def get(self, name: str) -> str | None:
        """Its value; None where it is not set or not known."""
        return dict(self.literal).get(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundIstiod:
    """One Deployment of istiod. ``mounts`` are "secret/NAME", "configmap/NAME", "clustertrustbundle/NAME"."""

    namespace: str
    name: str
    revision: str = DEFAULT_REVISION
    image: str = ""
    account: str = ""
    environment: Environment = field(default_factory=Environment)
    mounts: frozenset[str] = frozenset()
    replicas: int = 0
    ready: int = 0
    settled: bool = False  # every replica is of the newest template and ready
    rolled_out: float = (
        0.0  # when its last rollout went on (condition Progressing), in seconds since the epoch
    )

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def ca_server(self) -> bool | None:
        """Whether its own CA answers (None: not known). It does unless it is turned off."""
        if "ENABLE_CA_SERVER" in self.environment.indirect:
            return None
        return parse_go_bool(self.environment.get("ENABLE_CA_SERVER"), True)

    @property
    def cluster_name(self) -> str | None:
        """global.multiCluster.clusterName as istiod has it (None: not known)."""
        if "CLUSTER_ID" in self.environment.indirect:
            return None
        return self.environment.get("CLUSTER_ID") or CLUSTER_NAME_DEFAULT


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMesh:
    """MeshConfig of the ConfigMap ``istio``. ``problem`` says why it could not be understood."""

    namespace: str
    name: str
    revision: str = DEFAULT_REVISION
    trust_domain: str = ""
    trust_domain_aliases: tuple[str, ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundInjection:
    """The values that sidecars and gateways are injected with: ConfigMap ``istio-sidecar-injector``."""

    namespace: str
    name: str
    revision: str = DEFAULT_REVISION
    ca_address: str = ""  # empty: agents ask istiod itself
    cluster_name: str = ""
    network: str = ""
    mesh_id: str = ""
    audience: str = ""
    cert_provider: str = ""
    bundle_name: str = ""
    problem: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundZtunnel:
    """One DaemonSet of ztunnel."""

    namespace: str
    name: str
    account: str = ""
    image: str = ""
    environment: Environment = field(default_factory=Environment)
    mounts: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundWebhook:
    """A webhook configuration that calls an istiod, with each caBundle that it has (empty bytes: none yet).

    For a remote istiod ``namespace`` is empty and ``service`` its host.
    """

    name: str  # kind/name
    namespace: str
    service: str
    revision: str = DEFAULT_REVISION
    ca_bundles: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """What could not be read: "list deployments.apps istiod", and why."""

    what: str
    why: str
    remedy: str = ""
    forbidden: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioFound:
    """All that was found. An empty tuple says that there is none only where nothing of its kind is in ``unread``."""

    istiods: tuple[FoundIstiod, ...] = ()
    meshes: tuple[FoundMesh, ...] = ()
    injections: tuple[FoundInjection, ...] = ()
    ztunnels: tuple[FoundZtunnel, ...] = ()
    webhooks: tuple[FoundWebhook, ...] = ()
    unread: tuple[Unread, ...] = ()

    def of(self, istiod: FoundIstiod) -> tuple[FoundMesh | None, FoundInjection | None]:
        """The mesh settings and the injected values that belong to one istiod, where they were found."""
        place = (istiod.namespace, istiod.revision)
        mesh = next((m for m in self.meshes if (m.namespace, m.revision) == place), None)
        injection = next((i for i in self.injections if (i.namespace, i.revision) == place), None)
        return mesh, injection


async def read_istio(session: ClusterSession, config: ClusterConfig) -> IstioFound:
    """Everything that may be read. Raises nothing that the cluster could cause: failures are in ``unread``.

    One list after another, over one connection; after one that got no answer nothing more is asked.
    """
    reading = _Reading(session)
    webhooks = [
        found
        for kind in ("mutating", "validating")
        for found in await reading.list_webhooks(f"{kind}webhookconfigurations")
    ]
    suffixes = ["", *(f"-{revision}" for revision in _revisions(config, webhooks, reading))]
    ztunnels = dict.fromkeys(["ztunnel", *(a.name for a in config.policy.trusted_node_accounts)])
    istiods: list[FoundIstiod] = []
    meshes: list[FoundMesh] = []
    injections: list[FoundInjection] = []
    proxies: list[FoundZtunnel] = []
    for suffix in suffixes:
        istiods += await reading.list_named("apps", "deployments", f"istiod{suffix}", read_istiod)
        meshes += await reading.list_named("", "configmaps", f"istio{suffix}", read_mesh)
        injections += await reading.list_named(
            "", "configmaps", f"istio-sidecar-injector{suffix}", read_injection
        )
    for name in ztunnels:
        proxies += await reading.list_named("apps", "daemonsets", name, read_ztunnel)
    return IstioFound(
        istiods=tuple(istiods),
        meshes=tuple(meshes),
        injections=tuple(injections),
        ztunnels=tuple(proxies),
        webhooks=tuple(webhooks),
        unread=tuple(reading.unread),
    )


def _revisions(config: ClusterConfig, webhooks: Iterable[FoundWebhook], reading: _Reading) -> list[str]:
    named = {*config.istio.revisions, *(webhook.revision for webhook in webhooks)} - {DEFAULT_REVISION, ""}
    kept = sorted(named)[:MAX_REVISIONS]
    if len(named) > len(kept):
        reading.unread.append(
            Unread(what=f"{len(named) - len(kept)} revisions", why=f"more than {MAX_REVISIONS} were found")
        )
    return kept


class _Reading:
    """Lists through one session, and notes what failed."""

    def __init__(self, session: ClusterSession) -> None:
        self._session = session
        self._silent = ""  # why nothing more is asked
        self._yaml_left = MAX_YAML_BYTES
        self.unread: list[Unread] = []

    async def list_named(
        self, group: str, resource: str, name: str, read: Callable[[msgspec.Raw], T | None]
    ) -> list[T]:
        """Those of that name in every namespace."""
        return await self._list(group, resource, read, name=name)

    async def list_webhooks(self, resource: str) -> list[FoundWebhook]:
        """Those that call an istiod."""
        kind = resource.removesuffix("configurations")

        def read(item: msgspec.Raw) -> FoundWebhook | None:
            return read_webhook(item, kind)

        return await self._list("admissionregistration.k8s.io", resource, read)

    async def _list(
        self, group: str, resource: str, read: Callable[[msgspec.Raw], T | None], *, name: str = ""
    ) -> list[T]:
        path = f"/apis/{group}/v1/{resource}" if group else f"/api/v1/{resource}"
        what = str(Permission("list", resource, group=group, name=name))
        params = {"limit": str(MAX_OBJECTS)}
        if name:
            params["fieldSelector"] = f"metadata.name={name}"
        if self._silent:
            self.unread.append(Unread(what=what, why=f"not asked, since {self._silent}"))
            return []
        try:
            answer = await self._session.get(path, params=params)
            page = decode_page(answer)
            items = page.items or []
            found: list[T] = await asyncio.to_thread(lambda: self._read(items[:MAX_OBJECTS], read, what))
        except ClusterError as error:
            if isinstance(error, ClusterTimeout | ClusterUnreachable):
                self._silent = "an answer before did not come"
            self.unread.append(
                Unread(
                    what=what,
                    why=error.what,
                    remedy=error.remedy,
                    forbidden=isinstance(error, ClusterForbidden),
                )
            )
            return []
        except (msgspec.MsgspecError, InvalidValue, UnicodeError, RecursionError) as error:
            why = f"the answer is not what the API promises: {harmless(str(error))}"
            self.unread.append(Unread(what=what, why=why, remedy=ClusterGarbage.default_remedy))
            return []
        if page.metadata.continue_ or len(items) > MAX_OBJECTS:
            self.unread.append(
                Unread(what=what, why=f"there are more than {MAX_OBJECTS}; the others were not read")
            )
        return found

    def _read(self, items: list[msgspec.Raw], read: Callable[[msgspec.Raw], T | None], what: str) -> list[T]:
        """What ``read`` makes of the items, within what may be spent on YAML; in a thread, since it may take long."""
        found: list[T] = []
        for item in items:
            if read is read_mesh:
                self._yaml_left -= len(memoryview(item))
                if self._yaml_left < 0:
                    why = f"all of them together are larger than {MAX_YAML_BYTES} bytes"
                    self.unread.append(Unread(what=what, why=why))
                    break
            value = read(item)
            if value is not None:
                found.append(value)
        return found


class _Source(msgspec.Struct, rename="camel"):
    name: str = ""
    secret_name: str = ""


class _TrustBundle(msgspec.Struct, rename="camel"):
    name: str = ""
    signer_name: str = ""


class _Sources(msgspec.Struct, rename="camel"):
    secret: _Source | None = None
    config_map: _Source | None = None
    cluster_trust_bundle: _TrustBundle | None = None


class _Projected(msgspec.Struct):
    sources: list[_Sources] | None = None


class _Volume(msgspec.Struct, rename="camel"):
    secret: _Source | None = None
    config_map: _Source | None = None
    projected: _Projected | None = None


class _Variable(msgspec.Struct, rename="camel"):
    name: str
    value: str = ""
    value_from: dict[str, Any] | None = None


class _Container(msgspec.Struct):
    name: str
    image: str = ""
    env: list[_Variable] | None = None


class _PodSpec(msgspec.Struct, rename="camel"):
    containers: list[_Container]
    service_account_name: str = ""
    volumes: list[_Volume] | None = None


class _Meta(msgspec.Struct):
    name: str
    namespace: str = ""
    labels: dict[str, str] | None = None
    generation: int = 0


class _Template(msgspec.Struct):
    spec: _PodSpec


class _WorkloadSpec(msgspec.Struct):
    template: _Template
    replicas: int = 1


class _Condition(msgspec.Struct, rename="camel"):
    type: str = ""
    last_update_time: datetime | None = None


class _WorkloadStatus(msgspec.Struct, rename="camel"):
    conditions: list[_Condition] | None = None
    replicas: int = 0
    ready_replicas: int = 0
    updated_replicas: int = 0
    observed_generation: int = 0


class _Workload(msgspec.Struct):
    metadata: _Meta
    spec: _WorkloadSpec
    status: _WorkloadStatus = msgspec.field(default_factory=_WorkloadStatus)


class _ConfigMap(msgspec.Struct):
    metadata: _Meta
    data: dict[str, str] | None = None


class _Service(msgspec.Struct):
    name: str = ""
    namespace: str = ""


class _ClientConfig(msgspec.Struct, rename="camel"):
    service: _Service | None = None
    url: str = ""
    ca_bundle: bytes = b""


class _Webhook(msgspec.Struct, rename="camel"):
    client_config: _ClientConfig = msgspec.field(default_factory=_ClientConfig)


class _Webhooks(msgspec.Struct):
    metadata: _Meta
    webhooks: list[_Webhook] | None = None


_decode_workload: Final = msgspec.json.Decoder(_Workload).decode
_decode_config_map: Final = msgspec.json.Decoder(_ConfigMap).decode
_decode_webhooks: Final = msgspec.json.Decoder(_Webhooks).decode


def read_istiod(item: msgspec.Raw) -> FoundIstiod:
    """A Deployment as istiod's. Raises MsgspecError where it is none."""
    workload = _decode_workload(item)
    pod, container = _container(workload, "discovery")
    environment = _environment(container)
    status = workload.status
    wanted = workload.spec.replicas
    return FoundIstiod(
        namespace=_text(workload.metadata.namespace),
        name=_text(workload.metadata.name),
        revision=environment.get("REVISION") or _revision(workload.metadata),
        image=_text(container.image),
        account=_text(pod.service_account_name),
        environment=environment,
        mounts=_mounts(pod),
        replicas=wanted,
        ready=status.ready_replicas,
        rolled_out=max(
            (
                condition.last_update_time.timestamp()
                for condition in (status.conditions or [])[:MAX_ENTRIES]
                if condition.type == "Progressing" and condition.last_update_time is not None
            ),
            default=0.0,
        ),
        settled=status.observed_generation >= workload.metadata.generation
        and wanted > 0
        and status.updated_replicas == status.replicas == status.ready_replicas == wanted,
    )


def read_ztunnel(item: msgspec.Raw) -> FoundZtunnel:
    """A DaemonSet as ztunnel's. Raises MsgspecError where it is none."""
    workload = _decode_workload(item)
    pod, container = _container(workload, "istio-proxy")
    return FoundZtunnel(
        namespace=_text(workload.metadata.namespace),
        name=_text(workload.metadata.name),
        account=_text(pod.service_account_name),
        image=_text(container.image),
        environment=_environment(container),
        mounts=_mounts(pod),
    )


def read_mesh(item: msgspec.Raw) -> FoundMesh | None:
    """A ConfigMap ``istio``: MeshConfig as YAML under the key ``mesh``. None where it is another's of that name.

    Raises MsgspecError where it is no ConfigMap.
    """
    found = _decode_config_map(item)
    if "mesh" not in (found.data or {}):
        return None
    trust_domain, aliases, problem = "", [], ""
    try:
        mesh = _mapping(load_yaml((found.data or {}).get("mesh", "").encode(), longest=MAX_MESH_BYTES))
        trust_domain = _setting(mesh, "trustDomain")
        listed = mesh.get("trustDomainAliases")
        aliases = (
            [_text(alias) for alias in listed if isinstance(alias, str)] if isinstance(listed, list) else []
        )
    except (InvalidValue, UnicodeError) as error:
        problem = error.what if isinstance(error, InvalidValue) else "is not text"
    return FoundMesh(
        namespace=_text(found.metadata.namespace),
        name=_text(found.metadata.name),
        revision=_revision_of_name(found.metadata, "istio"),
        trust_domain=trust_domain,
        trust_domain_aliases=tuple(aliases[:MAX_ENTRIES]),
        problem=problem,
    )


def read_injection(item: msgspec.Raw) -> FoundInjection | None:
    """A ConfigMap ``istio-sidecar-injector``: chart values as JSON under the key ``values``; None where it has none."""
    found = _decode_config_map(item)
    if "values" not in (found.data or {}):
        return None
    values: dict[str, Any] = {}
    problem = ""
    try:
        values = _mapping(msgspec.json.decode((found.data or {}).get("values", "")))
    except (msgspec.MsgspecError, InvalidValue, UnicodeError, RecursionError):
        problem = "holds no chart values"
    top = _part(values, "global")
    return FoundInjection(
        namespace=_text(found.metadata.namespace),
        name=_text(found.metadata.name),
        revision=_revision_of_name(found.metadata, "istio-sidecar-injector"),
        ca_address=_setting(top, "caAddress"),
        cluster_name=_setting(_part(top, "multiCluster"), "clusterName"),
        network=_setting(top, "network"),
        mesh_id=_setting(top, "meshID"),
        audience=_setting(_part(_part(top, "sds"), "token"), "aud"),
        cert_provider=_setting(top, "pilotCertProvider"),
        bundle_name=_setting(top, "trustBundleName"),
        problem=problem,
    )


def read_webhook(item: msgspec.Raw, kind: str) -> FoundWebhook | None:
    """A webhook configuration, None where it calls no istiod.

    Only services of Istio's own names are taken, and URLs where the configuration has a revision of Istio: a cluster
    without a control plane of its own calls a remote istiod so (``global.remotePilotAddress``). Such a one has no
    namespace, and its host is given as the service.
    """
    found = _decode_webhooks(item)
    labels = found.metadata.labels or {}
    called = [
        (service, webhook.client_config.ca_bundle)
        for webhook in found.webhooks or ()
        if (service := _called(webhook.client_config, of_istio="istio.io/rev" in labels)) is not None
    ]
    if not called:
        return None
    service = called[0][0]
    own_name = service.name.removeprefix("istiod").removeprefix("-") if service.namespace else ""
    revision = labels.get("istio.io/rev") or own_name
    return FoundWebhook(
        name=f"{kind}/{_text(found.metadata.name)}",
        namespace=_text(service.namespace),
        service=_text(service.name),
        revision=_text(revision) or DEFAULT_REVISION,
        ca_bundles=tuple(dict.fromkeys(bundle for _, bundle in called[:MAX_ENTRIES])),
    )


def _called(client: _ClientConfig, *, of_istio: bool) -> _Service | None:
    """The istiod that a webhook calls; None where it calls something else."""
    if client.service is not None:
        named = client.service.name == "istiod" or client.service.name.startswith("istiod-")
        return client.service if named else None
    if not of_istio or not client.url:
        return None
    try:
        host = urlsplit(client.url).hostname or ""
    except ValueError:
        host = ""
    return _Service(name=host or "a URL that cannot be read")


def _container(workload: _Workload, name: str) -> tuple[_PodSpec, _Container]:
    pod = workload.spec.template.spec
    if not pod.containers:
        raise msgspec.ValidationError("a workload without containers")
    return pod, next((c for c in pod.containers if c.name == name), pod.containers[0])


def _environment(container: _Container) -> Environment:
    literal: dict[str, str] = {}
    indirect: set[str] = set()
    for variable in container.env or ():  # of two with one name Kubernetes takes the last
        if variable.name not in WATCHED_ENVIRONMENT:
            continue
        literal.pop(variable.name, None)
        indirect.discard(variable.name)
        if variable.value_from is None:
            literal[variable.name] = _text(variable.value)
        else:
            indirect.add(variable.name)
    return Environment(literal=tuple(sorted(literal.items())), indirect=frozenset(indirect))


def _mounts(pod: _PodSpec) -> frozenset[str]:
    found: set[str] = set()
    for volume in (pod.volumes or [])[:MAX_ENTRIES]:
        projected = volume.projected.sources if volume.projected is not None else None
        sources = [_Sources(secret=volume.secret, config_map=volume.config_map), *(projected or ())]
        for source in sources:
            if source.secret is not None:
                found.add(f"secret/{_text(source.secret.secret_name or source.secret.name)}")
            if source.config_map is not None:
                found.add(f"configmap/{_text(source.config_map.name)}")
            if (bundle := source.cluster_trust_bundle) is not None:
                found.add(f"clustertrustbundle/{_text(bundle.name or bundle.signer_name)}")
    return frozenset(found)


def _revision(meta: _Meta) -> str:
    return _text((meta.labels or {}).get("istio.io/rev", "")) or DEFAULT_REVISION


def _revision_of_name(meta: _Meta, base: str) -> str:
    labelled = (meta.labels or {}).get("istio.io/rev")
    return _text(labelled or meta.name.removeprefix(base).removeprefix("-")) or DEFAULT_REVISION


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue("is not a mapping")
    return value


def _part(values: dict[str, Any], key: str) -> dict[str, Any]:
    part = values.get(key)
    return part if isinstance(part, dict) else {}


def _setting(values: dict[str, Any], key: str) -> str:
    value = values.get(key)
    return _text(value) if isinstance(value, str) else ""


def _text(text: str) -> str:
    """It comes from a cluster that may have been broken into: one line, without control characters, bounded."""
    cut = text[:MAX_VALUE]
    return cut if cut.isprintable() else harmless(cut)
