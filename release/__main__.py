"""``make release VERSION=x``: every file of a release, in ``dist/x``. Nothing is published, tagged or pushed.

::

    python -m release --prepare 0.2.0              # the version into every file that names it, and into the change log
    python -m release 0.2.0 [--directory dist/0.2.0]
    python -m release --image [TAG]

The wheels of the hub and of the sandbox, the chart, the bill of materials, the image where there is a builder, and the
sums of all. Everything is made from the commit, never from what lies in the work tree; times in it are the
commit's, so that two machines make the same bytes, but for the image, whose base follows security fixes.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
BUILDERS: Final = ("docker", "podman", "buildah")
LIMIT: Final = 3600.0  # seconds for a build
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+(-(alpha|beta|rc)\.\d+)?")
VERSIONED: Final[Mapping[str, str]] = {
    "pyproject.toml": r'(?:^version = "|"federation-hub-sandbox==)([^"]+)"',
    "federation_sandbox/pyproject.toml": r'(?:^version = "|"federation-hub==)([^"]+)"',
    "charts/federation-hub/Chart.yaml": r"^(?:appV|v)ersion: (\S+)$",
    "Dockerfile": r'image\.version="([^"]+)"',
    "manifests/hub/controller.yaml": r"image: federation-hub:(\S+)",
    "manifests/hub/signer.yaml": r"image: federation-hub:(\S+)",
    "manifests/README.md": r"(?:/federation-hub:|newTag: )(\S+)",
    "docs/openapi.json": r'^  "version": "([^"]+)"',
}
"""Where a version stands; a test of the suite holds them together."""


class ReleaseError(Exception):
    """Why there is no release; the text says what to do."""


def problems(tree: Path, version: str) -> list[str]:
    """What keeps a tree from being released as ``version``; each with what to do."""
    if not _VERSION.fullmatch(version):
        return [f"{version!r} is no version: write 1.2.3 or 1.2.3-rc.1"]
    found = []
    for name, pattern in VERSIONED.items():
        stated = set(re.findall(pattern, (tree / name).read_text("utf-8"), re.MULTILINE))
        if stated != {version}:
            found.append(f"{name} says {', '.join(sorted(stated)) or 'nothing'}: write {version} there")
    return [*found, *_change_log_problems((tree / "CHANGELOG.md").read_text("utf-8"), version)]


def prepare(tree: Path, version: str, today: date) -> list[Path]:
    """Write the version into every file that names one, and give what is unreleased its section; the files.

    Raises ReleaseError where the change log does not say what a release has to, and writes nothing then.
    """
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"{version!r} is no version: write 1.2.3 or 1.2.3-rc.1")
    log = (tree / "CHANGELOG.md").read_text("utf-8")
    unreleased = changes(log, "Unreleased")
    if unreleased is None or not re.search(r"^- ", unreleased, re.MULTILINE):
        raise ReleaseError("CHANGELOG.md has nothing under [Unreleased]: there is nothing to release")
    if changes(log, version) is not None:
        raise ReleaseError(f"CHANGELOG.md has a section of {version}: name a later version")
    heading = f"## [Unreleased]\n\n## [{version}] - {today.isoformat()}\n"
    texts = {"CHANGELOG.md": log.replace("## [Unreleased]\n", heading, 1)}
    if found := _change_log_problems(texts["CHANGELOG.md"], version):
        raise ReleaseError("\n".join(found))
    for name, pattern in VERSIONED.items():
        texts[name] = _with_version((tree / name).read_text("utf-8"), pattern, version)
    digests = tree / "manifests" / "hub" / "chart.sha256"
    texts[str(digests.relative_to(tree))] = _with_digests(digests.read_text("utf-8"), texts)
    for name, text in texts.items():
        (tree / name).write_text(text, "utf-8")
    return [tree / name for name in sorted(texts)]


def _with_version(text: str, pattern: str, version: str) -> str:
    def stated(found: re.Match[str]) -> str:
        start, end = (at - found.start() for at in found.span(1))
        return f"{found[0][:start]}{version}{found[0][end:]}"

    return re.sub(pattern, stated, text, flags=re.MULTILINE)


def _with_digests(lines: str, texts: Mapping[str, str]) -> str:
    """The list of digests with those of the files that have another text now."""
    found = []
    for line in lines.splitlines():
        _, name = line.split("  ", 1)
        digest = f"{hashlib.sha256(texts[name].encode()).hexdigest()}  {name}" if name in texts else line
        found.append(f"{digest}\n")
    return "".join(found)


def _change_log_problems(text: str, version: str) -> list[str]:
    section = changes(text, version)
    if section is None:
        return [f"CHANGELOG.md has no section: write `## [{version}] - YEAR-MONTH-DAY` above what changed"]
    found = []
    if not re.match(rf"## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n", section):
        found.append(f"CHANGELOG.md: the section of {version} has no date")
    if "### Compatibility" not in section:
        found.append(f"CHANGELOG.md: the section of {version} has no `### Compatibility`")
    unreleased = changes(text, "Unreleased") or ""
    if re.search(r"^- ", unreleased, re.MULTILINE):
        found.append(f"CHANGELOG.md: there are changes under [Unreleased]: move them to {version}")
    return found


def changes(text: str, version: str) -> str | None:
    """The change log's section of a version, with its heading; None where there is none."""
    for section in re.split(r"^(?=## \[)", text, flags=re.MULTILINE):
        if section.startswith(f"## [{version}]"):
            return section.rstrip() + "\n"
    return None


