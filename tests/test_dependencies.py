"""pyproject.toml, the lock files and docs/dependencies.md name the same dependencies."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUNTIME = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
EXTRAS = {
    name: [Requirement(text) for text in texts]
    for name, texts in PROJECT["project"]["optional-dependencies"].items()
}
BACK_ENDS = [*EXTRAS["aws"], *EXTRAS["pkcs11"]]
BUILD = [Requirement(text) for text in PROJECT["build-system"]["requires"]]
LOCKS = {
    name: (ROOT / name).read_text()
    for name in ("requirements.lock", "requirements-test.lock", "requirements-docs.lock")
}
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)


def pins(lock: str) -> dict[str, Version]:
    return {canonicalize_name(m["name"]): Version(m["version"]) for m in PIN.finditer(LOCKS[lock])}


def names(requirements: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in requirements}


def page_section(title: str) -> dict[str, str]:
    """Package -> reason, from the table under that heading."""
    text = (ROOT / "docs" / "dependencies.md").read_text()
    section = text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", section, re.MULTILINE)
    assert len(rows) == len({name for name, _ in rows}), f"a package is listed twice under {title!r}"
    return {canonicalize_name(name): reason for name, reason in rows}


@pytest.mark.parametrize(
    ("title", "requirements"),
    [
        ("At run time", RUNTIME),
        ("For single back ends", BACK_ENDS),
        ("For traces", EXTRAS["otel"]),
        ("For the site", EXTRAS["docs"]),
        ("For tests and checks", EXTRAS["test"]),
        ("To build", BUILD),
    ],
)
def test_every_direct_dependency_has_a_reason_and_every_reason_a_dependency(
    title: str, requirements: list[Requirement]
) -> None:
    section = page_section(title)

    assert set(section) == names(requirements)
    assert all(len(reason) > 20 for reason in section.values())


@pytest.mark.parametrize(
    ("lock", "requirements"),
    [
        ("requirements.lock", RUNTIME + BUILD + BACK_ENDS + EXTRAS["otel"]),
        ("requirements-test.lock", RUNTIME + BUILD + BACK_ENDS + EXTRAS["otel"] + EXTRAS["test"]),
        ("requirements-docs.lock", EXTRAS["docs"]),
    ],
)
def test_the_lock_pins_every_direct_dependency_within_its_bounds(
    lock: str, requirements: list[Requirement]
) -> None:
    pinned = pins(lock)

    for requirement in requirements:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {lock}: compile it again"
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{lock}: {requirement} has {version}"
        )


def test_the_test_lock_is_the_runtime_lock_and_more() -> None:
    runtime, everything = pins("requirements.lock"), pins("requirements-test.lock")

    assert runtime.items() < everything.items()


def test_what_only_tests_need_is_not_in_the_runtime_lock() -> None:
    assert not (names(EXTRAS["test"]) - names(RUNTIME)) & set(pins("requirements.lock"))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_has_hashes(lock: str) -> None:
    blocks = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", LOCKS[lock]))

    assert len(blocks) == len(pins(lock)) > 15
    for block in blocks:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), f"no hash: {block.splitlines()[0]}"


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_names_no_host_and_no_path(lock: str) -> None:
    options = [line for line in LOCKS[lock].splitlines() if line.startswith("-")]

    assert options == []
    assert "://" not in LOCKS[lock]
    assert not re.search(r"(^|\s)/\w", LOCKS[lock])
