"""The settings of one cluster's Istio with which the hub is its CA: files for Helm, istioctl and the Sail operator.

Pure: values with the reason beside each, and the YAML that holds both. The three forms say the same. The names of
values are those of Istio's charts (istio/istio, manifests/charts) and of sailoperator.io/v1
(istio-ecosystem/sail-operator, api/v1). YAML is written here because it is to keep its comments; what could be read
as
anything but text is quoted.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import HubConfig
from federation.core.config.types import Address
from federation.core.errors import InvalidValue
from federation.core.identity import ServiceAccountRef
from federation.core.istio.istiod import DEFAULT_REVISION

Form: TypeAlias = Literal["helm", "istioctl", "sail"]
FORMS: Final[tuple[Form, ...]] = ("helm", "istioctl", "sail")

DEFAULT_NAMESPACE: Final = "istio-system"
DEFAULT_AUDIENCE: Final = "istio-ca"
DEFAULT_BUNDLE: Final = "istio-ca-root-cert"
MOUNTED_SECRET: Final = "istiod-tls"  # noqa: S105 - the name of an object; the chart mounts no other
ZTUNNEL: Final = "ztunnel"

_WIDTH: Final = 100
_PLAIN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*(/[A-Za-z0-9]+)?", re.ASCII)
_RESERVED: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null"})  # YAML 1.1


@dataclass(frozen=True, slots=True)
class Noted:
    """A value and why it is what it is; ``off`` writes both as a comment, to be taken in by hand."""

    value: Node
    why: str
    off: bool = False


Node: TypeAlias = "str | bool | int | Noted | Mapping[str, Node] | Sequence[Node]"


@dataclass(frozen=True, slots=True)
class SettingsFile:
    """One file: a name without a directory, and YAML with comments, of one document or several."""

    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IstioSettings:
    """What one control plane of a cluster is to be set to. Made by :func:`settings_of`."""

    cluster: str
    listener: str  # host:port
    trust_domain: str
    cluster_id: str
    mesh_id: str
    network: str = ""
    namespace: str = DEFAULT_NAMESPACE
    revision: str = DEFAULT_REVISION
    audience: str = DEFAULT_AUDIENCE
    bundle: str = DEFAULT_BUNDLE
    ztunnel: ServiceAccountRef | None = None  # None: no ambient
    certificate_provided: bool = True  # by the hub, in the Secret that istiod's chart mounts
    foreign_trust_domains: tuple[str, ...] = ()
    ca_server: bool = False  # True while a mesh joins: istiod's CA issues until every pod asks the hub


def settings_of(
    hub: HubConfig,
    cluster: ClusterConfig,
    *,
    listener: Address | None = None,
    namespace: str = "",
    revision: str = "",
) -> IstioSettings:
    """What the configuration comes to. Raises InvalidValue, with a remedy, where it leaves a choice open."""
    publication, istio = hub.controller.publication, cluster.istio
    foreign = {str(a.trust_domain) for a in hub.trust.anchors if a.trust_domain != hub.trust_domain}
    accounts = cluster.policy.trusted_node_accounts
    if accounts and cluster.audience != DEFAULT_AUDIENCE:
        raise InvalidValue(
            f"ztunnel's chart asks for tokens of audience {DEFAULT_AUDIENCE} only, and {cluster.name} takes others",
            remedy="leave audience out for a cluster with ambient",
        )
    return IstioSettings(
        cluster=str(cluster.name),
        listener=str(_listener(hub, cluster) if listener is None else _checked_listener(hub, listener)),
        trust_domain=str(hub.trust_domain),
        cluster_id=str(cluster.cluster_id),
        mesh_id=istio.mesh_id or str(hub.trust_domain),
        network=cluster.network,
        namespace=_chosen(namespace, istio.namespaces, "namespace", DEFAULT_NAMESPACE),
        revision=_chosen(revision, istio.revisions, "revision", DEFAULT_REVISION),
        audience=cluster.audience,
        bundle=publication.config_map,
        ztunnel=accounts[0] if accounts else None,
        certificate_provided=istio.provide_certificate and istio.secret == MOUNTED_SECRET,
        foreign_trust_domains=tuple(sorted(foreign)),
    )


def _listener(hub: HubConfig, cluster: ClusterConfig) -> Address:
    """Names under ``.svc`` are resolved in the hub's own cluster alone, so they are for that one."""
    if not hub.listener.listen.port:
        raise InvalidValue(
            "listener.listen has no fixed port",
            remedy="name the listener as workloads reach it: --listener HOST:PORT",
        )
    own = cluster.signer.in_cluster or cluster.controller.in_cluster
    names = sorted(hub.listener.server_names, key=lambda name: _is_cluster_local(name) != own)
    return Address(names[0], hub.listener.listen.port)


