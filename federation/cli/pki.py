"""``federation pki``: a root and an intermediate to try things with, and a certificate to serve status by."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from federation.core.errors import FederationError

if TYPE_CHECKING:
    from federation.core.clock import Clock
    from federation.core.pki.certificate import Certificate

KEY_KINDS: Final = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096")

ROOT: Final = "root.pem"
ROOT_KEY: Final = "root-key.pem"
CHAIN: Final = "chain.pem"
KEY: Final = "key.pem"

SERVER_CA: Final = "ca.crt"
SERVER_CERTIFICATE: Final = "tls.crt"
SERVER_KEY: Final = "tls.key"
"""As in a Secret of type kubernetes.io/tls, which cert-manager writes in this form too."""

_NOT_IN_A_NAME: Final = re.compile(r"[^a-z0-9-]+")
"""What the name of an authority may not hold (``signer.authority.name``), though a certificate's may."""

BACKDATED: Final = timedelta(minutes=5)
"""For clocks of clusters that run behind."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb and its one action."""
    parser = subparsers.add_parser(
        "pki",
        help="make a root and an intermediate for development",
        description="Certificate authorities for development; a real root is made offline and stays there.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    init = actions.add_parser(
        "init",
        help="make a root and an intermediate in a directory",
        description=f"Writes {ROOT}, {ROOT_KEY}, {CHAIN} and {KEY} into DIR, keys readable by their owner only, and "
        "prints the pin of the root with the lines for clusters.toml. For development: here the root's key lies "
        "beside the intermediate's, which no real one may. Nothing is overwritten.",
    )
    init.add_argument("directory", type=Path, metavar="DIR", help="where to; made where it is missing")
    init.add_argument("--name", default="development", help="part of the CAs' names (default: development)")
    init.add_argument(
        "--key-kind", choices=KEY_KINDS, default="ecdsa-p256", help="of both keys (default: ecdsa-p256)"
    )
    init.add_argument(
        "--root-days", type=_days, default=3650, metavar="N", help="how long the root lives (default: 3650)"
    )
    init.add_argument(
        "--days", type=_days, default=365, metavar="N", help="how long the intermediate lives (default: 365)"
    )
    init.set_defaults(run=run)
    server = actions.add_parser(
        "server",
        help="make a certificate for serving status by https",
        description=f"Writes {SERVER_CERTIFICATE}, {SERVER_KEY} and {SERVER_CA} into DIR: a certificate for these "
        f"names, and what clients verify it by. {SERVER_CA} is made for this certificate alone and its key is kept "
        "nowhere, so nothing else can be issued under it. Where an issuer of yours makes such certificates, such as "
        "cert-manager, use that: it renews them. Nothing is overwritten.",
    )
    server.add_argument("directory", type=Path, metavar="DIR", help="where to; made where it is missing")
    server.add_argument("names", nargs="+", metavar="NAME", help="DNS names and IP addresses of the server")
    server.add_argument(
        "--days", type=_days, default=365, metavar="N", help="how long it lives (default: 365)"
    )
    server.set_defaults(run=run_server)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 36500:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is not a number of days from 1 to 36500")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Make both, or change nothing."""
    from federation.runtime.clock import SystemClock

    directory = args.directory.resolve()
    if args.days > args.root_days:
        raise FederationError("the intermediate would outlive its root", remedy="lower --days")
    files, root = make_authorities(
        name=args.name,
        key_kind=args.key_kind,
        root_life=timedelta(days=args.root_days),
        life=timedelta(days=args.days),
        clock=SystemClock(),
    )
    write_new(directory, files)
    print("For development only: a real root is made offline, and its key never comes here.", file=sys.stderr)
    print(snippet(directory, root, name=args.name), end="")
    return 0


def run_server(args: argparse.Namespace) -> int:
    """Make a server certificate, or change nothing."""
    from federation.runtime.clock import SystemClock

    directory = args.directory.resolve()
    files = make_server(names=args.names, life=timedelta(days=args.days), clock=SystemClock())
    write_new(directory, files)
    print("; ".join(str(directory / name) for name in files))
    return 0


