"""A release: every file of it from one commit, the same bytes each time, and nothing where something is not ready."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

release = pytest.importorskip("release.__main__")
materials = pytest.importorskip("release.sbom", reason="cyclonedx-python-lib is not installed")

ROOT = Path(__file__).resolve().parents[2]
VERSION = "7.8.9"
SECTION = f"## [{VERSION}] - 2026-12-01\n\n### Added\n\n- Something.\n\n### Compatibility\n\n- As before.\n"
EPOCH = 1_796_000_000


def run_git(repository: Path, *arguments: str) -> None:
    names = ("-c", "user.name=tests", "-c", "user.email=tests@example.org", "-c", "commit.gpgsign=false")
    environment = {"GIT_AUTHOR_DATE": f"{EPOCH} +0000", "GIT_COMMITTER_DATE": f"{EPOCH} +0000"}
    subprocess.run(
        ["git", "-C", str(repository), *names, *arguments],
        env=environment | {"PATH": "/usr/bin:/bin", "HOME": str(repository)},
        check=True,
        capture_output=True,
        timeout=120,
    )


def files_of_a_release() -> list[Path]:
    singles = [
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "Dockerfile",
        "requirements.lock",
        "docs/openapi.json",
    ]
    folders = ["federation", "federation_sandbox", "charts", "manifests"]
    found = [ROOT / name for name in singles]
    for folder in folders:
        found += [path for path in (ROOT / folder).rglob("*") if path.is_file() and not path.is_symlink()]
    made = {"__pycache__", "build", "dist"}
    return [
        path
        for path in found
        if not made & set(parts := path.relative_to(ROOT).parts)
        and not any(part.endswith(".egg-info") for part in parts)
    ]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of what is here, ready to be released."""
    directory = tmp_path_factory.mktemp("repository")
    for path in files_of_a_release():
        target = directory / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    link = ROOT / "federation_sandbox" / "manifests" / "member"
    (directory / "federation_sandbox" / "manifests").mkdir()
    (directory / link.relative_to(ROOT)).symlink_to(link.readlink())
    (directory / "CHANGELOG.md").write_text(
        f"# Changes\n\n## [Unreleased]\n{SECTION.partition(chr(10))[2]}\n## [7.8.8] - 2026-01-01\n"
    )
    release.prepare(directory, VERSION, date(2026, 12, 1))
    run_git(directory, "init", "--quiet")
    run_git(directory, "add", "--all")
    run_git(directory, "commit", "--quiet", "--message=ready")
    return directory


@pytest.fixture(scope="module")
def made(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    assert release.release(repository, VERSION, directory, with_image=False) == [
        "no image: no builder answers here; `make image` makes it where there is one"
    ]
    return directory


def test_it_is_wheels_chart_bill_and_changes_with_their_sums(made: Path) -> None:
    names = {path.name for path in made.iterdir()}
    assert names == {
        f"federation_hub-{VERSION}-py3-none-any.whl",
        f"federation_hub_sandbox-{VERSION}-py3-none-any.whl",
        f"federation-hub-{VERSION}.tgz",
        f"federation-hub-{VERSION}.cdx.json",
        "CHANGES.md",
        "SHA256SUMS",
    }
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=made, check=True, timeout=60)
    assert len((made / "SHA256SUMS").read_text().splitlines()) == len(names) - 1
    assert (made / "CHANGES.md").read_text() == SECTION


def test_the_chart_is_laid_out_as_helm_does_without_the_tests_values(made: Path) -> None:
    with tarfile.open(made / f"federation-hub-{VERSION}.tgz") as tar:
        entries = {entry.name: entry for entry in tar.getmembers()}
        opened = tar.extractfile("federation-hub/Chart.yaml")
        assert opened is not None
        assert f"version: {VERSION}\nappVersion: {VERSION}\n" in opened.read().decode()
    wanted = {
        f"federation-hub/{path.relative_to(ROOT / 'charts' / 'federation-hub')}"
        for path in (ROOT / "charts" / "federation-hub").rglob("*")
        if path.is_file() and "ci" not in path.parts
    }
    assert set(entries) == wanted
    assert {(e.mtime, e.uid, e.gid, e.uname, e.mode) for e in entries.values()} == {(EPOCH, 0, 0, "", 0o644)}


def test_the_same_commit_gives_the_same_bytes(repository: Path, made: Path, tmp_path: Path) -> None:
    tree, again = tmp_path / "elsewhere", tmp_path / "again"
    again.mkdir()
    release.export(repository, tree)
    release.chart(tree, again, version=VERSION, epoch=EPOCH)
    (again / f"federation-hub-{VERSION}.cdx.json").write_text(release.bill(tree, EPOCH), "utf-8")
    release.wheels(tree, again, epoch=EPOCH)
    for path in again.iterdir():
        assert path.read_bytes() == (made / path.name).read_bytes(), path.name
    assert len(list(again.iterdir())) == 4


