"""What was found of Istio, compared with what the hub needs: findings with remedies. Pure.

Nothing is concluded from what could not be read: a check whose objects are not known is left out, and the missing
right is a separate finding. A mesh that still has another CA is shown with warnings, since joining takes time;
what would make the hub refuse callers, or leave a workload without a certificate, is a failure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from federation.clusters.istio_inventory import (
    CLUSTER_NAME_DEFAULT,
    FoundInjection,
    FoundIstiod,
    FoundWebhook,
    IstioFound,
    Unread,
    parse_go_bool,
)
from federation.clusters.permissions import CheckResult, Outcome
from federation.core.config.clusters import ClusterConfig
from federation.core.config.hub import HubConfig
from federation.core.errors import InvalidValue
from federation.core.istio.istiod import DEFAULT_REVISION
from federation.core.istio.settings import DEFAULT_AUDIENCE, DEFAULT_BUNDLE
from federation.core.pki.pem import parse_certificates

TRUST_DOMAIN_DEFAULT: Final = "cluster.local"
"""What MeshConfig has where nothing sets it (istio/istio, pkg/config/mesh)."""

MOST_NAMED: Final = 5
"""Objects that one finding names; of the others it gives the number."""

_RANK: Final = {"ok": 0, "warning": 1, "failed": 2}


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What one object comes to in one check."""

    outcome: Outcome
    detail: str
    remedy: str = ""


def compare_istio(
    found: IstioFound, config: ClusterConfig, hub: HubConfig, *, trust_bundle: bool | None = None
) -> tuple[CheckResult, ...]:
    """Every finding, in a fixed order. ``trust_bundle``: whether the hub can publish a ClusterTrustBundle there."""
    compared = _Comparison(found, config, hub, trust_bundle)
    checks: tuple[tuple[str, Iterable[_Verdict]], ...] = (
        ("istio_rights", compared.rights()),
        ("istio_control_planes", compared.control_planes()),
        ("istio_trust_domain", compared.trust_domain()),
        ("istio_cluster_name", compared.cluster_name()),
        ("istio_ca_server", compared.ca_server()),
        ("istio_ca_address", compared.ca_address()),
        ("istio_cert_provider", compared.cert_provider()),
        ("istio_external_ca", compared.external_ca()),
        ("istio_trust_bundle", compared.trust_bundle()),
        ("istio_options", compared.options()),
        ("istio_audience", compared.audience()),
        ("istio_network", compared.network()),
        ("istio_webhooks", compared.webhooks()),
        ("ztunnel_account", compared.ztunnel_account()),
        ("ztunnel_ca_address", compared.ztunnel_ca_address()),
        ("ztunnel_cluster_name", compared.ztunnel_cluster_name()),
    )
    results = (_merged(str(config.name), check, list(verdicts)) for check, verdicts in checks)
    return tuple(result for result in results if result is not None)


def _merged(cluster: str, check: str, verdicts: list[_Verdict]) -> CheckResult | None:
    """One finding of all objects: the worst outcome, and what led to it. None where nothing was examined."""
    if not verdicts:
        return None
    outcome = max((verdict.outcome for verdict in verdicts), key=_RANK.__getitem__)
    listed = [verdict for verdict in verdicts if verdict.outcome == outcome]
    if outcome != "ok":  # less severe findings are listed as well
        listed += [verdict for verdict in verdicts if verdict.outcome not in {"ok", outcome}]
    details = list(dict.fromkeys(verdict.detail for verdict in listed))
    remedies = list(dict.fromkeys(verdict.remedy for verdict in listed if verdict.remedy))
    more = f"; and {len(details) - MOST_NAMED} more" if len(details) > MOST_NAMED else ""
    return CheckResult(
        cluster,
        "controller",
        check,
        outcome,
        "; ".join(details[:MOST_NAMED]) + more,
        "; ".join(remedies[:MOST_NAMED]),
    )


def _shown(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:80] + "...")


