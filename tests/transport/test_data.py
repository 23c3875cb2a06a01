"""The data path over real sockets and files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import xxhash

from p2pfill.errors import RemoteProtocolError, TransferError
from p2pfill.protocol.data import DataHeader, encode_header
from p2pfill.transport import data


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


async def test_chunks_arrive_whole_and_hashed(tmp_path: Path) -> None:
    source, target, payload = two_titles(tmp_path)
    limiter = trio.CapacityLimiter(2)
    near, far = trio.socket.socketpair()
    header = DataHeader(7, 3, len(payload))
    incoming = data.Incoming(far, limiter)
    with near, far:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(data.send_chunk, near, source, header, limiter)
            assert await data.receive_header(far) == header
            digest = await incoming.receive_chunk(target, header)
        assert digest == xxhash.xxh3_128_digest(payload)
        assert target.read() == payload
        async with trio.open_nursery() as nursery:
            nursery.start_soon(data.send_chunk, near, source, header, limiter)
            assert await data.receive_header(far) == header
            await incoming.skip_chunk(header)
        near.close()
        assert await data.receive_header(far) is None


async def test_a_stream_that_breaks_inside_a_chunk_is_a_transfer_error(tmp_path: Path) -> None:
    _, target, payload = two_titles(tmp_path)
    near, far = trio.socket.socketpair()
    header = DataHeader(1, 0, len(payload))
    with far:
        await near.send(encode_header(header) + payload[:1000])
        near.close()
        assert await data.receive_header(far) == header
        with pytest.raises(TransferError, match="1000 of"):
            await data.Incoming(far, trio.CapacityLimiter(1)).receive_chunk(target, header)


async def test_a_file_that_shrank_is_a_transfer_error(tmp_path: Path) -> None:
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
                await data.send_chunk(near, source, DataHeader(1, 0, len(payload)), trio.CapacityLimiter(1))
            near.close()


async def test_a_stalled_stream_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _, payload = two_titles(tmp_path)
    monkeypatch.setattr(data, "PROGRESS_TIMEOUT_S", 0.05)
    near, far = trio.socket.socketpair()
    with near, far, pytest.raises(TransferError, match="TooSlowError"):
        await data.send_chunk(near, source, DataHeader(1, 0, len(payload)), trio.CapacityLimiter(1))


async def test_garbage_instead_of_a_header_is_the_remotes_fault() -> None:
    near, far = trio.socket.socketpair()
    with near, far:
        await near.send(b"\xff" * 16)
        with pytest.raises(RemoteProtocolError):
            await data.receive_header(far)
