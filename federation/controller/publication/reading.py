"""What other writers put into a member's objects, taken apart beside everything else and within bounds.

Whoever may write one ConfigMap chooses what the hub has to parse and whose signatures it has to verify. So a content
that is not the hub's is read by a task of its own, a few certificates at a time, charged to that member. Until it is
read nobody waits for it: it counts as not known, which overwrites nothing that may have to stay and opens no gate. Of
contents that change faster than they are read, those that are held now come first and the oldest others are left out.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from federation.clusters.budget import CpuBudget
from federation.controller.publication.config_map import Contents
from federation.core.errors import ClusterOverBudget, InvalidValue
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import der_blocks, parse_certificates

MOST_READ: Final = 64
"""Different contents of one member that are kept read at a time, and as many that wait."""

MOST_CERTIFICATES: Final = 2048
"""In all of these together: a few tens of megabytes."""

_PEM: Final = b"-----BEGIN"


@dataclass(frozen=True, slots=True)
class ReadContent:
    """``certificates`` are all of it; where not all can be read, none: ``problem`` says why, ``readable`` are some."""

    certificates: tuple[Certificate, ...]
    problem: str = ""
    readable: tuple[Certificate, ...] = ()
    has_pem: bool = True


class Reading:
    """The contents of one member that are not the hub's. ``held`` are the digests that it holds now."""

    def __init__(
        self,
        contents: Contents,
        *,
        where: str,
        budget: CpuBudget,
        held: Callable[[], Collection[str]],
        on_read: Callable[[str, tuple[str, str]], None],
    ) -> None:
        """``on_read`` is called with each that was read, and where it was first seen."""
        self._contents = contents
        self._where = where
        self._budget = budget
        self._held = held
        self._on_read = on_read
        self._read: OrderedDict[str, ReadContent] = OrderedDict()
        self._waiting: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._work = asyncio.Event()
        self._too_many = 0

    def of(self, digest: str, *, seen: tuple[str, str] = ("", "")) -> ReadContent | None:
        """The content; None while it is not read, which is then done soon.

        ``seen`` is where it is, in words and by the name of the namespace.
        """
        found = self._read.get(digest)
        if found is None and digest not in self._waiting and digest in self._contents:
            self._waiting[digest] = seen
            if len(self._waiting) > MOST_READ:
                self._waiting.popitem(last=False)  # if it is still held, it is asked for again
            self._work.set()
        return found

    @property
    def problem(self) -> ClusterOverBudget | None:
        """That it holds more than is read of one member, None where it does not."""
        if not self._too_many:
            return None
        return ClusterOverBudget(
            f"{self._too_many} more different contents of other writers than the {MOST_READ} contents with "
            f"{MOST_CERTIFICATES} certificates that are read of one cluster at a time",
            where=self._where,
            remedy="find what writes the bundle's ConfigMap in so many different ways; no other cluster is affected",
        )

    async def run(self) -> None:
        """Read what waits, until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            held = frozenset(self._held())
            self._too_many = 0
            while self._waiting:
                digest, seen = self._next(held)
                if self._is_full(held):
                    self._too_many = sum(waits in held for waits in self._waiting) + 1
                    self._waiting.clear()  # asked for again with the next look at what is held
                    break
                await self._take_apart(digest, seen)
                held = frozenset(self._held())

    def _next(self, held: Collection[str]) -> tuple[str, tuple[str, str]]:
        digest = next((waits for waits in self._waiting if waits in held), next(iter(self._waiting)))
        return digest, self._waiting.pop(digest)

    def _is_full(self, held: Collection[str]) -> bool:
        """Whether there is no room for another one, after those were forgotten that are held no longer."""

        def full() -> bool:
            count = sum(len(read.readable) for read in self._read.values())
            return len(self._read) >= MOST_READ or count >= MOST_CERTIFICATES

        for digest in [digest for digest in self._read if digest not in held]:
            if not full():
                return False
            del self._read[digest]
        return full()

    async def _take_apart(self, digest: str, seen: tuple[str, str]) -> None:
        pem = self._contents.get(digest)
        if pem is None:
            return
        known: dict[bytes, Certificate] = {}
        for der in der_blocks(pem):
            with self._budget.charged():
                if der not in known:
                    try:
                        certificate = known[der] = Certificate.from_der(der)
                        _ = certificate.is_ca and certificate.is_self_signed  # remembered by the value
                    except InvalidValue:
                        pass
            await self._budget.turn()
        with self._budget.charged():
            self._read[digest] = _whole(pem, known)
            self._on_read(digest, seen)
        await self._budget.turn()


def _whole(pem: bytes, known: dict[bytes, Certificate]) -> ReadContent:
    try:
        certificates = parse_certificates(pem, where="", known=known)
    except InvalidValue as error:
        readable = tuple(known[der] for der in der_blocks(pem) if der in known)
        return ReadContent((), str(error), readable, _PEM in pem)
    return ReadContent(certificates, "", certificates)
