"""What a request asks for: verb, resource and names, selectors, and the representations its client accepts.

Verb, resource and names are what authorization, faults and routing all go by. Source: k8s.io/apiserver
``pkg/endpoints/request/requestinfo.go``.

Label and field selectors are predicates over objects. Source: "Labels and Selectors" and "Field Selectors" in the
Kubernetes documentation.

Negotiation chooses the representation of an object, and says which content types a body may have. Source: "Kubernetes
API Concepts", sections on alternate representations and on metadata-only fetches. JSON is all this server writes, so
a client that offers protobuf first gets its next choice; what kubectl and API servers send in protobuf is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
import yaml

from federation_sandbox.apiserver.protobuf import PROTOBUF, READABLE, read_protobuf
from federation_sandbox.apiserver.resources import Resource
from federation_sandbox.apiserver.status import ApiError, bad_request, not_acceptable, unsupported_media_type
from federation_sandbox.apiserver.store import decode, labels

Predicate = Callable[[Mapping[str, Any]], bool]

_KEY = r"(?:[A-Za-z0-9.-]+/)?[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_SET = re.compile(rf"({_KEY})\s+(in|notin)\s+\(([^()]*)\)")
_EQUAL = re.compile(rf"({_KEY})\s*(==|=|!=)\s*([A-Za-z0-9._-]*)")
_EXISTS = re.compile(rf"(!?)\s*({_KEY})")
_COMMA = re.compile(r",(?![^(]*\))")


def everything(_: Mapping[str, Any]) -> bool:
    """The empty selector."""
    return True


def label_selector(text: str) -> Predicate:
    """Parse a label selector. Raises ApiError 400."""
    terms = [_label_term(term.strip()) for term in _COMMA.split(text)] if text.strip() else []
    return _all(terms)


def _label_term(term: str) -> Predicate:
    if match := _SET.fullmatch(term):
        key, values = match[1], frozenset(value.strip() for value in match[3].split(","))
        if match[2] == "in":
            return lambda obj: labels(obj).get(key) in values
        return lambda obj: labels(obj).get(key) not in values
    if match := _EQUAL.fullmatch(term):
        key, value = match[1], match[3]
        if match[2] == "!=":
            return lambda obj: labels(obj).get(key) != value
        return lambda obj: labels(obj).get(key) == value
    if match := _EXISTS.fullmatch(term):
        key, absent = match[2], bool(match[1])
        return lambda obj: (key in labels(obj)) is not absent
    raise bad_request(f"unable to parse requirement: {term!r}")


def field_terms(text: str) -> list[tuple[str, str, str]]:
    """A field selector as (field, ``=`` or ``!=``, value). Raises ApiError 400."""
    terms = []
    for term in filter(None, (part.strip() for part in text.split(","))):
        field, operator, value = term.partition("!=") if "!=" in term else term.partition("=")
        if not operator:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        terms.append((field, operator, value.removeprefix("=")))
    return terms


def field_selector(resource: Resource, text: str) -> Predicate:
    """Parse a field selector over the fields this resource supports. Raises ApiError 400."""
    predicates = []
    for field, operator, value in field_terms(text):
        if field not in resource.selectable | {"metadata.name", "metadata.namespace"}:
            raise bad_request(
                f'"{field}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            )
        predicates.append(_field_term(tuple(field.split(".")), value, negated=operator == "!="))
    return _all(predicates)


def _field_term(path: tuple[str, ...], value: str, *, negated: bool) -> Predicate:
    def matches(obj: Mapping[str, Any]) -> bool:
        found: Any = obj
        for step in path:
            found = found.get(step, "") if isinstance(found, dict) else ""
        return (found == value) is not negated

    return matches


def _all(predicates: list[Predicate]) -> Predicate:
    if not predicates:
        return everything
    if len(predicates) == 1:
        return predicates[0]
    return lambda obj: all(predicate(obj) for predicate in predicates)


_COLLECTION_VERBS = {"GET": "list", "POST": "create", "DELETE": "deletecollection"}
_OBJECT_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_SUBRESOURCES = frozenset({"status", "finalize"})
_TRUE = frozenset({"1", "true", "True"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestInfo:
    """One request, read. ``resource`` is empty for a path outside the resource API, such as ``/version``."""

    path: str
    verb: str
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    collection: bool = False
    field_selector: str = ""

    @property
    def full_resource(self) -> str:
        """``pods`` or ``pods/status``, as RBAC rules name it."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


def is_true(query: Mapping[str, str], key: str) -> bool:
    """Whether a boolean query parameter is set."""
    return query.get(key, "") in _TRUE


