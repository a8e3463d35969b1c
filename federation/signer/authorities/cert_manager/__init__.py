"""cert-manager as an authority: CertificateRequests in one management cluster, answered by any issuer it has."""
