"""Calls to the API server that holds the state: bounded, tried again where that may help, every failure typed.

Every write of the store carries a random mark or a resourceVersion, so each may be sent twice: whether an earlier
attempt had landed, its caller finds out by reading.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final, Protocol

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
)

from federation.core.clock import Clock
from federation.core.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterGarbage,
    ClusterGone,
    ClusterNotFound,
    ClusterServerError,
    ClusterThrottled,
    ClusterTimeout,
    ClusterUnauthorized,
    ClusterUnreachable,
    StateUnavailable,
)

ATTEMPTS: Final = 3
FIRST_WAIT: Final = 0.1
"""Seconds, doubled with each attempt and jittered; a server that asks for more (429) gets it."""

GRANTS: Final = (
    "apply manifests/hub to the hub's cluster: its Roles grant what each role needs in that namespace"
)
CREDENTIALS: Final = "renew the credentials of [state], or mount the pod's service account token"
NOT_KUBERNETES: Final = (
    "something other than a Kubernetes API answers there: check the credentials of [state] and proxies"
)
MISSING: Final = "apply manifests/hub to the hub's cluster; if the namespace was lost, restore what was in it"


class KubernetesApi(Protocol):
    """What is needed of a session with a cluster. Raises ClusterErrors and nothing else."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        timeout: float | None = None,
    ) -> bytes:
        """The body of a 2xx answer, within ``timeout`` seconds."""
        ...


class StateThrottled(StateUnavailable):
    """The API server asks for ``retry_after`` seconds of patience, more than the call could wait."""

    def __init__(self, what: str, *, where: str, remedy: str, retry_after: float) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.retry_after = retry_after


class Calls:
    """The calls of one store. ``timeout`` in seconds for one request, ``budget`` for all attempts at it."""

    def __init__(
        self, api: KubernetesApi, clock: Clock, *, timeout: float, budget: float, jitter: random.Random
    ) -> None:
        self._api = api
        self._clock = clock
        self._timeout = timeout
        self._budget = budget
        self._jitter = jitter

    async def call(
        self,
        method: str,
        path: str,
        *,
        where: str,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        accept: str = "application/json",
    ) -> bytes:
        """The answer. Raises ClusterNotFound, ClusterConflict and ClusterGone as they come, else StateUnavailable."""
        attempts = AsyncRetrying(
            sleep=self._clock.sleep,
            retry=retry_if_exception(_may_pass),
            wait=self._wait,
            stop=stop_after_attempt(ATTEMPTS) | stop_before_delay(self._budget),
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    return await self._api.request(
                        method, path, params=params, body=body, accept=accept, timeout=self._timeout
                    )
        except (ClusterNotFound, ClusterConflict, ClusterGone):
            raise
        except ClusterThrottled as error:
            raise StateThrottled(
                error.what, where=where, remedy=error.remedy, retry_after=error.retry_after
            ) from error
        except ClusterError as error:
            raise StateUnavailable(error.what, where=where, remedy=_remedy(error)) from error
        raise AssertionError("an attempt returns or raises")

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, ClusterThrottled):
            return error.retry_after
        return FIRST_WAIT * 2.0 ** (state.attempt_number - 1) * (0.5 + self._jitter.random())


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, ClusterUnreachable):
        return error.reason != "tls"
    # Garbage: above all an answer that was cut short, of a request that may have been carried out.
    return isinstance(error, (ClusterTimeout, ClusterThrottled, ClusterServerError, ClusterGarbage))


def _remedy(error: ClusterError) -> str:
    match error:
        case ClusterForbidden():
            return GRANTS
        case ClusterUnauthorized():
            return CREDENTIALS
        case ClusterUnreachable():
            return "check the server address and certificate authority of [state], and the network path"
        case ClusterServerError() if error.remedy != ClusterServerError.default_remedy:
            return error.remedy  # it knows more: a webhook there cannot be called
        case ClusterTimeout() | ClusterServerError():
            return "look at the API server of the hub's cluster; the hub keeps trying"
        case _:
            return error.remedy
