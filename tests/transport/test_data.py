"""The data path over real sockets and files."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio
import xxhash

from p2pfill.errors import RemoteProtocolError, StoreError, TransferError
from p2pfill.model.ids import TitleId
from p2pfill.model.urgency import Urgency
from p2pfill.protocol.data import DataHeader, encode_header
from p2pfill.transport import data
from p2pfill.transport import plane as plane_module
from p2pfill.transport.plane import DataPlane
from p2pfill.transport.uploads import Wanted

TITLE = TitleId(bytes(32))
WANTED = Wanted(Urgency(), TITLE)


class Files:
    """A chunk that spans several files, as a title's chunk may."""

    def __init__(self, folder: Path, sizes: list[int]) -> None:
        self.sizes = sizes
        self.fds = [os.open(folder / str(i), os.O_RDWR | os.O_CREAT) for i in range(len(sizes))]

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        at = 0
        for fd, size in zip(self.fds, self.sizes, strict=True):
            skip = min(max(start - at, 0), size)
            if skip < size:
                yield fd, skip, size - skip
            at += size

    def write(self, payload: bytes) -> None:
        at = 0
        for fd, size in zip(self.fds, self.sizes, strict=True):
            os.pwrite(fd, payload[at : at + size], 0)
            at += size

    def read(self) -> bytes:
        return b"".join(os.pread(fd, size, 0) for fd, size in zip(self.fds, self.sizes, strict=True))


SIZES = [1, 700_000, 3, 2_000_000, 64]


def two_titles(tmp_path: Path) -> tuple[Files, Files, bytes]:
    for side in "ab":
        (tmp_path / side).mkdir()
    source, target = Files(tmp_path / "a", SIZES), Files(tmp_path / "b", SIZES)
    payload = os.urandom(sum(SIZES))
    source.write(payload)
    return source, target, payload


@pytest.fixture
async def plane() -> AsyncIterator[DataPlane]:
    async with DataPlane(workers=2, upload_slots=1).running() as running:
        yield running


class Outbox:
    """What a sender is given to send, and has sent; `done` is set when all of it is."""

    def __init__(self, plane: DataPlane, sock: trio.socket.SocketType, uploads: list[data.Upload]) -> None:
        self.uploads = uploads
        self.sent: list[DataHeader] = []
        self.done = trio.Event()
        self._left = len(uploads)
        self.sender = data.Sender(sock, plane, self.take, self.wanted, self.note)

    def take(self) -> data.Upload | None:
        return self.uploads.pop(0) if self.uploads else None

    def wanted(self) -> Wanted | None:
        return self.uploads[0].wanted if self.uploads else None

    def note(self, header: DataHeader) -> None:
        self.sent.append(header)
        if len(self.sent) >= self._left:
            self.done.set()


class Inbox:
    """What a receiver expects and gets."""

    def __init__(self, title: Files, payload: bytes, checks: bool = True) -> None:
        digest = xxhash.xxh3_128_digest(payload)
        self.turn = data.Turn()
        self.turn.holder = 77
        self.delivery = data.Delivery(title, self.turn, 77, 3, len(payload), digest, lambda chunk: checks)
        self.withdrawn: set[int] = set()
        self.got: list[tuple[int, str]] = []

    def expect(self, header: DataHeader) -> data.Delivery | None:
        return None if header.request_id in self.withdrawn else self.delivery

    def deliver(self, header: DataHeader, fault: str) -> None:
        self.got.append((header.request_id, fault))

    def receiver(self, plane: DataPlane, sock: trio.socket.SocketType) -> data.Receiver:
        return data.Receiver(sock, plane, self.expect, self.deliver)


async def test_chunks_arrive_whole_and_hashed(plane: DataPlane, tmp_path: Path) -> None:
    source, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    uploads = [data.Upload(DataHeader(number, 3, len(payload)), source, WANTED) for number in range(40)]
    inbox = Inbox(target, payload)
    inbox.withdrawn = {5, 39}
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(plane, far).run)
            async with trio.open_nursery() as sending:
                outbox = Outbox(plane, near, uploads)
                sending.start_soon(outbox.sender.run)
                await outbox.done.wait()
                sending.cancel_scope.cancel()
            near.close()
    assert inbox.got == [(n, "withdrawn" if n in inbox.withdrawn else "") for n in range(40)]
    assert [header.request_id for header in outbox.sent] == list(range(40))
    assert target.read() == payload


