"""One end of a control link, as `sim.link` uses it; two kinds with the same calls.

- `WireEnd` drives a real `protocol.link.ControlLink`: every message is encoded, framed, decoded and judged by the rules
  at both ends, so that a fill logic or a driver which would break the protocol is found out.
- `PlainEnd` hands the message objects over as they are. It is for fleets, where encoding would be most of the time.

Both are twins of `transport.control.ControlChannel`. Left out: keep-alives, since the simulator knows when a link is
silent, and limits on queued output, since nothing here stops reading.
"""

from __future__ import annotations

from typing import Any, Protocol

from p2pfill.model.node import NodeInfo
from p2pfill.protocol.link import ControlLink, LinkState
from p2pfill.protocol.messages import Cancel, Goodbye, Hello, Message, Reject
from p2pfill.protocol.rules import Side


class End(Protocol):
    """What a link needs of its end of the channel."""

    messages_sent: int

    def start(self) -> Any:
        """Return the parcel that opens the channel; None where none is needed."""

    def send(self, message: Message) -> Any:
        """Return the parcel that carries `message`; None where the channel is not open."""

    def receive(self, parcel: Any) -> list[Message]:
        """Return the messages in a parcel of the other end."""

    def next_handle(self) -> int:
        """Return a handle for our next Want."""

    def next_request_id(self) -> int:
        """Return an id for our next Request."""

    def next_stream_id(self) -> int:
        """Return an id for our next StreamOpen."""

    def cancel(self, request_id: int) -> Any:
        """Return the parcel that withdraws a request of ours; None where it is over."""

    def reject(self, request_id: int, code: str) -> Any:
        """Return the parcel that refuses a request of theirs; None where it is over."""

    def finish_request(self, side: Side, request_id: int) -> None:
        """Note that the payload of a request has gone over."""


def hello_of(info: NodeInfo, boot: str) -> Hello:
    """Return how a cache introduces itself; `boot` differs with each start of it."""
    return Hello(info.id, info.isp, info.region, info.cluster, info.host, info.port, info.weight, "p2pfill-sim", boot)


class PlainEnd:
    """Messages as objects."""

    __slots__ = ("_handles", "_hello", "_requests", "_streams", "messages_sent")

    def __init__(self, hello: Hello) -> None:
        self._hello = hello
        self.messages_sent = 0
        self._handles = -1
        self._requests = -1
        self._streams = -1

    def start(self) -> Message:
        return self._hello

    def send(self, message: Message) -> Message:
        self.messages_sent += 1
        return message

    def receive(self, parcel: Message) -> list[Message]:
        return [parcel]

    def next_handle(self) -> int:
        self._handles += 1
        return self._handles

    def next_request_id(self) -> int:
        self._requests += 1
        return self._requests

    def next_stream_id(self) -> int:
        self._streams += 1
        return self._streams

    def cancel(self, request_id: int) -> Message:
        return self.send(Cancel(request_id))

    def reject(self, request_id: int, code: str) -> Message:
        return self.send(Reject(request_id, code))

    def finish_request(self, side: Side, request_id: int) -> None:
        return


class WireEnd:
    """Messages as bytes, under the rules."""

    def __init__(self, hello: Hello) -> None:
        self.messages_sent = 0
        self._link = ControlLink(hello)

    def start(self) -> bytes:
        self._link.start()
        return self._link.poll_output()

    def send(self, message: Message) -> bytes | None:
        """Raises `LocalProtocolError` where the rules forbid the message."""
        if self._link.state is not LinkState.OPEN:
            return None
        self.messages_sent += 1
        self._link.send(message)
        return self._link.poll_output()

    def receive(self, parcel: bytes) -> list[Message]:
        """Raises `RemoteProtocolError` where the other end is at fault."""
        return [message for message in self._link.handle_bytes(parcel) if not isinstance(message, Goodbye)]

    def next_handle(self) -> int:
        return self._link.next_handle()

    def next_request_id(self) -> int:
        return self._link.next_request_id()

    def next_stream_id(self) -> int:
        return self._link.next_stream_id()

    def cancel(self, request_id: int) -> bytes | None:
        return self.send(Cancel(request_id)) if self._link.is_request_live(Side.LOCAL, request_id) else None

    def reject(self, request_id: int, code: str) -> bytes | None:
        return self.send(Reject(request_id, code)) if self._link.is_request_live(Side.REMOTE, request_id) else None

    def finish_request(self, side: Side, request_id: int) -> None:
        self._link.finish_request(side, request_id)