def test_the_bill_of_materials_lists_each_locked_package_and_what_asks_for_it(made: Path) -> None:
    document = json.loads((made / f"federation-hub-{VERSION}.cdx.json").read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    hub = document["metadata"]["component"]
    assert (hub["name"], hub["version"], hub["type"]) == ("federation-hub", VERSION, "application")
    moment = datetime.fromisoformat(document["metadata"]["timestamp"])
    assert moment == datetime.fromtimestamp(EPOCH, UTC)
    components = {each["name"]: each for each in document["components"]}
    pins = re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE
    )
    assert {name: each["version"] for name, each in components.items()} == {
        name: version for name, version in pins if name != "setuptools"
    }
    assert components["aiohttp"]["purl"] == f"pkg:pypi/aiohttp@{components['aiohttp']['version']}"
    assert all(each["hashes"] for each in components.values())
    needs = {each["ref"]: set(each.get("dependsOn", ())) for each in document["dependencies"]}
    of = {name: each["bom-ref"] for name, each in components.items()}
    assert {of["aiohttp"], of["cryptography"], of["pydantic"]} <= needs[hub["bom-ref"]]
    assert of["multidict"] in needs[of["aiohttp"]]
    assert of["multidict"] not in needs[hub["bom-ref"]]
    reached, left = set(), [hub["bom-ref"]]
    while left:
        ref = left.pop()
        reached.add(ref)
        left += needs[ref] - reached
    assert reached >= set(of.values()), "everything is there for a reason"


def test_preparing_leaves_no_former_version_and_writes_nothing_where_the_change_log_is_not_ready(
    repository: Path, tmp_path: Path
) -> None:
    tree, later = tmp_path / "tree", "7.9.0-rc.1"
    release.export(repository, tree)
    log = tree / "CHANGELOG.md"
    ready = log.read_text()

    def refusal(text: str) -> str:
        log.write_text(text)
        before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
        with pytest.raises(release.ReleaseError) as refused:
            release.prepare(tree, later, date(2026, 12, 2))
        assert {path: path.read_bytes() for path in before} == before
        return str(refused.value)

    assert "nothing under [Unreleased]" in refusal(ready)
    something = ready.replace("## [Unreleased]\n", "## [Unreleased]\n\n### Fixed\n\n- A mistake.\n")
    assert "no `### Compatibility`" in refusal(something)
    log.write_text(something.replace("- A mistake.\n", "- A mistake.\n\n### Compatibility\n\n- As before.\n"))

    assert set(release.prepare(tree, later, date(2026, 12, 2))) > {tree / "pyproject.toml", log}
    assert release.problems(tree, later) == []
    assert [name for name in release.VERSIONED if VERSION in (tree / name).read_text()] == []
    assert release.changes(log.read_text(), later).startswith(f"## [{later}] - 2026-12-02\n\n### Fixed\n")
    digests = tree / "manifests" / "hub" / "chart.sha256"
    subprocess.run(
        ["sha256sum", "--check", "--quiet", "--strict", str(digests)], cwd=tree, check=True, timeout=60
    )


def test_what_is_not_ready_is_said_at_once_and_makes_nothing(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(release.ReleaseError) as refused:
        release.release(repository, "7.9.0", tmp_path / "dist", with_image=False)
    said = str(refused.value).splitlines()
    assert "pyproject.toml says 7.8.9: write 7.9.0 there" in said
    assert len(said) == len(release.VERSIONED) + 1
    assert "CHANGELOG.md has no section: write `## [7.9.0] - YEAR-MONTH-DAY`" in said[-1]
    assert not (tmp_path / "dist").exists()
    assert release.problems(repository, "next") == ["'next' is no version: write 1.2.3 or 1.2.3-rc.1"]

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(release.ReleaseError, match="is not empty"):
        release.release(repository, VERSION, tmp_path / "full", with_image=False)

    (repository / "left.txt").touch()
    try:
        with pytest.raises(release.ReleaseError, match="not committed"):
            release.release(repository, VERSION, tmp_path / "dist", with_image=False)
    finally:
        (repository / "left.txt").unlink()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"## [{VERSION}]\n\n### Compatibility\n", "has no date"),
        (f"## [{VERSION}] - 2026-12-01\n\n- Something.\n", "has no `### Compatibility`"),
        (f"## [Unreleased]\n\n- More.\n\n{SECTION}", f"under [Unreleased]: move them to {VERSION}"),
    ],
)
def test_a_change_log_that_is_not_finished_is_refused(
    repository: Path, tmp_path: Path, text: str, problem: str
) -> None:
    for name in release.VERSIONED:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((repository / name).read_text("utf-8"))
    (tmp_path / "CHANGELOG.md").write_text(text)
    (found,) = release.problems(tmp_path, VERSION)
    assert problem in found


def test_an_archive_has_no_trace_of_where_and_when_it_was_made(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    first = release.archived([("name", file)], EPOCH)
    file.touch()
    file.chmod(0o600)
    assert release.archived([("name", file)], EPOCH) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as tar:
        assert [entry.name for entry in tar.getmembers()] == ["name"]
