"""What outsiders, and those with a certificate who mean no good or are in a hurry, try on a fleet."""

from __future__ import annotations

import logging
import os
import re
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from certificates import Signer, cache, tracker, user
from trio.abc import Stream
from trusted import Fleet, film

from p2pfill.cli import audit as audit_command
from p2pfill.errors import ConfigError, RemoteProtocolError
from p2pfill.model.identity import Identity
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.model.reports import BroughtOrder
from p2pfill.node import links as links_module
from p2pfill.node import open_node
from p2pfill.node import seldom as seldom_module
from p2pfill.node.seldom import SeldomLog
from p2pfill.protocol.messages import Hello
from p2pfill.tracker import brought_back
from p2pfill.tracker.audit import AuditPage, AuditRecord
from p2pfill.tracker.client import TrackerRefused
from p2pfill.tracker.records import EvictRequest
from p2pfill.transport.control import FLOODS_SHARE, SHARE_BURST_S, ControlChannel
from p2pfill.transport.handshakes import HANDSHAKE_S, Handshakes
from p2pfill.transport.secure import BoundedTls, TlsLayer, secure
from p2pfill.trust.credentials import Credentials


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            made = Fleet(tmp_path, nursery)
            await made.start()
            yield made
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "other",
    [cache("a2"), cache("a1", "isp-b"), cache("a1", region="eu"), user("a1"), tracker("a1")],
    ids=lambda one: one.uri,
)
def test_what_runs_does_not_become_somebody_else(tmp_path: Path, other: Identity) -> None:
    signer = Signer()
    a1 = Credentials(signer.give(tmp_path / "a1", cache("a1")))
    before = a1.accepting, a1.connecting, a1.calling, a1.identity
    signer.give(tmp_path / "a1", other)
    for _ in range(2):
        with pytest.raises(ConfigError, match="put that one's back, or restart"):
            a1.reload()
        assert (a1.accepting, a1.connecting, a1.calling, a1.identity) == before
    signer.give(tmp_path / "a1", cache("a1"), hosts=("127.0.0.1", "192.0.2.1"))
    assert a1.reload(), "hosts may be more than before"
    assert a1.identity.hosts == ("127.0.0.1", "192.0.2.1")
    shutil.rmtree(tmp_path / "a1")
    with pytest.raises(ConfigError, match="cannot read"):
        a1.reload()
    assert a1.identity.name == "a1"


async def test_a_flood_from_one_address_does_not_push_out_who_is_slower(fleet: Fleet) -> None:
    said = Hello("a2", "isp-a", "default", "", "127.0.0.1", 4000, 1.0, "test", "b")
    a2 = Credentials(fleet.signer.give(fleet.root / "id-a2", cache("a2")))
    async with AsyncExitStack() as stack, open_node(fleet.config(cache("a1"), "")) as a1:
        # The line is a long one: others come by the hundred between its first byte and its handshake.
        slow = await trio.open_tcp_stream("127.0.0.1", a1.info.port, local_address="127.0.0.2")
        await trio.sleep(0.1)
        for _ in range(links_module.NEWCOMERS_MAX + 20):
            stack.push_async_callback(trio.aclose_forcefully, await trio.open_tcp_stream("127.0.0.1", a1.info.port))
        await trio.sleep(0.1)
        async with trio.open_nursery() as nursery:

            def take(message: object) -> None:
                pass

            nursery.start_soon(ControlChannel(trio.SSLStream(slow, a2.connecting), said).run, take)
            with trio.fail_after(5):
                while "a2" not in a1.engine.links:
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()


async def test_handshakes_of_one_address_do_not_take_the_loop_from_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    handshakes = Handshakes()
    done = 0

    async def one() -> None:
        nonlocal done
        await handshakes.wait_turn("192.0.2.1")
        done += 1

    async with trio.open_nursery() as flood:
        for _ in range(5000):
            flood.start_soon(one)
        await trio.sleep(10)
        assert done * HANDSHAKE_S == pytest.approx(10 * FLOODS_SHARE + SHARE_BURST_S, rel=0.02)
        before = trio.current_time()
        await handshakes.wait_turn("192.0.2.2")
        assert trio.current_time() == before, "who comes from elsewhere does not wait"
        flood.cancel_scope.cancel()
    await handshakes.wait_turn("192.0.2.1")
    assert trio.current_time() - before < 0.1, "those who have given up are not waited for"