async def test_a_stream_wakes_before_its_window_is_full(plane: DataPlane, tmp_path: Path) -> None:
    """A remote that may send no more before it is read from, and a reader that waits for more, stand still."""
    _, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    buffer_bytes = far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with near, far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Inbox(target, payload).receiver(plane, far).run)
            await near.send(encode_header(DataHeader(0, 3, len(payload))))
            with trio.fail_after(10):
                while (low_water := far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)) == 1:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert low_water == buffer_bytes // 4


@pytest.mark.parametrize(("forged", "checks", "fault"), [(True, True, "XXH3"), (False, False, "BLAKE3")])
async def test_wrong_digests_are_told_apart(
    plane: DataPlane, tmp_path: Path, forged: bool, checks: bool, fault: str
) -> None:
    source, target, payload = two_titles(tmp_path)
    if forged:
        source.write(payload[:-1] + bytes([payload[-1] ^ 1]))
    near, far = trio.socket.socketpair()
    inbox = Inbox(target, payload, checks)
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(plane, far).run)
            async with trio.open_nursery() as sending:
                outbox = Outbox(plane, near, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
                sending.start_soon(outbox.sender.run)
                await outbox.done.wait()
                sending.cancel_scope.cancel()
            near.close()
    assert inbox.got == [(1, f"wrong {fault} digest")]


async def test_a_request_that_was_given_up_writes_no_more(plane: DataPlane, tmp_path: Path) -> None:
    """Its late bytes must not fall on those of the request that took its place, whatever its source sends."""
    _, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    inbox = Inbox(target, payload)
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(plane, far).run)
            await near.send(encode_header(DataHeader(1, 3, len(payload))) + bytes(1000))
            while target.read()[:1000] != bytes(1000):
                await trio.sleep(0.01)
            inbox.turn.holder = 78
            with inbox.turn.lock:
                target.write(payload)
            rest = memoryview(bytes(len(payload) - 1000))
            while rest:
                rest = rest[await near.send(rest) :]
            near.close()
    assert target.read() == payload
    assert inbox.got == [(1, "withdrawn")]


async def test_a_stream_that_breaks_inside_a_chunk_is_a_transfer_error(plane: DataPlane, tmp_path: Path) -> None:
    _, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    with far, trio.fail_after(20):
        await near.send(encode_header(DataHeader(1, 3, len(payload))) + payload[:1000])
        near.close()
        with pytest.raises(TransferError, match="after 1000 bytes"):
            await Inbox(target, payload).receiver(plane, far).run()


async def test_a_disk_that_refuses_is_not_the_sources_fault(plane: DataPlane, tmp_path: Path) -> None:
    _, target, payload = two_titles(tmp_path)
    full = os.open("/dev/full", os.O_RDWR)
    target.fds[1] = full
    near, far = trio.socket.socketpair()
    with near, far, trio.fail_after(20):
        await near.send(encode_header(DataHeader(1, 3, len(payload))) + payload[:1000])
        with pytest.raises((StoreError, TransferError)) as caught:
            await Inbox(target, payload).receiver(plane, far).run()
    assert isinstance(caught.value, StoreError)


async def test_a_file_that_shrank_is_a_transfer_error(plane: DataPlane, tmp_path: Path) -> None:
    source, _, payload = two_titles(tmp_path)
    os.ftruncate(source.fds[3], 10)
    near, far = trio.socket.socketpair()
    with near, far:
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                while await far.recv(1 << 20):
                    pass

            nursery.start_soon(drain)
            with pytest.raises(TransferError):
                await Outbox(plane, near, [data.Upload(DataHeader(1, 0, len(payload)), source, WANTED)]).sender.run()
            near.close()


@pytest.mark.parametrize("receiving", [False, True])
async def test_a_stalled_stream_is_given_up(
    plane: DataPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, receiving: bool
) -> None:
    source, target, payload = two_titles(tmp_path)
    monkeypatch.setattr(plane_module, "PROGRESS_TIMEOUT_S", 0.05)
    near, far = trio.socket.socketpair()
    header = DataHeader(1, 3, len(payload))
    with near, far, trio.fail_after(20):
        await near.send(encode_header(header))
        outbox = Outbox(plane, near, [data.Upload(header, source, WANTED)])
        end = Inbox(target, payload).receiver(plane, far) if receiving else outbox.sender
        with pytest.raises(TransferError, match="no byte moved"):
            await end.run()


