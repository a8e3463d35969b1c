"""The text of ``clusters.toml`` in, a ``HubConfig`` out, or every mistake at once."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from federation.core.config.clusters import DEFAULT_RESERVED, check_members, read_cluster
from federation.core.config.hub import (
    HubConfig,
    check_freshness,
    read_controller,
    read_listener,
    read_signer,
    read_state,
    read_status,
    read_trust,
)
from federation.core.config.mistakes import Findings, Table
from federation.core.config.types import account_pattern, made_by
from federation.core.errors import ConfigurationError, Finding
from federation.core.identity import TrustDomain

MAX_BYTES: Final = 4 * 1024 * 1024
"""Far above what a thousand clusters need; a bigger file is something else."""
FORMER_TABLES: Final = {"door": "listener"}
FORMER_CLUSTER_KEYS: Final = {"own_anchors": "member_cas"}
"""Keys that had other names before 0.2: read, with a notice."""


def parse_config(text: str, *, file: str) -> HubConfig:
    """The configuration that ``text`` holds; ``file`` is its path, which relative paths in it start from.

    Pure: no file is opened. Raises :class:`~federation.core.errors.ConfigurationError` with every finding.
    """
    values, digest = _load(text, file)
    findings = Findings(file)
    directory = Path(file).parent
    values = _under_new_names(values, findings)
    with Table(values, key="", findings=findings) as top:
        trust_domain = top.require(
            "trust_domain", made_by(TrustDomain), "use the meshes' own, for example mesh.example.org"
        )
        reserved = top.list_of("reserved", account_pattern, DEFAULT_RESERVED)
        listener = read_listener(top.table("listener"))
        signer = read_signer(top.table("signer"), directory, listener)
        controller = read_controller(top.table("controller"), listener)
        status = read_status(top.table("status"), directory)
        state = read_state(top.table("state"), directory)
        read = [(table.key, read_cluster(table, directory)) for table in top.tables("clusters")]
        members = [(key, cluster) for key, cluster in read if cluster is not None]
        check_members(members, findings)
        check_freshness(controller, [cluster for _, cluster in members], findings)
        clusters = tuple(cluster for _, cluster in members)
        names = frozenset(cluster.name for cluster in clusters) if len(members) == len(read) else None
        trust = read_trust(top.table("trust"), directory, trust_domain, names)
    if findings.mistakes or trust_domain is None or signer is None or state is None:
        raise ConfigurationError(findings.mistakes)
    return HubConfig(
        file=file,
        digest=digest,
        trust_domain=trust_domain,
        trust=trust,
        listener=listener,
        signer=signer,
        status=status,
        state=state,
        controller=controller,
        clusters=clusters,
        reserved=reserved,
        warnings=tuple(findings.warnings),
        notices=tuple(findings.notices),
    )


def _under_new_names(values: dict[str, object], findings: Findings) -> dict[str, object]:
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
    return document


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
    return ConfigurationError([Finding(file, "", problem, remedy)])
