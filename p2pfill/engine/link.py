"""One other cache: what it and we want of each other, over a control link and the data streams beside it. Pure.

What we want of it: for each title a Subscribe with a handle; its Holdings and Haves become events of our fill. Requests
go over the control link, payload comes back over a data stream that we open, once, when we first request something.
What it wants of us: its Subscribes are subscriptions, its Requests wait in a queue for its data stream and an upload
slot.

The link reaches the rest of the cache through `LinkHost` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from p2pfill.engine.requests import Arrival, Lock, Outcome, Receive, RequestBook
from p2pfill.engine.task import FillTask
from p2pfill.engine.uploads import UploadQueue
from p2pfill.errors import InternalError, LocalProtocolError, RemoteProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.identity import Identity
from p2pfill.model.ids import NodeId, TitleId
from p2pfill.model.node import NodeInfo
from p2pfill.model.urgency import Urgency
from p2pfill.protocol import messages as m
from p2pfill.protocol.rules import REQUESTS_MAX, SUBSCRIPTIONS_MAX, Side
from p2pfill.swarm import events
from p2pfill.swarm.election import Scope, scope_between
from p2pfill.swarm.ways import as_number, from_number

BUSY: Final = "busy"
"""The code of a Reject by a cache that serves its viewers."""

OTHER_ISP: Final = "this cache serves its own ISP alone"
"""Why others get no data stream of it."""

STREAMS_FAST: Final = 2
"""Data streams from one fast source, where one thread that receives, hashes and writes is the limit."""

FAST_BYTES_S: Final = 250e6
"""A source is fast above this; below it one stream does, and every stream costs both sides memory."""

HANDLES_TOLD_MAX: Final = 4
"""Subscriptions of one title by one remote under which it is told what is news, the last ones: it needs one, and
another while it asks anew. With a thousand of them each chunk would cost as many messages."""

DATA_STREAMS_MAX: Final = 4
"""Data streams that a remote may hold open here, or hold tokens for; it needs one, and another while a broken one is
noticed."""


_BROKEN, _LOCAL, _REMOTE = Outcome.BROKEN, Side.LOCAL, Side.REMOTE
"""A name of a module is found ten times as fast as one of an enumeration, and these are asked with each chunk."""


class Channel(Protocol):
    """Our end of a control link. Sending never waits; what cannot be sent any more is dropped."""

    def send(self, message: m.Message) -> bool:
        """Queue a message; False where the link is ending, or what the message is about is over."""

    def next_handle(self) -> int:
        """Return a handle for our next Subscribe."""

    def next_request_id(self) -> int:
        """Return an id for our next Request."""

    def next_stream_id(self) -> int:
        """Return an id for our next StreamOpen."""

    def cancel_request(self, request_id: int) -> None:
        """Withdraw a request of ours, unless it is over."""

    def reject_request(self, request_id: int, code: str) -> None:
        """Refuse a request of theirs, unless it is over."""

    def finish_request(self, side: Side, request_id: int) -> None:
        """Note that the payload of a request of `side` has gone over."""

    def close(self, code: m.GoodbyeCode, reason: str) -> None:
        """Say Goodbye and end the link."""


class DataStreams(Protocol):
    """The data streams of one link that are open towards us, as the driver that moves bytes sees them."""

    def come_bytes(self) -> int:
        """Return how many payload bytes have come so far, those of chunks that are still coming among them.

        Those of a stream that ends before they are read count no more.
        """

    def take_held_back(self) -> bool:
        """Tell whether what comes has waited for this cache's own limits since the last call."""

    def receiving(self) -> list[int]:
        """Return the request ids of the chunks that are coming."""


class Encryption(Protocol):
    """What this cache does about encrypting data streams of a link both sides of which have shown certificates."""

    @property
    def required(self) -> bool:
        """Whether all must be encrypted; else those are of which the remote says so."""

    @property
    def fingerprint(self) -> bytes:
        """Of the certificate that this cache shows now."""


