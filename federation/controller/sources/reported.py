"""The authority's chain as the signers report it, for authorities that have no certificate file.

A chain is public, and nothing of it is believed: what does not reach a pinned anchor never gets in. Reports of
signers that are gone count as well, since their leaves may be alive. Where one report cannot be read, what the
others say is not all there is: it is told as a problem, and the last known good stays in the bundle.
"""

from __future__ import annotations

from typing import Final

from federation.controller.sources.files import Content
from federation.core.errors import StateUnavailable
from federation.state.damage import StateDamaged
from federation.state.documents import SignerReport, decode
from federation.state.many import read_many
from federation.state.store import StateStore

SIGNERS: Final = "signers/"
MOST_SIGNERS: Final = 256

REPORTED: Final = "the signers' reports of the authority"


async def reported_chains(store: StateStore) -> Content:
    """Every intermediate that any signer reports, each once; or in words why it is not known what they report."""
    chains: dict[str, None] = {}
    try:
        keys = await store.keys(SIGNERS)
        if len(keys) > MOST_SIGNERS:
            return Content(problem=f"{len(keys)} signers have reports, and {MOST_SIGNERS} are read at most")
        for key, stored in (await read_many(store, keys)).items():
            if isinstance(stored, StateDamaged):
                raise stored
            report = decode(stored.data, SignerReport, key=key) if stored is not None else None
            for authority in (report.authority, report.successor) if report is not None else ():
                if authority is not None and authority.chain_pem:
                    chains[authority.chain_pem] = None
    except StateUnavailable as error:
        return Content(problem=str(error))
    if not chains:
        return Content(problem="no signer reports the authority's chain yet")
    return Content("".join(chains).encode())
