"""What an attack is: a script with a name, what it needs of the node, and what the node must make of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import trio

from p2pfill.model.manifest import Integrity
from p2pfill.model.node import NodeInfo
from tests.hostile.peer import Peer
from tests.hostile.titles import Title

MIB = 1024 * 1024
LATE_MAX_S = 0.5
"""Above what a shared machine of two processors does to a loop that nobody holds up."""

GROWTH_MAX_BYTES = 32 * MIB
"""Above what a fill and the buffers of some links take."""

COMPLETE_S = 5.0
"""For the attacked title to be live from its origin, with waits of a fraction of a second in its policy."""

HASTY = {"stall_wait_s": 0.3, "request_timeout_s": 0.3}
"""A policy that gives up on sources soon, so that an attack takes seconds."""


@dataclass
class Scene:
    """Where an attack happens. By hand there is nobody to start fills: the node must be filling already."""

    address: tuple[str, int]
    title: Title
    """What a source attacks: being filled, from it and from an origin."""
    live: Title
    """What a receiver attacks: live on the node."""
    name: str
    """For the attacker; nobody else has it."""
    honest: str = "zz-honest"
    """The name of an honest cache that is linked with the node."""
    begin_fill: Callable[[list[NodeInfo]], Awaitable[None]] | None = None
    honest_helps: bool = False
    """The honest cache is to hold the attacked title too; set it before `fill`."""
    title_done: trio.Event = field(default_factory=trio.Event)
    """Set when the attacked title is live; never, by hand."""
    missed: str = ""
    """Why the attack could not be made, where that is nobody's fault."""
    complaints: list[str] = field(default_factory=list)
    """What the attack itself saw the node do wrong."""
    struck: trio.Event = field(default_factory=trio.Event)
    """Set by the attack once it has done what it is named for."""
    over: trio.Event = field(default_factory=trio.Event)
    """Set when all that others do beside it is done: floods end then."""

    @property
    def on(self) -> bool:
        """Whether a flood goes on."""
        return not self.over.is_set()

    def strike(self) -> None:
        """Note that the harm is done, or being done."""
        self.struck.set()

    @asynccontextmanager
    async def link(self, peer: Peer | None = None) -> AsyncIterator[Peer]:
        """Be linked as a peer that may receive."""
        async with (peer or Peer(self.name)).linked(self.address) as linked:
            yield linked

    @asynccontextmanager
    async def source(self, peer: Peer | None = None) -> AsyncIterator[Peer]:
        """Be linked as a peer that claims to hold the title, which the node then begins to fill."""
        peer = peer or Peer(self.name)
        peer.holds.setdefault(self.title.id, self.title.all_of_it())
        async with peer.linked(self.address):
            await self.fill(peer)
            yield peer

    async def fill(self, *peers: Peer) -> None:
        """Have the node begin to fill the title with `peers` as members of its roster."""
        if self.begin_fill is not None:
            await self.begin_fill([peer.info for peer in peers])


Script = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Attack:
    """A script, and what must hold beside what must hold always."""

    name: str
    text: str
    run: Script
    needs: Literal["fill", "big", "many", "nothing"] = "nothing"
    """What the node fills: a small title, one of chunks so large that two data streams are opened for it, one of
    thousands of chunks that nobody has, or nothing."""
    both: bool = False
    """It matters whether BLAKE3 is checked: run with and without."""
    integrity: Integrity = "blake3"
    """Where it is run once."""
    named: str | None = None
    """What the node's log or its report says of it, as a regular expression; None where no rule is broken and nothing
    but the bounds is to be seen."""
    ends_link: bool = False
    quarantines: bool = False
    completes_s: float = COMPLETE_S
    """From the beginning of the attacked title's fill to its end."""
    may_accuse: bool = False
    """The attack may have the honest cache taken for slow: by the rules of the vote it has the votes."""
    late_max_s: float = LATE_MAX_S
    growth_max_bytes: int = GROWTH_MAX_BYTES
    fetch_max_s: float = 2.0
    """For an honest cache that opens a connection meanwhile to be sent a chunk."""
    queued_max: int = 2048
    """Requests of all remotes that may wait at the node: what one link may have outstanding."""
    policy: tuple[tuple[str, float], ...] = tuple(HASTY.items())
    origin: bool = True
    """The title has an origin besides the attacker, so it must get live."""


ATTACKS: dict[str, Attack] = {}


def attack(**expected: object) -> Callable[[Script], Script]:
    """Enter a script into `ATTACKS` under its name, with the first sentence of its docstring."""

    def enter(script: Script) -> Script:
        name = script.__name__
        assert name not in ATTACKS
        assert script.__doc__
        text = " ".join(script.__doc__.split())
        ATTACKS[name] = Attack(name, text, script, **expected)  # type: ignore[arg-type]
        return script

    return enter
