"""What messages ask of a reader can be done: verbs, options, configuration keys and files that they name exist.

Every text of the package is checked, wherever it is; only docstrings and the sandbox are left out.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from federation.cli.main import VERBS, build_parser
from tests.core.config.example import TEXT

PACKAGE = Path(__file__).parents[2] / "federation"
ROOT = PACKAGE.parent
ANY = "WORD"
"""In the place of what is put in when the message is made."""

COMMAND = re.compile(rf"`(federation [^`]*)`|\bfederation ((?:{'|'.join(VERBS)}) [^`,;:()]*)")
KUBECTL = re.compile(
    r"\bkubectl ((?:-n \S+ )?(?:get|describe|rollout|delete|apply|patch|label|logs)\b[^`,;()]*)"
)
TABLE = re.compile(r"\[\[?([a-z_]+(?:\.[a-z_]+)*)\]\]?")
KEY = re.compile(r"\b(?:signer|controller|door|status|state|trust|clusters|policy|istio)(?:\.[a-z_]+)+\b")
ASSIGNED = re.compile(r"\b([a-z]+_[a-z_]+) = ")
PATH = re.compile(r"\b(?:manifests|docs)/[A-Za-z0-9_./-]*[A-Za-z0-9]")


def _texts(path: Path) -> Iterator[tuple[int, str]]:
    """Every text of a module with its line, as it reads; docstrings are for developers."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    left_out: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.Expr) and isinstance(
            node.value, ast.Constant
        ):  # docstrings, of attributes as well
            left_out.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            left_out.update(id(each) for each in ast.walk(node) if each is not node)
        elif isinstance(node, ast.Call) and _is_no_message(node.func):
            left_out.update(id(each) for each in ast.walk(node))
    for node in nodes:
        if id(node) in left_out:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else ANY for part in node.values]
            yield node.lineno, "".join(map(str, parts))


def _is_no_message(called: ast.expr) -> bool:
    """Whether what is called takes a pattern or a module's name."""
    if isinstance(called, ast.Name):
        return called.id == "import_module"
    return (
        isinstance(called, ast.Attribute)
        and isinstance(called.value, ast.Name)
        and (called.value.id, called.attr) == ("re", "compile")
    )


@cache
def _messages() -> tuple[tuple[str, str], ...]:
    return tuple(
        (f"{path.relative_to(ROOT)}:{line}", text)
        for path in sorted(PACKAGE.rglob("*.py"))
        for line, text in _texts(path)
        if " " in text
    )


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def command_problem(command: str) -> str:
    """Why the command line would not take it; empty where it would, or where only arguments are missing."""
    parser: argparse.ArgumentParser = build_parser()
    given = command.split()[1:]
    while given and (children := _children(parser)):
        word = given.pop(0)
        if word not in children:
            return f"{word} is no verb of {parser.prog}"
        parser = children[word]
    options = {name for action in parser._actions for name in action.option_strings}
    takes = any(not action.option_strings for action in parser._actions)
    for word in given:
        if word.startswith("--") and word not in options:
            return f"{word} is no option of {parser.prog}"
        if not word.startswith("-") and not takes and not options:
            return f"{parser.prog} takes no {word}"
    return ""


def kubectl_problem(command: str) -> str:
    """What is missing from a command to be run as it is written; names in capitals are for the reader to fill in."""
    words = [word for word in re.sub(r"^-n \S+ | -o \S+", "", command).split() if word]
    verb, options = words[0], {word.partition("=")[0] for word in words if word.startswith("-")}
    if verb == "apply":
        return "" if options & {"-f", "-k", "--filename", "--kustomize"} else "applies nothing"
    given = [word for word in words[2 if verb == "rollout" else 1 :] if not word.startswith("-")]
    if options & {"--raw", "--all-namespaces", "-A", "-l"}:
        return "" if given else "names nothing"
    if not given:
        return "names neither kind nor object"
    if len(given) == 1 and "/" not in given[0]:
        return "names no object"
    return "" if command.startswith("-n ") else "names no namespace"


