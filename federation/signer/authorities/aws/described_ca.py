"""What is known of a CA of AWS beforehand: its states, its keys, and the templates that it may issue by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from federation.core.errors import AuthorityMisconfigured

SAFE_TEMPLATES: Final = frozenset(
    {
        "EndEntityCertificate/V1",
        "EndEntityServerAuthCertificate/V1",
        "EndEntityClientAuthCertificate/V1",
    }
)
"""Templates that fix every extension but the names, so that no request can make a CA of its leaf (AWS Private CA
User Guide, "template definitions")."""

_SIGNING_ALGORITHMS: Final[Mapping[str, str]] = {
    "RSA_2048": "SHA256WITHRSA",
    "RSA_3072": "SHA256WITHRSA",
    "RSA_4096": "SHA256WITHRSA",
    "EC_prime256v1": "SHA256WITHECDSA",
    "EC_secp384r1": "SHA384WITHECDSA",
}
_STATES: Final = {
    "DISABLED": (
        "ca_disabled",
        "enable it: `aws acm-pca update-certificate-authority --certificate-authority-arn ARN --status ACTIVE`",
    ),
    "PENDING_CERTIFICATE": ("ca_pending", "sign its CSR with the root and import the certificate"),
    "CREATING": ("ca_pending", "wait until it is created, then sign its CSR and import the certificate"),
    "EXPIRED": ("issuer_expired", "renew its certificate now; workloads cannot renew"),
    "DELETED": (
        "ca_deleted",
        "restore it: `aws acm-pca restore-certificate-authority --certificate-authority-arn ARN`, then enable it",
    ),
    "FAILED": ("ca_failed", "it cannot be mended: create another CA and name it in ca_arn"),
}


def check_state(described: Mapping[str, Any]) -> None:
    """Raise AuthorityMisconfigured that says what to do where the CA is in any state but ACTIVE."""
    state = str(described.get("Status", ""))
    if state == "ACTIVE":
        return
    reason, remedy = _STATES.get(state, ("ca_disabled", "look at the CA in AWS's console"))
    raise AuthorityMisconfigured(f"the CA is in the state {state[:40]!r}", reason=reason, remedy=remedy)


def signing_algorithm(described: Mapping[str, Any]) -> str:
    """What leaves are signed with: by the CA's key alone, as where the hub builds them.

    Raises AuthorityMisconfigured with the reason ``weak_key`` for a key that the hub does not accept.
    """
    configuration = described.get("CertificateAuthorityConfiguration")
    kind = str(configuration.get("KeyAlgorithm", "")) if isinstance(configuration, dict) else ""
    if kind not in _SIGNING_ALGORITHMS:
        raise AuthorityMisconfigured(
            f"the CA has a key of the kind {kind[:40]!r}",
            reason="weak_key",
            remedy=f"use a CA with one of: {', '.join(_SIGNING_ALGORITHMS)}",
        )
    return _SIGNING_ALGORITHMS[kind]


def template_arn(ca_arn: str, template: str) -> str:
    """The ARN of a template in the CA's partition (aws, aws-cn, aws-us-gov).

    Raises AuthorityMisconfigured with the reason ``template_unsafe`` or ``ca_arn``.
    """
    if template not in SAFE_TEMPLATES:
        raise AuthorityMisconfigured(
            f"the template {template[:80]!r} leaves to the request what the leaf may do",
            reason="template_unsafe",
            remedy=f"use one of: {', '.join(sorted(SAFE_TEMPLATES))}",
        )
    parts = ca_arn.split(":")
    if len(parts) != 6 or parts[0] != "arn" or parts[2] != "acm-pca":
        raise AuthorityMisconfigured(
            f"{ca_arn[:120]!r} is not the ARN of a CA",
            reason="ca_arn",
            remedy="write it as AWS does: arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID",
        )
    return f"arn:{parts[1]}:acm-pca:::template/{template}"
