"""Who gets how much of the tracker, so that nobody can take all of it.

Connections, bytes of bodies and of answers, and long polls have a total, and each address a share of it. The last part
of a total is for those who are known: addresses from which heartbeats have been taken lately. What is refused is
answered at once with the reason, and counted (`Status.refused`).

An idle connection costs a descriptor and nothing else, so before anybody is refused one for lack of them an idle one
is closed: of the same address where its share is used up, else of that which has most. Those that have never asked
anything go first. So a flood of idle connections shuts out nobody, wherever it comes from. Totals follow from the
descriptors that the process may have (`bounds_for`).

Times: a first request must have come within `HEAD_WAIT_S`; bodies and answers move at `RATE_MIN_BYTES_S` or faster.
Each caller may make so many calls a second (`call_rates`).
"""

from __future__ import annotations

import logging
import resource
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec
import trio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from p2pfill.model.hosts import address_of
from p2pfill.model.limits import KIB, MIB
from p2pfill.tracker.call_rates import CallRates
from p2pfill.tracker.callers import Caller
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.records import ErrorReply

DESCRIPTORS_RESERVED: Final = 64
"""Beside connections: the database, its log and count, tables of routes, the event loop, `REFUSING_MAX`."""

CONNECTIONS_MIN: Final = 8
CONNECTIONS_MAX: Final = 1 << 16
"""Three for each of 20,000 caches; some tens of kilobytes of memory each, however many descriptors there are."""

REFUSING_MAX: Final = 16
"""Connections that are told at once that they are too many; the others are closed without a word."""

REFUSING_S: Final = 1.0
HEAD_WAIT_S: Final = 10.0
"""From when a connection is made until its first request has come, without its body."""

SWEEP_S: Final = 1.0
GRACE_S: Final = 10.0
"""For the first bytes, and for a pause."""

RATE_MIN_BYTES_S: Final = 16 * KIB
"""A quarter of the slowest line that caches are on; a call that is slower holds what others need."""

PIECE_BYTES: Final = 256 * KIB
"""Of an answer, which the reader must have taken within `GRACE_S` and its time at the least rate."""

BODY_FREE_BYTES: Final = 64 * KIB
"""Of a body, which are not counted: any heartbeat but the first ones after a restart."""

BODIES_BYTES_MAX: Final = 1024 * MIB
"""Of all bodies that are coming in: two of the longest manifests."""

ANSWERS_BYTES_MAX: Final = 512 * MIB
"""Of all long answers that are going out: two of the longest that clients read."""

LONG_BYTES: Final = 1 * MIB
"""Answers from this length on are counted."""

POLLS_OF_NODE_MAX: Final = 4
"""Long polls for the orders of one node: one, and those of before that have not noticed that they are cut off."""

WAITING_MAX: Final = 8
"""Calls of one address that wait for what is done one at a time, such as reports and manifests."""

KNOWN_S: Final = 600.0
"""How long an address is known after a heartbeat: a cache that has lost its line for some minutes still is."""

KNOWN_MAX: Final = 100_000
LOGGED_S: Final = 10.0
"""A reason for refusing is logged once in so long."""

_log = logging.getLogger("p2pfill.tracker")


class Bounds(NamedTuple):
    """Totals that follow from the process's descriptors."""

    connections: int
    of_address: int
    reserved: int
    """Of all connections, for those who are known."""
    polls_of_address: int


