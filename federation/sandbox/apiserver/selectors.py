"""Label and field selectors as predicates over objects.

Source: "Labels and Selectors" and "Field Selectors" in the Kubernetes documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from federation.sandbox.apiserver.objects import labels
from federation.sandbox.apiserver.resources import Resource
from federation.sandbox.apiserver.status import bad_request

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
