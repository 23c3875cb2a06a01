"""One end of a link between two caches: the twin of `node.link.Link`, in virtual time.

What we want of the remote: a Want, whose Holdings and Haves become events of our fill, and Requests, whose chunks come
over a data stream that we open once. What it wants of us: a subscription, and Requests that queue until its data stream
and an upload slot are free. A data stream sends one chunk at a time; a slot goes round among the streams that wait.

Left out: several titles on a link, and the second data stream to a source that one thread cannot keep up with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.pace import CONNECT_TIMEOUT_S, PROGRESS_TIMEOUT_S, SILENCE_TIMEOUT_S, SLOT_WATCH_S
from p2pfill.protocol import messages as m
from p2pfill.protocol.rules import Side
from p2pfill.sim.flows import Flow
from p2pfill.swarm import events
from p2pfill.swarm.ways import as_number, from_number

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2pfill.model.node import NodeInfo
    from p2pfill.sim.cache import SimCache
    from p2pfill.sim.channel import End
    from p2pfill.sim.network import Route
    from p2pfill.swarm.election import Scope
    from p2pfill.swarm.fill import Fill

RETRANSMIT_S: Final = 0.4
"""What was on its way when a cut began arrives this long after its end at the earliest: TCP has backed off."""

TOKEN: Final = bytes(16)
"""Whoever shows it is known by the link that it came over."""

Outbox = list[Any]


class Sending:
    """A chunk that is being sent."""

    __slots__ = ("chunk", "flow", "has_slot", "number")

    def __init__(self, number: int, chunk: int) -> None:
        self.number = number
        self.chunk = chunk
        self.flow: Flow | None = None
        self.has_slot = True


class SimLink:
    """The link of `cache` with another, seen from `cache`. `peer` is the other end."""

    __slots__ = (
        "_arrival_at", "_cache", "_channel", "_cut_at", "_expected", "_held", "_holding", "_moved", "_outbox",
        "_outbox_at", "_queued", "_stream_asked", "_stream_open", "_subscription", "_uploads", "_want", "_withdrawn",
        "ended", "peer", "remote", "route", "sending",
    )  # fmt: skip

    def __init__(self, cache: SimCache, channel: End, route: Route) -> None:
        self._cache = cache
        self._channel = channel
        self.route = route
        """To the remote."""
        self.peer: SimLink = self
        self.remote: NodeInfo | None = None
        self.ended = False
        self.sending: Sending | None = None
        self._want = -1
        """The handle of our Want; -1 where there is none."""
        self._holding = False
        """The remote has told what it holds."""
        self._expected: dict[int, tuple[int, int]] = {}
        """Request id -> number in the fill, chunk."""
        self._withdrawn: set[int] = set()
        self._stream_asked = False
        self._moved = False
        """Payload has come since `report_progress` looked."""
        self._subscription = -1
        self._uploads: dict[int, int] = {}
        """Request id -> chunk, in the order in which they came."""
        self._stream_open = False
        self._queued = False
        """It waits for an upload slot."""
        self._outbox: Outbox | None = None
        self._outbox_at = -1.0
        self._arrival_at = 0.0
        self._held: list[Outbox] = []
        self._cut_at: float | None = None

    # ---- messages

    @property
    def messages_sent(self) -> int:
        """Control messages sent so far."""
        return self._channel.messages_sent

    def open(self) -> None:
        """Introduce this cache."""
        self._post(self._channel.start())

    def _post(self, parcel: Any) -> bool:
        """Send a parcel; all of one moment travel together. False where it cannot be sent."""
        if parcel is None or self.ended:
            return False
        schedule = self._cache.world.schedule
        if self._outbox is not None and self._outbox_at == schedule.now:
            self._outbox.append(parcel)
            return True
        self._outbox = [parcel]
        self._outbox_at = schedule.now
        # Never before what was sent earlier: it is one stream.
        self._arrival_at = max(schedule.now + self.route.delay_s() + self._cache.world.jitter_s(), self._arrival_at)
        schedule.at(self._arrival_at, self.peer._arrive, self._outbox)
        return True

    def _arrive(self, outbox: Outbox) -> None:
        if self.peer._outbox is outbox:
            self.peer._outbox = None
        if self.ended:
            return
        if self._held or self._cache.world.internet.is_lost(self.route.receiver, self.route.sender):
            self._held.append(outbox)
            return
        self._take(outbox)

    def _take(self, outbox: Outbox) -> None:
        for parcel in outbox:
            for message in self._channel.receive(parcel):
                if self.ended:
                    return
                _HANDLERS[type(message)](self, message)
        self._cache.pump()

    def _greet(self, hello: m.Hello) -> None:
        self.remote = self._cache.world.caches[hello.node_id].info
        self._cache.admit(self)

    # ---- what we want

    def want(self) -> None:
        """Ask for the remote's holdings, now and as they grow."""
        handle = self._channel.next_handle()
        if self._post(self._channel.send(m.Want(handle, self._cache.world.manifest.title_id))):
            self._want = handle

    def unwant(self) -> None:
        """End what `want` began."""
        if self._want >= 0:
            handle, self._want, self._holding = self._want, -1, False
            self._post(self._channel.send(m.Unwant(handle)))
            for number in list(self._expected):
                self._withdraw(number)

    def request(self, request: int, chunk: int) -> bool:
        """Ask for a chunk; False where the link is ending."""
        number = self._channel.next_request_id()
        if self._want < 0 or not self._post(self._channel.send(m.Request(self._want, number, chunk))):
            return False
        self._expected[number] = (request, chunk)
        if not self._stream_asked:
            self._stream_asked = True
            self._post(self._channel.send(m.StreamOpen(self._channel.next_stream_id())))
        return True

    def cancel(self, request: int) -> None:
        """Withdraw a request."""
        for number, (made, _) in list(self._expected.items()):
            if made == request:
                self._withdraw(number)
                self._post(self._channel.cancel(number))

    def report_progress(self) -> None:
        """Tell the fill that payload is arriving, if some has since the last call."""
        coming = self.peer.sending
        moving = coming is not None and coming.flow is not None and not coming.flow.is_paused
        if self._expected and (moving or self._moved) and self.remote is not None:
            self._cache.handle(events.SourceProgressed(self.remote.id))
        self._moved = False

    def _withdraw(self, number: int) -> None:
        del self._expected[number]
        self._withdrawn.add(number)

    def _take_holdings(self, message: m.Holdings) -> None:
        if message.handle != self._want or self.remote is None:
            return
        self._cache.hear(self.remote.id)
        if not message.known:
            return
        holdings = Bitmap.from_bytes(message.bitmap, message.chunk_count)
        if not self._holding:
            self._holding = True
            self._cache.handle(events.CacheConnected(self.remote))
        self._cache.handle(events.HoldingsArrived(self.remote.id, holdings))

    def _take_have(self, message: m.Have) -> None:
        if message.handle == self._want and self.remote is not None:
            self._cache.handle(events.ChunksGained(self.remote.id, message.chunks))

    def _take_fetching(self, message: m.Fetching) -> None:
        if message.handle == self._want and self.remote is not None:
            self._cache.handle(events.ChunksClaimed(self.remote.id, message.chunks))

    def _take_slow(self, message: m.Slow) -> None:
        if message.handle == self._want and self.remote is not None:
            self._cache.handle(events.SlowReported(self.remote.id, message.node_id))

    def _take_ways(self, message: m.Ways) -> None:
        if message.handle == self._want and self.remote is not None:
            self._cache.handle(events.WaysReported(self.remote.id, from_number(message.closed)))

    def _take_reject(self, message: m.Reject) -> None:
        expected = self._expected.pop(message.request_id, None)
        if expected is not None:
            self._cache.handle(events.RequestFailed(expected[0], f"refused: {message.code}"))

    def _fail_all(self, reason: str) -> None:
        for number, (request, _) in list(self._expected.items()):
            self._withdraw(number)
            self._post(self._channel.cancel(number))
            self._cache.handle(events.RequestFailed(request, reason))

    def _take_grant(self, _: m.StreamGrant) -> None:
        world = self._cache.world
        if world.internet.is_cut(self.route):
            world.schedule.after(CONNECT_TIMEOUT_S, self._lose_stream, "data stream cannot be opened")
        else:
            # There, back, and there again with the token.
            world.schedule.after(3 * self.route.delay_s(), self.peer._open_stream)

    def _deliver(self, sending: Sending, fault: str) -> None:
        """Take a chunk whose last byte is here."""
        number, length = sending.number, self._cache.world.manifest.chunk_length(sending.chunk)
        if self.ended:
            return
        self._moved = True
        self._channel.finish_request(Side.LOCAL, number)
        expected = self._expected.pop(number, None)
        if expected is None:
            self._withdrawn.discard(number)
            self._cache.waste(length)
        elif fault:
            self._cache.handle(events.RequestFailed(expected[0], fault, length, corrupt=True))
        else:
            self._cache.take_chunk(expected[0], sending.chunk)
        self._cache.pump()

    def _lose_stream(self, reason: str) -> None:
        if not self.ended:
            self._stream_asked = False
            self._fail_all(reason)
            self._cache.pump()

    # ---- what the remote wants

    def tell(self, fill: Fill, gained: Sequence[int], claimed: Sequence[int]) -> None:
        """Tell of newly verified chunks, as far as they concern the remote, and of those that cross a border."""
        if self._subscription < 0 or self.remote is None:
            return
        if claimed:
            for batch in m.batches(claimed):
                self._post(self._channel.send(m.Fetching(self._subscription, batch)))
        if gained and (gained := fill.news(self.remote.id, gained)):
            for batch in m.batches(gained):
                self._post(self._channel.send(m.Have(self._subscription, batch)))

    def report_slow(self, node_id: str) -> None:
        """Tell that this cache does without another one."""
        if self._subscription >= 0:
            self._post(self._channel.send(m.Slow(self._subscription, node_id)))

    def report_ways(self, closed: Sequence[Scope]) -> None:
        """Tell from where this cache cannot take chunks."""
        if self._subscription >= 0:
            self._post(self._channel.send(m.Ways(self._subscription, as_number(closed))))

    def claim(self, chunks: Sequence[int]) -> None:
        """Tell that chunks are being fetched, whether they are or not."""
        if self._subscription >= 0:
            for batch in m.batches(chunks):
                self._post(self._channel.send(m.Fetching(self._subscription, batch)))

    def show_interest(self, chunks: Bitmap) -> None:
        """Tell that news of `chunks` is enough; the remote answers with its holdings."""
        if self._want >= 0 and self._holding:
            self._post(self._channel.send(m.Interest(self._want, len(chunks), chunks.to_bytes())))

    def _take_interest(self, message: m.Interest) -> None:
        if self._subscription != message.handle or self.remote is None:
            return
        wanted = Bitmap.from_bytes(message.bitmap, message.chunk_count)
        self._cache.handle(events.InterestShown(self.remote.id, wanted))
        filling = self._cache.filling
        if filling is not None and not filling.over:
            self.tell(filling.fill, (), filling.fill.border_chunks())
        self.show()

    def show(self) -> None:
        """Send our holdings, where the remote has asked for them."""
        if self._subscription < 0:
            return
        held = self._cache.shown_holdings()
        if held is None:
            self._post(self._channel.send(m.Holdings(self._subscription, False)))
        else:
            self._post(self._channel.send(m.Holdings(self._subscription, True, len(held), held.to_bytes())))

    def _take_want(self, message: m.Want) -> None:
        self._subscription = message.handle
        self.show()
        filling = self._cache.filling
        if filling is not None and filling.fill.ways.closed:
            self.report_ways(tuple(filling.fill.ways.closed))

    def _take_unwant(self, message: m.Unwant) -> None:
        if self._subscription == message.handle:
            self._subscription = -1

    def _take_request(self, message: m.Request) -> None:
        held = self._cache.shown_holdings()
        if self._subscription < 0 or held is None or not held[message.chunk]:
            self._post(self._channel.reject(message.request_id, "missing"))
        elif not self._cache.holds(message.chunk):
            if self._cache.lie == "reject":
                self._post(self._channel.reject(message.request_id, "failed"))
        else:
            self._uploads[message.request_id] = message.chunk
            self._serve()

    def _take_cancel(self, message: m.Cancel) -> None:
        self._uploads.pop(message.request_id, None)

    def _take_stream_open(self, message: m.StreamOpen) -> None:
        self._post(self._channel.send(m.StreamGrant(message.stream_id, TOKEN)))

    def _open_stream(self) -> None:
        if not self.ended:
            self._stream_open = True
            self._serve()

    def _serve(self) -> None:
        """Send the next chunk, or wait for an upload slot, where there is something to send."""
        if self.sending is None and self._uploads and self._stream_open and not self._queued:
            if self._cache.take_slot(self):
                self._begin(self._cache.world.scenario.start_ms * 1e-3)
            else:
                self._queued = True

    def give_slot(self) -> bool:
        """Take the upload slot that this link has queued for; False where it has no more use for it."""
        self._queued = False
        if self.ended or self.sending is not None or not self._uploads or not self._stream_open:
            return False
        self._begin(0.0)
        return True

    def _begin(self, pause_s: float) -> None:
        number = next(iter(self._uploads))
        self.sending = Sending(number, self._uploads.pop(number))
        if pause_s:
            self._cache.world.schedule.after(pause_s, self._start_flow, self.sending)
        else:
            self._start_flow(self.sending)

    def _start_flow(self, sending: Sending) -> None:
        if self.sending is not sending:
            return
        world = self._cache.world
        length = world.manifest.chunk_length(sending.chunk)
        sending.flow = world.internet.flows.start(self.route.pipes, length, self._sent, sending)
        if world.internet.is_cut(self.route):
            self._hold_up(sending)

    def _sent(self, sending: Sending) -> None:
        """Go on with the next chunk: the last byte of this one has left."""
        world = self._cache.world
        length = world.manifest.chunk_length(sending.chunk)
        world.internet.count(self.route, length)
        self._cache.upload_bytes += length
        self._channel.finish_request(Side.REMOTE, sending.number)
        world.schedule.after(self.route.delay_s(), self.peer._deliver, sending, self._cache.fault_of_next())
        self.sending = None
        self._free_slot(sending)
        self._serve()

    def _free_slot(self, sending: Sending) -> None:
        if sending.has_slot:
            sending.has_slot = False
            self._cache.free_slot()

    def _drop_sending(self) -> None:
        """Break off what is being sent."""
        sending, self.sending = self.sending, None
        if sending is None:
            return
        if sending.flow is not None:
            moved_bytes = self._cache.world.internet.flows.stop(sending.flow)
            self._cache.world.internet.count(self.route, moved_bytes)
            self.peer._cache.waste(int(moved_bytes))
        self._free_slot(sending)

    # ---- cuts and ends

    def look_at_cut(self) -> None:
        """Take note that what is cut off has changed."""
        if self.ended:
            return
        world = self._cache.world
        if world.internet.is_cut(self.route):
            if self._cut_at is not None:
                return
            self._cut_at = world.schedule.now
            if self.sending is not None and self.sending.flow is not None and not self.sending.flow.is_paused:
                self._hold_up(self.sending)
            # Found out by whoever hears no answer to a Ping for so long.
            world.schedule.after(SILENCE_TIMEOUT_S, self._look_at_silence, world.schedule.now)
            return
        if self._cut_at is None:
            return
        self._cut_at = None
        if self.sending is not None and self.sending.flow is not None:
            world.internet.flows.resume(self.sending.flow)
        if self.peer.ended:
            # The machine there knows nothing of this connection any more, and says so.
            world.schedule.after(RETRANSMIT_S, self.end)
        elif self._held:
            world.schedule.after(RETRANSMIT_S, self._release)

    def _look_at_silence(self, since: float) -> None:
        if not self.ended and self._cut_at == since:
            self.end()

    def _release(self) -> None:
        if self.ended or self._cache.world.internet.is_cut(self.route):
            return
        held, self._held = self._held, []
        for outbox in held:
            if not self.ended:
                self._take(outbox)

    def _hold_up(self, sending: Sending) -> None:
        """Stop a transfer that nothing gets through for; its stream and its slot are given up in time."""
        world = self._cache.world
        if sending.flow is not None:
            world.internet.flows.pause(sending.flow)
        world.schedule.after(2 * SLOT_WATCH_S, self._give_up_slot, sending)
        world.schedule.after(PROGRESS_TIMEOUT_S, self._give_up_stream, sending)

    def _give_up_slot(self, sending: Sending) -> None:
        if self.sending is sending and sending.flow is not None and sending.flow.is_paused:
            self._free_slot(sending)

    def _give_up_stream(self, sending: Sending) -> None:
        if self.sending is sending and sending.flow is not None and sending.flow.is_paused:
            self._stream_open = False
            self._drop_sending()
            self.peer._lose_stream("data stream stood still")

    def break_off(self) -> None:
        """End the connection at both ends; the other learns of it after what a message takes, if one gets through."""
        if self.ended:
            return
        if not self._cache.world.internet.is_cut(self.route):
            self._cache.world.schedule.after(self.route.delay_s(), self.peer.end)
        self.end()

    def end(self) -> None:
        """Take note that the connection is gone."""
        if self.ended:
            return
        self.ended = True
        self._drop_sending()
        self.peer._drop_sending()
        self._uploads.clear()
        self._expected.clear()
        self._held.clear()
        self._cache.lose_link(self, told=self._want >= 0)
        self._want = -1


_HANDLERS: Final[dict[type, Callable[[SimLink, Any], None]]] = {
    m.Hello: SimLink._greet,
    m.Want: SimLink._take_want,
    m.Unwant: SimLink._take_unwant,
    m.Holdings: SimLink._take_holdings,
    m.Have: SimLink._take_have,
    m.Fetching: SimLink._take_fetching,
    m.Slow: SimLink._take_slow,
    m.Ways: SimLink._take_ways,
    m.Interest: SimLink._take_interest,
    m.Request: SimLink._take_request,
    m.Cancel: SimLink._take_cancel,
    m.Reject: SimLink._take_reject,
    m.StreamOpen: SimLink._take_stream_open,
    m.StreamGrant: SimLink._take_grant,
}