def bounds_for(descriptors: int) -> Bounds:
    """Return the bounds of a process that may have so many descriptors."""
    total = min(max(CONNECTIONS_MIN, descriptors - DESCRIPTORS_RESERVED, descriptors // 2), CONNECTIONS_MAX)
    # Half for one address: there may be a fleet behind it. Of that a quarter is left for calls that end.
    return Bounds(total, max(1, total // 2), total // 4, max(1, total * 3 // 8))


def descriptors_max() -> int:
    """Return how many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


class Shares:
    """How much of one thing is taken, in all and by each address.

    Invariant: an address that has taken nothing is not in `_taken`.
    """

    def __init__(self, total: int, each: int, reserved: int) -> None:
        self._total, self._each, self._reserved = total, each, reserved
        self._taken: Counter[str] = Counter()
        self.taken = 0

    def take(self, address: str, count: int = 1, *, is_known: bool = False) -> bool:
        """Take more; False where that is too much, and nothing is taken."""
        total = self._total if is_known else self._total - self._reserved
        if self.taken + count > total or self._taken[address] + count > self._each:
            if not self._taken[address]:
                del self._taken[address]
            return False
        self._taken[address] += count
        self.taken += count
        return True

    def give_back(self, address: str, count: int = 1) -> None:
        """Give back what was taken."""
        self._taken[address] -= count
        self.taken -= count
        if not self._taken[address]:
            del self._taken[address]


class Paced(trio.abc.HalfCloseableStream):
    """A connection's stream, of which is known since when a piece waits to be read by the other side."""

    def __init__(self, stream: trio.SocketStream, address: str) -> None:
        self._stream = stream
        self.address = address
        self.socket = stream.socket
        """As servers expect it."""
        self.waits_since: float | None = None
        """None while nothing does."""

    def is_late(self, now: float) -> bool:
        """Tell whether the other side takes a piece too slowly."""
        return self.waits_since is not None and now - self.waits_since > GRACE_S + PIECE_BYTES / RATE_MIN_BYTES_S

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send. Raises `trio.ClosedResourceError` where the other side takes it too slowly (`Admission.run`)."""
        view = memoryview(data)
        try:
            for at in range(0, max(1, len(view)), PIECE_BYTES):
                self.waits_since = trio.current_time()  # a cancel scope for each would cost each call more
                await self._stream.send_all(view[at : at + PIECE_BYTES])
        finally:
            self.waits_since = None

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until something can be sent."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what has come."""
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Send no more."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close it."""
        await self._stream.aclose()


class Connection:
    """One connection. Each call in progress counts in `calls`; without any it is idle."""

    def __init__(self, stream: trio.SocketStream, address: str, peer: tuple[str, int], began: float) -> None:
        self.stream, self.address, self.peer, self.began = stream, address, peer, began
        self.paced = Paced(stream, address)
        self.calls = 0

    def close(self) -> None:
        """Close it now; its task ends of that."""
        self.stream.socket.close()


class Address:
    """The connections of one address."""

    def __init__(self) -> None:
        self.count = 0
        self.fresh: dict[Connection, None] = {}
        """Those that have never asked anything, the oldest first."""
        self.idle: dict[Connection, None] = {}
        """Those that have, and ask nothing now, the longest idle first."""

    @property
    def idle_count(self) -> int:
        """How many may be closed."""
        return len(self.fresh) + len(self.idle)


class Admission:
    """All shares of one tracker. `refused` counts, by reason, who was refused."""

    def __init__(self, refused: Counter[str], *, is_secure: bool = False) -> None:
        """`is_secure`: callers speak TLS, and are not answered in the clear."""
        self.bounds = bounds_for(descriptors_max())
        self._is_secure = is_secure
        self._refused = refused
        self._logged: dict[str, float] = {}
        self._known: dict[str, float] = {}
        self._addresses: dict[str, Address] = {}
        self._connections: dict[tuple[str, int], Connection] = {}
        self._refusing = 0
        reserved = BODIES_BYTES_MAX // 4
        self._bodies = Shares(BODIES_BYTES_MAX, BODIES_BYTES_MAX - 2 * reserved + MIB, reserved)
        self._answers = Shares(ANSWERS_BYTES_MAX, ANSWERS_BYTES_MAX * 5 // 8, ANSWERS_BYTES_MAX // 4)
        self._polls = Shares(self.bounds.connections, self.bounds.polls_of_address, self.bounds.reserved)
        self._polls_of_node: Counter[str] = Counter()
        self._waiting: Counter[tuple[str, str]] = Counter()
        self._rates = CallRates()

    # ---- who is known, and what is refused

    def know(self, address: str) -> None:
        """Note that a heartbeat of an address was taken."""
        self._known.pop(address, None)
        self._known[address] = trio.current_time()
        if len(self._known) > KNOWN_MAX:
            del self._known[next(iter(self._known))]

    def is_known(self, address: str) -> bool:
        """Tell whether one was taken lately."""
        return trio.current_time() - self._known.get(address, float("-inf")) < KNOWN_S

    def note(self, reason: str, address: str) -> None:
        """Count something that was refused, and log it once in a while."""
        self._refused[reason] += 1
        now = trio.current_time()
        if now - self._logged.get(reason, float("-inf")) >= LOGGED_S:
            self._logged[reason] = now
            _log.warning("refused %s: %s (%d so far)", address, reason, self._refused[reason])

    def _refuse(self, reason: str, address: str, status: int) -> RequestRefused:
        self.note(reason, address)
        return RequestRefused(f"{reason}; try again later", status)

    # ---- connections

    async def serve(self, stream: trio.SocketStream, run: Callable[[Paced], Awaitable[None]]) -> None:
        """Have a connection served by `run`, or refuse it."""
        try:
            host, port = stream.socket.getpeername()[:2]
        except OSError:
            return  # it has gone already
        connection = Connection(stream, address_of(host), (host, port), trio.current_time())
        if (reason := self._admit(connection)) is not None:
            await self._turn_away(stream, reason, connection.address)
            return
        try:
            await run(connection.paced)
        finally:
            self._leave(connection)

    def _admit(self, connection: Connection) -> str | None:
        """Let a connection in; return why not, if not."""
        place = self._addresses.get(connection.address) or Address()
        total = self.bounds.connections - (0 if self.is_known(connection.address) else self.bounds.reserved)
        if place.count >= self.bounds.of_address and not self._close_idle(place):
            return "too many connections of one address"
        # One that was closed to make room leaves in a moment.
        if len(self._connections) >= total and not self._close_idle(self._most_idle()):
            return "too many connections"
        self._addresses[connection.address] = place
        self._connections[connection.peer] = connection
        place.count += 1
        place.fresh[connection] = None
        return None

    def _most_idle(self) -> Address:
        return max(self._addresses.values(), key=lambda one: one.idle_count, default=Address())

    def _close_idle(self, place: Address) -> bool:
        for one in (*place.fresh, *place.idle)[:1]:
            self._leave(one)
            one.close()
            self.note("an idle connection was closed to make room", one.address)
            return True
        return False

    def _leave(self, connection: Connection) -> None:
        if self._connections.get(connection.peer) is not connection:
            return
        del self._connections[connection.peer]
        place = self._addresses[connection.address]
        place.count -= 1
        place.fresh.pop(connection, None)
        place.idle.pop(connection, None)
        if not place.count:
            del self._addresses[connection.address]

    async def _turn_away(self, stream: trio.SocketStream, reason: str, address: str) -> None:
        self.note(reason, address)
        if self._refusing >= REFUSING_MAX or self._is_secure:
            return
        self._refusing += 1
        try:
            with trio.move_on_after(REFUSING_S):
                await stream.send_all(_answer(reason))
                await stream.send_eof()
                await stream.receive_some(4096)  # else what was not read makes it a reset, and the answer is lost
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._refusing -= 1

    async def run(self) -> None:
        """Close connections that do not ask anything, or do not read what they are answered, for ever."""
        while True:
            await trio.sleep(SWEEP_S)
            for one in list(self._connections.values()):
                if one.paced.is_late(trio.current_time()):
                    self._leave(one)
                    one.close()
                    self.note("an answer was not read", one.address)
            oldest = trio.current_time() - HEAD_WAIT_S
            for place in list(self._addresses.values()):
                for one in list(place.fresh):
                    if one.began > oldest:
                        break
                    self._leave(one)
                    one.close()
                    self.note("no request came over a connection", one.address)

    # ---- calls

    def call(self, caller: Caller) -> None:
        """Count a call. Raises `RequestRefused` where its caller makes too many."""
        wait_s = self._rates.wait_s(caller.key, trio.current_time(), is_named=caller.identity is not None)
        if wait_s:
            reason = "too many calls a second of one caller"
            self.note(reason, f"{caller.address} ({caller.who})")
            raise RequestRefused(f"{reason}; try again later", 429, wait_s)

    def wrap(self, app: ASGIApp) -> ASGIApp:
        """Return `app`, of which each call counts for its connection, and long answers for their address."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            connection = self._connections.get(tuple(scope.get("client") or ()))
            if connection is None or scope["type"] != "http":
                await app(scope, receive, send)
                return
            place = self._addresses[connection.address]
            connection.calls += 1
            place.fresh.pop(connection, None)
            place.idle.pop(connection, None)
            try:
                await app(scope, receive, self._bounded(send, connection.address))
            finally:
                connection.calls -= 1
                if not connection.calls and self._connections.get(connection.peer) is connection:
                    place.idle[connection] = None

        return counted

    def _bounded(self, send: Send, address: str) -> Send:
        """Return `send`, which refuses an answer that would take too much memory until it is read."""
        start: list[Message] = []

        async def bounded(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.append(message)
                return
            size = len(message.get("body", b""))
            if size < LONG_BYTES:
                await _send_all(send, start, message)
                return
            if not self._answers.take(address, size, is_known=self.is_known(address)):
                reason = "too many long answers are not read yet"
                self.note(reason, address)
                refusal = msgspec.json.encode(ErrorReply(f"{reason}; try again later"))
                headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(refusal))]
                start[:] = [{"type": "http.response.start", "status": 503, "headers": headers}]
                await _send_all(send, start, {"type": "http.response.body", "body": refusal})
                return
            try:
                await _send_all(send, start, message)
            finally:
                self._answers.give_back(address, size)

        return bounded

    @contextmanager
    def body(self, address: str) -> Iterator[Callable[[int], None]]:
        """Give a function that is to be told of each piece of a body; it raises `RequestRefused`."""
        length = counted = 0

        def take(count: int) -> None:
            nonlocal length, counted
            length += count
            more = max(0, length - BODY_FREE_BYTES) - counted
            if more and not self._bodies.take(address, more, is_known=self.is_known(address)):
                raise self._refuse("too many bytes of bodies are coming in", address, 503)
            counted += more

        try:
            yield take
        finally:
            self._bodies.give_back(address, counted)

    @contextmanager
    def poll(self, address: str, node_id: str) -> Iterator[None]:
        """Hold a long poll. Raises `RequestRefused`."""
        if self._polls_of_node[node_id] >= POLLS_OF_NODE_MAX:
            raise self._refuse("too many long polls for one node", address, 429)
        if not self._polls.take(address, is_known=self.is_known(address)):
            raise self._refuse("too many long polls", address, 429)
        self._polls_of_node[node_id] += 1
        try:
            yield
        finally:
            self._polls.give_back(address)
            self._polls_of_node[node_id] -= 1
            if not self._polls_of_node[node_id]:
                del self._polls_of_node[node_id]

    @contextmanager
    def waiting(self, caller: str, what: str) -> Iterator[None]:
        """Wait for, and do, what is done one at a time or a few; `caller` is an address or a node.

        Raises `RequestRefused`.
        """
        if self._waiting[caller, what] >= WAITING_MAX:
            raise self._refuse(f"too many calls of one caller wait for {what}", caller, 429)
        self._waiting[caller, what] += 1
        try:
            yield
        finally:
            self._waiting[caller, what] -= 1
            if not self._waiting[caller, what]:
                del self._waiting[caller, what]


async def _send_all(send: Send, start: list[Message], message: Message) -> None:
    while start:
        await send(start.pop(0))
    await send(message)


def _answer(reason: str) -> bytes:
    body = msgspec.json.encode(ErrorReply(f"{reason}; try again later"))
    head = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
    return f"{head}connection: close\r\ncontent-length: {len(body)}\r\n\r\n".encode("ascii") + body
