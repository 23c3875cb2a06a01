"""Background mode: the fill of a cache yields to what it serves its viewers (`transport.scavenger`).

The link is looked at a few times a second, and the limits of the node follow, under an owner of their own: of all
limits the tightest holds. What processors do for the fill yields, too, where the process is the node's own
(`yield_processors`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final

import trio

from p2pfill.errors import ConfigError
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.machine import WIRE, Link, Moved, interface_bytes
from p2pfill.transport.scavenger import Scavenger

LOOK_S: Final = 0.25
"""Between two looks: a viewer whose player buffers seconds does not notice what ends sooner."""

NICENESS: Final = 19
"""The least that the kernel's scheduler gives: a seventieth of what others get where all want processors."""


class Background:
    """Has one node's fill yield. `put` sets its limits."""

    def __init__(
        self,
        interface: str,
        link_rate: int,
        moved: Callable[[], Moved],
        put: Callable[[RateLimits], object],
        log: logging.Logger,
    ) -> None:
        self._interface = interface
        self._link_rate = link_rate
        self._moved = moved
        self._put = put
        self._log = log

    async def run(self) -> None:
        """Look again and again, until cancelled.

        Raises `ConfigError` where nobody knows what the link carries, or there is no such interface.
        """
        link = await trio.to_thread.run_sync(Link, self._interface, self._link_rate)
        if not link.rate:
            raise ConfigError(
                f"background: the kernel does not say what interface {link.interface!r} carries; set link and, where "
                "it is not the one of the default route, interface, in the table health"
            )
        if await trio.to_thread.run_sync(interface_bytes, link.interface) is None:
            raise ConfigError(f"background: there is no interface {link.interface!r}; set it in the table health")
        inbound, outbound = Scavenger(link.rate), Scavenger(link.rate)
        self._limit(inbound.rate, outbound.rate)
        while True:
            async with ErrorBoundary(self._log, "look what viewers leave of the link"):
                use = await trio.to_thread.run_sync(link.look, self._moved())
                if use is not None:
                    self._limit(
                        inbound.look(use.others_in, use.own_in), outbound.look(use.others_out, use.own_out)
                    )  # fmt: skip
            await trio.sleep(LOOK_S)

    def _limit(self, inbound: float, outbound: float) -> None:
        self._put(RateLimits(Rates(total=max(1, int(inbound / WIRE))), Rates(total=max(1, int(outbound / WIRE)))))


def yield_processors() -> None:
    """Let this process, and all threads that it makes from now on, have processors that nobody else wants.

    It cannot be taken back without privileges, so a program that embeds a node is left as it is.
    """
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
