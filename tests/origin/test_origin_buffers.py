"""Memory for chunks is used again, and large bodies are taken in few calls."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from p2pfill.model.timing import ORIGIN_READS_MAX
from p2pfill.origin import OriginObjectMissing, open_origin
from p2pfill.origin.buffers import BUFFERS, SPARE_BYTES_MAX, Buffers
from p2pfill.origin.wire import Wire
from tests.origin.servers import RawServer, head, serve

MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_spare() -> Iterator[None]:
    BUFFERS.clear()
    yield
    BUFFERS.clear()


def test_what_is_given_back_serves_again_and_cannot_be_looked_at() -> None:
    buffers = Buffers()
    first = buffers.take(3 * MIB)
    memory = first.obj
    assert len(first) == 3 * MIB
    assert buffers.take(3 * MIB).obj is not memory, "it is in somebody's hands"
    buffers.give_back(first)
    with pytest.raises(ValueError, match="released"):
        first[0]
    assert buffers.take(2 * MIB + 1).obj is memory, "lengths that differ a little share it"
    assert buffers.spare_bytes == 0


@pytest.mark.parametrize("length", [1, 70_000, 4 * MIB, 16 * MIB])
def test_what_is_spare_has_a_limit(length: int) -> None:
    buffers = Buffers()
    taken = [buffers.take(length) for _ in range(2 * ORIGIN_READS_MAX)]
    for data in taken:
        buffers.give_back(data)
    assert 0 < buffers.spare_bytes <= SPARE_BYTES_MAX
    buffers.clear()
    assert buffers.spare_bytes == 0


def test_an_origin_reads_into_memory_that_was_given_back(make_title: Callable[..., Any]) -> None:
    blob = random.Random(1).randbytes(3 * 65536)
    title = make_title({"big": blob})
    server = RawServer(serve(blob))
    try:
        origin = open_origin(server.url)
        seen = set()
        for k in range(3):
            chunk = origin.read_chunk(title.manifest, k)
            assert bytes(chunk.data) == title.chunk(k)
            seen.add(id(chunk.data.obj))
            chunk.give_back()
        assert len(seen) == 1
        assert BUFFERS.spare_bytes == 65536
        origin.close()
    finally:
        server.stop()


def test_a_read_that_fails_gives_its_memory_back(make_title: Callable[..., Any]) -> None:
    title = make_title({"big": bytes(65536)})
    server = RawServer(lambda request, connection: connection.sendall(head(404, Content_Length=0)))
    try:
        with pytest.raises(OriginObjectMissing):
            open_origin(server.url).read_chunk(title.manifest, 0)
        assert BUFFERS.spare_bytes == 65536
    finally:
        server.stop()


def test_a_large_body_is_taken_in_few_calls(make_title: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call hands the GIL over twice, and there was one for whatever the socket had: 190 KiB, or much less."""
    blob = random.Random(1).randbytes(4 * MIB)
    title = make_title({"big": blob}, chunk_size=4 * MIB)
    calls: list[int] = []
    really = Wire.receive

    def receive(self: Wire, buffer: Any) -> int:
        calls.append(really(self, buffer))
        return calls[-1]

    def in_crumbs(request: Any, connection: Any) -> bool:
        connection.sendall(head(200, Content_Length=len(blob)))
        for at in range(0, len(blob), 20_000):
            connection.sendall(blob[at : at + 20_000])
        return True

    monkeypatch.setattr(Wire, "receive", receive)
    server = RawServer(in_crumbs)
    try:
        chunk = open_origin(server.url).read_chunk(title.manifest, 0)
        assert bytes(chunk.data) == blob
        assert len(calls) < 40, "a few for the head, and one for each MiB, or each tenth of a second"
    finally:
        server.stop()
