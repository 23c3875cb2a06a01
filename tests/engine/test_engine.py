"""One engine between fake channels: what links, titles and data streams do to each other."""

from __future__ import annotations

from contextlib import nullcontext
from random import Random
from typing import Any, NamedTuple

import pytest

from p2pfill.engine import link as link_module
from p2pfill.engine.dialler import NEVER, Dial
from p2pfill.engine.engine import FINISH_S, PROBE_S, Engine, Faulted
from p2pfill.engine.link import DATA_STREAMS_MAX, Link, OpenStream, WakeUploads
from p2pfill.engine.requests import Arrival, Outcome, RequestState
from p2pfill.engine.task import Commit, EndFill, FillTask, GoLive, LimitSlots, ReadOrigin, StopRead
from p2pfill.errors import InternalError, RemoteProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.timing import FROZEN_S
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import DataHeader
from p2pfill.protocol.rules import Side
from p2pfill.swarm import events
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import Fill

CHUNK = 65536
MANIFEST = Manifest("t", CHUNK, layout([("f", 20 * CHUNK)]), bytes(16 * 20), bytes(32 * 20))
OTHER = Manifest("u", CHUNK, layout([("g", 20 * CHUNK)]), bytes(16 * 20), bytes(32 * 20))
ME = NodeInfo(NodeId("a1"), "isp-a", "eu")


class FakeChannel:
    """What was sent, and nothing else."""

    def __init__(self) -> None:
        self.sent: list[m.Message] = []
        self.closed: tuple[m.GoodbyeCode, str] | None = None
        self.ids = [-1, -1, -1]

    def send(self, message: m.Message) -> bool:
        self.sent.append(message)
        return self.closed is None

    def _next(self, which: int) -> int:
        self.ids[which] += 1
        return self.ids[which]

    def next_handle(self) -> int:
        return self._next(0)

    def next_request_id(self) -> int:
        return self._next(1)

    def next_stream_id(self) -> int:
        return self._next(2)

    def cancel_request(self, request_id: int) -> None:
        self.send(m.Cancel(request_id))

    def reject_request(self, request_id: int, code: str) -> None:
        self.send(m.Reject(request_id, code))

    def finish_request(self, side: Side, request_id: int) -> None: ...

    def close(self, code: m.GoodbyeCode, reason: str) -> None:
        self.closed = code, reason

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


class Disk:
    """A title on a disk that takes everything."""

    def __init__(self) -> None:
        self.sealed: set[int] = set()

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Any:
        return iter(())

    def write_lock(self, chunk: int) -> Any:
        return nullcontext()

    def is_sealed(self, chunk: int) -> bool:
        return chunk in self.sealed

    def seal(self, chunk: int) -> None:
        self.sealed.add(chunk)

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        return True


class Cache:
    """An engine and its clock."""

    def __init__(self) -> None:
        numbers = iter(range(1 << 20))
        self.engine = Engine(ME, Random(1), lambda n: next(numbers).to_bytes(n, "big"), nullcontext, 16)
        self.now = 100.0

    def link(self, name: str = "b1", isp: str = "isp-a") -> tuple[Link, FakeChannel]:
        channel = FakeChannel()
        link = self.engine.open_link(channel, lambda _: None)
        self.say(link, m.Hello(name, isp, "eu", "", "127.0.0.1", 7, 1.0, "test", "boot"))
        return link, channel

    def say(self, link: Link, *messages: m.Message) -> None:
        for message in messages:
            self.engine.handle(self.now, link, message)

    def fill(self, manifest: Manifest = MANIFEST, origins: tuple[str, ...] = (), **more: Any) -> FillTask:
        logic = Fill(manifest, ME, FillPolicy(), Random(1), self.now, Bitmap(20))
        return self.engine.begin_fill(self.now, logic, Disk(), origins, **more)

    def poll(self, after_s: float = 0.0) -> list[Any]:
        self.now += after_s
        effects = self.engine.poll(self.now)
        self.engine.next_wakeup()
        return effects

    def give(self, link: Link, outcome: Outcome = Outcome.VERIFIED) -> int:
        """Have the first outstanding chunk of a link come."""
        receive = link.book.outstanding()[0]
        claimed = link.book.claim(DataHeader(receive.request_id, receive.chunk, receive.length))
        assert claimed is receive
        came = receive.verify(lambda: "" if outcome is Outcome.VERIFIED else "wrong")[0]
        link.book.arrive(Arrival(receive, came, receive.length, "wrong" if came is Outcome.CORRUPT else ""))
        self.engine.reap(self.now, link)
        return receive.chunk


