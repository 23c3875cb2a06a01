"""The HTTP of a tracker's callers, against servers that are not a tracker's own."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio

from p2pfill.errors import ConfigError, TrackerError
from p2pfill.tracker.client import TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.urls import place_of

Serve = Callable[[trio.SocketStream], Awaitable[None]]
NODES = b'{"nodes":[]}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n" + NODES


@asynccontextmanager
async def calling(serve: Serve, timeout_s: float = 5.0) -> AsyncIterator[TrackerClient]:
    """Run a server in the place of a tracker, and a client of it."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        async with TrackerClient(f"http://127.0.0.1:{port}", timeout_s=timeout_s) as client:
            yield client
        nursery.cancel_scope.cancel()


async def read_head(stream: trio.SocketStream) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (more := await stream.receive_some()):
        head += more
    return head


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n5\r\n%b\r\n7\r\n%b\r\n0\r\n\r\n" % (NODES[:5], NODES[5:]),
        b"HTTP/1.0 200 OK\r\n\r\n" + NODES,
        OK[:-1],
    ],
    ids=["plain", "informs", "in pieces", "until the end", "cut short"],
)  # fmt: skip
async def test_an_answer_is_read_to_its_end_whatever_pieces_it_comes_in(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        for at in range(0, len(answer), 7):
            await stream.send_all(answer[at : at + 7])
            await trio.lowlevel.checkpoint()
        await stream.aclose()

    async with calling(serve) as client:
        if answer == OK[:-1]:
            with pytest.raises(TrackerUnreachable):
                await client.nodes()
        else:
            assert await client.nodes() == []


@pytest.mark.parametrize(
    "answer", [b"", b"\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x46", b"HTTP/1.1 2"]
)
async def test_what_is_no_http_is_a_tracker_that_cannot_be_reached(answer: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(answer)
        await stream.aclose()

    async with calling(serve) as client:
        with pytest.raises(TrackerUnreachable, match="begins with https://"):
            await client.nodes()


async def test_a_head_and_a_body_have_an_end() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        asked = await read_head(stream)
        endless = b"X-Y: z\r\n" if b"/v1/nodes" in asked else b"z"
        with trio.move_on_after(5):
            try:
                await stream.send_all(b"HTTP/1.1 200 OK\r\n" + (b"" if b"/v1/nodes" in asked else b"\r\n"))
                while True:
                    await stream.send_all(endless * 8000)
            except trio.BrokenResourceError:
                return

    async with calling(serve) as client:
        with pytest.raises(TrackerUnreachable):
            await client.nodes()
        with pytest.raises(TrackerError, match="is above"):
            await client.signatures("0" * 64)


async def test_silence_ends_a_call_and_its_connection(autojump_clock: object) -> None:
    ended = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await trio.sleep(0.9)
        await stream.send_all(OK[:-1])  # the head is a sign of life
        assert await stream.receive_some() == b""
        ended.set()

    async with calling(serve, timeout_s=1.0) as client:
        began = trio.current_time()
        with pytest.raises(TrackerUnreachable, match="in time"):
            await client.nodes()
        assert 1.8 < trio.current_time() - began < 2.0
        await ended.wait()


async def test_a_connection_serves_again_until_the_other_side_ends_it() -> None:
    seen: list[int] = []

    async def serve(stream: trio.SocketStream) -> None:
        seen.append(0)
        for _ in range(3):
            if not await read_head(stream):
                return
            seen[-1] += 1
            await stream.send_all(OK)
        await stream.aclose()

    async with calling(serve) as client:
        for _ in range(6):
            assert await client.nodes() == []
            await trio.sleep(0.01)  # so that the end has come, where there is one
    assert seen[:2] == [3, 3]


async def test_bytes_that_nobody_has_asked_for_are_no_answer_to_the_next_call() -> None:
    seen = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal seen
        seen += 1
        while await read_head(stream):
            await stream.send_all(OK + b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")

    async with calling(serve) as client:
        for _ in range(3):
            assert await client.nodes() == []
    assert seen == 3


async def test_who_refuses_a_long_body_early_is_heard() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 413 No\r\nContent-Length: 13\r\n\r\n" + b'{"error":"no"}'[:13])
        await stream.send_eof()
        async for _ in stream:
            pass

    async with calling(serve) as client:
        with pytest.raises(TrackerRefused) as refused:
            await client.put_title("0" * 64, bytes(20 << 20))
        assert refused.value.status == 413


def test_where_a_tracker_is_and_what_is_asked_there() -> None:
    place = place_of("https://me:p%40ss@[2001:db8::7]:7070/fleet/")
    assert (place.host, place.port, place.is_encrypted) == ("2001:db8::7", 7070, True)
    assert ("Host", "[2001:db8::7]:7070") in place.headers
    assert ("Authorization", "Basic bWU6cEBzcw==") in place.headers
    assert place.target("/v1/nodes/a b\u00e4#?x=%2F") == "/fleet/v1/nodes/a%20b%C3%A4%23?x=%2F"
    assert place_of("http://b\u00fccher.example").headers[0] == ("Host", "xn--bcher-kva.example")
    assert (place_of("http://tracker").port, place_of("https://tracker").port) == (80, 443)
    for wrong in ("http://192.0.2.300", "http://1.2.3", "http://[12345::1]", "http://a..b", "http://" + "a" * 64):
        with pytest.raises(ConfigError, match="write http://HOST:PORT"):
            place_of(wrong)


@pytest.mark.parametrize("method", ["nodes", "publish", "heartbeat", "delete_title"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_kept_connection_that_ends_while_a_call_is_on_its_way_is_nobodys_failure(
    method: str, reset: bool
) -> None:
    """As of what stands before a tracker, and ends connections after the time that lies between two calls."""
    seen: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(OK)
        if head := await read_head(stream):
            seen.append(head)
        if reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

    async with calling(serve) as client:
        assert (await client.exchange("GET", "/v1/nodes")).status == 200
        if method == "delete_title":  # made twice, it would tell of a title that is not there
            with pytest.raises(TrackerUnreachable, match=r"reset" if reset else r"closed the connection without"):
                await client.exchange("DELETE", "/v1/titles/1")
        elif method == "heartbeat":
            assert (await client.exchange("POST", "/v1/nodes/a/heartbeat", b"{}")).status == 200
        elif method == "publish":
            assert (await client.exchange("PUT", "/v1/titles/1", b"{}")).status == 200
        else:
            assert (await client.exchange("GET", "/v1/nodes")).status == 200
    assert len(seen) == 1


async def test_a_call_is_made_twice_at_most() -> None:
    heads: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        heads.append(await read_head(stream))
        if len(heads) == 1:
            await stream.send_all(OK)
            heads.append(await read_head(stream))
        await stream.aclose()

    async with calling(serve) as client:
        await client.exchange("GET", "/v1/nodes")
        with pytest.raises(TrackerUnreachable, match="closed the connection without an answer"):
            await client.exchange("GET", "/v1/nodes")
    assert len(heads) == 3


@pytest.mark.parametrize(
    ("begins", "goes_on"),
    [
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 100 + b"\r\nx\r\n"),
    ],
    ids=["only informs", "head", "body", "extensions"],
)
async def test_what_comes_drop_by_drop_does_not_hold_a_call_for_ever(begins: bytes, goes_on: bytes) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        with suppress(trio.BrokenResourceError):
            await stream.send_all(begins)
            while True:
                await stream.send_all(goes_on)
                await trio.sleep(0.05)

    async with calling(serve, timeout_s=0.5) as client:
        with trio.fail_after(5), pytest.raises(TrackerUnreachable, match=r"does not answer in time|only informs"):
            await client.exchange("GET", "/v1/nodes")


async def test_an_answer_that_goes_on_coming_may_take_its_time() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await read_head(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n")
        for _ in range(10):
            await trio.sleep(0.15)
            await stream.send_all(b"x" * 3000)

    async with calling(serve, timeout_s=0.6) as client:
        assert len((await client.exchange("GET", "/v1/nodes")).body) == 30000
