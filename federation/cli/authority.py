"""``federation authority check``: what the configured back end is, and whether it signs as it should."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from federation.cli.options import add_config

if TYPE_CHECKING:
    from federation.core.config.authorities.settings import AuthorityConfig
    from federation.signer.authorities.canary import CanaryCheck


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
        "kind of key that callers may have, and one for the listener, as the signer would, and verifies each: "
        "key, names, "
        "lifetime, usages and chain to a pinned root; then the same of the successor, where one is configured. Keys "
        "are made for it and thrown away; the certificates live for ten minutes at most. Run it with the signer's own "
        "credentials. Exit codes: 0 all sign as they should (there may be warnings); 1 one does not, and what to do is "
        "said; 2 the configuration cannot be used.",
    )
    add_config(checking)
    checking.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    checking.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    checked = asyncio.run(_ask(args))
    if args.json:
        own, *successor = [_document(authority, findings) for authority, findings in checked]
        document = {**own, **({"successor": successor[0]} if successor else {})}
        document["ok"] = all(part["ok"] for part in (own, *successor))
        print(json.dumps(document, indent=2))
    else:
        for role, (authority, findings) in zip(("authority", "successor"), checked, strict=False):
            print(f"{role} {authority.name}, kind {authority.kind}")
            for finding in findings:
                print(f"  {finding.mark:<8} {finding.check}: {finding.detail}")
                if finding.remedy:
                    print(f"           do: {finding.remedy}")
    return int(any(_failed(findings) for _, findings in checked))


def _document(authority: AuthorityConfig, findings: list[CanaryCheck]) -> dict[str, object]:
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
    return {"ok": not _failed(findings), "name": authority.name, "kind": authority.kind, "checks": rows}


def _failed(findings: list[CanaryCheck]) -> bool:
    return any(finding.outcome == "failed" for finding in findings)


async def _ask(args: argparse.Namespace) -> list[tuple[AuthorityConfig, list[CanaryCheck]]]:
    """What was found of the authority, and of the successor where there is one."""
    from federation.runtime.clock import SystemClock
    from federation.runtime.config_source import ConfigSource
    from federation.signer.authorities.authority import BackEndContext
    from federation.signer.authorities.canary import probe_authority

    clock = SystemClock()
    config = await ConfigSource(args.config, clock).load()
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    around = BackEndContext(
        config.trust_domain,
        clock,
        os.urandom,
        random.SystemRandom(),
        hosts=lambda: config.listener.server_names,
        ztunnel=lambda: config.has_ztunnel,
    )
    checked = []
    for authority in (config.signer.authority, config.signer.successor):
        if authority is not None:
            alone = replace(config, signer=replace(config.signer, authority=authority, successor=None))
            checked.append((authority, await probe_authority(alone, around)))
    return checked
