"""The data path over real sockets and files."""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing
import xxhash
from blake3 import blake3

from p2pfill.engine.requests import Outcome, Receive, RequestBook, RequestState
from p2pfill.engine.uploads import NextUpload
from p2pfill.errors import RemoteProtocolError, StoreError, TransferError
from p2pfill.hot.lanes import WriteLock
from p2pfill.model.ids import TitleId
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.model.urgency import Urgency
from p2pfill.protocol.data import DataHeader, encode_header
from p2pfill.transport import data
from p2pfill.transport import plane as plane_module
from p2pfill.transport.plane import DataPlane
from tests.transport.lines import MakeLine, lines

TITLE = TitleId(bytes(32))
WANTED = NextUpload(Urgency(), TITLE)
UNDER_WAY = (RequestState.ASKED, RequestState.RECEIVING, RequestState.WRITTEN)


class Files:
    """A chunk that spans several files, as a title's chunk may."""

    def __init__(self, folder: Path, sizes: list[int], seals: bool = False) -> None:
        """Without `seals` one chunk may be received again and again."""
        self.sizes = sizes
        self.lock = WriteLock()
        self.keeps_seals = seals
        self.seals = bytearray(64)
        self.fds = [os.open(folder / str(i), os.O_RDWR | os.O_CREAT) for i in range(len(sizes))]

    def ranges(self, chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        at = 0
        for fd, size in zip(self.fds, self.sizes, strict=True):
            skip = min(max(start - at, 0), size)
            if skip < size:
                yield fd, skip, size - skip
            at += size

    def write_lock(self, chunk: int) -> WriteLock:
        return self.lock

    def is_sealed(self, chunk: int) -> bool:
        return bool(self.seals[chunk])

    def seal(self, chunk: int) -> None:
        self.seals[chunk] = self.keeps_seals

    def check_blake3(self, chunk: int, digest: bytes | None = None) -> bool:
        raise NotImplementedError

    def write(self, payload: bytes) -> None:
        at = 0
        for fd, size in zip(self.fds, self.sizes, strict=True):
            os.pwrite(fd, payload[at : at + size], 0)
            at += size

    def read(self) -> bytes:
        return b"".join(os.pread(fd, size, 0) for fd, size in zip(self.fds, self.sizes, strict=True))


SIZES = [1, 700_000, 3, 2_000_000, 64]


def open_files(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open, as often as it has."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # of the look itself
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [path for path in found if path.startswith(f"{folder}/")]


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


@pytest.fixture(params=["plain", "tls"])
def line(request: pytest.FixtureRequest) -> Iterator[MakeLine]:
    """What must hold for payload as it is must hold through TLS."""
    with lines(request.param) as make:
        yield make


class Outbox:
    """What a sender is given to send, and has sent; `done` is set when all of it is."""

    def __init__(self, plane: DataPlane, sock: trio.socket.SocketType, uploads: list[data.Upload]) -> None:
        self.uploads = uploads
        self.sent: list[DataHeader] = []
        self.done = trio.Event()
        self._left = len(uploads)
        outlet = getattr(sock, "outlet", None)
        self.sender = data.Sender(sock, plane, self.take, self.wanted, self.note, outlet=outlet)

    def take(self) -> data.Upload | None:
        return self.uploads.pop(0) if self.uploads else None

    def wanted(self) -> NextUpload | None:
        return self.uploads[0].wanted if self.uploads else None

    def note(self, header: DataHeader) -> None:
        self.sent.append(header)
        if len(self.sent) >= self._left:
            self.done.set()


def receive(
    number: int, title: Files, digest: bytes = bytes(16), check: Callable[[int, bytes | None], bool] | None = None
) -> Receive:
    return Receive(number, title, 3, sum(SIZES), digest, check, None, threading.RLock())


def raise_it(error: Exception) -> None:
    raise error


class Inbox:
    """What a receiver may be sent, and gets: requests `numbers`, each for all of `title` as chunk 3."""

    def __init__(
        self,
        plane: DataPlane,
        title: Files,
        payload: bytes,
        checks: bool = True,
        numbers: Iterable[int] = range(40),
        withdrawn: Iterable[int] = (),
    ) -> None:
        self.plane = plane
        self.book = RequestBook(lambda: plane.tell(self.reap, raise_it), threading.RLock())
        self.got: list[tuple[int, Outcome, str]] = []
        self.checks, self.blake3 = checks, blake3(payload).digest()
        self.hashed = 0
        digest = xxhash.xxh3_128_digest(payload)
        for number in numbers:
            self.book.post(receive(number, title, digest, self.check))
        for number in withdrawn:
            assert self.book.abandon(number)

    def check(self, chunk: int, digest: bytes | None) -> bool:
        if digest is not None:
            self.hashed += 1
            assert digest == self.blake3
        return self.checks

    def reap(self) -> None:
        self.got += [(a.receive.request_id, a.outcome, a.fault) for a in self.book.reap()]

    def receiver(self, sock: trio.socket.SocketType) -> data.Receiver:
        return data.Receiver(sock, self.plane, self.book, inlet=getattr(sock, "inlet", None))


async def test_chunks_arrive_whole_and_hashed(plane: DataPlane, line: MakeLine, tmp_path: Path) -> None:
    source, target, payload = two_titles(tmp_path)
    near, far = await line()
    uploads = [data.Upload(DataHeader(number, 3, len(payload)), source, WANTED) for number in range(40)]
    inbox = Inbox(plane, target, payload, withdrawn=[5, 39])
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(far).run)
            async with trio.open_nursery() as sending:
                outbox = Outbox(plane, near, uploads)
                sending.start_soon(outbox.sender.run)
                await outbox.done.wait()
                sending.cancel_scope.cancel()
            near.close()
    assert inbox.got == [(n, Outcome.WITHDRAWN if n in (5, 39) else Outcome.VERIFIED, "") for n in range(40)]
    assert [header.request_id for header in outbox.sent] == list(range(40))
    assert target.read() == payload


@pytest.mark.parametrize(("first", "hashed"), [(100_000, 1), (50_000, 0)])
async def test_a_chunk_that_comes_in_large_pieces_is_not_read_back(
    plane: DataPlane, tmp_path: Path, first: int, hashed: int
) -> None:
    payload, target = os.urandom(100_000), Files(tmp_path, [100_000])
    near, far = trio.socket.socketpair()
    inbox = Inbox(plane, target, payload, numbers=())
    xxh3 = xxhash.xxh3_128_digest(payload)
    inbox.book.post(Receive(1, target, 3, len(payload), xxh3, inbox.check, None, threading.RLock()))
    with near, far, trio.fail_after(20):
        await send_all(near, encode_header(DataHeader(1, 3, len(payload))) + payload[:first])
        receiver = inbox.receiver(far)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.run)
            while receiver.moved_bytes < first and not inbox.got:
                await trio.sleep(0.01)
            await send_all(near, payload[first:])
            near.close()
    assert inbox.got == [(1, Outcome.VERIFIED, "")]
    assert (inbox.hashed, target.read()) == (hashed, payload)


