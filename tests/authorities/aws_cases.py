"""What the tests of both kinds of AWS authority share: opening one, ordering from it, and spoiling its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from federation.core.clock import Clock
from federation.core.config.authorities.settings import AwsKmsAuthorityConfig, AwsPcaAuthorityConfig
from federation.core.documents.signer import AuthorityReport
from federation.runtime.clock import SystemClock
from federation.signer.authorities.authority import (
    Alarms,
    AuthoritySettings,
    CheckedLeaf,
    LeafRequest,
    ManagedAuthority,
    issue_checked,
)
from tests.authorities.aws_world import (
    Seen,
    World,
    cut,
    refuse,
)
from tests.authorities.back_end import BackEnd, authority_of, order
from tests.support.clock import VirtualClock


class HurriedClock(SystemClock):
    """The system's clock, but waits between attempts take a tenth of their time."""

    async def sleep(self, seconds: float) -> None:
        await super().sleep(seconds / 10)


@asynccontextmanager
async def opened(
    world: World, config: AwsPcaAuthorityConfig | AwsKmsAuthorityConfig, clock: Clock | None = None
) -> AsyncIterator[ManagedAuthority]:
    back_end = BackEnd(settings=AuthoritySettings(config), root=world.root.certificate)
    async with authority_of(back_end, clock=clock or HurriedClock()) as authority:
        yield authority


async def issue(
    world: World, authority: ManagedAuthority, wanted: LeafRequest | None = None, alarms: Alarms | None = None
) -> CheckedLeaf:
    return await issue_checked(
        authority,
        wanted or order(),
        anchors=(world.root.certificate,),
        at=SystemClock().now(),
        alarms=alarms or Alarms(SystemClock()),
    )


async def looked_at(world: World, config: AwsPcaAuthorityConfig | AwsKmsAuthorityConfig) -> AuthorityReport:
    async with opened(world, config) as authority:
        return authority.describe()


def answering(operation: str, answer: Callable[[Seen], web.StreamResponse], times: int = 1000) -> Any:
    """A spoiler that gives the first calls of an operation that answer."""
    left = times

    async def spoil(call: Seen) -> web.StreamResponse | None:
        nonlocal left
        if call.operation != operation or left == 0:
            return None
        left -= 1
        return answer(call)

    return spoil


def now_clock() -> VirtualClock:
    """Virtual time that begins now, because moto lives by the system's clock."""
    return VirtualClock(SystemClock().now().replace(microsecond=0))


def refusing(code: str, message: str = "", status: int = 400) -> Callable[[Seen], web.StreamResponse]:
    return lambda _: refuse(code, message, status)


LOST = {
    "cut": lambda call: cut(call.request),
    "500": lambda _: refuse("InternalFailure", "", 500),
    "502": lambda _: web.Response(status=502, text="<html>bad gateway</html>"),
    "503": lambda _: refuse("ServiceUnavailableException", "", 503),
    "html": lambda _: web.Response(text="<html>welcome</html>"),
    "list": lambda _: web.json_response([1, 2]),
    "bytes": lambda _: web.Response(body=b"\xff\xfe\x00"),
    "empty": lambda _: web.json_response({}),
    "other": lambda _: web.json_response({"CertificateArn": "arn:aws:acm-pca:::certificate-authority/x"}),
}
