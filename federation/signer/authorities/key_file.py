"""Reading a private key's file only where its mode keeps others out.

Readable by its owner alone is the rule. The one exception is how Kubernetes mounts a Secret for a pod with
``fsGroup``: owned by root, mode 0440, its group a supplementary group of the process. There the group is
the only way in, so reading by the group is accepted where the file belongs to another user and its group is
one of the process's own.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from federation.core.errors import AuthorityMisconfigured
from federation.core.pki.keys import MAX_KEY_FILE_BYTES


def read_key_file(path: Path) -> bytes:
    """The content of a key file.

    Raises OSError, or AuthorityMisconfigured where others may read or change the file.
    """
    with path.open("rb") as file:
        status = os.fstat(file.fileno())  # of what was opened: nobody can swap it between check and reading
        if not stat.S_ISREG(status.st_mode):
            raise AuthorityMisconfigured(f"{path} is not a regular file", reason="key_file_mode")
        if not mode_is_private(
            stat.S_IMODE(status.st_mode),
            owned=status.st_uid == os.geteuid(),
            in_group=status.st_gid in {os.getegid(), *os.getgroups()},
        ):
            raise AuthorityMisconfigured(
                f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others may read or change it",
                reason="key_file_mode",
                remedy=f"chmod 600 {path}; for a mounted Secret set defaultMode 0400 (0440 by fsGroup)",
            )
        return file.read(MAX_KEY_FILE_BYTES + 1)


def mode_is_private(mode: int, *, owned: bool, in_group: bool) -> bool:
    """True where only this process's user gets in, or its group where a Secret's mount gives it that."""
    others = mode & 0o077
    return others == 0 or (others == 0o040 and not owned and in_group)
