"""The pure parts of publication: taking ConfigMaps apart, counting what was observed, lag, and contention."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.controller.publication.config_map import (
    MOST_EXTRA_KEYS,
    MOST_WRITERS,
    ConfigMapDecoder,
    Contents,
    ObservedConfigMap,
    Target,
    wipe_body,
)
from federation.controller.publication.namespace_count import EXAMPLES, NamespaceCount, ReadBack, Shown
from federation.controller.publication.publisher import IMMEDIATE, LONGEST_WAIT, QUIET, Contention, Lag
from federation.core.config.hub import PublicationConfig
from federation.core.documents.trust import Generation
from federation.core.errors import InvalidValue
from federation.core.trust.bundle import MAX_BUNDLE_BYTES
from federation.kubernetes.objects import ObjectKey, ObjectMeta
from tests.controller.world import KEY, NAME

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
SHA = hashlib.sha256(PEM.encode()).hexdigest()
CREATED = 1_000_000.0


def generation(number: int = 3, pem: str = PEM) -> Generation:
    return Generation(
        number=number,
        created=CREATED,
        reason="test",
        author="test",
        trust_domain="mesh.example",
        sha256=hashlib.sha256(pem.encode()).hexdigest(),
        bundle_pem=pem,
        anchors=[],
    )


TARGET = Target.of(generation(), PublicationConfig())


def config_map(data: Any = None, labels: Any = None, managed: Any = None, **more: Any) -> bytes:
    meta = {
        "name": NAME,
        "namespace": "shop",
        "resourceVersion": "7",
        "labels": {"istio.io/config": "true"} if labels is None else labels,
        "managedFields": managed,
    }
    return json.dumps({"metadata": meta, "data": data, **more}).encode()


def owner(manager: str, key: str = KEY, **more: Any) -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": "Update",
        "fieldsV1": {"f:data": {".": {}, f"f:{key}": {}}},
        **more,
    }


def decode(payload: bytes) -> ObservedConfigMap:
    return ConfigMapDecoder(KEY, Contents())(payload).value


def test_the_body_is_the_object_of_istio_and_nothing_else() -> None:
    assert json.loads(TARGET.body) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "labels": {"istio.io/config": "true"}},
        "data": {KEY: PEM},
    }
    assert TARGET.path("shop") == f"/api/v1/namespaces/shop/configmaps/{NAME}"


def test_a_bundle_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InvalidValue, match="does not fit"):
        Target.of(generation(pem="x" * (MAX_BUNDLE_BYTES + 1)), PublicationConfig())


@pytest.mark.parametrize(
    ("payload", "met"),
    [
        (config_map({KEY: PEM}), True),
        (config_map({KEY: PEM}, {"istio.io/config": "true", "more": "x"}), True),
        (config_map({KEY: PEM}, {}), False),
        (config_map({KEY: PEM}, {"istio.io/config": "false"}), False),
        (config_map({KEY: PEM + "\n"}), False),
        (config_map({KEY: PEM, "extra": ""}), False),
        (config_map({KEY: PEM}, binaryData={"extra": "AA=="}), False),
        (config_map({"extra": PEM}), False),
        (config_map({}), False),
        (config_map(None), False),
    ],
)
def test_only_exactly_our_object_meets_the_target(payload: bytes, met: bool) -> None:
    assert TARGET.is_met_by(decode(payload)) is met
    assert TARGET.is_met_by(None) is False


def test_only_other_owners_of_the_key_are_named() -> None:
    managed = [
        owner("pilot-discovery"),
        owner("federation-hub"),
        owner("labeller", "another"),
        owner("kubelet", subresource="status"),
        {"manager": "odd"},
    ]
    assert decode(config_map({KEY: PEM}, managed=managed)).writers == ("pilot-discovery",)


@pytest.mark.parametrize(
    ("managed", "ours"),
    [
        ([owner("pilot-discovery")], False),
        ([owner("federation-hub")], True),
        ([owner("pilot-discovery"), owner("federation-hub", "another")], True),
        ([{"manager": "federation-hub", "fieldsV1": {"f:metadata": {"f:labels": {}}}}], True),
        (None, False),
    ],
)
def test_an_object_is_ours_as_long_as_the_hub_owns_something_of_it(managed: Any, ours: bool) -> None:
    assert decode(config_map({KEY: PEM}, managed=managed)).ours is ours


def test_a_hostile_cluster_cannot_make_one_object_large() -> None:
    data = {f"key-{number:05}": "x" for number in range(5000)}
    observed = decode(config_map(data, managed=[owner("m" * 5000 + str(n)) for n in range(100)]))
    assert len(observed.extra) == MOST_EXTRA_KEYS
    assert len(observed.writers) <= MOST_WRITERS
    assert all(len(writer) <= 128 for writer in observed.writers)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"metadata": []}', b'{"metadata": {"name": "x"}, "data": {"a": 1}}']
)
def test_what_is_no_config_map_is_an_error_of_decoding(payload: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode(payload)


def test_equal_objects_are_one_in_memory() -> None:
    decoder = ConfigMapDecoder(KEY, Contents())
    first, second = decoder(config_map({KEY: PEM})), decoder(config_map({KEY: PEM}))
    assert first.value is second.value


def test_wiping_touches_the_named_keys_only() -> None:
    patch = json.loads(wipe_body(["data/foo", "data/a.b", "binaryData/bin"]))
    assert patch == {"data": {"foo": None, "a.b": None}, "binaryData": {"bin": None}}


@given(st.lists(st.text(max_size=40), max_size=40), st.integers(1, 200))
def test_contents_stay_within_their_bound(texts: list[str], most: int) -> None:
    contents = Contents(most_bytes=most)
    for text in texts:
        digest = contents.note(text)
        assert contents.get(digest) == text.encode("utf-8", "surrogatepass")
    kept = [t for t in set(texts) if contents.get(contents_digest(t)) is not None]
    assert len(kept) <= 1 or sum(map(len, kept)) <= most


def contents_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def namespaces(*names: str, deleted: tuple[str, ...] = ()) -> dict[ObjectKey, ObjectMeta]:
    return {
        ObjectKey("", name): ObjectMeta("", name, b"uid", 1.0 if name in deleted else None) for name in names
    }


def with_certificate(**observed: str) -> dict[ObjectKey, ObservedConfigMap]:
    return {
        ObjectKey(name, NAME): ObservedConfigMap(digest, labelled=True) for name, digest in observed.items()
    }


def read_back(
    namespaces: dict[ObjectKey, ObjectMeta],
    config_maps: dict[ObjectKey, ObservedConfigMap],
    target: Target | None,
    *,
    excluded: tuple[str, ...] = (),
    keeps: Callable[[str, ObservedConfigMap | None], bool] = lambda _, __: False,
    **more: Any,
) -> ReadBack:
    count = NamespaceCount(config_map=NAME, excluded=excluded, keeps=keeps)
    return count.count(Shown(namespaces=namespaces, config_maps=config_maps, target=target, **more))


def test_every_namespace_is_counted_once() -> None:
    counted = read_back(
        namespaces("a", "b", "c", "d", "e", "f", "g", deleted=("c",)),
        with_certificate(a=SHA, b="old", c=SHA, e=SHA, g="old"),
        TARGET,
        excluded=("e",),
        terminating={"d"},
        forbidden={"f": "403"},
        failed={"g": "422"},
    )
    assert (counted.selected, counted.current, counted.failed, counted.pending) == (4, 1, 1, 1)
    assert (counted.terminating, counted.forbidden, counted.excluded) == (2, 1, 1)
    assert counted.contents == {SHA: 1, "old": 2}
    assert counted.problems == ("g: 422", "f: 403")


def test_content_kept_for_now_is_counted_and_reported() -> None:
    counted = read_back(
        namespaces("a", "b"),
        with_certificate(a=SHA, b="own"),
        TARGET,
        keeps=lambda name, _: name == "b",
    )
    assert (counted.selected, counted.current, counted.joining) == (2, 1, 1)
    (problem,) = counted.problems
    assert problem.startswith("b: it holds a CA of its own")


def test_who_is_not_current_is_named() -> None:
    def others(current: int, behind: int) -> str:
        names = [f"ns-{number}" for number in range(current + behind)]
        observed = with_certificate(**dict.fromkeys(names[:current], SHA))
        return read_back(namespaces(*names), observed, TARGET).others

    assert others(2, 0) == ""
    assert others(1, 2) == ", not ns-1, ns-2"
    assert others(0, 9) == ", not ns-0, ns-1, ns-2 and 6 more"


def test_current_content_counts_even_if_a_write_was_forbidden() -> None:
    counted = read_back(namespaces("a"), with_certificate(a=SHA), TARGET, forbidden={"a": "403"})
    assert (counted.selected, counted.current, counted.forbidden) == (1, 1, 0)


def test_nothing_is_current_without_a_target() -> None:
    counted = read_back(namespaces("a"), with_certificate(a=SHA), None)
    assert (counted.selected, counted.current, counted.pending) == (1, 0, 1)


def test_the_generation_is_the_oldest_observed_one() -> None:
    numbers = {SHA: 3, "old": 2}
    both = read_back(namespaces("a", "b"), with_certificate(a=SHA, b="old"), TARGET)
    assert both.generation(numbers) == 2
    strange = read_back(namespaces("a", "b"), with_certificate(a=SHA, b="strange"), TARGET)
    assert strange.generation(numbers) == 0
    missing = read_back(namespaces("a", "b"), with_certificate(a=SHA), TARGET)
    assert missing.generation(numbers) == 0
    assert read_back({}, {}, TARGET).generation(numbers) == 0


def test_namespaces_with_a_content_are_named_by_examples() -> None:
    names = [f"ns-{number}" for number in range(9)]
    many = read_back(namespaces(*names), with_certificate(**dict.fromkeys(names, SHA)), TARGET)
    assert many.where(SHA).startswith("9 namespaces, for example ns-")
    assert len(many.examples[SHA]) == EXAMPLES
    one = read_back(namespaces("shop"), with_certificate(shop=SHA), TARGET)
    assert one.where(SHA) == "namespace shop"


def test_lag_grows_until_publication_is_complete_and_then_stays() -> None:
    lag = Lag(since=CREATED - 10)
    assert lag.of(None, complete=False, now=CREATED) == 0
    assert lag.of(generation(), complete=False, now=CREATED + 2) == 2
    assert lag.of(generation(), complete=True, now=CREATED + 3) == 3
    assert lag.of(generation(), complete=False, now=CREATED + 500) == 3
    assert lag.of(generation(4), complete=False, now=CREATED + 500) == 500


def test_a_cluster_that_joins_later_is_measured_from_then() -> None:
    assert Lag(since=CREATED + 1000).of(generation(), complete=True, now=CREATED + 1001) == 1


def test_the_first_restorations_are_immediate_and_further_ones_wait_longer() -> None:
    contention, now = Contention(), 0.0
    for _ in range(IMMEDIATE):
        contention.strike("shop", now)
        assert contention.wait("shop", now) == 0
    assert contention.contested(now) == []
    waits = []
    for _ in range(12):
        contention.strike("shop", now)
        waits.append(contention.wait("shop", now))
        now += waits[-1]
    assert waits[:3] == [2.0, 4.0, 8.0]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT
    assert contention.contested(now) == ["shop"]
    assert contention.wait("bank", now) == 0


def test_a_fight_that_ended_is_forgotten() -> None:
    contention = Contention()
    contention.seen(["pilot-discovery"], 0.0)
    for _ in range(9):
        contention.strike("shop", 0.0)
    assert contention.writers(QUIET) == ["pilot-discovery"]
    assert contention.writers(QUIET + 1) == []
    assert contention.contested(QUIET + 1) == []
    contention.strike("shop", QUIET + 2)
    assert contention.wait("shop", QUIET + 2) == 0


@given(st.lists(st.floats(0.0, 700.0), max_size=60))
def test_a_writer_that_always_answers_gets_ever_fewer_answers(pauses: list[float]) -> None:
    """For any rhythm: within ten minutes that contain no ten-minute pause there are at most a dozen answers."""
    contention, now, answers, since = Contention(), 0.0, 0, 0.0
    for pause in pauses:
        if pause > QUIET:
            since, answers = now + pause, 0
        now += pause
        contention.strike("shop", now)
        now += contention.wait("shop", now)
        answers += 1
        if now - since <= 600:
            assert answers <= IMMEDIATE + 10
