"""Attacks a hub on this machine and says whether honest callers and honest clusters noticed.

Three members in a box, one of them hostile; one signer and one controller as their own processes; honest callers and
attackers as theirs, all on loopback. Before each attack the same processes are measured at rest, with the attackers
started and waiting. Attackers and the hostile member run at the lowest priority, so that what is measured is what the
hub does with their load, and not how one machine's cores are shared; hub, honest callers and honest clusters run at the
usual one.

Exit code 0 where no attack had an honest call refused after the retries of Istio's agents, a p99 of more than three
times that at rest, a probe of health unanswered, a token shown to the hostile member, or a status that was green over
it; 1 where one had; 2 where a name is not known.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import uvloop

from tests.attack.attacks import ATTACKS, HOSTILE, VICTIM, Attack, Step
from tests.attack.field import LONGEST_REPAIR, REPORTED_WITHIN, Field, Seen, open_field
from tests.bench.processes import allow_many_files
from tests.bench.rig import Child, child

MOST_RATIO = 3.0
BEGIN = 2.0  # seconds from an attack's first to its full strength
LONGEST = 150.0  # seconds for one attack beside what it may take to be reported: one that hangs says nothing
LEAST_P99 = 0.020
"""A p99 at rest below this counts as this many seconds: on two cores it varies between 8 and 30 ms within one run, so a
ratio to a smaller one says nothing about the hub."""


@dataclass(frozen=True)
class Verdict:
    """One attack. Latencies in seconds; ``honest_refused`` is after the retries of an agent."""

    name: str
    honest_refused: int
    p99_ratio: float
    repair_seconds: float
    false_green: bool
    honest_answered: int
    honest_retried: int
    p99_at_rest: float
    p99: float
    repair_seconds_at_rest: float
    status_seconds: float
    health_missed: int
    tokens_shown: int
    reasons: dict[str, int]
    met: bool


def verdict(attack: Attack, rest: Seen, under: Seen, *, reported: bool, shown: int) -> Verdict:
    repair = max(under.repairs, default=0.0)
    harmed = under.refused > 0 or repair > LONGEST_REPAIR or under.missed > 0
    false_green = not reported and (harmed or bool(attack.findings))
    ratio = under.p99 / max(rest.p99, LEAST_P99)
    groups = (under.calls["standing"], under.calls["fresh"])
    reasons: dict[str, int] = {}
    for group in groups:
        for reason, count in group["reasons"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    met = not (under.refused or ratio > MOST_RATIO or false_green or shown or under.missed)
    return Verdict(
        name=attack.name,
        honest_refused=under.refused,
        p99_ratio=round(ratio, 2),
        repair_seconds=round(repair, 2),
        false_green=false_green,
        honest_answered=sum(group["answered"] for group in groups),
        honest_retried=sum(group["retried"] for group in groups),
        p99_at_rest=round(rest.p99, 4),
        p99=round(under.p99, 4),
        repair_seconds_at_rest=round(max(rest.repairs, default=0.0), 2),
        status_seconds=round(max(under.status, default=0.0), 3),
        health_missed=under.missed,
        tokens_shown=shown,
        reasons=reasons,
        met=met and repair <= LONGEST_REPAIR,
    )


async def run(
    field: Field, attack: Attack, directory: Path, *, rest: float, length: float, within: float
) -> Verdict:
    for step in attack.prepare:
        await field.ask(step)
    if not attack.load:
        return await _attacked(field, attack, None, rest=rest, length=length, within=within)
    file = directory / f"{attack.name}.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps(field.load(attack)))
    with child(directory, attack.name, "tests.attack.attackers", str(file)) as attackers:
        await asyncio.to_thread(attackers.answer)
        return await _attacked(field, attack, attackers, rest=rest, length=length, within=within)


async def _attacked(
    field: Field, attack: Attack, attackers: Child | None, *, rest: float, length: float, within: float
) -> Verdict:
    try:
        for step in attack.around:
            await field.ask(step)
        at_rest = await field.measure(rest)
        before, reviewed = await field.findings(), await field.tokens_shown_to_the_hostile_member()
        if attackers is not None:
            await asyncio.to_thread(attackers.order, {"go": True})
        for step in attack.begin:
            await field.ask(step)
        await asyncio.sleep(BEGIN)
        under = await field.measure(length)
        shown = await field.tokens_shown_to_the_hostile_member() - reviewed
        reported = await field.reports(attack, before, within=within) if attack.findings else False
    finally:
        for cluster in (HOSTILE, VICTIM) if attack.begin else ():
            await field.ask(Step(cluster, "calm"))
    return verdict(attack, at_rest, under, reported=reported, shown=shown)


def table(verdicts: Sequence[Verdict]) -> str:
    head = (
        f"{'attack':27}{'honest':>14}{'p99 ms':>16}{'ratio':>7}{'repair s':>14}{'status s':>10}"
        f"{'health':>8}{'green':>7}  goal"
    )
    rows = [
        f"{v.name:27}{f'{v.honest_answered} ok, {v.honest_refused} no':>14}"
        f"{f'{v.p99_at_rest * 1000:.0f} > {v.p99 * 1000:.0f}':>16}{v.p99_ratio:7.1f}"
        f"{f'{v.repair_seconds_at_rest:.2f} > {v.repair_seconds:.2f}':>14}{v.status_seconds:10.3f}"
        f"{f'{v.health_missed} lost':>8}{'FALSE' if v.false_green else 'true':>7}  {'met' if v.met else 'MISSED'}"
        for v in verdicts
    ]
    return "\n".join([head, *rows])


async def attack_all(attacks: Sequence[Attack], *, quick: bool, within: float) -> list[Verdict]:
    rest, length = (2.0, 3.0) if quick else (5.0, 8.0)
    verdicts: list[Verdict] = []
    with tempfile.TemporaryDirectory(prefix="federation-attack-") as text:
        directory = Path(text)
        async with open_field(directory) as field:
            await field.measure(1.0)  # a warm-up that is not counted
            for attack in attacks:
                print(f"{attack.name}: {attack.what}", file=sys.stderr, flush=True)
                try:
                    async with asyncio.timeout(LONGEST + within):
                        found = await run(field, attack, directory, rest=rest, length=length, within=within)
                        verdicts.append(found)
                except TimeoutError:  # the next attacks would wait for the same
                    print(
                        f"{attack.name} was not measured in {LONGEST + within:g} s",
                        file=sys.stderr,
                        flush=True,
                    )
                    break
    return verdicts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.attack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON document on stdout, all else on stderr"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these attacks")
    parser.add_argument("--quick", action="store_true", help="shorter measurements, for a first look")
    parser.add_argument(
        "--reported-within",
        type=float,
        default=REPORTED_WITHIN,
        metavar="SECONDS",
        help="how soon status has to report it (default: %(default)g); more on a machine that is busy with other work",
    )
    options = parser.parse_args(arguments)
    chosen = [attack for attack in ATTACKS if not options.only or attack.name in options.only]
    unknown = {*(options.only or ())} - {attack.name for attack in ATTACKS}
    if unknown:
        print(f"no attack is named {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    allow_many_files()
    began = time.monotonic()
    verdicts = uvloop.run(attack_all(chosen, quick=options.quick, within=options.reported_within))
    print(table(verdicts), file=sys.stderr if options.json else sys.stdout)
    print(f"took {time.monotonic() - began:.0f} s", file=sys.stderr)
    met = len(verdicts) == len(chosen) and all(each.met for each in verdicts)
    if options.json:
        document = {"goal_met": met, "cores": os.cpu_count(), "attacks": [asdict(each) for each in verdicts]}
        print(json.dumps(document, indent=2))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
