"""The syntax of a Kubernetes label selector, so that a wrong one is found before an API server refuses it.

Source: "Labels and Selectors" of the Kubernetes documentation and ``labels.Parse`` of apimachinery:
equality-based (``key=value``, ``key==value``, ``key!=value``) and set-based (``key in (a,b)``,
``key notin (a,b)``, ``key``, ``!key``) requirements, separated by commas that all mean "and".
"""

from __future__ import annotations

import re
from typing import Final

from federation.core.errors import InvalidValue

_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_PREFIX: Final = (
    r"(?=[^/]{1,253}/)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*/"
)
_KEY: Final = rf"(?:{_PREFIX})?{_NAME}"
_VALUE: Final = rf"(?:{_NAME})?"
_REQUIREMENT: Final = re.compile(
    rf"!\s*{_KEY}"
    rf"|{_KEY}\s*(?:==|!=|=)\s*{_VALUE}"
    rf"|{_KEY}\s+(?:in|notin)\s*\(\s*{_VALUE}\s*(?:,\s*{_VALUE}\s*)*\)"
    rf"|{_KEY}",
    re.ASCII,
)
_COMMA: Final = re.compile(r",(?![^(]*\))")  # a comma outside parentheses
_LABEL_VALUE: Final = re.compile(_VALUE, re.ASCII)
MAX_LENGTH: Final = 2048

_HOW: Final = 'write for example "mesh=on,env in (prod, stage),!legacy"'


def check_label_selector(text: str) -> str:
    """The selector as given; raises InvalidValue where an API server would refuse it. Empty selects all."""
    if len(text) > MAX_LENGTH:
        raise InvalidValue("is longer than any label selector should be", remedy=_HOW)
    if text.strip():
        for requirement in _COMMA.split(text):
            if not _REQUIREMENT.fullmatch(requirement.strip()):
                raise InvalidValue(f"{requirement.strip()[:80]!r} is not a label requirement", remedy=_HOW)
    return text.strip()


def check_label_value(text: str) -> str:
    """The value of a label, unchanged (at most 63 characters, may be empty); raises InvalidValue."""
    if not _LABEL_VALUE.fullmatch(text):
        raise InvalidValue(
            f"{text[:80]!r} is not a label value", remedy="use at most 63 letters, digits, '-', '_' and '.'"
        )
    return text