class Owner(NamedTuple):
    """For whom a chunk was asked."""

    task: FillTask
    request: int
    """Its number in the fill."""


class LinkHost(Protocol):
    """What a link needs of its cache."""

    me: NodeInfo
    now: float
    is_stopping: bool

    def is_busy(self, link: Link) -> bool:
        """Tell whether a request is refused, since the cache serves its viewers."""

    def handle_event(self, task: FillTask, event: events.Event) -> None:
        """Hand an event to a fill."""

    def arrived(self, owner: Owner, arrival: Arrival, source: str, scope: Scope) -> None:
        """Take in what became of a receive from a source in `scope`."""

    def holdings_received(self, task: FillTask, node_id: str) -> None:
        """Note that a cache has said what it holds."""

    def task(self, title_id: TitleId) -> FillTask | None:
        """Return a title's fill, if one runs."""

    def shown(self, title_id: TitleId) -> Bitmap | None:
        """Return which chunks of a title can be served; None where the title is unknown here."""

    def news(self, task: FillTask, node_id: str, gained: Sequence[int]) -> Sequence[int]:
        """Return those of newly verified chunks that concern a cache."""

    def border_chunks(self, task: FillTask) -> Sequence[int]:
        """Return the chunks that this cache fetches across a border."""

    def is_opening(self, title_id: TitleId) -> bool:
        """Tell whether a title is about to be served: a remote that asks for it is answered then."""

    def urgency(self, title_id: TitleId) -> Urgency:
        """Return how urgent a title is here. Callable from any thread."""

    def tokens_of(self, link: Link) -> int:
        """Return how many tokens a link's remote holds and has not shown."""

    def issue_token(self, link: Link, certificate: bytes) -> bytes:
        """Return a token for a data stream of a link's remote, encrypted where it is to show a `certificate`.

        Raises `LocalProtocolError` where there are too many.
        """

    def note_moved(self, task: FillTask) -> None:
        """Note that payload of a title is arriving."""

    def admit(self, link: Link) -> None:
        """Take in a link whose Hello has come. Raises `RemoteProtocolError` where it must not be."""

    def ponged(self, link: Link) -> None:
        """Take note that a link's remote has answered a Ping of ours."""

    def wake_uploads(self, link: Link) -> None:
        """Have a look at what waits to be sent to a link's remote, at the end of the tick."""

    def emit(self, effect: OpenStream) -> None:
        """Have something done."""


class OpenStream(msgspec.Struct, frozen=True):
    """Open a data stream to a link's remote and show the token; then receive what `link.book` lets come.

    Say when it has ended, or could not be opened (`Engine.stream_ended`).
    """

    link: Link
    token: bytes
    certificate: bytes = b""
    """The stream must be encrypted, and the remote show the certificate with this fingerprint; empty: it is plain."""


class WakeUploads(msgspec.Struct, frozen=True):
    """What is to be sent to a link's remote has changed (`link.uploads`), or has become more urgent."""

    link: Link


