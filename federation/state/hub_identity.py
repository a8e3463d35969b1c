"""The hub's own identity in the state store: drawn by the first controller that leads, and never changed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from federation.core.clock import Clock
from federation.core.documents.controller import HubRecord
from federation.core.documents.encoding import decode, encode
from federation.core.documents.keys import HUB, damaged
from federation.core.errors import InvalidValue
from federation.core.identity import HubIdentity, check_id, new_id
from federation.state.store import StateConflict, StateStore

_logger = logging.getLogger(__name__)


async def read_identity(store: StateStore) -> HubIdentity | None:
    """The identity as it is persisted, None where none was drawn yet. Raises StateUnavailable."""
    stored = await store.read(HUB)
    if stored is None:
        return None
    try:
        return HubIdentity(check_id(decode(stored.data, HubRecord, key=HUB).id))
    except InvalidValue as error:
        raise damaged(str(error), key=HUB, where=HUB) from None


async def own_identity(
    store: StateStore, *, clock: Clock, random_bytes: Callable[[int], bytes]
) -> HubIdentity:
    """The identity, drawn where there is none. Raises StateUnavailable: without one nothing can be published."""
    found = await read_identity(store)
    if found is not None:
        return found
    drawn = new_id(random_bytes)
    try:
        record = HubRecord(id=drawn, created=clock.now().timestamp())
        await store.write(HUB, encode(record), create=True)
    except StateConflict:  # another controller led for a moment, or the answer to this write was lost
        found = await read_identity(store)
        if found is not None:
            return found
        raise
    _logger.info("this hub has drawn its identity: %s", drawn, extra={"hub": drawn})
    return HubIdentity(drawn)
