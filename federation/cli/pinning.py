"""Accepting an anchor: the certificate is found, checked, and written down.

``federation trust`` and ``clusters join`` share this. It is found by its whole fingerprint, and checked before
anything is shown. Two files are written, its PEM and ``clusters.toml``, whole or not at all, and durable. In the text
of ``clusters.toml`` one more ``[[trust.anchors]]`` is added: everything else stays as it was, byte for byte.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from federation.core.config.hub import HubConfig
from federation.core.config.load import MAX_BYTES, parse_config
from federation.core.documents.trust import Proposal
from federation.core.errors import ConfigurationError, FederationError, InvalidValue, Mistake
from federation.core.pki.certificate import Certificate
from federation.core.pki.pem import MAX_PEM_BYTES, find_certificate
from federation.files import read_now, remedy_of
from federation.status.model import BundleView, ControllerView
from federation.status.rotation_model import UnpinnedView
from federation.status.text import printable

_REMEDIES: Final = {
    errno.ETIMEDOUT: "see why what it is on does not answer, or whether it is a pipe; name another file",
    errno.EROFS: "run this where the configuration is kept, and give it to the hub from there",
    errno.EACCES: "run this as a user that may write it",
    errno.EPERM: "run this as the user that the file belongs to",
    errno.ENOSPC: "make room on that file system",
}


class FileChanged(FederationError):
    """The configuration is not what it was when it was read; nothing was written."""

    default_reason = "file_changed"
    default_remedy = "run this again: it reads the file as it is now"


def read_bounded(path: Path, limit: int = MAX_PEM_BYTES) -> bytes:
    """The content of a file, with one byte past ``limit`` where it is longer.

    Raises FederationError, also where the file hangs. Not for where an event loop runs.
    """
    with _reported(path):
        return read_now(path, limit)


def read_text(path: Path, *, digest: str) -> str:
    """The text of that SHA-256; raises FileChanged where the file holds another by now."""
    data = read_bounded(path, MAX_BYTES)
    _check(path, data, digest)
    return data.decode("utf-8")


def write_new(path: Path, content: bytes) -> bool:
    """Write a file of mode 0644 that was not there, durably; False where it is there and holds just that.

    Raises FederationError where it holds anything else.
    """
    with _reported(path):
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o755)  # as the file below, whatever the umask
            _sync_directory(path.parent.parent)
        try:
            found = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            if read_bounded(path, len(content)) == content:
                return False
            raise FederationError(
                "is there already and holds something else; nothing was written",
                where=str(path),
                remedy="name another file with --file, or remove this one if nothing needs it",
            ) from None
        try:
            with os.fdopen(found, "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # whatever the umask: the hub runs as another user
                _write(file, content)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    return True


def replace_text(path: Path, text: str, *, digest: str) -> None:
    """Put ``text`` in the place of the text of that SHA-256, atomically; mode and owner stay.

    A symbolic link stays one: what it leads to is replaced. Raises FederationError; FileChanged where another
    process has written it, or is doing so.
    """
    with _reported(path):
        target = path.resolve(strict=True)
        with _locked(target) as current:
            _check(path, current.read(MAX_BYTES + 1), digest)
            _replace(target, text.encode("utf-8"), os.fstat(current.fileno()))


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[BinaryIO]:
    """The file, locked against other processes that accept an anchor at the same moment."""
    found = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe is there at once, and empty
    with os.fdopen(found, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileChanged("another process is writing it at this moment", where=str(target)) from None
        if not os.path.samestat(os.fstat(file.fileno()), target.stat()):  # replaced before it was locked
            raise FileChanged("was replaced by another process", where=str(target))
        yield file


def _replace(target: Path, content: bytes, before: os.stat_result) -> None:
    descriptor, staged = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            made = os.fstat(file.fileno())
            if (made.st_uid, made.st_gid) != (before.st_uid, before.st_gid):
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
            os.fchmod(file.fileno(), stat.S_IMODE(before.st_mode))
            _write(file, content)
        Path(staged).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(staged).unlink()
        raise
    _sync_directory(target.parent)


def _write(file: BinaryIO, content: bytes) -> None:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(found)
    finally:
        os.close(found)


def _check(path: Path, data: bytes, digest: str) -> None:
    if sha256(data).hexdigest() != digest:
        raise FileChanged("was changed by another process meanwhile; nothing was written", where=str(path))


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FederationError(
            f"cannot be read or written: {error.strerror or type(error).__name__}",
            where=str(error.filename or path),
            remedy=_REMEDIES.get(
                error.errno or 0, remedy_of(error, "check the path, its permissions and the disk")
            ),
        ) from error


MOST_SHOWN: Final = 300
"""Characters of what another machine says."""
OF_NONE: Final = "the member CA of none: rotations wait for no cluster but those that are found to have it"


class TrustAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What of the status API's answer concerns anchors."""

    trust_domain: str
    bundle: BundleView | None
    controllers: list[ControllerView]
    proposals: list[Proposal]
    unpinned: list[UnpinnedView] = []


