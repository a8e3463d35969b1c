"""How a token is shown to an API server: in protobuf, or in JSON where only that is understood."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from federation.core.errors import ClusterError, ClusterInvalid, ClusterServerError
from federation.kubernetes.protobuf import MEDIA_TYPE
from federation.signer.attestation.token_review import TokenReviewer
from federation.signer.attestation.tokens import TokenReader
from federation_sandbox.apiserver.protobuf import read_protobuf
from tests.signer.tokens import AUDIENCE, claims, signed
from tests.support.clock import VirtualClock
from tests.support.clusters import Exchange, RawServer, connected

JSON = "application/json"


class Asked(RawServer):
    """Confirms every token; what it was asked, in which media type. ``understood`` are those that it reads."""

    def __init__(self, *understood: str, status: str = "415 Unsupported Media Type") -> None:
        super().__init__(self._answer)
        self.understood = understood
        self.status = status
        self.types: list[str] = []
        self.tokens: list[str] = []

    async def _answer(self, exchange: Exchange) -> None:
        kind = exchange.headers["content-type"]
        self.types.append(kind)
        if kind not in self.understood:
            await exchange.answer(b"{}", status=self.status)
            return
        asked: dict[str, Any] = (
            json.loads(exchange.body) if kind == JSON else read_protobuf(exchange.body, "TokenReview")
        )
        assert (asked["kind"], asked["spec"]["audiences"]) == ("TokenReview", [AUDIENCE])
        self.tokens.append(asked["spec"]["token"])
        bound = claims()["kubernetes.io"]
        user = {
            "username": claims()["sub"],
            "uid": bound["serviceaccount"]["uid"],
            "groups": ["system:serviceaccounts"],
            "extra": {
                "authentication.kubernetes.io/pod-name": [bound["pod"]["name"]],
                "authentication.kubernetes.io/pod-uid": [bound["pod"]["uid"]],
            },
        }
        status = {"authenticated": True, "user": user, "audiences": [AUDIENCE]}
        await exchange.answer(
            json.dumps({"kind": "TokenReview", "status": status}).encode(), status="201 Created"
        )


async def review(server: Asked, tmp_path: Path, *numbers: int) -> None:
    """Have it review tokens that differ in their number."""
    clock = VirtualClock()
    async with connected(server.kubeconfig(tmp_path / "kc"), clock=clock) as session:
        reviewer = TokenReviewer(session, audience=AUDIENCE, clock=clock)
        for number in numbers:
            read = TokenReader().read(signed(claims(jti=str(number), exp=4_000_000_000)))
            assert await reviewer.review(read) == ""
            assert read.text in server.tokens


async def test_a_token_is_shown_in_protobuf_and_once(tmp_path: Path) -> None:
    async with Asked(MEDIA_TYPE) as server:
        await review(server, tmp_path, 1, 2, 2, 1)
    assert server.types == [MEDIA_TYPE, MEDIA_TYPE]


@pytest.mark.parametrize("status", ["415 Unsupported Media Type", "400 Bad Request"])
async def test_where_only_json_is_understood_it_is_asked_in_json_from_then_on(
    tmp_path: Path, status: str
) -> None:
    async with Asked(JSON, status=status) as server:
        await review(server, tmp_path, 1, 2, 3)
    assert server.types == [MEDIA_TYPE, JSON, JSON, JSON]


@pytest.mark.parametrize(
    ("status", "kind", "types"),
    [
        ("400 Bad Request", ClusterInvalid, [MEDIA_TYPE, JSON] * 2),
        ("500 Internal Server Error", ClusterServerError, [MEDIA_TYPE] * 2),
    ],
)
async def test_a_failure_says_nothing_about_what_is_understood(
    tmp_path: Path, status: str, kind: type[ClusterError], types: list[str]
) -> None:
    async with Asked(status=status) as server:
        clock = VirtualClock()
        async with connected(server.kubeconfig(tmp_path / "kc"), clock=clock) as session:
            reviewer = TokenReviewer(session, audience=AUDIENCE, clock=clock)
            read = TokenReader().read(signed(claims(exp=4_000_000_000)))
            for _ in range(2):
                with pytest.raises(kind):
                    await reviewer.review(read)
    assert server.types == types


@pytest.mark.parametrize(
    ("life", "remembered"), [(3600, 10.0), (4, 4.0)], ids=["ten seconds", "the token's end"]
)
async def test_what_was_confirmed_is_remembered_for(tmp_path: Path, life: int, remembered: float) -> None:
    clock = VirtualClock()
    async with (
        Asked(MEDIA_TYPE) as server,
        connected(server.kubeconfig(tmp_path / "kc"), clock=clock) as session,
    ):
        reviewer = TokenReviewer(session, audience=AUDIENCE, clock=clock)
        read = TokenReader().read(signed(claims(exp=int(clock.now().timestamp()) + life)))
        await reviewer.review(read)
        await clock.advance(remembered - 1.0)
        await reviewer.review(read)
        assert len(server.types) == 1
        await clock.advance(1.0)
        await reviewer.review(read)
        assert len(server.types) == 2


async def test_equal_questions_at_once_are_one(tmp_path: Path) -> None:
    clock = VirtualClock()
    async with (
        Asked(MEDIA_TYPE) as server,
        connected(server.kubeconfig(tmp_path / "kc"), clock=clock) as session,
    ):
        reviewer = TokenReviewer(session, audience=AUDIENCE, clock=clock)
        read = TokenReader().read(signed(claims(exp=4_000_000_000)))
        assert await asyncio.gather(*(reviewer.review(read) for _ in range(20))) == [""] * 20
    assert server.types == [MEDIA_TYPE]
