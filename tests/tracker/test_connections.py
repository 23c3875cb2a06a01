"""A connection whose caller has gone is let go of at once, with TLS and without, and no answer takes for ever."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from certificates import Signer, tracker, user

from p2pfill.tracker.client import TrackerClient, TrackerUnreachable
from p2pfill.tracker.server import KEEP_ALIVE_S, serve_tracker
from p2pfill.trust.credentials import Credentials

GRANTS = '[[grants]]\nwho = "user/anna"\nmay = ["read"]\n'
CALLERS = 5


def sockets() -> int:
    """Return how many sockets this process has, in which the tracker and its callers are."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("socket:")
        except OSError:  # of the look itself
            continue
    return found


@pytest.mark.parametrize("tls", [False, True])
async def test_callers_that_have_gone_cost_no_descriptors(tmp_path: Path, nursery: trio.Nursery, tls: bool) -> None:
    assert KEEP_ALIVE_S > 10, "else this shows nothing"
    serve, identity = partial(serve_tracker, heartbeat_s=0.2), None
    if tls:
        signer = Signer()
        (tmp_path / "grants.toml").write_text(GRANTS)
        credentials = Credentials(signer.give(tmp_path / "tracker", tracker()))
        serve = partial(serve, credentials=credentials, grants=tmp_path / "grants.toml")
        identity = Credentials(signer.give(tmp_path / "anna", user("anna")))
    url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
    before = sockets()
    for _ in range(CALLERS):
        async with TrackerClient(url, credentials=identity) as client:
            assert await client.nodes() == []
    with trio.fail_after(10):
        while sockets() > before:
            await trio.sleep(0.05)


async def test_a_caller_who_sends_no_more_is_answered(tmp_path: Path, nursery: trio.Nursery) -> None:
    """One that ends its half right behind its call, as old programs do."""
    serve = partial(serve_tracker, heartbeat_s=0.2)
    url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
    before = sockets()
    stream = await trio.open_tcp_stream("127.0.0.1", int(url.rpartition(":")[2]))
    await stream.send_all(b"GET /v1/nodes HTTP/1.1\r\nHost: tracker\r\nConnection: close\r\n\r\n")
    await stream.send_eof()
    with trio.fail_after(10):
        assert b"200" in (await stream.receive_some(1000))[:20]
        await stream.aclose()
        while sockets() > before:
            await trio.sleep(0.05)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "again"),
    [
        pytest.param(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", id="informs"),
        pytest.param(HEAD, b"X: y\r\n", id="head"),
        pytest.param(HEAD + b"\r\n", b" ", id="body"),
        pytest.param(CHUNKED + b"1;", b"x", id="extension"),
        pytest.param(CHUNKED + b"0\r\n", b"X: y\r\n", id="trailers"),
    ],
)
async def test_an_answer_that_drips_is_given_up(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, first: bytes, again: bytes
) -> None:
    """Though something comes before each wait is over."""

    async def drip(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            await stream.receive_some(1000)
            await stream.send_all(first)
            while True:
                await stream.send_all(again)
                await trio.sleep(1)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, drip, listeners)
    async with TrackerClient(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", timeout_s=10) as client:
        with trio.fail_after(40), pytest.raises(TrackerUnreachable):
            await client.nodes()


async def test_a_tracker_that_only_informs_does_not_take_the_loop(nursery: trio.Nursery) -> None:
    async def flood(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):
            while True:
                await stream.send_all(1000 * b"HTTP/1.1 103 Early Hints\r\n\r\n")

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, flood, listeners)
    async with TrackerClient(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", timeout_s=10) as client:
        with trio.fail_after(5), pytest.raises(TrackerUnreachable, match="only informs"):
            await client.nodes()