class _Comparison:
    """One cluster's checks. Each gives a verdict for each object that it examines."""

    def __init__(
        self, found: IstioFound, config: ClusterConfig, hub: HubConfig, trust_bundle: bool | None
    ) -> None:
        self._found = found
        self._config = config
        self._hub = hub
        self._trust_bundle = False if config.istio.cluster_trust_bundle == "off" else trust_bundle
        self._print = f"`federation clusters istio {config.name}` prints it"

    def rights(self) -> Iterable[_Verdict]:
        """What could not be read."""
        if not self._found.unread:
            yield _Verdict("ok", "everything that is compared of Istio can be read")
        for entry in self._found.unread:
            yield _unread(entry)

    def control_planes(self) -> Iterable[_Verdict]:
        """Whether each istiod gets its certificate from the hub."""
        if not self._found.istiods and not any("istiod" in entry.what for entry in self._found.unread):
            yield _Verdict("ok", f"no istiod runs there yet; how it has to be set: {self._print}")
        for istiod in self._found.istiods:
            yield self._control_plane(istiod)
        known = {istiod.namespace for istiod in self._found.istiods}
        for webhook in self._found.webhooks:
            if webhook.namespace and webhook.namespace not in {*known, *self._config.istio.namespaces}:
                yield _Verdict(
                    "warning",
                    f"{webhook.name} calls istiod in namespace {_shown(webhook.namespace)}, which is not configured",
                    "add that namespace to [clusters.istio] namespaces, or remove what is left of that istiod",
                )

    def _control_plane(self, istiod: FoundIstiod) -> _Verdict:
        istio = self._config.istio
        if not istio.provide_certificate:
            return _Verdict(
                "ok", f"{istiod} has its certificate by other means (provide_certificate = false)"
            )
        if istiod.namespace not in istio.namespaces:
            return _Verdict(
                "failed",
                f"{istiod} is in a namespace that the hub keeps no certificate in",
                "add the namespace to [clusters.istio] namespaces, and grant what manifests/member grants there",
            )
        if istio.revisions and istiod.revision not in {*istio.revisions, DEFAULT_REVISION}:
            return _Verdict(
                "failed",
                f"{istiod} is of revision {_shown(istiod.revision)}, whose name the certificate does not have",
                "add the revision to [clusters.istio] revisions, or leave that key out",
            )
        if f"secret/{istio.secret}" not in istiod.mounts:
            return _Verdict(
                "failed",
                f"{istiod} does not mount Secret {istio.secret}",
                "Istio's chart mounts istiod-tls: use that name in [clusters.istio] secret, or mount the Secret",
            )
        return _Verdict("ok", f"{istiod} (revision {istiod.revision}) mounts Secret {istio.secret}")

    def trust_domain(self) -> Iterable[_Verdict]:
        """The hub refuses identities of any other than its own."""
        wanted = str(self._hub.trust_domain)
        for mesh in self._found.meshes:
            domain = mesh.trust_domain or TRUST_DOMAIN_DEFAULT
            if mesh.problem:
                yield _Verdict(
                    "warning",
                    f"ConfigMap {mesh}: its mesh settings cannot be understood ({mesh.problem})",
                    "correct the ConfigMap: istiod reads it too",
                )
            elif domain == wanted:
                yield _Verdict("ok", f"{domain} ({mesh})")
            else:
                yield _Verdict(
                    "failed",
                    f"{_shown(domain)} in ConfigMap {mesh}, and the hub signs for {wanted} only",
                    f"set meshConfig.trustDomain to {wanted} and restart istiod and the workloads",
                )

    def cluster_name(self) -> Iterable[_Verdict]:
        """Agents send it, and the hub takes the caller's cluster from it."""
        for istiod in self._found.istiods:
            yield self._named(str(istiod), istiod.cluster_name, "global.multiCluster.clusterName")
        for injection in self._readable_injections():
            name = injection.cluster_name or CLUSTER_NAME_DEFAULT
            yield self._named(f"ConfigMap {injection}", name, "global.multiCluster.clusterName")

    def _named(self, where: str, name: str | None, setting: str) -> _Verdict:
        wanted = str(self._config.cluster_id)
        remedy = f"set {setting} to {wanted} ({self._print})"
        if name is None:
            return _Verdict("warning", f"{where} takes the cluster's name from elsewhere", remedy)
        if name == wanted:
            return _Verdict("ok", f"{wanted} ({where})")
        twin = next((str(c.name) for c in self._hub.clusters if str(c.cluster_id) == name), "")
        if twin:
            why = f", the cluster_id of {twin}: the hub cannot distinguish the two"
        elif name == CLUSTER_NAME_DEFAULT:
            why = ": it is not set"
        else:
            why = ", and the hub knows no cluster of that name"
        return _Verdict("failed", f"{where} has {_shown(name)}{why}", remedy)

    def ca_server(self) -> Iterable[_Verdict]:
        """Istiod's own CA signs and writes roots until it is turned off."""
        for istiod in self._found.istiods:
            if istiod.ca_server is False:
                yield _Verdict("ok", f"{istiod} signs nothing itself")
            elif istiod.ca_server is None:
                yield _Verdict(
                    "warning",
                    f"{istiod} takes ENABLE_CA_SERVER from elsewhere, so it is not known whether its CA is on",
                    'set pilot.env.ENABLE_CA_SERVER to "false" in the values',
                )
            else:
                yield _Verdict(
                    "warning",
                    f"the CA of {istiod} is on: it signs, and writes its root where the hub publishes",
                    'a new mesh: set pilot.env.ENABLE_CA_SERVER to "false"; one with workloads: '
                    f"`federation clusters join {self._config.name}` leads there",
                )

    def ca_address(self) -> Iterable[_Verdict]:
        """Where sidecars and gateways are sent."""
        for injection in self._found.injections:
            if injection.problem:
                yield _Verdict(
                    "warning",
                    f"ConfigMap {injection} {injection.problem}",
                    "correct the ConfigMap: istiod injects by it",
                )
                continue
            on = self._ca_is_on(injection)
            yield self._address(
                f"sidecars by ConfigMap {injection}", injection.ca_address, "global.caAddress", on
            )

    def _address(self, who: str, address: str, setting: str, ca_is_on: bool) -> _Verdict:
        host, port = _host_and_port(address)
        names = self._hub.listener.server_names
        remedy = f"set {setting} to the hub's listener ({self._print}), then restart the workloads"
        if host in names and port:
            return _Verdict("ok", f"{who} ask {address}")
        if host in names:
            return _Verdict("failed", f"{who} ask {_shown(address)}, which has no port", remedy)
        if not address or _is_istiod(host):
            outcome: Outcome = "warning" if ca_is_on else "failed"
            why = "" if ca_is_on else ", whose CA is off: none gets a certificate"
            return _Verdict(outcome, f"{who} ask istiod{why}", remedy)
        other = "another CA of that cluster" if _is_cluster_local(host) else "not the hub's listener"
        return _Verdict(
            "warning" if _is_cluster_local(host) else "failed",
            f"{who} ask {_shown(address)}, {other}",
            remedy,
        )

    def _ca_is_on(self, injection: FoundInjection) -> bool:
        """Whether an istiod of that place still signs; where that is not known it is taken to."""
        place = (injection.namespace, injection.revision)
        states = [i.ca_server for i in self._found.istiods if (i.namespace, i.revision) == place]
        return not states or any(state is not False for state in states)

    def cert_provider(self) -> Iterable[_Verdict]:
        """Where agents look for the root that verifies istiod and the listener."""
        places = [
            *((str(i), i.environment.get("PILOT_CERT_PROVIDER") or "istiod") for i in self._found.istiods),
            *((f"ConfigMap {i}", i.cert_provider or "istiod") for i in self._readable_injections()),
        ]
        for where, provider in places:
            if provider == "istiod":
                yield _Verdict("ok", f"istiod ({where})")
            else:
                yield _Verdict(
                    "failed",
                    f"{where} has {_shown(provider)}: agents would look for a root elsewhere than the hub publishes it",
                    "set global.pilotCertProvider to istiod",
                )

    def external_ca(self) -> Iterable[_Verdict]:
        """The registration authority that Kubernetes' CSRs go through."""
        for istiod in self._found.istiods:
            external = istiod.environment.get("EXTERNAL_CA")
            if not external and "EXTERNAL_CA" not in istiod.environment.indirect:
                yield _Verdict("ok", f"none ({istiod})")
            elif istiod.ca_server is False:
                yield _Verdict(
                    "warning",
                    f"{istiod} has EXTERNAL_CA={_shown(external or '')}, which does nothing while its CA is off",
                    "remove pilot.env.EXTERNAL_CA",
                )
            else:
                yield _Verdict(
                    "failed",
                    f"{istiod} has workloads signed by a Kubernetes signer (EXTERNAL_CA={_shown(external or '')})",
                    'remove pilot.env.EXTERNAL_CA, and set ENABLE_CA_SERVER to "false"',
                )

    def trust_bundle(self) -> Iterable[_Verdict]:
        """Whether istiod and agents take the bundle from where the hub publishes it."""
        wanted = self._hub.controller.publication.config_map
        places = [
            *(
                (i, i.environment.get("PILOT_CA_CERT_CONFIGMAP") or DEFAULT_BUNDLE)
                for i in self._found.istiods
            ),
            *((f"ConfigMap {i}", i.bundle_name or DEFAULT_BUNDLE) for i in self._readable_injections()),
        ]
        for where, name in places:
            if name == wanted:
                yield _Verdict("ok", f"ConfigMap {wanted} ({where})")
            else:
                yield _Verdict(
                    "failed",
                    f"{where} takes the bundle from ConfigMap {_shown(name)}, and the hub publishes {wanted}",
                    "set global.trustBundleName and controller.publication.config_map to the same name",
                )
        if self._trust_bundle is False:
            for istiod in self._found.istiods:
                if _on(istiod, "ENABLE_CLUSTER_TRUST_BUNDLE_API"):
                    yield _Verdict(
                        "failed",
                        f"{istiod} expects a ClusterTrustBundle, and the hub publishes none there",
                        "remove ENABLE_CLUSTER_TRUST_BUNDLE_API; or have the hub publish one, where the cluster serves "
                        'the API: cluster_trust_bundle = "auto", and the rights of manifests/member',
                    )

    def options(self) -> Iterable[_Verdict]:
        """Options that widen whom the mesh trusts."""
        for istiod in self._found.istiods:
            wide = False
            if _on(istiod, "ISTIO_MULTIROOT_MESH"):
                wide = True
                yield _Verdict(
                    "warning",
                    f"{istiod} has ISTIO_MULTIROOT_MESH: proxies trust roots of MeshConfig beside the hub's bundle, "
                    "and no rotation knows of those",
                    "remove pilot.env.ISTIO_MULTIROOT_MESH; pin further roots in the hub's configuration",
                )
            if _on(istiod, "PILOT_SKIP_VALIDATE_TRUST_DOMAIN"):
                wide = True
                yield _Verdict(
                    "warning",
                    f"{istiod} has PILOT_SKIP_VALIDATE_TRUST_DOMAIN: proxies take peers of every trust domain",
                    "remove it, and list the trust domains that are meant in meshConfig.trustDomainAliases",
                )
            if not wide:
                yield _Verdict("ok", f"{istiod} has no option that widens whom it trusts")

    def audience(self) -> Iterable[_Verdict]:
        """What tokens are made out to."""
        wanted = self._config.audience
        for injection in self._readable_injections():
            audience = injection.audience or DEFAULT_AUDIENCE
            if audience == wanted:
                yield _Verdict("ok", f"{wanted} ({injection})")
            else:
                yield _Verdict(
                    "failed",
                    f"ConfigMap {injection}: tokens are for {_shown(audience)}, and the hub takes {wanted}",
                    "set global.sds.token.aud and the cluster's audience to the same",
                )

    def network(self) -> Iterable[_Verdict]:
        """Shown in status only, so a difference misleads but breaks nothing of the hub's."""
        wanted = self._config.network
        places = [(f"ConfigMap {i}", i.network) for i in self._readable_injections()]
        places += [(f"ztunnel {z}", z.environment.get("NETWORK") or "") for z in self._found.ztunnels]
        for where, network in places:
            if network == wanted:
                yield _Verdict("ok", f"{wanted or 'none'} ({where})")
            else:
                yield _Verdict(
                    "warning",
                    f"{where} has network {_shown(network)}, registered is {_shown(wanted)}",
                    "set global.network, ztunnel's network and the cluster's network to the same",
                )

    def webhooks(self) -> Iterable[_Verdict]:
        """Which CA kube-apiserver verifies istiod by: istiod writes it there from its own files."""
        for webhook in self._found.webhooks:
            for bundle in webhook.ca_bundles:
                yield self._webhook(webhook, bundle)

    def _webhook(self, webhook: FoundWebhook, bundle: bytes) -> _Verdict:
        name = webhook.name
        if not bundle:
            return _Verdict(
                "warning",
                f"{name} has no caBundle: istiod has not started with a certificate",
                f"see that Secret {self._config.istio.secret} is in {webhook.namespace}, then restart istiod",
            )
        try:
            roots = {certificate.sha256 for certificate in parse_certificates(bundle, where=name)}
        except InvalidValue as error:
            return _Verdict(
                "warning",
                f"{name} has a caBundle that cannot be read: {error.what}",
                "restart istiod, which writes it",
            )
        strange = roots - self._hub.trust.pins
        if not strange:
            return _Verdict("ok", f"{name} verifies istiod by the hub's roots")
        if strange == roots:
            return _Verdict(
                "warning",
                f"{name} verifies istiod by another CA than the hub's",
                f"istiod loads Secret {self._config.istio.secret} when it is restarted; a mesh with a CA of its own "
                f"first joins (`federation clusters join {self._config.name}`)",
            )
        return _Verdict(
            "warning",
            f"{name} verifies istiod by {len(strange)} roots that the hub does not pin, beside its own",
            "pin them, or let istiod's ca.crt be the hub's bundle alone",
        )

    def ztunnel_account(self) -> Iterable[_Verdict]:
        """Without trust in its account a ztunnel is refused every certificate."""
        trusted = {str(account) for account in self._config.policy.trusted_node_accounts}
        for ztunnel in self._found.ztunnels:
            account = f"{ztunnel.namespace}/{ztunnel.account}"
            if account in trusted:
                yield _Verdict("ok", f"{account} is trusted")
            else:
                yield _Verdict(
                    "failed",
                    f"ztunnel {ztunnel} runs as {_shown(account)}, which may not ask for the pods of its node",
                    f'add "{account}" to trusted_node_accounts in [clusters.policy]',
                )

    def ztunnel_ca_address(self) -> Iterable[_Verdict]:
        """Ztunnel has its own setting."""
        on = any(istiod.ca_server is not False for istiod in self._found.istiods)
        for ztunnel in self._found.ztunnels:
            if "CA_ADDRESS" in ztunnel.environment.indirect:
                yield _Verdict(
                    "warning",
                    f"ztunnel {ztunnel} takes CA_ADDRESS from elsewhere",
                    "set caAddress in the values of the ztunnel chart",
                )
            else:
                address = ztunnel.environment.get("CA_ADDRESS") or ""
                yield self._address(f"ztunnel {ztunnel}", address, "caAddress of the ztunnel chart", on)

    def ztunnel_cluster_name(self) -> Iterable[_Verdict]:
        """Ztunnel has its own setting."""
        name = "ISTIO_META_CLUSTER_ID"
        for ztunnel in self._found.ztunnels:
            known = name not in ztunnel.environment.indirect
            value = ztunnel.environment.get(name) or CLUSTER_NAME_DEFAULT
            setting = "multiCluster.clusterName of the ztunnel chart"
            yield self._named(f"ztunnel {ztunnel}", value if known else None, setting)

    def _readable_injections(self) -> Iterable[FoundInjection]:
        return (injection for injection in self._found.injections if not injection.problem)


def _unread(entry: Unread) -> _Verdict:
    if entry.forbidden:
        return _Verdict(
            "warning",
            f"may not {entry.what}",
            "apply manifests/member to that cluster; add the names of a revision to istio-reader.yaml. Without it this "
            "check sees less",
        )
    return _Verdict("warning", f"{entry.what}: {entry.why}", entry.remedy or "run the check again")


def _on(istiod: FoundIstiod, name: str) -> bool:
    return name in istiod.environment.indirect or parse_go_bool(istiod.environment.get(name), False)


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix("https://").rstrip("/").rpartition(":")
    return (host, port) if host and port.isdigit() else (address.removeprefix("https://").rstrip("/"), "")


def _is_istiod(host: str) -> bool:
    return host.startswith(("istiod.", "istiod-")) and _is_cluster_local(host)


def _is_cluster_local(host: str) -> bool:
    return host.endswith(".svc") or ".svc." in host
