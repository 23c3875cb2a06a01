"""Whose turn it is for a handshake, which costs who accepts it before anything is known of the other side."""

from __future__ import annotations

from typing import Final, NamedTuple

import trio

from p2pfill.transport.control import LoopShare, LoopShares

HANDSHAKE_S: Final = 0.002
"""Of processor time: what a handshake costs who accepts it, before anything is known of the other side."""

ADDRESSES_MAX: Final = 4096
"""Whose handshakes are counted; of more the one that came longest ago is forgotten."""


class _Turns(NamedTuple):
    """Of one address."""

    share: LoopShare
    lock: trio.Lock
    """Of whoever's turn is next: what waits behind it, and gives up, costs nobody anything."""


class Handshakes:
    """How many handshakes each address may have done: a flood from one must not take the loop's time from others.

    An honest fleet that comes back behind one address waits a little, and others not at all.
    """

    def __init__(self) -> None:
        self._shares = LoopShares()
        self._by_address: dict[str, _Turns] = {}

    async def wait_turn(self, address: str) -> None:
        """Wait until one more handshake may be done for an address, as a rule not at all."""
        turns = self._by_address.pop(address, None) or _Turns(LoopShare(), trio.Lock())
        self._by_address[address] = turns
        if len(self._by_address) > ADDRESSES_MAX:
            del self._by_address[next(iter(self._by_address))]
        async with turns.lock:
            await trio.sleep(self._shares.charge(turns.share, trio.current_time(), HANDSHAKE_S))