async def test_a_stream_wakes_before_its_window_is_full(plane: DataPlane, tmp_path: Path) -> None:
    """A remote that may send no more before it is read from, and a reader that waits for more, stand still."""
    _, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    buffer_bytes = far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    with near, far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Inbox(plane, target, payload).receiver(far).run)
            await near.send(encode_header(DataHeader(0, 3, len(payload))))
            with trio.fail_after(10):
                while (low_water := far.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)) == 1:
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert low_water == buffer_bytes // 4


@pytest.mark.parametrize(("forged", "checks", "fault"), [(True, True, "XXH3"), (False, False, "BLAKE3")])
async def test_wrong_digests_are_told_apart(
    plane: DataPlane, line: MakeLine, tmp_path: Path, forged: bool, checks: bool, fault: str
) -> None:
    source, target, payload = two_titles(tmp_path)
    if forged:
        source.write(payload[:-1] + bytes([payload[-1] ^ 1]))
    near, far = await line()
    inbox = Inbox(plane, target, payload, checks)
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(far).run)
            async with trio.open_nursery() as sending:
                outbox = Outbox(plane, near, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
                sending.start_soon(outbox.sender.run)
                await outbox.done.wait()
                sending.cancel_scope.cancel()
            near.close()
    assert inbox.got == [(1, Outcome.CORRUPT, f"wrong {fault} digest")]


async def test_a_request_that_was_given_up_writes_no_more(plane: DataPlane, line: MakeLine, tmp_path: Path) -> None:
    """Its late bytes must not fall on those of the request that took its place, whatever its source sends."""
    _, target, payload = two_titles(tmp_path)
    near, far = await line()
    inbox = Inbox(plane, target, payload)
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(far).run)
            await near.send(encode_header(DataHeader(1, 3, len(payload))) + bytes(1000))
            while target.read()[:1000] != bytes(1000):
                await trio.sleep(0.01)
            assert inbox.book.abandon(1)
            with target.lock:
                target.write(payload)
            rest = memoryview(bytes(len(payload) - 1000))
            while rest:
                rest = rest[await near.send(rest) :]
            near.close()
    assert target.read() == payload
    assert inbox.got == [(1, Outcome.WITHDRAWN, "")]