def _is_cluster_local(name: str) -> bool:
    return name.endswith(".svc") or ".svc." in name


def _checked_listener(hub: HubConfig, listener: Address) -> Address:
    if listener.host not in hub.listener.server_names:
        raise InvalidValue(
            f"{listener.host} is not in the listener's certificate, so no agent would accept it",
            remedy=f"add it to listener.server_names, or use one of {', '.join(hub.listener.server_names)}",
        )
    return listener


def _chosen(given: str, configured: tuple[str, ...], what: str, otherwise: str) -> str:
    if given:
        if configured and given not in configured:
            raise InvalidValue(
                f"{given} is not configured for this cluster",
                remedy=f"add it to [clusters.istio] {what}s, or use one of {', '.join(configured)}",
            )
        return given
    if len(configured) > 1:
        if otherwise in configured:
            return otherwise
        raise InvalidValue(
            f"there is more than one {what}: {', '.join(configured)}", remedy=f"choose one with --{what}"
        )
    return configured[0] if configured else otherwise


def settings_files(settings: IstioSettings, form: Form) -> tuple[SettingsFile, ...]:
    """The files of one form. Raises InvalidValue where that form cannot say it."""
    if form == "sail" and settings.ztunnel is not None and settings.bundle != DEFAULT_BUNDLE:
        raise InvalidValue(
            f"ztunnel of the Sail operator takes the bundle from ConfigMap {DEFAULT_BUNDLE} only",
            remedy="leave controller.publication.config_map out, or install with --format helm or istioctl",
        )
    make = {"helm": _helm, "istioctl": _istioctl, "sail": _sail}[form]
    return make(settings)


# What every form says.


def _mesh_config(s: IstioSettings) -> dict[str, Node]:
    mesh: dict[str, Node] = {
        "trustDomain": Noted(
            s.trust_domain,
            "The hub signs identities of this trust domain and refuses all others, so every cluster has the same.",
        )
    }
    if s.foreign_trust_domains:
        mesh["trustDomainAliases"] = Noted(
            s.foreign_trust_domains,
            "The hub publishes roots of these trust domains as well. Proxies refuse peers of another trust domain than "
            "their own all the same, until it is an alias; and then authorization policies that name the own trust "
            "domain match it too. Take these lines in only for trust domains whose workloads are to be treated as this "
            "mesh's own. Do not set PILOT_SKIP_VALIDATE_TRUST_DOMAIN instead: it lets every trust domain in.",
            off=True,
        )
    return mesh


def _global(s: IstioSettings) -> dict[str, Node]:
    values: dict[str, Node] = {}
    if s.namespace != DEFAULT_NAMESPACE:
        values["istioNamespace"] = Noted(s.namespace, "Where istiod runs.")
    values["caAddress"] = Noted(
        s.listener,
        "Where sidecars and gateways have their certificates signed: the hub's listener, by a name that its "
        "certificate "
        "has. It is written into a pod when it is injected, so pods that run already have to be restarted.",
    )
    values["multiCluster"] = {
        "clusterName": Noted(
            s.cluster_id,
            "What agents send as their cluster: cluster_id in the hub's configuration, different in every cluster. "
            'Where it is not set, agents send "Kubernetes", whichever cluster they are in.',
        )
    }
    if s.network:
        values["network"] = Noted(
            s.network,
            "Pods of one network reach each other directly, those of another through its east-west gateway. "
            f"Label the namespace too: topology.istio.io/network={s.network}.",
        )
    values["meshID"] = Noted(
        s.mesh_id,
        "The same in every cluster of this mesh; Istio itself takes the trust domain where it is not set.",
    )
    values["pilotCertProvider"] = Noted(
        "istiod",
        f"Agents trust what ConfigMap {s.bundle} holds, which the hub publishes. With any other provider they would "
        "search for a root elsewhere.",
    )
    if s.bundle != DEFAULT_BUNDLE:
        values["trustBundleName"] = Noted(
            s.bundle,
            "The ConfigMap that the hub publishes the bundle in (controller.publication.config_map).",
        )
    if s.audience != DEFAULT_AUDIENCE:
        values["sds"] = {
            "token": {
                "aud": Noted(s.audience, "The audience of the tokens that the hub takes here (audience).")
            }
        }
    return values


