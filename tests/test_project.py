"""What stands around the code is true: licence, version, hooks, the quick loop and the decision records."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import date
from email import message_from_string
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from hypothesis import settings

from tests import layout_page

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")
CHANGES = (ROOT / "CHANGELOG.md").read_text("utf-8")
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]

APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
"""SHA-256 of https://www.apache.org/licenses/LICENSE-2.0.txt."""


def test_the_licence_is_the_official_text() -> None:
    assert sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2


def test_the_wheel_names_the_licence_and_holds_it(tmp_path: Path) -> None:
    """The metadata of the wheel that setuptools would build, without the code."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "federation").mkdir()
    (tmp_path / "federation" / "__init__.py").touch()
    prepare = "import setuptools.build_meta as b; print(b.prepare_metadata_for_build_wheel('out'))"
    (tmp_path / "out").mkdir()
    subprocess.run(
        [sys.executable, "-c", prepare], cwd=tmp_path, check=True, timeout=300, capture_output=True
    )

    (info,) = (tmp_path / "out").glob("*.dist-info")
    metadata = message_from_string((info / "METADATA").read_text("utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    assert sha256((info / "licenses" / "LICENSE").read_bytes()).hexdigest() == APACHE_2


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Dockerfile", r'image\.version="([^"]+)"'),
        ("manifests/hub/controller.yaml", r"image: federation-hub:(\S+)"),
        ("manifests/hub/signer.yaml", r"image: federation-hub:(\S+)"),
        ("charts/federation-hub/Chart.yaml", r"ersion: (\d\S+)$"),
        ("manifests/README.md", r"federation-hub:(\S+) \."),
        ("manifests/README.md", r"newTag: (\S+)"),
    ],
)
def test_the_version_of_pyproject_is_the_only_one(file: str, pattern: str) -> None:
    assert set(re.findall(pattern, (ROOT / file).read_text("utf-8"), re.MULTILINE)) == {PROJECT["version"]}


def test_the_change_log_begins_with_this_version_and_says_what_each_reads() -> None:
    versions = re.findall(r"^## \[(\S+)\](?: - (\S+))?$", CHANGES, re.MULTILINE)

    assert versions[0] == ("Unreleased", "")
    assert versions[1][0] == PROJECT["version"]
    for _, day in versions[1:]:
        date.fromisoformat(day)
    for entry in re.split(r"^## ", CHANGES, flags=re.MULTILINE)[2:]:
        assert "### Compatibility" in entry, entry.splitlines()[0]


def test_hooks_call_only_what_the_lock_pins() -> None:
    assert {repo["repo"] for repo in HOOKS} == {"local"}
    lock = (ROOT / "requirements-test.lock").read_text("utf-8")
    packages = {"ruff": "ruff", "mypy": "mypy", "lint-imports": "import-linter"}
    for hook in HOOKS[0]["hooks"]:
        tool = Path(hook["entry"].split()[0])
        assert tool.parent.as_posix() == ".venv/bin"
        assert hook["language"] == "system"
        assert f"\n{packages[tool.name]}==" in lock


RECORDS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_decision_record_has_its_date_and_its_parts(path: Path) -> None:
    text = path.read_text("utf-8")

    begin = re.match(
        r"# (\d{4})\. \S.*\n\nDecided (\d{4}-\d\d-\d\d)\. (In force|Replaced by \[\d{4}\])", text
    )
    assert begin is not None
    assert path.name.startswith(f"{begin[1]}-")
    date.fromisoformat(begin[2])
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Context", "Decision", "Consequences"]
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (path.parent / target).is_file(), target


def test_decision_records_are_numbered_in_a_row_and_listed_with_their_titles() -> None:
    index = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("\n## Decisions", 1)[1]
    listed = re.findall(
        r"^- \[(\d{4})\]\(decisions/(\S+)\) (.+) \((\S+)\)\.$", index.split("\n## ", 1)[0], re.MULTILINE
    )
    heads = [re.findall(r"\A# \d{4}\. (.+)\n\nDecided (\S+)\.", path.read_text("utf-8")) for path in RECORDS]

    assert [path.name for path in RECORDS] == [name for _, name, _, _ in listed]
    assert [int(number) for number, _, _, _ in listed] == list(range(1, len(RECORDS) + 1))
    assert [found for head in heads for found in head] == [(title, day) for _, _, title, day in listed]


GUIDE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
NOT_OF_TESTS = {
    "FEDERATION_TOKEN_FILE",
    "FEDERATION_URL",
    "FEDERATION_CA_FILE",
    "FEDERATION_SERVER_NAME",
    "FEDERATION_CONTEXT",
    "FEDERATION_UNSAFE",
}
"""The command line's own, and what one test passes to a process of its own."""