async def send_all(sock: trio.socket.SocketType, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[await sock.send(rest) :]


async def breach_of(inbox: Inbox, sock: trio.socket.SocketType, breaches: list[str]) -> None:
    try:
        await inbox.receiver(sock).run()
    except RemoteProtocolError as error:
        breaches.append(str(error))
        sock.close()


@pytest.mark.parametrize("answers", [["good", "bad"], ["bad", "good"], ["good", "good"]], ids="-".join)
@pytest.mark.parametrize("streams", [1, 2])
async def test_a_second_answer_is_a_breach_and_writes_nothing(
    plane: DataPlane, line: MakeLine, tmp_path: Path, answers: list[str], streams: int
) -> None:
    """Also where it comes before the loop has heard of the first one."""
    _, target, payload = two_titles(tmp_path)
    target.keeps_seals = True
    bodies = {"good": payload, "bad": bytes(len(payload))}
    pairs = [await line() for _ in range(streams)]
    inbox = Inbox(plane, target, payload, numbers=[1])
    breaches: list[str] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _, far in pairs:
                nursery.start_soon(breach_of, inbox, far, breaches)
            for number, answer in enumerate(answers):
                with suppress(OSError):  # whoever has broken a rule is read from no more
                    await send_all(pairs[number % streams][0], encode_header(DataHeader(1, 3, len(payload))))
                    await send_all(pairs[number % streams][0], bodies[answer])
                while inbox.book.outstanding() and inbox.book.outstanding()[0].state in UNDER_WAY:
                    await trio.sleep(0.001)
            for near, _ in pairs:
                near.close()
    for _, far in pairs:
        far.close()
    assert len(breaches) == 1
    assert "request 1: a second answer" in breaches[0]
    outcome = Outcome.VERIFIED if answers[0] == "good" else Outcome.CORRUPT
    assert [came for _, came, _ in inbox.got] == [outcome]
    assert target.read() == bodies[answers[0]]


async def test_answers_to_one_request_cannot_interleave(plane: DataPlane, tmp_path: Path) -> None:
    _, target, payload = two_titles(tmp_path)
    target.keeps_seals = True
    head = encode_header(DataHeader(1, 3, len(payload)))
    near, far = trio.socket.socketpair()
    other_near, other_far = trio.socket.socketpair()
    inbox = Inbox(plane, target, payload, numbers=[1])
    breaches: list[str] = []
    with near, far, other_near, other_far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breach_of, inbox, far, breaches)
            nursery.start_soon(breach_of, inbox, other_far, breaches)
            await send_all(near, head + payload[:1000])
            while inbox.book.outstanding()[0].state is RequestState.ASKED:
                await trio.sleep(0.001)
            await send_all(other_near, head + bytes(1000))
            while not breaches:
                await trio.sleep(0.001)
            await send_all(near, payload[1000:])
            near.close()
    assert inbox.got == [(1, Outcome.VERIFIED, "")]
    assert target.read() == payload


