"""A role's token for one member cluster, renewed by the role itself before it ends.

It asks for a new token of its own account (TokenRequest), for which it has the right to this one account's tokens, and
writes it where the old one came from: the file beside its kubeconfig that is named after it. A ``tokenFile`` of any
other name is another's to renew, and so is one in a directory that this process cannot write, as a mounted Secret
is. Several processes may share the file: each looks at it again right before it asks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import tempfile
from functools import partial
from pathlib import Path
from typing import Annotated, Final

import msgspec

from federation.core.clock import Clock
from federation.core.documents.credential import CredentialReport
from federation.core.errors import ClusterForbidden, ClusterGarbage, FederationError
from federation.files import read_in_time
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession
from federation.kubernetes.token_life import MOST_TOKEN, TokenLife, token_life

_logger = logging.getLogger(__name__)

LONGEST_PAUSE: Final = 600.0
"""Seconds between two looks: a file that something else has replaced is seen by then."""
SHORTEST_PAUSE: Final = 5.0
SHORTEST_TOKEN: Final = 600.0
"""Seconds; kube-apiserver gives no token for less (Kubernetes, TokenRequest)."""
RETRIES: Final = 20
"""In a token's life, at most: the last third of it has room for six."""

NO_RIGHT: Final = "apply manifests/member there: it grants each role tokens of its own account"


class TokenRenewal:
    """Keeps the token of one session's role current; :meth:`run` it beside the session."""

    def __init__(self, session: ClusterSession, *, clock: Clock, jitter: random.Random) -> None:
        self._session = session
        self._clock = clock
        self._jitter = jitter
        self._renewed = 0.0
        self._failed = 0.0
        self._problem: FederationError | None = None
        self._file: Path | None = None  # to write, where it is this process's to write

    @property
    def report(self) -> CredentialReport:
        """The credential as it is, and how its last renewal went."""
        life = self._session.credential_life
        return CredentialReport(
            issued=life.issued,
            expires=life.expires,
            renews=self._file is not None,
            renewed=self._renewed,
            failed=self._failed,
            problem=self._problem.what if self._problem is not None else "",
            remedy=self._problem.remedy if self._problem is not None else "",
        )

    async def _find_file(self) -> None:
        """See whether there is a file that this process may write. Raises OSError where its directory hangs."""
        file = self._session.own_token_file
        if file is not None:
            may = await read_in_time(f"may write {file}", partial(os.access, file.parent, os.W_OK))
            file = file if may else None
        self._file = file

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled. Raises nothing that the cluster or the disk could cause."""
        while True:
            try:
                await self.look()
            except (FederationError, OSError) as error:
                self._note(error)
            await self._clock.sleep(self._pause(self._session.credential_life))

    def _pause(self, life: TokenLife) -> float:
        """Until it is due, with jitter so that processes which share the file do not ask at the same moment."""
        if not life.length:
            return LONGEST_PAUSE
        between = min(max(life.length / RETRIES, SHORTEST_PAUSE), LONGEST_PAUSE)
        until = life.due - self._clock.now().timestamp()
        return min(max(until, between), LONGEST_PAUSE) + self._jitter.uniform(0, between / 2)

    async def look(self) -> None:
        """Renew it if it is due. Raises ClusterErrors, and OSError where the file cannot be written."""
        await self._find_file()
        file = self._file
        if file is None or self._session.credential_life.due > self._clock.now().timestamp():
            return
        token = await self._session.current_token()
        life = token_life(token)
        if not life.length or life.due > self._clock.now().timestamp():
            return  # another process has renewed it
        fresh = await self._ask(life)
        await read_in_time(f"write {file}", partial(replace_token, file, before=token, after=fresh))
        self._renewed, self._failed, self._problem = self._clock.now().timestamp(), 0.0, None
        _logger.info(
            "its token was renewed", extra={"cluster": str(self._session.name), "account": str(life.account)}
        )

    async def _ask(self, life: TokenLife) -> str:
        """A token of the same account, for as long as the old one was for."""
        account, where = life.account, str(self._session.name)
        if account is None:
            raise ClusterGarbage("its token names no service account", where=where, remedy="register it anew")
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": int(max(life.length, SHORTEST_TOKEN))},
        }
        try:
            answer = await self._session.request(
                "POST",
                f"/api/v1/namespaces/{account.namespace}/serviceaccounts/{account.name}/token",
                body=msgspec.json.encode(request),
                most_bytes=SMALL_ANSWER_BYTES,
            )
            token = msgspec.json.decode(answer, type=_TokenRequest).status.token
        except ClusterForbidden as error:
            raise ClusterForbidden(error.what, where=error.where, remedy=NO_RIGHT) from error
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            raise ClusterGarbage("what is given for its account is no token", where=where) from None
        fresh = token_life(token)
        if fresh.account != account or fresh.expires <= life.expires:
            raise ClusterGarbage(
                "the token that is given is another account's, or ends no later than the one before",
                where=where,
            )
        return token

    def _note(self, error: FederationError | OSError) -> None:
        where = str(self._session.name)
        if isinstance(error, OSError):
            error = FederationError(
                f"its new token cannot be written: {error.strerror or error}",
                where=where,
                reason="token_file",
                remedy="make the directory of its kubeconfig writable for the hub's user",
            )
        if self._problem is None or self._problem.what != error.what:
            _logger.warning(
                "its token is not renewed: %s",
                error.diagnostics(),
                extra={"cluster": where, "reason": error.reason},
            )
        self._failed, self._problem = self._clock.now().timestamp(), error


class _TokenStatus(msgspec.Struct):
    # It is written into a file and then sent in a header: no space, no line end, nothing that is not ASCII.
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_TOKEN, pattern=r"^[!-~]+$")]


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus


def replace_token(file: Path, *, before: str, after: str) -> bool:
    """Put ``after`` there atomically, with the mode and owner of the file; not where it holds another than ``before``.

    False where another process was faster. Blocks. Raises OSError.
    """
    with file.open("rb") as current:
        if current.read(256 * 1024).decode("ascii", "replace").strip() != before:
            return False
        made = os.fstat(current.fileno())
    descriptor, staged = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as written:
            own = os.fstat(written.fileno())
            if (own.st_uid, own.st_gid) != (made.st_uid, made.st_gid):
                os.fchown(written.fileno(), made.st_uid, made.st_gid)
            written.write(after.encode("ascii"))
            written.flush()
            os.fsync(written.fileno())
        Path(staged).replace(file)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(staged).unlink()
        raise
    return True