def read_request(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """What a method, a path and a query ask for; what makes no sense is a non-resource request."""
    parts = [part for part in path.split("/") if part]
    if parts[:1] == ["api"] and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[:1] == ["apis"] and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return RequestInfo(path=path, verb=method.lower())
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    collection = not name
    verb = (_COLLECTION_VERBS if collection else _OBJECT_VERBS).get(method, method.lower())
    if verb == "list" and is_true(query, "watch"):
        verb = "watch"
    if verb in {"list", "watch", "deletecollection"}:
        name = _selected_name(query.get("fieldSelector", ""))
    return RequestInfo(
        path=path,
        verb=verb,
        group=group,
        version=version,
        namespace=namespace,
        resource=resource,
        subresource=subresource,
        name=name,
        collection=collection,
        field_selector=query.get("fieldSelector", ""),
    )


def _selected_name(selector: str) -> str:
    """The one name a field selector asks for: ``resourceNames`` applies to such lists and watches too."""
    try:
        names = [
            value
            for field, operator, value in field_terms(selector)
            if (field, operator) == ("metadata.name", "=")
        ]
    except ApiError:
        return ""
    return names[0] if len(names) == 1 else ""


JSON = "application/json"
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
JWK_SET = "application/jwk-set+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"

_META = {"g": "meta.k8s.io", "v": "v1"}


class View(Enum):
    """How objects are shown."""

    OBJECT = "object"
    PARTIAL = "PartialObjectMetadata"
    PARTIAL_LIST = "PartialObjectMetadataList"
    TABLE = "Table"


_KINDS_OF_VIEWS = frozenset({View.PARTIAL.value, View.PARTIAL_LIST.value, View.TABLE.value})


def view(accept: str) -> View:
    """The first representation in an Accept header that this server has. Raises ApiError 406."""
    for offer in accept.split(",") if accept.strip() else ("*/*",):
        media, *parameters = (part.strip() for part in offer.split(";"))
        if media not in {JSON, "application/*", "*/*"}:
            continue
        values = dict(parameter.partition("=")[::2] for parameter in parameters)
        kind = values.get("as")
        if kind is None:
            return View.OBJECT
        if kind in _KINDS_OF_VIEWS and values.items() >= _META.items():
            return View(kind)
    raise not_acceptable(f"only the following media types are accepted: {JSON}")


def check_document(accept: str, media: str) -> None:
    """Refuse a document outside the resource API to clients that do not accept its type. Raises ApiError 406.

    ``/openid/v1/jwks`` is ``application/jwk-set+json`` and nothing else, so plain JSON alone is refused there.
    """
    offers = {offer.partition(";")[0].strip() for offer in accept.split(",")} if accept.strip() else {"*/*"}
    if not offers & {media, "*/*"}:
        message = f"406: Not Acceptable\n\nAvailable representations: {media}"
        raise ApiError(406, "NotAcceptable", message, details={})


def check_view(chosen: View, resource: Resource, *, is_list: bool) -> None:
    """Refuse the metadata of one object where a list is asked for, and the reverse. Raises ApiError 406."""
    if chosen is View.PARTIAL and is_list:
        what = f"the requested object is a list (*core.{resource.kind}List)"
        raise not_acceptable(f"you requested PartialObjectMetadata, but {what}")
    if chosen is View.PARTIAL_LIST and not is_list:
        what = f"the requested object is not a list (*core.{resource.kind})"
        raise not_acceptable(f"you requested PartialObjectMetadataList, but {what}")


def media_type(content_type: str) -> str:
    """A Content-Type without its parameters; JSON where there is none."""
    return content_type.partition(";")[0].strip().lower() or JSON


def read_json(raw: bytes, what: str) -> Any:
    """A JSON body. Raises ApiError 400."""
    try:
        return decode(raw)
    except (msgspec.DecodeError, RecursionError) as why:
        raise bad_request(
            f"the object provided is unrecognized (must be of type {what}): json parse error: {why}"
        ) from None


def read_object(raw: bytes, content_type: str, what: str) -> Any:
    """The body of a POST or PUT. Raises ApiError 400 or 415."""
    if media_type(content_type) == PROTOBUF and what in READABLE:
        return read_protobuf(raw, what)
    if media_type(content_type) not in {JSON, "application/yaml"}:
        raise unsupported_media_type()
    return read_apply(raw) if media_type(content_type) == "application/yaml" else read_json(raw, what)


def read_apply(raw: bytes) -> dict[str, Any]:
    """An applied configuration: YAML, of which JSON is the usual and quicker case. Raises ApiError 400."""
    config: Any
    try:
        config = decode(raw)
    except (msgspec.DecodeError, RecursionError):
        try:
            config = yaml.safe_load(raw)
        except (yaml.YAMLError, RecursionError):
            raise bad_request("error decoding YAML") from None
    if not isinstance(config, dict):
        raise bad_request("error decoding YAML: not an object")
    if not isinstance(config.get("apiVersion"), str) or not isinstance(config.get("kind"), str):
        raise ApiError(400, "BadRequest", "invalid object type: /, Kind=")
    if not isinstance(config.setdefault("metadata", {}), dict):
        raise bad_request("metadata must be an object")
    return config
