"""Requests to one API server that are in flight: equal ones wait for the same answer.

A caller that goes away takes no other caller's answer with it, so each question runs in a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from federation.core.errors import NotReady

T = TypeVar("T")


class InFlight(Generic[T]):
    """Questions about one cluster; ``what`` names them in the error of those that :meth:`close` ended."""

    def __init__(self, where: str, what: str) -> None:
        self._where = where
        self._what = what
        self._tasks: dict[Hashable, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._tasks

    async def ask(self, key: Hashable, question: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What ``question`` returns or raises; not asked again where one with this key is under way.

        Raises NotReady where :meth:`close` ended it.
        """
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = asyncio.create_task(question())
            task.add_done_callback(lambda done: self._finished(key, done))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if not task.cancelled() or (caller is not None and caller.cancelling()):
                raise
            raise NotReady(
                f"the connection to its API server was closed in the middle of {self._what}",
                where=self._where,
                reason="review_ended",
            ) from None

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _finished(self, key: Hashable, task: asyncio.Task[T]) -> None:
        self._tasks.pop(key, None)
        if not task.cancelled():
            task.exception()  # looked at, so that a question whose callers have all gone leaves no warning
