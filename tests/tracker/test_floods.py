"""Who takes too much of the tracker is refused at once, with the reason; everybody else goes on."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from certificates import user
from hypothesis import given
from hypothesis import strategies as st
from trusted import Fleet

from p2pfill.model.hosts import address_of
from p2pfill.tracker import admission as admission_module
from p2pfill.tracker import api as api_module
from p2pfill.tracker.admission import Admission, Shares, bounds_for
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.server import serve_tracker

DESCRIPTORS = 64
HEALTH = b"GET /v1/health HTTP/1.1\r\nHost: x\r\n\r\n"
OPEN_BODY = b"POST /v1/fills HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
WITHIN_S = 5.0
"""Far above what an answer takes that does not have to wait."""


@pytest.fixture
async def url(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracker with few descriptors: 32 connections, 16 of one address, 8 in reserve."""
    monkeypatch.setattr(admission_module, "descriptors_max", lambda: DESCRIPTORS)
    serve: Any = serve_tracker
    started = await nursery.start(
        lambda task_status: serve("127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", heartbeat_s=0.2, task_status=task_status)
    )
    return str(started)


async def connect(url: str, address: str = "127.0.0.1") -> trio.SocketStream:
    """Connect from an address of the loopback."""
    to = urlsplit(url)
    sock = trio.socket.socket(socket.AF_INET)
    await sock.bind((address, 0))
    await sock.connect((to.hostname, to.port))
    return trio.SocketStream(sock)


async def ask(url: str, request: bytes = HEALTH, address: str = "127.0.0.1") -> str:
    """Return what is answered to a request over a connection of its own, '' where it is only closed."""
    with trio.fail_after(WITHIN_S):
        async with await connect(url, address) as stream:
            try:
                await stream.send_all(request)
                return (await read(stream)).decode()
            except trio.BrokenResourceError:
                return ""


async def read(stream: trio.SocketStream) -> bytes:
    """Return an answer in JSON."""
    answer = b""
    while not answer.endswith(b"}\n") and (piece := await stream.receive_some(65536)):
        answer += piece
        if answer.endswith(b"}"):
            break  # what is refused before it is read
    return answer


