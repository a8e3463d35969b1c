"""An intermediate whose chain and key are mounted files, taken up together or not at all.

Both are read anew every few seconds, because mounted Secrets change by a symlink swap that no portable
notification reports.
"""

from __future__ import annotations

from federation.core.config.authorities.settings import LocalAuthorityConfig
from federation.core.errors import AuthorityMisconfigured
from federation.core.pki.pem import MAX_PEM_BYTES
from federation.files import read_bounded, remedy_of
from federation.signer.authorities.authority import KeyPair
from federation.signer.authorities.credentials import read_in_time, read_key_file
from federation.signer.authorities.hub_built import pair_in_memory


class PairOfFiles:
    """Implements PairSource."""

    warnings: tuple[str, ...] = ()

    def __init__(self, config: LocalAuthorityConfig) -> None:
        self._config = config
        self._read: tuple[bytes, bytes] | None = None
        self._pair: KeyPair | None = None

    async def read(self) -> KeyPair:
        """What both files hold now."""
        config = self._config
        files = f"{config.certificate_file} and {config.key_file}"
        self._read, pair = await read_in_time(files, self._read_files)
        self._pair = pair
        return pair

    async def close(self) -> None:
        """Forget the key."""
        self._read = self._pair = None

    def _read_files(self) -> tuple[tuple[bytes, bytes], KeyPair]:
        """Both files and what they hold; parsed only when changed, for checking an RSA key takes long."""
        config = self._config
        try:
            read = read_bounded(config.certificate_file, MAX_PEM_BYTES), read_key_file(config.key_file)
        except OSError as error:
            raise AuthorityMisconfigured(
                f"cannot read {error.filename}: {error.strerror}",
                reason="file_unreadable",
                remedy=remedy_of(
                    error, "mount chain and key where the configuration says, readable by the signer"
                ),
            ) from None
        if read == self._read and self._pair is not None:
            return read, self._pair
        pair = pair_in_memory(*read, chain_at=str(config.certificate_file), key_at=str(config.key_file))
        return read, pair