def known_keys() -> set[str]:
    """Every table and key of the example configuration, which shows each of them."""
    table, found = "", set[str]()
    for line in TEXT.splitlines():
        text = line.lstrip("#").strip()
        if header := re.match(r"\[\[?([a-z_.]+)\]\]?", text):
            table = header[1]
            found.add(table)
        elif (key := re.match(r"([a-z_]+(?:\.[a-z_]+)*) = ", text)) and not line.startswith("# "):
            found.add(f"{table}.{key[1]}".lstrip("."))
    return found | {name.rpartition(".")[0] for name in found}


@cache
def _commands() -> list[tuple[str, str]]:
    """Every command that a message names, with its place; not at import, which each worker does."""
    return sorted(
        {
            (place, (match[1] or f"federation {match[2]}"))
            for place, text in _messages()
            for match in COMMAND.finditer(text)
        }
    )


def test_there_are_messages_that_name_commands() -> None:
    assert len(_commands()) > 50


def test_every_command_that_a_message_names_exists() -> None:
    problems = {f"{place}: {command}": command_problem(command) for place, command in _commands()}
    assert {place: why for place, why in problems.items() if why} == {}


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("federation rotate begin", "begin is no verb"),
        ("federation verify --all", "--all is no option"),
        ("federation rotate quarantine WORD --reason ...", ""),
        ("federation clusters check east", ""),
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str, problem: str) -> None:
    found = command_problem(command)
    assert problem in found
    assert bool(found) is bool(problem)


def test_every_kubectl_command_that_a_message_names_is_complete() -> None:
    found = [(place, command) for place, text in _messages() for command in KUBECTL.findall(text)]
    assert len(found) > 5
    problems = {f"{place}: {command}": kubectl_problem(command) for place, command in found}
    assert {place: why for place, why in problems.items() if why} == {}


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("describe", "neither kind nor object"),
        ("get -o yaml --show-managed-fields", "neither kind nor object"),
        ("get --watch", "neither kind nor object"),
        ("-n WORD get configmap", "no object"),
        ("get configmap WORD", "no namespace"),
        ("apply", "nothing"),
        ("apply -f sail.yaml", ""),
        ("get configmaps --all-namespaces --watch-only", ""),
        ("get --raw /openid/v1/jwks", ""),
        ("-n WORD describe WORD.WORD/WORD", ""),
        ("-n NAMESPACE rollout restart deployment NAME", ""),
        ("-n NAMESPACE rollout restart deployment", "no object"),
    ],
)
def test_a_command_of_kubectl_that_cannot_be_run_is_found(command: str, problem: str) -> None:
    found = kubectl_problem(command)
    assert problem in found
    assert bool(found) is bool(problem)


NEEDED = {
    r"openssl (?:x509|pkey|req)\b": "-in ",
    r"aws acm-pca\b": "--certificate-authority-arn ",
    r"pkcs11-tool\b": "--module ",
}
"""What these commands wait for, or refuse to begin without."""


def test_commands_of_others_are_complete() -> None:
    found = [
        (place, command, needed)
        for place, text in _messages()
        for start, needed in NEEDED.items()
        for command in re.findall(rf"{start}[^`,;()]*", text)
    ]
    assert len({needed for _, _, needed in found}) == len(NEEDED)
    assert [(place, command) for place, command, needed in found if needed not in command] == []


def test_every_configuration_key_that_a_message_names_exists() -> None:
    known = known_keys()
    suffixes = {name.split(".", start)[-1] for name in known for start in range(1, name.count(".") + 1)}
    unknown = {
        f"{place}: {name}"
        for place, text in _messages()
        for name in [*KEY.findall(text), *TABLE.findall(text), *ASSIGNED.findall(text)]
        if name not in known and name not in suffixes and not name.endswith((".toml", ".io"))
    }
    assert unknown == set()


def test_many_messages_name_keys() -> None:
    """A pattern that matches nothing would find nothing wrong."""
    assert len({name for _, text in _messages() for name in KEY.findall(text)}) > 20


def test_every_file_that_a_message_names_is_there() -> None:
    missing = {
        f"{place}: {path}"
        for place, text in _messages()
        for path in PATH.findall(text)
        if not (ROOT / path).exists()
    }
    assert missing == set()
