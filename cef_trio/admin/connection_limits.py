"""Connection limits of the admin server: total, per client, and a reserve for health checks. Pure.

A new connection closes an idle one: of its own client if the client is at its limit, of any client if the total is
reached. So idle connections never keep others out. If none is idle, the new connection gets a slot of the reserve, on
which only health checks get a response. If the reserve is used up, an idle one of it is closed: of its own client, so
that one client's silent connections close no other's, or else of any. If none is idle there, it is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

_NETWORK_BITS: Final = 64
"""IPv6 prefix length of one client, which can choose the rest of its address."""


def client_of(address: str) -> str:
    """Return the client of an address: the IPv4 address or the IPv6 network."""
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
    """Slot of one connection."""

    client: str
    close: Callable[[], None]
    """Closes the connection."""
    reserved: bool = False
    """From the reserve: only health checks get a response."""
    idle: bool = True
    """Whether it waits for a request and may be closed."""


class ConnectionLimiter:
    """Admits connections up to the limits; closes the oldest idle one to make room."""

    def __init__(self, total: int, for_a_client: int, reserve: int) -> None:
        self._total = total
        self._for_a_client = for_a_client
        self._reserve = reserve
        self._taken: dict[ConnectionSlot, None] = {}

    def acquire(self, client: str, close: Callable[[], None]) -> ConnectionSlot | None:
        """Return a slot for a new connection, closing an idle one if needed; ``None`` if there is none."""
        ordinary = [slot for slot in self._taken if not slot.reserved]
        own = [slot for slot in ordinary if slot.client == client]
        slot = ConnectionSlot(client, close)
        if len(own) >= self._for_a_client:
            slot.reserved = not self._evict_idle(own)
        elif len(ordinary) >= self._total:
            slot.reserved = not self._evict_idle(ordinary)
        if slot.reserved and not self._has_room_in_reserve(client):
            return None
        self._taken[slot] = None
        return slot

    def release(self, slot: ConnectionSlot) -> None:
        """Release the slot of a connection that has ended."""
        self._taken.pop(slot, None)

    def _has_room_in_reserve(self, client: str) -> bool:
        reserved = [slot for slot in self._taken if slot.reserved]
        own = [slot for slot in reserved if slot.client == client]
        return len(reserved) < self._reserve or self._evict_idle(own) or self._evict_idle(reserved)

    def _evict_idle(self, slots: Iterable[ConnectionSlot]) -> bool:
        for slot in slots:
            if slot.idle:
                self.release(slot)
                slot.close()
                return True
        return False