@dataclass(frozen=True, slots=True)
class Candidate:
    """A self-signed CA of the fingerprint that was given. ``clusters`` are those whose member CA it is, if any."""

    certificate: Certificate
    origin: str
    clusters: tuple[str, ...]

    @property
    def lines(self) -> list[str]:
        """What a person checks before accepting it."""
        certificate = self.certificate
        return [
            f"subject  {certificate.subject}",
            f"sha256   {certificate.sha256}",
            f"valid    {_day(certificate.not_before)} to {_day(certificate.not_after)}",
            f"origin   {self.origin}",
            f"cluster  {', '.join(self.clusters) or OF_NONE}",
        ]


def from_file(path: Path, sha256: str, *, clusters: Sequence[str], shared: bool, now: datetime) -> Candidate:
    """The certificate of that fingerprint in a file; raises FederationError.

    A file does not say whose member CA it is, so the operator has to: of these clusters, or ``shared``, of none.
    """
    if not clusters and not shared:
        raise FederationError(
            "it is not stated which clusters issue with it, and rotations have to wait for what they go on to issue",
            where=str(path),
            remedy="add --cluster NAME for every cluster that issues with it today, or --shared-root for a root "
            "that is no cluster's member CA",
        )
    certificate = read_certificate(path, sha256)
    return _checked(Candidate(certificate, f"the file {path}", tuple(clusters)), now)


def from_proposals(
    proposals: Sequence[Proposal], sha256: str, *, clusters: Sequence[str], shared: bool, now: datetime
) -> Candidate:
    """The one that the hub proposes under that fingerprint; raises FederationError.

    It is the own CA of every cluster that it was found in, unless a person says that it is ``shared``: of none.
    ``clusters`` only confirm that, or say it of an anchor that was found in none: were one left out that
    issues with it, no rotation would wait for what it issues.
    """
    matches = [proposal for proposal in proposals if proposal.sha256 == sha256]
    if not matches:
        raise FederationError(
            "no open proposal has this fingerprint",
            where=sha256,
            remedy="see `federation trust list`; --from-file takes a certificate that the hub has not found",
        )
    found_in = sorted({printable(proposal.cluster) for proposal in matches if proposal.cluster})
    unknown_callers = sorted({*clusters} - {*found_in}) if found_in else []
    if unknown_callers:
        raise FederationError(
            f"it was not found in {', '.join(unknown_callers)} but in {', '.join(found_in)}"[:MOST_SHOWN],
            where=sha256,
            remedy="leave --cluster out: the pin names every cluster that it was found in",
        )
    pem = next((proposal.pem for proposal in matches if proposal.pem), "")
    if not pem:
        raise FederationError(
            "the hub does not give the certificate itself",
            where=sha256,
            remedy="take it from its owner, and accept it with --from-file",
        )
    where = "the hub's answer"
    certificate = _of(pem.encode("ascii", "replace"), sha256, where)
    origins = sorted({_described(proposal) for proposal in matches})
    whose = () if shared else tuple(found_in or clusters)
    return _checked(Candidate(certificate, "; ".join(origins)[:MOST_SHOWN], whose), now)


def read_certificate(path: Path, sha256: str) -> Certificate:
    """The certificate of that fingerprint in a PEM file; raises FederationError."""
    return _of(read_bounded(path), sha256, str(path))


def _of(pem: bytes, sha256: str, where: str) -> Certificate:
    try:
        return find_certificate(pem, sha256, where=where)
    except InvalidValue as error:
        error.remedy = error.remedy or "compare the whole fingerprint with the CA's owner"
        raise


def _checked(candidate: Candidate, now: datetime) -> Candidate:
    """What a bundle takes, and what has not expired."""
    certificate, where = candidate.certificate, candidate.origin
    if not (certificate.is_ca and certificate.is_self_signed):
        what = "is not self-signed" if certificate.is_ca else "is not a CA certificate"
        raise InvalidValue(
            f"{certificate.subject or certificate.sha256} {what}, so it cannot be an anchor",
            where=where,
            remedy="give the fingerprint of the root above it",
        )
    if certificate.not_after <= now:
        raise InvalidValue(
            f"{certificate.subject or certificate.sha256} expired on {_day(certificate.not_after)}",
            where=where,
            remedy="nothing that it issued can be valid: there is nothing to accept it for",
        )
    return candidate


def _described(proposal: Proposal) -> str:
    place = f"cluster {proposal.cluster}: " if proposal.cluster else ""
    return printable(f"{place}{proposal.origin}")


def _day(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d}"


_BY_HAND: Final = "nothing was written; add the pin by hand"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewPin:
    """What the new table says; ``file`` as it is written there, the rest only where it is given."""

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
            [Mistake(file, "trust.anchors", "cannot be extended without changing something else", _BY_HAND)]
        )
    return extended, after


def _why(error: ConfigurationError, file: str) -> Mistake:
    if any(finding.problem.startswith("is not TOML") for finding in error.findings):  # the text before was
        return Mistake(file, "trust.anchors", "is written inline, so no table can follow it", _BY_HAND)
    return Mistake(file, "", "with this pin it could not be used", "nothing was written")


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's is one, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
