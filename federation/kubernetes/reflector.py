"""A local copy of one collection of one cluster, kept by list and watch.

The protocol is the one of Kubernetes API concepts, "Efficient detection of changes". Three nested
generators, each with one task: ``_endless`` survives every failure and waits between attempts;
``_continuous`` lists, then watches again and again from the last resourceVersion seen, until that is too
old or something breaks; ``_watch`` is one request. What they yield is applied in one place, ``run``.

The copy is honest about itself: ``fresh`` is true only while a watch is open whose last line is at most
``watch_silence`` old, and a cluster that fails keeps its last items, marked by ``problem``. For as long after the
last line as a silent watch counts, it is ``recent``.

A watch has a connection, and so a file descriptor, to itself. What may be some seconds old can be polled instead: it is
listed every so often, and no connection stands between.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import aclosing
from itertools import islice
from types import MappingProxyType
from typing import Final, Generic, Literal, NamedTuple, TypeVar

import msgspec

from federation.core.clock import Clock
from federation.core.config.clusters import ClusterTimeouts
from federation.core.errors import (
    ClusterError,
    ClusterGarbage,
    ClusterGone,
    ClusterOverBudget,
    ClusterThrottled,
    ClusterTimeout,
)
from federation.kubernetes.answers import error_in_watch, harmless
from federation.kubernetes.backoff import Backoff
from federation.kubernetes.objects import (
    METADATA_ONLY,
    METADATA_ONLY_LIST,
    Decode,
    ListPage,
    ObjectKey,
    decode_event,
    decode_page,
    decode_version,
)
from federation.kubernetes.session import MEMBER_ANSWER_BYTES, SILENCE, ClusterSession

_logger = logging.getLogger(__name__)

PAGE_SIZE: Final = 500
"""What client-go asks for: few enough for one answer to stay small, many enough for few answers."""

MAX_PAGE_BYTES: Final = 3 * 1024 * 1024
"""Of one page of more than one object. To find where objects begin takes a page's whole length without a pause: this
much is a few milliseconds. Where a page is larger, fewer objects are asked for, down to one."""

SMALLER: Final = 4  # how many times smaller the page that is asked for then

MAX_OBJECTS: Final = 300_000
"""Twice the pods of the largest cluster Kubernetes supports; past it something floods us."""

MAX_PAGES: Final = 2000
"""More than three times what MAX_OBJECTS takes: pages may come half empty, but not for ever. For smaller pages more."""

PIECE: Final = 50
"""Objects of a page that are taken apart before others may get their turn: about a millisecond."""

STEADY_SECONDS: Final = 5.0
"""A watch that stood this long went well. One that ends sooner counts as a failed attempt, or a server that
ends every watch at once would be asked a thousand times a second."""

POLL_CHECK: Final = 2.0
"""Seconds between checks whether what is polled is to be listed again."""

PAGE_SECONDS: Final = 0.0005
"""What a page is charged beside what it holds: a request is made for it, and a list may hold empty ones."""

T = TypeVar("T")


class Change(NamedTuple, Generic[T]):
    """An object that came (no ``old``), changed, or went (no ``new``), by whichever way it was noticed."""

    key: ObjectKey
    old: T | None
    new: T | None

    @property
    def kind(self) -> Literal["added", "modified", "deleted"]:
        """What happened, in the API's words."""
        if self.old is None:
            return "added"
        return "deleted" if self.new is None else "modified"


class _Listed(NamedTuple, Generic[T]):
    """A whole list: what is not in it is gone."""

    items: MutableMapping[ObjectKey, T]


class _Set(NamedTuple, Generic[T]):
    key: ObjectKey
    value: T | None


