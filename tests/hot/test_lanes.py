"""Lanes against real sockets, files and threads, on both twins."""

from __future__ import annotations

import errno
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill import _native
from p2pfill.hot import _pure_lanes
from p2pfill.hot.lanes import WARM_BYTES

PATIENCE_S = 20.0
PAYLOAD = bytes(range(251)) * 8000
"""Two megabytes: more than sockets hold, and several slices."""


class Plane:
    """Threads that serve lanes."""

    def __init__(self, twin: ModuleType, threads: int = 2) -> None:
        self.twin: Any = twin
        self.epoll = select.epoll()
        self.wake_fd = os.eventfd(0)
        self.epoll.register(self.wake_fd, select.EPOLLIN)
        self.lanes = self.twin.Lanes(self.epoll)
        self.threads = [threading.Thread(target=self.lanes.serve, daemon=True) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def add(self, sock: socket.socket, turn: Callable[[Any, int], bool]) -> Any:
        """Serve a socket; `turn` is called with its lane, and at first as soon as there is room, or something came."""
        lane = self.twin.Lane(sock.fileno())
        lane.turn = lambda ready: turn(lane, ready)
        self.lanes.add(lane)
        return lane

    def arm(self, lane: Any, events: int) -> None:
        """Have the lane looked at once."""
        with suppress(FileExistsError):
            self.epoll.register(lane.sock_fd, events | select.EPOLLONESHOT)
            return
        self.epoll.modify(lane.sock_fd, events | select.EPOLLONESHOT)

    def close(self) -> None:
        """End the threads."""
        self.lanes.stop()
        os.eventfd_write(self.wake_fd, 1)
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        self.epoll.close()
        os.close(self.wake_fd)


@pytest.fixture(params=[_native, _pure_lanes], ids=["native", "pure"])
def plane(request: pytest.FixtureRequest) -> Iterator[Plane]:
    made = Plane(request.param)
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        yield left, right


@pytest.fixture
def tcp_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    with left, right:
        left.setblocking(False)
        yield left, right


class Taker:
    """Takes what was posted, once, and says so."""

    def __init__(self, post: Callable[[Any], object]) -> None:
        self._post = post
        self._has_posted = False
        self.done = threading.Event()
        self.taken: tuple[int, Exception | None] | None = None
        """What was moved, and what has broken it off."""

    def turn(self, lane: Any, ready: int) -> bool:
        if not self._has_posted:
            self._has_posted = True
            assert taken(lane) == (0, None)
            self._post(lane)
            return True
        self.taken = taken(lane)
        self.done.set()
        return False


def taken(lane: Any) -> tuple[int, Exception | None]:
    """Return what was moved, and what has broken it off."""
    moved = lane.take()
    try:
        lane.check()
    except (OSError, EOFError) as error:
        return moved, error
    return moved, None


class Target:
    """A file, and the right to write to it."""

    def __init__(self, plane: Plane, path: Path) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT)
        self.right = plane.twin.WriteLock()
        self.flag, self.seals = bytearray([1]), bytearray(3)

    def post(
        self, length: int, offset: int = 0, rest: int = 0, update: Callable[[memoryview], object] | None = None
    ) -> Callable[[Any], object]:
        return lambda lane: lane.post_receive(
            self.right, self.flag, self.seals, 1, self.fd, offset, length, rest, update
        )


