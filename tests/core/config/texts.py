"""A small good configuration and ways to spoil it."""

from __future__ import annotations

from federation.core.config.hub import HubConfig
from federation.core.config.load import parse_config
from federation.core.errors import ConfigurationError

FILE = "/etc/federation/clusters.toml"
PIN = "ab" * 32
OTHER_PIN = "cd" * 32

AUTHORITY = """[signer.authority]
name = "shared"
certificate_file = "chain.pem"
key_file = "key.pem"
"""

HUB = f"""
trust_domain = "mesh.example"

[[trust.anchors]]
file = "root.pem"
sha256 = "{PIN}"

[listener]
server_names = ["hub.example"]

{AUTHORITY}
[state]
directory = "state"
"""

EAST = """
[[clusters]]
name = "east"
cluster_id = "east-id"
[clusters.signer]
kubeconfig = "east-signer"
[clusters.controller]
kubeconfig = "east-controller"
"""

WEST = EAST.replace("east", "west")
GOOD = HUB + EAST + WEST


def good(text: str) -> HubConfig:
    """The configuration that ``text`` holds."""
    return parse_config(text, file=FILE)


def mistakes(text: str) -> dict[str, str]:
    """Every finding of a bad text: its key, and problem and remedy in one string."""
    try:
        parse_config(text, file=FILE)
    except ConfigurationError as error:
        assert all(finding.file == FILE and finding.problem for finding in error.findings)
        assert len({(finding.key, finding.problem) for finding in error.findings}) == len(error.findings)
        return {finding.key: f"{finding.problem}. {finding.remedy}" for finding in error.findings}
    return {}


def with_line(line: str, *, in_table: str, text: str = GOOD) -> str:
    """The text with one more line in its first ``[table]`` or ``[[table]]``, which is added where missing."""
    for header in (f"[[{in_table}]]\n", f"[{in_table}]\n"):
        if header in text:
            return text.replace(header, f"{header}{line}\n", 1)
    return f"{text}\n[{in_table}]\n{line}\n"
