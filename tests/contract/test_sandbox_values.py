"""Properties of the sandbox's pure parts: field sets, apply, patches, selectors, request paths, history."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation_sandbox.apiserver import field_ownership
from federation_sandbox.apiserver.field_ownership import ApplyConflictError, Manager, apply, read
from federation_sandbox.apiserver.patches import json_patch, merge_patch
from federation_sandbox.apiserver.requests import field_selector, label_selector, read_request
from federation_sandbox.apiserver.resources import CONFIG_MAPS
from federation_sandbox.apiserver.status import ApiError
from federation_sandbox.apiserver.store import HistoryGoneError, Store

HUB, OTHER = (Manager(name, "Apply", "v1") for name in ("hub", "other"))
NOW = "2026-01-01T00:00:00Z"

names = st.sampled_from(["a", "b", "c.pem", "d"])
values = st.text("xyz", max_size=2)
data = st.dictionaries(names, values, max_size=4)
references = st.lists(
    st.fixed_dictionaries({"uid": names, "name": values}), max_size=3, unique_by=lambda one: one["uid"]
)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    meta: dict[str, Any] = {"name": "one"}
    optional = {"labels": data, "annotations": data, "ownerReferences": references}
    for field, strategy in optional.items():
        if draw(st.booleans()):
            meta[field] = draw(strategy)
    found: dict[str, Any] = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta}
    return found | ({"data": draw(data)} if draw(st.booleans()) else {})


def run(
    live: dict[str, Any], config: dict[str, Any], manager: Manager = HUB, *, force: bool = False
) -> dict[str, Any]:
    return apply(live, config, manager, force=force, now=NOW)


@given(configs())
def test_field_sets_survive_their_encoding(config: dict[str, Any]) -> None:
    fields = field_ownership.of_object(config)
    assert field_ownership.from_fields_v1(field_ownership.to_fields_v1(fields)) == fields


@given(configs(), configs())
def test_applying_twice_is_applying_once(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = run(run({}, first, OTHER), second, force=True)
    assert run(live, second) == live


@given(configs(), configs())
def test_apply_changes_neither_of_its_arguments(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = run({}, first)
    before = copy.deepcopy((live, second))
    run(live, second, OTHER, force=True)
    assert (live, second) == before


@given(configs(), configs())
def test_the_only_manager_gets_exactly_what_it_names(first: dict[str, Any], second: dict[str, Any]) -> None:
    result = run(run({}, first), second)
    assert result.get("data", {}) == second.get("data", {})
    for field in ("labels", "annotations"):
        assert result["metadata"].get(field, {}) == second["metadata"].get(field, {})
    uids = [one["uid"] for one in result["metadata"].get("ownerReferences", [])]
    assert sorted(uids) == sorted(one["uid"] for one in second["metadata"].get("ownerReferences", []))


@given(configs(), configs())
def test_a_conflict_is_a_difference_in_what_another_owns(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    live = run({}, first, OTHER)
    differs = [
        key for key, value in second.get("data", {}).items() if first.get("data", {}).get(key, value) != value
    ]
    try:
        result = run(live, second)
    except ApplyConflictError as conflict:
        causes = (conflict.details or {})["causes"]
        fields = {cause["field"] for cause in causes}
        assert {f".data.{key}" for key in differs} <= fields
        forced = run(live, second, force=True)
        assert forced.get("data", {}) == first.get("data", {}) | second.get("data", {})
    else:
        assert not differs
        assert result.get("data", {}) == first.get("data", {}) | second.get("data", {})


@given(configs(), configs())
def test_force_leaves_no_changed_field_with_another(first: dict[str, Any], second: dict[str, Any]) -> None:
    live = run({}, first, OTHER)
    managers = read(run(live, second, force=True))
    assert managers.get(HUB) is not None or not field_ownership.without_ignored(
        field_ownership.of_object(second)
    )
    changed = field_ownership.compare(live, run(live, second, force=True)).written
    assert OTHER not in managers or not managers[OTHER].fields & changed


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_as_in_rfc_7386_appendix_a(target: Any, patch: Any, result: Any) -> None:
    assert merge_patch(target, patch) == result


@pytest.mark.parametrize(
    ("target", "operations", "result"),
    [
        (
            {"foo": ["bar", "baz"]},
            [{"op": "add", "path": "/foo/1", "value": "qux"}],
            {"foo": ["bar", "qux", "baz"]},
        ),
        ({"foo": ["bar"]}, [{"op": "add", "path": "/foo/-", "value": ["x"]}], {"foo": ["bar", ["x"]]}),
        (
            {"a": {"b": 1}, "c": {}},
            [{"op": "move", "from": "/a/b", "path": "/c/d"}],
            {"a": {}, "c": {"d": 1}},
        ),
        ({"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
        ({"a": 1}, [{"op": "copy", "from": "/a", "path": "/b"}], {"a": 1, "b": 1}),
    ],
)
def test_json_patch_as_in_rfc_6902_appendix_a(target: Any, operations: Any, result: Any) -> None:
    assert json_patch(target, operations) == result


json_values = st.recursive(
    st.none() | st.integers() | values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
)


@given(
    json_values,
    st.lists(st.dictionaries(st.sampled_from(["op", "path", "from", "value"]), json_values), max_size=3),
)
def test_json_patch_refuses_nonsense_as_the_api_does(target: Any, operations: Any) -> None:
    try:
        json_patch(target, operations)
    except ApiError as refused:
        assert refused.code in {400, 422}
    else:
        assert isinstance(operations, list)


@given(st.text(max_size=40))
def test_selectors_parse_or_refuse(text: str) -> None:
    obj = {"metadata": {"name": "one", "labels": {"a": "b"}}}
    for parse in (label_selector, lambda text: field_selector(CONFIG_MAPS, text)):
        try:
            chosen = parse(text)(obj)
        except ApiError as refused:
            assert refused.code == 400
        else:
            assert chosen in {True, False}


@given(
    st.sampled_from(["GET", "PUT", "POST", "PATCH", "DELETE", "BREW"]),
    st.text("/apis1v.namespaces-x%", max_size=40),
)
def test_any_path_can_be_read(method: str, path: str) -> None:
    info = read_request(method, "/" + path, {"watch": "1"})
    assert info.verb
    assert not info.subresource or info.resource


@given(st.lists(st.tuples(st.sampled_from(["put", "remove"]), names, values), max_size=20))
def test_history_gives_back_every_state(operations: list[tuple[str, str, str]]) -> None:
    store = Store()
    subscription = store.subscribe(CONFIG_MAPS, store.revision)
    states: dict[int, dict[str, str]] = {store.revision: {}}
    now: dict[str, str] = {}
    for kind, name, value in operations:
        if kind == "put":
            meta = {"name": name, "namespace": "ns", "uid": name}
            store.put(CONFIG_MAPS, {"metadata": meta, "data": value})
            now = now | {name: value}
        elif name in now:
            store.remove(CONFIG_MAPS, "ns", name)
            now = {key: value for key, value in now.items() if key != name}
        states[store.revision] = now
    for revision, state in states.items():
        assert {one.name: one.value["data"] for one in store.at(CONFIG_MAPS, revision)} == state
    replayed: dict[str, str] = {}
    for event in subscription.take():
        if event.type == "DELETED":
            del replayed[event.stored.name]
        else:
            assert (event.type == "ADDED") == (event.stored.name not in replayed)
            replayed[event.stored.name] = event.stored.value["data"]
        assert replayed == states[event.revision]
    store.compact()
    for revision in states:
        if revision < store.revision:
            with pytest.raises(HistoryGoneError):
                store.at(CONFIG_MAPS, revision)
