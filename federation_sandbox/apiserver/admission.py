"""What the server adds to objects and refuses of them: defaults, type rules and namespace life cycle.

Only the rules that the hub and its workloads can run into are here. Of a ClusterTrustBundle, and of who writes it,
what kube-apiserver refuses: its validation and its ``attest`` admission. Source: k8s.io/kubernetes
``pkg/apis/certificates/validation`` (ValidateClusterTrustBundle), ``pkg/apis/core/validation/names.go`` and
``plugin/pkg/admission/certificates/ctbattest``. Text outside of PEM blocks is allowed, as it is there.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from cryptography import x509

from federation_sandbox.apiserver.authentication import User
from federation_sandbox.apiserver.resources import (
    CERTIFICATE_SIGNING_REQUESTS,
    CERTIFICATES,
    CLUSTER_TRUST_BUNDLES,
    CONFIG_MAPS,
    NAMESPACES,
    PODS,
    SECRETS,
    SERVICE_ACCOUNTS,
    Resource,
)
from federation_sandbox.apiserver.status import (
    bad_request,
    forbidden,
    invalid,
    invalid_fields,
    namespace_terminating,
    not_found,
)
from federation_sandbox.apiserver.store import Obj, Store, is_subdomain, metadata

MAX_DATA_BYTES: Final = 1024 * 1024  # core/v1 MaxSecretSize: the sum of all values of a ConfigMap or Secret

_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
_LABEL_KEY: Final = re.compile(r"([a-z0-9][a-z0-9.-]{0,252}/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")

_POD_DEFAULTS: Final[Obj] = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "securityContext": {},
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
}
_CONTAINER_DEFAULTS: Final[Obj] = {
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
    "imagePullPolicy": "Always",
}


def check_namespace(store: Store, resource: Resource, namespace: str, name: str) -> None:
    """Refuse creation where the namespace is missing (404) or being deleted (403)."""
    found = store.get(NAMESPACES, "", namespace)
    if found is None:
        raise not_found(NAMESPACES, namespace)
    if "deletionTimestamp" in metadata(found.value):
        raise namespace_terminating(resource, name, namespace)


def prepare_create(store: Store, resource: Resource, obj: Obj, user: User) -> None:
    """Fill in what the server decides about a new object. Raises ApiError."""
    if resource.has_status:
        obj.pop("status", None)
    if resource == NAMESPACES:
        obj.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
        obj["status"] = {"phase": "Active"}
    elif resource == PODS:
        _prepare_pod(store, obj)
    elif resource == CERTIFICATE_SIGNING_REQUESTS:
        spec = obj.setdefault("spec", {})
        _check_request(metadata(obj)["name"], spec.get("request"))
        spec |= {"username": user.name, "groups": list(user.groups)} | ({"uid": user.uid} if user.uid else {})
        obj["status"] = {}


def prepare(resource: Resource, obj: Obj) -> None:
    """Fill in and check what holds for every write. Raises ApiError."""
    if resource == NAMESPACES:
        metadata(obj).setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata(obj)["name"]
    elif resource in {CONFIG_MAPS, SECRETS}:
        _check_data(resource, obj)
        if resource == SECRETS:
            obj.setdefault("type", "Opaque")
            for key, value in obj.pop("stringData", {}).items():
                obj.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
    _check_strings(resource, metadata(obj), "labels")
    _check_strings(resource, metadata(obj), "annotations")
    _check_labels(resource, metadata(obj))


def keep_status(resource: Resource, old: Obj, new: Obj) -> None:
    """A write of the main resource leaves the status as it was; namespaces keep their finalizers as well."""
    if resource.has_status:
        if "status" in old:
            new["status"] = old["status"]
        else:
            new.pop("status", None)
    if resource == NAMESPACES:
        new["spec"] = old.get("spec", {})


def _prepare_pod(store: Store, obj: Obj) -> None:
    spec = obj.get("spec")
    name, namespace = metadata(obj)["name"], metadata(obj)["namespace"]
    if not isinstance(spec, dict) or not isinstance(spec.get("containers"), list) or not spec["containers"]:
        raise invalid("Pod", "", name, "spec.containers", "Required value", reason="FieldValueRequired")
    account = str(spec.get("serviceAccountName") or spec.get("serviceAccount") or "default")
    spec["serviceAccountName"] = account
    spec["serviceAccount"] = account
    if store.get(SERVICE_ACCOUNTS, namespace, account) is None:
        why = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise forbidden(PODS, name, why)
    for key, value in _POD_DEFAULTS.items():
        spec.setdefault(key, value)
    for container in spec["containers"]:
        for key, value in _CONTAINER_DEFAULTS.items():
            container.setdefault(key, value)
    obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}


def _check_request(name: str, request: Any) -> None:
    """``spec.request`` is base64 of a PEM-encoded PKCS #10 request (certificates/v1)."""
    try:
        x509.load_pem_x509_csr(base64.b64decode(str(request), validate=True))
    except ValueError:
        problem = "Invalid value: PEM block type must be CERTIFICATE REQUEST"
        resource = CERTIFICATE_SIGNING_REQUESTS
        raise invalid(resource.kind, resource.group, name, "spec.request", problem) from None


def _check_strings(resource: Resource, parent: Obj, field: str) -> None:
    values = parent.get(field)
    if values is None:
        parent.pop(field, None)
    elif not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise _wrong_type(resource, f"metadata.{field}")


def _check_labels(resource: Resource, meta: Obj) -> None:
    for key, value in meta.get("labels", {}).items():
        if not _LABEL_KEY.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
            problem = f'Invalid value: "{key}={value}": not a label'
            raise invalid(resource.kind, resource.group, meta["name"], "metadata.labels", problem)


def _check_data(resource: Resource, obj: Obj) -> None:
    for field in ("data", "binaryData", "stringData"):
        values: Any = obj.get(field)
        if values is None:
            obj.pop(field, None)
        elif not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise _wrong_type(resource, field)
    size = sum(
        len(value.encode()) for field in ("data", "binaryData") for value in obj.get(field, {}).values()
    )
    if size > MAX_DATA_BYTES:
        problem = f"Too long: may not be more than {MAX_DATA_BYTES} bytes"
        raise invalid(resource.kind, "", metadata(obj)["name"], "", problem, reason="FieldValueTooLong")


def _wrong_type(resource: Resource, field: str) -> Exception:
    return bad_request(
        f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: json: '
        f"cannot unmarshal into Go struct field {resource.kind}.{field} of type string"
    )


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
