"""cert-manager as a back end under test: a management cluster in a box, granted what its manifests grant."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from federation.core.config.authorities.settings import CertManagerAuthorityConfig
from federation.core.config.clusters import Credentials
from federation.signer.authorities.authority import AuthoritySettings
from federation_sandbox.cluster import SandboxCluster, read_kustomization
from tests.authorities.back_end import BackEnd
from tests.authorities.cert_manager_controller import RESOURCES, Controller, running
from tests.signer.running_signer import authority
from tests.support import pki

NAMESPACE = "federation-requests"
ISSUER = "shared-intermediate"
ACCOUNT = ("federation-system", "federation-signer")
USER = "system:serviceaccount:" + ":".join(ACCOUNT)
MANIFESTS = Path(__file__).resolve().parents[2] / "manifests" / "cert-manager"


@dataclass
class Management:
    """A management cluster with cert-manager in it."""

    cluster: SandboxCluster
    controller: Controller
    config: CertManagerAuthorityConfig
    token: str = ""

    @property
    def ca(self) -> pki.Authority:
        return self.controller.ca

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The CertificateRequests that are there now."""
        return self.cluster.objects("certificaterequests", NAMESPACE)

    @property
    def back_end(self) -> BackEnd:
        return BackEnd(settings=AuthoritySettings(self.config), root=self.ca.root)

    def renew_token(self) -> None:
        """A new token of the hub's account, dated by the cluster's clock of now."""
        document = self.cluster.service_account_kubeconfig(*ACCOUNT)
        self.token = document["users"][0]["user"]["token"]
        assert self.config.credentials.kubeconfig is not None
        self.config.credentials.kubeconfig.touch(mode=0o600)
        self.config.credentials.kubeconfig.write_text(json.dumps(document), "utf-8")

    def configured(self, **changes: Any) -> BackEnd:
        """The back end with other settings."""
        return replace(self.back_end, settings=AuthoritySettings(replace(self.config, **changes)))


@asynccontextmanager
async def management(directory: Path, **options: Any) -> AsyncIterator[Management]:
    """A management cluster whose issuer is ready; ``options`` are settings of the authority."""
    async with SandboxCluster("management", signing_algorithm="ES256") as cluster:
        for resource in RESOURCES:
            cluster.register(resource)
        cluster.apply_manifest(read_kustomization(MANIFESTS))
        config = CertManagerAuthorityConfig(
            name="cert-manager",
            credentials=Credentials(kubeconfig=directory / "management.kubeconfig"),
            namespace=NAMESPACE,
            issuer_name=ISSUER,
            **options,
        )
        async with running(cluster, authority("cert-manager"), directory) as controller:
            await controller.set_issuer(ISSUER)
            built = Management(cluster, controller, config)
            built.renew_token()
            yield built


@asynccontextmanager
async def open_back_end(directory: Path) -> AsyncIterator[BackEnd]:
    """As ``docs/authorities.md`` sets it up."""
    async with management(directory) as built:

        @asynccontextmanager
        async def cut_off() -> AsyncIterator[None]:
            await built.cluster.down()
            try:
                yield
            finally:
                await built.cluster.up()

        yield replace(
            built.back_end,
            cut_off=cut_off,
            secrets=(built.token,),
            # A leaf is asked for shorter by the time that the issuer has for it.
            coarse=timedelta(seconds=built.config.timeout + 2),
        )
