"""``docs/authorities.md`` is true where a test can check it: its settings parse, its reasons are those of the code."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from federation.core.config.authorities.section import KINDS
from federation.core.config.load import parse_config
from tests.authorities.real_vault import LISTENER_ROLE, OWN_TOKEN, WORKLOAD_ROLE, pki_policy
from tests.core.config.example import AUTHORITY, CONJUR, PLAIN, SPIFFE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "authorities.md").read_text("utf-8")
FENCE = re.compile(r"^```([a-z]+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
WORD = re.compile(r"`([a-z0-9_]+)`")

TOML = [text for language, text in FENCE.findall(PAGE) if language == "toml"]
YAML = [text for language, text in FENCE.findall(PAGE) if language == "yaml"]

NEVER_SHOWN = {"in_progress"}
"""The reason of a wait that the hub itself ends; operators never see it."""


def whole(block: str, tables: dict[str, str]) -> str:
    """A complete configuration with that block in it, in place of tables of the same name."""
    tables = tables | parts(block)
    before, _, rest = PLAIN.partition(f"[{AUTHORITY}]\n")
    _, _, after = rest.partition("\n\n")
    return "\n".join([before, *tables.values(), after])


def parts(block: str) -> dict[str, str]:
    """The tables of a block by their names."""
    found = re.split(r"^(?=\[)", block, flags=re.MULTILINE)
    return {part[1 : part.index("]")]: part for part in found if part.startswith("[")}


def defaults(block: str) -> dict[str, str]:
    """What else a configuration with that block contains; the last Vault of the page, for a way to log in."""
    vault = next(other for other in TOML if 'kind = "vault"' in other)
    head = {AUTHORITY: parts(vault)[AUTHORITY]} if AUTHORITY not in parts(block) else {}
    if "signer.authority.auth" not in parts(block) and head:
        head["signer.authority.auth"] = parts(vault)["signer.authority.auth"]
    return head | {table.table: "\n".join([*table.lines, ""]) for table in (CONJUR, SPIFFE)}


@pytest.mark.parametrize("block", TOML, ids=lambda block: block.split("\n")[0] + block.split("\n")[1])
def test_settings_of_the_page_are_taken(block: str) -> None:
    config = parse_config(whole(block, defaults(block)), file="/x/clusters.toml")
    kind = re.search(r'^kind = "(.*)"', block, re.MULTILINE)
    assert kind is None or config.signer.authority.kind == kind[1]


def test_the_page_has_every_kind() -> None:
    shown = {kind for block in TOML for kind in re.findall(r'^kind = "(.*)"', block, re.MULTILINE)}
    assert shown == set(KINDS), "docs/authorities.md has a section for each kind with its settings as ```toml"


def reasons_of_the_page() -> set[str]:
    """The first column of the tables of reasons."""
    found: set[str] = set()
    inside = False
    for line in PAGE.splitlines():
        inside = line.startswith("|") and (inside or line.startswith("| reason |"))
        if inside:
            found |= set(WORD.findall(line.split("|")[1]))
    return found


def sources() -> Iterator[Path]:
    for path in (ROOT / "federation" / "signer" / "authorities").rglob("*.py"):
        if path.name != "selection.py":  # who may sign is the rotation's to say: docs/rotation.md
            yield path
    yield from (ROOT / "federation" / "core" / "pki").rglob("*.py")


@cache
def texts_of_the_code() -> frozenset[str]:
    """Every string of the code that may be a reason."""
    core = ROOT / "federation" / "core"
    every = [*sources(), core / "errors.py", core / "rotation" / "effects.py"]
    nodes = (node for path in every for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    return frozenset(
        node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def reasons_of_the_code() -> set[str]:
    """What is written as a reason: ``reason="..."``, and the first word of what makes errors of a kind."""
    found: set[str] = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            values: list[ast.AST] = [k.value for k in node.keywords if k.arg == "reason"]
            maker = node.func.id if isinstance(node.func, ast.Name) else ""
            values += node.args[:1] if maker in {"Problem", "_violation", "_misconfigured"} else []
            values += node.args[1:2] if maker == "_Meaning" else []
            inner = (inner for value in values for inner in ast.walk(value))
            found |= {i.value for i in inner if isinstance(i, ast.Constant) and isinstance(i.value, str)}
    return found - {""}


def test_every_reason_of_the_page_is_one_of_the_code() -> None:
    found = reasons_of_the_page()
    assert len(found) > 90
    assert found - texts_of_the_code() == set()


def test_every_reason_of_the_code_is_on_the_page() -> None:
    found = reasons_of_the_code()
    assert len(found) > 90
    assert found - set(WORD.findall(PAGE)) - NEVER_SHOWN == set()


def roles_of(page: str) -> dict[str, dict[str, Any]]:
    """The roles that a page's commands write, as Vault's API takes them."""
    found: dict[str, dict[str, Any]] = {}
    for command in re.findall(r"^bao write mesh/roles/((?:.*\\\n)*.*)", page, re.MULTILINE):
        name, *settings = shlex.split(command.replace("\\\n", " "))
        found[name] = dict(setting.split("=", 1) for setting in settings)
    return found


def as_written(role: dict[str, Any]) -> dict[str, str]:
    """A role of the tests as the command line has it; an empty list is what a role has without it."""
    texts = {key: ",".join(value) if isinstance(value, list) else str(value) for key, value in role.items()}
    return {key: {"True": "true", "False": "false"}.get(text, text) for key, text in texts.items() if text}


@pytest.mark.parametrize("page", ["authorities.md", "compatibility.md"])
def test_roles_and_policy_are_those_that_a_real_vault_was_tested_with(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    assert roles_of(text) == {
        "mesh-workload": as_written(WORKLOAD_ROLE),
        "mesh-listener": as_written(LISTENER_ROLE),
    }
    policy = text[text.index("bao policy write federation-hub - <<'EOF'\n") :].split("EOF")[1]
    assert policy.removeprefix("'").split() == (pki_policy("mesh") + OWN_TOKEN).split()


def test_the_overlay_of_the_page_fits_the_manifests() -> None:
    overlay, policy = (yaml.safe_load(text) for text in YAML[:2])
    (patch,) = (yaml.safe_load(entry["patch"]) for entry in overlay["patches"])
    manifests = ROOT / "manifests" / "hub"
    signer: Any = yaml.safe_load((manifests / "signer.yaml").read_text("utf-8"))
    assert patch["kind"] == signer["kind"]
    place = {key: signer["metadata"][key] for key in ("name", "namespace")}
    assert patch["metadata"] == place
    assert policy["metadata"]["namespace"] == place["namespace"]
    patched, pod = patch["spec"]["template"]["spec"], signer["spec"]["template"]["spec"]
    (container,), (own,) = patched["containers"], pod["containers"]
    assert container["name"] == own["name"]
    gone = [volume["name"] for volume in patched["volumes"] if volume.get("$patch") == "delete"]
    unmounted = [mount["mountPath"] for mount in container["volumeMounts"] if mount.get("$patch") == "delete"]
    assert [(m["name"], m["mountPath"]) for m in own["volumeMounts"] if m["name"] in gone] == [
        *zip(gone, unmounted, strict=True)
    ]
    (token,) = (mount["mountPath"] for mount in container["volumeMounts"] if "$patch" not in mount)
    assert f'jwt = "file:{token}/token"' in PAGE
    assert policy["spec"]["podSelector"]["matchLabels"] == signer["spec"]["selector"]["matchLabels"]
