"""The hub's chart: what Helm renders of it, and the Kustomize base that is made of that rendering.

``FEDERATION_HELM=PATH python -m tests.manifests.chart`` writes ``manifests/hub`` and ``manifests/discovery`` anew.
Nothing but Helm knows what its templates mean, so without one the base is compared with the digests of what it was made
of, which ``sha256sum --check`` reads, too.
"""

from __future__ import annotations

import os
import re
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from tests.manifests.tree import MANIFESTS, ROOT, Tree
from tests.support.patience import PATIENCE

CHART = ROOT / "charts" / "federation-hub"
VALUES = CHART / "values.yaml"
BASE = MANIFESTS / "hub"
BASE_VALUES = CHART / "ci" / "kustomize-values.yaml"
DIGESTS = BASE / "chart.sha256"
NAMESPACE = "federation-system"
HELM = os.environ.get("FEDERATION_HELM", "")
HEAD = "# Made of charts/federation-hub/templates/{} by `python -m tests.manifests.chart`: change that.\n"
SOURCE = re.compile(r"^# Source: federation-hub/templates/(\S+)\n", re.MULTILINE)
BY_HAND = {"kustomization.yaml", DIGESTS.name}
"""What is in the base and is not rendered."""
DISCOVERY = MANIFESTS / "discovery"
DISCOVERED = {
    "istio-secrets.yaml": "discovery.istioSecrets={istio-system}",
    "cluster-profiles.yaml": "discovery.clusterProfiles={fleet}",
}
"""What each file there is rendered with, of the template that grants the rights to look for clusters."""
CONFIGURATION = "configuration.yaml"
"""Whose object a generator of Kustomize makes of ``config/clusters.toml``, so that an overlay can replace it."""


def helm(*arguments: str | Path) -> str:
    """What a command of Helm prints. Raises CalledProcessError, with what it said, where it fails."""
    done = subprocess.run(
        [HELM, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout


def rendered_files(*options: str | Path, namespace: str = NAMESPACE) -> dict[str, str]:
    """The chart as Helm renders it, by template; each text is one document or several."""
    text = helm("template", "federation-hub", CHART, "--namespace", namespace, *options)
    found: dict[str, list[str]] = {}
    for part in re.split(r"^---\n", text, flags=re.MULTILINE):
        if source := SOURCE.match(part):
            found.setdefault(source[1], []).append(part[source.end() :].strip("\n") + "\n")
    return {name: "---\n".join(documents) for name, documents in found.items()}


def rendered(*options: str | Path, namespace: str = NAMESPACE) -> Tree:
    """The objects that Helm renders."""
    files = rendered_files(*options, namespace=namespace)
    return Tree(tuple(item for text in files.values() for item in yaml.safe_load_all(text)))


def values(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def base_files() -> dict[str, str]:
    """The files of the Kustomize base by their path in it, as Helm renders them now."""
    files = rendered_files("--values", BASE_VALUES)
    (configuration,) = yaml.safe_load_all(files.pop(CONFIGURATION))
    made = {name: HEAD.format(name) + text for name, text in files.items()}
    return made | {f"config/{name}": text for name, text in configuration["data"].items()}


def discovery_files() -> dict[str, str]:
    """The same of the rights to look for clusters, a file for each kind of source."""
    return {
        name: HEAD.format("discovery.yaml")
        + rendered_files("--values", BASE_VALUES, "--set", value)["discovery.yaml"]
        for name, value in DISCOVERED.items()
    }


def rendered_from() -> list[Path]:
    """The files of the chart that decide what is rendered."""
    templates = sorted((CHART / "templates").glob("*.yaml")) + sorted((CHART / "templates").glob("*.tpl"))
    return [CHART / "Chart.yaml", VALUES, BASE_VALUES, *templates]


def made() -> list[Path]:
    """The files of the base that are rendered."""
    return sorted(path for path in BASE.rglob("*") if path.is_file() and path.name not in BY_HAND)


def digests() -> str:
    """The digests of both, as sha256sum writes them."""
    paths = [*rendered_from(), *made(), *(DISCOVERY / name for name in sorted(DISCOVERED))]
    return "".join(f"{sha256(path.read_bytes()).hexdigest()}  {path.relative_to(ROOT)}\n" for path in paths)


def write() -> None:
    files = base_files()
    for path in made():
        if str(path.relative_to(BASE)) not in files:
            path.unlink()
    for name, text in files.items():
        (BASE / name).write_text(text, "utf-8")
    for name, text in discovery_files().items():
        (DISCOVERY / name).write_text(text, "utf-8")
    DIGESTS.write_text(digests(), "utf-8")


if __name__ == "__main__":
    if not HELM:
        raise SystemExit("FEDERATION_HELM has to name helm: it renders the chart")
    write()