class Reflector(Generic[T]):
    """Keeps ``items`` like the collection at ``path``; run it as a task.

    ``decode`` takes one object apart (see ``objects.py``); two values that are equal count as no change, so
    keep only what matters. ``on_change`` is called for each change, in order, before anything else is read;
    it must not block, and what it raises ends :meth:`run`.
    """

    def __init__(
        self,
        session: ClusterSession,
        path: str,
        *,
        decode: Decode[T],
        accept: str = "application/json",
        label_selector: str = "",
        field_selector: str = "",
        timeouts: ClusterTimeouts,
        clock: Clock,
        jitter: random.Random,
        on_change: Callable[[Change[T]], None] | None = None,
        most: int | None = None,
        keep: Callable[[], MutableMapping[ObjectKey, T]] = dict,
        poll: Callable[[], float] | None = None,
    ) -> None:
        """``most`` is how many objects are kept (default: :data:`MAX_OBJECTS`), ``keep`` makes what holds them.

        With ``poll`` it is not watched: ``poll`` says, whenever it is called, how many seconds after a list the next
        is due. They must be fewer than ``watch_silence``, or the copy is not :attr:`fresh` before each list.
        """
        self._session = session
        self._path = path
        self._decode = decode
        self._accept = accept
        self._timeouts = timeouts
        self._clock = clock
        self._jitter: Final = jitter
        self._on_change = on_change
        self._where = str(session.name)
        self._selectors = {
            name: value
            for name, value in (("labelSelector", label_selector), ("fieldSelector", field_selector))
            if value
        }
        self._keep = keep
        self._items = keep()
        self._synced = asyncio.Event()
        self._version = ""
        self._up = False
        self._last_seen = clock.monotonic()
        self._followed_at = float("-inf")
        self._problem: ClusterError | None = None
        self._backoff = Backoff(first=timeouts.backoff_first, longest=timeouts.backoff_longest, jitter=jitter)
        self._budget = session.budget
        self._most = MAX_OBJECTS if most is None else most
        self._page_size = PAGE_SIZE
        self._poll = poll
        self._due_now = False

    def list_soon(self) -> None:
        """Have it listed within :data:`POLL_CHECK` seconds where it is polled."""
        self._due_now = True

    @property
    def items(self) -> Mapping[ObjectKey, T]:
        """What was in the collection when last seen; a live view."""
        return MappingProxyType(self._items)

    @property
    def synced(self) -> bool:
        """True once the whole collection was listed."""
        return self._synced.is_set()

    @property
    def last_seen(self) -> float:
        """When the cluster last said anything here, by the clock's ``monotonic``."""
        return self._last_seen

    @property
    def fresh(self) -> bool:
        """True while a watch is open, and its last line (where polled: the last list) at most ``watch_silence`` old."""
        return self._up and self._clock.monotonic() - self._last_seen <= self._timeouts.watch_silence

    @property
    def recent(self) -> bool:
        """True while the copy was followed at most ``watch_silence`` ago: it is no older than one of a silent watch.

        Whether a watch is open does not matter, and what a list brought that was not finished does not count.
        """
        return self._clock.monotonic() - self._followed_at <= self._timeouts.watch_silence

    @property
    def problem(self) -> ClusterError | None:
        """Why the copy is not kept at present; None while all is well."""
        return self._problem

    async def wait_synced(self, timeout: float) -> None:
        """Return once listed. After ``timeout`` seconds raises the present problem, or ClusterTimeout."""
        try:
            async with asyncio.timeout(timeout):
                await self._synced.wait()
        except TimeoutError:
            if self._problem is not None:
                raise self._problem.without_frames() from None
            raise ClusterTimeout(f"{self._path}: not listed in {timeout:g} s", where=self._where) from None

    async def run(self) -> None:
        """Keep the copy until cancelled. Raises only what ``on_change`` raises."""
        try:
            async with aclosing(self._endless()) as stream:
                async for step in stream:
                    if isinstance(step, _Set):
                        with self._budget.charged(0):
                            self._apply(step.key, step.value)
                        await self._budget.turn()
                    else:
                        await self._replace(step.items)
        finally:
            self._up = False

    def _apply(self, key: ObjectKey, new: T | None) -> None:
        old = self._items.get(key)
        if old == new:
            return
        if new is None:
            del self._items[key]
        else:
            self._items[key] = new
        if self._on_change is not None:
            self._on_change(Change(key, old, new))

    async def _replace(self, listed: MutableMapping[ObjectKey, T]) -> None:
        """A relist: what went unnoticed meanwhile is a change as any other, deletions first."""
        if self._on_change is None:
            self._items = listed
        else:
            gone: list[ObjectKey] = []
            for keys in _pieces(self._items):
                with self._budget.charged():
                    gone += [key for key in keys if key not in listed]
                await self._budget.turn()
            for keys in _pieces(gone):
                with self._budget.charged():
                    for key in keys:
                        self._apply(key, None)
                await self._budget.turn()
            for items in _pieces(listed.items()):
                with self._budget.charged():
                    for key, value in items:
                        self._apply(key, value)
                await self._budget.turn()
        self._synced.set()

    async def _endless(self) -> AsyncGenerator[_Listed[T] | _Set[T], None]:
        """Every step, for ever: a failure is noted and waited out, longer each time they follow closely."""
        while True:
            try:
                async with aclosing(self._continuous()) as stream:
                    async for step in stream:
                        yield step
            except ClusterError as error:
                self._failed(error)
            self._up = False
            await self._clock.sleep(self._backoff.next(at_least=self._asked_wait()))

    async def _continuous(self) -> AsyncGenerator[_Listed[T] | _Set[T], None]:
        """A list where one is needed, then a watch, over and over, until one ends too soon or breaks.

        Silence is no failure by itself: kube-apiserver sends no bookmark for a collection that has not changed
        since it started, until its etcd reports progress. But a proxy that holds events back is silent too, and
        so is a watch from a version that lies in the future because etcd was restored from a backup. So what was
        unheard for long is listed anew: then the copy is never older than ``watch_silence``, whatever the cause.
        """
        while True:
            if not self._version or self._is_silent:
                self._version = ""
                self._due_now = False
                listed, self._version = await self._list()
                yield _Listed(listed)
            if self._poll is not None:
                self._established()
                self._backoff.reset()
                await self._until_due(self._poll)
                self._version = ""
                continue
            began = self._clock.monotonic()
            try:
                async with aclosing(self._watch()) as stream:
                    async for step in stream:
                        yield step
            except (ClusterGone, ClusterGarbage):
                self._version = ""  # what was missed can only be learned from a list
                raise
            except ClusterTimeout as error:
                if error.reason != SILENCE:
                    raise
                self._up, self._version = False, ""
                continue
            finally:
                steady = self._clock.monotonic() - began >= STEADY_SECONDS
                if steady:
                    self._backoff.reset()
            if not steady:
                return

    async def _until_due(self, poll: Callable[[], float]) -> None:
        listed = self._clock.monotonic()
        while not self._due_now and (left := listed + poll() - self._clock.monotonic()) > 0:
            await self._clock.sleep(min(left, POLL_CHECK))

    @property
    def _list_accept(self) -> str:
        return METADATA_ONLY_LIST if self._accept == METADATA_ONLY else self._accept

    async def _watch(self) -> AsyncGenerator[_Set[T], None]:
        """One watch request, from its answer to the end the server gives it."""
        lasting = self._timeouts.watch * self._jitter.uniform(0.9, 1.1)
        params = self._selectors | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(max(1, int(lasting))),
        }
        async with self._session.stream(
            self._path, params=params, accept=self._accept, silence=self._timeouts.watch_silence
        ) as lines:
            self._established()
            async for line in lines:
                self._last_seen = self._followed_at = self._clock.monotonic()
                with self._budget.charged(len(line)):
                    step = self._take(line)
                if step is not None:
                    yield step

    def _take(self, line: bytes) -> _Set[T] | None:
        """What one line of a watch says; None for a bookmark."""
        try:
            event = decode_event(line)
            match event.type:
                case "ADDED" | "MODIFIED":
                    key, self._version, value = self._decode(event.object)
                    if len(self._items) >= self._most and key not in self._items:
                        raise self._flooded()
                    return _Set(key, value)
                case "DELETED":
                    key, self._version, _ = self._decode(event.object)
                    return _Set(key, None)
                case "BOOKMARK":
                    self._version = decode_version(event.object)
                    return None
                case "ERROR":
                    raise error_in_watch(
                        event.object,
                        what=f"watch {self._path}",
                        where=self._where,
                        secret=self._session.token_sent,
                    )
                case other:
                    problem = f"watch {self._path}: an event of the unknown type {harmless(other)!r}"
                    raise ClusterGarbage(problem, where=self._where)
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise self._garbage(f"watch {self._path}: a line", error) from None

    async def _list(self) -> tuple[MutableMapping[ObjectKey, T], str]:
        """Everything, page by page; once more from its beginning where a page came too late to continue."""
        try:
            return await self._list_pages()
        except ClusterGone:
            return await self._list_pages()

    async def _list_pages(self) -> tuple[MutableMapping[ObjectKey, T], str]:
        listed = self._keep()
        params = dict(self._selectors)
        for _ in range(max(MAX_PAGES, 2 * MAX_OBJECTS // self._page_size)):
            page = await self._page(params)
            items = page.items or []
            for start in range(0, len(items), PIECE):
                with self._budget.charged():
                    self._add(listed, items[start : start + PIECE])
                await self._budget.turn()
            if not page.metadata.continue_:
                return listed, page.metadata.resource_version
            if page.metadata.continue_ == params.get("continue"):
                problem = f"list {self._path}: a page is said to continue with itself"
                raise ClusterGarbage(problem, where=self._where)
            params["continue"] = page.metadata.continue_
        raise ClusterGarbage(f"list {self._path}: too many pages", where=self._where)

    async def _page(self, params: dict[str, str]) -> ListPage:
        """The next page, of so few objects that it is within its bounds."""
        while True:
            most = MAX_PAGE_BYTES if self._page_size > 1 else MEMBER_ANSWER_BYTES
            try:
                answer = await self._session.get(
                    self._path,
                    params=params | {"limit": str(self._page_size)},
                    accept=self._list_accept,
                    most_bytes=most,
                )
            except ClusterOverBudget:
                if self._page_size == 1:
                    self._page_size = PAGE_SIZE
                    raise
                self._page_size = max(1, self._page_size // SMALLER)
                self._budget.charge(PAGE_SECONDS)
                await self._budget.turn()
                continue
            self._last_seen = self._clock.monotonic()
            self._budget.charge(PAGE_SECONDS)
            try:
                with self._budget.charged():
                    page = decode_page(answer)
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise self._garbage(f"list {self._path}: the answer", error) from None
            finally:
                await self._budget.turn()
            return page

    def _add(self, listed: MutableMapping[ObjectKey, T], items: list[msgspec.Raw]) -> None:
        try:
            for raw in items:
                key, _, value = self._decode(raw)
                listed[key] = value
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            raise self._garbage(f"list {self._path}: the answer", error) from None
        if len(listed) > self._most:
            raise self._flooded()

    @property
    def _is_silent(self) -> bool:
        return self._clock.monotonic() - self._last_seen > self._timeouts.watch_silence

    def _established(self) -> None:
        self._last_seen = self._followed_at = self._clock.monotonic()
        self._up = True
        if self._problem is not None:
            self._problem = None
            _logger.info("watching %s again", self._path, extra={"cluster": self._where})

    def _failed(self, error: ClusterError) -> None:
        before, self._problem = self._problem, error.without_frames()
        if before is None or before.reason != error.reason:
            # A version too old is part of a watch's life; anything else an operator may have to repair.
            level = logging.INFO if isinstance(error, ClusterGone) else logging.WARNING
            fields = {"cluster": self._where, "reason": error.reason}
            _logger.log(level, "watching %s failed: %s", self._path, error.diagnostics(), extra=fields)

    def _asked_wait(self) -> float:
        return self._problem.retry_after if isinstance(self._problem, ClusterThrottled) else 0.0

    def _garbage(self, what: str, error: Exception) -> ClusterGarbage:
        # msgspec names types and places, never values.
        return ClusterGarbage(
            f"{what} is not what the API promises: {harmless(str(error))}", where=self._where
        )

    def _flooded(self) -> ClusterOverBudget:
        return ClusterOverBudget(
            f"{self._path}: more than {self._most} objects",
            where=self._where,
            remedy="find what creates them in that cluster; the hub holds no more, to protect the others",
        )


U = TypeVar("U")


def _pieces(items: Iterable[U]) -> Iterator[list[U]]:
    """The items in lists short enough that the event loop can run other tasks between two of them."""
    rest = iter(items)
    while piece := list(islice(rest, PIECE)):
        yield piece
