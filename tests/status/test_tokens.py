"""Two tokens with two rights; what is weak, readable by others, or one and the same is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.core.config.hub import StatusConfig
from federation.core.errors import ConfigurationError, InvalidValue
from federation.status.authorization import check_tokens, is_same, read_token
from tests.support.seals import OPERATE_TOKEN, READ_TOKEN, token_file


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o600, 0o640])
def test_a_token_for_owner_and_group_is_read(tmp_path: Path, mode: int) -> None:
    file = token_file(tmp_path / "token", READ_TOKEN + "\n")
    file.chmod(mode)
    assert read_token(file) == READ_TOKEN.encode()


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660, 0o666, 0o444])
def test_one_that_others_can_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    file = token_file(tmp_path / "token")
    file.chmod(mode)
    with pytest.raises(InvalidValue) as refused:
        read_token(file)
    assert f"{mode:04o}" in str(refused.value)
    assert "chmod" in refused.value.remedy


def test_a_mounted_secret_is_judged_by_the_file_behind_the_link(tmp_path: Path) -> None:
    """A Secret's key is a link to ``..data``, which is one to the newest directory; links have mode 0777."""
    (tmp_path / "..1").mkdir()
    file = token_file(tmp_path / "..1" / "token")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "token").symlink_to("..data/token")
    assert read_token(tmp_path / "token")
    file.chmod(0o644)
    with pytest.raises(InvalidValue):
        read_token(tmp_path / "token")


async def test_the_start_is_refused_with_every_finding_and_no_token_in_it(tmp_path: Path) -> None:
    weak, open_to_all = token_file(tmp_path / "weak", "open-sesame"), token_file(tmp_path / "open")
    open_to_all.chmod(0o644)
    with pytest.raises(ConfigurationError) as refused:
        await check_tokens(StatusConfig(read_token_file=weak, operate_token_file=open_to_all))
    keys = [finding.key for finding in refused.value.findings]
    assert keys == ["status.read_token_file", "status.operate_token_file"]
    assert "open-sesame" not in refused.value.diagnostics()
    assert READ_TOKEN not in refused.value.diagnostics()


async def test_one_token_for_both_is_refused_and_a_missing_file_is_not(tmp_path: Path) -> None:
    file = token_file(tmp_path / "token")
    with pytest.raises(ConfigurationError, match="the token that reads"):
        await check_tokens(StatusConfig(read_token_file=file, operate_token_file=file))
    await check_tokens(StatusConfig(read_token_file=file, operate_token_file=tmp_path / "missing"))
    other = token_file(tmp_path / "other", OPERATE_TOKEN)
    await check_tokens(StatusConfig(read_token_file=file, operate_token_file=other))


@pytest.mark.parametrize("kind", ["missing", "directory"])
async def test_a_token_file_that_cannot_be_read_is_logged_with_its_key_and_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    """Every caller is refused for it, and only this message says why."""
    file = tmp_path / "token"
    if kind == "directory":
        file.mkdir()
    await check_tokens(StatusConfig(read_token_file=file))
    assert f"status.read_token_file: the token in {file} cannot be read" in caplog.text


def test_tokens_are_compared_whole() -> None:
    assert is_same(b"a", b"a")
    assert not is_same(b"a", b"ab")
    assert not is_same(b"", b"a")
