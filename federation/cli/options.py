"""Options that several verbs share, and what may be written in them."""

from __future__ import annotations

import argparse
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.core.config.types import Address, fingerprint, seconds
from federation.core.config.types import address as parse_address
from federation.core.errors import InvalidValue
from federation.runtime.logs import FORMATS, LEVELS

if TYPE_CHECKING:
    from federation.core.config.hub import HubConfig

_REPLICA: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?", re.ASCII)


def completes(action: argparse.Action, what: str) -> argparse.Action:
    """Have shells complete the action's value: ``clusters`` of the configuration, or ``contexts``."""
    action.completes = what  # type: ignore[attr-defined]  # argcomplete and shtab mark actions so too
    return action


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config``: where ``clusters.toml`` is."""
    parser.add_argument(
        "--config",
        type=Path,
        default=Path("clusters.toml"),
        metavar="FILE",
        help="the configuration (default: clusters.toml); clusters.example.toml documents every key",
    )


async def load_config(file: Path) -> HubConfig:
    """The configuration of ``--config``; what is insecure in it is printed on stderr. Raises ConfigurationError."""
    from federation.runtime.clock import SystemClock
    from federation.runtime.config_source import ConfigSource

    config = await ConfigSource(file, SystemClock()).load()
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return config


def add_probes(parser: argparse.ArgumentParser) -> None:
    """``--probes``: where a kubelet asks, on a listener that no other caller shares."""
    parser.add_argument(
        "--probes",
        type=address,
        metavar="HOST:PORT",
        help="where /healthz and /readyz alone are served, for a kubelet's probes: open this port to no other client "
        "(default: nowhere)",
    )


def add_logs(parser: argparse.ArgumentParser) -> None:
    """``--log-format`` and ``--log-level``."""
    parser.add_argument(
        "--log-format", choices=FORMATS, default="text", help="how log lines on stderr look (default: text)"
    )
    parser.add_argument(
        "--log-level", choices=LEVELS, default="info", help="the least that is logged (default: info)"
    )


def add_replica(parser: argparse.ArgumentParser, role: str) -> None:
    """``--replica``: the name under which a process reports."""
    parser.add_argument(
        "--replica",
        type=replica,
        default=None,
        metavar="NAME",
        help=f"the name this {role} reports under, unique among all of them (default: this machine's name)",
    )


def address(text: str) -> Address:
    """An option that holds ``host:port``."""
    try:
        return parse_address(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(f"{error.what}: {error.remedy}") from error


def duration(low: float, high: float) -> Callable[[str], float]:
    """An option that holds seconds, or a duration as in ``clusters.toml``: ``90``, ``15m``, ``365d``."""

    def read(text: str) -> float:
        try:
            return seconds(low, high)(float(text) if text.replace(".", "", 1).isdigit() else text)
        except InvalidValue as error:
            raise argparse.ArgumentTypeError(f"{error.what}: {error.remedy}") from error

    return read


def whole_fingerprint(text: str) -> str:
    """An option that holds the SHA-256 of a certificate."""
    try:
        return fingerprint(text)
    except InvalidValue as error:
        raise argparse.ArgumentTypeError(
            f"{error.what}: {error.remedy}; a part of it is never enough"
        ) from error


def replica(text: str) -> str:
    """An option that names a replica; it becomes part of a state key."""
    if not _REPLICA.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text[:80]!r} is not a replica name: use lower-case letters, digits, '-', '_' and '.'"
        )
    return text


def host_replica() -> str:
    """A replica name made of this machine's."""
    plain = re.sub(r"[^a-z0-9._-]", "-", socket.gethostname().lower())[:60].strip("._-")
    return plain or "localhost"