def test_what_the_guide_names_is_there() -> None:
    links = set(re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", GUIDE))
    named = set(re.findall(r"`((?:federation|tests|docs)(?:/[\w.-]+)*)`", GUIDE))

    assert {name for name in links | named if not (ROOT / name).exists()} == set()
    verbs = set(re.findall(r"`make (\w+)", GUIDE)) | set(re.findall(r"\$ make (\w+)", GUIDE))
    assert verbs <= set(re.findall(r"^(\w+):", MAKEFILE, re.MULTILINE))


def test_the_guide_names_every_variable_that_tests_read() -> None:
    read = {
        name
        for path in (ROOT / "tests").rglob("*.py")
        if path != Path(__file__)
        for name in re.findall(r"\bFEDERATION_[A-Z_]+\b", path.read_text("utf-8"))
    }

    assert read - NOT_OF_TESTS == set(re.findall(r"\bFEDERATION_[A-Z_]+\b", GUIDE))


def listed(name: str) -> list[str]:
    """The words of a variable of the Makefile."""
    value = re.search(rf"^{name} := ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)
    assert value is not None
    return value[1].replace("\\\n", " ").split()


def test_the_quick_loop_runs_tests_that_are_there_and_leaves_out_only_some_of_them() -> None:
    chosen, left_out = listed("QUICK"), listed("NOT_QUICK")

    assert [name for name in chosen + left_out if not (ROOT / name).exists()] == []
    assert [name for name in left_out if not any(name.startswith(f"{each}/") for each in chosen)] == []
    rooms = {name.split("/")[1] for name in chosen}
    assert {"core", "signer", "controller", "status"} <= rooms, "something of both ways"


def test_the_quick_loop_has_the_same_examples_each_time() -> None:
    quick = settings.get_profile("quick")

    assert (quick.derandomize, quick.database) == (True, None)
    assert "--hypothesis-profile quick" in MAKEFILE


def test_no_two_public_classes_have_one_name() -> None:
    places: dict[str, list[str]] = {}
    for path in (ROOT / "federation").rglob("*.py"):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert len(places) > 300
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_the_layout_page_is_what_the_code_says() -> None:
    text = layout_page.PAGE.read_text("utf-8")
    assert text == layout_page.page(text), "run: python -m tests.layout_page"


def test_every_module_says_what_it_is_for() -> None:
    modules = [path for name in layout_page.PACKAGES for path in (ROOT / name).rglob("*.py")]
    assert len(modules) > 200
    assert [str(path.relative_to(ROOT)) for path in modules if not layout_page.subject(path)] == []


FORMER_WORDS = re.compile(
    r"(?<![a-z])(somebody|nobody|whoever|anybody|told|tells?|telling|heard|held|lately|vouch(es|ed)?|wish(es)?|doubtful"
    r"|horizons?|keepers?|fellows|surroundings|turned[ _]away)(?![a-z])",
    re.IGNORECASE,
)
"""What the code said before it used the field's words (docs/layout.md, Glossary), also as a part of a name."""

NAMES_ON_THE_WIRE = re.compile(
    r'rename=\{|"(horizons|heard|lately)|`(horizons|heard)|\bhorizons[/.@-]|"rejected_calls": "turned_away"'
)
"""Where a document of the state is read and written: those names stay (decision 0055)."""

MAY_NAME_FORMER_WORDS = {
    "CHANGELOG.md",
    "docs/layout.md",
    "docs/decisions/0055-state-documents-keep-their-names.md",
    "tests/last_version/test_names.py",
    "tests/test_project.py",
}


def test_no_former_word_is_in_code_tests_texts_or_docs() -> None:
    files = [path for name in ("federation", "federation_sandbox") for path in (ROOT / name).rglob("*")]
    files += [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "manifests").rglob("*"),
        *(ROOT / "charts").rglob("*"),
        ROOT / "clusters.example.toml",
        *(path for suffix in ("py", "md") for path in (ROOT / "tests").rglob(f"*.{suffix}")),
    ]
    texts = {path for path in files if path.suffix in {".py", ".js", ".html", ".md", ".yaml", ".toml"}}
    assert len(texts) > 300
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(texts)
        if str(path.relative_to(ROOT)) not in MAY_NAME_FORMER_WORDS
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if FORMER_WORDS.search(line) and not NAMES_ON_THE_WIRE.search(line)
    ]
    assert found == []


TESTS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "tests").rglob("*.py"))
}
"""Every module of the tests by its name."""


