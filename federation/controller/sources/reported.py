"""The authority's chain as the signers report it, for authorities that have no certificate file.

A chain is public, and nothing of it is believed: what does not reach a pinned anchor never gets in. Reports of
signers that are gone count as well, since their leaves may be alive.
"""

from __future__ import annotations

from typing import Final

from federation.controller.sources.files import Content
from federation.core.errors import StateUnavailable
from federation.state.documents import SignerReport, decode
from federation.state.store import StateStore

SIGNERS: Final = "signers/"
MOST_SIGNERS: Final = 256

REPORTED: Final = "the signers' reports of the authority"


async def reported_chains(store: StateStore) -> Content:
    """Every intermediate that any signer reports, each once; what cannot be read is said in words."""
    chains: dict[str, None] = {}
    problem = "no signer reports the authority's chain yet"
    try:
        for key in (await store.keys(SIGNERS))[:MOST_SIGNERS]:
            stored = await store.read(key)
            report = decode(stored.data, SignerReport, key=key) if stored is not None else None
            for authority in (report.authority, report.successor) if report is not None else ():
                if authority is not None and authority.chain_pem:
                    chains[authority.chain_pem] = None
    except StateUnavailable as error:
        problem = str(error)
    return Content("".join(chains).encode()) if chains else Content(problem=problem)