async def test_a_stream_that_stands_still_gives_its_slot_to_another(
    plane: DataPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, payload = two_titles(tmp_path)
    monkeypatch.setattr(plane_module, "SLOT_WATCH_S", 0.05)
    frozen, _nobody = trio.socket.socketpair()
    near, far = trio.socket.socketpair()
    inbox = Inbox(target, payload)
    with frozen, _nobody, near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane.watch_slots)
            stuck = Outbox(plane, frozen, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
            nursery.start_soon(stuck.sender.run)
            while not stuck.sender.has_slot:
                await trio.sleep(0.01)
            nursery.start_soon(inbox.receiver(plane, far).run)
            outbox = Outbox(plane, near, [data.Upload(DataHeader(2, 3, len(payload)), source, WANTED)])
            nursery.start_soon(outbox.sender.run)
            await outbox.done.wait()
            while not inbox.got:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert inbox.got == [(2, "")]


async def test_what_comes_while_a_stream_waits_for_its_slot_may_go_first(plane: DataPlane, tmp_path: Path) -> None:
    source, target, payload = two_titles(tmp_path)
    frozen, _nobody = trio.socket.socketpair()
    near, far = trio.socket.socketpair()
    inbox = Inbox(target, payload)
    with frozen, _nobody, near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            stuck = Outbox(plane, frozen, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
            nursery.start_soon(stuck.sender.run)
            while not stuck.sender.has_slot:
                await trio.sleep(0.01)
            bulk, urgent = (
                data.Upload(DataHeader(number, 3, len(payload)), source, Wanted(Urgency(rank), TITLE))
                for number, rank in ((2, 0), (3, -1))
            )
            outbox = Outbox(plane, near, [bulk])
            nursery.start_soon(outbox.sender.run)
            nursery.start_soon(inbox.receiver(plane, far).run)
            while outbox.sender.place is None:
                await trio.sleep(0.01)
            outbox.uploads.insert(0, urgent)
            outbox.sender.hurry()
            assert outbox.sender.place.urgency == Urgency(-1)
            plane.release_slot(stuck.sender)
            while len(inbox.got) < 2:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert inbox.got == [(3, ""), (2, "")]


async def test_an_idle_sender_is_woken_and_notices_the_end(plane: DataPlane, tmp_path: Path) -> None:
    source, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    inbox = Inbox(target, payload)
    outbox = Outbox(plane, near, [])
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.sender.run)
            async with trio.open_nursery() as receiving:
                receiving.start_soon(inbox.receiver(plane, far).run)
                for number in range(20):
                    outbox.uploads.append(data.Upload(DataHeader(number, 3, len(payload)), source, WANTED))
                    outbox.sender.wake()
                    while len(inbox.got) <= number:
                        await trio.sleep(0.001)
                receiving.cancel_scope.cancel()
            far.close()


@pytest.mark.parametrize(
    "junk", [b"\xff" * 16, encode_header(DataHeader(1, 3, 5)), encode_header(DataHeader(1, 4, sum(SIZES))), b"\1"]
)
async def test_junk_instead_of_a_header_is_the_remotes_fault(plane: DataPlane, tmp_path: Path, junk: bytes) -> None:
    _, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    with near, far, trio.fail_after(20):
        await near.send(junk)
        near.close()
        with pytest.raises(RemoteProtocolError):
            await Inbox(target, payload).receiver(plane, far).run()


async def test_a_wake_that_comes_while_a_stream_is_armed_is_not_lost(plane: DataPlane) -> None:
    """Between the question what a stream waits for and the answer to the kernel, the event loop may have woken it."""
    near, far = trio.socket.socketpair()
    worked = trio.Event()

    class Woken(plane_module.Stream):
        asked = 0

        def interest(self) -> int:
            self.asked += 1
            idle = self.asked <= 2  # once to be added, once to be armed; then it is woken
            if self.asked == 2:
                plane._epoll.modify(self.fd, select.EPOLLOUT | select.EPOLLONESHOT)
            return select.EPOLLIN if idle else select.EPOLLOUT

        def work(self, ready: int) -> plane_module.Next:
            plane.tell(worked.set)
            return plane_module.Next.END

        def is_inside_chunk(self) -> bool:
            return False

    with near, far:
        stream = Woken(near, plane)
        # An epoll of its own, on which no thread of the plane waits.
        held, plane._epoll = plane._epoll, select.epoll()
        plane.add(stream)
        plane.arm(stream)
        got = plane._epoll.poll(1)
        plane._epoll.close()
        plane._epoll = held
    assert got == [(stream.fd, select.EPOLLOUT)]
