"""``federation authority check``: what the configured back end is, and whether it signs as it should."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from typing import TYPE_CHECKING

from federation.cli.options import add_config

if TYPE_CHECKING:
    from federation.core.config.model import HubConfig
    from federation.signer.authorities.probe import Finding


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its one question."""
    parser = subparsers.add_parser(
        "authority",
        help="check that the configured authority signs as it should",
        description="Reads the configuration; needs no running hub.",
    )
    questions = parser.add_subparsers(title="questions", metavar="QUESTION", required=True)
    checking = questions.add_parser(
        "check",
        help="have it sign throw-away certificates, and verify them",
        description="Shows what the configured authority is, has it sign a certificate for a workload of each "
        "kind of key that callers may have, and one for the door, as the signer would, and verifies each: key, names, "
        "lifetime, usages and chain to a pinned root. Keys are made for it and thrown away; the certificates live for "
        "ten minutes at most. Run it with the signer's own credentials. Exit codes: 0 it signs as it should (warnings "
        "may stand); 1 it does not, and what to do is said; 2 the configuration cannot be used.",
    )
    add_config(checking)
    checking.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    checking.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    config, findings = asyncio.run(_ask(args))
    failed = any(finding.outcome == "failed" for finding in findings)
    authority = config.signer.authority
    if args.json:
        rows = [
            {
                "check": f.check,
                "outcome": f.outcome,
                "reason": f.reason,
                "detail": f.detail,
                "remedy": f.remedy,
            }
            for f in findings
        ]
        print(
            json.dumps(
                {"ok": not failed, "name": authority.name, "kind": authority.kind, "checks": rows}, indent=2
            )
        )
        return int(failed)
    print(f"authority {authority.name}, kind {authority.kind}")
    for finding in findings:
        print(f"  {finding.mark:<8} {finding.check}: {finding.detail}")
        if finding.remedy:
            print(f"           do: {finding.remedy}")
    return int(failed)


async def _ask(args: argparse.Namespace) -> tuple[HubConfig, list[Finding]]:
    from federation.runtime.clock import SystemClock
    from federation.runtime.config_source import ConfigSource
    from federation.signer.authorities.catalogue import Surroundings
    from federation.signer.authorities.probe import probe_authority

    clock = SystemClock()
    config = await ConfigSource(args.config, clock).load()
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    around = Surroundings(config.trust_domain, clock, os.urandom, random.SystemRandom())
    return config, await probe_authority(config, around)
