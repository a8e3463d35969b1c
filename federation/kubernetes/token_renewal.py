"""A role's token for one member cluster, renewed by the role itself before it ends.

It asks for a new token of its own account (TokenRequest), for which it has the right to this one account's tokens,
uses it at once, and stores it where the old one came from: in the file beside its kubeconfig that is named after it, or
where that is a mount of a Secret, in this Secret. A ``tokenFile`` of any other name is another's to renew, and so is
one in a directory that this process cannot write where no Secret is configured. Several processes may share the place:
each looks at it again right before it asks.
"""

from __future__ import annotations

import logging
import random
from functools import partial
from typing import Annotated, Final

import msgspec

from federation.core.clock import Clock
from federation.core.documents.credential import CredentialReport
from federation.core.errors import ClusterForbidden, ClusterGarbage, FederationError
from federation.files import read_in_time
from federation.kubernetes.session import SMALL_ANSWER_BYTES, ClusterSession
from federation.kubernetes.token_life import MOST_TOKEN, TokenLife, is_newer, token_life
from federation.kubernetes.token_places import KubeconfigSecret, TokenFile, TokenPlace, may_keep

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

    def __init__(
        self,
        session: ClusterSession,
        *,
        clock: Clock,
        jitter: random.Random,
        secret: KubeconfigSecret | None = None,
    ) -> None:
        """``secret`` is what the role's kubeconfigs are mounted from, where they are and it may write it."""
        self._session = session
        self._clock = clock
        self._jitter = jitter
        self._secret = secret
        self._renewed = 0.0
        self._failed = 0.0
        self._problem: FederationError | None = None
        self._place: TokenPlace | None = None  # to store it in, where it is this process's to renew
        self._unstored: tuple[str, str] | None = (
            None  # what is in its place, and the token in use to replace it
        )

    @property
    def report(self) -> CredentialReport:
        """The credential as it is, and how its last renewal went."""
        life = self._session.credential_life
        return CredentialReport(
            issued=life.issued,
            expires=life.expires,
            renews=self._place is not None,
            stored=self._place.label if self._place is not None else "",
            renewed=self._renewed,
            failed=self._failed,
            problem=self._problem.what if self._problem is not None else "",
            remedy=self._problem.remedy if self._problem is not None else "",
        )

    async def _find_place(self) -> None:
        """See where a new token would be stored. Raises OSError where the file's directory hangs."""
        file = self._session.own_token_file
        self._place = None
        if file is None:
            return
        if await read_in_time(f"may write {file}", partial(may_keep, file.parent)):
            self._place = TokenFile(file)
        elif self._secret is not None:
            self._place = self._secret.place(file.name)

    async def catch_up(self) -> None:
        """Before the first request: use a newer token than the mounted one, which may have ended while nothing ran.

        Raises nothing; asked for is only where the mounted one is due.
        """
        try:
            await self._find_place()
            if self._place is not None and self._is_due(self._session.credential_life):
                await self._stored(self._place)
        except (FederationError, OSError) as error:
            self._note(error)

    async def run(self) -> None:
        """Renew whenever it is due, until cancelled. Raises nothing that the cluster or the disk could cause."""
        while True:
            try:
                await self.look()
            except (FederationError, OSError) as error:
                self._note(error)
            await self._clock.sleep(self._pause(self._session.credential_life))

    def _pause(self, life: TokenLife) -> float:
        """Until it is due, with jitter so that processes which share the place do not ask at the same moment."""
        if not life.length:
            return LONGEST_PAUSE
        between = min(max(life.length / RETRIES, SHORTEST_PAUSE), LONGEST_PAUSE)
        until = life.due - self._clock.now().timestamp()
        if self._unstored is not None:
            until = 0.0
        return min(max(until, between), LONGEST_PAUSE) + self._jitter.uniform(0, between / 2)

    def _is_due(self, life: TokenLife) -> bool:
        return bool(life.length) and life.due <= self._clock.now().timestamp()

    async def look(self) -> None:
        """Renew it if it is due, and store it. Raises ClusterErrors, and OSError where a file cannot be written.

        It is asked for even where its place cannot be read or written: a token in use is worth more than one in store.
        """
        await self._find_place()
        place = self._place
        if place is None:
            return
        if self._is_due(self._session.credential_life):
            await self._renew(place)
        if self._unstored is not None:
            await self._store(place)

    async def _renew(self, place: TokenPlace) -> None:
        """Ask for a token, unless another process has done so, and use it."""
        in_use = await self._session.current_token()
        stored = in_use
        try:
            stored = await self._stored(place)
        except (FederationError, OSError) as error:
            self._note(error)
        life = self._session.credential_life
        if not self._is_due(life):
            self._failed, self._problem = 0.0, None  # another process has renewed it
            return
        fresh = await self._ask(life)
        self._session.adopt(fresh)
        self._unstored = (stored, fresh)
        _logger.info(
            "its token was renewed", extra={"cluster": str(self._session.name), "account": str(life.account)}
        )

    async def _stored(self, place: TokenPlace) -> str:
        """The token in its place, which is used where it is newer than the one in use."""
        stored = await place.read()
        if is_newer(stored, await self._session.current_token()):
            self._session.adopt(stored)
            self._unstored = None
        return stored

    async def _store(self, place: TokenPlace) -> None:
        """Put the token in use in its place; one that another process has put there meanwhile stays, and will do."""
        if self._unstored is None:
            return
        before, fresh = self._unstored
        there = await place.replace(before=before, after=fresh)
        if is_newer(fresh, there) and self._is_due(token_life(there)):
            # Something has put an older one back, such as what else applies that Secret: the next start needs this one.
            there = await place.replace(before=there, after=fresh)
        self._unstored = None
        if is_newer(there, fresh):
            self._session.adopt(there)
        self._renewed, self._failed, self._problem = self._clock.now().timestamp(), 0.0, None

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
                f"its new token cannot be stored: {error.strerror or error}",
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
        self._failed, self._problem = self._clock.now().timestamp(), error.without_frames()


class _TokenStatus(msgspec.Struct):
    # It is written into a file and then sent in a header: no space, no line end, nothing that is not ASCII.
    token: Annotated[str, msgspec.Meta(min_length=1, max_length=MOST_TOKEN, pattern=r"^[!-~]+$")]


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus
