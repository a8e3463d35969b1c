"""What went wrong is remembered without the frames that it went through: they hold tokens, and the error before it."""

from __future__ import annotations

import ast
import asyncio
import gc
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.controller.publication.observed import HealthCheck
from federation.core.errors import (
    ClusterThrottled,
    ClusterUnreachable,
    ConfigurationError,
    FederationError,
    Mistake,
)
from federation.kubernetes.objects import METADATA_ONLY, decode_metadata
from federation.kubernetes.reflector import Reflector
from federation_sandbox.apiserver.faults import Answer
from federation_sandbox.cluster import SandboxCluster
from tests.support.clock import VirtualClock
from tests.support.clusters import FAST, connected, eventually

PRODUCT = Path(__file__).resolve().parents[2] / "federation"
OF_ERRORS = ("Error", "Exception", "Refused", "Unavailable", "Uncertain", "Violation")

PARTS_OF_ERRORS = {("NoConnection", "os_error"), ("CallRefused", "error")}
"""An error that is a part of another one, which is no longer remembered than that."""

TIMES = 40
"""Failures; each would be alive with its request and its token."""


def errors_alive() -> int:
    gc.collect()
    return sum(isinstance(each, FederationError) for each in gc.get_objects())


async def test_a_cluster_that_is_away_for_long_costs_no_memory(tmp_path: Path) -> None:
    """Seen: with 20 clusters away for 45 minutes a controller had 515 MB, where it has 127 with all of them there."""
    async with SandboxCluster("east") as cluster:
        cluster.faults.inject(Answer.server_error())
        async with connected(cluster.write_kubeconfig(tmp_path / "kc")) as session:
            check = HealthCheck(session, timeout=FAST.request, clock=VirtualClock())
            await check.check()
            before = errors_alive()
            for _ in range(TIMES):
                await check.check()
                assert check.problem is not None
                assert check.problem.__traceback__ is None
            assert errors_alive() <= before + 2


async def test_a_problem_that_is_raised_again_and_again_does_not_grow(tmp_path: Path) -> None:
    async with SandboxCluster("east") as cluster:
        cluster.faults.inject(Answer.server_error())
        async with connected(cluster.write_kubeconfig(tmp_path / "kc")) as session:
            reflector = Reflector(
                session,
                "/api/v1/namespaces",
                decode=decode_metadata,
                accept=METADATA_ONLY,
                timeouts=FAST,
                clock=VirtualClock(),
                jitter=random.Random(1),
            )
            running = asyncio.create_task(reflector.run())
            await eventually(lambda: reflector.problem is not None)
            for _ in range(TIMES):
                with pytest.raises(FederationError) as caught:
                    await reflector.wait_synced(0.01)
                assert len(caught.traceback) < 10
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    "error",
    [
        ClusterUnreachable("no connection", where="east", remedy="see to it", reason="tls"),
        ClusterThrottled("busy", where="east", retry_after=3.0),
        ConfigurationError([Mistake("f", "k", "p", "r")]),
    ],
)
def test_it_says_the_same(error: FederationError) -> None:
    try:
        raise error from ValueError("a token")
    except FederationError as caught:
        same = caught.without_frames()
    assert (type(same), vars(same), same.args) == (type(error), vars(error), error.args)
    assert same.diagnostics() == error.diagnostics()
    assert (same.__traceback__, same.__cause__, same.__context__) == (None, None, None)
    assert error.__traceback__ is not None


def parameters_that_are_errors(function: ast.FunctionDef | ast.AsyncFunctionDef) -> set[str]:
    arguments = [*function.args.args, *function.args.kwonlyargs]
    return {
        each.arg
        for each in arguments
        if each.annotation is not None
        and any(word in ast.unparse(each.annotation) for word in OF_ERRORS)
        and "Callable" not in ast.unparse(each.annotation)
    }


def values_of(node: ast.expr) -> Iterator[ast.expr]:
    """What may be assigned by it."""
    match node:
        case ast.Tuple(elts=several) | ast.BoolOp(values=several):
            for each in several:
                yield from values_of(each)
        case ast.IfExp(body=one, orelse=other):
            yield from values_of(one)
            yield from values_of(other)
        case _:
            yield node


def remembered_with_frames(module: ast.Module) -> Iterator[tuple[str, str]]:
    """Errors that were caught, or given, and are assigned to an attribute or an entry as they are."""
    for owner in ast.walk(module):
        if not isinstance(owner, ast.ClassDef):
            continue
        for function in ast.walk(owner):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            caught = {each.name for each in ast.walk(function) if isinstance(each, ast.ExceptHandler)}
            names = parameters_that_are_errors(function) | caught
            for node in ast.walk(function):
                if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
                    continue
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                places = [place for target in targets for place in values_of(target)]
                if not any(isinstance(place, ast.Attribute | ast.Subscript) for place in places):
                    continue
                for value in values_of(node.value):
                    if isinstance(value, ast.Name) and value.id in names:
                        yield owner.name, value.id


def test_no_error_is_remembered_with_its_frames() -> None:
    found = {
        each
        for path in sorted(PRODUCT.rglob("*.py"))
        for each in remembered_with_frames(ast.parse(path.read_text("utf-8")))
    }
    assert found == PARTS_OF_ERRORS
