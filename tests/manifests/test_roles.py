"""What the two roles' pods may touch: who can sign cannot publish, and neither can do anything else."""

from __future__ import annotations

import argparse
from pathlib import Path, PurePosixPath

import pytest

from federation.cli import controller, signer
from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from tests.manifests.tree import ROLES, Tree, selects

CONFIG_PATH = "/etc/federation/config/clusters.toml"


@pytest.fixture(scope="module")
def config(hub: Tree) -> HubConfig:
    text = hub.one("ConfigMap", "federation-config")["data"]["clusters.toml"]
    return parse_config(text, file=CONFIG_PATH)


def holds(tree: Tree, role: str, path: PurePosixPath) -> bool:
    """Is that file in a volume the role mounts?"""
    return any(path.is_relative_to(mount) for mount in tree.mounts(role))


def test_only_the_signer_holds_the_intermediate(hub: Tree) -> None:
    assert hub.secrets("signer") == {"federation-intermediate", "federation-signer-kubeconfigs"}


def test_the_controller_holds_no_key_and_no_credential_of_the_signer(hub: Tree) -> None:
    assert hub.secrets("controller") == {
        "federation-controller-kubeconfigs",
        "federation-status",
        "federation-operate",
    }


def test_no_secret_is_in_the_tree_itself(hub: Tree, member: Tree) -> None:
    assert hub.all("Secret") == member.all("Secret") == []


def test_the_configuration_is_good_and_loud_about_nothing(config: HubConfig) -> None:
    assert config.warnings == ()
    assert [str(cluster.name) for cluster in config.clusters] == ["east"]


def test_each_file_that_a_role_reads_is_in_a_volume_of_that_role_only(hub: Tree, config: HubConfig) -> None:
    authority, status, (cluster,) = config.signer.authority, config.status, config.clusters
    assert isinstance(authority, LocalAuthorityConfig)
    own: dict[str, list[Path | None]] = {
        "signer": [authority.certificate_file, authority.key_file, cluster.signer.kubeconfig],
        "controller": [
            status.read_token_file,
            status.operate_token_file,
            status.certificate_file,
            status.key_file,
            cluster.controller.kubeconfig,
        ],
    }
    shared = [*(anchor.file for anchor in config.trust.anchors), CONFIG_PATH]

    for role, other in (("signer", "controller"), ("controller", "signer")):
        for file in own[role]:
            assert file is not None
            assert holds(hub, role, PurePosixPath(file)), f"the {role} mounts no volume with {file}"
            assert not holds(hub, other, PurePosixPath(file)), f"the {other} can see {file}"
        for path in shared:
            assert holds(hub, role, PurePosixPath(str(path))), f"the {role} mounts no volume with {path}"


def test_all_but_a_small_scratch_space_is_read_only(hub: Tree) -> None:
    for role in ROLES:
        writable = {m["mountPath"] for m in hub.container(role)["volumeMounts"] if not m.get("readOnly")}
        assert writable == {"/tmp"}
        assert hub.mounts(role)["/tmp"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Mi"}


def test_mounted_secrets_can_be_read_by_the_pod_s_group_alone(hub: Tree) -> None:
    for role in ROLES:
        modes = [
            volume["secret"]["defaultMode"] for volume in hub.volumes(role).values() if "secret" in volume
        ]
        assert modes == [0o440] * (3 if role == "controller" else 2)
        assert hub.pod(role)["securityContext"]["fsGroup"] == hub.pod(role)["securityContext"]["runAsGroup"]


@pytest.mark.parametrize("role", ROLES)
def test_the_pod_passes_the_restricted_profile(hub: Tree, role: str) -> None:
    pod, container = hub.pod(role), hub.container(role)

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 10000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers", "ephemeralContainers"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])
    assert not any("hostPort" in port for port in container["ports"])
    assert pod["serviceAccountName"] == f"federation-{role}"


@pytest.mark.parametrize("role", ROLES)
def test_two_replicas_that_one_drain_cannot_take_together(hub: Tree, role: str) -> None:
    deployment, budget = hub.deployment(role), hub.one("PodDisruptionBudget", f"federation-{role}")
    labels = deployment["spec"]["template"]["metadata"]["labels"]

    assert deployment["spec"]["replicas"] == 2
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert budget["spec"]["minAvailable"] == 1
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in hub.pod(role)["topologySpreadConstraints"]),
    ):
        assert selects(selector, labels)
        other = "controller" if role == "signer" else "signer"
        assert not selects(selector, hub.deployment(other)["spec"]["template"]["metadata"]["labels"])


