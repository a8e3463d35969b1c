"""Pages say what can be done: commands in their blocks exist, links lead somewhere, and every page is on the site."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import reference_pages
from tests.cli.test_remedies import command_problem
from tests.last_version.names import metrics_in_code
from tests.status import openapi_file

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = {reference_pages.COMMANDS, reference_pages.METRICS, reference_pages.STATUS_API}
BESIDE = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "manifests").rglob("*.md")),
    *sorted((ROOT / "charts").rglob("*.md")),
]
PAGES = [*BESIDE, *sorted(set(DOCS.rglob("*.md")) - MADE)]
BLOCK = re.compile(r"^[ ]*```(?:console|sh)\n(.*?)^[ ]*```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(federation [a-z][^`]*)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TREE = re.compile(r"```\{toctree\}\n(.*?)```", re.DOTALL)


def commands(text: str) -> list[str]:
    """Each ``federation`` command of the shell blocks, with continued lines joined, and those within sentences."""
    lines = [
        line.strip().removeprefix("$ ").partition(" #")[0].strip()
        for block in BLOCK.findall(text)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    return [line for line in [*lines, *INLINE.findall(text)] if line.startswith("federation ")]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site make it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain.replace("`", "")).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^[ ]*```.*?^[ ]*```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_the_command_line_takes(page: Path) -> None:
    found = commands(page.read_text("utf-8"))

    assert {command: why for command in found if (why := command_problem(command))} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(page.read_text("utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)

    assert broken == []


def test_a_wrong_command_is_found() -> None:
    assert commands("```console\n$ federation status --wtach  # look\n$ kubectl get pods\n```\n") == [
        "federation status --wtach"
    ]
    assert command_problem("federation status --wtach")
    assert slug("What errors mean, whatever the kind") == "what-errors-mean-whatever-the-kind"


def test_every_page_is_on_the_site() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    named = {line.strip() for tree in TREE.findall(index) for line in tree.splitlines() if line.strip()}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in set(DOCS.rglob("*.md")) - MADE}

    missing = {page for page in pages - named if not page.startswith("decisions/")}
    assert missing == {"index"}
    assert "decisions/*" in named


def test_commands_and_metrics_are_made_of_the_code() -> None:
    page, table = reference_pages.commands(), reference_pages.metrics()

    assert "## federation clusters\n" in page
    assert "### federation clusters add\n" in page
    assert page.count("```text\n") > 25
    assert table.count("\n| `federation_") == len(metrics_in_code()) > 60
    assert "| `federation_certificates_issued_total` | counter | `cluster`, `replica` |" in table


def test_the_page_of_the_status_api_has_every_route_with_its_right_and_an_answer() -> None:
    page, routes = reference_pages.status_api(), openapi_file.routes()

    for route in routes:
        _, _, section = page.partition(f"\n## {route.method} {route.path}\n")
        section = section.partition("\n## ")[0]
        assert f"Right: `{route.right.value}`." in section if route.right else "Right: none" in section
        assert all(f"`{each['name']}`" in section for each in route.parameters)
        assert ("$ curl " in section) is (route.operation not in reference_pages.NOT_ASKED)
    assert page.count("\n## ") == len(routes) > 14
    assert '"state": "CANARY"' in page
    assert "| `verb` |" in page
