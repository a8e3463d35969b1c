"""What the management cluster's API server answered, as what an authority raises (``authority.py``'s table)."""

from __future__ import annotations

from typing import Final

import aiohttp

from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityThrottled,
    AuthorityUnavailable,
    AuthorityUncertain,
    ClusterConflict,
    ClusterDenied,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterInvalid,
    ClusterNotFound,
    ClusterServerError,
    ClusterThrottled,
    ClusterTimeout,
    ClusterUnauthorized,
    ClusterUnreachable,
)
from federation.kubernetes.answers import ADMISSION

_NEVER_SENT: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)
GRANTS: Final = "apply manifests/cert-manager there, in the namespace of signer.authority"


def may_exist(error: ClusterError) -> bool:
    """True where a creation that failed so may have created the object all the same."""
    if isinstance(error, ClusterUnreachable):
        return not isinstance(error.__cause__, _NEVER_SENT)
    return isinstance(error, ClusterTimeout | ClusterServerError | ClusterGarbage | ClusterConflict)


def answer_lost(error: ClusterError) -> bool:
    """True where the object is likely there and only the answer is not: the watch will show.

    A conflict is one of these: the names are random, so what is there already is our own first attempt.
    """
    return isinstance(error, ClusterUnreachable | ClusterGarbage | ClusterConflict) and may_exist(error)


def authority_error(error: ClusterError, *, creating: bool = False) -> AuthorityError | AuthorityUnavailable:
    """The error for the caller of a request, or of a health poll."""
    what = f"the management cluster: {error.what}"
    if creating and may_exist(error):
        return AuthorityUncertain(f"{what}: the request may be there and may be issued")
    denied = isinstance(error, ClusterDenied) and error.reason == ADMISSION
    if creating and (denied or isinstance(error, ClusterInvalid)):
        remedy = "the CRD, a policy or a webhook there refuses the request itself: read its message"
        return AuthorityRefused(what, reason="request_invalid", remedy=remedy)
    if isinstance(error, ClusterThrottled):
        return AuthorityThrottled(what, remedy=error.remedy, retry_after=error.retry_after)
    if (mistake := _mistake(error, creating)) is not None:
        reason, remedy = mistake
        return AuthorityMisconfigured(what, reason=reason, remedy=remedy)
    remedy = error.remedy or "look at the API server of the management cluster"
    return AuthorityUnavailable(what, reason=error.reason, remedy=remedy)


def _mistake(error: ClusterError, creating: bool) -> tuple[str, str] | None:
    """Reason and remedy where an operator has to correct something; None for what may pass."""
    match error:
        case ClusterForbidden():
            return "forbidden", GRANTS
        case ClusterUnauthorized():
            return "unauthorized", error.remedy
        case ClusterDenied():
            return error.reason, error.remedy
        case ClusterNotFound() if creating and 'namespaces "' in error.what:
            return "namespace_missing", GRANTS
        case ClusterNotFound():
            return "cert_manager_missing", "install cert-manager there, or name the cluster that has it"
        case ClusterInvalid():
            return "invalid", "check namespace and server address"
    return None