def make_server(*, names: Sequence[str], life: timedelta, clock: Clock) -> dict[str, bytes]:
    """What belongs in each file. Raises InvalidValue for what is neither a DNS name nor an IP address."""
    from federation.core.pki.development import create_root, create_server_certificate, generate_key
    from federation.core.pki.keys import KeyKind, private_key_pem

    now = clock.now()
    ca_key, key = generate_key(KeyKind.EC_P256), generate_key(KeyKind.EC_P256)
    begins, ends = now - BACKDATED, now + life
    ca = create_root(
        common_name="status",
        key=ca_key,
        serial=_serial(),
        not_before=begins,
        not_after=ends,
        path_length=0,
    )
    served = create_server_certificate(
        issuer=ca,
        issuer_key=ca_key,
        names=names,
        key=key,
        serial=_serial(),
        not_before=begins,
        not_after=ends,
    )
    return {SERVER_CERTIFICATE: served.pem, SERVER_KEY: private_key_pem(key), SERVER_CA: ca.pem}


def make_authorities(
    *, name: str, key_kind: str, root_life: timedelta, life: timedelta, clock: Clock
) -> tuple[dict[str, bytes], Certificate]:
    """What belongs in each file, and the root. Raises InvalidValue for a name that no certificate can hold."""
    from federation.core.pki.development import create_intermediate, create_root, generate_key
    from federation.core.pki.keys import KeyKind, private_key_pem

    kind, now = KeyKind(key_kind), clock.now()
    root_key, key = generate_key(kind), generate_key(kind)
    root = create_root(
        common_name=f"{name} root",
        key=root_key,
        serial=_serial(),
        not_before=now - BACKDATED,
        not_after=now + root_life,
        path_length=1,
    )
    intermediate = create_intermediate(
        issuer=root,
        issuer_key=root_key,
        common_name=f"{name} intermediate",
        key=key,
        serial=_serial(),
        not_before=now - BACKDATED,
        not_after=now + life,
    )
    files = {
        ROOT: root.pem,
        ROOT_KEY: private_key_pem(root_key),
        CHAIN: intermediate.pem,
        KEY: private_key_pem(key),
    }
    return files, root


def _serial() -> int:
    """127 random bits, positive (RFC 5280, 4.1.2.2)."""
    return int.from_bytes(os.urandom(16)) >> 1 or 1


def write_new(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write every file, or none; raises FederationError where one is there already."""
    written: list[Path] = []
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            path = directory / name
            mode = 0o600 if b"PRIVATE KEY" in content else 0o644
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                written.append(path)
                file.write(content)
    except OSError as error:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        exists = isinstance(error, FileExistsError)
        raise FederationError(
            "is there already; nothing was written" if exists else f"cannot be written: {error.strerror}",
            where=str(error.filename or directory),
            remedy="name another directory" if exists else "check the directory and its permissions",
        ) from error


def snippet(directory: Path, root: Certificate, *, name: str = "development") -> str:
    """The lines of ``clusters.toml`` that pin this root and sign with this intermediate, by that name."""
    authority = json.dumps(_NOT_IN_A_NAME.sub("-", name.lower())[:63].strip("-") or "development")
    quoted = {name: json.dumps(str(directory / name), ensure_ascii=False) for name in (ROOT, CHAIN, KEY)}
    return (
        f"# sha256 pin of the root: {root.sha256}\n"
        f"[[trust.anchors]]\n"
        f"file = {quoted[ROOT]}\n"
        f'sha256 = "{root.sha256}"\n'
        f"\n"
        f"[signer.authority]\n"
        f'kind = "local"\n'
        f"name = {authority}\n"
        f"certificate_file = {quoted[CHAIN]}\n"
        f"key_file = {quoted[KEY]}\n"
    )
