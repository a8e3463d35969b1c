"""``docs/istio.md`` is true where a test can check it: commands parse, files are written, checks are made."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path

from federation.cli.main import build_parser
from federation.clusters.istio_findings import compare_istio
from federation.core.istio.settings import FORMS, settings_files, settings_of
from tests.clusters.test_istio_findings import EAST, GOOD, HUB, found
from tests.core.config.texts import HUB as HUB_TEXT
from tests.core.config.texts import good
from tests.manifests.tree import Tree

PAGE = (Path(__file__).parents[2] / "docs" / "istio.md").read_text("utf-8")
CONSOLE = "\n".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))


def test_every_command_of_the_hub_is_one_that_it_takes() -> None:
    commands = re.findall(r"^\$ federation (.+)$", CONSOLE, re.MULTILINE)
    assert len(commands) >= 4
    for command in commands:
        words = shlex.split(command, comments=True)
        build_parser(words[:1]).parse_args(words)


def test_every_file_that_is_installed_is_one_that_is_printed() -> None:
    config = replace(EAST, network="net-a")
    written = {f.name for form in FORMS for f in settings_files(settings_of(HUB, config), form)}
    named = set(re.findall(r"((?:helm|istioctl|sail)[a-z-]*\.yaml)", CONSOLE))
    assert named == written


def test_the_registration_is_one_that_parses() -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    text = block.replace("NAME", "name")
    assert good(HUB_TEXT + text).clusters[0].policy.trusted_node_accounts == ()
    ambient = re.sub(r"^#", "", text.replace("NETWORK", "net"), flags=re.MULTILINE)
    (cluster,) = good(HUB_TEXT + ambient).clusters
    assert (cluster.network, [str(a) for a in cluster.policy.trusted_node_accounts]) == (
        "net",
        ["istio-system/ztunnel"],
    )


def test_every_check_is_explained_and_no_other() -> None:
    made = {"istio_certificate", *(result.check for result in compare_istio(found(*GOOD), EAST, HUB))}
    explained = set(re.findall(r"`((?:istio|ztunnel)_[a-z_]+)`", PAGE))
    assert explained == made


def test_the_names_that_a_revision_adds_are_those_of_the_role() -> None:
    role = Tree.of("member").one("ClusterRole", "federation-istio-reader")
    names = {name for rule in role["rules"] for name in rule.get("resourceNames", [])} - {"ztunnel"}
    for name in names:
        assert f"`{name}-canary`" in PAGE
