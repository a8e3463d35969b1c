"""An API server that fails in every way: StateUnavailable, nothing guessed, nothing written twice or late."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from federation.core.errors import ClusterTimeout, StateUnavailable
from federation.state.kubernetes_documents import KubernetesApi
from federation.state.kubernetes_store import KubernetesStore
from federation.state.store import LeadershipLost, StateConflict
from federation_sandbox.apiserver.faults import Answer, Cut, Garbage, Gone, Hang
from federation_sandbox.cluster import SandboxCluster
from tests.state.late import LateApi
from tests.state.places import Objects
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE

IMPATIENT = {"timeout": 5.0, "request_timeout": 2.0}


@pytest.fixture
async def store(boxed: Objects) -> AsyncIterator[KubernetesStore]:
    async with replace(boxed, options=IMPATIENT).opened() as opened:
        yield opened


def operations(store: KubernetesStore) -> dict[str, Callable[[], Awaitable[object]]]:
    """Everything that can be asked of a store, over a document that is there."""
    return {
        "read": lambda: store.read("current"),
        "overwrite": lambda: store.write("current", b"overwritten"),
        "swap": lambda: store.write("current", b"swapped", expected="999999"),
        "create": lambda: store.write("fresh", b"created", create=True),
        "delete": lambda: store.delete("current"),
        "remove": lambda: store.delete("current", expected="999999"),
        "keys": lambda: store.keys(""),
    }


async def put(store: KubernetesStore, key: str, data: bytes) -> None:
    """Have a document there before what is tested, however late a busy machine answers."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(StateUnavailable):
                await store.write(key, data)
                return


UNCALLED = (
    'Internal error occurred: failed calling webhook "x.example.org": failed to call webhook: no endpoints'
)
EVERY = ["read", "overwrite", "swap", "create", "delete", "remove", "keys"]


@pytest.mark.parametrize("operation", EVERY)
@pytest.mark.parametrize(
    ("effect", "remedy"),
    [
        (Answer.forbidden(), "manifests/hub"),
        (Answer.unauthorized(), "credentials"),
        (Answer.server_error(), "API server"),
        (Answer(500, "InternalError", UNCALLED), "webhook that is named"),
        (
            Answer(400, "", 'admission webhook "x.example.org" denied the request: no'),
            "webhook that is named",
        ),
        (Answer.throttled(60), "priority level"),
        (Garbage(), "API server"),
        (Garbage(code=200), "proxies"),
        (Garbage(code=200, content_type="application/json", body=b"{}"), "proxies"),
        (Garbage(code=200, content_type="application/json", body=b'{"kind":"Status"}'), "proxies"),
        (Garbage(code=302, body=b""), "proxies"),
        (Hang(), "API server"),
        (Cut(after=30), "proxies"),
    ],
    ids=str,
)
async def test_every_failure_is_unavailable_with_a_remedy(
    box: SandboxCluster,
    store: KubernetesStore,
    operation: str,
    effect: Answer | Garbage | Hang | Cut,
    remedy: str,
) -> None:
    await put(store, "current", b"before")
    with box.faults.inject(effect, path="/api/"), pytest.raises(StateUnavailable) as caught:
        await operations(store)[operation]()
    assert not isinstance(caught.value, StateConflict)
    assert remedy in caught.value.remedy
    assert "state-" in caught.value.where


@pytest.mark.parametrize("operation", EVERY)
async def test_a_server_that_is_down_is_unavailable(
    box: SandboxCluster, store: KubernetesStore, operation: str
) -> None:
    await put(store, "current", b"before")
    await box.down()
    with pytest.raises(StateUnavailable, match="no connection"):
        await operations(store)[operation]()
    await box.up()
    found = await store.read("current")
    assert found is not None
    assert found.data == b"before"


async def test_a_short_outage_is_not_noticed(box: SandboxCluster, boxed: Objects) -> None:
    async with boxed.opened() as store:
        version = await store.write("current", b"1")
        with box.faults.inject(Answer.server_error(), verb="update", times=2):
            version = await store.write("current", b"2", expected=version)
        with box.faults.inject(Answer.server_error(), verb="get", times=2):
            found = await store.read("current")
    assert found is not None
    assert (found.data, found.version) == (b"2", version)


async def test_what_the_server_asks_for_is_waited(box: SandboxCluster, boxed: Objects) -> None:
    clock = VirtualClock()
    async with boxed.opened(clock) as store:
        with box.faults.inject(Answer.throttled(3), verb="create", times=1) as fault:
            writing = asyncio.create_task(store.write("current", b"1", create=True))
            await clock.until_sleeping()
            await clock.advance(2.9)
            assert fault.hits == 1
            assert not writing.done()
            await clock.advance(0.1)
            await writing
    assert clock.slept == [3.0]


