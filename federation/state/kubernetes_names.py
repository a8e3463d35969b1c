"""Where a document is kept: the namespace that its writer alone may write to, and the name of its object.

What signers write is kept apart from what the controllers write, because RBAC cannot narrow the creation of objects
by their names: one namespace for both would let a signer write generations, and a controller horizons.

Names are the keys, readable for people::

    signers/federation-signer-7d4b9c6f5-x2x8q   federation.signers.federation-signer-7d4b9c6f5-x2x8q
    generations/000000000012                    federation.generations.000000000012

A ``/`` becomes a dot. What else a key may hold and an object's name may not (RFC 1123 subdomains) is written with
``y``, which is itself doubled, so that every name stands for one key.
"""

from __future__ import annotations

import re
from typing import Final

from federation.core.errors import InvalidValue

PREFIX: Final = "federation."
"""Other things put ConfigMaps into every namespace: ``kube-root-ca.crt``, ``istio-ca-root-cert``."""

SIGNERS_SUFFIX: Final = "-signers"
"""What the namespace of the signers' documents is called after the name of the controllers' one."""

MAX_KEY: Final = 200  # as in the file store
MAX_NAME: Final = 253  # RFC 1123 subdomains, as Kubernetes limits them
MAX_NAMESPACE: Final = 63 - len(SIGNERS_SUFFIX)

_OF_SIGNERS: Final = ("signers/", "horizons/", "callers/", "pins/")
_SEGMENT: Final = r"[a-z0-9_-][a-z0-9._-]*"
_KEY: Final = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT})*", re.ASCII)
_NAMESPACE: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_ESCAPES: Final = {"y": "yy", ".": "yd", "_": "yu"}
_HYPHEN: Final = "yh"  # at either end of a segment, where a name may have none
_CHARACTERS: Final = {code: character for character, code in {**_ESCAPES, "-": _HYPHEN}.items()}
_ESCAPED: Final = re.compile("y(.?)")


class Namespaces:
    """The two namespaces of one store. Raises InvalidValue where ``namespace`` is no name for one."""

    def __init__(self, namespace: str) -> None:
        if not _NAMESPACE.fullmatch(namespace) or len(namespace) > MAX_NAMESPACE:
            raise InvalidValue(
                f"{namespace[:80]!r} is not the namespace of a state store",
                remedy=f"name one of at most {MAX_NAMESPACE} characters of a-z, 0-9 and '-'",
            )
        self.controllers: Final = namespace
        self.signers: Final = namespace + SIGNERS_SUFFIX

    def of(self, key: str) -> str:
        """Where the document of that key is."""
        return self.signers if key.startswith(_OF_SIGNERS) else self.controllers

    def below(self, prefix: str) -> tuple[str, ...]:
        """Where documents whose keys begin so may be."""
        if prefix.startswith(_OF_SIGNERS):
            return (self.signers,)
        if any(start.startswith(prefix) for start in _OF_SIGNERS):
            return (self.controllers, self.signers)
        return (self.controllers,)


def object_name(key: str) -> str:
    """The name of the key's object. Raises InvalidValue for what is not a key, or makes too long a name."""
    if len(key) > MAX_KEY or not _KEY.fullmatch(key):
        raise InvalidValue(f"{key[:80]!r} is not the key of a document")
    name = PREFIX + ".".join(map(_label, key.split("/")))
    if len(name) > MAX_NAME:
        raise InvalidValue(f"{key[:80]!r} makes a name of more than {MAX_NAME} characters")
    return name


def key_of(name: str) -> str | None:
    """The key whose object is named so; None where that is no name of ours."""
    if not name.startswith(PREFIX):
        return None
    segments = name.removeprefix(PREFIX).split(".")
    key = "/".join(_ESCAPED.sub(lambda m: _CHARACTERS.get(m[0], "?"), segment) for segment in segments)
    try:
        return key if object_name(key) == name else None
    except InvalidValue:
        return None


def _label(segment: str) -> str:
    middle = segment.strip("-")
    if not middle:
        return _HYPHEN * len(segment)
    start = len(segment) - len(segment.lstrip("-"))
    end = len(segment) - start - len(middle)
    return _HYPHEN * start + "".join(_ESCAPES.get(c, c) for c in middle) + _HYPHEN * end
