"""One cache: a machine with a disk and links, and the process on it that comes and goes. Twin of `node.node.Node`.

What survives a crash is `durable`, the chunks that the journal holds. `verified` is the truth about the disk that the
checkers compare with what is said: the chunks whose right bytes are there.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from typing import TYPE_CHECKING

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.pace import ORIGIN_READS_MAX, slots_for
from p2pfill.sim.filling import SimFilling
from p2pfill.sim.peers import SimPeers
from p2pfill.swarm import events
from p2pfill.swarm.ledger import ChunkState

if TYPE_CHECKING:
    from collections.abc import Iterable

    from p2pfill.model.node import NodeInfo
    from p2pfill.sim.link import SimLink
    from p2pfill.sim.network import Place
    from p2pfill.sim.origin import OriginRead
    from p2pfill.sim.world import World


class SimCache:
    """One cache of the world."""

    def __init__(self, world: World, info: NodeInfo, place: Place, origin_weight: float = 1.0) -> None:
        self.world = world
        self.info = info
        self.place = place
        self.origin_route = world.internet.route(world.internet.origin, place)
        self.request_route = world.internet.route(place, world.internet.origin)
        """The way of a request to the origin."""
        self.origin_weight = origin_weight
        """What its streams get of the origin's link beside those of others."""
        self.running = True
        """Its process runs."""
        self.boots = 0
        self.lost = False
        """It will never come back."""
        self.peers = SimPeers(self)
        self.polled = False
        """A long poll for orders is open."""
        self.links: dict[str, SimLink] = {}
        self.opening: dict[SimLink, None] = {}
        """Links whose remote has not introduced itself."""
        self.filling: SimFilling | None = None
        self.live_at: float | None = None
        """When the title went live."""
        self.durable = Bitmap(world.manifest.chunk_count)
        self.verified = Bitmap(world.manifest.chunk_count)
        self.syncing: list[list[int]] = []
        """Chunks of commits that are under way."""
        self.clock_offset_s = 0.0
        self.clock_rate = 1.0
        """Seconds of its clock a second."""
        self.lie = ""
        """`reject` or `silent`: it claims to hold everything, and does that when asked for what it lacks. `claim`: it
        says that it is fetching everything, and asks for nothing."""
        self.is_refused = False
        """What it asks the origin for is refused at once, as by a dead proxy."""
        self.corrupts = False
        """What it sends is not what it should be."""
        self.slow_sync = 1.0
        self.upload_bytes = 0
        self.messages_before = 0
        """Control messages sent on links that have ended."""
        self._slots_taken = 0
        self._slot_queue: list[tuple[int, int, SimLink]] = []
        """A heap, as in `transport.plane`."""
        self._slot_numbers = itertools.count()
        self._reads: dict[OriginRead, None] = {}
        self._read_queue: deque[OriginRead] = deque()

    # ---- its clock

    def local_time(self) -> float:
        """Return what its clock shows."""
        return self.clock_offset_s + self.world.schedule.now * self.clock_rate

    def global_time(self, local: float) -> float:
        """Return when its clock will show `local`."""
        return (local - self.clock_offset_s) / self.clock_rate

    # ---- its process

    def start_fill(
        self, members: Iterable[NodeInfo], neighbours: Iterable[NodeInfo], unlinked: tuple[str, ...] = ()
    ) -> None:
        """Take the order to hold the title."""
        self.filling = SimFilling(self, members, neighbours, unlinked)
        self.filling.start()

    def crash(self, *, seen: bool) -> None:
        """End the process. With `seen` the machine lives on and closes the connections, so that others learn of it."""
        self.world.note(self, "crash" if seen else "gone")
        self.running = False
        if self.filling is not None:
            self.filling.stop()
            self.world.samples.fill_ended(self.filling.fill.escalations, self.filling.fill.duplicate_bytes)
        self.filling = None
        self.peers.stop()
        self.polled = False
        self._slot_queue.clear()
        self._read_queue.clear()
        for link in [*self.links.values(), *self.opening]:
            if seen:
                link.break_off()
            else:
                link.end()
        self.links.clear()
        self.opening.clear()
        for chunks in self.syncing:
            # The sync may or may not have come through.
            if self.world.random.random() < 0.5:
                for chunk in chunks:
                    self.durable.add(chunk)
        self.syncing.clear()
        self.verified = self.durable.copy()
        self._slots_taken = 0
        self._reads.clear()
        self.lie = ""

    def boot(self) -> None:
        """Start the process anew."""
        self.world.note(self, "boot")
        self.running = True
        self.boots += 1
        self.peers = SimPeers(self)

    def go_live(self) -> None:
        """Take note that the title is live."""
        self.world.checkers.went_live(self)
        self.world.note(self, "live")
        self.live_at = self.world.schedule.now
        for link in list(self.links.values()):
            link.unwant()
        self.world.cache_is_live(self)

    # ---- events for its fill

    def handle(self, event: events.Event) -> None:
        """Hand an event to the fill, if one runs."""
        if self.filling is not None:
            self.filling.handle(event)

    def hear(self, neighbour: str) -> None:
        """Note that a cache has told its holdings."""
        if self.filling is not None:
            self.filling.hear(neighbour)

    def take_chunk(self, request: int, chunk: int) -> None:
        """Hand a chunk whose digests hold to the fill."""
        if self.filling is not None:
            self.filling.take_chunk(request, chunk)

    def waste(self, length: int) -> None:
        """Count payload that came and was of no use."""
        if self.filling is not None:
            self.filling.fill.duplicate_bytes += length

    def messages_sent(self) -> int:
        """Return how many control messages it has sent."""
        return self.messages_before + sum(link.messages_sent for link in self.links.values())

    def pump(self) -> None:
        """Have the fill decide, if one runs."""
        if self.filling is not None:
            self.filling.pump()

    # ---- its links

    def admit(self, link: SimLink) -> None:
        """Take in a link over which the remote has introduced itself."""
        remote = link.remote
        self.opening.pop(link, None)
        if remote is None:
            return
        if (before := self.links.get(remote.id)) is not None:
            before.break_off()
        self.links[remote.id] = link
        self.world.note(self, f"linked with {remote.id}")
        if self.filling is not None and not self.filling.over:
            link.want()

    def lose_link(self, link: SimLink, *, told: bool) -> None:
        """Take note that a link has ended; with `told` the fill knows of it."""
        self.messages_before += link.messages_sent
        self.opening.pop(link, None)
        remote = link.remote
        if remote is not None and self.links.get(remote.id) is link:
            del self.links[remote.id]
            self.world.note(self, f"lost {remote.id}")
            if told:
                self.handle(events.SourceLost(remote.id))
                self.pump()
        self.peers.link_ended(link)

    # ---- what it serves

    def holds(self, chunk: int) -> bool:
        """Tell whether a chunk can be served."""
        if self.filling is not None:
            return self.filling.fill.ledger.have[chunk]
        return self.running and self.durable[chunk] and self.live_at is not None

    def shown_holdings(self) -> Bitmap | None:
        """Return what others are told; None where the title is unknown here."""
        if self.lie in ("reject", "silent"):
            return Bitmap.full(self.world.manifest.chunk_count)
        if self.filling is not None:
            held = self.filling.fill.ledger.have
        elif self.live_at is not None:
            held = self.durable
        else:
            return None
        self.world.checkers.showed(self, held)
        return held

    def fault_of_next(self) -> str:
        """Return what a receiver finds wrong with the chunk that was just sent; nothing as a rule."""
        return "wrong BLAKE3 digest" if self.corrupts else ""

    def take_slot(self, link: SimLink) -> bool:
        """Give `link` an upload slot, or queue it for one."""
        if self._slots_taken < self._slots():
            self._slots_taken += 1
            return True
        heapq.heappush(self._slot_queue, (-link.route.scope, next(self._slot_numbers), link))
        return False

    def free_slot(self) -> None:
        """Pass a slot on to who is farthest away, and of those to who has waited longest."""
        self._slots_taken -= 1
        self.give_slots()

    def _slots(self) -> int:
        slots = self.world.scenario.upload_slots
        if self.filling is None:
            return slots
        have = self.filling.fill.ledger.counts
        return slots_for(have[ChunkState.VERIFIED] + have[ChunkState.DURABLE], slots)

    def give_slots(self) -> None:
        """Serve who waits, as far as there are slots."""
        slots = self._slots()
        while self._slot_queue and self._slots_taken < slots:
            # Before it is given: whoever begins to send may be through at once.
            self._slots_taken += 1
            if not heapq.heappop(self._slot_queue)[2].give_slot():
                self._slots_taken -= 1

    def sync_s(self) -> float:
        """Return how long a commit takes now."""
        return self.world.scenario.sync_ms * 1e-3 * self.slow_sync

    # ---- what it reads from the origin

    def queue_read(self, read: OriginRead) -> None:
        """Begin a read, now or when there is room."""
        self._read_queue.append(read)
        self._read_next()

    def end_read(self, read: OriginRead) -> None:
        """Make room for another read."""
        self._reads.pop(read, None)
        self._read_next()

    def _read_next(self) -> None:
        while self._read_queue and len(self._reads) < ORIGIN_READS_MAX:
            read = self._read_queue.popleft()
            if read.wanted:
                self._reads[read] = None
                read.begin()
