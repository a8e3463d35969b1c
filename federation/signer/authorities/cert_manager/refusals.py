"""What a request that brought no certificate means for whoever asked for it."""

from __future__ import annotations

from typing import Final

from federation.core.config.authority_model import CertManagerAuthorityConfig
from federation.core.errors import (
    AuthorityError,
    AuthorityMisconfigured,
    AuthorityRefused,
    AuthorityUnavailable,
    AuthorityUncertain,
    AuthorityViolation,
)
from federation.signer.authorities.cert_manager import issuer
from federation.signer.authorities.cert_manager.outstanding import Waiting
from federation.signer.authorities.cert_manager.removal import Creation
from federation.signer.authorities.cert_manager.verdict import (
    Blocked,
    Deleted,
    Denied,
    Failed,
    Invalid,
    Pending,
    Unreadable,
)

_COMPARE: Final = "compare what it allows with this cluster's policy in the hub"


def refusal(
    verdict: Pending | Blocked | Denied | Failed | Invalid | Unreadable | Deleted,
    config: CertManagerAuthorityConfig,
) -> AuthorityError | AuthorityUnavailable:
    """The error that a verdict other than a certificate stands for."""
    match verdict:
        case Denied(message=message):
            return AuthorityRefused(
                f"the approver denied the request: {message}",
                reason="denied",
                remedy=f"the approver: {_COMPARE}",
            )
        case Invalid(message=message):
            return AuthorityRefused(
                f"the issuer takes the request for invalid: {message}",
                reason="invalid_request",
                remedy=f"the issuer: {_COMPARE}",
            )
        case Failed(message=message):
            # Any error of what stands behind an issuer ends so, an outage as well as a rule of its own.
            return AuthorityUnavailable(
                f"the issuer failed: {message}",
                reason="failed",
                remedy=f"look at the {config.issuer_kind} {config.issuer_name} and at what is behind it",
            )
        case Blocked(reason="issuer_not_found", message=message):
            return AuthorityMisconfigured(message, reason="issuer_not_found", remedy=issuer.NOT_FOUND)
        case Blocked(message=message):
            return AuthorityUnavailable(message, reason="issuer_not_ready", remedy=issuer.not_ready(config))
        case Unreadable(problem=problem):
            return AuthorityViolation(f"the CertificateRequest: {problem}", reason="garbage")
        case Deleted():
            return AuthorityUncertain(
                "the request was deleted before it was decided: it may have been issued",
                reason="request_deleted",
                remedy=f"find who deletes CertificateRequests in the namespace {config.namespace}",
            )
    return AuthorityUncertain(f"nothing was decided: {verdict.message}")


def lateness(
    waiting: Waiting, creation: Creation, config: CertManagerAuthorityConfig, *, watching: bool
) -> AuthorityUnavailable:
    """Why nothing came in time. Issuers sign only what was approved, so what was not was not issued."""
    within = f"within {config.timeout:g} s"
    match waiting.last:
        case Pending(approved=False, message="") if watching:
            return AuthorityUnavailable(
                f"nobody approved or denied the request {within}",
                reason="not_approved",
                remedy="run cert-manager's own approver, or one whose policy covers the hub's requests",
            )
        case Pending(message=message) if message:
            return AuthorityUncertain(f"the issuer did not answer {within}; it says: {message}")
        case Pending():
            return AuthorityUncertain(f"the issuer did not answer {within}: it may still issue")
    error = creation.result() if creation.done() and not creation.cancelled() else None
    if error is not None:
        return AuthorityUncertain(f"the management cluster: {error.what}: the request may be there")
    return AuthorityUncertain(f"the request was not seen {within}: it may be there and issued")
