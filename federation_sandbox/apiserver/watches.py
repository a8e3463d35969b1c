"""Watch streams: the state as it is, then every change, with bookmarks, resumption, time-out and 410.

Source: "Kubernetes API Concepts", "Efficient detection of changes" and "Streaming lists"; bookmark times of
k8s.io/apiserver ``pkg/storage/cacher/cache_watcher.go``.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from federation_sandbox.apiserver.faults import Faults, Gone, Lost, NoBookmarks, Silence
from federation_sandbox.apiserver.lists import Selection
from federation_sandbox.apiserver.requests import RequestInfo, View, is_true
from federation_sandbox.apiserver.status import ApiError, bad_request, expired, invalid
from federation_sandbox.apiserver.store import (
    Event,
    HistoryGoneError,
    Obj,
    Store,
    Stored,
    Subscription,
    encode,
)
from federation_sandbox.apiserver.tables import Tables

MIN_TIMEOUT = (
    1800.0  # kube-apiserver's --min-request-timeout; a watch without its own limit gets one to two times it
)
BOOKMARK_INTERVAL = 60.0
BOOKMARK_BEFORE_END = 2.0
TOO_OLD = "The resourceVersion for the provided watch is too old."
_INITIAL_END = "k8s.io/initial-events-end"


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchOptions:
    """The parameters of a watch."""

    after: int | None  # None: begin with the current state
    timeout: float
    bookmarks: bool
    mark_initial_end: bool
    chosen: View

    @classmethod
    def read(cls, query: Mapping[str, str], chosen: View) -> WatchOptions:
        """From the query. Raises ApiError 400 or 422."""
        version = query.get("resourceVersion", "")
        seconds = query.get("timeoutSeconds", "")
        if not (version or "0").isdecimal():
            raise bad_request(
                f'Invalid value: "{version}": strconv.ParseUint: parsing "{version}": invalid syntax'
            )
        if not (seconds or "0").isdecimal():
            raise bad_request(f'Invalid value: "{seconds}": timeoutSeconds must be a number')
        initial = query.get("sendInitialEvents")
        if initial is not None and query.get("resourceVersionMatch") != "NotOlderThan":
            problem = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise invalid(
                "ListOptions",
                "meta.k8s.io",
                "",
                "resourceVersionMatch",
                problem,
                reason="FieldValueForbidden",
            )
        bookmarks = is_true(query, "allowWatchBookmarks")
        begin_with_state = version in {"", "0"} if initial is None else is_true(query, "sendInitialEvents")
        return cls(
            after=None if begin_with_state else int(version or 0),
            timeout=float(seconds) if int(seconds or 0) else MIN_TIMEOUT * (1 + random.random()),  # noqa: S311 - jitter
            bookmarks=bookmarks,
            mark_initial_end=bookmarks and begin_with_state,
            chosen=chosen,
        )


class Watch:
    """One watch request under way."""

    def __init__(
        self,
        store: Store,
        faults: Faults,
        info: RequestInfo,
        selection: Selection,
        options: WatchOptions,
        *,
        tables: Tables,
    ) -> None:
        self._tables = tables
        self._store = store
        self._faults = faults
        self._info = info
        self._selection = selection
        self._options = options
        self._version = store.revision

    async def lines(self) -> AsyncGenerator[bytes, None]:
        """The stream, one or more whole lines at a time; a version that is gone is its only event."""
        if self._options.chosen is View.PARTIAL_LIST:
            return  # kube-apiserver cannot encode an object as a list, and ends the stream without a word
        try:
            initial, subscription = self._begin()
        except ApiError as error:
            yield _line("ERROR", encode(error.status()))
            return
        try:
            if initial:
                yield initial
            async for lines in self._follow(subscription):
                yield lines
        finally:
            subscription.close()

    def _begin(self) -> tuple[bytes, Subscription]:
        """What to send at once, and the events from there on. Raises ApiError 410."""
        after, resource = self._options.after, self._selection.resource
        if after is not None:
            gone = self._faults.find(Gone, self._info)
            if gone is not None:
                gone[0].strike()
                raise expired(TOO_OLD)
            try:
                return b"", self._store.subscribe(resource, after)
            except HistoryGoneError:
                raise expired(TOO_OLD) from None
        self._version = self._store.revision
        subscription = self._store.subscribe(resource, self._version)
        found = self._store.all(resource, self._selection.namespace)
        lines = [_line("ADDED", self._show(stored)) for stored in found if self._selection.takes(stored)]
        if self._options.mark_initial_end:
            lines.append(self._bookmark(initial_end=True))
        return b"".join(lines), subscription

    async def _follow(self, subscription: Subscription) -> AsyncGenerator[bytes, None]:
        loop = asyncio.get_running_loop()
        end = loop.time() + self._options.timeout
        bookmark_at = min(loop.time() + BOOKMARK_INTERVAL, end - BOOKMARK_BEFORE_END)
        while True:
            await self._silence()
            now = loop.time()
            if now >= end or (subscription.closed and not subscription.pending):
                return
            wake = min(end, bookmark_at) if self._options.bookmarks and bookmark_at > now else end
            await subscription.wait(wake - now)
            if self._faults.find(Silence, self._info) is not None:
                continue
            lines = [line for event in subscription.take() if (line := self._event(event))]
            if lines and (lost := self._faults.find(Lost, self._info)) is not None:
                lost[0].strike()
                lines = []
            if self._options.bookmarks and loop.time() >= bookmark_at > now:
                bookmark_at = min(
                    loop.time() + BOOKMARK_INTERVAL, max(end - BOOKMARK_BEFORE_END, loop.time())
                )
                if self._faults.find(NoBookmarks, self._info) is None:
                    lines.append(self._bookmark())
            if lines:
                yield b"".join(lines)

    async def _silence(self) -> None:
        """Wait out a silencing fault; the watch does not even end in it."""
        while (found := self._faults.find(Silence, self._info)) is not None:
            found[0].hits += 1
            await found[0].lifted.wait()

    def _event(self, event: Event) -> bytes | None:
        """An event as this watch sees it: entering or leaving the selection is being added or deleted."""
        self._version = event.revision
        now = event.type != "DELETED" and self._selection.takes(event.stored)
        before = event.previous is not None and self._selection.takes(event.previous)
        if now:
            return _line("MODIFIED" if before else "ADDED", self._show(event.stored))
        if not before:
            return None
        if event.type == "DELETED":
            return _line("DELETED", self._show(event.stored))
        assert event.previous is not None  # noqa: S101 - `before` says so
        return _line("DELETED", self._show(Stored(event.previous.copy(), event.revision)))

    def _show(self, stored: Stored) -> bytes:
        if self._options.chosen is View.OBJECT:
            return stored.in_version(self._selection.resource).raw
        if self._options.chosen is View.TABLE:
            return self._tables.one(self._selection.resource, stored.value)
        return stored.partial

    def _bookmark(self, *, initial_end: bool = False) -> bytes:
        resource = self._selection.resource
        self._version = max(self._version, self._store.revision)
        meta: Obj = {"resourceVersion": str(self._version)}
        if initial_end:
            meta["annotations"] = {_INITIAL_END: "true"}
        if self._options.chosen is View.OBJECT:
            head = {"kind": resource.kind, "apiVersion": resource.api_version}
        else:
            head = {"kind": View.PARTIAL.value, "apiVersion": "meta.k8s.io/v1"}
        return _line("BOOKMARK", encode(head | {"metadata": meta}))


def _line(kind: str, body: bytes) -> bytes:
    return b'{"type":"' + kind.encode() + b'","object":' + body + b"}\n"
