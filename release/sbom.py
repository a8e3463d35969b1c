"""The bill of materials of the image, in CycloneDX: every locked package, and what asks for it.

It follows from ``requirements.lock`` alone, so that the same lock and the same instant give the same bytes. A test
holds it to what is really installed in the image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

BUILD_TOOLS = frozenset({"setuptools"})
"""Locked for the build, and removed from the image."""


@dataclass(frozen=True)
class Package:
    """One locked package."""

    name: str
    version: str
    hashes: tuple[
        str, ...
    ]  # SHA-256 of every file of that version: which one is installed depends on the platform
    wanted_by: frozenset[str]


def read_lock(text: str) -> dict[str, Package]:
    """The packages of a lock file as pip-compile writes it, by name."""
    found: dict[str, Package] = {}
    for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        pinned = re.match(r"([A-Za-z0-9._-]+)==([^\s;\\]+)", entry)
        if pinned is None:
            continue
        via = re.findall(r"^    #(?: via|  ) +([A-Za-z0-9._-]+)", entry, re.MULTILINE)
        hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        found[pinned[1]] = Package(pinned[1], pinned[2], hashes, frozenset(via))
    return found


def sbom(lock: str, *, project: Mapping[str, str], created: datetime) -> str:
    """The document, as JSON. ``project`` has name, version, description and license of what is released."""
    packages = {name: each for name, each in read_lock(lock).items() if name not in BUILD_TOOLS}
    hub = Component(
        name=project["name"],
        version=project["version"],
        description=project["description"],
        type=ComponentType.APPLICATION,
        licenses=[LicenseExpression(project["license"])],
        bom_ref=f"{project['name']}@{project['version']}",
        purl=PackageURL("pypi", name=project["name"], version=project["version"]),
    )
    components = {name: _component(package) for name, package in packages.items()}
    bom = Bom(
        components=components.values(),
        serial_number=uuid5(NAMESPACE_URL, f"{project['name']}@{project['version']}\n{lock}"),
        metadata=BomMetaData(component=hub, timestamp=created),
    )
    everything = {project["name"]: hub, **components}
    for name, component in everything.items():
        bom.register_dependency(
            component, [components[each.name] for each in packages.values() if name in each.wanted_by]
        )
    text: str = JsonV1Dot6(bom).output_as_string(indent=2)
    return f"{text}\n"


def _component(package: Package) -> Component:
    return Component(
        name=package.name,
        version=package.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{package.name}@{package.version}",
        purl=PackageURL("pypi", name=package.name, version=package.version),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in package.hashes],
    )
