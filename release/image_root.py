"""The image's file system without a builder: the Dockerfile's steps carried out in a folder, and what runs in it.

The base image cannot be had without a registry, so this machine's Python is the base: its directories lie below the
folder as overlays, and what a step changes in them goes to the folder and not to the machine. Each step runs in a mount
namespace of its own by chroot, as the Dockerfile says it. Needs root, ``unshare``, ``chroot`` and ``setpriv``, and a
kernel that lets overlays be mounted; :func:`missing` says what is not there.

The one step that may be carried out differently is the installation of the locked packages: with ``packages`` they are
copied from an environment that was installed from the same lock, instead of fetched once more.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from release.dockerfile import Instruction, Stage, ignored, stages

LIMIT: Final = 600.0  # seconds for one step on a loaded machine
_SYSTEM: Final = ("/usr", "/etc")
_LINKS: Final = ("/bin", "/sbin", "/lib", "/lib64", "/lib32", "/libx32")
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
_IN_THE_ROOT: Final = "PATH=/usr/sbin:/usr/bin:/sbin:/bin"


def missing() -> str:
    """What this machine lacks to carry out the steps; empty where nothing does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs root on Linux"
    for command in ("unshare", "chroot", "setpriv", "mount"):
        if shutil.which(command) is None:
            return f"there is no {command}"
    if not Path("/bin").is_symlink():
        return "/bin is no link into /usr"
    probe = "mkdir -p $0/l $0/u $0/w $0/m && mount -t tmpfs t $0 && mkdir $0/l $0/u $0/w $0/m && "
    probe += "mount -t overlay o -o lowerdir=$0/l,upperdir=$0/u,workdir=$0/w $0/m"
    tried = subprocess.run(
        ["unshare", "--mount", "sh", "-c", probe, "/mnt"], capture_output=True, timeout=LIMIT, check=False
    )
    return "" if tried.returncode == 0 else "overlays cannot be mounted here"


@dataclass
class Root:
    """One stage's file system, and what its instructions have set so far."""

    directory: Path  # holds `root`, and `changed` and `work` of each overlay
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": f"{sys.base_prefix}/bin:{_PATH}"})
    labels: dict[str, str] = field(default_factory=dict)
    user: str = "0:0"
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The root folder itself."""
        return self.directory / "root"

    def inside(self, path: str) -> Path:
        """Where an absolute path of the image is on this machine; not for what lies in the base."""
        return self.path / path.lstrip("/")

    def prepare(self) -> None:
        """Make the folder with places for the base."""
        for place in (*self._overlays(), "/proc", "/dev", "/tmp"):
            self.inside(place).mkdir(parents=True, exist_ok=True)
            for kind in ("changed", "work"):
                self._layer(kind, place).mkdir(parents=True, exist_ok=True)
        self.inside("/tmp").chmod(0o1777)
        for link in _LINKS:
            if Path(link).is_symlink():
                self.inside(link).symlink_to(Path(link).readlink())
        # Beside the interpreter, since Python finds its library by the directory of what was called.
        interpreter = Path(sys.base_prefix) / "bin" / "python"
        if not interpreter.exists():
            base = "/usr" if sys.base_prefix.startswith("/usr") else sys.base_prefix
            named = self._layer("changed", base) / interpreter.relative_to(base)
            named.parent.mkdir(parents=True, exist_ok=True)
            named.symlink_to(f"python3.{sys.version_info.minor}")

    def _overlays(self) -> list[str]:
        prefix = sys.base_prefix
        return [*_SYSTEM, *([] if prefix.startswith("/usr") else [prefix])]

    def _layer(self, kind: str, place: str) -> Path:
        return self.directory / kind / place.strip("/").replace("/", "+")

    def command(
        self,
        words: Sequence[str],
        *,
        read_only: bool = False,
        binds: Sequence[Path] = (),
        mounts: Mapping[str, Path] | None = None,
    ) -> list[str]:
        """A command of this machine that runs ``words``, and what is appended to it, in the image as its user.

        ``read_only`` is a read-only root file system with /tmp in memory; ``binds`` are folders of this machine that
        are writable at the same path in the image. ``mounts`` are volumes: by their path in the image, which files and
        folders of this machine are there.
        """
        root = shlex.quote(str(self.path))
        script = ["set -e", f"mount --bind {root} {root}"]
        for place in self._overlays():
            options = f"lowerdir={place},upperdir={self._layer('changed', place)},workdir={self._layer('work', place)}"
            script.append(f"mount -t overlay overlay -o {shlex.quote(options)} {root}{place}")
        for path, read in (mounts or {}).items():
            place, made = shlex.quote(path), "mkdir -p" if read.is_dir() else "touch"
            script.append(f"{made} {root}{place} && mount --rbind {shlex.quote(str(read))} {root}{place}")
        script += [f"mount -o remount,ro {root}{place}" for place in self._overlays() if read_only]
        script += [f"mount --rbind /dev {root}/dev", f"mount -t proc proc {root}/proc"]
        script += [f"mkdir -p {root}{shlex.quote(str(bind))}" for bind in binds]
        if read_only:
            script += [f"mount -t tmpfs -o mode=1777 tmp {root}/tmp", f"mount -o remount,ro,bind {root}"]
            script += [f"mkdir -p {root}{shlex.quote(str(bind))}" for bind in binds if _below_tmp(bind)]
        for bind in binds:
            place = shlex.quote(str(bind))
            script.append(f"mount --bind {place} {root}{place}")
        user, group = self.user.split(":")
        environment = [f"{key}={value}" for key, value in self.environment.items()]
        inner = [
            *("chroot", str(self.path), "/usr/bin/env", "-i", "-C", self.workdir, *environment),
            *("/usr/bin/setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"),
            *(("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all") if user != "0" else ()),
            *words,
        ]
        script.append(f'exec env {_IN_THE_ROOT} {shlex.join(inner)} "$@"')
        return ["unshare", "--mount", "--propagation=private", "sh", "-c", "\n".join(script), "sh"]

    def run(
        self, words: Sequence[str], *, read_only: bool = False, binds: Sequence[Path] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the image to its end, whatever its exit code."""
        command = self.command(words, read_only=read_only, binds=binds)
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)


