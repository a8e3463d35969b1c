"""Makes the fixtures of this folder with the code as it is: run at every release, before anything is renamed.

``python -m tests.last_version.make [configuration] [state] [names]``; the README in this folder says when, and what to
look at afterwards.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp

from federation.cli.mounted_operations import operations
from federation.core.config.authorities.settings import (
    AwsConfig,
    CertificateRef,
    JwtRef,
    SecretRef,
    VaultServer,
)
from federation.core.config.clusters import Credentials
from federation.core.config.types import Address
from federation.runtime.clock import SystemClock
from federation.state.files import FileStore
from federation.status.app import create_app
from federation.status.server import serve
from tests.last_version import meaning, mesh, names, objects, scenario, wire
from tests.last_version.documents import STATE
from tests.last_version.kinds import KINDS
from tests.status.worlds import FixedConfig, World
from tests.support.seals import SEAL

HERE: Final = Path(__file__).parent
CONFIGURATION: Final = HERE / "configuration"
NAMES: Final = HERE / "names"

DISSOLVED: Final = (Credentials, VaultServer, AwsConfig)
"""Values that stand for keys of the table around them, where that is no role's own table."""

KEYS_OF: Final = {
    "kubernetes": {"mount", "role", "jwt", "namespace", "credentials"},  # a login or a state
    "jwt": {"mount", "role", "jwt"},
    "approle": {"mount", "role_id", "secret_id", "secret_id_wrapped", "role"},
    "cert": {"mount", "role", "certificate"},
    "token": {"token"},
    "files": {"directory"},
}
"""What counts of a table whose keys depend on its method or kind; all where nothing is said."""


def make_configuration() -> None:
    """What each file of ``configuration/`` means, beside it."""
    for file in sorted(CONFIGURATION.glob("*.toml")):
        config = meaning.read(file.read_text("utf-8"))
        means = dict(meaning_of(config))
        for key, value in means.items():
            assert meaning.value_at(config, key) == value, key
        warned = [warning.partition(": ")[0] for warning in config.warnings]
        write_json(file.with_suffix(".json"), {"means": means, "warned": warned})


def meaning_of(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a configuration by its key."""
    if isinstance(value, CertificateRef):
        yield from (("client_certificate", True),) if value.is_spiffe else ()
        yield from (
            (f"client_{field.name}", meaning.plain(getattr(value, field.name)))
            for field in dataclasses.fields(value)
            if not value.is_spiffe
        )
        return
    chosen = getattr(value, "method", getattr(value, "kind", ""))
    counted = KEYS_OF.get(chosen, {field.name for field in dataclasses.fields(value)}) | {"method", "kind"}
    for field in (each for each in dataclasses.fields(value) if each.name in counted):
        found = getattr(value, field.name)
        name = "cluster" if key == "trust.anchors" and field.name == "clusters" else field.name
        if not key and name in {"file", "digest", "warnings"}:
            continue
        role = key == "clusters" and name in {"signer", "controller"}
        if isinstance(found, CertificateRef) or (isinstance(found, DISSOLVED) and not role):
            yield from meaning_of(found, name)
        elif (
            dataclasses.is_dataclass(found)
            and not isinstance(found, Address | JwtRef | SecretRef)
            and _is_table(found)
        ):
            yield from ((f"{name}.{below}", each) for below, each in meaning_of(found, _below(key, name)))
        elif isinstance(found, tuple) and any(_is_table(each) for each in found):
            yield f"{name}{meaning.NUMBER}", len(found)
            for place, element in enumerate(found):
                yield from (
                    (f"{name}[{place}].{below}", each)
                    for below, each in meaning_of(element, _below(key, name))
                )
        else:
            yield name, meaning.plain(found)


def _below(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _is_table(value: Any) -> bool:
    """Whether it is a table of the configuration, not a value that is written as a string."""
    return dataclasses.is_dataclass(value) and type(value).__module__.startswith("federation.core.config")


def write_json(path: Path, content: Any) -> None:
    """A document for people to compare: one line for each value, keys in order."""
    path.write_text(json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")


def make_state() -> None:
    """The state of a hub that was killed in the middle of a rotation."""
    mesh.make_authorities()
    asyncio.run(scenario.run())
    write_json(objects.FILE, asyncio.run(written_objects()))


async def written_objects() -> Any:
    """The state in objects of a cluster."""
    with tempfile.TemporaryDirectory() as place:
        async with objects.cluster(Path(place)) as (box, opens), opens.opened() as store:
            return await objects.written(box, store)


def make_names() -> None:
    """The names that others rely on: of the state, the status API, metrics and findings."""
    write_json(STATE / "fields.json", {prefix: wire.fields_of(kind) for prefix, kind in KINDS.items()})
    write_json(NAMES / "api.json", names.fields_of(asyncio.run(openapi())))
    write_json(NAMES / "metrics.json", names.metrics_in_code())
    page = HERE.parents[1] / "docs" / "findings.md"
    write_json(NAMES / "codes.json", names.codes_in(page.read_text("utf-8")))


async def openapi() -> Any:
    """The OpenAPI document of a status server that takes operations."""
    with tempfile.TemporaryDirectory() as place:
        clock, config = SystemClock(), FixedConfig(World(["east"], 0.0).config)
        store = FileStore(Path(place) / "state", clock)
        mounted = operations(store, config, clock, SEAL)
        app = create_app(store=store, config=config, clock=clock, mounted=mounted)
        async with (
            serve(app, listen=Address("127.0.0.1", 0), clock=clock) as address,
            aiohttp.ClientSession() as session,
            session.get(f"http://{address}/openapi.json") as answer,
        ):
            return await answer.json()


MAKERS: Final = {"configuration": make_configuration, "state": make_state, "names": make_names}


def main(wanted: list[str]) -> None:
    """Make what was asked for; everything where nothing is named."""
    for name in wanted or MAKERS:
        MAKERS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