@asynccontextmanager
async def holding(url: str, count: int, sent: bytes = b"", address: str = "127.0.0.1") -> AsyncIterator[Any]:
    """Hold connections over which something was sent that is not complete."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(await connect(url, address)) for _ in range(count)]
        for stream in streams:
            if sent:
                await stream.send_all(sent)
        await trio.sleep(0.1)
        yield streams


async def refused(url: str) -> dict[str, int]:
    async with TrackerClient(url) as client:
        return (await client.status()).refused


@pytest.mark.parametrize("sent", [b"", b"GET /v1/hea", HEALTH])
async def test_a_connection_that_its_caller_has_closed_holds_nothing(url: str, sent: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with holding(url, 10, sent):
        assert len(os.listdir("/proc/self/fd")) == before + 20, "both ends of each are of this process"
    with trio.fail_after(WITHIN_S):
        while len(os.listdir("/proc/self/fd")) > before:
            await trio.sleep(0.02)


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["127.0.0.2"], [f"127.0.0.{n}" for n in range(2, 8)]])
async def test_idle_connections_shut_out_nobody(url: str, addresses: list[str]) -> None:
    async with AsyncExitStack() as stack:
        for address in addresses:
            await stack.enter_async_context(holding(url, 120 // len(addresses), address=address))
        for _ in range(3):
            assert "200" in await ask(url)
    assert (await refused(url))["an idle connection was closed to make room"] > 50


async def test_one_that_asks_now_and_then_goes_before_one_that_never_has(url: str) -> None:
    async with await connect(url) as mine:
        await mine.send_all(HEALTH)
        assert b"200" in await read(mine)
        async with holding(url, 40):
            await mine.send_all(HEALTH)
            assert b"200" in await read(mine)


async def test_an_address_that_holds_calls_open_is_told_so_and_others_are_served(url: str) -> None:
    async with holding(url, 40, OPEN_BODY):
        answer = await ask(url)
        assert "503" in answer
        assert "too many connections of one address" in answer
        assert "200" in await ask(url, address="127.0.0.2")
    await trio.sleep(0.1)
    assert "200" in await ask(url)
    counts = await refused(url)
    assert counts["too many connections of one address"] >= 1
    assert sum(counts.values()) > 20


async def test_the_reserve_is_for_those_who_have_reported(url: str, make: Any) -> None:
    async with TrackerClient(url) as client:
        await client.heartbeat(make.report(make.info("n1")))  # from 127.0.0.1
    async with AsyncExitStack() as stack:
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.4"):
            await stack.enter_async_context(holding(url, 16, OPEN_BODY, address))
        answer = await ask(url, address="127.0.0.5")
        assert "503" in answer
        assert "too many connections" in answer
        assert "200" in await ask(url)


async def test_bodies_and_heads_that_drip_are_ended(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_module, "GRACE_S", 0.3)
    monkeypatch.setattr(admission_module, "HEAD_WAIT_S", 0.3)
    monkeypatch.setattr(admission_module, "SWEEP_S", 0.05)
    drips = [OPEN_BODY, b"PUT /v1/titles/" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nx"]
    with trio.fail_after(WITHIN_S):
        for drip in drips:
            async with await connect(url) as stream:
                await stream.send_all(drip)
                answer = b""
                while b"too slowly" not in answer:
                    await trio.sleep(0.05)
                    await stream.send_all(b"x")
                    with trio.move_on_after(0.01):
                        answer += await stream.receive_some(65536)
                assert b"408" in answer
        for head in (b"", b"GET /v1/hea"):
            async with await connect(url) as stream:
                if head:
                    await stream.send_all(head)
                assert await stream.receive_some(1) == b"", "it is closed"
    counts = await refused(url)
    assert counts["a body came too slowly"] == 2
    assert counts["no request came over a connection"] == 2


async def test_two_bodies_that_drip_keep_nobody_from_publishing(url: str, make: Any) -> None:
    manifest = make.manifest()
    drip = b"PUT /v1/titles/" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\nx"
    async with holding(url, 4, drip), TrackerClient(url) as client:
        with trio.fail_after(WITHIN_S):
            await client.put_title(manifest.title_id.hex(), manifest.encode())


async def test_bytes_of_bodies_have_a_share_for_each_address(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "BODIES_BYTES_MAX", 4_000_000)
    serve: Any = serve_tracker
    url = await nursery.start(
        lambda task_status: serve("127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", task_status=task_status)
    )
    head = b"PUT /v1/titles/" + b"0" * 64 + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n"
    body = head + bytes(2_000_000)
    async with holding(url, 1, body):
        answer = await ask(url, body)
        assert "503" in answer
        assert "too many bytes of bodies" in answer
        small = b"POST /v1/fills HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
        assert "400" in await ask(url, small), "what is short is taken all the same"
        async with holding(url, 1, body[:700_000], "127.0.0.2"):
            pass


async def test_long_polls_have_a_share(url: str, make: Any) -> None:
    async with TrackerClient(url) as client:
        for name in ("n1", "n2"):
            reply = await client.heartbeat(make.report(make.info(name)))
    poll = b"GET /v1/nodes/n1/orders?after=%d&wait_s=9 HTTP/1.1\r\nHost: x\r\n\r\n"
    async with TrackerClient(url) as client:
        version = (await client.orders("n1")).version
        async with holding(url, admission_module.POLLS_OF_NODE_MAX, poll % version):
            answer = await ask(url, poll % version)
            assert "429" in answer
            assert "too many long polls for one node" in answer
            assert (await client.orders("n2")).version == reply.orders_version


async def test_who_does_not_read_is_cut_off(
    url: str, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    monkeypatch.setattr(admission_module, "GRACE_S", 0.1)
    monkeypatch.setattr(admission_module, "RATE_MIN_BYTES_S", 1 << 30)
    monkeypatch.setattr(admission_module, "SWEEP_S", 0.05)
    async with TrackerClient(url) as client:
        await client.heartbeat(make.report(make.info("n1")))
    status = b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n"
    async with await connect(url) as stream:
        with trio.fail_after(WITHIN_S):
            try:
                while True:  # never reads, so that all buffers fill
                    await stream.send_all(100 * status)
            except trio.BrokenResourceError:
                pass
    assert (await refused(url))["an answer was not read"] == 1


async def test_long_answers_that_are_not_read_have_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_module, "LONG_BYTES", 1000)
    monkeypatch.setattr(admission_module, "ANSWERS_BYTES_MAX", 8000)
    admission, sent, leave = Admission(Counter()), [], trio.Event()

    async def send(message: Any) -> None:
        sent.append(message)
        if len(message.get("body", b"")) >= 1000:
            await leave.wait()

    async def answer() -> None:
        bounded = admission._bounded(send, "a")
        await bounded({"type": "http.response.start", "status": 200, "headers": []})
        await bounded({"type": "http.response.body", "body": bytes(3000)})

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        await trio.testing.wait_all_tasks_blocked()
        await answer()
        assert [one["status"] for one in sent if "status" in one] == [200, 503]
        assert b"not read" in sent[-1]["body"]
        leave.set()
    await answer()
    assert sent[-2]["status"] == 200


def test_what_is_done_one_at_a_time_has_a_queue_for_each() -> None:
    admission = Admission(Counter())

    def wait(count: int) -> None:
        with admission.waiting("a", "reports"):
            with admission.waiting("b", "reports"), admission.waiting("a", "manifests"):
                pass
            if count > 1:
                wait(count - 1)

    async def run() -> None:
        wait(admission_module.WAITING_MAX)
        with pytest.raises(RequestRefused, match="wait for reports"):
            wait(admission_module.WAITING_MAX + 1)
        wait(admission_module.WAITING_MAX)

    trio.run(run)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.booleans()), max_size=60))
def test_shares_hold_and_come_back(steps: list[tuple[str, int, bool]]) -> None:
    shares, taken = Shares(20, 12, 6), []
    for address, count, is_known in steps:
        if shares.take(address, count, is_known=is_known):
            taken.append((address, count))
        elif taken:
            shares.give_back(*taken.pop(0))
        of_each = Counter({one: sum(n for a, n in taken if a == one) for one in "abc"})
        assert shares.taken == sum(of_each.values()) <= 20
        assert max(of_each.values()) <= 12
    for one in taken:
        shares.give_back(*one)
    assert (shares.taken, shares._taken) == (0, Counter())
    assert shares.take("a", 12)
    assert not shares.take("b", 3), "the last part is for those who are known"
    assert shares.take("b", 3, is_known=True)


@pytest.mark.parametrize(("descriptors", "connections"), [(10, 8), (64, 32), (256, 192), (1024, 960), (1 << 20, 65536)])
def test_bounds_follow_from_descriptors(descriptors: int, connections: int) -> None:
    bounds = bounds_for(descriptors)
    assert bounds.connections == connections
    assert bounds.polls_of_address < bounds.of_address < connections - bounds.reserved < connections


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("192.0.2.7", "192.0.2.7"), ("::ffff:192.0.2.7", "192.0.2.7"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("odd", "odd"),
    ],
)  # fmt: skip
def test_an_address_of_ipv6_is_its_network(host: str, address: str) -> None:
    assert address_of(host) == address


async def test_with_certificates_strangers_shut_out_nobody_and_hear_nothing_in_the_clear(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_module, "descriptors_max", lambda: DESCRIPTORS)
    fleet = Fleet(tmp_path, nursery)
    await fleet.start()
    heard = b""
    async with holding(fleet.url, 40) as streams, fleet.client(user("anna")) as client:
        with trio.fail_after(WITHIN_S):
            assert (await client.health()).status == "ok"
        for stream in streams:
            with trio.move_on_after(0.01):
                try:
                    heard += await stream.receive_some(65536)
                except trio.BrokenResourceError:
                    continue
        assert (await client.status()).refused["an idle connection was closed to make room"] > 20
    admission = Admission(Counter(), is_secure=True)
    near, far = trio.testing.memory_stream_pair()
    await admission._turn_away(near, "too many connections", "a")  # type: ignore[arg-type]
    await near.aclose()
    assert heard + await far.receive_some() == b""