def _link(source: str | Path, target: str | Path) -> None:
    """One more name for a file, or a copy on another file system: nothing is written in place here."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _below_tmp(path: Path) -> bool:
    return path.is_relative_to("/tmp")


class BuildError(Exception):
    """A step failed; the text is the step and what it said."""


def build(
    context: Path, directory: Path, *, arguments: Mapping[str, str], packages: Path | None = None
) -> Root:
    """Carry out every stage of ``context``'s Dockerfile; the last stage's root.

    ``arguments`` are the build arguments. With ``packages``, the site-packages of an environment, the locked packages
    come from there. Raises BuildError.
    """
    text = (context / "Dockerfile").read_text("utf-8")
    rules = (context / ".dockerignore").read_text("utf-8")
    built: dict[str, Root] = {}
    root = Root(directory)
    for number, stage in enumerate(stages(text)):
        root = Root(directory / (stage.name or f"stage-{number}"))
        root.prepare()
        _Build(context, rules, built, arguments, packages).carry_out(stage, root)
        built[stage.name] = root
    return root


@dataclass
class _Build:
    context: Path
    rules: str
    built: Mapping[str, Root]
    arguments: Mapping[str, str]
    packages: Path | None

    def carry_out(self, stage: Stage, root: Root) -> None:
        for instruction in stage.instructions:
            match instruction.name:
                case "RUN":
                    self._run(instruction, root)
                case "COPY":
                    self._copy(instruction, root)
                case "ENV":
                    root.environment |= instruction.pairs({**self.arguments, **root.environment})
                case "LABEL":
                    root.labels |= instruction.pairs(self.arguments)
                case "WORKDIR":
                    root.workdir = instruction.value
                    root.inside(instruction.value).mkdir(parents=True, exist_ok=True)
                case "USER":
                    root.user = instruction.value
                case "ENTRYPOINT":
                    root.entrypoint = instruction.words
                case _:
                    pass  # what only a runtime reads: EXPOSE, HEALTHCHECK, CMD; ARG is in `arguments`

    def _run(self, instruction: Instruction, root: Root) -> None:
        words = instruction.words
        if self.packages is not None and "--require-hashes" in words:
            _copy_locked(self.context / "requirements.lock", self.packages, Path(words[0]), root)
            return
        done = root.run(words)
        if done.returncode:
            raise BuildError(
                f"RUN {instruction.value}: exit code {done.returncode}\n{done.stdout}{done.stderr}"
            )

    def _copy(self, instruction: Instruction, root: Root) -> None:
        *names, to = instruction.value.split()
        target = root.inside(to if to.startswith("/") else f"{root.workdir}/{to}")
        if names[0].startswith("--from="):
            source = self.built[names[0].removeprefix("--from=")].inside(names[1])
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True, copy_function=_link)
            return
        for name in names:
            source = self.context / name
            files = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
            for file in files:
                if ignored(str(file.relative_to(self.context)), self.rules):
                    continue
                # A directory's contents are copied, and a file under its own name.
                place = target / (file.relative_to(source) if source.is_dir() else file.name)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, place)


def locked(lock: str) -> dict[str, str]:
    """The packages of a lock file with their versions, by normalized name."""
    lines = (line for line in lock.splitlines() if line and not line.startswith((" ", "#")))
    pins = (line.split(";")[0].rstrip(" \\").partition("==") for line in lines)
    return {normalized(name): version.strip() for name, _, version in pins}


def normalized(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return name.strip().lower().replace("_", "-").replace(".", "-")


def _copy_locked(lock: Path, packages: Path, python: Path, root: Root) -> None:
    """Copy each locked package from ``packages``, where it has to be in the locked version."""
    wanted = locked(lock.read_text("utf-8"))
    site = next(root.inside(str(python.parents[1])).glob("lib/python3.*/site-packages"))
    for bundled in list(
        distributions(path=[str(site)])
    ):  # what `python -m venv` brought along, such as setuptools
        if normalized(bundled.name) in wanted:
            described = site / f"{bundled.name}-{bundled.version}.dist-info"
            for file in bundled.files or ():
                (site / file).unlink(missing_ok=True)
            shutil.rmtree(described)
    present = {normalized(each.name): each for each in distributions(path=[str(packages)])}
    for name, version in wanted.items():
        package = present.get(name)
        if package is None or package.version != version:
            found = "it is not there" if package is None else f"{package.version} is"
            raise BuildError(f"{packages}: {name} {version} is wanted, {found}; install requirements.lock")
        for file in package.files or ():
            source, target = packages / file, site / file
            if (
                ".." in file.parts or not source.is_file()
            ):  # scripts: their first line names another environment
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            _link(source, target)
