"""The control link as a state machine: bytes in, messages out, and the other way round. No I/O, no clock.

Both sides run this same class and obey the same table; nothing here knows who connected. Contract:

- `start()` queues our preamble and Hello; `send()` queues one message; `poll_output()` hands over what is queued.
- `handle_bytes()` takes what was received and returns an iterator over the messages in it; `handle_eof()` says that no
  more will come.
- The rules advance message by message: each is judged when the iterator reaches it, after the driver has handled the
  one before and has answered it. So an answer never meets the end of its subject that was read along with it.
- A message about something that is over is dropped and counted: both sides speak at once, and what ends a subject may
  cross what is said about it. Any other illegal local call raises `LocalProtocolError` and changes nothing.
- Anything illegal from the remote raises `RemoteProtocolError` out of the iterator, once, after the messages before it.
  The link is then CLOSING with a Goodbye queued that names the fault.
- After `poll_output()` has been written in CLOSING or CLOSED, shut down writing; close once the remote has (or soon).

Memory is bounded by one frame of input, the limits of `rules.py`, and by what the driver queues before it polls.
Rejected: answering Ping in here. It would be output that no driver asked for, and a driver that cannot write would
still be queueing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import Final

from p2pfill.errors import LocalProtocolError, RemoteProtocolError
from p2pfill.protocol.framing import OUR_VERSIONS, Deframer, VersionRange, encode_frame, encode_preamble, negotiate
from p2pfill.protocol.messages import (
    Goodbye,
    GoodbyeCode,
    Hello,
    Message,
    decode_payload,
    encode_payload,
    plain_reason,
)
from p2pfill.protocol.rules import LinkLimits, RuleBook, RuleBrokenError, Side

DEFAULT_LIMITS: Final = LinkLimits()


class LinkState(Enum):
    """Where a link is in its life."""

    START = "START"
    """Nothing has been said."""
    HANDSHAKE = "HANDSHAKE"
    """Our preamble and Hello are on their way; theirs are not here yet."""
    OPEN = "OPEN"
    """Both Hellos were seen: every other message may go both ways."""
    CLOSING = "CLOSING"
    """Our Goodbye is queued or sent. What still comes is dropped unread."""
    CLOSED = "CLOSED"
    """The remote has said Goodbye or has ended the stream."""

    # Members are compared by identity; the hash of Enum, which looks at the name, is one in Python.
    __hash__ = object.__hash__


class LinkEvent(Enum):
    """What moves a link from one state to another."""

    SEND_HELLO = "send Hello"
    SEND_MESSAGE = "send message"
    SEND_GOODBYE = "send Goodbye"
    RECEIVE_HELLO = "receive Hello"
    RECEIVE_MESSAGE = "receive message"
    RECEIVE_GOODBYE = "receive Goodbye"
    REMOTE_FAULT = "remote breaks a rule"
    RECEIVE_EOF = "receive end of stream"

    __hash__ = object.__hash__


TRANSITIONS: Final[dict[tuple[LinkState, LinkEvent], LinkState]] = {
    (LinkState.START, LinkEvent.SEND_HELLO): LinkState.HANDSHAKE,
    (LinkState.START, LinkEvent.RECEIVE_EOF): LinkState.CLOSED,
    (LinkState.HANDSHAKE, LinkEvent.RECEIVE_HELLO): LinkState.OPEN,
    (LinkState.HANDSHAKE, LinkEvent.RECEIVE_GOODBYE): LinkState.CLOSED,
    (LinkState.HANDSHAKE, LinkEvent.SEND_GOODBYE): LinkState.CLOSING,
    (LinkState.HANDSHAKE, LinkEvent.REMOTE_FAULT): LinkState.CLOSING,
    (LinkState.HANDSHAKE, LinkEvent.RECEIVE_EOF): LinkState.CLOSED,
    (LinkState.OPEN, LinkEvent.SEND_MESSAGE): LinkState.OPEN,
    (LinkState.OPEN, LinkEvent.RECEIVE_MESSAGE): LinkState.OPEN,
    (LinkState.OPEN, LinkEvent.RECEIVE_GOODBYE): LinkState.CLOSED,
    (LinkState.OPEN, LinkEvent.SEND_GOODBYE): LinkState.CLOSING,
    (LinkState.OPEN, LinkEvent.REMOTE_FAULT): LinkState.CLOSING,
    (LinkState.OPEN, LinkEvent.RECEIVE_EOF): LinkState.CLOSED,
    (LinkState.CLOSING, LinkEvent.RECEIVE_EOF): LinkState.CLOSED,
    (LinkState.CLOSED, LinkEvent.RECEIVE_EOF): LinkState.CLOSED,
}
"""All that is allowed. An event that a state lacks is illegal there, and the fault of whoever caused it."""

# To look a member up in its class is a call of the enum's own, which costs as much as a rule.
_LISTENING: Final = (LinkState.OPEN, LinkState.HANDSHAKE)
_LOCAL: Final = Side.LOCAL
_REMOTE: Final = Side.REMOTE
_SEND_MESSAGE: Final = LinkEvent.SEND_MESSAGE
_RECEIVE_MESSAGE: Final = LinkEvent.RECEIVE_MESSAGE

_SENT: Final[dict[type, LinkEvent]] = {Hello: LinkEvent.SEND_HELLO, Goodbye: LinkEvent.SEND_GOODBYE}
_RECEIVED: Final[dict[type, LinkEvent]] = {Hello: LinkEvent.RECEIVE_HELLO, Goodbye: LinkEvent.RECEIVE_GOODBYE}
"""All that are no message among others."""


def state_diagram() -> str:
    """Return the table as a Mermaid state diagram, for docs/protocol.md."""
    lines = ["stateDiagram-v2", f"    [*] --> {LinkState.START.value}"]
    for (state, event), target in TRANSITIONS.items():
        lines.append(f"    {state.value} --> {target.value}: {event.value}")
    lines.append(f"    {LinkState.CLOSED.value} --> [*]")
    return "\n".join(lines)


class ControlLink:
    """One control link between two nodes, seen from one of them. Not thread-safe."""

    def __init__(
        self, hello: Hello, *, limits: LinkLimits = DEFAULT_LIMITS, versions: VersionRange = OUR_VERSIONS
    ) -> None:
        """`hello` says who we are. Raises `LocalProtocolError` where it or `versions` cannot be sent."""
        self.hello = hello
        self.state = LinkState.START
        self.version: int | None = None
        """What both sides speak; None before the remote's preamble."""
        self.remote_hello: Hello | None = None
        """Who the remote says it is; None before OPEN."""
        self.remote_goodbye: Goodbye | None = None
        """Why the remote ended the link, where it said so."""
        self._versions = versions
        self._opening = encode_preamble(versions) + encode_frame(encode_payload(hello))
        self._deframer = Deframer()
        self._payloads: deque[bytes] = deque()
        """Frames that were received and not looked at yet."""
        self._rules = RuleBook(limits)
        self.dropped = 0
        """Messages that were not sent since what they were about was over."""
        self._output: list[bytes] = []
        self.output_bytes = 0
        """Queued and not yet polled."""

    # ---- output

    def start(self) -> None:
        """Queue our preamble and Hello. Raises `LocalProtocolError` the second time."""
        self.state = self._next_state(LinkEvent.SEND_HELLO)
        self._queue(self._opening)

    def send(self, message: Message) -> bool:
        """Queue `message`; False where what it is about is over, so that it is dropped and counted.

        Raises `LocalProtocolError`, and changes nothing, where state, rules or limits forbid it.
        """
        event = _SENT.get(type(message), _SEND_MESSAGE)
        if event is not _SEND_MESSAGE and event is LinkEvent.SEND_HELLO:
            raise LocalProtocolError("Hello is sent by start(), once")
        state = TRANSITIONS.get((self.state, event)) or self._next_state(event)
        frame = encode_frame(encode_payload(message))
        try:
            is_valid = self._rules.take(message, _LOCAL)
        except RuleBrokenError as error:
            raise LocalProtocolError(f"cannot send {type(message).__name__}: {error}") from error
        if not is_valid:
            self.dropped += 1
            return False
        self._output.append(frame)
        self.output_bytes += len(frame)
        self.state = state
        return True

    def poll_output(self) -> bytes:
        """Return the bytes to write now, and forget them; empty where there are none."""
        output = b"".join(self._output)
        self._output.clear()
        self.output_bytes = 0
        return output

    # ---- input

    def handle_bytes(self, data: bytes | bytearray | memoryview) -> Iterator[Message]:
        """Take received bytes, in whatever pieces; return an iterator over the messages that they complete, in order.

        The remote's Hello is the first of them and its Goodbye the last. Messages that crossed the end of their
        subject on the way are left out. What is not iterated over stays for the next call. The iterator raises
        `RemoteProtocolError` where the remote is at fault; the call `LocalProtocolError` before `start()`.
        """
        if self.state in _LISTENING:
            self._deframer.feed(data)
        elif self.state is LinkState.START:
            raise LocalProtocolError("call start() before the link is given bytes")
        return self._messages()

    def _messages(self) -> Iterator[Message]:
        payloads = self._payloads
        try:
            while self.state in _LISTENING and (payloads or self._cut()):
                message = decode_payload(payloads.popleft())
                if self._receive(message):
                    yield message
        except RemoteProtocolError as error:
            strangers = self.version is None and self._deframer.versions is not None
            self._fail(GoodbyeCode.VERSION if strangers else GoodbyeCode.PROTOCOL_ERROR, str(error))
            raise

    def _cut(self) -> bool:
        """Cut what has come into frames; False where none is whole."""
        if self.version is None:
            theirs = self._deframer.poll_preamble()
            if theirs is None:
                return False
            self.version = negotiate(self._versions, theirs)
        elif not self._deframer.pending_bytes:
            return False
        self._payloads.extend(self._deframer.poll_frames())
        return bool(self._payloads)

    def handle_eof(self) -> None:
        """Take note that the remote has ended its stream.

        Raises `RemoteProtocolError` where neither side had said Goodbye: the remote crashed or was cut off.
        """
        before = self.state
        self.state = self._next_state(LinkEvent.RECEIVE_EOF)
        if before in (LinkState.HANDSHAKE, LinkState.OPEN):
            rest = self._deframer.pending_bytes
            inside = f", {rest} bytes into a frame" if rest else ""
            raise RemoteProtocolError(f"control link ended without a Goodbye in state {before.value}{inside}")

    # ---- what the rules know

    def next_handle(self) -> int:
        """Return a handle for our next Subscribe. Ids only grow; one past u32 makes `send` raise: open a new link."""
        return self._rules.next_handle(Side.LOCAL)

    def next_request_id(self) -> int:
        """Return an id for our next Request; as `next_handle`."""
        return self._rules.next_request_id(_LOCAL)

    def next_stream_id(self) -> int:
        """Return an id for our next StreamOpen; as `next_handle`."""
        return self._rules.next_stream_id(Side.LOCAL)

    def wants(self, side: Side) -> dict[int, int | None]:
        """Return the handles that `side` has open: handle -> chunk count once announced, else None. A copy."""
        return self._rules.wants(side)

    def requests(self, side: Side) -> dict[int, int]:
        """Return the requests of `side` that are outstanding: request id -> handle. A copy."""
        return self._rules.requests(side)

    def is_request_live(self, side: Side, request_id: int) -> bool:
        """Say whether a request of `side` is outstanding: ask before a Reject or Cancel that may come late."""
        return self._rules.is_request_live(side, request_id)

    def finish_request(self, side: Side, request_id: int) -> bool:
        """End a request of `side` because its payload went over the data stream; False where it was over already.

        The asker calls it with `Side.LOCAL` when the chunk is here, the asked with `Side.REMOTE` when it was sent.
        """
        return self._rules.finish_request(side, request_id)

    # ---- inner parts

    def _next_state(self, event: LinkEvent) -> LinkState:
        target = TRANSITIONS.get((self.state, event))
        if target is None:
            raise LocalProtocolError(f"cannot {event.value} in state {self.state.value}")
        return target

    def _receive(self, message: Message) -> bool:
        """Judge and record one message; return whether the driver is to see it. Raises `RemoteProtocolError`."""
        event = _RECEIVED.get(type(message), _RECEIVE_MESSAGE)
        target = TRANSITIONS.get((self.state, event))
        if target is None:
            raise RemoteProtocolError(f"remote sent {type(message).__name__} in state {self.state.value}")
        if event is not _RECEIVE_MESSAGE and isinstance(message, Hello):
            self.remote_hello = message
        else:
            try:
                if not self._rules.take(message, _REMOTE):
                    return False
            except RuleBrokenError as error:
                raise RemoteProtocolError(f"remote sent {type(message).__name__}: {error}") from error
            if event is not _RECEIVE_MESSAGE and isinstance(message, Goodbye):
                self.remote_goodbye = message
        self.state = target
        return True

    def _fail(self, code: GoodbyeCode, reason: str) -> None:
        """Queue the last frame of a link whose remote is at fault."""
        self.state = self._next_state(LinkEvent.REMOTE_FAULT)
        self._queue(encode_frame(encode_payload(Goodbye(int(code), plain_reason(reason)))))

    def _queue(self, data: bytes) -> None:
        self._output.append(data)
        self.output_bytes += len(data)
