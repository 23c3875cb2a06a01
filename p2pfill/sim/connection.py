"""The connection of two caches, seen from one of them: what is on its way, what is cut off, and the data streams.

It is what sockets and their kernels are to a node. What arrives is told to the cache's engine, and what the engine
wants opened or sent is done here, with the delays and rates of the network. A chunk is claimed from the book of
requests when its header comes, and verified with its last byte, as on a node.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from p2pfill.engine.link import Link
from p2pfill.engine.requests import Arrival, Outcome, Receive, RequestStep
from p2pfill.engine.slots import Uploader
from p2pfill.errors import RemoteProtocolError, StoreError
from p2pfill.model.ids import TitleId
from p2pfill.model.timing import CONNECT_TIMEOUT_S, PROGRESS_TIMEOUT_S, SILENCE_TIMEOUT_S, SLOT_WATCH_S
from p2pfill.protocol.data import DataHeader
from p2pfill.protocol.messages import Cancel, Goodbye, GoodbyeCode, Ping, Pong
from p2pfill.sim.channel import PlainChannel, WireChannel, hello_of
from p2pfill.sim.disk import StoredTitle
from p2pfill.sim.flows import Flow
from p2pfill.sim.network import Route
from p2pfill.sim.process import Process

RETRANSMIT_S: Final = 0.4
"""What was on its way when a cut began arrives this long after its end at the earliest: TCP has backed off."""

LATE_S: Final = 0.5
"""So long at most after a Cancel a source still sends what it was to leave."""

NEVER_MADE: Final = 1 << 20
"""A request id that no receiver gets to."""


class Upload:
    """A chunk that is being sent, or what somebody sends in its place."""

    __slots__ = ("chunk", "flow", "foul", "length", "receive", "refusal", "request_id", "right", "title")

    def __init__(self, request_id: int, title: TitleId, chunk: int, length: int, *, right: bool = True) -> None:
        self.request_id = request_id
        self.title = title
        self.chunk = chunk
        self.length = length
        self.right = right
        """Whether what is sent of it is what it should be."""
        self.foul = ""
        """What its source does that it must not."""
        self.flow: Flow | None = None
        self.receive: Receive | None = None
        """What it answers, once the receiver has read its header."""
        self.refusal = ""
        """Why the receiver's disk has not taken its first bytes; the others are then not written either."""

    def again(self, *, right: bool) -> Upload:
        """Return another answer to the same request."""
        return Upload(self.request_id, self.title, self.chunk, self.length, right=right)