async def open_pair(root: Path, tickets: int) -> tuple[TlsLayer, Stream, Stream]:
    """Return what our end of a connection has of TLS, that end, and the other one, which has sent so many tickets."""
    signer = Signer()
    a1, a2 = (Credentials(signer.give(root / name, cache(name))) for name in ("a1", "a2"))
    a2.accepting.num_tickets = tickets
    ours, theirs = trio.testing.memory_stream_pair()
    layer, other = TlsLayer(a1.connecting, accepting=False), trio.SSLStream(theirs, a2.accepting, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other.do_handshake)
        await layer.shake_hands(ours)  # type: ignore[arg-type]
    return layer, ours, other


async def test_tls_that_carries_nothing_ends_a_link(tmp_path: Path) -> None:
    layer, ours, other = await open_pair(tmp_path, 200)
    await other.aclose()
    said = bytearray()
    async for data in ours:
        said += data
    with pytest.raises(RemoteProtocolError, match="carry nothing"):
        layer.unseal(bytes(said))


@asynccontextmanager
async def made_call(root: Path, tickets: int) -> AsyncIterator[tuple[BoundedTls, Stream]]:
    """Give our end of a call, as a server has it, and the other one, which has sent so many tickets."""
    signer = Signer()
    a1, a2 = (Credentials(signer.give(root / name, cache(name))) for name in ("a1", "a2"))
    a2.accepting.num_tickets = tickets
    ours, theirs = trio.socket.socketpair()
    other = trio.SSLStream(trio.SocketStream(theirs), a2.accepting, server_side=True)
    with ours, theirs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.do_handshake)
            yield (await secure(trio.SocketStream(ours), a1, accepting=False)).stream, other
            nursery.cancel_scope.cancel()