class Link:
    """Everything between this cache and one other while their control link is open."""

    __slots__ = (
        "_announced", "_come_bytes", "_handles", "_holding", "_host", "_streams_asked", "_subscriptions", "_told",
        "_wanted", "book", "channel", "dialled", "encryption", "fault", "identity", "is_over", "remote", "scope",
        "streams", "upload_streams", "uploads",
    )  # fmt: skip

    def __init__(
        self, host: LinkHost, channel: Channel, book: RequestBook, lock: Lock, dialled: str = "",
        identity: Identity | None = None, encryption: Encryption | None = None,
    ) -> None:
        """`dialled` is the cache that we have dialled, empty where the remote has; `lock` is the upload queue's.

        `identity` is whose certificate the remote has shown: its Hello must say the same. Data streams can be encrypted
        then, see `encryption`.
        """
        self._host = host
        self.channel = channel
        self.book = book
        self.dialled = dialled
        self.identity = identity
        self.encryption = encryption
        self.remote: NodeInfo | None = None
        self.scope = Scope.WORLD
        """The smallest group that holds both this cache and the remote, once that is known."""
        self.is_over = False
        self.fault = ""
        """What has ended it, for people; empty while it is in order, and where its end was."""
        self.streams: DataStreams | None = None
        """Of the driver that moves bytes."""
        self.uploads = UploadQueue(host.urgency, lock)
        self.upload_streams = 0
        """Data streams that the remote has open here."""
        self._wanted: dict[int, FillTask] = {}
        self._handles: dict[TitleId, int] = {}
        """Ours, by title."""
        self._holding: set[int] = set()
        """Those of our handles for which the remote has told holdings."""
        self._streams_asked = 0
        """Data streams that are open towards us or asked for."""
        self._come_bytes = 0
        self._subscriptions: dict[int, TitleId] = {}
        self._told: dict[TitleId, list[int]] = {}
        """What `_subscribed` has found since they changed: it is looked at with each chunk."""
        self._announced: set[int] = set()
        """Those of the remote's handles under which it was told holdings: only then news of chunks means something."""

    # ---- the control link

    def handle(self, message: m.Message) -> None:
        """Take one message of the remote. Raises `RemoteProtocolError`."""
        take = _TAKES.get(type(message))
        if take is not None:
            take(self, message)

    def close(self, code: m.GoodbyeCode, reason: str) -> None:
        """End the link in good order."""
        self.channel.close(code, reason)

    def end(self) -> None:
        """Tell the fills that this source is gone."""
        self.is_over = True
        self._take_arrivals()
        for receive in self.book.outstanding():
            self.book.abandon(receive.request_id)
        tasks = list(self._wanted.values())
        self._wanted.clear()
        self._handles.clear()
        if self.remote is not None:
            for task in tasks:
                self._host.handle_event(task, events.SourceLost(self.remote.id, self.fault))

    def distrust(self, reason: str) -> None:
        """End the link of a remote that breaks the rules of a data stream, and quarantine it as a source."""
        if self.remote is not None:
            for task in list(self._wanted.values()):
                self._host.handle_event(task, events.SourceMisbehaved(self.remote.id, reason))
        self.close(m.GoodbyeCode.PROTOCOL_ERROR, m.plain_reason(reason))

    def _take_hello(self, hello: m.Hello) -> None:
        remote = NodeInfo(
            id=NodeId(hello.node_id),
            isp=hello.isp,
            region=hello.region,
            cluster=hello.cluster,
            host=hello.host,
            port=hello.port,
            weight=hello.weight,
            serves="" if self.identity is None else self.identity.serves,
        )
        if self.identity is not None and (wrong := self.identity.disagrees_with(remote)):
            raise RemoteProtocolError(f"a Hello is not of whom the certificate names: {wrong}")
        self.remote, self.scope = remote, scope_between(self._host.me, remote)
        self._host.admit(self)

    def _take_pong(self, _: m.Pong) -> None:
        self._host.ponged(self)

    @property
    def serves_remote(self) -> bool:
        """Tell whether this cache gives the remote anything: one may serve its own ISP alone."""
        return self.remote is not None and self._host.me.may_serve(self.remote.isp)

    @property
    def is_served(self) -> bool:
        """Tell whether the remote may give this cache anything, as far as its certificate says."""
        return self.remote is None or self.remote.may_serve(self._host.me.isp)

    # ---- what we want

    def subscribe(self, task: FillTask) -> None:
        """Subscribe to the remote's holdings of the title that `task` fills."""
        if len(self._wanted) >= SUBSCRIPTIONS_MAX:
            return  # others of the roster are asked; there is room again when one of them is over
        handle = self.channel.next_handle()
        if self.channel.send(m.Subscribe(handle, task.title_id)):
            self._wanted[handle] = task
            self._handles[task.title_id] = handle

    def unsubscribe(self, task: FillTask) -> None:
        """End the subscription that `subscribe` began."""
        handle = self._handles.pop(task.title_id, None)
        if handle is not None:
            del self._wanted[handle]
            self._holding.discard(handle)
            self.channel.send(m.Unsubscribe(handle))
        self._abandon(task)

    def _abandon(self, task: FillTask) -> None:
        for receive in self.book.outstanding():
            if owner_of(receive).task is task and self.book.abandon(receive.request_id):
                self.channel.cancel_request(receive.request_id)

    @property
    def is_full(self) -> bool:
        """Whether as many chunks are asked for as may be; so it is with hundreds of titles at once."""
        return len(self.book) >= REQUESTS_MAX

    def request(self, task: FillTask, request: int, chunk: int) -> bool:
        """Ask for a chunk on behalf of `task`; False where the link is ending. Not while it `is_full`."""
        handle = self._handles.get(task.title_id)
        if handle is None:
            return False
        number = self.channel.next_request_id()
        stored, manifest = task.stored, task.manifest
        check = stored.check_blake3 if manifest.integrity == "blake3" else None
        length, xxh3, owner = manifest.cut.length(chunk), manifest.chunk_xxh3(chunk), Owner(task, request)
        # Before the request goes out: its answer may be faster than we are.
        self.book.post(Receive(number, stored, chunk, length, xxh3, check, owner, self.book.lock))
        if not self.channel.send(m.Request(handle, number, chunk)):
            self.book.retract(number)
            return False
        if self._streams_asked < self._streams_wanted(task):
            self._streams_asked += 1
            self._open_stream()
        return True

    def _open_stream(self) -> None:
        number, encryption = self.channel.next_stream_id(), self.encryption
        if encryption is None:
            self.channel.send(m.StreamOpen(number))
        else:
            self.channel.send(m.StreamOpen(number, encryption.required, encryption.fingerprint))

    def _streams_wanted(self, task: FillTask) -> int:
        if self.remote is None or len(self.book) <= 2 * self._streams_asked:
            return 1
        source = task.fill.sources.get(self.remote.id)
        return STREAMS_FAST if source is not None and source.rate_bytes_s > FAST_BYTES_S else 1

    def cancel(self, task: FillTask, request: int) -> None:
        """Withdraw a request of `task`."""
        owner = Owner(task, request)
        for receive in self.book.outstanding():
            if receive.owner == owner and self.book.abandon(receive.request_id):
                self.channel.cancel_request(receive.request_id)

    def show_interest(self, task: FillTask, chunks: Bitmap) -> None:
        """Tell that news of `chunks` is enough. The remote answers with its holdings."""
        handle = self._handles.get(task.title_id)
        if handle in self._holding:
            self.channel.send(m.Interest(handle, len(chunks), chunks.to_bytes()))

    def report_progress(self) -> None:
        """Tell the fills that payload is arriving, or would but for our limits, if so since the last call."""
        if self.remote is None or self.streams is None:
            return
        before, self._come_bytes = self._come_bytes, self.streams.come_bytes()
        is_held_back = self.streams.take_held_back()
        if self._come_bytes == before and not is_held_back:
            return
        # In the order of the requests, and each once.
        for task in dict.fromkeys(owner_of(receive).task for receive in self.book.outstanding()):
            kind = events.SourceHeldBack if is_held_back else events.SourceProgressed
            self._host.handle_event(task, kind(self.remote.id))
        for number in self.streams.receiving():
            # The source lives for all of them, but only these get on.
            if (receive := self.book.get(number)) is not None:
                self._host.note_moved(owner_of(receive).task)

    def _task_of(self, handle: int) -> FillTask | None:
        """Return the fill that news under a handle concerns, if it still runs and the remote is known."""
        return self._wanted.get(handle) if self.remote is not None else None

    def _take_holdings(self, message: m.Holdings) -> None:
        task = self._task_of(message.handle)
        if task is None or self.remote is None:
            return
        if message.known and message.chunk_count != task.manifest.chunk_count:
            raise RemoteProtocolError(
                f"holdings of {message.chunk_count} chunks, title has {task.manifest.chunk_count}"
            )
        self._host.holdings_received(task, self.remote.id)
        if not (message.known and self.is_served):
            if message.handle in self._holding:
                # It had the title, and has it no more.
                self._holding.discard(message.handle)
                self._host.handle_event(task, events.SourceLost(self.remote.id))
                self._abandon(task)
            return
        try:
            holdings = Bitmap.from_bytes(message.bitmap, message.chunk_count)
        except ValueError as error:
            raise RemoteProtocolError(f"holdings: {error}") from error
        if message.handle not in self._holding:
            self._holding.add(message.handle)
            self._host.handle_event(task, events.CacheConnected(self.remote))
        self._host.handle_event(task, events.HoldingsArrived(self.remote.id, holdings))

    def _take_have(self, message: m.Have) -> None:
        if (task := self._wanted.get(message.handle)) is not None and self.remote is not None:
            self._host.handle_event(task, events.ChunksGained(self.remote.id, message.chunks))

    def _take_fetching(self, message: m.Fetching) -> None:
        if (task := self._task_of(message.handle)) is not None and self.remote is not None:
            self._host.handle_event(task, events.ChunksClaimed(self.remote.id, message.chunks))

    def _take_slow(self, message: m.ReportSlow) -> None:
        if (task := self._task_of(message.handle)) is not None and self.remote is not None:
            self._host.handle_event(task, events.SlowReported(self.remote.id, message.node_id))

    def _take_ways(self, message: m.Ways) -> None:
        if (task := self._task_of(message.handle)) is not None and self.remote is not None:
            self._host.handle_event(task, events.WaysReported(self.remote.id, from_number(message.closed)))

    def _take_reject(self, message: m.Reject) -> None:
        receive = self.book.retract(message.request_id)
        if receive is not None:
            owner = owner_of(receive)
            if message.code == BUSY:
                self._host.handle_event(owner.task, events.SourceBusy(owner.request))
            else:
                self._host.handle_event(owner.task, events.RequestFailed(owner.request, f"refused: {message.code}"))

    # ---- data streams towards us

    def _take_grant(self, message: m.StreamGrant) -> None:
        if message.certificate and self.encryption is None:
            raise RemoteProtocolError("a data stream is to be encrypted, and no certificates were shown on its link")
        self._host.emit(OpenStream(self, message.token, message.certificate))

    def _take_refuse(self, message: m.StreamRefuse) -> None:
        self.stream_ended(f"no data stream: {message.reason}")

    def stream_ended(self, reason: str) -> None:
        """Take note that a data stream that was asked for has ended, or was not to be had."""
        self._streams_asked -= 1
        self.reap()
        for receive in self.book.outstanding():
            if self.book.abandon(receive.request_id):
                self.channel.cancel_request(receive.request_id)
                owner = owner_of(receive)
                self._host.handle_event(owner.task, events.RequestFailed(owner.request, self.fault or reason))

    def reap(self) -> None:
        """Take in what has become of chunks that were asked for."""
        for arrival in self._take_arrivals():
            if arrival.outcome is _BROKEN:
                # The remote has not sent it whole, and would count it as outstanding for good.
                self.channel.cancel_request(arrival.receive.request_id)
            else:
                self.channel.finish_request(_LOCAL, arrival.receive.request_id)

    def _take_arrivals(self) -> list[Arrival]:
        # Whatever becomes of the link: a sealed chunk that its fill never hears of cannot come again.
        arrivals = self.book.reap()
        source = self.remote.id if self.remote is not None else ""
        for arrival in arrivals:
            # A stream that was cut off with the link knows no cause.
            known = arrival._replace(fault=self.fault) if self.fault and arrival.outcome is _BROKEN else arrival
            self._host.arrived(owner_of(arrival.receive), known, source, self.scope)
        return arrivals

    # ---- what the remote wants

    def is_idle(self) -> bool:
        """Tell whether nothing waits to be sent to the remote."""
        return not len(self.uploads)

    def tell(self, task: FillTask, gained: Sequence[int], claimed: Sequence[int]) -> None:
        """Tell of newly verified chunks, as far as they concern the remote, and of those that cross a border."""
        handles = self._told.get(task.title_id)
        if handles is None:
            handles = self._subscribed(task.title_id)
        if self.remote is None or not handles:
            return
        gained = self._host.news(task, self.remote.id, gained) if gained else ()
        if not (gained or claimed):
            return
        for handle in handles:
            if handle not in self._announced:
                continue
            # In this order: what was claimed and has come since is no longer being fetched.
            for batch in m.batches(claimed) if claimed else ():
                self.channel.send(m.Fetching(handle, batch))
            if len(gained) <= m.CHUNKS_PER_MESSAGE_MAX:
                if gained:
                    self.channel.send(m.Have(handle, tuple(gained)))
                continue
            for batch in m.batches(gained):
                self.channel.send(m.Have(handle, batch))

    def report_slow(self, title_id: TitleId, node_id: str) -> None:
        """Tell that this cache leaves another one out for a title."""
        if not self.serves_remote:
            return
        for handle in self._subscribed(title_id):
            self.channel.send(m.ReportSlow(handle, node_id))

    def report_ways(self, title_id: TitleId, closed: Collection[Scope]) -> None:
        """Tell from where this cache cannot take chunks of a title."""
        if not self.serves_remote:
            return
        for handle in self._subscribed(title_id):
            self.channel.send(m.Ways(handle, as_number(closed)))

    def show(self, title_id: TitleId) -> None:
        """Send our holdings of a title anew, since we now have it where we had not."""
        for handle in self._subscribed(title_id):
            self._send_holdings(handle, title_id)

    def lose(self, title_id: TitleId, chunks: Collection[int]) -> None:
        """Tell that chunks are bad that were held, and refuse what was asked for of them."""
        if self._subscribed(title_id):
            for request_id in self.uploads.withdraw_chunks(title_id, chunks):
                self.channel.reject_request(request_id, "missing")
            self.show(title_id)

    def refuse_all(self) -> None:
        """Refuse all that waits, since the cache serves its viewers."""
        while (request := self.uploads.take()) is not None:
            self.channel.reject_request(request.request_id, BUSY)

    def show_all(self) -> None:
        """Send our holdings of all that the remote has asked about."""
        for handle, title_id in self._subscriptions.items():
            self._send_holdings(handle, title_id)

    def _subscribed(self, title_id: TitleId) -> list[int]:
        """Return the handles under which the remote is told of a title."""
        told = self._told.get(title_id)
        if told is None:
            handles = [handle for handle, wanted in self._subscriptions.items() if wanted == title_id]
            told = self._told[title_id] = handles[-HANDLES_TOLD_MAX:]
        return told

    def _send_holdings(self, handle: int, title_id: TitleId) -> None:
        if self._host.is_opening(title_id):
            return
        held = self._host.shown(title_id) if self.serves_remote else None
        if held is None:
            self.channel.send(m.Holdings(handle, False))
        else:
            self.channel.send(m.Holdings(handle, True, len(held), held.to_bytes()))
            self._announced.add(handle)

    def _take_subscribe(self, message: m.Subscribe) -> None:
        title_id = TitleId(message.title_id)
        self._subscriptions[message.handle] = title_id
        self._told.clear()
        self._send_holdings(message.handle, title_id)
        task = self._host.task(title_id)
        if task is not None and task.fill.ways.closed and self.serves_remote:
            self.channel.send(m.Ways(message.handle, as_number(task.fill.ways.closed)))

    def _take_unsubscribe(self, message: m.Unsubscribe) -> None:
        if self._subscriptions.pop(message.handle, None) is not None:
            self._told.clear()
            self._announced.discard(message.handle)
            self.uploads.withdraw_handle(message.handle)

    def _take_interest(self, message: m.Interest) -> None:
        title_id = self._subscriptions.get(message.handle)
        if title_id is None or self.remote is None:
            return
        task = self._host.task(title_id)
        if task is not None and message.chunk_count == task.manifest.chunk_count:
            wanted = Bitmap.from_bytes(message.bitmap, message.chunk_count)
            self._host.handle_event(task, events.InterestShown(self.remote.id, wanted))
            # Before the holdings: with them the remote has its answer, and asks.
            self.tell(task, (), self._host.border_chunks(task))
        self._send_holdings(message.handle, title_id)

    def _take_request(self, message: m.Request) -> None:
        if self._host.is_stopping:
            self.channel.reject_request(message.request_id, "stopping")
            return
        title_id = self._subscriptions.get(message.handle)
        held = self._host.shown(title_id) if title_id is not None and self.serves_remote else None
        if title_id is None or held is None or not held[message.chunk]:
            self.channel.reject_request(message.request_id, "missing")
            return
        if self._host.is_busy(self):
            self.channel.reject_request(message.request_id, BUSY)
            return
        self.uploads.put(message.request_id, title_id, message.chunk, message.handle)
        self._host.wake_uploads(self)

    def _take_cancel(self, message: m.Cancel) -> None:
        self.uploads.withdraw(message.request_id)

    def _take_stream_open(self, message: m.StreamOpen) -> None:
        if not self.serves_remote:
            self.channel.send(m.StreamRefuse(message.stream_id, OTHER_ISP))
            return
        if self.upload_streams + self._host.tokens_of(self) >= DATA_STREAMS_MAX:
            self.channel.send(m.StreamRefuse(message.stream_id, "too many data streams are open"))
            return
        own = b""
        if message.encrypt or (self.encryption is not None and self.encryption.required):
            if self.encryption is None or not message.certificate:
                reason = "data streams are to be encrypted, and one side has no certificate"
                self.channel.send(m.StreamRefuse(message.stream_id, reason))
                return
            own = self.encryption.fingerprint
        try:
            token = self._host.issue_token(self, message.certificate if own else b"")
        except LocalProtocolError as error:
            self.channel.send(m.StreamRefuse(message.stream_id, str(error)[: m.REASON_CHARS_MAX]))
            return
        self.channel.send(m.StreamGrant(message.stream_id, token, own))

    def sent(self, request_id: int) -> None:
        """Take note that a chunk was sent to the remote whole."""
        self.channel.finish_request(_REMOTE, request_id)


def owner_of(receive: Receive) -> Owner:
    """Return for whom a chunk was asked."""
    if not isinstance(receive.owner, Owner):
        raise InternalError(f"request {receive.request_id} belongs to nobody")
    return receive.owner


# By type: every message passes here, and a chain of cases costs a part of the event loop's time.
_TAKES: Final[dict[type, Callable[[Link, Any], None]]] = {
    m.Hello: Link._take_hello,
    m.Holdings: Link._take_holdings,
    m.Have: Link._take_have,
    m.Fetching: Link._take_fetching,
    m.ReportSlow: Link._take_slow,
    m.Ways: Link._take_ways,
    m.Interest: Link._take_interest,
    m.Reject: Link._take_reject,
    m.StreamGrant: Link._take_grant,
    m.StreamRefuse: Link._take_refuse,
    m.Subscribe: Link._take_subscribe,
    m.Unsubscribe: Link._take_unsubscribe,
    m.Request: Link._take_request,
    m.Cancel: Link._take_cancel,
    m.StreamOpen: Link._take_stream_open,
    m.Pong: Link._take_pong,
}