async def test_more_patience_than_there_is_time_for_is_an_error_at_once(
    box: SandboxCluster, boxed: Objects
) -> None:
    clock = VirtualClock()
    async with boxed.opened(clock) as store:
        with (
            box.faults.inject(Answer.throttled(11)) as fault,
            pytest.raises(StateUnavailable, match="429"),
        ):
            await store.read("current")
    assert fault.hits == 1
    assert clock.slept == []


@pytest.fixture
async def late(objects: Objects) -> AsyncIterator[tuple[LateApi, KubernetesStore]]:
    """A store behind a bad network, on every API server."""
    networks: list[LateApi] = []

    def before(api: KubernetesApi) -> LateApi:
        networks.append(LateApi(api))
        return networks[-1]

    async with replace(objects, options={}, before=before).opened() as store:
        yield networks[0], store


Late = tuple[LateApi, KubernetesStore]


@pytest.mark.parametrize("condition", ["create", "expected", "neither"])
async def test_a_write_whose_answer_is_lost_is_done_and_is_not_done_twice(late: Late, condition: str) -> None:
    network, store = late
    version = None if condition == "create" else await store.write("current", b"before")
    network.sent.clear()
    network.lose = {"POST", "PUT"}
    landed = await store.write(
        "current",
        b"mine",
        expected=version if condition == "expected" else None,
        create=condition == "create",
    )
    found = await store.read("current")
    assert found is not None
    assert (found.data, found.version) == (b"mine", landed)
    # The second attempt met the first one's work; a third would have been a second write.
    assert [request.method for request in network.sent if request.method != "GET"] in (
        ["POST"] * 2,
        ["PUT"] * 2,
    )


@pytest.mark.parametrize("there", [True, False])
async def test_a_write_that_was_given_up_does_not_land_over_a_newer_one(late: Late, there: bool) -> None:
    """Expiry bounds that went backwards would open a gate too soon."""
    network, store = late
    if there:
        await store.write("horizons/a", b"before")
    network.delay = {"POST", "PUT"}
    with pytest.raises(StateUnavailable, match="no answer in time"):
        await store.write("horizons/a", b"given up")
    network.delay = set()
    newer = await store.write("horizons/a", b"newer")
    assert await network.land() == 0
    found = await store.read("horizons/a")
    assert found is not None
    assert (found.data, found.version) == (b"newer", newer)


async def test_a_removal_that_was_given_up_takes_no_newer_document_with_it(late: Late) -> None:
    network, store = late
    await store.write("signers/a", b"old")
    network.delay = {"DELETE"}
    with pytest.raises(StateUnavailable):
        await store.delete("signers/a")
    await store.write("signers/a", b"new")
    assert await network.land() == 0
    found = await store.read("signers/a")
    assert found is not None
    assert found.data == b"new"


@pytest.mark.parametrize("swapped", [False, True])
async def test_a_removal_whose_answer_is_lost_is_done(late: Late, swapped: bool) -> None:
    network, store = late
    version = await store.write("signers/a", b"old")
    network.lose = {"DELETE"}
    await store.delete("signers/a", expected=version if swapped else None)
    assert await store.read("signers/a") is None


@pytest.mark.parametrize("version", ["", "0", "00", "x"])
async def test_what_kubernetes_would_take_for_any_version_is_not_sent(late: Late, version: str) -> None:
    network, store = late
    await store.write("current", b"1")
    network.sent.clear()
    with pytest.raises(StateConflict):
        await store.write("current", b"2", expected=version)
    with pytest.raises(StateConflict):
        await store.delete("current", expected=version)
    assert network.sent == []


async def test_two_writers_of_the_same_document_are_reported(
    box: SandboxCluster, store: KubernetesStore
) -> None:
    await store.write("signers/a", b"before")
    with (
        box.faults.inject(Answer(409, "Conflict", "the object has been modified"), verb="update") as fault,
        pytest.raises(StateUnavailable, match="another process wrote") as caught,
    ):
        await store.write("signers/a", b"mine")
    assert fault.hits == 8
    assert "--replica" in caught.value.remedy


@pytest.mark.parametrize("namespace", ["", "-signers"])
async def test_a_namespace_that_vanished_is_not_a_fresh_start(
    box: SandboxCluster, boxed: Objects, namespace: str
) -> None:
    key, prefix = ("signers/a", "signers/") if namespace else ("generations/1", "generations/")
    async with boxed.opened() as store, boxed.opened() as fresh:
        assert boxed.api is not None
        await boxed.api.delete(boxed.path_of(key))
        assert await store.keys(prefix) == []
        target = boxed.namespace + namespace
        await boxed.api.delete(f"/api/v1/namespaces/{target}")
        body = {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": target},
            "spec": {"finalizers": []},
        }
        await boxed.api.put(f"/api/v1/namespaces/{target}/finalize", body)
        attempts: list[Callable[[], Awaitable[object]]] = [
            lambda: store.keys(prefix),
            lambda: store.write(key, b"1"),
            lambda: store.write(key, b"1", create=True),
            lambda: fresh.read(key),  # the other one has just seen the namespace, and believes it for a while
        ]
        for attempt in attempts:
            with pytest.raises(StateUnavailable, match="namespace is not there") as caught:
                await attempt()
            assert caught.value.where == f"Namespace {target}"
            assert "restore" in caught.value.remedy


