"""``federation clusters istio NAME``: what Istio of a cluster has to be set to, as files of values with comments."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from federation.cli.options import add_config, address, load_config

if TYPE_CHECKING:
    from federation.core.config.model import HubConfig
    from federation.core.istio_settings import SettingsFile


def add_question(questions: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the question and its options."""
    parser = questions.add_parser(
        "istio",
        help="print what Istio of a cluster has to be set to",
        description="Prints the settings with which Istio of that cluster has its certificates signed by the hub, "
        "with a reason for each: values for Istio's Helm charts, operator files for istioctl, and resources for the "
        "Sail operator (OpenShift Service Mesh 3). Reads the configuration only and changes nothing; `federation "
        "clusters check` compares the cluster with it. Ambient is part of it where the cluster's policy names "
        "trusted_node_accounts. What is printed is YAML, one document after another. Exit codes: 0 printed or "
        "written; 1 a file could not be written; 2 the configuration cannot be used, or no cluster has that name.",
    )
    parser.add_argument("name", metavar="NAME", help="the cluster")
    add_config(parser)
    parser.add_argument(
        "--format",
        choices=("helm", "istioctl", "sail", "all"),
        default="all",
        help="for which way to install Istio (default: all)",
    )
    parser.add_argument(
        "--directory", type=Path, metavar="DIR", help="write the files there instead of printing them"
    )
    parser.add_argument(
        "--door",
        type=address,
        metavar="HOST:PORT",
        help="how workloads of this cluster reach the door (default: a name of door.server_names that can be "
        "reached from there, with the port of door.listen)",
    )
    parser.add_argument(
        "--namespace", default="", help="the control plane's namespace, where more than one is configured"
    )
    parser.add_argument(
        "--revision", default="", help="the control plane's revision, where more than one is configured"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from federation.core.errors import InvalidValue
    from federation.core.identity import ClusterName

    config = asyncio.run(load_config(args.config))
    try:
        files = _files(args, config, ClusterName(args.name))
    except InvalidValue as error:
        remedy = f": {error.remedy}" if error.remedy else ""
        print(f"federation clusters istio: {error.what}{remedy}", file=sys.stderr)
        return 2
    if args.directory is not None:
        return _write(files, args.directory)
    for number, file in enumerate(files):
        print(f"{'---' + chr(10) if number else ''}# {file.name}\n{file.text}", end="")
    return 0


def _files(args: argparse.Namespace, config: HubConfig, name: object) -> list[SettingsFile]:
    from federation.core.config.values import label
    from federation.core.errors import InvalidValue
    from federation.core.istio_settings import FORMS, settings_files, settings_of

    cluster = next((cluster for cluster in config.clusters if cluster.name == name), None)
    if cluster is None:
        known = ", ".join(str(cluster.name) for cluster in config.clusters) or "none"
        raise InvalidValue(f"no cluster is named {name}; there are: {known}")
    settings = settings_of(
        config,
        cluster,
        door=args.door,
        namespace=args.namespace,
        revision=label("a revision of Istio")(args.revision) if args.revision else "",
    )
    return [file for form in FORMS if args.format in {form, "all"} for file in settings_files(settings, form)]


def _write(files: list[SettingsFile], directory: Path) -> int:
    """Write each file, or none: one that is there with other content may hold an operator's own changes."""
    from federation.files.reading import read_now

    try:
        directory.mkdir(parents=True, exist_ok=True)
        for file in files:
            path = directory / file.name
            text = file.text.encode()
            if path.exists() and read_now(path, len(text)) != text:
                print(
                    f"federation clusters istio: {path} is there and holds something else: "
                    "move it away, or choose another directory",
                    file=sys.stderr,
                )
                return 1
        for file in files:
            (directory / file.name).write_bytes(file.text.encode())
            print(directory / file.name)
    except OSError as error:
        print(f"federation clusters istio: {directory}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0
