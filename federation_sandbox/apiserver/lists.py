"""Lists: selectors, pages and continue tokens over one consistent revision.

Source: "Kubernetes API Concepts", "Retrieving large results sets in chunks"; token format of k8s.io/apiserver
``pkg/storage/continue.go``.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from federation_sandbox.apiserver.requests import Predicate, View, everything, field_selector, label_selector
from federation_sandbox.apiserver.resources import Resource
from federation_sandbox.apiserver.status import CONTINUE_EXPIRED, ApiError, bad_request, expired
from federation_sandbox.apiserver.store import HistoryGoneError, Obj, Store, Stored, decode, encode
from federation_sandbox.apiserver.tables import Tables


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects of a resource a request is about."""

    resource: Resource
    namespace: str
    label: Predicate
    field: Predicate

    @classmethod
    def read(cls, resource: Resource, namespace: str, query: Mapping[str, str]) -> Selection:
        """From a request's namespace and its two selectors. Raises ApiError 400."""
        label = label_selector(query.get("labelSelector", ""))
        return cls(resource, namespace, label, field_selector(resource, query.get("fieldSelector", "")))

    @property
    def selective(self) -> bool:
        """Whether any selector is set."""
        return self.label is not everything or self.field is not everything

    def takes(self, stored: Stored) -> bool:
        """Whether an object is in the selection."""
        if self.namespace and stored.namespace != self.namespace:
            return False
        return self.label(stored.value) and self.field(stored.value)


@dataclass(frozen=True, slots=True)
class _Continue:
    revision: int
    start: str  # the key of the last object returned, followed by a NUL: where the next page begins

    def encode(self) -> str:
        body = encode({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.start})
        return base64.urlsafe_b64encode(body).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> _Continue:
        try:
            body = decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            revision, start = body["rv"], body["start"]
        except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, UnicodeError, ValueError):
            raise bad_request("invalid continue token: continue key is not valid") from None
        if body.get("v") != "meta.k8s.io/v1" or not isinstance(revision, int) or not isinstance(start, str):
            raise bad_request("invalid continue token: continue key is not valid")
        return cls(revision, start.removeprefix("/"))


def _place(stored: Stored) -> str:
    return f"{stored.namespace}/{stored.name}" if stored.namespace else stored.name


def list_objects(
    store: Store, selection: Selection, query: Mapping[str, str], chosen: View, tables: Tables
) -> bytes:
    """The body of a list request. Raises ApiError: 400 for a bad parameter, 410 for an expired page."""
    limit = _number(query, "limit")
    start, revision = "", store.revision
    if token := query.get("continue"):
        after = _Continue.decode(token)
        start, revision = after.start, after.revision if after.revision > 0 else store.revision
    elif query.get("resourceVersionMatch") == "Exact":
        revision = _number(query, "resourceVersion")
    try:
        found = store.at(selection.resource, revision, selection.namespace)
    except HistoryGoneError:
        raise _expired(start) from None
    chosen_objects = [stored for stored in found if selection.takes(stored)] if selection.selective else found
    if start:
        chosen_objects = [stored for stored in chosen_objects if _place(stored) + "\0" > start]
    meta: Obj = {"resourceVersion": str(revision)}
    if limit and len(chosen_objects) > limit:
        if not selection.selective:
            meta["remainingItemCount"] = len(chosen_objects) - limit
        chosen_objects = chosen_objects[:limit]
        meta["continue"] = _Continue(revision, "/" + _place(chosen_objects[-1]) + "\0").encode()
    if chosen is View.TABLE:
        return tables.table(selection.resource, meta, (stored.value for stored in chosen_objects))
    return _body(selection.resource, meta, chosen_objects, chosen)


def _body(resource: Resource, meta: Obj, found: list[Stored], chosen: View) -> bytes:
    """Objects were encoded when they were stored; a list only joins them."""
    if chosen is View.PARTIAL_LIST:
        kind, version, items = chosen.value, "meta.k8s.io/v1", [stored.partial for stored in found]
    else:
        kind, version, items = f"{resource.kind}List", resource.api_version, [stored.raw for stored in found]
    head = encode({"kind": kind, "apiVersion": version, "metadata": meta})
    return head[:-1] + b',"items":[' + b",".join(items) + b"]}"


def _expired(start: str) -> ApiError:
    if not start:
        return expired("The resourceVersion for the provided list is too old.")
    return expired(CONTINUE_EXPIRED, continue_token=_Continue(-1, start).encode())


def _number(query: Mapping[str, str], key: str) -> int:
    text = query.get(key, "")
    if text and not text.isdecimal():
        raise bad_request(f'{key}: Invalid value: "{text}": must be a number')
    return int(text or 0)
