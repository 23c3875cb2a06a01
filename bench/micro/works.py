"""What is measured: small pieces of the product, each as a function that does it a number of times.

Timing (`test_micro.py`) and counting of instructions (`instructions.py`) run the same works. Each is seeded, so that it
takes the same way every time. A work opens as a context manager, which makes what it needs before the clock starts.
"""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import tempfile
import threading
from array import array
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import trio
from blake3 import blake3

from bench.handshakes import make_credentials
from bench.micro import course, way
from bench.micro.heartbeats import NODE_COUNT, make_report
from p2pfill import _native
from p2pfill.hot import _pure_bits, _pure_io, bits, io
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import NodeReport
from p2pfill.model.timing import ANNOUNCE_S
from p2pfill.protocol.framing import Deframer, VersionRange, encode_frame, encode_preamble
from p2pfill.protocol.messages import Have, Message, Ping, Request, decode_payload, encode_payload
from p2pfill.swarm.election import STRIPES_MAX, elect, elect_masters
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.ranking import Candidate, rank_sources
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service
from p2pfill.transport.secure import TlsLayer
from p2pfill.trust.credentials import Credentials

Run = Callable[[int], object]
"""Does a work so many times."""

CHUNK_BYTES: Final = course.CHUNK_BYTES
SLICE_BYTES: Final = 64 * 1024
"""Fits the buffer of a socket, so that one thread can send it and take it in again."""

FEW_CHUNKS: Final = 1500
FEW_NODES: Final = 50
"""Of smaller courses and fleets, for counting."""

NEWS_CHUNKS: Final = round(3 * ANNOUNCE_S * course.CHUNKS_S)
"""Chunks that come while news is exchanged three times. A part of a round would count as much as that round's place."""

TWINS: Final = {"native": (_native, _native), "pure": (_pure_bits, _pure_io)}


class Work(NamedTuple):
    """One piece of the product."""

    name: str
    unit: str
    """What is done once."""
    open: Callable[[], AbstractContextManager[Run]]
    times: int
    """How often it is done for one figure."""
    has_twin: bool = False
    times_pure: int = 1
    """How often its pure twin is."""
    bytes_each: int = 0
    times_counted: int = 0
    """How often it is done to count its instructions, and then twice as often; 0 where they are not counted."""
    open_small: Callable[[], AbstractContextManager[Run]] | None = None
    """To count it with less around it, where making all takes minutes at a fiftieth of a processor's speed."""


@contextmanager
def using(twin: str) -> Iterator[None]:
    """Have `p2pfill.hot` use one of `TWINS`."""
    before = bits._twin, io._twin
    bits._twin, io._twin = TWINS[twin]  # type: ignore[assignment]
    try:
        yield
    finally:
        bits._twin, io._twin = before


def repeat(do: Callable[[], object]) -> Run:
    """Return a function that calls `do` so many times."""

    def run(times: int) -> None:
        for _ in range(times):
            do()

    return run


# ---- bytes


@contextmanager
def hash_xxh3(size: int) -> Iterator[Run]:
    """XXH3-128 of a buffer."""
    data = random.Random(1).randbytes(size)
    yield repeat(lambda: io.xxh3_128(data))


@contextmanager
def hash_blake3(size: int) -> Iterator[Run]:
    """BLAKE3 of a buffer, on one thread, as chunks are checked."""
    data = random.Random(1).randbytes(size)
    yield repeat(lambda: blake3(data).digest())


@contextmanager
def chunk_file() -> Iterator[int]:
    """Yield a descriptor of a file that holds one chunk."""
    with tempfile.TemporaryFile() as file:
        file.write(random.Random(1).randbytes(CHUNK_BYTES))
        file.flush()
        yield file.fileno()