@pytest.fixture
def cache() -> Cache:
    return Cache()


def all_of_it(handle: int) -> m.Holdings:
    return m.Holdings(handle, True, 20, b"\xff\xff\x0f")


def linked_source(cache: Cache, name: str = "b1") -> tuple[FillTask, Link, FakeChannel]:
    task = cache.fill()
    link, channel = cache.link(name)
    cache.say(link, all_of_it(channel.of(m.Subscribe)[0].handle))
    return task, link, channel


def test_a_chunk_travels_from_a_message_to_a_commit(cache: Cache) -> None:
    task, link, channel = linked_source(cache)
    assert cache.poll() == [LimitSlots(task, 1)]
    assert len(channel.of(m.Request)) == len(link.book.outstanding()) >= 2
    assert len(channel.of(m.StreamOpen)) == 1
    cache.say(link, m.StreamGrant(0, bytes(32)))
    assert cache.poll() == [OpenStream(link, bytes(32))]
    chunk = cache.give(link)
    assert task.fill.ledger.is_verified(chunk)
    (commit,) = [effect for effect in [*cache.poll(), *cache.poll(0.3)] if isinstance(effect, Commit)]
    assert commit.chunks == [chunk]
    while link.book.outstanding():
        cache.give(link)
        cache.poll()
    cache.engine.committed(cache.now, task, commit.chunks, 0.01)
    (commit,) = [effect for effect in cache.poll() if isinstance(effect, Commit)]  # at once: nothing is left to fetch
    cache.engine.committed(cache.now, task, commit.chunks, 0.01)
    assert GoLive(task) in cache.poll()
    cache.engine.went_live(cache.now, task)
    assert EndFill(task) in cache.poll()
    assert task.state == "live"
    assert channel.of(m.Unsubscribe)


def test_a_chunk_whose_request_was_given_up_as_its_last_byte_came_is_kept(cache: Cache) -> None:
    task, link, _channel = linked_source(cache)
    other, other_channel = cache.link("b2")
    cache.say(other, all_of_it(other_channel.of(m.Subscribe)[0].handle))
    cache.poll()
    receive = link.book.outstanding()[0]
    claimed = link.book.claim(DataHeader(receive.request_id, receive.chunk, receive.length))
    assert claimed.verify(lambda: "")[0] is Outcome.VERIFIED  # in a thread; the engine has not heard of it
    link.book.arrive(Arrival(receive, Outcome.VERIFIED, receive.length))
    cache.engine.stream_ended(cache.now, link, "data stream ended")
    cache.poll()
    assert task.fill.ledger.is_verified(receive.chunk)
    assert all(one.chunk != receive.chunk for one in other.book.outstanding())


def test_a_breach_on_a_data_stream_quarantines_and_ends_the_link(cache: Cache) -> None:
    task, link, channel = linked_source(cache)
    cache.poll()
    cache.engine.stream_ended(cache.now, link, "a second answer", breach=True)
    source = task.fill.sources["b1"]
    assert source.quarantined
    assert source.barred_reason == "a second answer"
    assert channel.closed == (m.GoodbyeCode.PROTOCOL_ERROR, "a second answer")


def test_what_a_disk_refuses_fails_its_title_alone(cache: Cache) -> None:
    task, link, channel = linked_source(cache)
    other = cache.fill(OTHER)
    cache.poll()
    receive = link.book.outstanding()[0]
    link.book.arrive(Arrival(receive, Outcome.STORE, 0, "no space left"))
    cache.engine.reap(cache.now, link)
    assert (task.state, task.error) == ("failed", "no space left")
    assert other.state == "filling"
    assert channel.closed is None