async def test_what_is_verified_takes_no_more_writes_whoever_asks(
    plane: DataPlane, line: MakeLine, tmp_path: Path
) -> None:
    _, target, payload = two_titles(tmp_path)
    target.keeps_seals = True
    near, far = await line()
    inbox = Inbox(plane, target, payload, numbers=[1, 2])
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(far).run)
            await send_all(near, encode_header(DataHeader(1, 3, len(payload))) + payload)
            await send_all(near, encode_header(DataHeader(2, 3, len(payload))) + bytes(len(payload)))
            near.close()
    assert inbox.got == [(1, Outcome.VERIFIED, ""), (2, Outcome.WITHDRAWN, "")]
    assert target.read() == payload


async def test_what_the_disk_refuses_ends_neither_the_stream_nor_other_titles(
    plane: DataPlane, line: MakeLine, tmp_path: Path
) -> None:
    _, target, payload = two_titles(tmp_path)
    refusing = Files(tmp_path / "a", SIZES)

    def refuse(chunk: int, start: int = 0, write: bool = False) -> Iterator[tuple[int, int, int]]:
        raise StoreError("no space left")

    refusing.ranges = refuse  # type: ignore[method-assign]
    near, far = await line()
    inbox = Inbox(plane, target, payload, numbers=[2])
    inbox.book.post(receive(1, refusing))
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(inbox.receiver(far).run)
            for number in (1, 2):
                await send_all(near, encode_header(DataHeader(number, 3, len(payload))) + payload)
            near.close()
    assert inbox.got == [(1, Outcome.STORE, "no space left"), (2, Outcome.VERIFIED, "")]


def test_a_request_is_never_both_verified_and_abandoned(tmp_path: Path) -> None:
    """Whichever comes first, the loop's withdrawal or the thread's last byte, the other finds nothing to do."""
    _, target, payload = two_titles(tmp_path)

    def race() -> None:
        receives = RequestBook(lambda: None, threading.RLock())
        receives.post(receive(1, target))
        claimed = receives.claim(DataHeader(1, 3, len(payload)))
        came: list[Outcome] = []
        thread = threading.Thread(target=lambda: came.append(claimed.verify(lambda: "")[0]))
        thread.start()
        abandoned = receives.abandon(1)
        thread.join()
        assert came == [Outcome.WITHDRAWN if abandoned else Outcome.VERIFIED]

    for _ in range(300):
        race()


def test_what_is_given_up_while_it_is_checked_is_not_called_wrong(tmp_path: Path) -> None:
    """The request that takes its place writes to the file from which BLAKE3 is read."""
    _, target, payload = two_titles(tmp_path)
    receives = RequestBook(lambda: None, threading.RLock())
    receives.post(receive(1, target))
    claimed = receives.claim(DataHeader(1, 3, len(payload)))
    assert claimed.verify(lambda: "wrong BLAKE3 digest" if receives.abandon(1) else "") == (Outcome.WITHDRAWN, "")


def test_an_abandoned_request_may_still_be_answered_once(tmp_path: Path) -> None:
    _, target, payload = two_titles(tmp_path)
    receives = RequestBook(lambda: None, threading.RLock())
    header = DataHeader(1, 3, len(payload))
    receives.post(receive(1, target))
    assert receives.abandon(1)
    assert not receives.claim(header).is_wanted
    with pytest.raises(RemoteProtocolError, match="a second answer"):
        receives.claim(header)
    receives.post(receive(2, target))
    assert receives.retract(2) is not None
    with pytest.raises(RemoteProtocolError):
        receives.claim(DataHeader(2, 3, len(payload)))


