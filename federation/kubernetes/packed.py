"""Watched objects kept as bytes: a fifth of the memory that objects of Python take.

A signer watches every pod and service account of the mesh, a million in a large one, and looks at one of them for a
certificate. So they are kept as MessagePack in small groups, and a group is decoded when one of its objects is wanted.
Which group an object is in follows from the hash of its key; which object it is follows from its namespace and name
themselves, so that two keys of one hash are still two objects. Python's hash of text is seeded anew in each process
(PEP 456): what a member cluster calls its objects cannot fill one group.

Groups grow in number one at a time (linear hashing, Litwin 1980): a table that doubles at once would stop the loop for
a fifth of a second where a cluster has 150,000 pods.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, MutableMapping, ValuesView
from typing import Final, TypeVar

import msgspec

from federation.kubernetes.objects import ObjectKey, ObjectMeta

MEAN: Final = 4
"""Objects of a group, on average: more would save a few bytes for each, and cost time at each look."""

FIRST: Final = 8  # groups of an empty table

M = TypeVar("M", bound=ObjectMeta)


class PackedObjects(MutableMapping[ObjectKey, M]):
    """Objects of one kind by their keys. What is read is a copy, equal to what was put in."""

    def __init__(self, kind: type[M]) -> None:
        self._encode = msgspec.msgpack.Encoder().encode
        self._decode: Callable[[bytes], list[M]] = msgspec.msgpack.Decoder(list[kind]).decode  # type: ignore[valid-type]
        self._groups = [b""] * FIRST
        self._round = FIRST  # groups at the beginning of this round of splits: a power of two
        self._count = 0

    @property
    def groups(self) -> int:
        """How many there are."""
        return len(self._groups)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: ObjectKey) -> M:
        namespace, name = key
        group = self._groups[self._group_of(key)]
        for value in self._decode(group) if group else ():
            if value.name == name and value.namespace == namespace:
                return value
        raise KeyError(key)

    def __setitem__(self, key: ObjectKey, value: M) -> None:
        if _key_of(value) != key:
            raise ValueError(f"{value.namespace}/{value.name} cannot be kept as {key}")
        index = self._group_of(key)
        before = self._unpacked(index)
        values = [other for other in before if _key_of(other) != key]
        self._count += len(values) == len(before)
        self._groups[index] = self._packed([*values, value])
        if self._count > MEAN * len(self._groups):
            self._split()

    def __delitem__(self, key: ObjectKey) -> None:
        index = self._group_of(key)
        before = self._unpacked(index)
        values = [other for other in before if _key_of(other) != key]
        if len(values) == len(before):
            raise KeyError(key)
        self._count -= 1
        self._groups[index] = self._packed(values)

    def __iter__(self) -> Iterator[ObjectKey]:
        return (_key_of(value) for value in self.each())

    def values(self) -> ValuesView[M]:
        """As those of a dict; going through them is as :meth:`each`."""
        return _Values(self)

    def items(self) -> ItemsView[ObjectKey, M]:
        """As those of a dict; going through them is as :meth:`each`."""
        return _Items(self)

    def each(self) -> Iterator[M]:
        """All objects that are there now: what changes while they are gone through does not show."""
        groups = tuple(self._groups)
        return (value for group in groups if group for value in self._decode(group))

    def _group_of(self, key: ObjectKey) -> int:
        number = hash(key)
        index = number & (2 * self._round - 1)
        return index if index < len(self._groups) else number & (self._round - 1)

    def _unpacked(self, index: int) -> list[M]:
        group = self._groups[index]
        return self._decode(group) if group else []

    def _packed(self, values: list[M]) -> bytes:
        # A copy: the encoder's own answer keeps the room that it was made with.
        return bytes(memoryview(self._encode(values))) if values else b""

    def _split(self) -> None:
        """Add one group, with a part of what is in the next one of this round."""
        index = len(self._groups) - self._round
        values = self._unpacked(index)
        self._groups.append(b"")
        stay: list[M] = []
        go: list[M] = []
        for value in values:
            moved = self._group_of(_key_of(value)) != index
            (go if moved else stay).append(value)
        self._groups[index], self._groups[-1] = self._packed(stay), self._packed(go)
        if len(self._groups) == 2 * self._round:
            self._round *= 2


def _key_of(value: ObjectMeta) -> ObjectKey:
    return ObjectKey(value.namespace, value.name)


class _Values(ValuesView[M]):
    def __init__(self, objects: PackedObjects[M]) -> None:
        super().__init__(objects)
        self._objects = objects

    def __iter__(self) -> Iterator[M]:
        return self._objects.each()


class _Items(ItemsView[ObjectKey, M]):
    def __init__(self, objects: PackedObjects[M]) -> None:
        super().__init__(objects)
        self._objects = objects

    def __iter__(self) -> Iterator[tuple[ObjectKey, M]]:
        return ((_key_of(value), value) for value in self._objects.each())
