"""Whether the issuer is there and ready, where it is one of cert-manager's own and we may read it.

The right to read it is optional: without it a request that waits for its issuer says the same, only later.
"""

from __future__ import annotations

from typing import Final

import msgspec

from federation.clusters.answers import harmless
from federation.clusters.session import ClusterSession
from federation.core.config.authority_model import CertManagerAuthorityConfig
from federation.core.errors import (
    AuthorityMisconfigured,
    AuthorityUnavailable,
    ClusterForbidden,
    ClusterGarbage,
    ClusterNotFound,
)
from federation.signer.authorities.cert_manager.request import API, GROUP
from federation.signer.authorities.cert_manager.verdict import MAX_TEXT

NOT_FOUND: Final = "create it, or correct issuer_name, issuer_kind and issuer_group"


class _Condition(msgspec.Struct):
    type: str = ""
    status: str = ""
    message: str = ""


class _Status(msgspec.Struct):
    conditions: list[_Condition] | None = None


class _Issuer(msgspec.Struct):
    status: _Status | None = None


def not_ready(config: CertManagerAuthorityConfig) -> str:
    """What to do about an issuer that is not ready."""
    kind, group = config.issuer_kind.lower(), config.issuer_group
    return (
        "look at its conditions in the management cluster, "
        f"`kubectl -n {config.namespace} describe {kind}.{group}/{config.issuer_name}`: its secret or the service "
        "behind it is wrong"
    )


_decode: Final = msgspec.json.Decoder(_Issuer).decode


async def check_issuer(session: ClusterSession, config: CertManagerAuthorityConfig) -> None:
    """Raises AuthorityMisconfigured or AuthorityUnavailable for a bad issuer, ClusterError without an answer."""
    path = _path(config)
    if path is None:
        return
    named = f"the {config.issuer_kind} {config.issuer_name}"
    try:
        answer = await session.get(path)
    except ClusterForbidden:
        return
    except ClusterNotFound:
        raise AuthorityMisconfigured(
            f"{named} is not there", reason="issuer_not_found", remedy=NOT_FOUND
        ) from None
    try:
        status = _decode(answer).status or _Status()
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise ClusterGarbage(f"GET {path}: not what the API promises: {harmless(str(error))}") from None
    ready = next((c for c in status.conditions or () if c.type == "Ready"), _Condition())
    if ready.status != "True":
        raise AuthorityUnavailable(
            f"{named} is not ready: {harmless(ready.message)[:MAX_TEXT] or 'it has no Ready condition'}",
            reason="issuer_not_ready",
            remedy=not_ready(config),
        )


def _path(config: CertManagerAuthorityConfig) -> str | None:
    if config.issuer_group != GROUP:
        return None
    match config.issuer_kind:
        case "ClusterIssuer":
            return f"{API}/clusterissuers/{config.issuer_name}"
        case "Issuer":
            return f"{API}/namespaces/{config.namespace}/issuers/{config.issuer_name}"
    return None