async def test_a_stream_that_breaks_inside_a_chunk_is_a_transfer_error(
    plane: DataPlane, line: MakeLine, tmp_path: Path
) -> None:
    _, target, payload = two_titles(tmp_path)
    near, far = await line()
    with far, trio.fail_after(20):
        await near.send(encode_header(DataHeader(1, 3, len(payload))) + payload[:1000])
        near.close()
        with pytest.raises(TransferError, match="after 1000 bytes"):
            await Inbox(plane, target, payload).receiver(far).run()


async def test_a_stream_that_is_cut_inside_a_chunk_leaves_no_file_open(plane: DataPlane, tmp_path: Path) -> None:
    """Else a title that is removed has its room on the disk until the collector comes by."""
    source, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    frozen, reader = trio.socket.socketpair()
    inbox = Inbox(plane, target, payload)
    arrived = []
    inbox.book.arrive = arrived.append  # type: ignore[method-assign]
    outbox = Outbox(plane, frozen, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
    paths = [str(tmp_path / side / str(number)) for side in "ab" for number in range(len(SIZES))]
    gc.disable()
    try:
        with near, far, frozen, reader, trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                receiver = inbox.receiver(far)
                nursery.start_soon(receiver.run)
                nursery.start_soon(outbox.sender.run)
                await near.send(encode_header(DataHeader(1, 3, len(payload))) + payload[:100_000])
                while receiver.moved_bytes < 100_000 or not outbox.sender.moved_bytes:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()
        assert sorted(open_files(tmp_path)) == sorted(paths)  # each as of the titles, and once
    finally:
        gc.enable()
    assert [(arrival.outcome, arrival.length) for arrival in arrived] == [(Outcome.BROKEN, 100_000)]


async def test_a_disk_that_refuses_is_not_the_sources_fault(plane: DataPlane, line: MakeLine, tmp_path: Path) -> None:
    _, target, payload = two_titles(tmp_path)
    full = os.open("/dev/full", os.O_RDWR)
    target.fds[1] = full
    near, far = await line()
    with near, far, trio.fail_after(20):
        await near.send(encode_header(DataHeader(1, 3, len(payload))) + payload[:1000])
        inbox = Inbox(plane, target, payload)
        with pytest.raises(TransferError, match="to disk"):
            await inbox.receiver(far).run()
        await trio.testing.wait_all_tasks_blocked()
    inbox.reap()
    assert [(number, outcome) for number, outcome, _ in inbox.got] == [(1, Outcome.STORE)]


async def test_a_file_that_shrank_is_a_transfer_error(plane: DataPlane, line: MakeLine, tmp_path: Path) -> None:
    source, _, payload = two_titles(tmp_path)
    os.ftruncate(source.fds[3], 10)
    near, far = await line()
    with near, far:
        async with trio.open_nursery() as nursery:

            async def drain() -> None:
                while await far.recv(1 << 20):
                    pass

            nursery.start_soon(drain)
            with pytest.raises(TransferError):
                await Outbox(plane, near, [data.Upload(DataHeader(1, 0, len(payload)), source, WANTED)]).sender.run()
            near.close()


async def test_what_comes_too_slowly_to_be_read_shows_that_the_remote_lives(
    plane: DataPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A remote that is held to a low rate sends less in half a minute than what a stream is woken for."""
    monkeypatch.setattr(plane_module, "PROGRESS_TIMEOUT_S", 0.3)
    _, target, payload = two_titles(tmp_path)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = await trio.open_tcp_stream(*listener.socket.getsockname())
    far = await listener.accept()
    receiver = Inbox(plane, target, payload).receiver(far.socket)
    async with listener, near, far, trio.open_nursery() as nursery:
        with trio.fail_after(20):
            nursery.start_soon(receiver.run)
            await near.send_all(encode_header(DataHeader(0, 3, len(payload))))
            while far.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1:
                await trio.sleep(0.01)
            for sent in range(1, 15):
                await near.send_all(payload[sent : sent + 1])
                await trio.sleep(0.1)
                assert (receiver.come_bytes(), receiver.moved_bytes) == (sent, 0)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=["receiver", "sender"])
async def stalled(
    plane: DataPlane, line: MakeLine, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[data.Receiver | data.Sender]:
    """One end of a stream on which a chunk begins, and then no byte moves: from the second look on that is seen."""
    source, target, payload = two_titles(tmp_path)
    near, far = await line()
    header = DataHeader(1, 3, len(payload))
    with near, far, trio.fail_after(20):
        if request.param == "receiver":
            await near.send(encode_header(header) + payload[:1])
            yield Inbox(plane, target, payload).receiver(far)
        else:
            yield Outbox(plane, near, [data.Upload(header, source, WANTED)]).sender


async def test_a_stalled_stream_is_given_up(
    stalled: data.Receiver | data.Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plane_module, "PROGRESS_TIMEOUT_S", 0.05)
    with pytest.raises(TransferError, match="no byte moved"):
        await stalled.run()


@pytest.mark.parametrize("line", ["plain"], indirect=True)  # it takes seconds, and has nothing to do with what moves
async def test_a_stream_is_not_given_up_because_this_program_was_stopped(
    stalled: data.Receiver | data.Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It is looked at after one second and after two, or somewhat later on a machine that is busy.
    monkeypatch.setattr(plane_module, "PROGRESS_TIMEOUT_S", 1.0)
    monkeypatch.setattr(plane_module, "FROZEN_S", 0.25)

    async def stop_for_a_while() -> None:
        await trio.sleep(1.5)
        time.sleep(1.6)  # noqa: ASYNC251 (that is what it is to do)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_for_a_while)
        with trio.move_on_after(3.8) as scope:
            await stalled.run()
    assert scope.cancelled_caught


async def test_a_stream_that_stands_still_gives_its_slot_to_another(
    plane: DataPlane, line: MakeLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, payload = two_titles(tmp_path)
    monkeypatch.setattr(plane_module, "SLOT_WATCH_S", 0.05)
    frozen, _nobody = await line()
    near, far = await line()
    inbox = Inbox(plane, target, payload)
    with frozen, _nobody, near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane.watch_slots)
            stuck = Outbox(plane, frozen, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
            nursery.start_soon(stuck.sender.run)
            while not stuck.sender.has_slot:
                await trio.sleep(0.01)
            nursery.start_soon(inbox.receiver(far).run)
            outbox = Outbox(plane, near, [data.Upload(DataHeader(2, 3, len(payload)), source, WANTED)])
            nursery.start_soon(outbox.sender.run)
            await outbox.done.wait()
            while not inbox.got:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert inbox.got == [(2, Outcome.VERIFIED, "")]


@pytest.mark.parametrize("limited", [False, True])
async def test_a_receiver_that_ends_its_half_and_does_not_read_costs_no_processor_time(
    plane: DataPlane, tmp_path: Path, limited: bool
) -> None:
    source, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    outbox = Outbox(plane, near, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
    if limited:  # then each piece is moved in a turn
        plane.throttle.put("test", RateLimits(outbound=Rates(peer=10**10)))
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.sender.run)
            while not outbox.sender.moved_bytes:
                await trio.sleep(0.01)
            far.shutdown(socket.SHUT_WR)
            await trio.sleep(0.1)
            began_s = time.process_time()
            await trio.sleep(0.5)
            assert time.process_time() - began_s < 0.1
            inbox = Inbox(plane, target, payload)
            nursery.start_soon(inbox.receiver(far).run)
            await outbox.done.wait()
            while not inbox.got:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert inbox.got == [(1, Outcome.VERIFIED, "")]


async def test_what_comes_while_a_stream_waits_for_its_slot_may_go_first(
    plane: DataPlane, line: MakeLine, tmp_path: Path
) -> None:
    source, target, payload = two_titles(tmp_path)
    frozen, _nobody = await line()
    near, far = await line()
    inbox = Inbox(plane, target, payload)
    with frozen, _nobody, near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            stuck = Outbox(plane, frozen, [data.Upload(DataHeader(1, 3, len(payload)), source, WANTED)])
            nursery.start_soon(stuck.sender.run)
            while not stuck.sender.has_slot:
                await trio.sleep(0.01)
            bulk, urgent = (
                data.Upload(DataHeader(number, 3, len(payload)), source, NextUpload(Urgency(rank), TITLE))
                for number, rank in ((2, 0), (3, -1))
            )
            outbox = Outbox(plane, near, [bulk])
            nursery.start_soon(outbox.sender.run)
            nursery.start_soon(inbox.receiver(far).run)
            while outbox.sender.place is None:
                await trio.sleep(0.01)
            outbox.uploads.insert(0, urgent)
            outbox.sender.reprioritise()
            assert outbox.sender.place.urgency == Urgency(-1)
            plane.release_slot(stuck.sender)
            while len(inbox.got) < 2:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert [number for number, _, _ in inbox.got] == [3, 2]


async def test_an_idle_sender_is_woken_and_notices_the_end(plane: DataPlane, line: MakeLine, tmp_path: Path) -> None:
    source, target, payload = two_titles(tmp_path)
    near, far = await line()
    inbox = Inbox(plane, target, payload)
    outbox = Outbox(plane, near, [])
    with near, far, trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outbox.sender.run)
            async with trio.open_nursery() as receiving:
                receiving.start_soon(inbox.receiver(far).run)
                for number in range(20):
                    outbox.uploads.append(data.Upload(DataHeader(number, 3, len(payload)), source, WANTED))
                    outbox.sender.wake()
                    while len(inbox.got) <= number:
                        await trio.sleep(0.001)
                receiving.cancel_scope.cancel()
            far.close()


@pytest.mark.parametrize(
    "junk", [b"\xff" * 16, encode_header(DataHeader(1, 3, 5)), encode_header(DataHeader(1, 4, sum(SIZES)))]
)
async def test_junk_instead_of_a_header_is_the_remotes_fault(
    plane: DataPlane, line: MakeLine, tmp_path: Path, junk: bytes
) -> None:
    _, target, payload = two_titles(tmp_path)
    near, far = await line()
    with near, far, trio.fail_after(20):
        await near.send(junk)
        near.close()
        with pytest.raises(RemoteProtocolError):
            await Inbox(plane, target, payload).receiver(far).run()


async def test_a_source_that_dies_inside_a_header_breaks_no_rule(
    plane: DataPlane, line: MakeLine, tmp_path: Path
) -> None:
    _, target, payload = two_titles(tmp_path)
    near, far = await line()
    with near, far, trio.fail_after(20):
        await near.send(encode_header(DataHeader(1, 3, len(payload)))[:5])
        near.close()
        with pytest.raises(TransferError, match="inside a header"):
            await Inbox(plane, target, payload).receiver(far).run()


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

        def work(self, ready: int) -> plane_module.Poll:
            plane.tell(worked.set, raise_it)
            return plane_module.Poll.END

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


@pytest.mark.parametrize("cut", [1, 15])  # docs/protocol.md, section 5: only what a whole header says is a breach
async def test_a_stream_that_breaks_off_inside_a_header_is_no_breach(
    plane: DataPlane, tmp_path: Path, cut: int
) -> None:
    """A process that is killed may have had room for a part of it."""
    _, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    inbox = Inbox(plane, target, payload, numbers=[1])
    with near, far, trio.fail_after(20):
        await send_all(near, encode_header(DataHeader(1, 3, len(payload)))[:cut])
        near.close()
        with pytest.raises(TransferError, match="inside a header"):
            await inbox.receiver(far).run()
    assert inbox.got == []