class DataStream(Uploader):
    """A data stream on which the cache of `end` sends; the other end has opened it."""

    __slots__ = ("closed", "end", "nearness", "place", "slot_title", "upload")

    def __init__(self, end: Connection) -> None:
        super().__init__(-end.link.scope)
        self.end = end
        self.upload: Upload | None = None

    def wake(self) -> None:
        """Look for something to send, if it is not at it already."""
        end = self.end
        if self.closed or self.upload is not None:
            return
        wanted = end.link.uploads.wanted()
        if wanted is None:
            return
        if self.place is not None:
            if end.host.slots.reprioritise(self, wanted):
                self.serve()
        elif self.has_slot or end.host.slots.take(self, wanted):
            self._send_next(end.host.world.scenario.start_ms * 1e-3)

    def serve(self) -> None:
        """Send the next chunk: it has been handed a slot."""
        self._send_next(0.0)

    def _send_next(self, pause_s: float) -> None:
        end = self.end
        while (asked := end.link.uploads.take()) is not None:
            if end.host.can_send(end.link, asked.request_id, asked.title, asked.chunk):
                length = end.host.world.titles[asked.title].manifest.chunk_length(asked.chunk)
                self.upload = Upload(asked.request_id, asked.title, asked.chunk, length)
                if end.host.answers:
                    end.make_foul(self.upload)
                if pause_s:
                    end.host.world.schedule.after(pause_s, self._begin, self.upload)
                else:
                    self._begin(self.upload)
                return
        self._release()

    def _release(self) -> None:
        serve(self.end.host.slots.release(self))

    def _begin(self, upload: Upload) -> None:
        if self.upload is not upload:
            return
        end = self.end
        upload.flow = end.host.world.internet.flows.start(end.route.pipes, upload.length, self._sent, upload)
        if end.is_held_up():
            self.hold_up()
        else:
            # A little early: nothing but its Cancel could come between, and an event for each header costs a fleet.
            end.peer.take_header(upload)

    def _sent(self, upload: Upload) -> None:
        """Go on with the next chunk: the last byte of this one has left."""
        end = self.end
        world = end.host.world
        world.internet.count(end.route, upload.length)
        end.host.sent(end.link, upload.request_id, upload.length)
        sent = end.with_foul(upload) if upload.foul else (upload,)
        world.schedule.after(end.route.delay_s(), end.peer.deliver, *sent)
        self.upload = None
        wanted = end.link.uploads.wanted()
        if wanted is None:
            self._release()
            return
        kept, served = end.host.slots.renew(self, wanted)
        serve(served)
        if kept and self.has_slot:
            self._send_next(0.0)
        elif kept:
            self.wake()

    def hold_up(self) -> None:
        """Stop a transfer that nothing gets through for; its stream and its slot are given up in time."""
        world = self.end.host.world
        if self.upload is not None and self.upload.flow is not None:
            world.internet.flows.pause(self.upload.flow)
            world.schedule.after(2 * SLOT_WATCH_S, self._give_up_slot, self.upload)
            world.schedule.after(PROGRESS_TIMEOUT_S, self._give_up, self.upload)

    def resume(self) -> None:
        """Go on: something gets through again."""
        if self.upload is not None and self.upload.flow is not None:
            self.end.host.world.internet.flows.resume(self.upload.flow)

    def _stands_still(self, upload: Upload) -> bool:
        return self.upload is upload and upload.flow is not None and upload.flow.is_paused

    def _give_up_slot(self, upload: Upload) -> None:
        if self._stands_still(upload):
            self._release()

    def _give_up(self, upload: Upload) -> None:
        if self._stands_still(upload):
            self.close()
            self.end.peer.lose_stream("data stream stood still")

    def close(self) -> None:
        """Break off what is being sent."""
        self.closed = True
        world = self.end.host.world
        upload, self.upload = self.upload, None
        if self in self.end.uploads:
            self.end.uploads.remove(self)
            self.end.link.upload_streams -= 1
        if upload is not None and upload.flow is not None:
            moved_bytes = world.internet.flows.stop(upload.flow)
            world.internet.count(self.end.route, moved_bytes)
            self.end.peer.host.waste(upload.title, int(moved_bytes))
        self._release()


