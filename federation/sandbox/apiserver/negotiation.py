"""Which representation of an object a client accepts, and which content types a body may have.

Source: "Kubernetes API Concepts", sections on alternate representations and on metadata-only fetches. JSON is
all this server speaks, so a client that offers protobuf first gets its next choice.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec
import yaml

from federation.sandbox.apiserver.objects import decode
from federation.sandbox.apiserver.resources import Resource
from federation.sandbox.apiserver.status import ApiError, bad_request, not_acceptable, unsupported_media_type

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
        if kind in {View.PARTIAL.value, View.PARTIAL_LIST.value} and values.items() >= _META.items():
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