@cache
def parsed(name: str) -> ast.Module:
    """A module of the tests. Not where this one is imported: each worker imports it, and one runs it."""
    return ast.parse(TESTS[name].read_text("utf-8"))


NOT_THE_PRODUCTS = {
    "_actions": "of argparse, which has no other way to ask a parser what it takes",
    "_ASN1Type": "of cryptography, which has no other way to choose the string type of a name",
    "_exit": "of os: a documented function",
    "_SubParsersAction": "of argparse, as _actions",
    "_x509_extensions": "of moto, whose answers are corrected there",
    "_KmsBackend__ensure_valid_sign_and_verify_key": "of moto, as above",
    "_KmsBackend__ensure_valid_signing_algorithm": "of moto, as above",
}
"""Private names that tests may reach into, each with its reason."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def private_names_reached_into(module: ast.Module) -> Iterator[str]:
    """Those of another object's attributes, of imports, and of names that are patched or asked for."""
    for node in ast.walk(module):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super"))):
                pass
            case ast.Attribute(attr=name) if is_private(name):
                yield name
            case ast.ImportFrom(names=names):
                yield from (alias.name for alias in names if is_private(alias.name))
            case (
                ast.Call(args=[*_, ast.Constant(value=str(text))])
                | ast.Call(args=[_, ast.Constant(value=str(text)), *_] | [ast.Constant(value=str(text)), *_])
            ) if ast.unparse(node.func).rpartition(".")[2] in PATCHES:
                yield from (name for name in text.split(".") if is_private(name))


PATCHES = {"setattr", "getattr", "delattr", "hasattr", "attrgetter"}


def test_tests_go_through_public_faces() -> None:
    found = {(name, each) for name in TESTS for each in private_names_reached_into(parsed(name))}

    assert {(name, each) for name, each in found if each not in NOT_THE_PRODUCTS} == set()
    assert {each for _, each in found} == set(NOT_THE_PRODUCTS), "each exception is needed"


class Function(NamedTuple):
    """A function of a module of the tests, however deep in it."""

    name: str
    line: int
    asserts: bool
    """Whether it has an assertion itself: assert, or what pytest has for it."""
    calls: frozenset[str]
    yields: bool


@cache
def functions(module: str) -> tuple[Function, ...]:
    return tuple(
        described(node)
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def described(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Function:
    nodes = list(ast.walk(function))
    calls = {ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)}
    return Function(
        name=function.name,
        line=function.lineno,
        asserts=not calls.isdisjoint({"pytest.raises", "pytest.warns", "pytest.fail"})
        or any(
            isinstance(node, ast.Assert)
            or (isinstance(node, ast.Raise) and "AssertionError" in ast.unparse(node))
            for node in nodes
        ),
        calls=frozenset(call.rpartition(".")[2] for call in calls),
        yields=any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes),
    )


def in_reach(name: str) -> dict[str, list[Function]]:
    """The functions of a module and of those that it imports from, but for what only sets a scene (it yields)."""
    imports = [node for node in ast.walk(parsed(name)) if isinstance(node, ast.ImportFrom)]
    modules = {name, *(str(node.module) for node in imports)}
    modules |= {f"{node.module}.{alias.name}" for node in imports for alias in node.names}
    found: dict[str, list[Function]] = {}
    for module in modules & TESTS.keys():
        for function in functions(module):
            if not function.yields:
                found.setdefault(function.name, []).append(function)
    return found


@pytest.mark.parametrize("name", [name for name in TESTS if name.rpartition(".")[2].startswith("test_")])
def test_every_test_asserts_something_itself_or_in_a_helper(name: str) -> None:
    reach = in_reach(name)
    good = {each for each, those in reach.items() if any(one.asserts for one in those)}
    while more := {each for each, those in reach.items() if any(one.calls & good for one in those)} - good:
        good |= more

    assert [
        f"{function.name} (line {function.line})"
        for function in functions(name)
        if function.name.startswith("test_") and not function.asserts and not function.calls & good
    ] == []


def test_the_tests_that_the_docs_name_are_there() -> None:
    named = {
        (path.name, module, test)
        for path in (*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md"))
        for module, test in re.findall(
            r"\b(?:tests/)?((?:\w+/)*test_\w+)\.py(?:::(\w+))?", path.read_text("utf-8")
        )
    }
    there = {
        (short, test)
        for name in TESTS
        for short in (name.removeprefix("tests.").replace(".", "/"), name.rpartition(".")[2])
        for test in ("", *(function.name for function in functions(name)))
    }

    assert len(named) > 20
    assert {each for each in named if each[1:] not in there} == set()