@pytest.mark.parametrize("role", ROLES)
def test_a_stop_leaves_time_to_drain(hub: Tree, config: HubConfig, role: str) -> None:
    pod, container = hub.pod(role), hub.container(role)
    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert before >= 3
    assert pod["terminationGracePeriodSeconds"] >= before + config.listener.drain + 10


@pytest.mark.parametrize("role", ROLES)
def test_probes_ask_the_role_s_own_health(hub: Tree, role: str) -> None:
    container, port = hub.container(role), "probes"
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}

    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/healthz",
        "liveness": "/healthz",
        "readiness": "/readyz",
    }
    assert {probe["port"] for probe in probes.values()} == {port}
    assert {probe.get("scheme", "HTTP") for probe in probes.values()} == {"HTTP"}
    assert hub.arguments(role)["probes"] == f"0.0.0.0:{hub.ports(role)['probes']}"
    for policy in hub.objects:  # who could reach that port could make the kubelet restart the role
        for rule in policy.get("spec", {}).get("ingress", []) if policy["kind"] == "NetworkPolicy" else []:
            assert rule["ports"]
            assert not {"probes", hub.ports(role)["probes"]} & {each["port"] for each in rule["ports"]}


@pytest.mark.parametrize("role", ROLES)
def test_resources_are_asked_for_and_bounded(hub: Tree, role: str) -> None:
    resources = hub.container(role)["resources"]

    assert set(resources["requests"]) == {"cpu", "memory", "ephemeral-storage"}
    assert set(resources["limits"]) == {"memory", "ephemeral-storage"}  # a CPU limit would throttle signing


def test_ports_are_those_of_the_configuration_and_of_the_services(hub: Tree, config: HubConfig) -> None:
    for_signer, for_controller = hub.arguments("signer"), hub.arguments("controller")
    listener, status = hub.one("Service", "federation-hub"), hub.one("Service", "federation-status")

    assert hub.ports("signer") == {"listener": 15443, "health": 15444, "probes": 15445}
    assert hub.ports("controller") == {"status": 8080, "probes": 8081}
    assert for_signer["listen"] == str(config.listener.listen) == "0.0.0.0:15443"
    assert for_signer["health"] == str(config.signer.health_listen) == "0.0.0.0:15444"
    assert for_controller["status"] == str(config.status.listen) == "0.0.0.0:8080"
    assert for_signer["config"] == for_controller["config"] == CONFIG_PATH
    for service, role, name, port in (
        (listener, "signer", "listener", 15443),
        (status, "controller", "status", 8080),
    ):
        (entry,) = service["spec"]["ports"]
        assert (entry["port"], entry["targetPort"]) == (port, name)
        assert selects(
            service["spec"]["selector"], hub.deployment(role)["spec"]["template"]["metadata"]["labels"]
        )
        assert service["spec"]["type"] == "ClusterIP"


def test_the_controller_uses_a_listener_name_that_is_in_its_certificate(hub: Tree, config: HubConfig) -> None:
    host, port = hub.arguments("controller")["signer-address"].rsplit(":", 1)
    service = hub.one("Service", "federation-hub")

    assert host == f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert host in config.listener.server_names
    assert int(port) == service["spec"]["ports"][0]["port"]


def test_both_roles_run_the_same_image(hub: Tree) -> None:
    images = {hub.container(role)["image"] for role in ROLES}

    assert len(images) == 1
    assert not images.pop().endswith(":latest")


@pytest.mark.parametrize("role", ROLES)
def test_the_command_line_takes_the_arguments(hub: Tree, role: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    verb = {"signer": signer, "controller": controller}[role]
    verb.add_parser(parser.add_subparsers())
    pod = f"federation-{role}-7d4b9c6f5-x2x8q"  # what a Deployment calls a pod
    given = [argument.replace("$(POD_NAME)", pod) for argument in hub.container(role)["args"]]

    parsed = parser.parse_args(given)

    assert parsed.replica == pod
    assert str(parsed.config) == CONFIG_PATH
    assert hub.container(role)["env"] == [
        {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    ]