def git(tree: Path, *arguments: str) -> str:
    """What git says. Raises ReleaseError."""
    done = subprocess.run(
        ["git", "-C", str(tree), *arguments], capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        raise ReleaseError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def export(repository: Path, directory: Path) -> None:
    """The files of the commit that is checked out. Raises ReleaseError."""
    archive = directory.with_suffix(".tar")
    git(repository, "archive", f"--output={archive}", "HEAD")
    with tarfile.open(archive) as opened:
        opened.extractall(directory, filter="data")
    archive.unlink()


def wheels(tree: Path, directory: Path, *, epoch: int) -> None:
    """Build both wheels with what is installed here; nothing is fetched. Raises ReleaseError."""
    for package in (tree, tree / "federation_sandbox"):
        command = [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check"),
            *("--no-build-isolation", "--no-deps", "--no-index", f"--wheel-dir={directory}", str(package)),
        ]
        environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
        )
        if done.returncode:
            raise ReleaseError(f"the wheel of {package.name} was not built:\n{done.stderr}")


def chart(tree: Path, directory: Path, *, version: str, epoch: int) -> Path:
    """The chart's archive, as `helm package` lays it out, and the same bytes each time."""
    source, target = tree / "charts" / "federation-hub", directory / f"federation-hub-{version}.tgz"
    files = sorted(path for path in source.rglob("*") if path.is_file() and "ci" not in path.parts)
    target.write_bytes(
        archived(((f"federation-hub/{each.relative_to(source)}", each) for each in files), epoch)
    )
    return target


