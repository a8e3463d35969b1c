"""cert-manager as an authority: CertificateRequests in one management cluster, answered by any issuer it has."""

from federation.signer.authorities.cert_manager.service import CertManager

__all__ = ["CertManager"]