def _pilot(s: IstioSettings) -> dict[str, Node]:
    env: dict[str, Node] = {
        "ENABLE_CA_SERVER": Noted(
            "true",
            "istiod's own CA goes on issuing to the pods that were injected before; it is switched off once all of "
            "them have been restarted.",
        )
        if s.ca_server
        else Noted(
            "false",
            "istiod signs nothing and distributes no roots: both are the hub's work. It has no certificate of its own "
            f"then: Secret {MOUNTED_SECRET} has to be in {s.namespace} before istiod starts. "
            + (
                "The hub keeps it there."
                if s.certificate_provided
                else "By the configuration it is yours to make."
            ),
        )
    }
    pilot: dict[str, Node] = {"env": env}
    if s.ztunnel is not None:
        if s.network:
            env["AMBIENT_ENABLE_MULTI_NETWORK"] = Noted(
                "true", "Ambient reaches other networks only with this (Istio 1.27 and later)."
            )
        why = "Where ztunnel is. Only istiod's own CA asks; for the hub it is trusted_node_accounts that counts."
        if s.ztunnel.name == ZTUNNEL:
            pilot["trustedZtunnelNamespace"] = Noted(s.ztunnel.namespace, why)
        else:  # istioctl's own types have no trustedZtunnelName
            env["CA_TRUSTED_NODE_ACCOUNTS"] = Noted(str(s.ztunnel), why)
    return pilot


def _ztunnel(s: IstioSettings, account: ServiceAccountRef) -> dict[str, Node]:
    values: dict[str, Node] = {}
    if account.name != ZTUNNEL:
        values["resourceName"] = Noted(
            account.name, "The name of its service account: the hub trusts the one in trusted_node_accounts."
        )
    if s.revision != DEFAULT_REVISION:
        values["revision"] = Noted(s.revision, "The istiod that it is configured by.")
    if s.namespace != DEFAULT_NAMESPACE:
        values["istioNamespace"] = Noted(s.namespace, "Where that istiod runs.")
    values["caAddress"] = Noted(
        s.listener,
        "The hub's listener again: ztunnel has settings of its own, and asks istiod where this is not set.",
    )
    values["multiCluster"] = {
        "clusterName": Noted(s.cluster_id, "As for istiod: cluster_id in the hub's configuration.")
    }
    if s.network:
        values["network"] = Noted(s.network, "As for istiod.")
    if s.bundle != DEFAULT_BUNDLE:
        values["trustBundleName"] = Noted(s.bundle, "As for istiod.")
    return values


# Helm: one file of values for each chart.


def _helm(s: IstioSettings) -> tuple[SettingsFile, ...]:
    place = f"--namespace {s.namespace}"
    install = "helm upgrade --install"
    gateway = "istio-eastwestgateway" if s.network else "istio-ingressgateway"
    release = "istiod" if s.revision == DEFAULT_REVISION else f"istiod-{s.revision}"
    istiod: dict[str, Node] = {}
    if s.ztunnel is not None:
        istiod["profile"] = Noted("ambient", "Ambient: sidecars and gateways speak HBONE as well.")
    if s.revision != DEFAULT_REVISION:
        istiod["revision"] = Noted(s.revision, "The name of this control plane among several.")
    istiod |= {"global": _global(s), "meshConfig": _mesh_config(s), "pilot": _pilot(s)}
    files = [
        _file(
            "helm-istiod.yaml",
            s,
            "Values of the istiod chart.",
            f"{install} {release} istio/istiod {place} -f helm-istiod.yaml",
            istiod,
        ),
        _file(
            "helm-gateway.yaml",
            s,
            "Values of the gateway chart. istiod injects gateways with the address of the hub, so nothing of the "
            "hub is set here." + (" These are for an east-west gateway." if s.network else ""),
            f"{install} {gateway} istio/gateway {place} -f helm-gateway.yaml",
            _gateway(s),
        ),
    ]
    if s.ztunnel is not None:
        cni: dict[str, Node] = {"profile": Noted("ambient", "The node agent hands pods over to ztunnel.")}
        where = f"--namespace {s.ztunnel.namespace}"
        files += [
            _file(
                "helm-cni.yaml",
                s,
                "Values of the cni chart. It has no dealings with the hub.",
                f"{install} istio-cni istio/cni {place} -f helm-cni.yaml",
                cni,
            ),
            _file(
                "helm-ztunnel.yaml",
                s,
                "Values of the ztunnel chart.",
                f"{install} {s.ztunnel.name} istio/ztunnel {where} -f helm-ztunnel.yaml",
                _ztunnel(s, s.ztunnel),
            ),
        ]
    return tuple(files)