def test_a_stranger_does_not_take_the_name_of_a_link_that_lives(cache: Cache) -> None:
    link, channel = cache.link("b1")
    _stranger, strangers = cache.link("b1")
    (ping,) = channel.of(m.Ping)
    assert cache.engine.links["b1"] is link
    _, another = cache.link("b1")
    assert another.closed is not None
    assert another.closed[0] is m.GoodbyeCode.DUPLICATE
    cache.say(link, m.Pong(ping.nonce))
    assert strangers.closed is not None
    assert strangers.closed[0] is m.GoodbyeCode.DUPLICATE
    cache.poll(2 * PROBE_S)
    assert cache.engine.links["b1"] is link
    assert channel.closed is None


def test_a_link_that_does_not_answer_gives_way_in_time(cache: Cache) -> None:
    _task, link, channel = linked_source(cache)
    cache.poll()
    again, new = cache.link("b1")
    assert cache.engine.next_wakeup() <= cache.now + PROBE_S
    for _ in range(4):
        cache.poll(PROBE_S / 4)  # not all at once: this cache would take itself for stopped
    assert cache.engine.links["b1"] is again
    assert link.is_over
    assert channel.closed is not None
    assert new.of(m.Subscribe)


def test_a_link_keeps_its_name_though_this_cache_was_stopped_while_it_answered(cache: Cache) -> None:
    link, channel = cache.link("b1")
    cache.link("b1")
    cache.poll()
    cache.poll(10.0)  # its Pong has come, and is not read yet
    cache.say(link, m.Pong(channel.of(m.Ping)[0].nonce))
    cache.poll(2 * PROBE_S)
    assert cache.engine.links["b1"] is link
    assert channel.closed is None


def test_a_link_that_has_all_the_requests_it_may_is_no_fault_of_its_source(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "REQUESTS_MAX", 2)
    task, link, channel = linked_source(cache)
    for asked in range(2, 21):
        effects = cache.poll()
        assert not [effect for effect in effects if isinstance(effect, Faulted)]
        assert len(channel.of(m.Request)) == asked
        source = task.fill.sources["b1"]
        assert source.counted
        assert (source.faults, source.fault_reason, channel.closed) == (0, "", None)
        cache.give(link)
        cache.poll(0.6)
    cache.give(link)
    cache.poll()
    assert not task.fill.ledger.missing.any()


def test_each_remote_has_its_own_share_of_tokens(cache: Cache) -> None:
    link, channel = cache.link("b1")
    cache.say(link, *(m.StreamOpen(number) for number in range(100)))
    assert len(channel.of(m.StreamGrant)) == DATA_STREAMS_MAX
    assert len(channel.of(m.StreamRefuse)) == 100 - DATA_STREAMS_MAX
    other, others = cache.link("b2")
    cache.say(other, m.StreamOpen(0))
    assert others.of(m.StreamGrant)
    cache.engine.link_ended(cache.now, link)
    with pytest.raises(RemoteProtocolError):
        cache.engine.spend_token(cache.now, channel.of(m.StreamGrant)[0].token)


def test_unwant_ends_what_was_asked_under_its_handle(cache: Cache) -> None:
    cache.engine.serve(cache.now, MANIFEST.title_id, Bitmap.full(20))
    link, channel = cache.link("b1")
    cache.say(link, m.Subscribe(0, MANIFEST.title_id), m.Subscribe(1, MANIFEST.title_id))
    cache.say(link, *(m.Request(number % 2, number, number) for number in range(10)))
    assert cache.poll() == [WakeUploads(link)]
    cache.say(link, m.Unsubscribe(1))
    assert len(link.uploads) == 5
    assert [link.uploads.take().request_id for _ in range(5)] == [0, 2, 4, 6, 8]  # type: ignore[union-attr]
    assert not channel.of(m.Reject)


def test_a_remote_that_has_a_title_no_more_is_no_source_of_it(cache: Cache) -> None:
    task, link, channel = linked_source(cache)
    cache.poll()
    handle = channel.of(m.Subscribe)[0].handle
    asked = [receive.request_id for receive in link.book.outstanding()]
    cache.say(link, m.Holdings(handle, False))
    assert "b1" not in task.fill.sources
    assert [message.request_id for message in channel.of(m.Cancel)] == asked
    cache.say(link, all_of_it(handle))
    cache.poll()
    assert task.fill.sources["b1"].requests


