"""What kube-apiserver refuses of a ClusterTrustBundle, and of whom: its validation and its ``attest`` admission.

Source: k8s.io/kubernetes ``pkg/apis/certificates/validation`` (ValidateClusterTrustBundle),
``pkg/apis/core/validation/names.go`` and ``plugin/pkg/admission/certificates/ctbattest``. Text outside of PEM blocks
is allowed, as it is there.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from cryptography import x509

from federation.sandbox.apiserver.objects import Obj, is_subdomain, metadata
from federation.sandbox.apiserver.resources import CERTIFICATES, CLUSTER_TRUST_BUNDLES, Resource
from federation.sandbox.apiserver.status import forbidden, invalid_fields

MAX_BYTES: Final = 1024 * 1024  # certificates.MaxTrustBundleSize
SIGNERS: Final = "signers"

Attests = Callable[[str], bool]
"""Whether the caller may ``attest`` for a name of the resource ``signers``."""

_BLOCK: Final = re.compile(
    rb"(?:\A|(?<=\n))-----BEGIN ([^\n-]+)-----[ \t\r]*\n(.*?)-----END \1-----[ \t\r]*(?:\n|\Z)", re.DOTALL
)
_OMITTED: Final = 'Invalid value: "<value omitted>": '
_GARBAGE_COLLECTED: Final = ("ownerReferences", "finalizers", "managedFields", "resourceVersion")

_Problem = tuple[str, str]  # field, message


def is_trust_bundle(resource: Resource) -> bool:
    """Whether it is a ClusterTrustBundle of any version."""
    return resource in CLUSTER_TRUST_BUNDLES.values()


def check_create(resource: Resource, obj: Obj, attests: Attests) -> None:
    """Refuse a new object. Raises ApiError 422 or 403."""
    _refuse(resource, obj, [*_identity(obj), *_contents(obj)])
    _check_attest(resource, obj, attests)


def check_update(resource: Resource, old: Obj, new: Obj, attests: Attests) -> None:
    """Refuse a changed one: its signer stays, and its contents are read only where they change. Raises ApiError."""
    problems = list(_identity(new))
    if _spec(new).get("trustBundle") != _spec(old).get("trustBundle"):
        problems += _contents(new)
    if _signer(new) != _signer(old):
        problems.append(("spec.signerName", f'Invalid value: "{_signer(new)}": field is immutable'))
    _refuse(resource, new, problems)
    if _meaning(old) != _meaning(new):
        _check_attest(resource, new, attests)


def _check_attest(resource: Resource, obj: Obj, attests: Attests) -> None:
    signer = _signer(obj)
    if signer and not attests(signer) and not attests(f"{signer.partition('/')[0]}/*"):
        why = f'user not permitted to attest for signerName "{signer}"'
        raise forbidden(resource, metadata(obj)["name"], why)


def _refuse(resource: Resource, obj: Obj, problems: list[_Problem]) -> None:
    if problems:
        raise invalid_fields(resource.kind, CERTIFICATES, metadata(obj)["name"], problems)


def _spec(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    found = obj.get("spec")
    return found if isinstance(found, dict) else {}


def _signer(obj: Mapping[str, Any]) -> str:
    return str(_spec(obj).get("signerName") or "")


def _meaning(obj: Obj) -> Obj:
    """The object without what garbage collection and storage migration change."""
    meta = {key: value for key, value in metadata(obj).items() if key not in _GARBAGE_COLLECTED}
    return obj | {"metadata": meta}


def _identity(obj: Obj) -> Iterator[_Problem]:
    name, signer = str(metadata(obj)["name"]), _signer(obj)
    prefix = signer.replace("/", ":") + ":" if signer else ""
    where = f'Invalid value: "{name}": '
    if not signer and ":" in name:
        yield (
            "metadata.name",
            f'{where}ClusterTrustBundle without signer name must not have ":" in its name',
        )
    elif not name.startswith(prefix):
        yield (
            "metadata.name",
            f"{where}ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}",
        )
    elif not is_subdomain(name.removeprefix(prefix)):
        yield "metadata.name", f"{where}a lowercase RFC 1123 subdomain must consist of lower case characters"
    if signer:
        yield from _signer_name(signer)


def _signer_name(signer: str) -> Iterator[_Problem]:
    domain, slash, path = signer.partition("/")
    if not slash or "/" in path:
        form = "must be a fully qualified domain and path of the form 'example.com/signer-name'"
        yield "spec.signerName", f'Invalid value: "{signer}": {form}'
        return
    if "." not in domain:
        problem = "should be a domain with at least two segments separated by dots"
        yield "spec.signerName", f'Invalid value: "{domain}": {problem}'
    for segment in (domain, path):
        if not is_subdomain(segment):
            yield "spec.signerName", f'Invalid value: "{segment}": not a subdomain'


def _contents(obj: Obj) -> Iterator[_Problem]:
    field, text = "spec.trustBundle", str(_spec(obj).get("trustBundle") or "").encode()
    if len(text) > MAX_BYTES:
        yield field, f"Too long: may not be more than {MAX_BYTES} bytes"
        return
    places: defaultdict[bytes, list[int]] = defaultdict(list)
    problems = []
    for number, block in enumerate(_BLOCK.finditer(text)):
        problem, der = _entry(block[1], block[2])
        if problem:
            problems.append((field, f"{_OMITTED}entry {number} {problem}"))
        else:
            places[der].append(number)
    yield from problems
    if problems:
        return
    if not places:
        yield field, f"{_OMITTED}at least one trust anchor must be provided"
    for numbers in places.values():
        if len(numbers) > 1:
            yield field, f"{_OMITTED}duplicate trust anchor (indices [{' '.join(map(str, numbers))}])"


def _entry(label: bytes, body: bytes) -> tuple[str, bytes]:
    """What is wrong with a PEM block, and the DER where nothing is."""
    if label != b"CERTIFICATE":
        return f"has bad block type: {label.decode('ascii', 'replace')}", b""
    if b":" in body:
        return "has PEM block headers", b""
    try:
        pem = b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"
        certificate = x509.load_pem_x509_certificate(pem)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return "does not have the CA bit set", b""
    except (ValueError, Warning):
        return "does not parse as X.509", b""
    if not constraints.ca:
        return "does not have the CA bit set", b""
    return "", pem