def _gateway(s: IstioSettings) -> dict[str, Node]:
    values: dict[str, Node] = {}
    if s.revision != DEFAULT_REVISION:
        values["revision"] = Noted(s.revision, "The istiod that injects it.")
    if s.network:
        values["networkGateway"] = Noted(
            s.network, "It lets other networks in here: port 15443, which passes mutual TLS through unopened."
        )
    return values


# istioctl: an IstioOperator, and one more for an east-west gateway.


def _istioctl(s: IstioSettings) -> tuple[SettingsFile, ...]:
    spec: dict[str, Node] = {}
    if s.ztunnel is not None:
        spec["profile"] = Noted(
            "ambient", "Installs istio-cni and ztunnel as well; on OpenShift use openshift-ambient."
        )
    if s.namespace != DEFAULT_NAMESPACE:
        spec["namespace"] = Noted(s.namespace, "Where istiod runs.")
    if s.revision != DEFAULT_REVISION:
        spec["revision"] = Noted(s.revision, "The name of this control plane among several.")
    spec["meshConfig"] = _mesh_config(s)
    values: dict[str, Node] = {"global": _global(s), "pilot": _pilot(s)}
    if s.ztunnel is not None:
        values["ztunnel"] = _ztunnel(s, s.ztunnel)
        if s.ztunnel.namespace != s.namespace:
            spec["components"] = {
                "ztunnel": {
                    "enabled": True,
                    "namespace": Noted(s.ztunnel.namespace, "That of trusted_node_accounts."),
                }
            }
    spec["values"] = values
    files = [
        _file(
            "istioctl.yaml",
            s,
            "An operator file for istioctl.",
            "istioctl install -f istioctl.yaml",
            _resource("install.istio.io/v1alpha1", "IstioOperator", spec),
        )
    ]
    if s.network:
        files.append(
            _file(
                "istioctl-eastwest.yaml",
                s,
                "An east-west gateway for sidecars of other networks.",
                "istioctl install -f istioctl-eastwest.yaml",
                _resource("install.istio.io/v1alpha1", "IstioOperator", _eastwest(s), name="eastwest"),
            )
        )
    return tuple(files)


def _eastwest(s: IstioSettings) -> dict[str, Node]:
    spec: dict[str, Node] = {"profile": Noted("empty", "Nothing but this gateway.")}
    if s.namespace != DEFAULT_NAMESPACE:
        spec["namespace"] = s.namespace
    if s.revision != DEFAULT_REVISION:
        spec["revision"] = s.revision
    ports = (("status-port", 15021), ("tls", 15443), ("tls-istiod", 15012), ("tls-webhook", 15017))
    label: dict[str, Node] = {
        "istio": "eastwestgateway",
        "app": "istio-eastwestgateway",
        "topology.istio.io/network": Noted(s.network, "istiod of other networks finds the gateway by it."),
    }
    view: Node = {"name": "ISTIO_META_REQUESTED_NETWORK_VIEW", "value": s.network}
    gateway: dict[str, Node] = {
        "name": "istio-eastwestgateway",
        "enabled": True,
        "label": label,
        "k8s": {
            "env": Noted([view], "It serves the endpoints of this network only."),
            "service": {
                "ports": Noted(
                    [{"name": name, "port": port, "targetPort": port} for name, port in ports],
                    "15443 passes mutual TLS through unopened; the others are Istio's own.",
                )
            },
        },
    }
    spec["components"] = {"ingressGateways": [gateway]}
    spec["values"] = {
        "gateways": {
            "istio-ingressgateway": {
                "injectionTemplate": Noted("gateway", "istiod injects it, with the hub's address.")
            }
        },
        "global": _global(s),
    }
    return spec


# The Sail operator, which OpenShift Service Mesh 3 is: resources with the charts' values.