def archived(files: Iterable[tuple[str, Path]], epoch: int) -> bytes:
    """A gzipped tar of files of nobody's, all of one time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime, entry.mode = path.stat().st_size, epoch, 0o644
            with path.open("rb") as opened:
                tar.addfile(entry, opened)
    return gzip.compress(raw.getvalue(), mtime=epoch)


def builder() -> str | None:
    """The first builder of images that is installed and answers."""
    for name in BUILDERS:
        if shutil.which(name) is None:
            continue
        asked = subprocess.run([name, "info"], capture_output=True, timeout=LIMIT, check=False)
        if asked.returncode == 0:
            return name
    return None


def image(tree: Path, *, tag: str, revision: str, epoch: int) -> str:
    """Build the image from a tree under ``tag``; the builder that did. Raises ReleaseError."""
    name = builder()
    if name is None:
        raise ReleaseError(f"no builder of images answers here: none of {', '.join(BUILDERS)}")
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    command = [
        *(name, "build", "--tag", tag, f"--build-arg=REVISION={revision}", f"--build-arg=CREATED={created}"),
        str(tree),
    ]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    done = subprocess.run(command, env=environment, timeout=LIMIT, check=False)
    if done.returncode:
        raise ReleaseError(f"{name} build ended with exit code {done.returncode}")
    return name


def save_image(name: str, tag: str, file: Path) -> None:
    """Write a built image to a file that `docker load` and `podman load` read. Raises ReleaseError."""
    command = (
        ["buildah", "push", tag, f"docker-archive:{file}:{tag}"]
        if name == "buildah"
        else [name, "save", "--output", str(file), tag]
    )
    done = subprocess.run(command, timeout=LIMIT, check=False)
    if done.returncode:
        raise ReleaseError(f"{name} did not save {tag}: exit code {done.returncode}")


def checksums(directory: Path) -> str:
    """The SHA-256 of every file, as `sha256sum --check` reads them."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def release(repository: Path, version: str, directory: Path, *, with_image: bool = True) -> list[str]:
    """Make every file of a release; what there is to say about it. Raises ReleaseError.

    The directory must not exist or be empty.
    """
    if directory.exists() and any(directory.iterdir()):
        raise ReleaseError(f"{directory} is not empty: remove it, or name another with --directory")
    if git(repository, "status", "--porcelain"):
        raise ReleaseError("there are changes that are not committed: a release is made from a commit")
    revision, epoch = git(repository, "rev-parse", "HEAD"), int(git(repository, "log", "-1", "--format=%ct"))
    said = []
    with tempfile.TemporaryDirectory(prefix="federation-release-") as temporary:
        tree, made = Path(temporary) / "tree", Path(temporary) / "made"
        made.mkdir()
        export(repository, tree)
        if found := problems(tree, version):
            raise ReleaseError("\n".join(found))
        section = changes((tree / "CHANGELOG.md").read_text("utf-8"), version)
        (made / "CHANGES.md").write_text(section or "", "utf-8")
        chart(tree, made, version=version, epoch=epoch)
        (made / f"federation-hub-{version}.cdx.json").write_text(bill(tree, epoch), "utf-8")
        if not with_image or builder() is None:
            said.append("no image: no builder answers here; `make image` makes it where there is one")
        else:
            tag = f"federation-hub:{version}"
            save_image(
                image(tree, tag=tag, revision=revision, epoch=epoch),
                tag,
                made / f"federation-hub-{version}-image.tar",
            )
        wheels(tree, made, epoch=epoch)  # last: a build leaves files in the tree
        (made / "SHA256SUMS").write_text(checksums(made), "utf-8")
        shutil.copytree(made, directory, dirs_exist_ok=True)
    return said


def bill(tree: Path, epoch: int) -> str:
    """The bill of materials of a tree."""
    from release.sbom import sbom

    project: Mapping[str, Any] = tomllib.loads((tree / "pyproject.toml").read_text("utf-8"))["project"]
    lock = (tree / "requirements.lock").read_text("utf-8")
    return sbom(lock, project=project, created=datetime.fromtimestamp(epoch, UTC))


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="release", description="Makes the files of a release; publishes nothing."
    )
    parser.add_argument(
        "version", nargs="?", help="such as 0.2.0: what every file that names a version has to say"
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="write the version into the files of this work tree and what is unreleased into a section of the change "
        "log, and make nothing",
    )
    parser.add_argument("--directory", type=Path, help="where the files go (default: dist/VERSION)")
    parser.add_argument(
        "--image", metavar="TAG", help="only build the image of this work tree, under that tag"
    )
    args = parser.parse_args(arguments)
    try:
        if args.image:
            revision, epoch = git(ROOT, "rev-parse", "HEAD"), int(git(ROOT, "log", "-1", "--format=%ct"))
            image(ROOT, tag=args.image, revision=revision, epoch=epoch)
            return 0
        if not args.version:
            parser.error("name the version: make release VERSION=0.2.0")
        if args.prepare:
            print(*prepare(ROOT, args.version, datetime.now(UTC).date()), sep="\n")
            print("look at it and commit it; then make release with the same version")
            return 0
        directory: Path = args.directory or ROOT / "dist" / args.version
        for line in release(ROOT, args.version, directory):
            print(line)
    except ReleaseError as why:
        print(f"release: {why}", file=sys.stderr)
        return 1
    print(*(f"{path}" for path in sorted(directory.iterdir())), sep="\n")
    print("nothing was published; sign and upload these, and tag the commit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
