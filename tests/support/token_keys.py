"""Token keys of clusters that have ended, for later ones: making one takes a tenth of a second."""

from __future__ import annotations

from functools import partial
from typing import Final

from federation_sandbox.apiserver.authentication import Algorithm, SigningKey

AT_ONCE: Final = 48
"""As many are made before the first is given out again: more than any test has at the same time."""


class KeysOfFormerClusters:
    """Gives out RSA keys in turn; others are made anew, which costs little."""

    def __init__(self) -> None:
        self._make = SigningKey.generate
        self._keys: list[SigningKey] = []
        self._given = 0

    def generate(self, algorithm: Algorithm) -> SigningKey:
        if algorithm != "RS256":
            return self._make(algorithm)
        self._given += 1
        if self._given <= AT_ONCE:
            self._keys.append(self._make(algorithm))
        return self._keys[self._given % AT_ONCE - 1]


def lend_token_keys() -> None:
    """Have every cluster of this process take its keys so."""
    SigningKey.generate = partial(KeysOfFormerClusters().generate)  # type: ignore[method-assign]
