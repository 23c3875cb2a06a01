"""Several fills joined in virtual time: whatever the order of deliveries, one copy crosses each border."""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from typing import Any

import pytest

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.swarm import actions, events
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.recording import RecordingFill, play

CHUNK_SIZE = 65536
ORIGIN = "http://origin/"


def title(chunk_count: int) -> Manifest:
    size = CHUNK_SIZE * chunk_count - 17
    return Manifest(
        name="t",
        chunk_size=CHUNK_SIZE,
        files=layout([("a", size)]),
        xxh3=bytes(16 * chunk_count),
        blake3=bytes(32 * chunk_count),
        integrity="blake3",
    )


class World:
    """Joins fills: a transfer takes a random time, announcements arrive after a delay, and nodes can die or lie."""

    def __init__(self, layout: dict[str, list[str]], chunk_count: int = 60, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.manifest = title(chunk_count)
        nodes = [NodeInfo(NodeId(n), isp, "r") for isp, names in layout.items() for n in names]
        self.nodes = {node.id: node for node in nodes}
        self.now = 0.0
        self.heap: list[tuple[float, int, str, Any]] = []
        self.tie = itertools.count()
        self.timer: dict[str, float] = {}
        self.entered: Counter[str] = Counter()
        self.from_origin = 0
        self.told = 0
        self.finished: dict[str, float] = {}
        self.liars: set[str] = set()
        self.silent: set[str] = set()
        self.origin_up = True
        self.transfer_s = (0.005, 0.05)
        self.free_at: Counter[tuple[str, str]] = Counter()
        """Receiver, source -> when the source has sent what it was asked for: one chunk after the other."""
        self.begins_at: dict[tuple[str, int], float] = {}
        self.fills: dict[str, Fill] = {}
        for node in nodes:
            self.fills[node.id] = Fill(
                self.manifest, node, FillPolicy(), random.Random(f"{seed}{node.id}"), 0.0, Bitmap(chunk_count)
            )
        for node in nodes:
            self.tell(node.id, events.RosterChanged(tuple(nodes)))
            self.tell(node.id, events.OriginConfigured(ORIGIN))
            for other in nodes:
                if other is not node:
                    self.tell(node.id, events.CacheConnected(other))

    def tell(self, node: str, event: events.Event, delay: float = 0.0) -> None:
        heapq.heappush(self.heap, (self.now + delay, next(self.tie), node, event))

    def kill(self, victim: str) -> None:
        del self.fills[victim]
        for node in self.fills:
            self.tell(node, events.SourceLost(victim))

    def run(self, until: float = 1000.0, stop: Any = lambda: False) -> None:
        while self.heap and self.heap[0][0] <= until and not stop():
            self.now, _, node, event = heapq.heappop(self.heap)
            fill = self.fills.get(node)
            if fill is None:
                continue
            fill.handle(self.now, event)
            for action in fill.poll_actions(self.now):
                self.perform(node, action)
            fill.ledger.check()
            wake = fill.next_wakeup()
            if wake < float("inf") and not self.now < self.timer.get(node, 0.0) <= wake:
                self.timer[node] = max(wake, self.now + 1e-6)
                self.tell(node, events.TimePassed(), self.timer[node] - self.now)

    def perform(self, node: str, action: actions.Action) -> None:
        match action:
            case actions.RequestChunk(request, source, chunk):
                self.serve(node, request, source, chunk)
            case actions.CancelRequest(request, source):
                # What has not begun does not come, and has crossed no border.
                if self.begins_at.get((node, request), 0.0) > self.now and self.crosses(node, source):
                    self.entered[self.nodes[node].isp] -= 1
            case actions.AnnounceChunks(chunks):
                self.tell(node, events.ChunksCommitted(chunks), 0.05)
                for other in self.fills:
                    if other != node and (news := self.fills[node].news(other, chunks)):
                        self.told += len(news)
                        self.tell(other, events.ChunksGained(node, news), 0.002)
            case actions.ClaimChunks(chunks):
                for other in self.fills:
                    if other != node:
                        self.tell(other, events.ChunksClaimed(node, chunks), 0.002)
            case actions.ShowInterest(source, chunks):
                self.tell(source, events.InterestShown(node, chunks), 0.001)
                if source in self.fills:
                    self.tell(node, events.ChunksClaimed(source, self.fills[source].border_chunks()), 0.002)
                    self.tell(node, events.HoldingsArrived(source, self.fills[source].ledger.have.copy()), 0.002)
            case actions.ReportSlow(accused):
                for other in self.fills:
                    if other != node:
                        self.tell(other, events.SlowReported(node, accused), 0.002)
            case actions.CompleteTitle():
                self.finished[node] = self.now

    def crosses(self, node: str, source: str) -> bool:
        return source != ORIGIN and self.nodes[source].isp != self.nodes[node].isp

    def serve(self, node: str, request: int, source: str, chunk: int) -> None:
        if source == ORIGIN:
            if not self.origin_up:
                self.tell(node, events.RequestFailed(request, "origin down"), 0.01)
                return
            self.from_origin += 1
            self.entered[self.nodes[node].isp] += 1
        else:
            if source in self.silent:
                return
            served_by = self.fills.get(source)
            assert served_by is None or source in self.liars or served_by.ledger.have[chunk], "asked for what it lacks"
            if self.crosses(node, source):
                self.entered[self.nodes[node].isp] += 1
        lie = events.RequestFailed(request, "wrong digest", CHUNK_SIZE, corrupt=True)
        answer = lie if source in self.liars else events.ChunkReceived(request)
        takes_s = self.random.uniform(*self.transfer_s)
        if source != ORIGIN:
            self.begins_at[node, request] = max(self.now, self.free_at[node, source])
            self.free_at[node, source] = self.begins_at[node, request] + takes_s
            takes_s = self.free_at[node, source] - self.now
        for second in range(1, int(takes_s) + 1):
            self.tell(node, events.SourceProgressed(source), float(second))
        self.tell(node, answer, takes_s)


SEVEN = {"a": ["a1", "a2", "a3"], "b": ["b1", "b2", "b3"], "hub": ["hub1"]}


@pytest.mark.parametrize("seed", range(20))
def test_each_border_is_crossed_once(seed: int) -> None:
    world = World(SEVEN, seed=seed)
    world.run()
    assert set(world.finished) == set(world.fills)
    assert world.from_origin == world.manifest.chunk_count
    assert world.entered == Counter(dict.fromkeys(SEVEN, world.manifest.chunk_count))
    for fill in world.fills.values():
        assert not fill.escalations
        assert fill.duplicate_bytes == 0
        assert sum(fill.bytes_by_scope.values()) == world.manifest.size


@pytest.mark.parametrize("victim", ["a1", "b3", "hub1"])
def test_others_complete_when_a_cache_dies_half_way(victim: str) -> None:
    world = World(SEVEN)
    world.run(stop=lambda: world.fills["a2"].ledger.have.count() > 30)
    world.kill(victim)
    world.run()
    assert set(world.finished) == set(world.fills)
    assert world.from_origin <= world.manifest.chunk_count * 1.2
    reasons = {reason for fill in world.fills.values() for reason in fill.escalations}
    assert reasons <= {"master-lost"}


def test_a_silent_master_is_passed_over() -> None:
    """While the others still have enough to do: it takes them longer than they wait for it."""
    world = World(SEVEN, chunk_count=240)
    world.transfer_s = (0.05, 0.5)
    world.run(stop=lambda: world.fills["a2"].ledger.have.count() > 10)
    del world.fills["a1"]
    world.silent.add("a1")
    world.run()
    assert set(world.finished) == set(world.fills)
    counted: Counter[str] = sum((fill.escalations for fill in world.fills.values()), Counter())
    assert counted["master-stalled"] > 0


@pytest.mark.parametrize("seed", range(6))
def test_a_silent_master_costs_hardly_a_second_copy_where_nothing_else_is_left_to_do(seed: int) -> None:
    world = World(SEVEN, seed=seed)
    world.run(stop=lambda: world.fills["a2"].ledger.have.count() > 10)
    del world.fills["a1"]
    world.silent.add("a1")
    world.run()
    assert set(world.finished) == set(world.fills)
    assert world.from_origin <= world.manifest.chunk_count + 3


def test_a_slow_master_that_says_so_is_waited_for() -> None:
    """Its claims, repeated while bytes move, keep the others from fetching the same chunks across the border."""
    world = World({"a": ["a1", "a2", "a3"]}, chunk_count=12)
    world.transfer_s = (8.0, 9.0)
    world.run()
    assert set(world.finished) == set(world.fills)
    assert world.from_origin == world.manifest.chunk_count
    assert not any(fill.escalations for fill in world.fills.values())


def test_without_escalation_chunks_wait_for_their_master() -> None:
    world = World({"a": ["a1", "a2"]})
    for fill in world.fills.values():
        fill.policy = FillPolicy(escalate=False)
    del world.fills["a1"]
    world.run()
    fill = world.fills["a2"]
    assert not world.finished
    assert fill.ledger.have.count() == world.manifest.chunk_count // 2
    assert not fill.escalations


def test_a_liar_is_quarantined_and_its_chunks_come_from_elsewhere() -> None:
    world = World({"a": ["a1", "a2", "a3"]})
    world.liars.add("a1")
    world.run()
    assert {"a2", "a3"} <= set(world.finished)
    for name in ("a2", "a3"):
        assert world.fills[name].sources["a1"].faults >= 1


def test_an_origin_that_is_down_is_tried_again() -> None:
    world = World({"a": ["a1", "a2"]})
    world.origin_up = False
    world.run(until=20.0)
    assert world.from_origin == 0
    world.origin_up = True
    world.run()
    assert set(world.finished) == set(world.fills)


def test_holders_serve_a_newcomer_without_the_origin() -> None:
    world = World({"a": ["a1", "a2"]})
    count = world.manifest.chunk_count
    world.origin_up = False
    world.tell("a1", events.HoldingsArrived("a2", Bitmap.full(count)), 0.01)
    full = Fill(world.manifest, world.nodes["a2"], FillPolicy(), random.Random(0), 0.0, Bitmap.full(count))
    world.fills["a2"] = full
    world.run()
    assert set(world.finished) == {"a1", "a2"}
    assert world.fills["a1"].bytes_by_scope[Scope.ISP] == world.manifest.size


def test_the_same_seed_gives_the_same_run() -> None:
    runs = []
    for _ in range(2):
        world = World(SEVEN, seed=7)
        world.run()
        runs.append((world.now, sorted(world.finished.items())))
    assert runs[0] == runs[1]


def asked_of(fill: Fill, now: float) -> list[actions.RequestChunk]:
    return [action for action in fill.poll_actions(now) if isinstance(action, actions.RequestChunk)]


def one_fill(world: World, *, heard: bool = True) -> Fill:
    count = world.manifest.chunk_count
    return Fill(world.manifest, world.nodes["a1"], FillPolicy(), random.Random(0), 0.0, Bitmap(count), heard=heard)


def test_nothing_crosses_a_border_before_the_neighbours_were_heard() -> None:
    world = World({"a": ["a1", "a2"]})
    fill = one_fill(world, heard=False)
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    assert not asked_of(fill, 0.0)
    fill.handle(0.1, events.CacheConnected(world.nodes["a2"]))
    fill.handle(0.1, events.HoldingsArrived("a2", Bitmap.full(world.manifest.chunk_count)))
    assert {action.source for action in asked_of(fill, 0.1)} == {"a2"}
    fill.handle(0.2, events.SourceLost("a2"))
    fill.handle(0.2, events.NeighboursHeard())
    assert {action.source for action in asked_of(fill, 0.2)} == {ORIGIN}


def test_a_chunk_that_is_announced_twice_is_held_once() -> None:
    """Else it would count as held when its only holder has gone, and nobody would fetch it."""
    world = World({"a": ["a1", "a2"]})
    fill = one_fill(world)
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    fill.handle(0.0, events.CacheConnected(world.nodes["a2"]))
    fill.handle(0.0, events.ChunksGained("a2", (7, 7, 3, 7)))
    assert fill.available.count[Scope.ISP][7] == fill.available.count[Scope.ISP][3] == 1
    fill.handle(0.1, events.SourceLost("a2"))
    assert not fill.available.held[Scope.ISP].any()


def test_a_liar_is_not_trusted_again_for_a_new_link_or_new_holdings() -> None:
    world = World({"a": ["a1", "a2"]})
    full = Bitmap.full(world.manifest.chunk_count)
    fill = one_fill(world)
    fill.handle(0.0, events.CacheConnected(world.nodes["a2"]))
    fill.handle(0.0, events.HoldingsArrived("a2", full))
    first = asked_of(fill, 0.0)[0]
    fill.handle(0.1, events.RequestFailed(first.request, "wrong XXH3 digest", 10, corrupt=True))
    fill.poll_actions(0.1)
    for step in range(3):
        now = 0.2 + step
        fill.handle(now, events.SourceLost("a2"))
        assert fill.past["a2"].quarantined
        fill.handle(now, events.CacheConnected(world.nodes["a2"]))
        fill.handle(now, events.HoldingsArrived("a2", full))
        assert not asked_of(fill, now)
        assert fill.sources["a2"].barred_reason == "wrong XXH3 digest"
        assert not fill.available.held[Scope.ISP].any()
    assert asked_of(fill, FillPolicy().quarantine_s + 1)


def test_holdings_that_shrink_are_believed() -> None:
    world = World({"a": ["a1", "a2"]})
    fill = one_fill(world)
    fill.handle(0.0, events.CacheConnected(world.nodes["a2"]))
    fill.handle(0.0, events.HoldingsArrived("a2", Bitmap.full(world.manifest.chunk_count)))
    only = Bitmap(world.manifest.chunk_count)
    only.add(7)
    fill.handle(0.0, events.HoldingsArrived("a2", only))
    assert list(fill.available.held[Scope.WORLD].indexes()) == [7]
    assert [action.chunk for action in asked_of(fill, 0.0)] == [7]


def test_what_a_lost_master_was_fetching_is_taken_over_at_once() -> None:
    world = World({"a": ["a1", "a2"]}, chunk_count=8)
    fill = one_fill(world)
    fill.handle(0.0, events.RosterChanged(tuple(world.nodes.values())))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    fill.handle(0.0, events.CacheConnected(world.nodes["a2"]))
    fill.handle(0.0, events.ChunksClaimed("a2", range(8)))
    assert not asked_of(fill, 0.0)
    fill.handle(0.1, events.SourceLost("a2"))
    assert {action.source for action in asked_of(fill, 0.1)} == {ORIGIN}


def test_news_goes_only_to_whom_it_concerns() -> None:
    """A chunk is told of inside the ISP to those who lack it, and across borders to its masters."""
    layout = {isp: [f"{isp}{n}" for n in range(4)] for isp in "abc"}
    world = World(layout, chunk_count=120)
    world.run(stop=lambda: len(world.finished) == 12)
    assert len(world.finished) == 12
    assert world.from_origin == 120
    # All to all would be 11 for each of 12 x 120. In the ISP each chunk takes 3 + 2 + 1 at best.
    assert world.told < 0.55 * 11 * 12 * 120


def test_a_new_master_hears_the_others_before_it_crosses_a_border() -> None:
    me, peer, far = (NodeInfo(NodeId(n), isp, "r") for n, isp in (("a1", "a"), ("a2", "a"), ("b1", "b")))
    fill = Fill(title(40), me, FillPolicy(), random.Random(1), 0.0, Bitmap(40))
    fill.handle(0.0, events.RosterChanged((me, peer, far)))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    for node in (peer, far):
        fill.handle(0.0, events.CacheConnected(node))
        fill.handle(0.0, events.HoldingsArrived(node.id, Bitmap(40)))
    shown = [a for a in fill.poll_actions(0.0) if isinstance(a, actions.ShowInterest)]
    assert [a.source for a in shown] == ["b1"]
    before = shown[0].chunks
    fill.handle(1.0, events.SourceLost("a2"))
    fill.handle(1.0, events.RosterChanged((me, far)))
    done = fill.poll_actions(1.0)
    (again,) = (a for a in done if isinstance(a, actions.ShowInterest))
    fresh = again.chunks.and_not(before)
    assert fresh.any()
    assert not [a for a in done if isinstance(a, actions.RequestChunk) and fresh[a.chunk]]
    fill.handle(1.1, events.HoldingsArrived("b1", Bitmap.full(40)))
    sources = {a.source for a in fill.poll_actions(1.1) if isinstance(a, actions.RequestChunk)}
    assert sources == {"b1"}


def test_a_starved_master_does_not_wait_for_ever_for_others_that_show_life() -> None:
    me, far = (NodeInfo(NodeId(n), isp, "r") for n, isp in (("a1", "a"), ("b1", "b")))
    fill = Fill(title(40), me, FillPolicy(), random.Random(1), 0.0, Bitmap(40))
    fill.handle(0.0, events.RosterChanged((me, far)))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    fill.handle(0.0, events.CacheConnected(far))
    fill.handle(0.0, events.HoldingsArrived("b1", Bitmap(40)))
    now, mine = 0.0, 0
    while now < 8.0 and mine < 40:
        asked = [a for a in fill.poll_actions(now) if isinstance(a, actions.RequestChunk)]
        for action in asked:
            mine += 1
            fill.handle(now, events.ChunkReceived(action.request))
        now += 0.05
        # Alive, and never getting anywhere.
        fill.handle(now, events.ChunksClaimed("b1", ()))
    assert mine == 40
    assert fill.escalations["starved"] > 10


def test_a_source_far_slower_than_others_is_passed_over() -> None:
    nodes = [NodeInfo(NodeId(f"a{n}"), "a", "r") for n in range(5)]
    fill = Fill(title(1200), nodes[0], FillPolicy(), random.Random(1), 0.0, Bitmap(1200))
    fill.handle(0.0, events.RosterChanged(tuple(nodes)))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    for node in nodes[1:]:
        fill.handle(0.0, events.CacheConnected(node))
        fill.handle(0.0, events.HoldingsArrived(node.id, Bitmap.full(1200)))
    now, due = 0.0, list[tuple[float, int]]()
    while now < 8.0 and not fill.sources["a1"].is_slow:
        for action in fill.poll_actions(now):
            if isinstance(action, actions.RequestChunk):
                due.append((now + (3.0 if action.source == "a1" else 0.1), action.request))
        now += 0.02
        fill.handle(now, events.SourceProgressed("a1"))
        for when, request in list(due):
            if when <= now:
                due.remove((when, request))
                fill.handle(now, events.ChunkReceived(request))
    assert fill.sources["a1"].is_slow
    assert not fill.sources["a1"].requests
    assert not any(fill.sources[f"a{n}"].barred_reason for n in (2, 3, 4))
    fill.ledger.check()


def test_a_request_in_line_moves_to_an_idle_source_that_has_come_to_hold_the_chunk() -> None:
    world = World({"a": ["a1", "a2", "a3"]}, chunk_count=12)
    fill = one_fill(world)
    for name, held in (("a2", Bitmap.full(12)), ("a3", Bitmap(12))):
        fill.handle(0.0, events.CacheConnected(world.nodes[name]))
        fill.handle(0.0, events.HoldingsArrived(name, held))
    line = asked_of(fill, 0.0)
    assert [request.source for request in line] == ["a2"] * 3

    fill.handle(0.1, events.ChunksGained("a3", (line[0].chunk,)))
    assert not fill.poll_actions(0.1)
    fill.handle(0.1, events.ChunksGained("a3", (line[2].chunk,)))
    withdrawn, moved = fill.poll_actions(0.1)
    assert withdrawn == actions.CancelRequest(line[2].request, "a2")
    assert isinstance(moved, actions.RequestChunk)
    assert (moved.source, moved.chunk) == ("a3", line[2].chunk)
    assert list(fill.sources["a2"].requests) == [line[0].request, line[1].request]
    assert list(fill.sources["a3"].requests) == [moved.request]
    fill.ledger.check()

    # It comes from both, since the first source had not heard yet: it counts for the second one, and once.
    fill.handle(0.2, events.ChunkReceived(line[2].request))
    assert fill.ledger.have.count() == 0
    due = [*line[:2], moved, *asked_of(fill, 0.2)]
    asked = Counter(request.chunk for request in due)
    while due:
        fill.handle(0.3, events.ChunkReceived(due.pop(0).request))
        more = asked_of(fill, 0.3)
        asked.update(request.chunk for request in more)
        due += more
        fill.ledger.check()
    assert asked == Counter(range(12))
    assert fill.bytes_by_scope[Scope.ISP] == sum(fill.bytes_by_scope.values()) == world.manifest.size
    assert sum(source.bytes_kept for source in fill.sources.values()) == world.manifest.size
    assert fill.sources["a3"].bytes_kept >= world.manifest.chunk_length(moved.chunk)
    assert fill.duplicate_bytes == 0
    assert not fill.escalations


# ---- behind a more urgent title


def held_fill(*, members: int = 3, record: list[bytes] | None = None) -> tuple[Fill, list[actions.RequestChunk]]:
    """Return a fill of a1 in an ISP of `members` that has asked and is held back then, with what it has asked."""
    nodes = [NodeInfo(NodeId(f"a{n}"), "a", "r") for n in range(1, members + 1)]
    start = (title(60), nodes[0], FillPolicy(), random.Random("s"), 0.0, Bitmap(60))
    fill = Fill(*start) if record is None else RecordingFill(record.append, "s", *start)
    fill.handle(0.0, events.RosterChanged(tuple(nodes)))
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    for node in nodes[1:]:
        fill.handle(0.0, events.CacheConnected(node))
        fill.handle(0.0, events.HoldingsArrived(node.id, Bitmap(60)))
    fill.handle(0.1, events.ChunksGained("a2", range(0, 60, 2)))
    asked = asked_of(fill, 0.1)
    assert {action.source for action in asked} >= {ORIGIN, "a2"}
    fill.handle(0.2, events.Paused())
    return fill, asked


def test_a_fill_that_is_held_back_asks_nothing_and_takes_what_is_on_its_way() -> None:
    fill, asked = held_fill()
    fill.handle(0.3, events.ChunksGained("a3", range(60)))
    assert not asked_of(fill, 0.3)
    assert fill.waits()["a more urgent title"] == 60 - len(asked)
    for action in asked:
        fill.handle(0.4, events.ChunkReceived(action.request))
    done = fill.poll_actions(0.4)
    assert [type(action) for action in done] == [actions.AnnounceChunks]
    assert fill.ledger.have.count() == len(asked)
    fill.handle(0.5, events.Resumed())
    assert fill.wants_poll
    assert {action.source for action in asked_of(fill, 0.5)} >= {"a2", "a3"}
    assert "a more urgent title" not in fill.waits()
    fill.ledger.check()


def test_a_fill_that_is_held_back_says_what_it_is_fetching_across_borders() -> None:
    fill, asked = held_fill()
    fill.handle(1.0, events.SourceProgressed(ORIGIN))
    (claim,) = fill.poll_actions(1.0)
    assert claim == actions.ClaimChunks(tuple(action.chunk for action in asked if action.source == ORIGIN))


def test_no_wait_ends_while_a_fill_is_held_back() -> None:
    """Neither are silent masters passed over, nor silent sources barred, nor does it starve, however long it takes."""
    fill, asked = held_fill()
    now = 0.2
    while now < 100.0:
        assert fill.poll_actions(now) == []
        now += 0.25
    fill.handle(now, events.Resumed())
    later = now + FillPolicy().stall_wait_s - 0.5
    while now < later:
        assert not [a for a in fill.poll_actions(now) if isinstance(a, actions.CancelRequest)]
        fill.handle(now, events.SourceProgressed(ORIGIN))
        now += 0.25
    assert not any(source.barred_reason for source in fill.sources.values())
    assert not fill.escalations
    assert fill.ledger.counts[1] >= len(asked)


def test_a_master_that_died_meanwhile_is_passed_over_after_the_usual_wait() -> None:
    fill, asked = held_fill()
    fill.handle(100.0, events.Resumed())
    now = 100.0
    while now < 101.0 + FillPolicy().request_timeout_s:
        for action in [*asked, *asked_of(fill, now)]:
            if action.source == ORIGIN:
                fill.handle(now, events.ChunkReceived(action.request))
        now += 0.25
    assert fill.escalations["master-stalled"] > 0
    assert fill.sources["a2"].barred_reason == "delivered nothing in time"


def test_what_came_late_behind_a_more_urgent_title_is_no_measure_of_its_source() -> None:
    fill, asked = held_fill()
    (first, *rest) = (action for action in asked if action.source == "a2")
    for action, at in ((first, 30.0), (rest[0], 31.0)):
        fill.handle(at, events.ChunkReceived(action.request))
    assert fill.sources["a2"].rate_bytes_s == 0.0
    assert fill.sources["a2"].bytes_kept == 2 * CHUNK_SIZE
    fill.handle(40.0, events.Resumed())
    fill.handle(40.1, events.ChunkReceived(rest[1].request))
    assert fill.sources["a2"].rate_bytes_s == pytest.approx(CHUNK_SIZE / 0.1)


def test_a_recorded_fill_that_was_held_back_plays_to_the_same_actions() -> None:
    lines: list[bytes] = []
    fill, asked = held_fill(record=lines)
    for number, action in enumerate(asked):
        fill.handle(1.0 + number, events.ChunkReceived(action.request))
        fill.poll_actions(1.0 + number)
    fill.handle(20.0, events.Resumed())
    assert asked_of(fill, 20.0)
    again, played, difference = play(lines, random.Random)
    assert difference is None
    assert played == len(lines) - 1
    assert again.ledger.have == fill.ledger.have


def joined(layout: dict[str, list[str]], me: str) -> Fill:
    """A fill of `me` that is linked with all others, which hold everything."""
    nodes = [NodeInfo(NodeId(n), isp, "r") for isp, names in layout.items() for n in names]
    mine = next(node for node in nodes if node.id == me)
    fill = Fill(title(400), mine, FillPolicy(), random.Random(1), 0.0, Bitmap(400))
    fill.handle(0.0, events.RosterChanged(tuple(nodes)))
    for node in nodes:
        if node.id != me:
            fill.handle(0.0, events.CacheConnected(node))
            fill.handle(0.0, events.HoldingsArrived(node.id, Bitmap.full(400)))
    return fill


def asked(fill: Fill, now: float) -> set[str]:
    return {a.source for a in fill.poll_actions(now) if isinstance(a, actions.RequestChunk)}


@pytest.mark.parametrize("me", ["a1", "b1"])
def test_everybody_does_without_a_cache_once_half_of_its_isp_do(me: str) -> None:
    fill = joined({"a": ["a1", "a2", "a3", "a4", "a5"], "b": ["b1"]}, me)
    for by in ("a3", "a3", "b1", "stranger"):
        fill.handle(0.1, events.SlowReported(by, "a2"))
    assert not fill.sources["a2"].barred_reason
    for by in ("a4", "a5"):
        fill.handle(0.2, events.SlowReported(by, "a2"))
    assert fill.sources["a2"].barred_reason
    told = [a for a in fill.poll_actions(0.2) if isinstance(a, actions.ReportSlow)]
    assert told == [actions.ReportSlow("a2")] * (me == "a1")  # who is of another ISP is no judge
    fill.handle(0.3, events.SlowReported("a5", "a2"))
    assert not [a for a in fill.poll_actions(0.3) if isinstance(a, actions.ReportSlow)]


def test_a_cache_that_others_do_without_leaves_its_share_to_them_for_a_while() -> None:
    fill = joined({"a": ["a1", "a2", "a3"], "b": ["b1"]}, "a1")
    for node in ("a2", "a3"):
        fill.handle(0.0, events.HoldingsArrived(node, Bitmap(400)))
    assert asked(fill, 0.0) == {"b1"}
    for request in list(fill._requests):
        fill.handle(0.0, events.ChunkReceived(request))
    fill.handle(0.1, events.SlowReported("a2", "a1"))
    assert asked(fill, 0.1) == set()
    assert asked(fill, 2.0) == set()
    later = FillPolicy().quarantine_s + 0.1
    assert asked(fill, later - 0.5) == set()
    assert asked(fill, later + 0.5) == {"b1"}


def test_one_that_slanders_everybody_does_not_hold_up_a_fill() -> None:
    world = World({"a": [f"a{n}" for n in range(6)], "b": [f"b{n}" for n in range(3)]}, chunk_count=120)
    for moment in range(1, 20):
        for accused in world.fills:
            for other in world.fills:
                if other != "a0" and accused != "a0":
                    world.tell(other, events.SlowReported("a0", accused), moment / 20)
    world.run()
    assert len(world.finished) == 9
    assert world.from_origin <= 1.1 * 120
    assert not any(fill.escalations for fill in world.fills.values())


def test_the_only_cache_that_has_what_it_owes_is_kept_whatever_is_said_of_it() -> None:
    fill = joined({"a": ["a1", "a2", "a3"]}, "a1")
    fill.handle(0.0, events.HoldingsArrived("a3", Bitmap(400)))
    assert asked(fill, 0.0) == {"a2"}
    fill.handle(0.1, events.SlowReported("a3", "a2"))
    assert not fill.sources["a2"].barred_reason
    fill.handle(0.2, events.HoldingsArrived("a3", Bitmap.full(400)))
    fill.handle(0.3, events.SlowReported("a3", "a2"))
    assert fill.sources["a2"].barred_reason


def test_what_is_being_copied_is_not_asked_for_and_what_was_not_right_is() -> None:
    world = World({"a": ["a1"]}, chunk_count=12)
    fill = world.fills["a1"]
    fill.handle(0.0, events.ReuseBegun(range(8)))  # before the first decision
    world.run(stop=lambda: fill.ledger.have.count() == 4)
    assert set(fill.ledger.have.indexes()) == {8, 9, 10, 11}
    assert not fill.ledger.is_complete()
    world.tell("a1", events.ReuseEnded([0, 1, 2, 3], [4, 5]))
    world.run(until=world.now + 5)
    assert set(fill.ledger.have.indexes()) == {0, 1, 2, 3, 4, 5, 8, 9, 10, 11}
    world.tell("a1", events.ReuseEnded([6, 2], [7, 5]))
    world.run(until=world.now + 5)
    assert fill.ledger.is_complete()
    assert fill.reused_bytes == 5 * CHUNK_SIZE
    assert world.from_origin == 7
    assert fill.duplicate_bytes == 0


def test_a_chunk_of_a_request_that_was_given_up_too_late_counts_for_whoever_sent_it() -> None:
    fill = World({"a": ["a1"]}, chunk_count=4).fills["a1"]
    fill.handle(0.0, events.OriginConfigured(ORIGIN))
    # First the one that came in vain is heard of, since the chunk was sealed already; then the one that sealed it.
    fill.handle(1.0, events.ChunkFound(1))
    assert fill.bytes_by_scope[Scope.ORIGIN] == 0
    fill.handle(1.0, events.ChunkFound(1, ORIGIN))
    assert fill.bytes_by_scope[Scope.ORIGIN] == CHUNK_SIZE
    fill.handle(1.0, events.ChunkFound(1, ORIGIN))
    fill.handle(1.0, events.ChunkFound(2, ORIGIN))
    assert fill.bytes_by_scope[Scope.ORIGIN] == 2 * CHUNK_SIZE


def test_a_chunk_that_comes_of_the_origin_while_it_is_to_be_copied_is_taken_in() -> None:
    """An origin without Range sends what nobody has asked for, too."""
    world = World({"a": ["a1"]}, chunk_count=4)
    fill = world.fills["a1"]
    fill.handle(0.0, events.ReuseBegun(range(4)))
    world.tell("a1", events.ChunkFound(1))
    world.tell("a1", events.ReuseEnded([0, 1], [2, 3]))
    world.run(until=world.now + 5)
    assert fill.ledger.is_complete()
    assert fill.reused_bytes == CHUNK_SIZE


@pytest.mark.parametrize("chunk_count", [1, 2, 3, 64, 100])
def test_where_picking_begins_is_drawn_as_randrange_draws(monkeypatch: pytest.MonkeyPatch, chunk_count: int) -> None:
    """Else what earlier versions have recorded would not play again."""
    picks = 0
    pick = Fill._pick

    def pick_nothing(*arguments: Any) -> int:
        nonlocal picks
        picks += 1
        pick(*arguments)
        return -1

    monkeypatch.setattr(Fill, "_pick", pick_nothing)
    drawn_from = random.Random("draw")
    me, other = NodeInfo(NodeId("a1"), "isp-a", "r"), NodeInfo(NodeId("a2"), "isp-a", "r")
    fill = Fill(title(chunk_count), me, FillPolicy(), drawn_from, 0.0, Bitmap(chunk_count))
    fill.handle(0.0, events.RosterChanged((me, other)))
    fill.handle(0.0, events.CacheConnected(other))
    for turn in range(40):
        fill.handle(0.01 * turn, events.HoldingsArrived("a2", Bitmap.full(chunk_count)))
        fill.poll_actions(0.01 * turn)
    chance = random.Random("draw")
    assert picks >= 40
    for _ in range(picks):
        chance.randrange(chunk_count)
    assert drawn_from.getstate() == chance.getstate()
