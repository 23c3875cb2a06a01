"""What is particular to payload that goes through TLS; what holds for both kinds is in `test_data`."""

from __future__ import annotations

import errno
import os
import ssl
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import xxhash
from certificates import Signer, cache

from p2pfill.engine.requests import Outcome, Receive, RequestBook
from p2pfill.errors import RemoteProtocolError, TransferError
from p2pfill.protocol.data import DataHeader, encode_header
from p2pfill.transport import data, payload
from p2pfill.transport.plane import DataPlane
from p2pfill.transport.secure import TlsLayer
from p2pfill.trust.credentials import Credentials
from tests.transport.lines import Identities, lines
from tests.transport.test_data import SIZES, WANTED, Files, Inbox, Outbox, two_titles


@pytest.fixture
async def plane() -> AsyncIterator[DataPlane]:
    async with DataPlane(workers=2, upload_slots=1).running() as running:
        yield running


async def ends(root: Path, tickets: int = 0) -> tuple[TlsLayer, ssl.SSLObject, ssl.MemoryBIO]:
    """Return the receiver's side of a handshake, and the sender's: what that writes comes out of the last one."""
    signer = Signer()
    receiver, sender = (Credentials(signer.give(root / name, cache(name))) for name in ("r", "s"))
    sender.accepting.num_tickets = tickets
    ours, theirs = trio.testing.memory_stream_pair()
    coming, going = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = sender.accepting.wrap_bio(coming, going, server_side=True)
    layer = TlsLayer(receiver.connecting, accepting=False)

    async def accept() -> None:
        while True:
            try:
                other.do_handshake()
                return
            except ssl.SSLWantReadError:
                await theirs.send_all(going.read())
                coming.write(await theirs.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(accept)
        await layer.shake_hands(ours)  # type: ignore[arg-type]
    return layer, other, going


def book_of(plane: DataPlane, title: Files, content: bytes) -> tuple[RequestBook, list[Outcome]]:
    got: list[Outcome] = []

    def reap() -> None:
        plane.tell(lambda: got.extend(one.outcome for one in book.reap()), lambda error: None)

    book = RequestBook(reap, threading.RLock())
    digest = xxhash.xxh3_128_digest(content)
    book.post(Receive(1, title, 3, len(content), digest, None, None, threading.RLock()))
    return book, got


async def tcp_pair() -> tuple[trio.socket.SocketType, trio.socket.SocketType]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    near = (await trio.open_tcp_stream(*listener.socket.getsockname())).socket
    far = (await listener.accept()).socket
    await listener.aclose()
    return near, far


@pytest.mark.parametrize("cut", [1, 4, 37, 38, 39, 43, 3000, 16_421, 16_470, 49_000, -16_000, -17, -1])
async def test_a_chunk_arrives_wherever_its_records_are_cut(plane: DataPlane, tmp_path: Path, cut: int) -> None:
    """What TLS keeps of a record that is not whole comes no more, and must not be waited for in the socket."""
    content = os.urandom(50_000)
    title = Files(tmp_path, [len(content)])
    layer, other, going = await ends(tmp_path)
    book, got = book_of(plane, title, content)
    near, far = await tcp_pair()
    other.write(encode_header(DataHeader(1, 3, len(content))))
    for start in range(0, len(content), 16384):
        other.write(content[start : start + 16384])
    sealed = going.read()
    with near, far, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            inlet = payload.TlsInlet(far.fileno(), *layer.release())
            receiver = data.Receiver(far, plane, book, inlet=inlet)
            nursery.start_soon(receiver.run)
            await near.send(sealed[:cut])
            await trio.sleep(0.05)  # until it waits for more
            assert got == []
            await near.send(sealed[cut:])
            while not got:
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert got == [Outcome.VERIFIED]
    assert title.read() == content


async def test_what_comes_of_a_record_that_is_not_whole_shows_that_the_remote_lives(
    plane: DataPlane, tmp_path: Path
) -> None:
    content = os.urandom(50_000)
    layer, other, going = await ends(tmp_path)
    book, _ = book_of(plane, Files(tmp_path, [len(content)]), content)
    near, far = await tcp_pair()
    other.write(encode_header(DataHeader(1, 3, len(content))))
    other.write(content[:16384])
    head, sealed = 38, going.read()
    with near, far, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            receiver = data.Receiver(far, plane, book, inlet=payload.TlsInlet(far.fileno(), *layer.release()))
            nursery.start_soon(receiver.run)
            await near.send(sealed[: head + 1000])
            while receiver.receiving is None:
                await trio.sleep(0.005)
            seen = receiver.come_bytes()
            for more in range(1, 5):
                await near.send(sealed[head + 999 + more : head + 1000 + more])
                while receiver.come_bytes() <= seen:
                    await trio.sleep(0.005)
                seen = receiver.come_bytes()
                assert receiver.moved_bytes == 0
            nursery.cancel_scope.cancel()


async def test_tls_that_carries_nothing_is_the_remotes_fault(plane: DataPlane, tmp_path: Path) -> None:
    """Tickets here, which are easy to make; new keys and padding cost the same."""
    layer, _, going = await ends(tmp_path, 100)
    near, far = await tcp_pair()
    book, _ = book_of(plane, Files(tmp_path, [5]), b"hello")
    with near, far, trio.fail_after(10):
        async with trio.open_nursery() as nursery:

            async def flood() -> None:
                sealed = memoryview(going.read())
                while sealed:
                    sealed = sealed[await near.send(sealed) :]

            nursery.start_soon(flood)
            inlet = payload.TlsInlet(far.fileno(), *layer.release())
            with pytest.raises(RemoteProtocolError, match="carry nothing"):
                await data.Receiver(far, plane, book, inlet=inlet).run()
            nursery.cancel_scope.cancel()


async def test_a_few_messages_that_carry_nothing_are_no_fault(plane: DataPlane, tmp_path: Path) -> None:
    layer, other, going = await ends(tmp_path, 2)
    near, far = await tcp_pair()
    content = os.urandom(50_000)
    book, got = book_of(plane, Files(tmp_path, [len(content)]), content)
    other.write(encode_header(DataHeader(1, 3, len(content))) + content)
    with near, far, trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            inlet = payload.TlsInlet(far.fileno(), *layer.release())
            nursery.start_soon(data.Receiver(far, plane, book, inlet=inlet).run)
            await near.send(going.read())
            while not got:
                await trio.sleep(0.005)
            nursery.cancel_scope.cancel()
    assert got == [Outcome.VERIFIED]


@pytest.mark.parametrize("wrong", [b"\x17\x03\x03\x00\x20" + bytes(32), b"GET / HTTP/1.1\r\n\r\n"])
async def test_what_is_no_tls_breaks_the_stream_and_is_no_fault_of_the_disk(
    plane: DataPlane, tmp_path: Path, wrong: bytes
) -> None:
    """The numbers of errors of TLS are those of other errors of the system: 5 is EIO."""
    _, target, content = two_titles(tmp_path)
    with lines("tls", tcp=True) as make:
        near, far = await make()
        inbox = Inbox(plane, target, content, numbers=[1])
        with near, far, trio.fail_after(10):
            await near.send(encode_header(DataHeader(1, 3, len(content))) + content[:1000])
            os.write(near.fileno(), wrong)
            with pytest.raises(TransferError, match=r"broke inside chunk 3 after \d+ bytes: TLS"):
                await inbox.receiver(far).run()
            await trio.testing.wait_all_tasks_blocked()
        inbox.reap()
    assert [outcome for _, outcome, _ in inbox.got] == [Outcome.BROKEN]


async def test_a_disk_that_cannot_be_read_is_told_from_the_connection(
    plane: DataPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _, content = two_titles(tmp_path)

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(payload.os, "preadv", fail)
    with lines("tls") as make:
        near, far = await make()
        with near, far, trio.fail_after(10):
            outbox = Outbox(plane, near, [data.Upload(DataHeader(1, 3, len(content)), source, WANTED)])
            with pytest.raises(TransferError):
                await outbox.sender.run()
    assert outbox.sender.unreadable == (WANTED.title, 3)


async def test_a_receiver_that_goes_away_is_no_fault_of_the_disk(plane: DataPlane, tmp_path: Path) -> None:
    source, _, content = two_titles(tmp_path)
    with lines("tls", tcp=True) as make:
        near, far = await make()
        with near, trio.fail_after(10):
            outbox = Outbox(plane, near, [data.Upload(DataHeader(1, 3, len(content)), source, WANTED)])
            async with trio.open_nursery() as nursery:

                async def go() -> None:
                    while not outbox.sender.moved_bytes:
                        await trio.sleep(0.005)
                    far.close()

                nursery.start_soon(go)
                with pytest.raises(TransferError):
                    await outbox.sender.run()
    assert outbox.sender.unreadable is None


@pytest.mark.parametrize("through", ["tls", "plain"])
async def test_a_receiver_must_not_say_anything(plane: DataPlane, tmp_path: Path, through: str) -> None:
    """Not through TLS either: what is never read takes none of our time."""
    with lines("tls", tcp=True) as make:
        near, far = await make()
        with near, far, trio.fail_after(10):
            if through == "plain":
                await far.sock.send(b"x")
            else:
                tls: Any = far.inlet._tls
                tls.write(b"x")
                # What it would say is in the layer's own buffer; any record will do.
                await far.sock.send(b"\x17\x03\x03\x00\x01x")
            with pytest.raises(RemoteProtocolError, match="has nothing to say"):
                await Outbox(plane, near, []).sender.run()


async def test_a_key_is_used_up_between_two_chunks(
    plane: DataPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target, content = two_titles(tmp_path)
    monkeypatch.setattr(payload, "KEY_BYTES_MAX", sum(SIZES) + 100)
    uploads = [data.Upload(DataHeader(number, 3, len(content)), source, WANTED) for number in range(40)]
    inbox = Inbox(plane, target, content)
    with lines("tls") as make:
        near, far = await make()
        with far, trio.fail_after(20):
            outbox = Outbox(plane, near, uploads)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(inbox.receiver(far).run)
                with near:
                    await outbox.sender.run()
    assert inbox.got == [(number, Outcome.VERIFIED, "") for number in range(2)]
    assert len(uploads) == 38, "the rest waits for another stream"


class Told:
    """A socket of which the kernel says something."""

    def __init__(self, answer: bytes | OSError) -> None:
        self.answer = answer

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (282, 1)  # SOL_TLS, TLS_TX
        if isinstance(self.answer, OSError):
            raise self.answer
        return self.answer[:size]


def test_the_kernel_encrypts_where_it_says_so_of_the_very_socket() -> None:
    told: Any
    for told, expected in (
        (Told(b"\x04\x03\x34\0"), True),
        (Told(OSError(errno.ENOPROTOOPT, "Protocol not available")), False),
        (Told(OSError(errno.EBUSY, "Device or resource busy")), False),
    ):
        assert payload.is_encrypted_by_kernel(told) is expected


async def test_contexts_let_the_kernel_encrypt(tmp_path: Path) -> None:
    identities = Identities(tmp_path)
    assert identities.sender.accepting.options & 8
