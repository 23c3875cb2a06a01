"""Descriptor operations against real sockets and files, on both twins."""

import errno
import os
import random
import select
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill import _native
from p2pfill.hot import _pure_io

DATA = random.Random(1).randbytes(3_000_001)
WAIT_MS = 10_000
"""Longer than any socket here takes."""

Move = Callable[[int, int, int, int], int]


def move_all(move: Move, event: int, sock: socket.socket, file: int, offset: int, length: int) -> None:
    """Call `move` until all of a range has moved, each time after `event` of the socket."""
    poll = select.poll()
    poll.register(sock, event)
    end = offset + length
    while offset < end:
        assert poll.poll(WAIT_MS), "the other side has stopped"
        offset += move(sock.fileno(), file, offset, end - offset)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    left.setblocking(False)
    right.setblocking(False)
    with left, right:
        yield left, right


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "source").write_bytes(DATA)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT, 0o600)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("size", [0, 1, 16, 240, 241, 65535, 65536, 1_000_003])
def test_xxh3_is_the_published_hash(hot: SimpleNamespace, size: int) -> None:
    expected = xxhash.xxh3_128_digest(DATA[:size])
    assert hot.io.xxh3_128(DATA[:size]) == expected
    assert hot.io.xxh3_128(bytearray(DATA[:size])) == expected
    assert hot.io.xxh3_128(memoryview(DATA)[:size]) == expected


def test_hash_of_a_range(hot: SimpleNamespace, source: int) -> None:
    assert hot.io.xxh3_128_range(source, 7, 2_000_000) == xxhash.xxh3_128_digest(DATA[7:2_000_007])
    assert hot.io.xxh3_128_range(source, 0, 0) == xxhash.xxh3_128_digest(b"")
    with pytest.raises(EOFError, match="1 bytes early"):
        hot.io.xxh3_128_range(source, 1, len(DATA))
    with pytest.raises(OSError) as caught:
        hot.io.xxh3_128_range(-1, 0, 1)
    assert caught.value.errno == errno.EBADF


def test_send_bytes(hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    assert hot.io.send_bytes(left.fileno(), b"..header", 2, True) == 6
    assert hot.io.send_bytes(left.fileno(), memoryview(b"!"), 0, False) == 1
    assert hot.io.send_bytes(left.fileno(), b"end", 3, False) == 0
    assert right.recv(100) == b"header!"
    while hot.io.send_bytes(left.fileno(), DATA, 0, False):
        pass  # until the socket is full, which is the 0 that ends this loop


def test_send_bytes_refuses(hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket]) -> None:
    left, right = pair
    for start in (-1, 4):
        with pytest.raises(ValueError):
            hot.io.send_bytes(left.fileno(), b"abc", start, False)
    right.close()
    with pytest.raises(BrokenPipeError):
        hot.io.send_bytes(left.fileno(), b"abc", 0, False)


def test_file_to_file(
    hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket], source: int, target: int
) -> None:
    left, right = pair
    sender = threading.Thread(target=move_all, args=(hot.io.send_file, select.POLLOUT, left, source, 5, 2_500_000))
    sender.start()
    receiver = hot.io.ChunkReceiver(10_007)
    move_all(receiver.recv_to_file, select.POLLIN, right, target, 11, 1_000_000)
    assert receiver.digest() == xxhash.xxh3_128_digest(DATA[5:1_000_005])
    move_all(receiver.recv_to_file, select.POLLIN, right, target, 1_000_011, 1_500_000)
    sender.join()
    assert receiver.digest() == xxhash.xxh3_128_digest(DATA[5:2_500_005])
    assert os.pread(target, 2_500_000, 11) == DATA[5:2_500_005]
    receiver.reset()
    assert receiver.digest() == xxhash.xxh3_128_digest(b"")


def test_receiver_never_takes_more_than_asked(
    hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket], target: int
) -> None:
    left, right = pair
    left.send(b"chunknext")
    receiver = hot.io.ChunkReceiver()
    assert receiver.recv_to_file(right.fileno(), target, 0, 5) == 5
    assert receiver.recv_to_file(right.fileno(), target, 0, 0) == 0
    assert right.recv(100) == b"next"
    assert os.pread(target, 100, 0) == b"chunk"


def test_receiver_takes_what_has_come(
    hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket], target: int
) -> None:
    left, right = pair
    receiver = hot.io.ChunkReceiver()
    assert receiver.recv_to_file(right.fileno(), target, 0, 10) == 0
    left.send(b"abc")
    assert receiver.recv_to_file(right.fileno(), target, 0, 10) == 3
    assert receiver.recv_to_file(right.fileno(), target, 3, 7) == 0
    assert receiver.digest() == xxhash.xxh3_128_digest(b"abc")


