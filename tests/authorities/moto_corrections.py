"""Where moto 5.2 differs from AWS's documentation, put right. Only the moto server's own process imports this.

Each correction cites what it follows: the API reference or the user guide of the service.
"""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils
from cryptography.x509.oid import ExtendedKeyUsageOID
from moto.acmpca import models, responses
from moto.acmpca.exceptions import InvalidStateException, RequestInProgressException
from moto.kms.exceptions import ValidationException
from moto.kms.responses import KmsResponse

ISSUING_SECONDS = 0.05
TOKEN_SECONDS = 300.0
_CURVES: dict[str, ec.EllipticCurve] = {"EC_prime256v1": ec.SECP256R1(), "EC_secp384r1": ec.SECP384R1()}
_HASHES: dict[str, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "SHA256": hashes.SHA256(),
    "SHA384": hashes.SHA384(),
    "SHA512": hashes.SHA512(),
}

issued_at: dict[str, float] = {}
by_token: dict[tuple[str, str], tuple[float, str]] = {}


def correct() -> None:
    """Apply every correction to moto's classes."""
    ca, answers, kms = _open(models.CertificateAuthority), _open(responses.ACMPCAResponse), _open(KmsResponse)
    ca.__init__ = _with_the_key_asked_for(ca.__init__)
    ca._x509_extensions = _extensions_by_template(ca._x509_extensions)
    answers.issue_certificate = _issue_certificate
    answers.get_certificate = _get_certificate
    kms.sign = _sign_the_digest(kms.sign)


def _open(kind: Any) -> Any:
    """The class as something whose methods may be exchanged."""
    return kind


def _with_the_key_asked_for(original: Any) -> Any:
    """API_CertificateAuthorityConfiguration, KeyAlgorithm: "Type of the public key algorithm and size" of the CA.

    moto always makes RSA of 2048 bits.
    """

    def make(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        curve = _CURVES.get(self.certificate_authority_configuration.get("KeyAlgorithm"))
        if curve is not None:
            self.private_bytes = ec.generate_private_key(curve).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(self.password),
            )

    return make


def _extensions_by_template(original: Any) -> Any:
    """User guide, "EndEntityServerAuthCertificate/V1 definition": as EndEntityCertificate/V1, but with the extended
    key usage of a TLS server only.

    moto knows no other end-entity template than EndEntityCertificate/V1, and gives no extensions for others.
    """

    def extensions(self: Any, csr: Any, template_arn: str) -> list[tuple[x509.ExtensionType, bool]]:
        both = "arn:aws:acm-pca:::template/EndEntityCertificate/V1"
        server = "arn:aws:acm-pca:::template/EndEntityServerAuthCertificate/V1"
        found: list[tuple[x509.ExtensionType, bool]] = original(
            self, csr, both if template_arn == server else template_arn
        )
        if template_arn != server:
            return found
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        return [
            (usage if isinstance(value, x509.ExtendedKeyUsage) else value, critical)
            for value, critical in found
        ]

    return extensions


def _issue_certificate(self: Any) -> str:
    """API_IssueCertificate.

    - Errors, InvalidStateException: "The state of the private CA does not allow this action to occur". moto issues in
      any state.
    - IdempotencyToken: one token within five minutes is one certificate. moto ignores it.
    - Validity and ValidityNotBefore: the end and the beginning of the certificate, here of the type ABSOLUTE; without
      the latter, "the issuance time minus 60 minutes". moto: a year from now.
    - SigningAlgorithm: what the certificate is signed with. moto: always SHA-512.
    """
    asked = json.loads(self.body)
    ca = self.acmpca_backend.describe_certificate_authority(asked["CertificateAuthorityArn"])
    if ca.status != "ACTIVE":
        raise InvalidStateException(ca.arn)
    token = (ca.arn, asked.get("IdempotencyToken", ""))
    known = by_token.get(token)
    if token[1] and known is not None and time.monotonic() - known[0] < TOKEN_SECONDS:
        return json.dumps({"CertificateArn": known[1]})
    csr = x509.load_pem_x509_csr(base64.b64decode(asked["Csr"]))
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(csr.subject)
        .issuer_name(ca.certificate.subject)
        .public_key(csr.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_instant(asked.get("ValidityNotBefore"), now - timedelta(minutes=60)))
        .not_valid_after(_instant(asked["Validity"], now))
    )
    for value, critical in ca._x509_extensions(csr, asked.get("TemplateArn")):
        builder = builder.add_extension(value, critical)
    certificate = builder.sign(ca.key, _HASHES[asked["SigningAlgorithm"][:6]])
    arn = f"{ca.arn}/certificate/{certificate.serial_number:032x}"
    ca.issued_certificates[arn] = certificate.public_bytes(serialization.Encoding.PEM)
    issued_at[arn] = time.monotonic() + ISSUING_SECONDS
    by_token[token] = (time.monotonic(), arn)
    return json.dumps({"CertificateArn": arn})


def _get_certificate(self: Any) -> str:
    """API_GetCertificate.

    - Errors, RequestInProgressException: issuing is asynchronous. moto has the certificate at once.
    - CertificateChain: "chains up to the root CA certificate". moto leaves out what was imported above the CA.
    """
    asked = json.loads(self.body)
    ca = self.acmpca_backend.describe_certificate_authority(asked["CertificateAuthorityArn"])
    arn = asked["CertificateArn"]
    if time.monotonic() < issued_at.get(arn, 0.0):
        raise RequestInProgressException("The request to issue the certificate is still in progress.")
    chain = ca.certificate_bytes.decode() + base64.b64decode(ca.certificate_chain or b"").decode()
    return json.dumps(
        {"Certificate": ca.issued_certificates[arn].decode().strip(), "CertificateChain": chain.strip()}
    )


def _sign_the_digest(original: Any) -> Any:
    """API_Sign, MessageType: with DIGEST "KMS skips the hashing step in the signing algorithm", and the length must be
    that of the hash.

    moto ignores MessageType and hashes the digest once more.
    """

    def sign(self: Any) -> str:
        if self._get_param("MessageType") != "DIGEST":
            return str(original(self))
        backend = self.kms_backend
        key = backend.describe_key(self._get_param("KeyId"))
        algorithm = self._get_param("SigningAlgorithm")
        backend._KmsBackend__ensure_valid_sign_and_verify_key(key)
        backend._KmsBackend__ensure_valid_signing_algorithm(key, algorithm)
        message, chosen = self._get_param("Message"), _HASHES["SHA" + algorithm[-3:]]
        if len(message) != chosen.digest_size:
            raise ValidationException("Digest is invalid length for algorithm " + algorithm)
        own, hashed = key.private_key.private_key, utils.Prehashed(chosen)
        if isinstance(own, rsa.RSAPrivateKey):
            signature = own.sign(message, padding.PKCS1v15(), hashed)
        else:
            signature = own.sign(message, ec.ECDSA(hashed))
        return json.dumps(
            {
                "KeyId": key.arn,
                "Signature": base64.b64encode(signature).decode(),
                "SigningAlgorithm": algorithm,
            }
        )

    return sign


def _instant(validity: dict[str, Any] | None, default: datetime) -> datetime:
    if validity is None:
        return default
    assert validity["Type"] == "ABSOLUTE"
    return datetime.fromtimestamp(validity["Value"], UTC)
