"""The configuration file at the edge: loaded, watched, reloaded; a bad file never replaces a good one."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Final

from federation.core.audit import NONE, Action, audit_fields
from federation.core.clock import Clock
from federation.core.config.changes import changes
from federation.core.config.hub import HubConfig
from federation.core.config.load import MAX_BYTES, parse_config
from federation.core.errors import ConfigurationError, Mistake
from federation.core.identity import another_mesh
from federation.files import READ_TIMEOUT, read_bounded, read_in_time, remedy_of

_logger = logging.getLogger(__name__)
_audit = logging.getLogger("federation.runtime.audit")

POLL: Final = 1.0
"""Seconds between reads of the file. A mounted ConfigMap changes by a symlink swap, which inotify on the file
does not see; reading a few hundred KiB once a second costs nothing."""


class ConfigSource:
    """The configuration in force, and what is wrong with the file where a reload was refused.

    One event loop owns it. Both roles and the status server of a process share one instance.
    """

    def __init__(self, path: Path | str, clock: Clock) -> None:
        self.path = Path(path)
        self._clock = clock
        self._current: HubConfig | None = None
        self._problems: tuple[str, ...] = ()
        self._seen: str | None = None  # the last text that was judged, good or bad
        self._newer = asyncio.Event()
        self._reloading = asyncio.Lock()

    @property
    def current(self) -> HubConfig:
        """The configuration in force. An error of the program where :meth:`load` has not succeeded yet."""
        if self._current is None:
            raise RuntimeError("ConfigSource.load() comes first")
        return self._current

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the file, as it is now, is not what is running; empty where it is."""
        return self._problems

    async def load(self) -> HubConfig:
        """Read the file for the first time; raises ConfigurationError with every finding."""
        async with self._reloading:
            text = await self._read()
            config = await self._parse(text)
            self._accept(text, config)
            self._note("change_configuration", NONE, f"digest {config.digest[:16]}")
        for warning in config.warnings:
            _logger.warning("the configuration contains an insecure or questionable option: %s", warning)
        for notice in config.notices:
            _logger.warning("the configuration: %s", notice)
        if config.open_policies:
            _logger.warning(
                "the policy of these clusters allows every identity that is not reserved, so that one which is broken "
                "into can have those of the others: %s",
                ", ".join(config.open_policies[:20]),
            )
        return config

    async def reload(self) -> bool:
        """Take up the file if it changed and is good; True if a new configuration is in force.

        A bad file changes nothing but :attr:`problems`.
        """
        async with self._reloading:
            try:
                text = await self._read()
                if text == self._seen:
                    return False
                self._seen = text
                config = await self._parse(text)
                self._require_the_same_mesh(config)
                self._require_the_same_state(config)
                self._require_the_names_in_use(config)
            except ConfigurationError as error:
                self._refuse(error)
                return False
            return self._accept(text, config)

    def _require_the_same_mesh(self, config: HubConfig) -> None:
        """Raise ConfigurationError where another trust domain is named than that of the running configuration.

        Every certificate and every policy of a mesh names it (SPIFFE ID, section 2.1): nothing of the old one
        would be valid in the new one.
        """
        running = self.current.trust_domain
        if config.trust_domain != running:
            problem = f"is changed from {running} to {config.trust_domain}, which is another mesh"
            raise ConfigurationError(
                [Mistake(str(self.path), "trust_domain", problem, another_mesh(running))]
            )

    def _require_the_same_state(self, config: HubConfig) -> None:
        """Raise ConfigurationError where another state is named than the one that this process works by.

        It is opened once. A process that is restarted would begin anew there, as another hub, while others go on.
        """
        if config.state != self.current.state:
            problem = (
                "names another state than the running one: a process that is restarted knows nothing of what was "
                "published and signed, and is another hub"
            )
            remedy = (
                "put it back. To move the state, stop every role, copy all of it to the new place, change this and "
                "start every role"
            )
            raise ConfigurationError([Mistake(str(self.path), "state", problem, remedy)])

    def _require_the_names_in_use(self, config: HubConfig) -> None:
        """Raise ConfigurationError where the listener is to lose a name: agents that call it by that verify it.

        Its address is written into a pod when it is injected, so they go on using it until the pod is restarted.
        """
        gone = [
            name for name in self.current.listener.server_names if name not in config.listener.server_names
        ]
        if gone:
            problem = f"lacks {', '.join(gone)}: agents that reach the listener by that get no certificate from then on"
            remedy = (
                "put it back, and a new name beside it; once every pod was restarted with the new address, take the "
                "old one out and restart every role"
            )
            raise ConfigurationError([Mistake(str(self.path), "listener.server_names", problem, remedy)])

    async def changed(self, after_digest: str) -> HubConfig:
        """The configuration in force as soon as its digest differs from ``after_digest``."""
        while self.current.digest == after_digest:
            await self._newer.wait()
        return self.current

    async def watch(self) -> None:
        """Reload whenever the file's content changes; runs until cancelled."""
        while True:
            await self._clock.sleep(POLL)
            await self.reload()

    def _accept(self, text: str, config: HubConfig) -> bool:
        before, self._current = self._current, config
        self._seen, recovered, self._problems = text, bool(self._problems), ()
        if before is not None and before.digest == config.digest:
            if recovered:
                _logger.info(
                    "the configuration file is again what is running", extra={"digest": config.digest}
                )
            return False
        if before is not None:
            _logger.info("a new configuration is in force", extra={"digest": config.digest})
            self._note("change_configuration", *changes(before, config))
        self._newer.set()  # wakes who waits now
        self._newer = asyncio.Event()  # and later callers wait for the next
        return True

    def _refuse(self, error: ConfigurationError) -> None:
        problems = tuple(str(finding) for finding in error.findings)
        if problems != self._problems:
            _logger.error(
                "the changed configuration file is refused, the running configuration stays: %s",
                error.diagnostics(),
                extra={"reason": error.reason, "findings": len(problems)},
            )
            self._note("refuse_configuration", f"digest {self.current.digest[:16]}", NONE)
        self._problems = problems

    def _note(self, action: Action, before: str, after: str) -> None:
        """Write a line of the audit. Who edited the file its own place knows: an API server's audit, or git."""
        _audit.info(
            "the configuration is %s",
            "refused" if action == "refuse_configuration" else "taken up",
            extra=audit_fields(
                action,
                actor=NONE,
                actor_kind="file",
                source=str(self.path),
                object="configuration",
                before=before,
                after=after,
            ),
        )

    async def _parse(self, text: str) -> HubConfig:
        """In a thread: a file of two hundred clusters takes a tenth of a second. Its size bounds how long."""
        return await asyncio.to_thread(parse_config, text, file=str(self.path))

    async def _read(self) -> str:
        try:
            data = await read_in_time(str(self.path), partial(read_bounded, self.path, MAX_BYTES))
            return data.decode("utf-8")
        except TimeoutError:
            problem, remedy = f"cannot be read within {READ_TIMEOUT:g} s", "check the disk or mount"
        except UnicodeDecodeError:
            problem, remedy = "is not UTF-8", "save it as UTF-8"
        except OSError as error:
            problem = f"cannot be read: {error.strerror}"
            remedy = remedy_of(error, "check the path and its permissions")
        self._seen = None
        raise ConfigurationError([Mistake(str(self.path), "", problem, remedy)])
