"""The hub's verifier over the ``limbo.json`` of x509-limbo (https://x509-limbo.com), not part of this repository."""

from __future__ import annotations

from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Any

from cryptography import x509

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.chain import verify_chain
from federation.core.pki.path_rules import Purpose, general_name
from federation.core.pki.pem import parse_certificates, readable_certificates

ACCEPTED = ""


def verdict(case: dict[str, Any]) -> str:
    """Why the hub refuses the peer's certificate of a case; empty where it accepts it.

    Anchors that cannot be read are left out, as they are where pins are read. The hub only looks up names of servers
    that it knows; as an agent does, a wildcard may replace the first label.
    """
    anchors = [c for pem in case["trusted_certs"] for c in readable_certificates(pem.encode())]
    try:
        chain = [
            c
            for pem in (case["peer_certificate"], *case["untrusted_intermediates"])
            for c in parse_certificates(pem.encode(), where="")
        ]
        at = case["validation_time"]
        verify_chain(
            chain,
            anchors,
            datetime.fromisoformat(at) if at else datetime.now(UTC),
            purpose=Purpose.CLIENT if case["validation_kind"] == "CLIENT" else Purpose.SERVER,
        )
    except InvalidValue as error:
        return f"{error.reason}: {error.what}"
    expected = case["expected_peer_name"]
    if expected and not _is_named(chain[0], expected["value"]):
        return "name"
    return ACCEPTED


def _is_named(leaf: Certificate, name: str) -> bool:
    names = leaf.extension(x509.SubjectAlternativeName) or ()
    wanted = general_name(name)
    if wanted in names:
        return True
    texts = [n.value for n in names if isinstance(n, x509.DNSName)]
    _, _, parent = name.partition(".")
    return isinstance(wanted, x509.DNSName) and any(
        text.lower() == name.lower() or (fnmatchcase(text, "[*].*") and text[2:].lower() == parent.lower())
        for text in texts
    )
