"""Who else writes the bundle's ConfigMap, by what Kubernetes records (``metadata.managedFields``) and hubs leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from federation.clusters.answers import harmless
from federation.clusters.objects import METADATA_ONLY_LIST, decode_page
from federation.clusters.session import ClusterSession
from federation.core.errors import ClusterGarbage
from federation.core.hub_identity import mark_in

FIELD_MANAGER: Final = "federation-hub"
"""The name our server-side applies carry; a field that another name owns is somebody else's."""

MAX_PAGES: Final = 100
MAX_NAME: Final = 128  # Kubernetes allows no longer field manager


class ManagedFields(msgspec.Struct, rename="camel"):
    """One entry of ``managedFields``: who owns which fields."""

    manager: str = ""
    subresource: str = ""
    fields_v1: dict[str, Any] = msgspec.field(name="fieldsV1", default_factory=dict)


class _Meta(msgspec.Struct, rename="camel"):
    managed_fields: list[ManagedFields] | None = None
    annotations: dict[str, Any] | None = None


class _Object(msgspec.Struct):
    metadata: _Meta


_decode = msgspec.json.Decoder(_Object).decode


ISTIOD: Final = "pilot-discovery"
"""The field manager of istiod, as long as its CA is on."""


def stop_writers(writers: Collection[str]) -> str:
    """What ends that others than the hub write what it writes: istiod by its setting, others where they run."""
    others = sorted({harmless(writer) for writer in writers if not writer.startswith(ISTIOD)})
    ways = ["set ENABLE_CA_SERVER=false in istiod"] if any(w.startswith(ISTIOD) for w in writers) else []
    if others:
        ways.append(
            f"stop what writes there as {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
        )
    return ", and ".join(ways) or "find what else writes it there, and stop that"


def owners_of(managed: list[ManagedFields], key: str, *, ours: str = FIELD_MANAGER) -> set[str]:
    """The managers, other than ``ours``, that own ``data.<key>`` of a ConfigMap."""
    return {
        entry.manager[:MAX_NAME]
        for entry in managed
        if entry.manager != ours
        and not entry.subresource
        and isinstance(data := entry.fields_v1.get("f:data"), dict)
        and f"f:{key}" in data
    }


@dataclass(frozen=True, slots=True)
class Writers:
    """Who writes it, with the number of namespaces: ``others`` by their field managers, ``hubs`` by their identities.

    The identity is empty for a hub that left none.
    """

    others: Counter[str] = field(default_factory=Counter)
    hubs: Counter[str] = field(default_factory=Counter)


async def find_writers(
    session: ClusterSession, *, config_map: str, key: str, ours: str = FIELD_MANAGER
) -> Writers:
    """Each other manager that owns the key, and each hub that wrote the object. Raises ClusterErrors."""
    found = Writers()
    params = {"fieldSelector": f"metadata.name={config_map}", "limit": "500"}
    for _ in range(MAX_PAGES):
        answer = await session.get("/api/v1/configmaps", params=params, accept=METADATA_ONLY_LIST)
        try:
            page = decode_page(answer)
            for raw in page.items or ():
                meta = _decode(raw).metadata
                managed = meta.managed_fields or []
                found.others.update(owners_of(managed, key, ours=ours))
                if any(entry.manager == ours for entry in managed):
                    found.hubs[mark_in(meta.annotations)] += 1
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            problem = f"list of {config_map} is not what the API promises: {error}"
            raise ClusterGarbage(problem, where=str(session.name)) from None
        if not page.metadata.continue_:
            break
        params["continue"] = page.metadata.continue_
    return found
