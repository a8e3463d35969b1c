"""What an expression of PromQL asks for: metrics with their labels, and the labels that it groups by.

A reader of names and no evaluator: promtool says whether an expression is well-formed and what comes of it, where there
is one (``FEDERATION_PROMTOOL``, or on the PATH).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.last_version.names import SUFFIXES, metrics_in_code
from tests.support.patience import PATIENCE

PROMTOOL = os.environ.get("FEDERATION_PROMTOOL") or shutil.which("promtool") or ""
SELECTOR = re.compile(r"\b(federation_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
OF_HISTOGRAMS = {"_bucket": {"le"}, "_count": set[str](), "_sum": set[str]()}


@dataclass(frozen=True)
class Asked:
    """One metric that an expression names: the name of its samples, and each label with the value it has to have."""

    sample: str
    labels: tuple[tuple[str, str, str], ...]


def asked(expression: str) -> list[Asked]:
    """Every metric of the hub in an expression."""
    return [Asked(name, tuple(MATCHER.findall(braces))) for name, braces in SELECTOR.findall(expression)]


def grouping(expression: str) -> set[str]:
    """Every label that something is grouped or joined by."""
    return {label.strip() for labels in GROUPING.findall(expression) for label in labels.split(",")} - {""}


@cache
def labels_of_samples() -> dict[str, set[str]]:
    """Every sample that the hub can serve by its name, with its labels, from the code: no answer has them all."""
    found: dict[str, set[str]] = {}
    for name, family in metrics_in_code().items():
        labels = set(family["labels"])
        if family["type"] == "counter":
            found[f"{name}_total"] = labels
        elif family["type"] == "histogram":
            found |= {name + suffix: labels | more for suffix, more in OF_HISTOGRAMS.items()}
        else:
            found[name] = labels
    return found


def unknown(expression: str) -> list[str]:
    """What an expression asks for and the hub does not serve, in words."""
    known = labels_of_samples()
    wanted = asked(expression)
    missing = [f"no metric {each.sample}" for each in wanted if each.sample not in known]
    missing += [
        f"{each.sample} has no label {label}"
        for each in wanted
        for label, _, _ in each.labels
        if each.sample in known and label not in known[each.sample]
    ]
    there = {label for each in wanted for label in known.get(each.sample, ())}
    return missing + [f"nothing there has a label {label}" for label in grouping(expression) - there]


def samples(exposition: str) -> dict[str, tuple[str, float]]:
    """Every sample as PromQL writes its series, with its name and value; as Prometheus' own client reads it."""
    found = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if SUFFIXES.sub("", sample.name) == family.name or sample.name == family.name:
                labels = ",".join(f"{name}={quoted(value)}" for name, value in sorted(sample.labels.items()))
                found[f"{sample.name}{{{labels}}}"] = (sample.name, sample.value)
    return found


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def promtool(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    """What promtool says."""
    return subprocess.run(
        [PROMTOOL, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