def until(holds: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < ends_at
        time.sleep(0.001)


def await_event(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S)


def test_payload_comes_into_the_file_and_is_hashed(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    target = Target(plane, tmp_path / "target")
    taker = Taker(target.post(len(PAYLOAD), offset=7))
    lane = plane.add(pair[0], taker.turn)
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(PAYLOAD + b"more")
    await_event(taker.done)
    assert taker.taken == (len(PAYLOAD), None)
    lane.wait_unserved()
    assert os.pread(target.fd, len(PAYLOAD) + 8, 0) == bytes(7) + PAYLOAD
    assert lane.digest() == xxhash.xxh3_128_digest(PAYLOAD)
    assert (lane.moved_bytes, lane.moving_bytes) == (len(PAYLOAD), 0)
    assert pair[0].recv(9) == b"more"
    assert all(lane.spent_ns())


def test_a_second_digest_gets_what_was_written(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """In order, in large pieces, and all of it; what is small follows only as the last of a chunk."""
    target, state, sizes = Target(plane, tmp_path / "target"), xxhash.xxh3_128(), []

    def update(piece: memoryview) -> None:
        sizes.append(len(piece))
        state.update(piece)

    taker = Taker(target.post(len(PAYLOAD), update=update))
    lane = plane.add(pair[0], taker.turn)
    lane.set_low_water(WARM_BYTES)
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(PAYLOAD)
    await_event(taker.done)
    lane.wait_unserved()
    whole = lane.updated_bytes == len(PAYLOAD)
    assert all(size >= WARM_BYTES for size in sizes[:-1])
    assert lane.updated_bytes == sum(sizes)
    assert not whole or state.digest() == xxhash.xxh3_128_digest(PAYLOAD)
    assert lane.digest() == xxhash.xxh3_128_digest(PAYLOAD)
    lane.reset()
    assert lane.updated_bytes == 0


def test_a_chunk_at_hand_is_hashed_twice_in_passing(plane: Plane, tmp_path: Path) -> None:
    """All of it is there before it is looked at, so no piece is too small."""
    target, got = Target(plane, tmp_path / "target"), bytearray()
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, socket.create_connection(listener.getsockname()) as right, listener.accept()[0] as left:
        payload = PAYLOAD[: WARM_BYTES + 1000]
        right.sendall(payload)
        until(lambda: len(left.recv(len(payload), socket.MSG_PEEK)) == len(payload))
        left.setblocking(False)
        taker = Taker(target.post(len(payload), update=got.extend))
        lane = plane.add(left, taker.turn)
        plane.arm(lane, select.EPOLLIN)
        await_event(taker.done)
        lane.wait_unserved()
    assert (lane.updated_bytes, bytes(got)) == (len(payload), payload)


def test_what_somebody_else_may_have_written_over_is_not_taken_for_hashed(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    target, first = Target(plane, tmp_path / "target"), WARM_BYTES
    state = xxhash.xxh3_128()
    taker = Taker(target.post(2 * first, update=state.update))
    lane = plane.add(pair[0], taker.turn)
    pair[1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * first)
    pair[1].sendall(PAYLOAD[:first])
    plane.arm(lane, select.EPOLLIN)
    until(lambda: lane.updated_bytes == first)
    with target.right:
        os.pwrite(target.fd, b"something else", 0)
    pair[1].sendall(PAYLOAD[first : 2 * first])
    await_event(taker.done)
    lane.wait_unserved()
    assert taker.taken == (2 * first, None)
    assert lane.updated_bytes == -1


def test_who_had_the_right_afterwards_is_noticed(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    target = Target(plane, tmp_path / "target")
    taker = Taker(target.post(10, update=lambda piece: None))
    lane = plane.add(pair[0], taker.turn)
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(PAYLOAD[:10])
    await_event(taker.done)
    lane.wait_unserved()
    assert lane.updated_bytes == 10
    assert lane.had_alone(target.right)
    with target.right:
        pass
    assert not lane.had_alone(target.right)


def test_what_comes_in_small_pieces_is_hashed_once(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """Once a piece was too small, the second digest has a hole, and gets nothing more."""
    target, got = Target(plane, tmp_path / "target"), []
    taker = Taker(target.post(len(PAYLOAD), update=lambda piece: got.append(bytes(piece))))
    lane = plane.add(pair[0], taker.turn)
    pair[1].sendall(PAYLOAD[:1000])
    plane.arm(lane, select.EPOLLIN)
    until(lambda: lane.moving_bytes == 1000)
    pair[1].sendall(PAYLOAD[1000:])
    await_event(taker.done)
    lane.wait_unserved()
    assert (got, lane.updated_bytes) == ([], 0)
    assert lane.digest() == xxhash.xxh3_128_digest(PAYLOAD)


def test_a_second_digest_that_fails_takes_no_stream_with_it(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    target = Target(plane, tmp_path / "target")
    taker = Taker(target.post(10, update=lambda piece: 1 / 0))
    lane = plane.add(pair[0], taker.turn)
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(PAYLOAD[:10])
    await_event(taker.done)
    lane.wait_unserved()
    assert taker.taken == (10, None)
    assert lane.updated_bytes == -1


def test_a_head_and_a_file_are_sent(plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"xx" + PAYLOAD + b"yy")
    fd = os.open(tmp_path / "source", os.O_RDONLY)

    def post(lane: Any) -> None:
        lane.post_send(b"HEAD", fd, 2, len(PAYLOAD))
        os.close(fd)  # the lane has its own

    taker = Taker(post)
    plane.arm(plane.add(pair[0], taker.turn), select.EPOLLOUT)
    got = b""
    while len(got) < len(PAYLOAD) + 4:
        got += pair[1].recv(65536)
    await_event(taker.done)
    assert got == b"HEAD" + PAYLOAD
    assert taker.taken == (len(got), None)


@pytest.mark.parametrize("how", ["flag", "seal"])
def test_nothing_is_written_without_the_right(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path, how: str
) -> None:
    target = Target(plane, tmp_path / "target")
    taker = Taker(target.post(1000))
    lane = plane.add(pair[0], taker.turn)
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(b"a" * 400)
    while lane.moving_bytes < 400:
        assert not taker.done.wait(0.01)
    with target.right:
        if how == "flag":
            target.flag[0] = 0
        else:
            target.seals[1] = 1
    pair[1].sendall(b"b" * 600)
    await_event(taker.done)
    assert taker.taken == (400, None)
    assert os.pread(target.fd, 2000, 0) == b"a" * 400
    assert pair[0].recv(1000) == b"b" * 600


def test_a_slice_waits_for_whoever_has_the_right(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    target = Target(plane, tmp_path / "target")
    taker = Taker(target.post(10))
    with target.right:
        plane.arm(plane.add(pair[0], taker.turn), select.EPOLLIN)
        pair[1].sendall(b"a" * 10)
        assert not taker.done.wait(0.05)
        assert not os.pread(target.fd, 10, 0)
    await_event(taker.done)
    assert os.pread(target.fd, 10, 0) == b"a" * 10


def test_an_interrupt_has_the_turn_called_with_what_was_moved(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    target = Target(plane, tmp_path / "target")
    taker = Taker(target.post(1000))
    lane = plane.add(pair[0], taker.turn)
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(b"a" * 400)
    while lane.moving_bytes < 400:
        assert not taker.done.wait(0.01)
    lane.interrupt()
    pair[1].sendall(b"b" * 600)
    await_event(taker.done)
    assert taker.taken == (400, None)


def test_an_end_is_told_after_what_came_before_it(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    taker = Taker(Target(plane, tmp_path / "target").post(1000))
    plane.arm(plane.add(pair[0], taker.turn), select.EPOLLIN)
    pair[1].sendall(b"a" * 400)
    pair[1].close()
    await_event(taker.done)
    assert taker.taken is not None
    assert taker.taken[0] == 400
    assert isinstance(taker.taken[1], ConnectionResetError)


def test_a_file_that_refuses_is_told(plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    target = Target(plane, tmp_path / "target")
    target.fd = os.open(tmp_path / "target", os.O_RDONLY)
    taker = Taker(target.post(1000))
    plane.arm(plane.add(pair[0], taker.turn), select.EPOLLIN)
    pair[1].sendall(b"a" * 400)
    await_event(taker.done)
    assert taker.taken is not None
    assert isinstance(fault := taker.taken[1], OSError)
    assert fault.errno == errno.EBADF
    with target.right:  # it was let go
        pass


def test_a_file_that_is_too_short_is_told(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(b"abc")
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    taker = Taker(lambda lane: lane.post_send(b"", fd, 0, 10))
    plane.arm(plane.add(pair[0], taker.turn), select.EPOLLOUT)
    await_event(taker.done)
    assert taker.taken is not None
    assert isinstance(taker.taken[1], EOFError)


def test_a_remote_that_is_gone_is_told_to_the_sender(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    (tmp_path / "source").write_bytes(PAYLOAD)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    taker = Taker(lambda lane: lane.post_send(b"HEAD", fd, 0, len(PAYLOAD)))
    pair[1].close()
    plane.arm(plane.add(pair[0], taker.turn), select.EPOLLOUT)
    await_event(taker.done)
    assert taker.taken is not None
    assert isinstance(taker.taken[1], BrokenPipeError)


def test_a_remote_that_says_no_more_and_does_not_read_costs_no_processor_time(
    plane: Plane, tcp_pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    """That it has ended its half is told by each look at the socket, however full that is."""
    (tmp_path / "source").write_bytes(PAYLOAD * 8)
    fd = os.open(tmp_path / "source", os.O_RDONLY)
    taker = Taker(lambda lane: lane.post_send(b"HEAD", fd, 0, 8 * len(PAYLOAD)))
    lane = plane.add(tcp_pair[0], taker.turn)
    plane.arm(lane, select.EPOLLOUT)
    until(lambda: lane.moving_bytes > len(PAYLOAD) // 2)
    tcp_pair[1].shutdown(socket.SHUT_WR)
    until(lambda: bool(select.select([tcp_pair[0]], [], [], 0)[0]))
    began_s = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - began_s < 0.1
    came = bytearray()
    while len(came) < 4 + 8 * len(PAYLOAD):
        came += tcp_pair[1].recv(1 << 20)
    await_event(taker.done)
    assert came == b"HEAD" + PAYLOAD * 8
    assert taker.taken == (len(came), None)


@pytest.mark.parametrize("count", [1, 40])
def test_what_is_posted_in_turns_is_moved_in_turns(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path, count: int
) -> None:
    """More than one run of a thread, so that it is armed again in the middle."""
    target = Target(plane, tmp_path / "target")
    done = threading.Event()
    left = iter(range(count))

    def turn(lane: Any, ready: int) -> bool:
        lane.take()
        at = next(left, None)
        if at is None:
            done.set()
            return False
        lane.post_receive(target.right, target.flag, target.seals, 1, target.fd, at * 10, 10, 0)
        return True

    lane = plane.add(pair[0], turn)
    pair[1].sendall(PAYLOAD[: count * 10])
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(b"next")  # what it is armed for after the last
    await_event(done)
    assert os.pread(target.fd, count * 10 + 1, 0) == PAYLOAD[: count * 10]


def test_a_chunk_of_many_small_files_does_not_wait_for_more_than_is_left_of_it(plane: Plane, tmp_path: Path) -> None:
    """The first file waits for as much as is left of the chunk; after a run of others less is left, and all of it here.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    far = socket.create_connection(listener.getsockname())
    near, _ = listener.accept()
    lengths = [100] * 60
    target, done, at = Target(plane, tmp_path / "target"), threading.Event(), 0
    left = iter(lengths)

    def turn(lane: Any, ready: int) -> bool:
        nonlocal at
        at += lane.take()
        length = next(left, None)
        if length is None:
            done.set()
            return False
        rest = sum(lengths) - at - length
        lane.post_receive(target.right, target.flag, target.seals, 1, target.fd, at, length, rest)
        return True

    with listener, far, near:
        near.setblocking(False)
        lane = plane.add(near, turn)
        plane.arm(lane, select.EPOLLIN)
        far.sendall(PAYLOAD[:1])
        while lane.moved_bytes < 1 or near.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1:
            assert not done.wait(0.01)
        far.sendall(PAYLOAD[1 : sum(lengths)])
        await_event(done)
        lane.wait_unserved()
        assert os.pread(target.fd, 2 * sum(lengths), 0) == PAYLOAD[: sum(lengths)]
        plane.lanes.remove(lane)


def test_a_lane_that_was_removed_is_not_called(plane: Plane, pair: tuple[socket.socket, socket.socket]) -> None:
    calls: list[int] = []
    lane = plane.add(pair[0], lambda lane, ready: bool(calls.append(ready)))
    plane.lanes.remove(lane)
    plane.lanes.remove(lane)
    plane.arm(lane, select.EPOLLIN)
    pair[1].sendall(b"a")
    lane.wait_unserved()
    other, far = socket.socketpair()
    with other, far:
        taker = Taker(lambda lane: None)
        taker._has_posted = True
        plane.arm(plane.add(other, taker.turn), select.EPOLLOUT)
        await_event(taker.done)
    assert not calls


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_turn_that_fails_takes_no_thread_with_it(
    plane: Plane, pair: tuple[socket.socket, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(lane: Any, ready: int) -> bool:
        raise ValueError("of a test")

    lane = plane.add(pair[0], fail)
    for _ in range(5):
        plane.arm(lane, select.EPOLLOUT)
        lane.wait_unserved()
    other, far = socket.socketpair()
    with other, far:
        taker = Taker(lambda lane: None)
        taker._has_posted = True
        plane.arm(plane.add(other, taker.turn), select.EPOLLOUT)
        await_event(taker.done)


def test_wrong_arguments_are_refused(plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    target = Target(plane, tmp_path / "target")
    lane = plane.twin.Lane(pair[0].fileno())
    with pytest.raises(ValueError, match="outside"):
        lane.post_receive(target.right, target.flag, target.seals, 3, target.fd, 0, 1, 0)
    with pytest.raises(ValueError, match="outside"):
        lane.post_receive(target.right, target.flag, target.seals, -1, target.fd, 0, 1, 0)
    with pytest.raises(ValueError, match="outside"):
        lane.post_receive(target.right, bytearray(), target.seals, 0, target.fd, 0, 1, 0)
    with pytest.raises(ValueError, match="too long"):
        lane.post_send(bytes(65), target.fd, 0, 1)
    with pytest.raises(OSError, match="Bad file"):
        lane.post_send(b"", -1, 0, 1)
    with pytest.raises(ValueError, match="closed"):
        plane.lanes.add(plane.twin.Lane(-1))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 300_000), min_size=1, max_size=6), st.lists(st.integers(1, 200_000), max_size=6))
def test_twins_agree_on_what_comes_in_pieces(posts: list[int], pieces: list[int]) -> None:
    """Both take just what was posted, whatever the pieces that it comes in, and hash it."""
    found = []
    for twin in (_native, _pure_lanes):
        made = Plane(twin)
        left, right = socket.socketpair()
        fd = os.memfd_create("target")
        try:
            left.setblocking(False)
            done, at, lengths = threading.Event(), 0, iter(posts)
            lock = made.twin.WriteLock()

            def turn(
                lane: Any, ready: int, lock: Any = lock, fd: int = fd, lengths: Any = lengths, done: Any = done
            ) -> bool:
                nonlocal at
                moved, fault = taken(lane)
                at += moved
                length = next(lengths, None)
                if fault is not None or length is None:
                    done.set()
                    return False
                lane.post_receive(lock, bytearray([1]), bytearray(1), 0, fd, at, length, 0)
                return True

            lane = made.add(left, turn)
            made.arm(lane, select.EPOLLIN)
            data = PAYLOAD[: sum(posts)]
            sent = 0
            for piece in [*pieces, len(data)]:
                part = data[sent : sent + piece]
                right.sendall(part)
                sent += len(part)
            right.sendall(b"end")
            await_event(done)
            lane.wait_unserved()
            found.append((at, os.pread(fd, len(data) + 1, 0) == data, lane.digest(), left.recv(9)))
        finally:
            made.close()
            left.close()
            right.close()
            os.close(fd)
    assert found[0] == found[1] == (sum(posts), True, xxhash.xxh3_128_digest(PAYLOAD[: sum(posts)]), b"end")


# ---- heads


class Reader:
    """Waits for heads of 16 bytes, and notes what it was called with."""

    def __init__(self) -> None:
        self.heads: list[tuple[bytes, bool]] = []
        self.called = threading.Semaphore(0)

    def turn(self, lane: Any, ready: int) -> bool:
        self.heads.append((lane.take_head(), lane.head_ended))
        assert taken(lane) == (0, None)
        if not lane.head_ended:
            lane.post_head(16 - len(self.heads[-1][0]) % 16)
        self.called.release()
        return not lane.head_ended

    def await_calls(self, count: int) -> None:
        """Wait until it was called so often."""
        for _ in range(count):
            assert self.called.acquire(timeout=PATIENCE_S)


def test_a_head_is_waited_for_in_one_turn(plane: Plane, pair: tuple[socket.socket, socket.socket]) -> None:
    reader = Reader()
    lane = plane.add(pair[0], reader.turn)
    lane.set_low_water(100)  # as a chunk before it may have left it
    plane.arm(lane, select.EPOLLIN | select.EPOLLOUT)
    reader.await_calls(1)
    for part in (b"0123", b"456789", b"abcdef"):
        pair[1].sendall(part)
    reader.await_calls(1)
    pair[1].sendall(b"half")
    deadline = time.monotonic() + PATIENCE_S
    while lane.head_bytes != 4:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    pair[1].close()
    reader.await_calls(1)
    assert reader.heads == [(b"", False), (b"0123456789abcdef", False), (b"half", True)]


def test_what_has_come_of_a_head_outlives_an_interruption(
    plane: Plane, pair: tuple[socket.socket, socket.socket]
) -> None:
    reader = Reader()
    lane = plane.add(pair[0], reader.turn)
    plane.arm(lane, select.EPOLLIN | select.EPOLLOUT)
    reader.await_calls(1)
    pair[1].sendall(b"0123")
    deadline = time.monotonic() + PATIENCE_S
    while lane.head_bytes != 4:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    lane.interrupt()
    pair[1].sendall(b"456789abcdef")
    reader.await_calls(2)
    assert reader.heads[1:] == [(b"0123", False), (b"456789abcdef", False)]


@pytest.mark.parametrize("come", [0, 5, 16, 20])
def test_a_head_comes_along_with_the_last_bytes(
    plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path, come: int
) -> None:
    target, heads, done = Target(plane, tmp_path / "target"), [], threading.Event()
    head = bytes(range(come))

    def turn(lane: Any, ready: int) -> bool:
        heads.append(lane.take_head())
        moved, fault = taken(lane)
        assert fault is None
        if len(heads) == 1:
            lane.post_receive(target.right, target.flag, target.seals, 1, target.fd, 0, 1000, 0, None, 16)
            return True
        assert moved == 1000
        assert lane.take_head() == b""  # once
        done.set()
        return False

    pair[1].sendall(PAYLOAD[:1000] + head)
    lane = plane.add(pair[0], turn)
    plane.arm(lane, select.EPOLLIN)
    await_event(done)
    lane.wait_unserved()
    assert heads == [b"", head[:16]]
    assert os.pread(target.fd, 1001, 0) == PAYLOAD[:1000]


def test_a_head_has_a_limit(plane: Plane, pair: tuple[socket.socket, socket.socket], tmp_path: Path) -> None:
    lane, target = plane.twin.Lane(pair[0].fileno()), Target(plane, tmp_path / "target")
    for count in (0, 65, -1):
        with pytest.raises(ValueError, match="head"):
            lane.post_head(count)
    for count in (65, -1):
        with pytest.raises(ValueError, match="head"):
            lane.post_receive(target.right, target.flag, target.seals, 1, target.fd, 0, 1000, 0, None, count)


FORKS = """
import os, select, socket, threading, time
from p2pfill import _native

epoll = select.epoll()
lanes = _native.Lanes(epoll)
pairs = [socket.socketpair() for _ in range(8)]

def serve(near):
    lane = _native.Lane(near.fileno())
    def turn(ready):
        os.read(lane.sock_fd, 65536)
        epoll.modify(lane.sock_fd, select.EPOLLIN | select.EPOLLONESHOT)
        return False
    lane.turn = turn
    lanes.add(lane)
    epoll.register(near.fileno(), select.EPOLLIN | select.EPOLLONESHOT)
    return lane

def feed():
    while True:
        for _, far in pairs:
            far.send(b"x")

held = [serve(near) for near, _ in pairs]
for target in (lanes.serve, lanes.serve, feed):
    threading.Thread(target=target, daemon=True).start()
ends_at = time.monotonic() + 3
while time.monotonic() < ends_at:
    child = os.fork()
    if not child:
        _native.Lane(0)
        os._exit(0)
    gives_up_at = time.monotonic() + 5
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > gives_up_at:
            os.kill(child, 9)
            os._exit(1)
        time.sleep(0.0005)
os._exit(0)
"""


def test_a_forked_process_lets_lanes_go() -> None:
    """As of a program that embeds a node, and forks: it has none of the threads that held the mutex just then."""
    done = subprocess.run([sys.executable, "-c", FORKS], timeout=60, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("after_s", [0.0, 1.5])
@pytest.mark.parametrize("twin", [_native, _pure_lanes], ids=["native", "pure"])
def test_threads_that_are_held_up_are_relieved(twin: ModuleType, after_s: float) -> None:
    plane, release, held = Plane(twin, 4), threading.Event(), threading.Semaphore(0)

    def hold(lane: Any, ready: int) -> bool:
        held.release()
        release.wait(PATIENCE_S)
        return False

    last = Reader()
    pairs = [socket.socketpair() for _ in range(4)]
    try:
        time.sleep(after_s)  # by then they look seldom what the others do, or not at all
        for number, (left, right) in enumerate(pairs):
            left.setblocking(False)
            right.send(b"x")
            plane.arm(plane.add(left, hold if number < 3 else last.turn), select.EPOLLIN)
        for _ in range(3):
            assert held.acquire(timeout=PATIENCE_S), "nobody took the place of a thread that was held up"
        last.await_calls(1)
    finally:
        release.set()
        plane.close()
        for left, right in pairs:
            left.close()
            right.close()


@pytest.mark.parametrize("twin", [_native, _pure_lanes], ids=["native", "pure"])
def test_threads_with_nothing_to_do_sleep(twin: ModuleType) -> None:
    plane = Plane(twin, 4)

    def wakes() -> int:
        return sum(
            int(line.split()[1])
            for thread in plane.threads
            for line in Path(f"/proc/self/task/{thread.native_id}/status").read_text().splitlines()
            if line.startswith("voluntary_ctxt_switches")
        )

    try:
        until = time.monotonic() + PATIENCE_S
        while True:
            before = wakes()
            time.sleep(0.5)
            if wakes() == before:
                break
            assert time.monotonic() < until, "they wake all the time"
    finally:
        plane.close()
