"""The mesh that the state of the fixtures is of: two authorities with known keys, three clusters, and the hub's roles.

``make.py`` runs it to write the fixtures; the end-to-end test runs it again on what was written. No key is in a file of
the repository: each follows from a name, and is written where a run needs it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from federation.core.pki.development import create_intermediate, create_root
from federation.core.pki.pem import parse_certificates
from federation.runtime.clock import SystemClock
from federation_sandbox import demo
from federation_sandbox.box import Box, DevelopmentCa, Member, private_key_pem

AUTHORITIES: Final = Path(__file__).parent / "authorities"
OLD: Final = "first-ca"
NEW: Final = "second-ca"
CLUSTERS: Final = ("east", "west", "north")
QUARANTINED: Final = "north"
NAMESPACE: Final = "shop"
ACCOUNT: Final = "frontend"
LIFE: Final = 36  # seconds that certificates live: long enough for a hub that starts on a busy machine
CLOCK: Final = SystemClock()
BEGIN: Final = datetime(2020, 1, 1, tzinfo=UTC)
END: Final = datetime(2120, 1, 1, tzinfo=UTC)


def key_of(name: str) -> ec.EllipticCurvePrivateKey:
    """The key that follows from a name: for fixtures only, since it is public."""
    number = int.from_bytes(sha256(f"federation-hub fixture: {name}".encode()).digest())
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # FIPS 186-5, P-256
    return ec.derive_private_key(number % (order - 1) + 1, ec.SECP256R1())


def make_authorities() -> None:
    """A root and an intermediate each, valid for a hundred years; those that are there stay as they are."""
    for serial, name in ((11, OLD), (21, NEW)):
        place = AUTHORITIES / name
        if (place / "root.pem").exists():
            continue
        place.mkdir(parents=True, exist_ok=True)
        root = create_root(
            common_name=f"{name} root",
            key=key_of(f"{name} root"),
            serial=serial,
            not_before=BEGIN,
            not_after=END,
        )
        intermediate = create_intermediate(
            issuer=root,
            issuer_key=key_of(f"{name} root"),
            common_name=f"{name} intermediate",
            key=key_of(f"{name} intermediate"),
            serial=serial + 1,
            not_before=BEGIN,
            not_after=END,
        )
        (place / "root.pem").write_bytes(root.pem)
        (place / "chain.pem").write_bytes(intermediate.pem)


def authority(name: str, directory: Path) -> DevelopmentCa:
    """That authority with its key, as an operator would mount it, below ``directory``."""
    place = directory / name
    place.mkdir(mode=0o700)
    for file in ("root.pem", "chain.pem"):
        (place / file).write_bytes((AUTHORITIES / name / file).read_bytes())
    (place / "key.pem").touch(mode=0o600)
    (place / "key.pem").write_bytes(private_key_pem(key_of(f"{name} intermediate")))
    (root,) = parse_certificates((place / "root.pem").read_bytes(), where=name)
    (intermediate,) = parse_certificates((place / "chain.pem").read_bytes(), where=name)
    return DevelopmentCa(root, key_of(f"{name} root"), intermediate, place)


def operate_token() -> str:
    """The token that operations were sealed with: for fixtures only, since it is public."""
    return sha256(b"federation-hub fixture: operate token").hexdigest()


async def open_box(directory: Path, members: Mapping[str, Member]) -> Box:
    """The registered federation, configured to rotate from the first authority to the second."""
    box = Box(
        directory=directory,
        members=members,
        ca=authority(OLD, directory),
        clock=CLOCK,
        proof_interval=1.0,
        successor=authority(NEW, directory),
    )
    demo.prepare(box, life=timedelta(seconds=LIFE))
    await box.register()
    token = directory / "operate-token"
    token.touch(mode=0o600)
    token.write_text(operate_token())
    configuration = box.config_file.read_text("utf-8")
    box.config_file.write_text(
        configuration.replace("[status]", f'[status]\noperate_token_file = "{token}"'), "utf-8"
    )
    return box


@dataclass
class Roles:
    """The hub's roles, each a process whose name does not depend on the machine."""

    box: Box
    running: list[asyncio.subprocess.Process] = field(default_factory=list)

    async def start(self, *, signer: str, controller: str) -> None:
        """Start one of each."""
        for role, name in (("signer", signer), ("controller", controller)):
            with (self.box.directory / "hub.log").open("ab") as log:
                self.running.append(
                    await asyncio.create_subprocess_exec(
                        *(sys.executable, "-m", "federation", role, "--replica", name),
                        *("--config", str(self.box.config_file)),
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    async def kill(self) -> None:
        """``kill -9`` for all: nothing is given up in good order."""
        for process in self.running:
            if process.returncode is None:
                process.kill()
            await process.wait()
        self.running.clear()

    async def stop(self) -> None:
        """Have all end, and wait for it."""
        for process in self.running:
            if process.returncode is None:
                process.terminate()
        for process in self.running:
            await process.wait()
        self.running.clear()
