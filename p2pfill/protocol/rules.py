"""What the messages of an open link may say to each other: handles, requests, streams and pings.

Both directions obey the same rules, so there is one set of them: `RuleBook.take(message, by)` looks at what side `by`
has said before and what the other side has, and enters what breaks no rule. Of anything else it changes nothing.

Handles, request ids and stream ids are chosen by the asker and must grow. That keeps memory bounded and tells
the three cases of an id apart without a graveyard: live (in its dict), over (not above the highest used: a
message crossed its end on the way, and is stale), or never used (a breach). Rejected: ids that are free again at once,
where a late Reject or Have could hit the next user of its id.

A request is live from Request until Cancel, Reject, Unsubscribe of its handle, or `finish_request`, which each side
calls for itself since the payload travels elsewhere. The asked side learns the end later than the asker, hence the
slack in `LinkLimits.requests_slack`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, NamedTuple

from p2pfill.protocol.messages import (
    Cancel,
    Fetching,
    Goodbye,
    Have,
    Hello,
    Holdings,
    Interest,
    Message,
    Ping,
    Pong,
    Reject,
    ReportSlow,
    Request,
    StreamGrant,
    StreamOpen,
    StreamRefuse,
    Subscribe,
    Unsubscribe,
    Ways,
)

SUBSCRIPTIONS_MAX: Final = 1024
"""Titles that one side follows on one link; a node fills far fewer at once, and each costs the other side updates."""

REQUESTS_MAX: Final = 1024
"""Outstanding in one direction: 256 MiB of the smallest usual chunks, beyond any product of rate and delay."""

REQUESTS_SLACK: Final = 1024
"""How far the asked side may lag behind in knowing that requests are finished."""

STREAMS_MAX: Final = 64
"""Unanswered StreamOpen in one direction; a handful of streams fills any link."""

PINGS_MAX: Final = 16
"""Unanswered Ping in one direction; a side that does not answer the first few is gone."""


class LinkLimits(NamedTuple):
    """Bounds on what one side of a link may leave open; the same numbers must hold on both sides."""

    subscriptions_max: int = SUBSCRIPTIONS_MAX
    requests_max: int = REQUESTS_MAX
    requests_slack: int = REQUESTS_SLACK
    streams_max: int = STREAMS_MAX
    pings_max: int = PINGS_MAX


class Side(Enum):
    """Who sends a message."""

    LOCAL = "local"
    REMOTE = "remote"


# To look a member up in its class is a call of the enum's own, which costs as much as all the rest of most rules.
_LOCAL: Final = Side.LOCAL
_REMOTE: Final = Side.REMOTE


class RuleBrokenError(Exception):
    """A message breaks a rule; the text names it. `ControlLink` turns it into the error of the side at fault."""


class _Asks:
    """What one side has asked for and not yet been given, and the highest ids that it has used."""

    def __init__(self) -> None:
        self.wants: dict[int, int | None] = {}
        """Handle -> chunk count, once the other side has announced it. It stays when holdings go away again."""
        self.requests: dict[int, int] = {}
        """Request id -> handle."""
        self.streams: dict[int, bool] = {}
        """Those without an answer -> whether they must be encrypted."""
        self.pings: set[int] = set()
        self.handle_last = -1
        self.request_last = -1
        self.stream_last = -1


class RuleBook:
    """The ledger of one open link. Each ask of each side is live, over, or was never made."""

    def __init__(self, limits: LinkLimits) -> None:
        self._limits = limits
        self._requests_local_max = limits.requests_max
        self._requests_remote_max = limits.requests_max + limits.requests_slack
        self._local = _Asks()
        self._remote = _Asks()

    def wants(self, side: Side) -> dict[int, int | None]:
        """Return a copy of the live handles of `side`, each with the chunk count it was told, if any."""
        return dict(self._asks(side).wants)

    def requests(self, side: Side) -> dict[int, int]:
        """Return a copy of the live requests of `side`: request id -> handle."""
        return dict(self._asks(side).requests)

    def next_handle(self, side: Side) -> int:
        """Return the lowest handle that `side` may use for its next Subscribe."""
        return self._asks(side).handle_last + 1

    def next_request_id(self, side: Side) -> int:
        """Return the lowest id that `side` may use for its next Request."""
        return (self._local if side is _LOCAL else self._remote).request_last + 1

    def next_stream_id(self, side: Side) -> int:
        """Return the lowest id that `side` may use for its next StreamOpen."""
        return self._asks(side).stream_last + 1

    def is_request_live(self, side: Side, request_id: int) -> bool:
        """Say whether a request of `side` is outstanding."""
        return request_id in (self._local if side is _LOCAL else self._remote).requests

    def finish_request(self, side: Side, request_id: int) -> bool:
        """End a request of `side` whose payload has gone over; False where it was over before."""
        asks = self._local if side is _LOCAL else self._remote
        return asks.requests.pop(request_id, None) is not None

    def take(self, message: Message, by: Side) -> bool:
        """Enter what `by` says; False, and nothing changes, where that is stale. Raises `RuleBrokenError`."""
        if by is _LOCAL:
            return _RULES[type(message)](self, message, by, self._local, self._remote)
        return _RULES[type(message)](self, message, by, self._remote, self._local)

    def _asks(self, side: Side) -> _Asks:
        return self._local if side is _LOCAL else self._remote

    # ---- what each message must keep, and what it changes: the sender's asks are `own`, the receiver's `asked`

    def _take_subscribe(self, message: Subscribe, _by: Side, own: _Asks, _asked: _Asks) -> bool:
        _check_new("handle", message.handle, own.handle_last, len(own.wants), self._limits.subscriptions_max)
        own.wants[message.handle] = None
        own.handle_last = message.handle
        return True

    def _take_unsubscribe(self, message: Unsubscribe, by: Side, own: _Asks, _asked: _Asks) -> bool:
        handle = message.handle
        if not _is_open_for_asker("handle", handle, handle in own.wants, own.handle_last, by):
            return False
        del own.wants[handle]
        for request_id in [r for r, used in own.requests.items() if used == handle]:
            del own.requests[request_id]
        return True

    def _take_interest(self, message: Interest, by: Side, own: _Asks, _asked: _Asks) -> bool:
        handle = message.handle
        if not _is_open_for_asker("handle", handle, handle in own.wants, own.handle_last, by):
            return False
        _check_interest(handle, message.chunk_count, message.bitmap, own.wants[handle])
        return True

    def _take_request(self, message: Request, by: Side, own: _Asks, _asked: _Asks) -> bool:
        handle, request_id, requests = message.handle, message.request_id, own.requests
        allowed = self._requests_local_max if by is _LOCAL else self._requests_remote_max
        count = own.wants.get(handle)
        # All but a few pass here at once.
        if count is None or message.chunk >= count or request_id <= own.request_last or len(requests) >= allowed:
            if not _is_open_for_asker("handle", handle, handle in own.wants, own.handle_last, by):
                return False
            _check_chunks(handle, message.chunk, count)
            _check_new("request", request_id, own.request_last, len(requests), allowed)
        requests[request_id] = handle
        own.request_last = request_id
        return True

    def _take_cancel(self, message: Cancel, _by: Side, own: _Asks, _asked: _Asks) -> bool:
        # The asker may not know that it is over, but it must have asked.
        if not _is_open("request", message.request_id, message.request_id in own.requests, own.request_last):
            return False
        del own.requests[message.request_id]
        return True

    def _take_reject(self, message: Reject, _by: Side, _own: _Asks, asked: _Asks) -> bool:
        if not _is_open("request", message.request_id, message.request_id in asked.requests, asked.request_last):
            return False
        del asked.requests[message.request_id]
        return True

    def _take_holdings(self, message: Holdings, _by: Side, _own: _Asks, asked: _Asks) -> bool:
        _check_holdings(message, asked.wants.get(message.handle))
        if not _is_open("handle", message.handle, message.handle in asked.wants, asked.handle_last):
            return False
        if message.known:
            asked.wants[message.handle] = message.chunk_count
        return True

    def _take_news(self, message: Have | Fetching, _by: Side, _own: _Asks, asked: _Asks) -> bool:
        handle, chunk = message.handle, max(message.chunks)
        count = asked.wants.get(handle)
        if count is None or chunk >= count:  # as few are
            if not _is_open("handle", handle, handle in asked.wants, asked.handle_last):
                return False
            _check_chunks(handle, chunk, count)
        return True

    def _take_word(self, message: ReportSlow | Ways, _by: Side, _own: _Asks, asked: _Asks) -> bool:
        return _is_open("handle", message.handle, message.handle in asked.wants, asked.handle_last)

    def _take_stream_open(self, message: StreamOpen, _by: Side, own: _Asks, _asked: _Asks) -> bool:
        _check_new("stream", message.stream_id, own.stream_last, len(own.streams), self._limits.streams_max)
        if message.encrypt and not message.certificate:
            raise RuleBrokenError(f"stream {message.stream_id} must be encrypted, and its asker has no certificate")
        own.streams[message.stream_id] = message.encrypt
        own.stream_last = message.stream_id
        return True

    def _take_stream_grant(self, message: StreamGrant, by: Side, own: _Asks, asked: _Asks) -> bool:
        if asked.streams.get(message.stream_id) and not message.certificate:
            raise RuleBrokenError(f"stream {message.stream_id} must be encrypted, and is granted as one that is not")
        return self._take_stream_answer(message, by, own, asked)

    def _take_stream_answer(self, message: StreamGrant | StreamRefuse, by: Side, _own: _Asks, asked: _Asks) -> bool:
        stream_id = message.stream_id
        if not _is_open_for_asker("stream", stream_id, stream_id in asked.streams, asked.stream_last, by):
            return False
        del asked.streams[stream_id]
        return True

    def _take_ping(self, message: Ping, _by: Side, own: _Asks, _asked: _Asks) -> bool:
        if message.nonce in own.pings or len(own.pings) >= self._limits.pings_max:
            raise RuleBrokenError(f"ping {message.nonce} repeats an unanswered one, or {len(own.pings)} are unanswered")
        own.pings.add(message.nonce)
        return True

    def _take_pong(self, message: Pong, _by: Side, _own: _Asks, asked: _Asks) -> bool:
        if message.nonce not in asked.pings:
            raise RuleBrokenError(f"ping {message.nonce} is not open")
        asked.pings.discard(message.nonce)
        return True

    def _take_hello(self, _message: Hello, _by: Side, _own: _Asks, _asked: _Asks) -> bool:
        raise RuleBrokenError("a second Hello")

    def _take_goodbye(self, _message: Goodbye, _by: Side, _own: _Asks, _asked: _Asks) -> bool:
        return True


_Rule = Callable[[RuleBook, Any, Side, _Asks, _Asks], bool]
"""Enters a message; False, and nothing changes, where it is stale. Raises `RuleBrokenError` before it changes anything.
"""

# By type, since every message passes here twice, and a chain of cases costs a part of the event loop's time: see
# docs/experiments.md, "The data path".
_RULES: Final[dict[type, _Rule]] = {
    Subscribe: RuleBook._take_subscribe,
    Unsubscribe: RuleBook._take_unsubscribe,
    Interest: RuleBook._take_interest,
    Request: RuleBook._take_request,
    Cancel: RuleBook._take_cancel,
    Reject: RuleBook._take_reject,
    Holdings: RuleBook._take_holdings,
    Have: RuleBook._take_news,
    Fetching: RuleBook._take_news,
    StreamOpen: RuleBook._take_stream_open,
    StreamGrant: RuleBook._take_stream_grant,
    StreamRefuse: RuleBook._take_stream_answer,
    Ping: RuleBook._take_ping,
    Pong: RuleBook._take_pong,
    ReportSlow: RuleBook._take_word,
    Ways: RuleBook._take_word,
    Goodbye: RuleBook._take_goodbye,
    Hello: RuleBook._take_hello,
}


def _check_new(what: str, number: int, last: int, held: int, allowed: int) -> None:
    if number <= last:
        raise RuleBrokenError(f"{what} {number} is not above {last}, the last one used")
    if held >= allowed:
        raise RuleBrokenError(f"{what} {number} is one too many: {held} are open, {allowed} are allowed")


def _is_open_for_asker(what: str, number: int, live: bool, last: int, by: Side) -> bool:
    """Judge what only the one side says who knows best whether the subject is open.

    From the remote it is a breach. Of our own it is stale: a part of us that had not heard of the end yet.
    """
    if not live and (by is _REMOTE or number > last):
        raise RuleBrokenError(f"{what} {number} is not open")
    return live


def _is_open(what: str, number: int, live: bool, last: int) -> bool:
    if not live and number > last:
        raise RuleBrokenError(f"{what} {number} was never opened")
    return live


def _check_chunks(handle: int, chunk: int, chunk_count: int | None) -> None:
    if chunk_count is None:
        raise RuleBrokenError(f"chunk {chunk} of handle {handle}, whose holdings were not announced")
    if chunk >= chunk_count:
        raise RuleBrokenError(f"chunk {chunk} of handle {handle}, which has {chunk_count} chunks")


def _check_holdings(message: Holdings, before: int | None) -> None:
    handle, count = message.handle, message.chunk_count
    if not message.known:
        if count or message.bitmap:
            raise RuleBrokenError(f"holdings of handle {handle} are not known, yet come with chunks")
        return
    if before is not None and count != before:
        raise RuleBrokenError(f"holdings of handle {handle} change the chunk count from {before} to {count}")
    _check_bitmap(f"holdings of handle {handle}", count, message.bitmap)


def _check_interest(handle: int, count: int, bitmap: bytes, announced: int | None) -> None:
    if count != announced:
        raise RuleBrokenError(f"interest of handle {handle} in {count} chunks, announced were {announced}")
    _check_bitmap(f"interest of handle {handle}", count, bitmap)


def _check_bitmap(what: str, count: int, bitmap: bytes) -> None:
    if len(bitmap) != (count + 7) // 8:
        raise RuleBrokenError(f"{what}: bitmap of {len(bitmap)} bytes for {count} chunks")
    if count % 8 and bitmap[-1] >> (count % 8):
        raise RuleBrokenError(f"{what}: bits beyond the last chunk are set")
