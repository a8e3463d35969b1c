"""What kubernetes_asyncio does for the hub, what it does not, and why (docs/dependencies.md, decision 0057).

The tests that measure the library say so when it has caught up: the hub's own code can then go.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kubernetes_asyncio.client import (
    AuthorizationV1Api,
    Configuration,
    V1ResourceAttributes,
    V1SelfSubjectAccessReview,
    V1SelfSubjectAccessReviewSpec,
)
from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader
from kubernetes_asyncio.config.kube_config import load_kube_config

from federation.core.config.clusters import ClusterTimeouts, Credentials
from federation.core.errors import ClusterForbidden, ClusterGarbage, ClusterOverBudget
from federation.core.identity import ClusterName
from federation.kubernetes.credentials import load_credentials
from federation.kubernetes.generated_api import generated_api
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession
from federation.runtime.clock import SystemClock
from federation_sandbox.apiserver.faults import Answer, Garbage
from federation_sandbox.cluster import SandboxCluster
from tests.clusters.test_kubectl_reads import CASES, VIEWS, as_bytes, chosen, refused_for_safety
from tests.support.patience import PATIENCE

EAST = ClusterName("east")
REVIEW = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
NOT_IN_ROLES = """
import sys
import federation.cli.controller, federation.cli.signer, federation.cli.status
import federation.controller.role, federation.signer.role, federation.status.server
import federation.kubernetes.credentials
print("kubernetes_asyncio" in sys.modules)
"""


# The generated API over the hub's session -------------------------------------------------------------------------


async def review(cluster: SandboxCluster, directory: Path, *, verb: str = "list") -> Any:
    """The answer to a review of one right, through the generated API."""
    kubeconfig = directory / "kubeconfig"
    kubeconfig.write_text(json.dumps(cluster.kubeconfig("reader")))
    credentials = Credentials(kubeconfig=kubeconfig)
    timeouts = ClusterTimeouts(connect=PATIENCE, request=PATIENCE)
    session = await ClusterSession.open(credentials, cluster=EAST, timeouts=timeouts, clock=SystemClock())
    async with session, generated_api(session) as api:
        attributes = V1ResourceAttributes(verb=verb, resource="pods")
        body = V1SelfSubjectAccessReview(spec=V1SelfSubjectAccessReviewSpec(resource_attributes=attributes))
        return await AuthorizationV1Api(api).create_self_subject_access_review(body)


async def test_a_review_is_answered_with_the_models_of_the_library(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        answer = await review(cluster, tmp_path)

        assert answer.status.allowed is False
        assert answer.spec.resource_attributes.verb == "list"
        assert answer.spec.resource_attributes.resource == "pods"
        assert answer.spec.resource_attributes.namespace is None


async def test_a_refusal_is_the_typed_error_of_the_session(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        cluster.faults.inject(Answer.forbidden(), path=REVIEW)
        with pytest.raises(ClusterForbidden):
            await review(cluster, tmp_path)


@pytest.mark.parametrize(
    "body",
    [
        b"[1]",
        b"5",
        b"{}",
        b'{"spec": 5}',
        b'{"spec": {}, "status": {"allowed": "no"}}',
        b'{"spec": {}, "status": {"allowed": null}}',
        b"\xff",
        b"[" * 100_000,
    ],
    ids=["list", "number", "empty", "no object", "text for a boolean", "no answer", "not UTF-8", "deep"],
)
async def test_an_answer_of_another_shape_is_garbage(tmp_path: Path, body: bytes) -> None:
    async with SandboxCluster("east") as cluster:
        fault = Garbage(code=200, content_type="application/json", body=body)
        cluster.faults.inject(fault, path=REVIEW)
        with pytest.raises(ClusterGarbage, match="not what the API promises"):
            await review(cluster, tmp_path)


async def test_an_answer_beyond_the_limit_is_not_read_to_its_end(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        body = b'{"spec": {}, "x": "' + b"x" * SMALL_ANSWER_BYTES + b'"}'
        cluster.faults.inject(Garbage(code=200, content_type="application/json", body=body), path=REVIEW)
        with pytest.raises(ClusterOverBudget):
            await review(cluster, tmp_path)


def test_the_roles_do_not_import_the_library() -> None:
    """It takes 0.4 s of CPU and 38 MB in each process (docs/dependencies.md)."""
    command = [sys.executable, "-c", NOT_IN_ROLES]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True)

    assert ended.stdout.strip() == "False"


# Credentials: the hub's own reading beside the library's ----------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "port"), [("10.0.0.1", "443"), ("kubernetes.default", "6443"), ("fd00::1", "443")]
)
async def test_in_a_pod_the_hub_finds_the_server_that_the_library_finds(
    tmp_path: Path, host: str, port: str
) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    async with SandboxCluster("east") as cluster:
        (tmp_path / "token").write_text("TOKEN\n")
        (tmp_path / "ca.crt").write_bytes(cluster.ca_pem)
    theirs = type.__call__(Configuration)
    InClusterConfigLoader(
        token_filename=str(tmp_path / "token"),
        cert_filename=str(tmp_path / "ca.crt"),
        try_refresh_token=False,
        environ=environ,
    ).load_and_set(theirs)

    loaded = await load_credentials(
        Credentials(kubeconfig=None, in_cluster=True),
        cluster=EAST,
        clock=SystemClock(),
        environ=environ,
        service_account=tmp_path,
    )

    assert loaded.server == theirs.host
    assert (await loaded.access()).token == "TOKEN"


async def library_reads(text: bytes, directory: Path) -> Any | None:
    """What the library's loader makes of a kubeconfig; None where it refuses it, whatever it raises."""
    for name in ("ca.crt", "t", "f", "k.pem"):
        (directory / name).write_text(name)
    file = directory / "kubeconfig"
    file.write_bytes(text)
    configuration = type.__call__(Configuration)
    try:
        await load_kube_config(config_file=str(file), client_configuration=configuration)
    except Exception:
        return None
    return configuration


