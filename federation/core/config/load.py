"""The text of ``clusters.toml`` in, a ``HubConfig`` out, or every mistake at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from federation.core.config.hub import HubConfig, HubTable
from federation.core.config.mistakes import Findings, Place
from federation.core.config.rules import check_hub
from federation.core.config.tables import prepare_tables, read_tables
from federation.core.config.types import ReadingContext
from federation.core.errors import ConfigurationError, Mistake

MAX_BYTES: Final = 4 * 1024 * 1024
"""Far above what a thousand clusters need; a bigger file is something else."""
REQUIRED_TABLES: Final = ("trust", "listener", "signer", "state")
"""Where one of them is not there, its keys are what is missing."""
FORMER_TABLES: Final = {"door": "listener"}
FORMER_CLUSTER_KEYS: Final = {"own_anchors": "member_cas"}
"""Keys that had other names before 0.2: read, with a notice."""
FORMER_TOKEN: Final = "token_file"  # noqa: S105 - the name of a key
"""Of ``[status]``, where one token did what two do now: read, with a warning."""


def parse_config(text: str, *, file: str) -> HubConfig:
    """The configuration that ``text`` holds; ``file`` is its path, which relative paths in it start from.

    Pure: no file is opened. Raises :class:`~federation.core.errors.ConfigurationError` with every finding.
    """
    document, digest = _load(text, file)
    findings = Findings(file)
    document = under_new_names(document, findings)
    for name in REQUIRED_TABLES:
        document.setdefault(name, {})
    signer = Place(document["signer"], key="signer", findings=findings)
    context = ReadingContext(
        Path(file).parent, has_conjur=signer.has("conjur"), has_spiffe=signer.has("spiffe")
    )
    hub = read_tables(HubTable, document, context, findings)
    place = Place(document, key="", findings=findings)
    check_hub(place, hub)
    if findings.mistakes:
        raise ConfigurationError(findings.mistakes)
    return hub.build(place, file=file, digest=digest)


def prepare() -> None:
    """Do what the first file costs beside reading it: a tenth of a second for classes that every later one uses."""
    prepare_tables(HubTable)


def under_new_names(values: dict[str, object], findings: Findings) -> dict[str, object]:
    """The document with its former keys under the names of today."""
    document = _renamed(values, FORMER_TABLES, "", findings)
    clusters = document.get("clusters")
    if isinstance(clusters, list):
        document["clusters"] = [
            _renamed(table, FORMER_CLUSTER_KEYS, f"clusters[{place}].", findings)
            if isinstance(table, dict)
            else table
            for place, table in enumerate(clusters)
        ]
    status = document.get("status")
    if isinstance(status, dict) and FORMER_TOKEN in status:
        document["status"] = _with_read_token(status, findings)
    return document


def _with_read_token(status: Mapping[str, object], findings: Findings) -> dict[str, object]:
    """``[status]`` with ``read_token_file`` for ``token_file``, as it was called when one token did both."""
    renamed = {key: value for key, value in status.items() if key != FORMER_TOKEN}
    if "read_token_file" in status:
        findings.mistake(
            f"status.{FORMER_TOKEN}", "is the former name of read_token_file, which is there too", "remove it"
        )
    else:
        renamed["read_token_file"] = status[FORMER_TOKEN]
        findings.former["status.read_token_file"] = f"status.{FORMER_TOKEN}"
        findings.warning(
            f"status.{FORMER_TOKEN}",
            "it is called read_token_file now, and grants reading only: operations need a token of their own in "
            "operate_token_file",
        )
    return renamed


def _renamed(
    table: Mapping[str, object], former: Mapping[str, str], where: str, findings: Findings
) -> dict[str, object]:
    """The table with each former key renamed, and a notice of it; a mistake where both names are there."""
    renamed = dict(table)
    for old, new in former.items():
        if old not in renamed:
            continue
        value = renamed.pop(old)
        if new in renamed:
            findings.mistake(
                f"{where}{old}", f"is the former name of {where}{new}, which is there too", "keep one"
            )
        else:
            findings.notice(
                f"{where}{old}", f"is called {where}{new} now; it is read under its former name too"
            )
            findings.former[f"{where}{new}"] = f"{where}{old}"
            renamed[new] = value
    return renamed


def _load(text: str, file: str) -> tuple[dict[str, object], str]:
    """The TOML document and the SHA-256 of its text."""
    try:
        data = text.encode("utf-8")
        if len(data) > MAX_BYTES:
            raise _unreadable(file, f"is larger than {MAX_BYTES} bytes", "this is not a clusters.toml")
        return tomllib.loads(text), sha256(data).hexdigest()
    except RecursionError:
        raise _unreadable(file, "nests tables or arrays too deeply", "see clusters.example.toml") from None
    except UnicodeEncodeError:
        raise _unreadable(file, "is not UTF-8", "save it as UTF-8") from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number of thousands of digits
        raise _unreadable(file, f"is not TOML: {error}", "see clusters.example.toml") from None


def _unreadable(file: str, problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError([Mistake(file, "", problem, remedy)])