async def test_tls_that_carries_nothing_ends_a_call(tmp_path: Path) -> None:
    async with made_call(tmp_path, 1000) as (ours, other), trio.open_nursery() as nursery:
        nursery.start_soon(other.send_all, b"x")  # before which Trio sends no ticket
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(5):
            await ours.receive_some()
        assert ours.ended_in_vain
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("size", [1, 5000, 16384, 100_000])
async def test_what_carries_something_does_not_end_a_call(tmp_path: Path, size: int) -> None:
    said, come = os.urandom(size) * (1 + 200_000 // (size + 100)), bytearray()

    async def say() -> None:
        for at in range(0, len(said), size):
            await other.send_all(said[at : at + size])

    async with made_call(tmp_path, 2) as (ours, other), trio.open_nursery() as nursery:
        nursery.start_soon(say)
        with trio.fail_after(10):
            while len(come) < len(said):
                come += await ours.receive_some()
        assert come == said
        assert not ours.ended_in_vain


async def test_the_tracker_ends_a_call_whose_tls_carries_nothing(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfill.transport.secure.CALL_VAIN_BYTES_MAX", 2000)
    eve = Credentials(fleet.signer.give(fleet.root / "id-eve", user("eve")))
    stream = await trio.open_tcp_stream("127.0.0.1", int(fleet.url.rpartition(":")[2]))
    async with (await secure(stream, eve, accepting=False)).stream as call, fleet.client(user("anna")) as anna:
        await call.send_all(b"GET /v1/hea")
        for number in range(30):  # pieces of a record of 16 KiB, of which nothing can be read before its end
            with suppress(trio.BrokenResourceError):
                await stream.send_all(b"\x17\x03\x03\x40\x00" if number == 0 else bytes(100))
            await trio.sleep(0.01)
        await trio.sleep(0.2)
        refused = (await anna.status()).refused
        assert [count for why, count in refused.items() if "carry nothing" in why] == [1]


@pytest.mark.parametrize("size", [1, 40, 5000, 16384, 100_000])
@pytest.mark.parametrize("piece", [1000, 4096, 65536])
async def test_what_carries_something_does_not_end_it_however_it_is_cut(tmp_path: Path, size: int, piece: int) -> None:
    layer, ours, other = await open_pair(tmp_path, 2)
    said = os.urandom(size)
    count = 1 + 200_000 // (size + 100)
    for _ in range(count):
        await other.send_all(said)
    come = b""
    with trio.fail_after(5):
        while len(come) < count * size:
            clear, has_ended = layer.unseal(bytes(await ours.receive_some(piece)))
            assert not has_ended
            come += clear
    assert come == said * count


async def test_handshakes_that_are_begun_by_the_hundred_take_their_turns(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    hello = client_hello(Credentials(fleet.signer.give(fleet.root / "id-a2", cache("a2"))))
    monkeypatch.setattr("p2pfill.transport.handshakes.HANDSHAKE_S", 0.05)  # six a second, after the first ones
    async with open_node(fleet.config(cache("a1"), "")) as a1:
        for port in (a1.info.port, int(fleet.url.rpartition(":")[2])):
            answered = 0

            async def strike(port: int) -> None:
                nonlocal answered
                async with await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.3") as stream:
                    await stream.send_all(hello)
                    answered += bool(await stream.receive_some(1))

            with trio.move_on_after(0.5):
                async with trio.open_nursery() as crowd:
                    for _ in range(40):
                        crowd.start_soon(strike, port)
            assert 1 <= answered < 8


def client_hello(credentials: Credentials) -> bytes:
    """Return the first bytes of a handshake."""
    output = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        credentials.connecting.wrap_bio(ssl.MemoryBIO(), output).do_handshake()
    return output.read()


async def test_a_flood_of_strangers_does_not_fill_the_logs(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tracker_port = int(fleet.url.rpartition(":")[2])
    async with open_node(fleet.config(cache("a1"), "")) as a1, fleet.client(user("anna")) as anna:
        for port in (a1.info.port, tracker_port):
            for _ in range(30):
                async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                    await stream.send_all(b"\x16 is no handshake")
                    await stream.receive_some()
        lines = [one.getMessage() for one in caplog.records if "refused" in one.getMessage()]
        assert len(lines) == 2, lines
        assert "handshake" in lines[0]
        assert re.search(r"127\.0\.0\.1 .*handshake", lines[1])
        (count,) = (await anna.status()).refused.values()
        assert count == 30


def test_a_line_that_is_told_seldom_says_how_many_were_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(seldom_module, "KINDS_MAX", 2)
    now = 1000.0
    monkeypatch.setattr("p2pfill.node.seldom.time.monotonic", lambda: now)
    log = SeldomLog(logging.getLogger("test"))
    for number in range(3):
        log.info("refused", number)
    log.info("failed", "once")
    now += seldom_module.LOGGED_S
    log.info("refused", 3)
    log.info("odd", "once")  # one kind too many: the one told of longest ago is forgotten
    log.info("failed", "again")
    told = [one.getMessage() for one in caplog.records]
    assert told == ["refused: 0", "failed: once", "refused: 3 (2 more before it)", "odd: once", "failed: again"]


async def test_a_refused_call_is_logged_with_the_name_of_its_caller(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    async with fleet.client(user("eve")) as eve:
        with pytest.raises(TrackerRefused):
            await eve.status()
    assert "status to user/eve at 127.0.0.1" in caplog.text


async def test_the_audit_says_what_was_changed(fleet: Fleet) -> None:
    encoded, title, _ = film(fleet.root, size=1000)
    async with fleet.client(user("anna")) as anna:
        await anna.put_title(title, encoded)
        await anna.set_limit("isp=isp-b", RateLimits(Rates(total=5_000_000)))
        await anna.pin(title, "region=eu")
        await anna.post_scrub(title, "isp=isp-c")
        await anna.post_eviction(EvictRequest("isp=isp-d", 7_000_000_000))
        await anna.put_title(title, encoded)  # which changes nothing
        records = (await anna.audit()).records
        told = {one.what: one.detail for one in records}
    assert [one.what for one in records].count("put_title") == 1
    assert "isp=isp-b" in told["post_limit"]
    assert "5000000" in told["post_limit"]
    assert f"film ({title})" in told["pin_title"]
    assert "region=eu" in told["pin_title"]
    assert "isp=isp-c" in told["post_scrub"]
    assert "isp=isp-d" in told["post_eviction"]
    assert "7000000000" in told["post_eviction"]


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have files of certificates looked at often."""
    monkeypatch.setattr("p2pfill.node.renewal.LOOK_S", 0.05)
    monkeypatch.setattr("p2pfill.tracker.server.RENEW_S", 0.05)


@pytest.mark.usefixtures("often")
async def test_why_certificates_cannot_be_read_is_said_once(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    places = [fleet.root / "id-a1" / "cert.pem", fleet.root / "tracker" / "cert.pem"]

    async def told(of: str) -> list[str]:
        caplog.clear()
        await trio.sleep(0.6)
        return sorted(one.name for one in caplog.records if of in one.getMessage())

    async with open_node(fleet.config(cache("a1"))):
        before = [place.read_bytes() for place in places]
        for place in places:
            place.write_bytes(b"")
        assert await told("is no certificate in PEM") == ["p2pfill.node.a1", "p2pfill.tracker"]
        for place in places:
            place.unlink()
        assert await told("cannot read") == ["p2pfill.node.a1", "p2pfill.tracker"], "another reason is said too"
        for place, text in zip(places, before, strict=True):
            place.write_bytes(text)
        assert len([name for name in await told("again") if name in ("p2pfill.node.a1", "p2pfill.tracker")]) >= 2


async def test_a_cache_that_brings_back_what_it_made_up_keeps_no_other_from_it(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(brought_back, "LISTED_MAX", 3)
    encoded, title, origin = film(fleet.root, size=1000)
    async with AsyncExitStack() as stack:
        bad, good = [await stack.enter_async_context(fleet.client(cache(name))) for name in ("a1", "a2")]
        for name in ("a1", "a2"):
            async with open_node(fleet.config(cache(name))), fleet.client(user("anna")) as anna:
                while name not in {one.info.id for one in await anna.nodes()}:
                    await trio.sleep(0.02)
        await bad.bring_back("a1", [BroughtOrder(f"{number:064x}", [], 0, FillPolicy()) for number in range(5)])
        with pytest.raises(TrackerRefused, match="nobody has asked it for this manifest"):
            await good.put_title(title, encoded)
        assert (await good.bring_back("a2", [BroughtOrder(title, [origin], 0, FillPolicy())])).manifests == [title]
        with pytest.raises(TrackerRefused, match="nobody has asked it for this manifest"):
            await bad.put_title(title, encoded)
        assert (await good.put_title(title, encoded)).title == title
        assert not (await good.bring_back("a2", [BroughtOrder(title, [origin], 0, FillPolicy())])).manifests
        with pytest.raises(TrackerRefused, match="nobody has asked it for this manifest"):
            await good.put_title(title, encoded)


def test_the_audit_is_one_line_a_change_whatever_names_are_like(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = "b-one to isp=isp-b+id=x\n2026-01-01 00:00:00  user/anna from 192.0.2.1  delete_title  \x1b[2J\x9b1m\u202e"
    page = AuditPage([AuditRecord(1, 0.0, "user/bob", "192.0.2.9", "post_fill", forged)], more=False)

    async def read(tracker: str, count: int) -> AuditPage:
        return page

    monkeypatch.setattr(audit_command, "_read", read)
    audit_command.show_audit("https://192.0.2.1:7070", 1, as_json=False)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    assert line.startswith("1970-01-01 00:00:00  user/bob from 192.0.2.9")