def test_sender_sends_what_the_socket_takes(
    hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket], source: int
) -> None:
    left, right = pair
    sent = hot.io.send_file(left.fileno(), source, 0, len(DATA))
    assert 0 < sent < len(DATA)
    assert hot.io.send_file(left.fileno(), source, sent, len(DATA) - sent) == 0
    left.close()
    assert b"".join(iter(lambda: right.recv(len(DATA)), b"")) == DATA[:sent]


def test_peer_closes(hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket], target: int) -> None:
    left, right = pair
    left.send(b"abc")
    left.close()
    receiver = hot.io.ChunkReceiver()
    assert receiver.recv_to_file(right.fileno(), target, 0, 10) == 3
    with pytest.raises(ConnectionResetError):
        receiver.recv_to_file(right.fileno(), target, 3, 7)
    assert receiver.digest() == xxhash.xxh3_128_digest(b"abc")


def test_file_too_short_to_send(hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket], source: int) -> None:
    with pytest.raises(EOFError):
        hot.io.send_file(pair[0].fileno(), source, len(DATA) - 3, 4)


def test_full_disk_and_bad_descriptors(
    hot: SimpleNamespace, pair: tuple[socket.socket, socket.socket], source: int
) -> None:
    left, right = pair
    left.send(b"abc")
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError) as caught:
        hot.io.ChunkReceiver().recv_to_file(right.fileno(), full, 0, 3)
    os.close(full)
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        hot.io.send_file(left.fileno(), -1, 0, 1)
    assert caught.value.errno == errno.EBADF


def test_arguments_are_checked(hot: SimpleNamespace) -> None:
    with pytest.raises(ValueError):
        hot.io.xxh3_128_range(0, -1, 1)
    with pytest.raises(ValueError):
        hot.io.send_file(0, 0, 0, 2**63)
    with pytest.raises(ValueError):
        hot.io.send_file(0, 0, -1, 1)
    for size in (0, -1, hot.io.BUFFER_BYTES_MAX + 1):
        with pytest.raises(ValueError):
            hot.io.ChunkReceiver(size)


def test_sync_fs(hot: SimpleNamespace, target: int) -> None:
    hot.io.sync_fs(target)
    with pytest.raises(OSError) as caught:
        hot.io.sync_fs(-1)
    assert caught.value.errno == errno.EBADF


def test_begin_write_out(hot: SimpleNamespace, target: int) -> None:
    os.pwrite(target, DATA, 0)
    hot.io.begin_write_out(target, 0, len(DATA))
    hot.io.begin_write_out(target, 1 << 40, 1)
    with pytest.raises(OSError) as caught:
        hot.io.begin_write_out(-1, 0, 1)
    assert caught.value.errno == errno.EBADF
    with pytest.raises(ValueError):
        hot.io.begin_write_out(target, 0, -1)


def test_two_threads_cannot_share_a_receiver(pair: tuple[socket.socket, socket.socket], target: int) -> None:
    """Whoever sees it in use also has the GIL meanwhile. A byte at a time, a call takes long enough to be seen."""
    left, right = pair
    came = left.send(DATA)
    receiver = _native.ChunkReceiver(1)
    thread = threading.Thread(target=receiver.recv_to_file, args=(right.fileno(), target, 0, came))

    def digest_until_done() -> None:
        thread.start()
        while thread.is_alive():
            receiver.digest()  # works until the thread has come to its call

    with pytest.raises(RuntimeError, match="another thread"):
        digest_until_done()
    thread.join()
    assert receiver.digest() == xxhash.xxh3_128_digest(DATA[:came])


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=3000), min_size=1, max_size=8),
    buffer_bytes=st.integers(1, 4000),
    length=st.integers(0, 10_000),
    offset=st.integers(0, 100),
)
@settings(deadline=None, max_examples=50)
def test_twins_agree_on_receiving(pieces: list[bytes], buffer_bytes: int, length: int, offset: int) -> None:
    """Whatever the pieces that arrive and the buffer they pass through: same count, digest, file and rest."""
    outcomes = []
    for twin in (_native.ChunkReceiver, _pure_io.ChunkReceiver):
        left, right = socket.socketpair()
        with left, right, tempfile.TemporaryFile() as file:
            right.setblocking(False)
            for piece in pieces:
                left.sendall(piece)
            left.close()
            receiver = twin(buffer_bytes)
            taken = receiver.recv_to_file(right.fileno(), file.fileno(), offset, length)
            file.seek(0)
            outcomes.append((taken, receiver.digest(), file.read(), right.recv(30_000)))
    data = b"".join(pieces)
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][:2] == (min(length, len(data)), xxhash.xxh3_128_digest(data[:length]))
    assert outcomes[0][3] == data[length : length + len(outcomes[0][3])]


@given(st.binary(max_size=2000))
@settings(deadline=None)
def test_twins_agree_on_hashes(data: bytes) -> None:
    assert _native.xxh3_128(data) == _pure_io.xxh3_128(data)