def test_a_fault_of_one_title_ends_that_one(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    bad, good = cache.fill(), cache.fill(OTHER)
    link, channel = cache.link("b1")

    def raise_it(*_: object) -> None:
        raise KeyError("chunk")

    monkeypatch.setattr(bad.fill, "handle", raise_it)
    cache.say(link, *(all_of_it(want.handle) for want in channel.of(m.Subscribe)))
    effects = cache.poll()
    assert bad.state == "failed"
    assert isinstance(bad.fault, InternalError)
    assert [effect.doing for effect in effects if isinstance(effect, Faulted)] == ["fill title 't'"]
    assert good.state == "filling"
    assert good.fill.sources["b1"].requests
    assert channel.closed is None


def test_reads_of_an_origin_that_are_given_up_write_nothing(cache: Cache) -> None:
    task = cache.fill(origins=("http://o/",))
    (read,) = [effect for effect in cache.poll() if isinstance(effect, ReadOrigin)][:1]
    assert read.receive.may_write
    cache.engine.withdraw(cache.now, task)
    effects = cache.poll()
    assert StopRead(task, read.receive) in effects
    assert read.receive.state is RequestState.ABANDONED
    assert not read.receive.may_write


def test_what_is_ordered_out_of_cycle_no_more_is_given_up_as_at_the_end_of_a_window(cache: Cache) -> None:
    cache.engine.set_open(cache.now, is_open=False)
    cache.engine.set_exempt(cache.now, [MANIFEST.title_id])
    task = cache.fill(origins=("http://o/",))
    reads = [effect.receive for effect in cache.poll() if isinstance(effect, ReadOrigin)]
    assert reads
    cache.poll(2 * FINISH_S)
    cache.engine.set_exempt(cache.now, [])
    assert not [effect for effect in cache.poll() if isinstance(effect, StopRead)], "it has the time to come"
    assert cache.engine.next_wakeup() <= cache.now + FINISH_S
    stopped = [effect.receive for effect in cache.poll(FINISH_S) if isinstance(effect, StopRead)]
    assert stopped == reads
    assert task.fill.is_at_rest


def test_a_cache_that_waits_for_its_window_with_several_titles_is_not_woken(cache: Cache) -> None:
    cache.engine.set_open(cache.now, is_open=False)
    cache.fill(origins=("http://o/",))
    cache.fill(OTHER, origins=("http://o/",))
    cache.poll(2 * FINISH_S)
    cache.poll()
    assert cache.engine.next_wakeup() == float("inf")
    cache.engine.set_open(cache.now, is_open=True, is_announced=True)
    cache.poll()
    assert cache.engine.next_wakeup() <= cache.now + 1.0


@pytest.mark.parametrize("is_wanted", [True, False])
def test_a_read_that_verified_as_its_reader_was_cancelled_counts_for_its_origin(cache: Cache, is_wanted: bool) -> None:
    """Cancelled readers leave their thread alone, and know nothing of what it has done."""
    task = cache.fill(origins=("http://o/",))
    (read,) = [effect for effect in cache.poll() if isinstance(effect, ReadOrigin)][:1]
    assert read.receive.verify(lambda: "")[0] is Outcome.VERIFIED
    if not is_wanted:
        cache.engine.handle_event(task, events.RequestFailed(read.receive.request_id, "too late"))
    given_up = Arrival(read.receive, Outcome.WITHDRAWN, 0, "given up")
    cache.engine.read_ended(cache.now, task, "http://o/", given_up)
    assert task.fill.ledger.is_verified(read.receive.chunk)
    assert (task.fill.bytes_by_scope[Scope.ORIGIN], task.fill.duplicate_bytes) == (CHUNK, 0)


def test_who_was_stopped_takes_nobody_for_silent(cache: Cache) -> None:
    task, _link, channel = linked_source(cache)
    cache.poll()
    cache.poll(60.0 + FROZEN_S)
    assert not task.fill.sources["b1"].barred_reason
    assert not channel.of(m.Cancel)


def test_the_lower_id_dials_and_dials_again(cache: Cache) -> None:
    nodes = [NodeInfo(NodeId(name), "isp-a", "eu") for name in ("a0", "a1", "a2")]
    cache.engine.want_links(cache.now, nodes)
    assert cache.poll() == [Dial(nodes[2])]
    assert cache.engine.next_wakeup() == NEVER
    pauses = []
    for _ in range(8):
        cache.engine.dial_failed(cache.now, "a2")
        pauses.append(cache.engine.next_wakeup() - cache.now)
        assert cache.poll(pauses[-1] / 2) == []
        assert cache.poll(pauses[-1]) == [Dial(nodes[2])]
    assert 0.5 <= pauses[0] <= 1.0
    assert 15.0 <= pauses[-1] <= 30.0


# ---- budgets of what comes from caches beyond the ISP


def far_source(cache: Cache, name: str = "z1") -> tuple[Link, FakeChannel]:
    link, channel = cache.link(name, "isp-z")
    cache.say(link, all_of_it(channel.of(m.Subscribe)[0].handle))
    return link, channel


def test_what_a_lost_link_owed_of_a_budget_is_asked_of_others_without_a_new_allowance(cache: Cache) -> None:
    """The tracker sees that next to nothing has come of the allowance, so it has no reason to give more."""
    cache.engine.set_regional_max(cache.now, 3 * CHUNK, "transit")
    cache.fill()
    link, _ = far_source(cache)
    cache.poll()
    assert len(link.book.outstanding()) == 3
    other, _ = far_source(cache, "z2")
    cache.poll()
    assert not other.book.outstanding(), "all of the allowance is asked for"
    cache.engine.link_ended(cache.now, link)
    for _ in range(60):
        cache.poll(0.25)
        while other.book.outstanding():
            cache.give(other)
    assert cache.engine.regional_bytes == 3 * CHUNK


class Asks(NamedTuple):
    """What a cache does about encrypting data streams."""

    required: bool
    fingerprint: bytes = b"o" * 32


THEIRS = b"t" * 32


@pytest.mark.parametrize(
    ("own", "asked", "granted"),
    [
        (None, m.StreamOpen(0), b""),
        (None, m.StreamOpen(0, True, THEIRS), None),
        (Asks(False), m.StreamOpen(0, False, THEIRS), b""),
        (Asks(False), m.StreamOpen(0, True, THEIRS), b"o" * 32),
        (Asks(True), m.StreamOpen(0, False, THEIRS), b"o" * 32),
        (Asks(True), m.StreamOpen(0), None),
        (Asks(False), m.StreamOpen(0), b""),
    ],
)
def test_a_data_stream_is_encrypted_where_either_side_asks_for_it(
    cache: Cache, own: Asks | None, asked: m.StreamOpen, granted: bytes | None
) -> None:
    """None: it is refused."""
    link, channel = cache.link()
    link.encryption = own
    cache.say(link, asked)
    assert [grant.certificate for grant in channel.of(m.StreamGrant)] == ([] if granted is None else [granted])
    assert len(channel.of(m.StreamRefuse)) == (granted is None)
    for grant in channel.of(m.StreamGrant):
        spent = cache.engine.spend_token(cache.now, grant.token, encrypted=bool(granted))
        assert spent == (link, THEIRS if granted else b"")


@pytest.mark.parametrize("own", [None, Asks(False), Asks(True)])
def test_a_cache_asks_as_it_is_set_and_goes_by_the_grant(cache: Cache, own: Asks | None) -> None:
    task = cache.fill()
    link, channel = cache.link()
    link.encryption = own
    cache.say(link, all_of_it(channel.of(m.Subscribe)[0].handle))
    assert cache.poll() == [LimitSlots(task, 1)]
    assert channel.of(m.StreamOpen) == [m.StreamOpen(0, *(own or ()))]
    if own is None:
        with pytest.raises(RemoteProtocolError, match="no certificates were shown"):
            cache.say(link, m.StreamGrant(0, bytes(32), THEIRS))
    else:
        cache.say(link, m.StreamGrant(0, bytes(32), THEIRS))
        assert cache.poll() == [OpenStream(link, bytes(32), THEIRS)]