def _sail(s: IstioSettings) -> tuple[SettingsFile, ...]:
    istio: dict[str, Node] = {"namespace": s.namespace}
    if s.ztunnel is not None:
        istio["profile"] = Noted("ambient", "Ambient: sidecars and gateways speak HBONE as well.")
    istio["values"] = {"global": _global(s), "meshConfig": _mesh_config(s), "pilot": _pilot(s)}
    cni: dict[str, Node] = {"namespace": Noted("istio-cni", "Create it before, or choose another one.")}
    if s.ztunnel is not None:
        cni["profile"] = Noted("ambient", "The node agent hands pods over to ztunnel.")
    api = "sailoperator.io/v1"
    documents = [
        _document(
            _resource(api, "Istio", istio, name=s.revision),
            "The control plane. With updateStrategy InPlace, which is the default, its revision has the name of this "
            "resource; with RevisionBased it is NAME-VERSION. Where [clusters.istio] lists revisions, list that one.",
        ),
        _document(
            _resource(api, "IstioCNI", cni, name="default"),
            "The node agent. It has no dealings with the hub. OpenShift needs it for sidecars too. "
            + ("" if s.ztunnel else "Elsewhere it may be left out."),
        ),
    ]
    if s.ztunnel is not None:
        ztunnel: dict[str, Node] = {
            "namespace": Noted(
                s.ztunnel.namespace,
                "That of trusted_node_accounts in the hub's configuration. The operator's own default is ztunnel.",
            ),
            "values": {"ztunnel": _ztunnel(s, s.ztunnel)},
        }
        documents.append(
            _document(
                _resource(api, "ZTunnel", ztunnel, name="default"),
                "ztunnel. Older operators serve it as sailoperator.io/v1alpha1, and want profile: ambient in its spec.",
            )
        )
    head = _header(
        s, "Resources for the Sail operator and OpenShift Service Mesh 3.", "kubectl apply -f sail.yaml"
    )
    return (SettingsFile("sail.yaml", head + "---\n".join(documents)),)


def _resource(api: str, kind: str, spec: Node, *, name: str = "") -> dict[str, Node]:
    metadata: dict[str, Node] = {"metadata": {"name": name}} if name else {}
    return {"apiVersion": api, "kind": kind, **metadata, "spec": spec}


# YAML.


def _file(name: str, s: IstioSettings, what: str, command: str, values: Mapping[str, Node]) -> SettingsFile:
    return SettingsFile(name, _header(s, what, command) + _document(values, ""))


def _header(s: IstioSettings, what: str, command: str) -> str:
    made = (
        f"Cluster {s.cluster}, as `federation clusters istio {s.cluster}` prints it. It holds what the hub needs and "
        "nothing else: merge it with your own settings."
    )
    return "".join(f"{line}\n" for line in (*_comment(f"{what} {made}", ""), f"#   {command}", ""))


def _document(values: Mapping[str, Node], why: str) -> str:
    lines = [*_comment(why, ""), *(_lines(values, "") or ["{}"])]
    return "".join(f"{line}\n" for line in lines)


def _comment(text: str, indent: str) -> list[str]:
    width = _WIDTH - len(indent) - 2
    wrapped = textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]


def _lines(node: Mapping[str, Node], indent: str) -> list[str]:
    lines: list[str] = []
    for key, item in node.items():
        why, off = "", False
        value: Node = item
        if isinstance(value, Noted):
            why, off, value = value.why, value.off, value.value
        lines += _comment(why, indent)
        entry = _entry(key, value, indent)
        lines += [f"{indent}# {line.removeprefix(indent)}" for line in entry] if off else entry
    return lines


def _entry(key: str, value: Node, indent: str) -> list[str]:
    head = f"{indent}{_scalar(key)}:"
    match value:
        case str() | bool() | int():
            return [f"{head} {_scalar(value)}"]
        case Mapping():
            return [head, *_lines(value, indent + "  ")] if value else [f"{head} {{}}"]
        case Sequence():
            return [head, *(line for item in value for line in _item(item, indent + "  "))]
        case Noted():
            raise TypeError("a note of a note")


def _item(value: Node, indent: str) -> list[str]:
    if isinstance(value, Mapping):
        lines = _lines(value, indent + "  ")
        first = next(number for number, line in enumerate(lines) if not line.lstrip().startswith("#"))
        lines[first] = f"{indent}- {lines[first].lstrip()}"
        return lines
    if isinstance(value, str | int):
        return [f"{indent}- {_scalar(value)}"]
    raise TypeError("a list holds mappings and scalars")


def _scalar(value: str | bool | int) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    return json.dumps(value)  # a JSON string is one of YAML's double-quoted forms