def test_a_send_cut_short_pushes_what_is_corked(hot: SimpleNamespace, source: int) -> None:
    """TCP_NODELAY is the push; without it a corked part segment may wait for a timer of 200 ms."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        near, _ = server.accept()
        with near:
            near.setblocking(False)
            hot.io.send_bytes(near.fileno(), bytes(16), 0, True)
            while hot.io.send_file(near.fileno(), source, 0, len(DATA)) == len(DATA):
                assert not near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_receiver_says_what_hashing_and_writing_took(hot: SimpleNamespace, target: int) -> None:
    near, far = socket.socketpair()
    with near, far:
        receiver = hot.io.ChunkReceiver()
        assert receiver.spent_ns() == (0, 0)
        sending = threading.Thread(target=far.sendall, args=(DATA,))
        began_ns = time.monotonic_ns()
        sending.start()
        time.sleep(0.1)  # what waiting takes is neither
        move_all(receiver.recv_to_file, select.POLLIN, near, target, 0, len(DATA))
        took_ns = time.monotonic_ns() - began_ns
        sending.join()
    hash_ns, write_ns = receiver.spent_ns()
    assert hash_ns > 0
    assert write_ns > 0
    assert hash_ns + write_ns <= took_ns - 90_000_000
    receiver.reset()
    assert receiver.spent_ns() == (hash_ns, write_ns)


# ---- receiving with a wait


def later(wait_s: float, call: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(wait_s, call)
    timer.start()
    return timer


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """TCP, of which a thread waits for a low water mark."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near, far:
        yield near, far


def test_a_buffer_is_filled_of_what_comes_in_pieces(
    hot: SimpleNamespace, connection: tuple[socket.socket, socket.socket]
) -> None:
    near, far = connection
    buffer = memoryview(bytearray(1_000_000))
    sender = later(0.01, lambda: [far.sendall(DATA[at : at + 50_000]) for at in range(0, 1_100_000, 50_000)])
    assert hot.io.recv_within(near.fileno(), buffer, WAIT_MS) == len(buffer)
    sender.join()
    assert buffer == DATA[: len(buffer)]
    assert near.recv(100_000, socket.MSG_WAITALL) == DATA[1_000_000:1_100_000], "and nothing beyond it"
    assert near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


def test_what_comes_in_time_is_returned_and_no_more_waited_for(
    hot: SimpleNamespace, connection: tuple[socket.socket, socket.socket]
) -> None:
    near, far = connection
    buffer = memoryview(bytearray(1000))
    far.sendall(DATA[:100])
    rest = later(0.03, lambda: far.sendall(DATA[100:200]))
    began = time.monotonic()
    assert hot.io.recv_within(near.fileno(), buffer, 150) == 200
    assert time.monotonic() - began >= 0.149, "it waits for a full buffer"
    rest.join()
    assert buffer[:200] == DATA[:200]
    with pytest.raises(BlockingIOError):
        hot.io.recv_within(near.fileno(), buffer, 10)
    assert hot.io.recv_within(near.fileno(), buffer[:0], WAIT_MS) == 0


def test_the_end_is_told_after_what_came_before_it(
    hot: SimpleNamespace, connection: tuple[socket.socket, socket.socket]
) -> None:
    near, far = connection
    buffer = memoryview(bytearray(1000))
    far.sendall(DATA[:100])
    end = later(0.01, far.close)
    assert hot.io.recv_within(near.fileno(), buffer, WAIT_MS) == 100, "the end is not waited out"
    end.join()
    assert hot.io.recv_within(near.fileno(), buffer, WAIT_MS) == 0


def test_a_connection_that_breaks_is_told_after_what_came_before_it(
    hot: SimpleNamespace, connection: tuple[socket.socket, socket.socket]
) -> None:
    near, far = connection
    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
    reset = later(0.01, far.close)
    with pytest.raises(ConnectionResetError):
        hot.io.recv_within(near.fileno(), memoryview(bytearray(1000)), WAIT_MS)
    reset.join()
    with pytest.raises((BufferError, TypeError)):
        hot.io.recv_within(near.fileno(), memoryview(bytes(1)), WAIT_MS)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 400_000), max_size=6), room=st.integers(1, 1_000_000))
def test_twins_receive_alike(sizes: list[int], room: int) -> None:
    data, taken = DATA[: sum(sizes)], []
    for twin in (_native, _pure_io):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        with near:
            sender = later(0.0, lambda far=far: _send_and_close(far, data, sizes))  # type: ignore[misc]
            buffer, got = memoryview(bytearray(room)), bytearray()
            while count := twin.recv_within(near.fileno(), buffer, WAIT_MS):
                got += buffer[:count]
            sender.join()
        taken.append(bytes(got))
    assert taken == [data, data]


def _send_and_close(sock: socket.socket, data: bytes, sizes: list[int]) -> None:
    with sock:
        for size in sizes:
            sock.sendall(data[:size])
            data = data[size:]