def differs(read: Any, cluster: dict[str, Any], user: dict[str, Any]) -> bool:
    """Whether the library connects elsewhere, or as another user, than kubectl does."""
    data, file = cluster.get("certificate-authority-data"), cluster.get("certificate-authority")
    authority = base64.b64decode(data) if data else (file.encode() if file else None)
    token = user.get("tokenFile") or user.get("token", "")  # as client-go: the file wins
    return (
        read.host != cluster["server"].rstrip("/")
        or (Path(read.ssl_ca_cert).read_bytes() if read.ssl_ca_cert else None) != authority
        or ("exec" not in user and read.api_key.get("BearerToken", "").removeprefix("Bearer ") != token)
        or (read.tls_server_name or "") != cluster.get("tls-server-name", "")
        or (read.proxy or "") != cluster.get("proxy-url", "")
    )


async def test_the_librarys_loader_reads_kubeconfigs_otherwise_than_kubectl() -> None:
    """Why the hub has a reader of its own, which test_kubectl_reads holds to all of these files."""
    views = json.loads(VIEWS.read_text("utf-8"))
    counted: Counter[str] = Counter()
    for name, text in CASES:
        with tempfile.TemporaryDirectory() as directory:
            read = await library_reads(as_bytes(text), Path(directory))
            entries = chosen(views[name]) if views[name] is not None else None
            if entries is None:
                counted["refused by kubectl"] += 1
                counted["refused by kubectl, read by the library"] += read is not None
            elif refused_for_safety(*entries):
                counted["refused by the hub for safety"] += 1
                counted["refused by the hub for safety, read by the library"] += read is not None
            else:
                counted["read by kubectl"] += 1
                counted["read by kubectl, refused by the library"] += read is None
                counted["read by kubectl, otherwise by the library"] += read is not None and differs(
                    read, *entries
                )

    assert counted == {
        "read by kubectl": 76,
        "read by kubectl, refused by the library": 15,
        "read by kubectl, otherwise by the library": 8,
        "refused by kubectl": 86,
        "refused by kubectl, read by the library": 54,
        "refused by the hub for safety": 26,
        "refused by the hub for safety, read by the library": 17,
    }
