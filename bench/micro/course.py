"""The course of one cache's fill as its scheduler sees it, without bytes and sockets.

A `Course` plays the driver of one `swarm.Fill`, in the order in which `engine/engine.py` would: news of all sources
each `ANNOUNCE_S`, a poll after each chunk that comes, what to tell each of the linked caches, commits, ticks. All
caches stand in one ISP. Time is virtual and passes as at 5 GB/s, so windows, rates and ticks are those of such a fill.

Two courses: sources that hold the whole title, and sources that are filling as well. In the second each chunk is had
by half of the others before this cache gets it, and each of these says so, as among equals.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Final

from p2pfill.model import timing
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.fill import Fill

CHUNK_COUNT: Final = 25_000
CHUNK_BYTES: Final = 4 << 20
CHUNKS_S: Final = 5e9 / CHUNK_BYTES
"""Chunks that come in a second: 5 GB/s."""

LEAD: Final = 500
"""Chunks that some source holds and this cache lacks, where sources are filling: the choice that it has."""

HALVES: Final = 97
"""Groups of half of the sources, each of which gets every 97th chunk first."""

ORIGIN: Final = "http://origin/"


def make_manifest(chunk_count: int, chunk_bytes: int = CHUNK_BYTES) -> Manifest:
    """Return the manifest of one file of `chunk_count` chunks, with digests that nobody looks at."""
    digests = bytes(16 * chunk_count), bytes(32 * chunk_count)
    files = layout([("a.bin", chunk_count * chunk_bytes)])
    return Manifest("film", chunk_bytes, files, digests[0], digests[1], "blake3")


class Course:
    """A fill of `chunk_count` chunks from `source_count` caches and an origin; seeded, so always the same."""

    def __init__(self, source_count: int, *, filling: bool, chunk_count: int = CHUNK_COUNT) -> None:
        chance = random.Random(1)
        nodes = [NodeInfo(NodeId(f"c{number:03}"), "isp", "eu") for number in range(source_count + 1)]
        self._sources = [node.id for node in nodes[1:]]
        self.fill = Fill(make_manifest(chunk_count), nodes[0], FillPolicy(), random.Random(1), 0.0, Bitmap(chunk_count))
        self._now = 0.0
        self._told_at = self._committed_at = 0.0
        self._asked: deque[int] = deque()
        self._to_tell: list[int] = []
        self._to_commit: list[int] = []
        self.complete = False
        self._coming = list(range(chunk_count))
        chance.shuffle(self._coming)
        self._halves = [chance.sample(self._sources, (source_count + 1) // 2) for _ in range(HALVES)]
        self._handle(events.RosterChanged(tuple(nodes)))
        self._handle(events.OriginConfigured(ORIGIN))
        for node in nodes[1:]:
            self._handle(events.CacheConnected(node))
            self._handle(events.HoldingsArrived(node.id, Bitmap(chunk_count) if filling else Bitmap.full(chunk_count)))
        if filling:
            self._spread(LEAD)
        else:
            self._coming.clear()
        self._poll()

    def run(self, chunk_count: int) -> int:
        """Let `chunk_count` chunks come, or as many as are left; return how many. What was asked for first comes first.

        After the last the cache has announced all of them and made them durable.
        """
        for done in range(chunk_count):
            if not self._asked:
                self._tell()
                self._commit()
                return done
            self._now += 1 / CHUNKS_S
            self._handle(events.ChunkReceived(self._asked.popleft()))
            self._poll()
            if self._now >= self._told_at + timing.ANNOUNCE_S:
                self._tell()
            if self._now >= self._committed_at + timing.COMMIT_INTERVAL_S:
                self._commit()
            if self._now >= self.fill.next_wakeup():
                self._handle(events.TimePassed())
                self._poll()
        return chunk_count

    def _handle(self, event: events.Event) -> None:
        self.fill.handle(self._now, event)

    def _poll(self) -> None:
        if not self.fill.wants_poll and self._now < self.fill.next_wakeup():
            return
        for action in self.fill.poll_actions(self._now):
            match action:
                case actions.RequestChunk(request):
                    self._asked.append(request)
                case actions.CancelRequest(request):
                    self._asked.remove(request)
                case actions.AnnounceChunks(chunks):
                    self._to_tell.extend(chunks)
                    self._to_commit.extend(chunks)
                case actions.CompleteTitle():
                    self.complete = True

    def _tell(self) -> None:
        """Exchange news with all sources, as many chunks as have come here since the last time."""
        gained, self._to_tell = self._to_tell, []
        for source in self._sources:
            self.fill.news(source, gained)
        self._told_at = self._now
        self._spread(round(timing.ANNOUNCE_S * CHUNKS_S))
        self._poll()

    def _spread(self, chunk_count: int) -> None:
        """Have the sources tell of the next chunks that they have got, unless they know that they are here."""
        coming, self._coming = self._coming[:chunk_count], self._coming[chunk_count:]
        gained: dict[str, list[int]] = {}
        for chunk in coming:
            if not self.fill.ledger.is_verified(chunk):
                for source in self._halves[chunk % HALVES]:
                    gained.setdefault(source, []).append(chunk)
        for source, chunks in gained.items():
            self._handle(events.ChunksGained(source, chunks))

    def _commit(self) -> None:
        chunks, self._to_commit = self._to_commit, []
        self._committed_at = self._now
        if chunks:
            self._handle(events.ChunksCommitted(chunks))
            self._poll()
