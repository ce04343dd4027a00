"""Who may keep a connection to the admin server: for all, for each client, and a reserve for health. Pure.

A connection that waits for a request gives way to a new one: to one of its own client when that has its share, to
anybody's when all places are taken. So clients that connect and say nothing keep nobody out. Where none gives way, a
new one gets a slot of the reserve, on which health alone is answered, and soon; and when that is taken too, none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

_NETWORK_BITS: Final = 64
"""What one client of IPv6 has: it may choose the rest of its address itself."""


def client_of(address: str) -> str:
    """Who has this address, as far as a share of the places goes."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, _NETWORK_BITS), strict=False).network_address)


@dataclass(eq=False, slots=True)
class ConnectionSlot:
    """A connection's slot."""

    client: str
    close: Callable[[], None]
    """Ends the connection."""
    reserved: bool = False
    """It is of the reserve: health alone is answered."""
    idle: bool = True
    """Whether it waits for a request, and may give way."""


class ConnectionLimiter:
    """Admits connections up to the limits; closes the oldest idle one to make room."""

    def __init__(self, total: int, for_a_client: int, reserve: int) -> None:
        self._total = total
        self._for_a_client = for_a_client
        self._reserve = reserve
        self._taken: dict[ConnectionSlot, None] = {}

    def acquire(self, client: str, close: Callable[[], None]) -> ConnectionSlot | None:
        """A slot for a new connection, another one of which may be made to leave; ``None`` if there is none."""
        ordinary = [slot for slot in self._taken if not slot.reserved]
        own = [slot for slot in ordinary if slot.client == client]
        slot = ConnectionSlot(client, close)
        if len(own) >= self._for_a_client:
            slot.reserved = not self._evict_idle(own)
        elif len(ordinary) >= self._total:
            slot.reserved = not self._evict_idle(ordinary)
        if slot.reserved and len(self._taken) - len(ordinary) >= self._reserve:
            return None
        self._taken[slot] = None
        return slot

    def release(self, slot: ConnectionSlot) -> None:
        """Its connection has ended."""
        self._taken.pop(slot, None)

    def _evict_idle(self, slots: Iterable[ConnectionSlot]) -> bool:
        for slot in slots:
            if slot.idle:
                self.release(slot)
                slot.close()
                return True
        return False