async def test_what_a_namespace_loses_while_it_is_deleted_is_not_taken_for_absent(
    box: SandboxCluster, boxed: Objects
) -> None:
    """Its objects go one after another: half of the expiry bounds would open a gate."""
    assert boxed.api is not None
    async with boxed.opened() as store:
        for name in ("a", "b"):
            await store.write(f"horizons/{name}", b"x")
        assert await store.keys("horizons/") == ["horizons/a", "horizons/b"]
        await boxed.api.delete(f"/api/v1/namespaces/{boxed.namespace}-signers")
        assert await store.keys("horizons/") == ["horizons/a", "horizons/b"]  # nothing is gone yet
        await boxed.api.delete(boxed.path_of("horizons/a"))
        with pytest.raises(StateUnavailable, match="being deleted"):
            await store.keys("horizons/")
    async with boxed.opened() as fresh:
        with pytest.raises(StateUnavailable, match="being deleted"):
            await fresh.keys("horizons/")
        with pytest.raises(StateUnavailable, match="being deleted"):
            await fresh.read("horizons/a")


async def test_lists_are_read_to_the_end(
    box: SandboxCluster, boxed: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("federation.state.kubernetes_store.PAGE", 3)
    expected = [f"generations/{number:03d}" for number in range(10)]
    async with boxed.opened() as store:
        for key in expected:
            await store.write(key, b"x")
        assert await store.keys("generations/") == expected
        with box.faults.inject(Gone(), verb="list", times=1) as fault:
            assert await store.keys("generations/") == expected
        assert fault.hits == 1
        monkeypatch.setattr("federation.state.kubernetes_store.MAX_PAGES", 2)
        with pytest.raises(StateUnavailable, match="pages"):
            await store.keys("generations/")


async def test_an_edit_of_labels_damages_nothing_and_hides_nothing(boxed: Objects) -> None:
    async with boxed.opened() as store:
        version = await store.write("horizons/a", b"x")
        await boxed.edit("horizons/a", {"metadata": {"labels": None, "annotations": {"who": "me"}}})
        assert await store.keys("horizons/") == ["horizons/a"]
        found = await store.read("horizons/a")
        assert found is not None
        assert found.data == b"x"
        with pytest.raises(StateConflict):
            await store.write("horizons/a", b"y", expected=version)
        await store.write("horizons/a", b"y", expected=found.version)
    assert (await boxed.object("horizons/a"))["metadata"]["labels"]["federation-hub/state"] == "document"


async def test_what_an_object_looks_like(boxed: Objects) -> None:
    async with boxed.opened() as store:
        await store.write("signers/a", b'{"replica":"a"}')
    found = await boxed.object("signers/a")
    assert found["kind"] == "ConfigMap"
    assert found["metadata"]["namespace"] == f"{boxed.namespace}-signers"
    assert found["metadata"]["annotations"] == {"federation-hub/key": "signers/a"}
    assert found["data"]["document"] == '{"replica":"a"}'
    assert found["data"]["header"].startswith("federation-state/1 ")


async def test_no_token_is_in_an_error(box: SandboxCluster, boxed: Objects) -> None:
    token = box.user_token("unprivileged")
    kubeconfig = box.write_kubeconfig(boxed.kubeconfig, "unprivileged", token=token)
    async with replace(boxed, kubeconfig=kubeconfig).opened() as store:
        with pytest.raises(StateUnavailable, match="403") as caught:
            await store.read("current")
    assert token not in caught.value.diagnostics()
    assert "unprivileged" in caught.value.diagnostics()


@dataclass
class Deposing(LateApi):
    """A network in which the first write hangs until its process leads no more; the next attempt would get through."""

    leading: bool = True

    async def request(self, method: str, path: str, **options: Any) -> bytes:
        try:
            return await super().request(method, path, **options)
        except ClusterTimeout:
            self.leading, self.delay = False, set()
            raise


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_no_attempt_is_made_after_leadership_was_lost(objects: Objects, method: str) -> None:
    """A leader that was stopped in the middle of a write wakes to its next attempt."""
    networks: list[Deposing] = []

    def before(api: KubernetesApi) -> Deposing:
        networks.append(Deposing(api))
        return networks[-1]

    async with replace(objects, options={}, before=before).opened() as store:
        (network,) = networks
        await store.write("rotation", b"before")
        network.delay = {method}
        leaders = store.of_leader(network)
        key = "current" if method == "POST" else "rotation"
        late = leaders.delete(key) if method == "DELETE" else leaders.write(key, b"late")
        with pytest.raises(LeadershipLost):
            await late
        found = await store.read("rotation")
        assert found is not None
        assert found.data == b"before"
        assert await store.read("current") is None
        await store.write("controllers/a", b"a report of its own")
