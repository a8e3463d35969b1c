"""Paths from a certificate to an anchor: found, judged by RFC 5280, and cut into Istio's shape.

This is the hub's own validation, strict and with precise words, used to explain a failed proof and to judge
what a back end returned. Handshakes are still made by real TLS stacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509

from federation.core.errors import InvalidValue
from federation.core.pki.certificate import Certificate, pem_encode
from federation.core.pki.path_rules import PathFault, Purpose, check_path, name

MAX_PATH: Final = 8
"""Certificates on one path; a mesh has three or four."""

MAX_SIGNATURE_CHECKS: Final = 128
"""Bounds what a chain made to branch can cost (CVE-2018-16875 was a verifier without such a bound)."""


def build_chain(
    certificate: Certificate, intermediates: Iterable[Certificate], anchors: Iterable[Certificate]
) -> tuple[Certificate, ...]:
    """The shortest way from ``certificate`` by ``intermediates`` to an anchor, both ends included.

    Only names, key identifiers and signatures count here; :func:`verify_chain` judges the rest. Raises
    InvalidValue that says where the way ends.
    """
    search = _Search(tuple(intermediates), tuple(anchors))
    paths = sorted(search.paths(certificate), key=len)
    if not paths:
        raise _error(search.dead_end)
    return paths[0]


def verify_chain(
    chain: Sequence[Certificate],
    anchors: Iterable[Certificate],
    at: datetime,
    *,
    purpose: Purpose = Purpose.BOTH,
    partial: bool = True,
) -> tuple[Certificate, ...]:
    """Validate the first certificate of ``chain`` for ``purpose`` at that time; the path taken, anchor last.

    The others may come in any order, and more than are needed. With ``partial`` an intermediate among the
    anchors ends a path, as it does in Envoy; without it only a self-signed anchor does. Judged are
    signatures, names and key identifiers, validity, CA bit, path length, key usages, name constraints,
    critical extensions and the algorithms of keys and signatures, for every certificate and the anchor too. Raises
    InvalidValue with the reason of the path that came closest: ``no_anchor``, ``bad_signature``, ``expired``,
    ``not_yet_valid``, ``not_ca``, ``is_ca``, ``no_subject``, ``path_length``, ``key_usage``,
    ``extended_key_usage``, ``name_constraints``, ``critical_extension``, ``serial``, ``weak_key``,
    ``weak_signature``, ``name_encoding``, ``other_issuer``, ``uncommon_form``, ``too_large``,
    ``too_complex`` or ``empty_chain``.
    """
    if not chain:
        raise InvalidValue("the chain is empty", reason="empty_chain")
    ends = tuple(anchor for anchor in anchors if partial or anchor.is_self_signed)
    search = _Search(tuple(chain[1:]), ends)
    closest: PathFault | None = None
    for path in search.paths(chain[0]):
        problem = check_path(path, at, purpose)
        if problem is None:
            return path
        closest = closest or problem
    raise _error(closest or search.dead_end)


def single_chain(certificates: Sequence[Certificate]) -> tuple[Certificate, ...]:
    """The certificates, of any order and with duplicates, as the one chain they form, each before its issuer.

    Raises InvalidValue where they are none, fork, or leave a gap: what a back end returned is then not a
    chain.
    """
    distinct = tuple(dict.fromkeys(certificates))
    if len(distinct) > MAX_PATH:
        raise InvalidValue(f"{len(distinct)} certificates are more than a chain has", reason="broken_chain")
    issuers = {c: [i for i in distinct if i != c and _is_issued_by(c, i)] for c in distinct}
    issued = {issuer for above in issuers.values() for issuer in above}
    first = [c for c in distinct if c not in issued]
    if len(first) != 1 or any(len(above) > 1 for above in issuers.values()):
        raise InvalidValue(
            f"these {len(distinct)} certificates do not form one chain: they are forked or belong to several",
            reason="broken_chain",
        )
    ordered = [first[0]]
    while issuers[ordered[-1]] and len(ordered) <= len(distinct):
        ordered.append(issuers[ordered[-1]][0])
    if len(ordered) != len(distinct):
        raise InvalidValue(
            "the certificates do not form one chain: there is a gap or a ring", reason="broken_chain"
        )
    return tuple(ordered)


def cert_chain_elements(
    leaf_der: bytes, intermediates: Iterable[Certificate], bundle_pem: bytes
) -> list[bytes]:
    """The ``cert_chain`` of a reply, in exactly the shape of istio-csr.

    The leaf, then one intermediate per element, self-signed ones left out, then the whole bundle as the last
    element: sidecars take their roots from the last element only, and ztunnel reads one certificate from each
    other.
    """
    below_root = [c.pem for c in intermediates if not c.is_self_signed]
    return [pem_encode(leaf_der, "CERTIFICATE").encode("ascii"), *below_root, bundle_pem]


@dataclass
class _Search:
    """A bounded depth-first search for paths, anchors first, which remembers where it got stuck."""

    intermediates: tuple[Certificate, ...]
    anchors: tuple[Certificate, ...]
    dead_end: PathFault = field(init=False)
    _depth: int = field(default=-1, init=False)
    _checks: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.dead_end = PathFault("no_anchor", "there is no anchor to validate against")

    def paths(self, certificate: Certificate) -> Iterator[tuple[Certificate, ...]]:
        """Every path from the certificate to an anchor, each certificate at most once."""
        yield from self._extend((certificate,))

    def _extend(self, path: tuple[Certificate, ...]) -> Iterator[tuple[Certificate, ...]]:
        last = path[-1]
        if last in self.anchors:
            yield path
        if len(path) >= MAX_PATH:
            return
        impostor: Certificate | None = None
        other: Certificate | None = None
        extended = last in self.anchors
        candidates = dict.fromkeys((*self.anchors, *self.intermediates))
        for candidate in candidates:
            if candidate in path or not _names_issuer(last, candidate):
                continue
            if not _identifies(last, candidate):
                other = candidate
                continue
            self._checks += 1
            if self._checks > MAX_SIGNATURE_CHECKS:
                self.dead_end = PathFault("too_complex", "the chain branches into more paths than are tried")
                self._depth = MAX_PATH
                return
            if _is_issued_by(last, candidate):
                extended = True
                yield from self._extend((*path, candidate))
            elif last.authority_key_id in {"", candidate.key_id}:
                impostor = candidate
        if not extended and len(path) > self._depth:
            self._depth = len(path)
            self.dead_end = _dead_end(last, impostor, other)


@lru_cache(maxsize=64)
def _is_issued_by(certificate: Certificate, candidate: Certificate) -> bool:
    """:meth:`Certificate.is_signed_by`, remembered for a moment: for a leaf it is called twice in a row.

    Different texts of names are different names, which shows without touching the signature.
    """
    return certificate.issuer == candidate.subject and certificate.is_signed_by(candidate)


def _names_issuer(certificate: Certificate, candidate: Certificate) -> bool:
    """True where the name of the certificate's issuer is the candidate's."""
    if certificate.issuer != candidate.subject:  # the texts, which are compared far faster than the names
        return False
    return certificate.x509.issuer == candidate.x509.subject


def _identifies(certificate: Certificate, candidate: Certificate) -> bool:
    """True where nothing in the certificate's authority key identifier contradicts (RFC 5280, 4.2.1.1).

    BoringSSL and OpenSSL compare all of it: a key identifier with the candidate's where that has one, and the serial
    number and issuer of the candidate where they are given. Go and rustls consider none of it.
    """
    identifier = certificate.extension(x509.AuthorityKeyIdentifier)
    if identifier is None:
        return True
    own = candidate.extension(x509.SubjectKeyIdentifier)
    if identifier.key_identifier is not None and own is not None and identifier.key_identifier != own.digest:
        return False
    number = identifier.authority_cert_serial_number
    if number is not None and number != candidate.serial:
        return False
    names = [name for name in identifier.authority_cert_issuer or () if isinstance(name, x509.DirectoryName)]
    return not names or names[0].value == candidate.x509.issuer


def _dead_end(certificate: Certificate, impostor: Certificate | None, other: Certificate | None) -> PathFault:
    if impostor is not None and certificate.is_signed_by_key_of(impostor):
        return PathFault(
            "name_encoding",
            f"{name(certificate)} was signed by {impostor.subject}, and names it in another string type than that CA's"
            " certificate does: most verifiers take that for another name",
        )
    if impostor is not None:
        return PathFault(
            "bad_signature",
            f"{name(certificate)} was not signed by the key of {impostor.subject} (key id {impostor.key_id}),"
            " which bears the name of its issuer",
        )
    if other is not None and certificate.is_signed_by(other):
        return PathFault(
            "other_issuer",
            f"{name(certificate)} was signed by the key of {other.subject}, and its authority key identifier names"
            " another certificate of that CA than the one that is here: BoringSSL does not accept that",
        )
    if certificate.is_self_signed:
        return PathFault(
            "no_anchor",
            f"no path to an anchor: the root {certificate.subject} (key id {certificate.key_id})"
            " is not in the bundle",
        )
    return PathFault(
        "no_anchor",
        f"no path to an anchor: the issuer {certificate.issuer or 'without a name'}"
        f" (key id {certificate.authority_key_id or 'not given'}) is not in the bundle",
    )


def _error(problem: PathFault) -> InvalidValue:
    return InvalidValue(problem.what, reason=problem.reason)
