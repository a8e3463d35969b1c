"""One more ``[[trust.anchors]]`` in the text of a ``clusters.toml``: everything else stays as it was, byte for byte."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Final

from federation.core.config.model import HubConfig
from federation.core.config.parse import parse_config
from federation.core.errors import ConfigurationError, Finding

_BY_HAND: Final = "nothing was written; add the pin by hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPin:
    """What the new table says; ``file`` as it stands there, the rest only where it is given."""

    file: str
    sha256: str
    clusters: tuple[str, ...] = ()
    trust_domain: str = ""
    allow_foreign_trust_domain: bool = False

    @property
    def table(self) -> str:
        """The table in TOML."""
        lines = ["[[trust.anchors]]", f"file = {_quoted(self.file)}", f"sha256 = {_quoted(self.sha256)}"]
        if self.clusters:
            names = [_quoted(name) for name in self.clusters]
            lines.append(f"cluster = {names[0] if len(names) == 1 else '[' + ', '.join(names) + ']'}")
        if self.trust_domain:
            lines.append(f"trust_domain = {_quoted(self.trust_domain)}")
        if self.allow_foreign_trust_domain:
            lines.append("allow_foreign_trust_domain = true")
        return "".join(f"{line}\n" for line in lines)


def with_pin(text: str, pin: NewPin, *, file: str) -> tuple[str, HubConfig]:
    """The text with the pin at its end, and what it then configures.

    Raises ConfigurationError, with every finding, where ``text`` or the result cannot be used, and where the
    result would say anything else than ``text`` and the pin.
    """
    before = parse_config(text, file=file)
    newline = "\r\n" if "\r\n" in text else "\n"
    gap = newline if text.endswith("\n") else newline * 2
    extended = text + gap + pin.table.replace("\n", newline)
    try:
        after = parse_config(extended, file=file)
    except ConfigurationError as error:
        raise ConfigurationError([_why(error, file), *error.findings]) from error
    added = after.trust.anchors[len(before.trust.anchors) :]
    same = replace(after, digest=before.digest, warnings=before.warnings, trust=before.trust) == before
    kept = replace(after.trust, anchors=before.trust.anchors) == before.trust
    if not (same and kept and [anchor.sha256 for anchor in added] == [pin.sha256]):
        raise ConfigurationError(
            [Finding(file, "trust.anchors", "cannot be extended without changing something else", _BY_HAND)]
        )
    return extended, after


def _why(error: ConfigurationError, file: str) -> Finding:
    if any(finding.problem.startswith("is not TOML") for finding in error.findings):  # the text before was
        return Finding(file, "trust.anchors", "is written inline, so no table can follow it", _BY_HAND)
    return Finding(file, "", "with this pin it could not be used", "nothing was written")


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's is one, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