@contextmanager
def tcp_pair(other_side: Callable[[socket.socket], None]) -> Iterator[socket.socket]:
    """Yield a non-blocking TCP socket of the loopback; a thread does `other_side` until the connection ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    thread = threading.Thread(target=other_side, args=(other,))
    thread.start()
    with sock:
        sock.setblocking(False)
        yield sock
        sock.shutdown(socket.SHUT_RDWR)
    thread.join()


def move_chunk(sock: socket.socket, event: int, move: Callable[[int, int], int]) -> Run:
    """Return a function that moves so many chunks; where `move` of an offset and a length does less, it waits."""
    poll = select.poll()
    poll.register(sock, event)

    def do() -> None:
        moved = move(0, CHUNK_BYTES)
        while moved < CHUNK_BYTES:
            poll.poll()
            moved += move(moved, CHUNK_BYTES - moved)

    return repeat(do)


@contextmanager
def send() -> Iterator[Run]:
    """Send a chunk from a file over TCP to a thread that throws it away."""

    def swallow(sock: socket.socket) -> None:
        with sock:
            while sock.recv(CHUNK_BYTES, socket.MSG_TRUNC):
                pass

    with chunk_file() as file, tcp_pair(swallow) as sock:
        yield move_chunk(sock, select.POLLOUT, partial(io.send_file, sock.fileno(), file))


@contextmanager
def receive() -> Iterator[Run]:
    """Receive a chunk over TCP into a file, hashing it on the way, from a thread that sends the same one for ever."""

    def feed(sock: socket.socket) -> None:
        with sock, chunk_file() as file:
            try:
                while True:
                    os.sendfile(sock.fileno(), file, 0, CHUNK_BYTES)
            except OSError:
                return  # the connection has ended

    with chunk_file() as file, tcp_pair(feed) as sock:
        receiver = io.ChunkReceiver()
        yield move_chunk(sock, select.POLLIN, partial(receiver.recv_to_file, sock.fileno(), file))


@contextmanager
def move_slice() -> Iterator[Run]:
    """Send a slice from a file and receive it into another: both ends in one thread, without any waiting."""
    left, right = socket.socketpair()
    with left, right, chunk_file() as source, chunk_file() as target:
        left.setblocking(False)
        right.setblocking(False)
        receiver = io.ChunkReceiver()

        def move() -> None:
            io.send_file(left.fileno(), source, 0, SLICE_BYTES)
            receiver.recv_to_file(right.fileno(), target, 0, SLICE_BYTES)

        yield repeat(move)


# ---- messages

MESSAGES: Final[tuple[Message, ...]] = (
    Have(1, tuple(range(0, 4800, 100))),
    *(Request(number, 1, number) for number in range(1, 49)),
    Ping(1),
)
"""What a link carries in one `ANNOUNCE_S` at 5 GB/s from one source: its news, and requests."""


@contextmanager
def encode() -> Iterator[Run]:
    """Make frames of messages."""
    yield repeat(lambda: [encode_frame(encode_payload(message)) for message in MESSAGES])


@contextmanager
def decode() -> Iterator[Run]:
    """Cut what has come over a link into frames and make messages of them."""
    stream = b"".join(encode_frame(encode_payload(message)) for message in MESSAGES)
    deframer = Deframer()
    deframer.feed(encode_preamble(VersionRange()))
    deframer.poll_preamble()

    def take() -> list[Message]:
        deframer.feed(stream)
        return [decode_payload(frame) for frame in deframer.poll_frames()]

    assert take() == list(MESSAGES)
    yield repeat(take)


@contextmanager
def seal() -> Iterator[Run]:
    """Encrypt a message of a control link with certificates, and decrypt it at the other end."""
    with tempfile.TemporaryDirectory() as scratch:
        near, far = join(*make_credentials(Path(scratch), 0))
    data = encode_frame(encode_payload(Request(7, 4711, 12)))

    def pass_on() -> None:
        found, _ = far.unseal(near.seal(data))
        assert found == data

    yield repeat(pass_on)


def join(accepting: Credentials, connecting: Credentials) -> tuple[TlsLayer, TlsLayer]:
    """Return both ends of an encrypted link, after their handshake."""
    ends = TlsLayer(connecting.connecting, accepting=False), TlsLayer(accepting.accepting, accepting=True)
    for end, other in (ends, ends[::-1], ends, ends[::-1]):
        with suppress(ssl.SSLWantReadError):
            end._tls.do_handshake()
        other._coming.write(end._going.read())
    for end in ends:
        end.unseal(b"")
    return ends


# ---- decisions


@contextmanager
def pick_rarest() -> Iterator[Run]:
    """Find the rarest of the chunks that a source holds and this cache lacks."""
    chance = random.Random(1)
    count = course.CHUNK_COUNT
    have, wanted = chance.randbytes((count + 7) // 8), chance.randbytes((count + 7) // 8)
    rarity = array("H", [chance.randrange(1, 50) for _ in range(count)])
    yield repeat(lambda: bits.pick_rarest(have, wanted, rarity, count // 3))


@contextmanager
def schedule(source_count: int, *, filling: bool, chunk_count: int = course.CHUNK_COUNT) -> Iterator[Run]:
    """Decide about one chunk: see `course`. When a course is over, the next one begins."""
    make = partial(course.Course, source_count, filling=filling, chunk_count=chunk_count)
    running = make()

    def run(times: int) -> None:
        nonlocal running
        while times := times - running.run(times):
            running = make()

    yield run


def group(count: int) -> dict[str, float]:
    """Return the caches of an ISP, not all of the same weight."""
    return {f"c{number:03}": 1.0 + number % 3 for number in range(count)}


@contextmanager
def elect_one_group() -> Iterator[Run]:
    """Elect the masters of all stripes in a group of 50."""
    title, caches = course.make_manifest(STRIPES_MAX).title_id, group(50)
    yield repeat(lambda: elect(title, range(STRIPES_MAX), caches))


@contextmanager
def elect_by_reach() -> Iterator[Run]:
    """Elect the masters of all stripes of an ISP of 50 caches, by how far each has to go."""
    title, caches = course.make_manifest(STRIPES_MAX).title_id, group(50)
    chance = random.Random(1)
    reaches = {stripe: chance.randrange(3) for stripe in range(STRIPES_MAX)}
    yield repeat(lambda: elect_masters(title, reaches, caches))


# ---- the tracker


@contextmanager
def rank() -> Iterator[Run]:
    """Rank 50 sources for one node."""
    nodes = [NodeInfo(NodeId(f"c{n:03}"), f"isp{n % 3}", "eu", cluster=f"s{n % 2}", port=4000) for n in range(50)]
    candidates = [
        Candidate(node, filling=number % 2 == 0, have_chunks=500 * number, chunk_count=25_000, upload_queued=number)
        for number, node in enumerate(nodes)
    ]
    yield repeat(lambda: rank_sources(nodes[0], candidates))


@contextmanager
def ingest(node_count: int) -> Iterator[Run]:
    """Take in heartbeats of a fleet of nodes that are all filling one title: from JSON to the tracker's memory.

    Each heartbeat is a new one of the next node.
    """
    catalogue = Catalogue.open("sqlite:///:memory:")
    try:
        service, title = trio.run(_tracker_with_fill, catalogue, node_count)
        done = 0

        def run(times: int) -> None:
            nonlocal done
            for _ in range(times):
                sequence, number = divmod(done, node_count)
                body = bodies[number].replace(b'"sequence":2', b'"sequence":%d' % (sequence + 2), 1)
                report = msgspec.json.decode(body, type=NodeReport)
                service.handle_heartbeat(report.info.id, report)
                done += 1

        bodies = [msgspec.json.encode(make_report(number, 2, title)) for number in range(node_count)]
        yield run
    finally:
        catalogue.close()


async def _tracker_with_fill(catalogue: Catalogue, node_count: int) -> tuple[Service, str]:
    service = Service(catalogue, await catalogue.load(), heartbeat_s=2.0, now=lambda: 0.0)
    manifest = course.make_manifest(course.CHUNK_COUNT)
    title = manifest.title_id.hex()
    await service.add_title(title, manifest, manifest.encode())
    for number in range(node_count):
        report = make_report(number, 1, title)
        service.handle_heartbeat(report.info.id, report)
    await service.add_fill(FillRequest(title, "all", ["http://origin/"]))
    return service, title


def _works() -> Iterator[Work]:
    chunk = "chunk of 4 MiB"
    yield Work("hash-xxh3", chunk, partial(hash_xxh3, CHUNK_BYTES), 20, True, 20, CHUNK_BYTES, 1)
    yield Work("hash-blake3", chunk, partial(hash_blake3, CHUNK_BYTES), 5, bytes_each=CHUNK_BYTES)
    yield Work("send", chunk, send, 20, True, 20, CHUNK_BYTES)
    yield Work("receive", chunk, receive, 20, True, 20, CHUNK_BYTES)
    yield Work("slice", "slice of 64 KiB, sent and received", move_slice, 200, True, 200, SLICE_BYTES, 10)
    yield Work("encode", f"{len(MESSAGES)} messages", encode, 100, times_counted=5)
    yield Work("decode", f"{len(MESSAGES)} messages", decode, 100, times_counted=5)
    yield Work("seal", "message of a link with certificates, encrypted and decrypted", seal, 2000, times_counted=100)
    yield Work("pick-rarest", "pick of 25,000 chunks", pick_rarest, 200, True, 1, times_counted=4)
    yield Work(
        "elect", f"election of {STRIPES_MAX} stripes by 50 caches", elect_one_group, 10, True, 1, times_counted=1
    )
    yield Work(
        "elect-masters", f"election of {STRIPES_MAX} stripes by reach", elect_by_reach, 10, True, 1, times_counted=1
    )
    for count, times, counted in ((1, 3000, NEWS_CHUNKS), (50, 3000, NEWS_CHUNKS), (500, 400, 0)):
        for filling, state in ((False, "have all"), (True, "are filling too")):
            name, unit = f"schedule-{count}{'-filling' * filling}", f"chunk from {count} caches that {state}"
            make = partial(schedule, count, filling=filling)
            yield Work(name, unit, make, times, True, 10, 0, counted, partial(make, chunk_count=FEW_CHUNKS))
    whole, few = way.whole_way, partial(way.whole_way, way.FEW_CHUNKS)
    unit = "chunk of 64 KiB, all of its way from one cache to another"
    yield Work("way", unit, whole, 500, bytes_each=way.CHUNK_BYTES, times_counted=way.CHUNKS_COUNTED, open_small=few)
    yield Work("rank", "ranking of 50 sources", rank, 50, times_counted=2)
    make, few = partial(ingest, NODE_COUNT), partial(ingest, FEW_NODES)
    yield Work("ingest", f"heartbeat of {NODE_COUNT:,} nodes", make, 2000, times_counted=20, open_small=few)


WORKS: Final[dict[str, Work]] = {work.name: work for work in _works()}


@contextmanager
def open_work(work: Work, twin: str, *, small: bool = False) -> Iterator[Run]:
    """Open a work that uses one of `TWINS`; a smaller one if asked for, where there is one."""
    make = work.open_small if small and work.open_small is not None else work.open
    with using(twin), make() as run:
        yield run
