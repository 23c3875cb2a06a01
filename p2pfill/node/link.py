"""One other cache: its control link, what it and we want of each other, and the data streams between us.

What we want of it: per title a Want with a handle; its Holdings and Haves become events of our fill. Requests go over
the control link, payload comes back over a data stream that we open, once, when we first request something.
What it wants of us: its Wants are subscriptions, its Requests queue until its data stream and an upload slot are free.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import trio

from p2pfill.errors import (
    LocalProtocolError,
    P2PFillError,
    ProtocolError,
    RemoteProtocolError,
    StoreError,
    TransferError,
)
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.pace import CONNECT_TIMEOUT_S
from p2pfill.node.boundary import ErrorBoundary, bounded
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import DataHeader, encode_preface
from p2pfill.protocol.messages import GoodbyeCode
from p2pfill.protocol.rules import Side
from p2pfill.swarm import events
from p2pfill.swarm.election import Scope
from p2pfill.transport.data import Delivery, Receiver, Sender, Spent, Upload
from p2pfill.transport.uploads import UploadQueue, Wanted

if TYPE_CHECKING:
    from p2pfill.node.filling import Filling
    from p2pfill.node.node import Node
    from p2pfill.transport.control import ControlChannel

STREAMS_FAST: Final = 2
"""Data streams from one fast source, where one thread that receives, hashes and writes is the limit."""

FAST_BYTES_S: Final = 250e6
"""A source is fast above this; below it one stream does, and every stream costs both sides memory."""

DATA_STREAMS_MAX: Final = 4
"""Data streams that a remote may hold open here; it needs one, and another while a broken one is noticed."""

WITHDRAWN_MAX: Final = 2048
"""Withdrawn requests whose payload may still come. More than a link can have outstanding."""


class Expected(NamedTuple):
    """A request of ours on its way."""

    filling: Filling
    request: int
    """Its number in the fill."""
    chunk: int


class Link:
    """Everything between this node and one other while their control link is open."""

    def __init__(
        self,
        node: Node,
        channel: ControlChannel,
        nursery: trio.Nursery,
        introduced: Callable[[], object] = lambda: None,
    ) -> None:
        """`introduced` is called once the remote has said who it is and was taken in."""
        self._node = node
        self.bounds = ErrorBoundary(node.log, "serve a link", self.fail)
        """Where what this link raises ends: it is closed then, and its fills ask others."""
        self.failure = ""
        """What went wrong with it, for people."""
        self._introduced = introduced
        self._channel = channel
        self._nursery = nursery
        self.remote: NodeInfo | None = None
        self._wanted: dict[int, Filling] = {}
        self._holding: set[int] = set()
        """Those of our handles for which the remote has told holdings."""
        self._expected: dict[int, Expected] = {}
        self._withdrawn: OrderedDict[int, Filling] = OrderedDict()
        self._receivers: list[Receiver] = []
        self._streams_asked = 0
        """Data streams that are open towards us or asked for."""
        self._moved_bytes = 0
        self._subscriptions: dict[int, TitleId] = {}
        self._uploads = UploadQueue(node.urgency)
        self._outgoing: dict[Sender, trio.CancelScope] = {}

    # ---- the control link

    async def handle(self, message: m.Message) -> None:
        """Take one message of the remote. Raises `RemoteProtocolError`."""
        match message:
            case m.Hello():
                self._greet(message)
            case m.Holdings(handle, known, chunk_count, bitmap):
                self._take_holdings(handle, known, chunk_count, bitmap)
            case m.Have(handle, chunks):
                if self.remote is not None and (filling := self._wanted.get(handle)):
                    filling.handle(events.ChunksGained(self.remote.id, chunks))
            case m.Fetching(handle, chunks):
                if self.remote is not None and (filling := self._wanted.get(handle)):
                    filling.handle(events.ChunksClaimed(self.remote.id, chunks))
            case m.Slow(handle, node_id):
                if self.remote is not None and (filling := self._wanted.get(handle)):
                    filling.handle(events.SlowReported(self.remote.id, node_id))
            case m.Interest(handle, chunk_count, bitmap):
                self._take_interest(handle, chunk_count, bitmap)
            case m.Reject(request_id, code):
                self._fail(request_id, f"refused: {code}")
            case m.StreamGrant(_, token):
                self._nursery.start_soon(self._receive_stream, token)
            case m.StreamRefuse(_, reason):
                self._streams_asked -= 1
                self._fail_all(f"no data stream: {reason}")
            case m.Want(handle, title_id):
                self._subscriptions[handle] = TitleId(title_id)
                self._send_holdings(handle, TitleId(title_id))
            case m.Unwant(handle):
                self._subscriptions.pop(handle, None)
            case m.Request(handle, request_id, chunk):
                self._enqueue(handle, request_id, chunk)
            case m.Cancel(request_id):
                self._uploads.withdraw(request_id)
            case m.StreamOpen(stream_id):
                self._grant_stream(stream_id)
            case _:
                pass

    def _grant_stream(self, stream_id: int) -> None:
        if len(self._outgoing) >= DATA_STREAMS_MAX:
            self._channel.send(m.StreamRefuse(stream_id, "too many data streams are open"))
            return
        try:
            token = self._node.tokens.issue(self, trio.current_time())
        except LocalProtocolError as error:
            self._channel.send(m.StreamRefuse(stream_id, str(error)[: m.REASON_CHARS_MAX]))
            return
        self._channel.send(m.StreamGrant(stream_id, token))

    def _greet(self, hello: m.Hello) -> None:
        self.remote = NodeInfo(
            id=NodeId(hello.node_id),
            isp=hello.isp,
            region=hello.region,
            cluster=hello.cluster,
            host=hello.host,
            port=hello.port,
            weight=hello.weight,
        )
        self.bounds.doing = f"serve the link with {self.remote.id}"
        self._node.peers.admit(self)
        self._introduced()

    def fail(self, error: P2PFillError) -> None:
        """End the link: it has raised what it should not."""
        self.failure = self.failure or str(error)
        # Cancelled whatever the farewell comes to; what is said so far is written all the same.
        self._nursery.cancel_scope.cancel()
        with ErrorBoundary(self._node.log, "say goodbye"):
            self._channel.close(GoodbyeCode.INTERNAL, "an internal fault")

    @bounded
    def close(self, code: m.GoodbyeCode, reason: str) -> None:
        """End the link in good order."""
        self._channel.close(code, reason)

    @property
    def spent(self) -> list[Spent]:
        """What each data stream that is open towards us has done with its time."""
        return [receiver.spent for receiver in self._receivers]

    @bounded
    def report_progress(self) -> None:
        """Tell the fills that payload is arriving, if some has since the last call."""
        moved_bytes = sum(receiver.moved_bytes for receiver in self._receivers)
        if self.remote is None or moved_bytes == self._moved_bytes:
            return
        self._moved_bytes = moved_bytes
        for filling in {expected.filling for expected in self._expected.values()}:
            filling.handle(events.SourceProgressed(self.remote.id))
        for receiver in self._receivers:
            # The source lives for all of them, but only these get on.
            if (begun := receiver.begun) is not None and (expected := self._expected.get(begun[0])) is not None:
                expected.filling.note_moved()

    def is_idle(self) -> bool:
        """Tell whether nothing is owed to the remote."""
        return not len(self._uploads) and not self.uploading

    @property
    def uploading(self) -> int:
        """Streams on which the remote is being sent a chunk right now."""
        return sum(sender.is_busy for sender in self._outgoing)

    @property
    def upload_titles(self) -> set[TitleId]:
        """The titles of which the remote is being sent something, or waits for something."""
        sending = {sender.title for sender in self._outgoing}
        return self._uploads.titles() | {title for title in sending if title is not None}

    @property
    def upload_queued(self) -> int:
        """Requests of the remote that wait to be sent."""
        return len(self._uploads)

    @bounded
    def stop_streams(self) -> None:
        """Stop serving: the link that authorised it is gone."""
        for scope in self._outgoing.values():
            scope.cancel()

    @bounded
    def end(self) -> None:
        """Tell the fills that this source is gone."""
        self._expected.clear()
        if self.remote is not None:
            for filling in set(self._wanted.values()):
                filling.handle(events.SourceLost(self.remote.id, self.failure))
        self._wanted.clear()

    # ---- what we want

    @bounded
    def want(self, filling: Filling) -> None:
        """Subscribe to the remote's holdings of the title that `filling` fills."""
        handle = self._channel.next_handle()
        if self._channel.send(m.Want(handle, filling.title_id)):
            self._wanted[handle] = filling

    @bounded
    def unwant(self, filling: Filling) -> None:
        """End the subscription that `want` began."""
        for handle in [handle for handle, wanted in self._wanted.items() if wanted is filling]:
            del self._wanted[handle]
            self._holding.discard(handle)
            self._channel.send(m.Unwant(handle))
        for number in [number for number, expected in self._expected.items() if expected.filling is filling]:
            self._withdraw(number)

    @bounded
    def request(self, filling: Filling, request: int, chunk: int) -> None:
        """Ask for a chunk on behalf of `filling`."""
        handle = next((h for h, wanted in self._wanted.items() if wanted is filling), None)
        number = self._channel.next_request_id()
        if handle is None or not self._channel.send(m.Request(handle, number, chunk)):
            filling.handle_soon(events.RequestFailed(request, self.failure or "link is ending"))
            return
        self._expected[number] = Expected(filling, request, chunk)
        if self._streams_asked < self._streams_wanted(filling):
            self._streams_asked += 1
            self._channel.send(m.StreamOpen(self._channel.next_stream_id()))

    def _streams_wanted(self, filling: Filling) -> int:
        if self.remote is None or len(self._expected) <= 2 * self._streams_asked:
            return 1
        return STREAMS_FAST if filling.rate_of(self.remote.id) > FAST_BYTES_S else 1

    @bounded
    def cancel(self, filling: Filling, request: int) -> None:
        """Withdraw a request of `filling`."""
        for number, expected in list(self._expected.items()):
            if expected.filling is filling and expected.request == request:
                self._withdraw(number)
                self._channel.cancel_request(number)

    def _withdraw(self, number: int) -> None:
        self._withdrawn[number] = self._expected.pop(number).filling
        while len(self._withdrawn) > WITHDRAWN_MAX:
            self._withdrawn.popitem(last=False)

    def _take_holdings(self, handle: int, known: bool, chunk_count: int, bitmap: bytes) -> None:
        filling = self._wanted.get(handle)
        if filling is None or self.remote is None:
            return
        filling.hear(self.remote.id)
        if not known:
            return
        if chunk_count != filling.manifest.chunk_count:
            raise RemoteProtocolError(f"holdings of {chunk_count} chunks, title has {filling.manifest.chunk_count}")
        try:
            holdings = Bitmap.from_bytes(bitmap, chunk_count)
        except ValueError as error:
            raise RemoteProtocolError(f"holdings: {error}") from error
        if handle not in self._holding:
            self._holding.add(handle)
            filling.handle(events.CacheConnected(self.remote))
        filling.handle(events.HoldingsArrived(self.remote.id, holdings))

    def _fail(self, number: int, reason: str) -> None:
        expected = self._expected.pop(number, None)
        if expected is not None:
            expected.filling.handle(events.RequestFailed(expected.request, reason))

    def _fail_all(self, reason: str) -> None:
        for number, expected in list(self._expected.items()):
            self._withdraw(number)
            self._channel.cancel_request(number)
            expected.filling.handle(events.RequestFailed(expected.request, reason))

    async def _receive_stream(self, token: bytes) -> None:
        """Be sent chunks on a data stream of our own, until it ends; whatever it raises fails what it owed."""
        name = self.remote.id if self.remote is not None else "a stranger"
        reasons: list[str] = []
        async with ErrorBoundary(self._node.log, f"receive from {name}", lambda error: reasons.append(str(error))):
            reasons.append(await self._receive(token))
        self._streams_asked -= 1
        self._fail_all(reasons[0])

    async def _receive(self, token: bytes) -> str:
        """Return why the stream has ended."""
        try:
            with trio.fail_after(CONNECT_TIMEOUT_S):
                sock = await self._node.connect(self._data_address())
                await sock.send(encode_preface(token))
        except (OSError, trio.TooSlowError) as error:
            return f"data stream cannot be opened: {error}"
        reason = "data stream ended"
        with sock:
            receiver = Receiver(sock, self._node.plane, self._expect, self._deliver)
            self._receivers.append(receiver)
            try:
                await receiver.run()
            except (TransferError, ProtocolError) as error:
                reason = str(error)
            except StoreError as error:
                # The title's alone: others come over the same stream.
                if (expected := self._expected.get(-1 if receiver.at is None else receiver.at)) is not None:
                    expected.filling.abort(error)
                else:
                    reason = str(error)
            finally:
                self._receivers.remove(receiver)
                self._node.spent_before = self._node.spent_before.plus(receiver.spent)
                if (begun := receiver.begun) is not None:
                    self._count_waste(*begun)
        return reason

    def _data_address(self) -> tuple[str, int]:
        if self.remote is None:
            raise OSError("the remote has not introduced itself")
        return self.remote.host, self.remote.port

    def _expect(self, header: DataHeader) -> Delivery | None:
        """Say what a header announces. Runs in a worker thread: it only looks."""
        expected = self._expected.get(header.request_id)
        if expected is None:
            if header.request_id not in self._withdrawn:
                raise RemoteProtocolError(f"chunk for request {header.request_id}, which was never made")
            return None
        stored, manifest, chunk = expected.filling.stored, expected.filling.manifest, expected.chunk
        check = stored.check_blake3 if manifest.integrity == "blake3" else None
        turn = expected.filling.turn(chunk)
        return Delivery(
            stored, turn, expected.request, chunk, manifest.chunk_length(chunk), manifest.chunk_xxh3(chunk), check
        )

    @bounded
    def _deliver(self, header: DataHeader, fault: str) -> None:
        number = header.request_id
        self._channel.finish_request(Side.LOCAL, number)
        expected = self._expected.pop(number, None)
        if expected is None:
            self._count_waste(number, header.length)
        elif fault:
            corrupt = fault != Receiver.WITHDRAWN
            failed = events.RequestFailed(expected.request, fault, header.length, corrupt)
            expected.filling.handle(failed)
        else:
            expected.filling.handle(events.ChunkReceived(expected.request))

    def _count_waste(self, number: int, length: int) -> None:
        expected = self._expected.get(number)
        filling = expected.filling if expected is not None else self._withdrawn.pop(number, None)
        if filling is not None:
            filling.count_waste(length)

    # ---- what the remote wants

    @bounded
    def tell(self, filling: Filling, gained: Sequence[int], claimed: Sequence[int]) -> None:
        """Tell of newly verified chunks, as far as they concern the remote, and of those that cross a border."""
        if self.remote is None or not (handles := self._handles(filling.title_id)):
            return
        gained = filling.news(self.remote.id, gained)
        for handle in handles:
            # In this order: what was claimed and has come since is no longer being fetched.
            for batch in m.batches(claimed):
                self._channel.send(m.Fetching(handle, batch))
            for batch in m.batches(gained):
                self._channel.send(m.Have(handle, batch))

    @bounded
    def report_slow(self, title_id: TitleId, node_id: str) -> None:
        """Tell that this cache does without another one for a title."""
        for handle in self._handles(title_id):
            self._channel.send(m.Slow(handle, node_id))

    @bounded
    def show_interest(self, filling: Filling, chunks: Bitmap) -> None:
        """Tell that news of `chunks` is enough. The remote answers with its holdings."""
        for handle in self._holding:
            if self._wanted[handle] is filling:
                self._channel.send(m.Interest(handle, len(chunks), chunks.to_bytes()))

    def _take_interest(self, handle: int, chunk_count: int, bitmap: bytes) -> None:
        title_id = self._subscriptions.get(handle)
        if title_id is None or self.remote is None:
            return
        filling = self._node.filling(title_id)
        if filling is not None:
            filling.handle(events.InterestShown(self.remote.id, Bitmap.from_bytes(bitmap, chunk_count)))
            if not filling.done.is_set():
                # Before the holdings: with them the remote has its answer, and asks.
                self.tell(filling, (), filling.border_chunks())
        self._send_holdings(handle, title_id)

    @bounded
    def show(self, title_id: TitleId) -> None:
        """Send our holdings of a title anew, since we now have it where we had not."""
        for handle in self._handles(title_id):
            self._send_holdings(handle, title_id)

    def _handles(self, title_id: TitleId) -> list[int]:
        return [handle for handle, wanted in self._subscriptions.items() if wanted == title_id]

    def _send_holdings(self, handle: int, title_id: TitleId) -> None:
        if self._node.is_opening(title_id):
            return
        held = self._node.holdings(title_id)
        if held is None:
            self._channel.send(m.Holdings(handle, False))
        else:
            self._channel.send(m.Holdings(handle, True, len(held), held.to_bytes()))

    def _enqueue(self, handle: int, request_id: int, chunk: int) -> None:
        if self._node.stopping:
            self._channel.reject_request(request_id, "stopping")
            return
        title_id = self._subscriptions.get(handle)
        held = self._node.holdings(title_id) if title_id is not None else None
        if title_id is None or held is None or not held[chunk]:
            self._channel.reject_request(request_id, "missing")
            return
        self._uploads.put(request_id, title_id, chunk)
        if not any(sender.wake() for sender in self._outgoing):
            self.hurry_uploads()

    @bounded
    def hurry_uploads(self) -> None:
        """Note that something that the remote waits for may have become more urgent than what it waited for before."""
        for sender in self._outgoing:
            sender.hurry()

    def _scope(self) -> Scope:
        me, remote = self._node.info, self.remote
        if remote is None or remote.region != me.region:
            return Scope.WORLD
        return Scope.ISP if remote.isp == me.isp else Scope.REGION

    async def send_stream(self, sock: trio.socket.SocketType) -> None:
        """Serve the remote's requests over `sock`, which it has opened, until the stream or the link ends."""
        sender = Sender(
            sock, self._node.plane, self._take_upload, self._uploads.wanted, self._sent, nearness=-self._scope()
        )
        with trio.CancelScope() as scope:
            self._outgoing[sender] = scope
            try:
                await ErrorBoundary(self._node.log, "send on a data stream", level=logging.INFO).run(sender.run)
            finally:
                del self._outgoing[sender]
        # What it was given and did not send goes to another stream, or fails with the requests of its receiver.
        for other in self._outgoing:
            other.wake()

    def _take_upload(self) -> Upload | None:
        """Return the next chunk to send. Runs in a worker thread."""
        while (asked := self._uploads.take()) is not None:
            stored = self._node.stored(asked.title)
            if stored is not None:
                self._node.cached.note_used(asked.title)
                header = DataHeader(asked.request_id, asked.chunk, stored.manifest.chunk_length(asked.chunk))
                return Upload(header, stored, Wanted(self._node.urgency(asked.title), asked.title))
        return None

    @bounded
    def _sent(self, header: DataHeader) -> None:
        self._channel.finish_request(Side.REMOTE, header.request_id)
        self._node.upload_bytes += header.length
