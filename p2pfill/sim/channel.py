"""Our end of a control link between two caches; two kinds of `engine.link.Channel`.

- `WireChannel` drives a real `protocol.link.ControlLink`: every message is encoded, framed, decoded and judged by the
  rules at both ends, so that an engine that would break the protocol is found out.
- `PlainChannel` hands the message objects over as they are. It is for fleets, where encoding would be most of the time.

Left out beside `transport.control.ControlChannel`: keep-alives, since the simulator knows when a link is silent, and
limits on queued output, since nothing here stops reading.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from p2pfill.model.node import NodeInfo
from p2pfill.protocol.link import ControlLink, LinkState
from p2pfill.protocol.messages import Cancel, Goodbye, GoodbyeCode, Hello, Message, Reject
from p2pfill.protocol.rules import Side


def hello_of(info: NodeInfo, boot: str) -> Hello:
    """Return how a cache introduces itself; `boot` differs with each start of it."""
    return Hello(info.id, info.isp, info.region, info.cluster, info.host, info.port, info.weight, "p2pfill-sim", boot)


class PlainChannel:
    """Messages as objects."""

    __slots__ = ("_handles", "_has_output", "_hello", "_requests", "_streams", "is_ending", "messages_sent", "outbox")

    def __init__(self, hello: Hello, has_output: Callable[[], object]) -> None:
        """`has_output` is called when there is something to send where there was nothing."""
        self._hello = hello
        self._has_output = has_output
        self.messages_sent = 0
        self.is_ending = False
        """A Goodbye was said."""
        self.outbox: list[Any] = []
        self._handles = -1
        self._requests = -1
        self._streams = -1

    def start(self) -> None:
        """Introduce ourselves."""
        if not self.outbox:
            self._has_output()
        self.outbox.append(self._hello)

    def send(self, message: Message) -> bool:
        """Queue a message."""
        if self.is_ending:
            return False
        self.messages_sent += 1
        if not self.outbox:
            self._has_output()
        self.outbox.append(message)
        return True

    def receive(self, parcels: Iterable[Any]) -> Iterable[Message]:
        """Return the messages of the other end, one after the other."""
        return parcels

    def next_handle(self) -> int:
        """Return a handle for our next Subscribe."""
        self._handles += 1
        return self._handles

    def next_request_id(self) -> int:
        """Return an id for our next Request."""
        self._requests += 1
        return self._requests

    def next_stream_id(self) -> int:
        """Return an id for our next StreamOpen."""
        self._streams += 1
        return self._streams

    def cancel_request(self, request_id: int) -> None:
        """Withdraw a request of ours."""
        self.send(Cancel(request_id))

    def reject_request(self, request_id: int, code: str) -> None:
        """Refuse a request of theirs."""
        self.send(Reject(request_id, code))

    def finish_request(self, side: Side, request_id: int) -> None:
        """Note that the payload of a request has gone over."""

    def close(self, code: GoodbyeCode, reason: str) -> None:
        """End the link."""
        if not self.is_ending:
            self.send(Goodbye(int(code), reason))
            self.is_ending = True


class WireChannel:
    """Messages as bytes, under the rules."""

    def __init__(self, hello: Hello, has_output: Callable[[], object]) -> None:
        """As `PlainChannel`."""
        self._has_output = has_output
        self.messages_sent = 0
        self.is_ending = False
        self.outbox: list[Any] = []
        self._link = ControlLink(hello)

    def start(self) -> None:
        """Introduce ourselves."""
        self._link.start()
        self._take_output()

    def send(self, message: Message) -> bool:
        """Queue a message. Raises `LocalProtocolError` where the rules forbid it."""
        if self._link.state is not LinkState.OPEN or not self._link.send(message):
            return False
        self.messages_sent += 1
        self._take_output()
        return True

    def _take_output(self) -> None:
        if not self.outbox:
            self._has_output()
        self.outbox.append(self._link.poll_output())

    def receive(self, parcels: Iterable[Any]) -> Iterator[Message]:
        """Return the messages of the other end, one after the other. Raises `RemoteProtocolError`."""
        for parcel in parcels:
            yield from self._link.handle_bytes(parcel)

    def next_handle(self) -> int:
        """Return a handle for our next Subscribe."""
        return self._link.next_handle()

    def next_request_id(self) -> int:
        """Return an id for our next Request."""
        return self._link.next_request_id()

    def next_stream_id(self) -> int:
        """Return an id for our next StreamOpen."""
        return self._link.next_stream_id()

    def cancel_request(self, request_id: int) -> None:
        """Withdraw a request of ours, unless it is over."""
        if self._link.is_request_live(Side.LOCAL, request_id):
            self.send(Cancel(request_id))

    def reject_request(self, request_id: int, code: str) -> None:
        """Refuse a request of theirs, unless it is over."""
        if self._link.is_request_live(Side.REMOTE, request_id):
            self.send(Reject(request_id, code))

    def finish_request(self, side: Side, request_id: int) -> None:
        """Note that the payload of a request has gone over."""
        self._link.finish_request(side, request_id)

    def close(self, code: GoodbyeCode, reason: str) -> None:
        """End the link."""
        if not self.is_ending:
            self.is_ending = True
            self.send(Goodbye(int(code), reason))
