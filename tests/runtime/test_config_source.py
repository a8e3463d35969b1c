"""The configuration in force: loaded, watched, never replaced by a bad file."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from federation.core.audit import FIELDS
from federation.core.config.hub import HubConfig
from federation.core.errors import ConfigurationError
from federation.runtime.config_source import POLL, ConfigSource
from tests.core.config.texts import EAST, GOOD, HUB
from tests.support.clock import VirtualClock
from tests.support.patience import PATIENCE


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "clusters.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture
async def source(file: Path) -> ConfigSource:
    source = ConfigSource(file, VirtualClock())
    await source.load()
    return source


def names(config: HubConfig) -> list[str]:
    return [str(cluster.name) for cluster in config.clusters]


async def test_before_the_first_load_there_is_nothing(file: Path) -> None:
    with pytest.raises(RuntimeError):
        _ = ConfigSource(file, VirtualClock()).current


async def test_a_bad_file_at_the_start_is_an_error_with_every_finding(file: Path) -> None:
    file.write_text("colour = 1\n" + GOOD.replace("cluster_id", "clusterid"))
    with pytest.raises(ConfigurationError) as caught:
        await ConfigSource(file, VirtualClock()).load()
    assert len(caught.value.findings) == 5
    assert {finding.file for finding in caught.value.findings} == {str(file)}


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(b"\xff\xfe")])
async def test_a_file_that_cannot_be_read_is_a_finding(file: Path, spoil: object) -> None:
    spoil(file)  # type: ignore[operator]
    with pytest.raises(ConfigurationError) as caught:
        await ConfigSource(file, VirtualClock()).load()
    (finding,) = caught.value.findings
    assert finding.file == str(file)
    assert finding.remedy


async def test_a_changed_file_is_taken_up(source: ConfigSource, file: Path) -> None:
    before = source.current
    file.write_text(HUB + EAST)
    assert await source.reload()
    assert names(source.current) == ["east"]
    assert names(before) == ["east", "west"]
    assert not await source.reload()


async def test_what_is_taken_up_or_refused_is_a_line_of_the_audit(
    file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="federation.runtime.audit")
    source = ConfigSource(file, VirtualClock())
    first = (await source.load()).digest[:16]
    file.write_text(GOOD.replace('"west"', '"north"'))
    assert await source.reload()
    second = source.current.digest[:16]
    file.write_text("colour = 1\n" + GOOD)
    await source.reload()
    await source.reload()  # once for each text
    file.write_text(GOOD.replace("[listener]", "[listener]\nmax_concurrent = 7"))
    assert await source.reload()
    lines = [record.__dict__ for record in caplog.records if record.name == "federation.runtime.audit"]
    third = source.current.digest[:16]
    assert [(line["action"], line["before"], line["after"]) for line in lines] == [
        ("change_configuration", "none", f"digest {first}"),
        ("change_configuration", f"digest {first}; cluster west", f"digest {second}; cluster north"),
        ("refuse_configuration", f"digest {second}", "none"),
        (
            "change_configuration",
            f"digest {second}; cluster north",
            f"digest {third}; cluster west; changed listener",
        ),
    ]
    assert all(set(FIELDS) <= line.keys() and line["source"] == str(file) for line in lines)


async def test_another_trust_domain_is_another_mesh_and_not_taken_up(
    source: ConfigSource, file: Path
) -> None:
    before = source.current
    file.write_text(GOOD.replace(f'"{before.trust_domain}"', '"elsewhere.example"'))
    assert not await source.reload()
    assert source.current is before
    (problem,) = source.problems
    assert "another mesh" in problem
    assert f"put trust_domain = '{before.trust_domain}' back" in problem
    file.write_text(GOOD)
    await source.reload()
    assert source.problems == ()


async def test_a_running_process_stays_with_its_state(source: ConfigSource, file: Path) -> None:
    before = source.current
    assert before.state.directory is not None
    moved = GOOD.replace('directory = "state"', 'directory = "elsewhere"', 1)
    assert moved != GOOD
    file.write_text(moved)
    assert not await source.reload()
    assert source.current is before
    (problem,) = source.problems
    assert "another state" in problem
    assert "stop every role" in problem
    file.write_text(GOOD)
    await source.reload()
    assert source.problems == ()


async def test_a_running_listener_loses_no_name_and_may_gain_names(source: ConfigSource, file: Path) -> None:
    before = source.current
    (name,) = before.listener.server_names
    file.write_text(GOOD.replace(f'"{name}"', '"another.example"', 1))
    assert not await source.reload()
    assert source.current is before
    (problem,) = source.problems
    assert "listener.server_names" in problem
    assert f"lacks {name}" in problem
    assert "restart every role" in problem
    file.write_text(GOOD.replace(f'"{name}"', f'"another.example", "{name}"', 1))
    assert await source.reload()
    assert source.current.listener.server_names == ("another.example", name)
    assert source.problems == ()


async def test_a_bad_file_changes_nothing_but_the_problems(source: ConfigSource, file: Path) -> None:
    before = source.current
    file.write_text("colour = 1\n" + GOOD.replace("cluster_id", "clusterid"))
    assert not await source.reload()
    assert source.current is before
    assert len(source.problems) == 5
    assert "cluster_id" in " ".join(source.problems)
    assert not await source.reload()
    assert len(source.problems) == 5

    file.write_text(GOOD)
    assert not await source.reload()  # the old text again: nothing new, and nothing wrong any more
    assert list(source.problems) == []


async def test_a_vanished_file_is_a_problem_until_it_is_back(source: ConfigSource, file: Path) -> None:
    file.rename(file.with_suffix(".gone"))
    assert not await source.reload()
    assert "cannot be read" in source.problems[0]
    file.with_suffix(".gone").rename(file)
    assert not await source.reload()
    assert source.problems == ()


async def test_a_good_file_after_a_bad_one_is_taken_up(source: ConfigSource, file: Path) -> None:
    file.write_text("=")
    await source.reload()
    file.write_text(HUB)
    assert await source.reload()
    assert source.problems == ()
    assert names(source.current) == []


async def test_waiting_for_a_newer_configuration(source: ConfigSource, file: Path) -> None:
    digest = source.current.digest
    waiting = [asyncio.create_task(source.changed(digest)) for _ in range(3)]
    await asyncio.sleep(0)
    file.write_text("nonsense")
    await source.reload()
    assert not any(task.done() for task in waiting)
    file.write_text(HUB + EAST)
    await source.reload()
    async with asyncio.timeout(PATIENCE):
        seen = await asyncio.gather(*waiting)
    assert all(config is source.current for config in seen)
    assert await source.changed("something older") is source.current


async def test_a_mounted_config_map_changes_by_its_link(tmp_path: Path) -> None:
    """The kubelet swaps ``..data``; the file's own path, size and often its time stay as they were."""
    for name, text in (("v1", GOOD), ("v2", GOOD.replace("east-id", "EAST-ID"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "clusters.toml").write_text(text)
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "clusters.toml").symlink_to("..data/clusters.toml")
    clock = VirtualClock()
    source = ConfigSource(tmp_path / "clusters.toml", clock)
    await source.load()
    watching = asyncio.create_task(source.watch())
    newer = asyncio.create_task(source.changed(source.current.digest))
    await clock.until_sleeping()
    (tmp_path / "..new").symlink_to("v2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    await clock.advance(POLL)
    async with asyncio.timeout(PATIENCE):
        config = await newer
    assert str(config.clusters[0].cluster_id) == "EAST-ID"
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_insecure_options_are_said_at_the_start(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    file.write_text(HUB + '[[clusters]]\nname = "c"\ncluster_id = "c"\nkubeconfig = "k"\n')
    await ConfigSource(file, VirtualClock()).load()
    assert "who can sign cannot publish" in caplog.text
