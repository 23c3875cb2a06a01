"""What the messages of an open link may say to each other: handles, requests, streams and pings.

Both directions obey the same rules, so there is one set of them: `RuleBook.take(message, by)` looks at what side `by`
has said before and what the other side has, and enters what breaks no rule. Of anything else it changes nothing.

Handles, request ids and stream ids are chosen by the asker and must grow. That keeps memory bounded and tells
the three cases of an id apart without a graveyard: live (in its dict), over (not above the highest used: a
message crossed its end on the way, and is STALE), or never used (a breach). Rejected: ids that are free again at once,
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


class Verdict(Enum):
    """What `judge` says of a message that breaks no rule."""

    VALID = "valid"
    STALE = "stale"
    """About something that is over already: dropped, whether received or about to be sent."""


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
        return (self._local if side is Side.LOCAL else self._remote).request_last + 1

    def next_stream_id(self, side: Side) -> int:
        """Return the lowest id that `side` may use for its next StreamOpen."""
        return self._asks(side).stream_last + 1

    def is_request_live(self, side: Side, request_id: int) -> bool:
        """Say whether a request of `side` is outstanding."""
        return request_id in (self._local if side is Side.LOCAL else self._remote).requests

    def finish_request(self, side: Side, request_id: int) -> bool:
        """End a request of `side` whose payload has gone over; False where it was over before."""
        asks = self._local if side is Side.LOCAL else self._remote
        return asks.requests.pop(request_id, None) is not None

    def take(self, message: Message, by: Side) -> bool:
        """Enter what `by` says; False, and nothing changes, where that is stale. Raises `RuleBrokenError`."""
        own, asked = (self._local, self._remote) if by is Side.LOCAL else (self._remote, self._local)
        judge, enter = _RULES[type(message)]
        if judge(self, message, by, own, asked) is Verdict.STALE:
            return False
        if enter is not None:
            enter(message, own, asked)
        return True

    def _asks(self, side: Side) -> _Asks:
        return self._local if side is Side.LOCAL else self._remote

    # ---- what each message must keep: the sender's asks are `own`, the receiver's `asked`

    def _judge_subscribe(self, message: Subscribe, _by: Side, own: _Asks, _asked: _Asks) -> Verdict:
        _check_new("handle", message.handle, own.handle_last, len(own.wants), self._limits.subscriptions_max)
        return Verdict.VALID

    def _judge_unsubscribe(self, message: Unsubscribe, by: Side, own: _Asks, _asked: _Asks) -> Verdict:
        return _verdict_of_asker("handle", message.handle, message.handle in own.wants, own.handle_last, by)

    def _judge_interest(self, message: Interest, by: Side, own: _Asks, _asked: _Asks) -> Verdict:
        handle = message.handle
        verdict = _verdict_of_asker("handle", handle, handle in own.wants, own.handle_last, by)
        if verdict is Verdict.VALID:
            _check_interest(handle, message.chunk_count, message.bitmap, own.wants[handle])
        return verdict

    def _judge_request(self, message: Request, by: Side, own: _Asks, _asked: _Asks) -> Verdict:
        allowed = self._limits.requests_max
        if by is Side.REMOTE:
            allowed += self._limits.requests_slack
        handle, count = message.handle, own.wants.get(message.handle)
        if (
            count is not None
            and message.chunk < count
            and message.request_id > own.request_last
            and len(own.requests) < allowed
        ):
            return Verdict.VALID  # as all but a few
        if _verdict_of_asker("handle", handle, handle in own.wants, own.handle_last, by) is Verdict.STALE:
            return Verdict.STALE
        _check_chunks(message.handle, message.chunk, own.wants[message.handle])
        _check_new("request", message.request_id, own.request_last, len(own.requests), allowed)
        return Verdict.VALID

    def _judge_cancel(self, message: Cancel, _by: Side, own: _Asks, _asked: _Asks) -> Verdict:
        # The asker may not know that it is over, but it must have asked.
        return _verdict("request", message.request_id, message.request_id in own.requests, own.request_last)

    def _judge_reject(self, message: Reject, _by: Side, _own: _Asks, asked: _Asks) -> Verdict:
        return _verdict("request", message.request_id, message.request_id in asked.requests, asked.request_last)

    def _judge_holdings(self, message: Holdings, _by: Side, _own: _Asks, asked: _Asks) -> Verdict:
        _check_holdings(message, asked.wants.get(message.handle))
        return _verdict("handle", message.handle, message.handle in asked.wants, asked.handle_last)

    def _judge_news(self, message: Have | Fetching, _by: Side, _own: _Asks, asked: _Asks) -> Verdict:
        handle, count = message.handle, asked.wants.get(message.handle)
        if count is not None and max(message.chunks) < count:
            return Verdict.VALID  # as all but a few
        verdict = _verdict("handle", handle, handle in asked.wants, asked.handle_last)
        if verdict is Verdict.VALID:
            _check_chunks(handle, max(message.chunks), asked.wants[handle])
        return verdict

    def _judge_word(self, message: ReportSlow | Ways, _by: Side, _own: _Asks, asked: _Asks) -> Verdict:
        return _verdict("handle", message.handle, message.handle in asked.wants, asked.handle_last)

    def _judge_stream_open(self, message: StreamOpen, _by: Side, own: _Asks, _asked: _Asks) -> Verdict:
        _check_new("stream", message.stream_id, own.stream_last, len(own.streams), self._limits.streams_max)
        if message.encrypt and not message.certificate:
            raise RuleBrokenError(f"stream {message.stream_id} must be encrypted, and its asker has no certificate")
        return Verdict.VALID

    def _judge_stream_grant(self, message: StreamGrant, by: Side, own: _Asks, asked: _Asks) -> Verdict:
        if asked.streams.get(message.stream_id) and not message.certificate:
            raise RuleBrokenError(f"stream {message.stream_id} must be encrypted, and is granted as one that is not")
        return self._judge_stream_answer(message, by, own, asked)

    def _judge_stream_answer(self, message: StreamGrant | StreamRefuse, by: Side, _own: _Asks, asked: _Asks) -> Verdict:
        return _verdict_of_asker("stream", message.stream_id, message.stream_id in asked.streams, asked.stream_last, by)

    def _judge_ping(self, message: Ping, _by: Side, own: _Asks, _asked: _Asks) -> Verdict:
        if message.nonce in own.pings or len(own.pings) >= self._limits.pings_max:
            raise RuleBrokenError(f"ping {message.nonce} repeats an unanswered one, or {len(own.pings)} are unanswered")
        return Verdict.VALID

    def _judge_pong(self, message: Pong, _by: Side, _own: _Asks, asked: _Asks) -> Verdict:
        if message.nonce not in asked.pings:
            raise RuleBrokenError(f"ping {message.nonce} is not open")
        return Verdict.VALID

    def _judge_hello(self, _message: Hello, _by: Side, _own: _Asks, _asked: _Asks) -> Verdict:
        raise RuleBrokenError("a second Hello")

    def _judge_free(self, _message: Message, _by: Side, _own: _Asks, _asked: _Asks) -> Verdict:
        return Verdict.VALID


def _record_subscribe(message: Subscribe, own: _Asks, _asked: _Asks) -> None:
    own.wants[message.handle] = None
    own.handle_last = message.handle


def _record_unsubscribe(message: Unsubscribe, own: _Asks, _asked: _Asks) -> None:
    del own.wants[message.handle]
    for request_id in [r for r, used in own.requests.items() if used == message.handle]:
        del own.requests[request_id]


def _record_request(message: Request, own: _Asks, _asked: _Asks) -> None:
    own.requests[message.request_id] = message.handle
    own.request_last = message.request_id


def _record_cancel(message: Cancel, own: _Asks, _asked: _Asks) -> None:
    del own.requests[message.request_id]


def _record_reject(message: Reject, _own: _Asks, asked: _Asks) -> None:
    del asked.requests[message.request_id]


def _record_holdings(message: Holdings, _own: _Asks, asked: _Asks) -> None:
    if message.known:
        asked.wants[message.handle] = message.chunk_count


def _record_stream_open(message: StreamOpen, own: _Asks, _asked: _Asks) -> None:
    own.streams[message.stream_id] = message.encrypt
    own.stream_last = message.stream_id


def _record_stream_answer(message: StreamGrant | StreamRefuse, _own: _Asks, asked: _Asks) -> None:
    asked.streams.pop(message.stream_id, None)


def _record_ping(message: Ping, own: _Asks, _asked: _Asks) -> None:
    own.pings.add(message.nonce)


def _record_pong(message: Pong, _own: _Asks, asked: _Asks) -> None:
    asked.pings.discard(message.nonce)


_Judge = Callable[[RuleBook, Any, Side, _Asks, _Asks], Verdict]
_Enter = Callable[[Any, _Asks, _Asks], None]

# By type, since every message passes here twice, and a chain of cases costs a part of the event loop's time: see
# docs/experiments.md, "The data path".
_RULES: Final[dict[type, tuple[_Judge, _Enter | None]]] = {
    Subscribe: (RuleBook._judge_subscribe, _record_subscribe),
    Unsubscribe: (RuleBook._judge_unsubscribe, _record_unsubscribe),
    Interest: (RuleBook._judge_interest, None),
    Request: (RuleBook._judge_request, _record_request),
    Cancel: (RuleBook._judge_cancel, _record_cancel),
    Reject: (RuleBook._judge_reject, _record_reject),
    Holdings: (RuleBook._judge_holdings, _record_holdings),
    Have: (RuleBook._judge_news, None),
    Fetching: (RuleBook._judge_news, None),
    StreamOpen: (RuleBook._judge_stream_open, _record_stream_open),
    StreamGrant: (RuleBook._judge_stream_grant, _record_stream_answer),
    StreamRefuse: (RuleBook._judge_stream_answer, _record_stream_answer),
    Ping: (RuleBook._judge_ping, _record_ping),
    Pong: (RuleBook._judge_pong, _record_pong),
    ReportSlow: (RuleBook._judge_word, None),
    Ways: (RuleBook._judge_word, None),
    Goodbye: (RuleBook._judge_free, None),
    Hello: (RuleBook._judge_hello, None),
}


def _check_new(what: str, number: int, last: int, held: int, allowed: int) -> None:
    if number <= last:
        raise RuleBrokenError(f"{what} {number} is not above {last}, the last one used")
    if held >= allowed:
        raise RuleBrokenError(f"{what} {number} is one too many: {held} are open, {allowed} are allowed")


def _verdict_of_asker(what: str, number: int, live: bool, last: int, by: Side) -> Verdict:
    """Judge what only the one side says who knows best whether the subject is open.

    From the remote it is a breach. Of our own it is stale: a part of us that had not heard of the end yet.
    """
    if live:
        return Verdict.VALID
    if by is Side.REMOTE or number > last:
        raise RuleBrokenError(f"{what} {number} is not open")
    return Verdict.STALE


def _verdict(what: str, number: int, live: bool, last: int) -> Verdict:
    if live:
        return Verdict.VALID
    if number > last:
        raise RuleBrokenError(f"{what} {number} was never opened")
    return Verdict.STALE


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