class Connection:
    """One end, that of `host`. `peer` is the other."""

    __slots__ = (
        "_arrival_at", "_cut_at", "_held", "_moved_bytes", "_outbox", "_outbox_at", "channel", "ended", "host", "link",
        "peer", "route", "uploads",
    )  # fmt: skip

    def __init__(self, host: Process, route: Route, dialled: str = "") -> None:
        """`route` leads to the remote; `dialled` is its name where `host` has dialled it."""
        self.host = host
        self.route = route
        self.peer: Connection = self
        self.ended = False
        self.uploads: list[DataStream] = []
        """Data streams on which this end sends."""
        kind = WireChannel if host.world.scenario.wire else PlainChannel
        self.channel: WireChannel | PlainChannel = kind(
            hello_of(host.info, f"boot{host.boots}"), lambda: host.has_output(self)
        )
        self.link: Link = host.engine.open_link(self.channel, lambda _: None, dialled)
        self.link.streams = self
        self._moved_bytes = 0
        self._outbox: list[Any] | None = None
        self._outbox_at = -1.0
        self._arrival_at = 0.0
        self._held: list[list[Any]] = []
        self._cut_at: float | None = None

    # ---- messages

    def post(self) -> None:
        """Send what is queued; all of one moment travels together."""
        parcels, self.channel.outbox = self.channel.outbox, []
        if self.ended or not parcels:
            return
        schedule = self.host.world.schedule
        now = schedule.now
        if self._outbox is not None and self._outbox_at == now:
            self._outbox += parcels
        else:
            self._outbox, self._outbox_at = parcels, now
            at = now + self.route.delay_s() + self.host.world.jitter_s()
            # Never before what was sent earlier: it is one stream.
            if at > self._arrival_at:
                self._arrival_at = at
            schedule.at(self._arrival_at, self.peer.arrive, parcels)
        if self.channel.is_ending:
            schedule.at(self._arrival_at, self.peer.end)
            self.end()

    def arrive(self, outbox: list[Any]) -> None:
        """Take what the other end has sent."""
        if self.peer._outbox is outbox:
            self.peer._outbox = None
        if self.ended:
            return
        host = self.host
        internet = host.world.internet
        is_lost = not internet.is_whole and internet.is_lost(self.route.receiver, self.route.sender)
        if self._held or host.frozen or is_lost:
            self._held.append(outbox)
        else:
            self._take(outbox)

    def _take(self, outbox: list[Any]) -> None:
        host, link = self.host, self.link
        now, engine = host.local_time(), host.engine
        try:
            for message in self.channel.receive(outbox):
                if self.ended:
                    return
                if isinstance(message, Goodbye):
                    self.end()
                    break
                if isinstance(message, Ping):
                    self.channel.send(Pong(message.nonce))
                    continue
                if host.answers and isinstance(message, Cancel):
                    self._answer_late(message.request_id)
                engine.handle(now, link, message)
        except RemoteProtocolError as error:
            if self.peer.host.info.id not in host.world.checkers.guilty:
                raise  # what ships breaks its own rules
            host.engine.close_link(self.link, GoodbyeCode.PROTOCOL_ERROR, str(error))
        host.tick()

    # ---- what a source must not do: the kinds are described in `faults`

    def make_foul(self, upload: Upload) -> None:
        """Choose what is wrong with a chunk that is about to be sent."""
        chance = self.host.world.random
        fouls = [how for how, titles in self.host.answers.items() if upload.title in titles]
        upload.foul = chance.choice(fouls) if fouls else ""
        upload.right = upload.foul not in ("corrupt", "answer-mended", "answer-crosswise")
        if upload.foul == "answer-crosswise" and (other := self.link.uploads.take()) and chance.random() < 0.5:
            upload.chunk = other.chunk

    def with_foul(self, upload: Upload) -> tuple[Upload, ...]:
        """Return what comes at the receiver with the last byte of an upload, in order."""
        world, other = self.host.world, upload.again(right=upload.foul == "answer-mended")
        if upload.foul == "answer-interleaved":
            return other, upload, other
        if upload.foul == "answer-unasked":
            other.request_id += NEVER_MADE
        elif upload.foul not in ("answer-twice", "answer-mended"):
            return (upload,)
        if world.random.random() < 0.5:
            return upload, other
        # Or once the engine has looked.
        world.schedule.after(2 * self.route.delay_s() + world.jitter_s(), self.peer.deliver, other)
        return (upload,)

    def _answer_late(self, request_id: int) -> None:
        """Answer a request for all that it was withdrawn."""
        world = self.host.world
        asked = self.link.uploads.withdraw(request_id)
        if asked is not None and asked.title in self.host.answers.get("answer-late", ()):
            length = world.titles[asked.title].manifest.chunk_length(asked.chunk)
            late = Upload(request_id, asked.title, asked.chunk, length, right=world.random.random() < 0.5)
            world.schedule.after(world.random.uniform(0.0, LATE_S), self.peer.deliver, late)

    # ---- data streams towards us

    def open_stream(self) -> None:
        """Open a data stream on which the other end sends."""
        world = self.host.world
        if world.internet.is_cut(self.route):
            world.schedule.after(CONNECT_TIMEOUT_S, self.lose_stream, "data stream cannot be opened")
        else:
            # There, back, and there again with the token.
            world.schedule.after(3 * self.route.delay_s(), self.peer.add_upload)

    def add_upload(self) -> None:
        """Send on a data stream that the other end has opened."""
        if not self.ended:
            stream = DataStream(self)
            self.uploads.append(stream)
            self.link.upload_streams += 1
            stream.wake()

    def take_header(self, upload: Upload) -> None:
        """Claim what a header announces, and take the first bytes behind it."""
        if self.ended or self.host.frozen:
            return  # a frozen process reads it when it goes on, with the rest
        try:
            upload.receive = self._claim(upload)
        except RemoteProtocolError as error:
            self.host.world.schedule.after(self.route.delay_s(), self._breach, str(error))

    def _claim(self, upload: Upload) -> Receive:
        receive = self.link.book.claim(DataHeader(upload.request_id, upload.chunk, upload.length))
        if receive.is_wanted:
            try:
                self._stored(receive).write_head(receive, right=upload.right)
            except StoreError as error:
                upload.refusal = str(error)
        return receive

    def _stored(self, receive: Receive) -> StoredTitle:
        assert isinstance(receive.title, StoredTitle)  # noqa: S101 (there are no others in here)
        return receive.title

    def deliver(self, *uploads: Upload) -> None:
        """Take what has come on data streams before the engine looks.

        With the first mention of an upload its header has come, with its last one its last byte.
        """
        host = self.host
        if self.ended or host.later(self.deliver, *uploads):
            return
        try:
            for place, upload in enumerate(uploads, 1):
                if upload.receive is None:
                    upload.receive = self._claim(upload)
                if place == len(uploads) or upload not in uploads[place:]:
                    self._moved_bytes += upload.length
                    self._take_last(upload, upload.receive)
        except RemoteProtocolError as error:
            self._breach(str(error))
        else:
            host.engine.reap(host.local_time(), self.link)
            host.tick()

    def _take_last(self, upload: Upload, receive: Receive) -> None:
        stored = self._stored(receive)
        outcome, why = Outcome.STORE if upload.refusal else Outcome.WITHDRAWN, upload.refusal
        if receive.is_wanted and not why:
            try:
                stored.write_tail(receive, right=upload.right)
                outcome, why = receive.verify(lambda: _fault_of(upload, receive))
            except StoreError as error:
                outcome, why = Outcome.STORE, str(error)
        receive.step(RequestStep.FAIL)  # if it has not ended otherwise
        self.link.book.arrive(Arrival(receive, outcome, upload.length, why))

    def _breach(self, why: str) -> None:
        if not self.ended:
            self.host.engine.stream_ended(self.host.local_time(), self.link, why, breach=True)
            self.host.tick()

    def lose_stream(self, reason: str) -> None:
        """Take note that a data stream towards us is no more."""
        if not self.ended:
            self.host.engine.stream_ended(self.host.local_time(), self.link, reason)
            self.host.tick()

    def come_bytes(self) -> int:
        """Return how many payload bytes have come, with one more for each chunk that is coming."""
        return self._moved_bytes + sum(int(self.host.world.schedule.now * 1e3) for _ in self.receiving()[:1])

    def take_held_back(self) -> bool:
        """Tell whether what is coming waits for limits of this cache."""
        return self.host.place.is_held_back(self.route.scope) and bool(self.receiving())

    def receiving(self) -> list[int]:
        """Return the request ids of the chunks that are coming."""
        coming = [stream.upload for stream in self.peer.uploads if stream.upload is not None]
        return [one.request_id for one in coming if one.flow is not None and not one.flow.is_paused]

    # ---- cuts and ends

    def is_held_up(self) -> bool:
        """Tell whether nothing gets through now, in either direction, or the process is frozen."""
        return self.host.frozen or self.peer.host.frozen or self.host.world.internet.is_cut(self.route)

    def look_at_cut(self, *, thawed: bool = False) -> None:
        """Take note that what is cut off has changed, or whether a process is frozen; `thawed`: ours is no more."""
        if self.ended:
            return
        world = self.host.world
        if self.is_held_up():
            if self._cut_at is None:
                for stream in self.uploads:
                    stream.hold_up()
            if self._cut_at is None or thawed:
                self._cut_at = world.schedule.now
                # Found out by whoever hears no answer to a Ping for so long.
                world.schedule.after(SILENCE_TIMEOUT_S, self._look_at_silence, world.schedule.now)
            return
        if self._cut_at is None:
            return
        self._cut_at = None
        for stream in self.uploads:
            stream.resume()
        if self.peer.ended:
            # The machine there knows nothing of this connection any more, and says so.
            world.schedule.after(RETRANSMIT_S, self.end)
        elif self._held:
            # What came while we were frozen is in our kernel.
            world.schedule.after(0.0 if thawed else RETRANSMIT_S, self._release)

    def _look_at_silence(self, since: float) -> None:
        # A process that is frozen hears nothing, and judges nobody.
        if not self.ended and self._cut_at == since and not self.host.frozen:
            self.end()

    def _release(self) -> None:
        if self.ended or self.is_held_up():
            return
        held, self._held = self._held, []
        for outbox in held:
            if not self.ended:
                self._take(outbox)

    def break_off(self) -> None:
        """End the connection at both ends; the other learns of it after what a message takes, if one gets through."""
        if self.ended:
            return
        if not self.host.world.internet.is_cut(self.route):
            self.host.world.schedule.after(self.route.delay_s(), self.peer.end)
        self.end()

    def end(self) -> None:
        """Take note that the connection is gone."""
        if self.ended:
            return
        self.ended = True
        for stream in [*self.uploads, *self.peer.uploads]:
            stream.close()
        self._held.clear()
        self.host.lose(self)


def serve(uploaders: Iterable[Uploader]) -> None:
    """Have those send who were handed an upload slot."""
    for uploader in uploaders:
        if isinstance(uploader, DataStream):
            uploader.serve()


def _fault_of(upload: Upload, receive: Receive) -> str:
    """Return what digests find: that of the stream, and that of what is on the disk where the title asks for it."""
    if not upload.right:
        return "wrong XXH3 digest"
    return "" if receive.check is None or receive.check(receive.chunk, None) else "wrong BLAKE3 digest"
