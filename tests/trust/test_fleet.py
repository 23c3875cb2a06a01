"""A fleet with certificates: real nodes and a real tracker, over real sockets."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import re
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from certificates import Signer, cache, tracker, user
from trusted import Fleet, film

from p2pfill.errors import ConfigError, ProtocolError
from p2pfill.model.identity import Identity
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.renewal import Renewal
from p2pfill.protocol.link import ControlLink
from p2pfill.protocol.messages import Hello, Ping
from p2pfill.tracker.client import TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.revoked import KnownRevocations
from p2pfill.tracker.server import serve_tracker
from p2pfill.transport.control import ControlChannel
from p2pfill.transport.secure import secure_link
from p2pfill.trust.credentials import FILE_BYTES_MAX, Credentials, PeerRefused


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    # Before the tracker starts, which else looks at its files after five seconds for the first time.
    monkeypatch.setattr("p2pfill.tracker.server.RENEW_S", 0.05)
    monkeypatch.setattr("p2pfill.node.renewal.LOOK_S", 0.05)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            made = Fleet(tmp_path, nursery)
            await made.start()
            yield made
            nursery.cancel_scope.cancel()


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await trio.sleep(0.02)


def has(node: Node) -> Path:
    return Path(node.config.data) / "live/film/a.bin"


async def test_a_fleet_fills_over_encrypted_links(fleet: Fleet) -> None:
    encoded, title, origin = film(fleet.root)
    async with fleet.client(user("anna")) as anna, open_node(fleet.config(cache("a1"))) as a1:
        assert a1.info.isp == "isp-a"  # said by its certificate alone
        async with open_node(fleet.config(cache("a2"))) as a2:
            await anna.put_title(title, encoded)
            made = await anna.post_fill(FillRequest(title, "all", [origin]))
            await until(lambda: has(a1).exists() and has(a2).exists())
            assert has(a1).read_bytes() == has(a2).read_bytes() == (Path(origin) / "a.bin").read_bytes()
            (link,) = a1.engine.links.values()
            assert link.identity is not None
            assert link.identity.who == "cache/a2"
            assert sum(node.moved()[0] for node in (a1, a2)) > 0  # payload went between them
        assert not (await anna.status()).trusts_all
        page = await anna.audit()
        assert [(one.who, one.what) for one in page.records] == [("user/anna", "post_fill"), ("user/anna", "put_title")]
        assert made.fill_id in page.records[0].detail


async def test_who_is_of_another_authority_belongs_to_nobody(fleet: Fleet) -> None:
    stranger = Signer("another root")
    async with open_node(fleet.config(cache("a1"), "")) as a1:
        async with fleet.client(user("anna"), stranger) as mallory:
            with pytest.raises(TrackerUnreachable):
                await mallory.status()
        context = Credentials(stranger.give(fleet.root / "x", cache("a2"))).connecting
        context.load_verify_locations(fleet.root / "tracker" / "ca.pem")  # it believes us
        async with await trio.open_tcp_stream("127.0.0.1", a1.info.port) as stream:
            secured = trio.SSLStream(stream, context)
            await secured.do_handshake()
            with pytest.raises(trio.BrokenResourceError):  # TLS 1.3: the refusal comes after our own part
                await secured.receive_some()
        assert not a1.engine.links


async def test_nobody_is_talked_to_in_the_clear(fleet: Fleet) -> None:
    said = Hello("a2", "isp-a", "default", "", "127.0.0.1", 4000, 1.0, "test", "b")

    def take(message: object) -> None:
        heard.append(message)

    heard: list[object] = []
    async with open_node(fleet.config(cache("a1"), "")) as a1:
        channel = ControlChannel(await trio.open_tcp_stream("127.0.0.1", a1.info.port), said)
        with trio.fail_after(5), pytest.raises((ConnectionError, ProtocolError)):
            await channel.run(take)  # type: ignore[arg-type]
        assert not heard
        assert not a1.engine.links


async def hello_of(fleet: Fleet, node: Node, who: Identity, said: Hello) -> str:
    """Link with a node as `who` and say something; return why the link ended, '' where it lives."""
    credentials = Credentials(fleet.signer.give(fleet.root / "liar", who))
    tcp = await trio.open_tcp_stream("127.0.0.1", node.info.port)
    channel = ControlChannel(trio.SSLStream(tcp, credentials.connecting), said)

    def take(message: object) -> None:
        pass

    with trio.move_on_after(1.0):
        try:
            await channel.run(take)  # type: ignore[arg-type]
        except (ConnectionError, ProtocolError, trio.BrokenResourceError) as error:
            return str(error) or "broken"
    return channel.end_reason


async def test_what_is_no_tls_any_more_ends_its_link_and_is_no_fault_of_ours(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the node has something to say yet: what cannot be encrypted any more is not sent."""
    said = Hello("a9", "isp-a", "default", "", "127.0.0.1", 4000, 1.0, "test", "b")
    credentials = Credentials(fleet.signer.give(fleet.root / "liar", cache("a9")))
    async with (
        open_node(fleet.config(cache("a1"), "")) as a1, await trio.open_tcp_stream("127.0.0.1", a1.info.port) as stream,
    ):  # fmt: skip
        layer = (await secure_link(stream, credentials, accepting=False)).layer
        link = ControlLink(said)
        link.start()
        await stream.send_all(layer.seal(link.poll_output()))
        await until(lambda: bool(a1.engine.links))
        (linked,) = a1.engine.links.values()
        await stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        for number in range(20):
            linked.channel.send(Ping(number))
            await trio.lowlevel.checkpoint()
        await until(lambda: not a1.engine.links)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    ("who", "said", "ends"),
    [
        (cache("a9"), {}, ""),
        (cache("a9"), {"node_id": "a2"}, "id 'a2' is not 'a9'"),
        (cache("a9"), {"isp": "isp-b"}, "isp 'isp-b' is not 'isp-a'"),
        (cache("a9"), {"region": "eu"}, "region 'eu'"),
        (cache("a9"), {"cluster": "c1"}, "cluster 'c1'"),
        (cache("a9"), {"host": "192.0.2.7"}, "host '192.0.2.7' is none of its certificate"),
        (user("anna"), {}, "broke|ended"),
    ],
)
async def test_a_certificate_wins_over_a_hello(fleet: Fleet, who: Identity, said: dict[str, str], ends: str) -> None:
    fields = {"node_id": "a9", "isp": "isp-a", "region": "default", "cluster": "", "host": "127.0.0.1"} | said
    hello = Hello(**fields, port=4000, weight=1.0, agent="test", boot="b")  # type: ignore[arg-type]
    async with open_node(fleet.config(cache("a1"), "")) as a1:
        reason = await hello_of(fleet, a1, who, hello)
        assert re.search(ends, reason) if ends else reason == ""
        assert not ends or not a1.engine.links


async def refusal_of(client: TrackerClient) -> TrackerRefused | None:
    try:
        await client.status()
    except TrackerRefused as error:
        return error
    return None


async def test_what_is_revoked_is_out_at_once_everywhere(fleet: Fleet) -> None:
    encoded, title, origin = film(fleet.root)
    async with (
        fleet.client(user("anna")) as anna, open_node(fleet.config(cache("a1"))) as a1,
        open_node(fleet.config(cache("a2"))) as a2,
    ):  # fmt: skip
        await anna.put_title(title, encoded)
        await anna.post_fill(FillRequest(title, "all", [origin]))
        await until(lambda: bool(a1.engine.links) and has(a2).exists())
        revoked = fleet.signer.revoke(fleet.root / "id-a2", fleet.root / "id-anna")
        for place in ("id-a1", "tracker"):
            (fleet.root / place / "revoked.pem").write_bytes(revoked)
        await until(lambda: not a1.engine.links)
        while await refusal_of(anna) is None:  # over the very connection that was open
            await trio.sleep(0.05)
        assert "revoked" in str(await refusal_of(anna))


async def test_the_tracker_tells_caches_what_is_revoked(fleet: Fleet) -> None:
    encoded, title, origin = film(fleet.root)
    async with (
        fleet.client(user("anna")) as anna, open_node(fleet.config(cache("a1"))) as a1,
        open_node(fleet.config(cache("a2"))) as a2,
    ):  # fmt: skip
        await anna.put_title(title, encoded)
        await anna.post_fill(FillRequest(title, "all", [origin]))
        await until(lambda: bool(a1.engine.links) and has(a2).exists())
        (fleet.root / "tracker" / "revoked.pem").write_bytes(fleet.signer.revoke(fleet.root / "id-a2"))
        await until(lambda: not a1.engine.links)
        await until(lambda: (Path(a1.config.data) / "revoked.pem").exists())
    async with open_node(fleet.config(cache("a1"), "")) as a1:  # it knows before any tracker has told it
        assert a1.credentials is not None
        assert a1.credentials.revocations.pem()


async def test_an_older_list_lifts_nothing_while_a_tracker_or_a_node_is_started_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a program that hands out files puts back the one that it knows."""
    monkeypatch.setattr("p2pfill.tracker.server.RENEW_S", 0.05)
    monkeypatch.setattr("p2pfill.node.renewal.LOOK_S", 0.05)
    signer = Signer()
    before = signer.revoke()
    eve = signer.give(tmp_path / "eve", user("eve"))
    certificate = ssl.PEM_cert_to_DER_cert((eve / "cert.pem").read_text())
    places = [signer.give(tmp_path / "tracker", tracker()), signer.give(tmp_path / "a1", cache("a1"))]
    for place in places:
        (place / "revoked.pem").write_bytes(signer.revoke(eve))

    async def look(*, puts_back: bool) -> None:
        """Run both, and see that neither lets her in."""
        theirs, mine = Credentials(places[0]), Credentials(places[1])
        serve = partial(serve_tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", credentials=theirs)
        renewal = Renewal(mine, lambda: None, tmp_path / "data", logging.getLogger("a1"))
        renewal.load()
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            if puts_back:
                for place in places:
                    (place / "revoked.pem").write_bytes(before)
                await renewal.look()
                await until(lambda: theirs.generation > 0)
            for one in (theirs, mine):
                with pytest.raises(PeerRefused, match="revoked"):
                    one.peer(certificate)
            nursery.cancel_scope.cancel()

    (tmp_path / "data").mkdir()
    with trio.fail_after(20):
        await look(puts_back=True)
        said = [one.name for one in caplog.records if "is older than what is known" in one.message]
        assert sorted(said) == ["a1", "p2pfill.tracker"]
        await look(puts_back=False)
    assert "is older than what this tracker went by" in caplog.text


@pytest.mark.parametrize("kind", ["fifo", "directory", "huge"])
def test_what_lies_where_revocations_are_kept_holds_up_no_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    credentials = Credentials(Signer().give(tmp_path / "id", cache("a1")))
    for path in (tmp_path / "t.db-revoked.pem", tmp_path / "revoked.pem"):
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        else:
            path.touch()
            os.truncate(path, FILE_BYTES_MAX + 1)
    for load in (
        KnownRevocations(str(tmp_path / "t.db"), credentials).load,
        Renewal(credentials, lambda: None, tmp_path, logging.getLogger("a1")).load,
    ):
        caplog.clear()
        load()
        assert "cannot be used" in caplog.text


async def test_what_another_root_has_revoked_counts_once_that_root_is_trusted(tmp_path: Path) -> None:
    """The tracker's list may come before the new ca.pem does, and is told once."""
    old, new = Signer("old root"), Signer("new root")
    victim = new.give(tmp_path / "victim", cache("a2"))
    mine = old.give(tmp_path / "mine", cache("a1"))
    revoked = new.revoke(victim)
    renewal = Renewal(Credentials(mine), lambda: None, tmp_path, logging.getLogger("test"))

    async def fetch() -> bytes:
        return revoked

    with pytest.raises(ConfigError, match="none of the authorities"):
        await renewal.follow("first", fetch)
    both = (mine / "ca.pem").read_bytes() + (victim / "ca.pem").read_bytes()
    (mine / "ca.pem").write_bytes(both)
    await renewal.look()
    await renewal.follow("first", fetch)
    with pytest.raises(PeerRefused, match="revoked"):
        renewal.credentials.peer(ssl.PEM_cert_to_DER_cert((victim / "cert.pem").read_text()))


async def test_a_renewed_certificate_is_taken_over_while_the_node_runs(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with open_node(fleet.config(cache("a1"))) as a1:
        before = a1.credentials.expires if a1.credentials else None
        fleet.signer.give(fleet.root / "id-a1", cache("a1"), hours=100)
        await until(lambda: a1.credentials is not None and a1.credentials.expires != before)
        async with fleet.client(user("anna")) as anna:
            # Its heartbeats go on, over connections of the new one.
            while not await anna.nodes():
                await trio.sleep(0.05)
            first = (await anna.node("a1")).seen_at
            while (await anna.node("a1")).seen_at < first + 0.5:
                await trio.sleep(0.1)


async def test_trackers_and_nodes_say_that_their_certificates_end(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.signer.give(fleet.root / "tracker", tracker(), hours=20)
    fleet.signer.give(fleet.root / "id-a1", cache("a1"), hours=20)
    async with open_node(fleet.config(cache("a1"))):
        said = "its certificate ends at [^:]*:[^,]*: renew it with `p2pfill ca renew`"
        for name in ("p2pfill.tracker", "p2pfill.node.a1"):
            await until(lambda: any(one.name == name and re.search(said, one.message) for one in caplog.records))  # noqa: B023


async def test_who_shows_no_certificate_is_told_to(fleet: Fleet) -> None:
    with pytest.raises(TrackerUnreachable, match="Show yours with --identity DIR"):
        await TrackerClient(fleet.url).status()
    with pytest.raises(TrackerUnreachable, match="with an identity begins with https://"):
        await TrackerClient(fleet.url.replace("https://", "http://")).status()


async def test_who_cannot_call_for_a_certificates_sake_is_told_whose_and_why(fleet: Fleet) -> None:
    fleet.signer.give(fleet.root / "id-late", user("late"), hours=-1)
    late = Credentials(fleet.root / "id-late")
    async with TrackerClient(fleet.url, credentials=late) as calling:
        with pytest.raises(TrackerUnreachable, match=r"own certificate, in '.*id-late', has ended at .*: renew it"):
            await calling.status()
    async with fleet.client(user("eve"), Signer("another root")) as stranger:
        with pytest.raises(TrackerUnreachable, match=r"refuse.* `p2pfill ca check .*/id-eve`"):
            await stranger.status()
    fleet.signer.give(fleet.root / "id-anna", user("anna"))
    fleet.signer.give(fleet.root / "tracker", tracker(), hours=-1)
    said = ""
    while not said:  # the tracker looks at its files every 0.05 s
        async with TrackerClient(fleet.url, credentials=Credentials(fleet.root / "id-anna")) as anna:
            with contextlib.suppress(TrackerUnreachable):
                await anna.status()
                continue
            with pytest.raises(TrackerUnreachable) as raised:
                await anna.status()
            said = str(raised.value)
    assert re.search(r"its certificate is not accepted here: certificate has expired; .*clock", said)


async def test_a_caller_may_what_is_granted_and_nothing_else(fleet: Fleet) -> None:
    encoded, title, origin = film(fleet.root, "b-one", 500_000)
    other, other_title, other_origin = film(fleet.root, "b-two", 2_000_000)
    foreign, foreign_title, _ = film(fleet.root, "c-one", 1000)
    async with (
        fleet.client(user("bob")) as bob, fleet.client(user("eve")) as eve, fleet.client(cache("a1")) as a1,
        open_node(fleet.config(cache("b1", "isp-b"))),
    ):  # fmt: skip
        await bob.put_title(title, encoded)
        await bob.put_title(other_title, other)
        await bob.post_fill(FillRequest(title, "isp=isp-b+id=b*", [origin], 3))
        for refused, why in [
            (bob.put_title(foreign_title, foreign), "named 'c-one': its grants in the tracker's --grants"),
            (bob.post_fill(FillRequest(title, "all", [origin])), "not for isp=isp-b alone"),
            (bob.post_fill(FillRequest(title, "isp=isp-b,id=a1", [origin])), "not for isp=isp-b alone"),
            (bob.post_fill(FillRequest(title, "isp=isp-b", [origin], 4)), "priority is above 3"),
            (bob.post_fill(FillRequest(other_title, "isp=isp-b", [other_origin])), "are more than 1MB"),
            (bob.withdraw(title), "user/bob may not withdraw"),
            (bob.audit(), "user/bob may not manage"),
            (eve.status(), "user/eve may not read"),
            (eve.health(), "user/eve may not read"),
            (a1.status(), "cache/a1 may not read; that is for users: show the identity of one"),
            (a1.put_title(title, encoded), "cache/a1 may not publish"),
            (a1.post_fill(FillRequest(title, "all", [origin])), "cache/a1 may not order"),
            (a1.orders("b1"), "may not report as b1; a cache does so in its own name alone"),
            (a1.explain("b1", title), "may not read as b1"),
        ]:
            with pytest.raises(TrackerRefused, match=why) as raised:
                await refused
            assert raised.value.status == 403
        assert (await a1.manifest(title)) == encoded


def test_who_listens_to_others_asks_who_they_are(tmp_path: Path) -> None:
    for host in ("192.0.2.1:7400", "[2001:db8::1]:7400", "cache.example:7400"):
        with pytest.raises(ConfigError, match=r"nobody is asked who he is.*identity.*insecure"):
            NodeConfig(id="a1", isp="isp-a", data=str(tmp_path), listen=host)
        NodeConfig(id="a1", isp="isp-a", data=str(tmp_path), listen=host, insecure=True)


async def test_so_does_the_tracker(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no caller is asked who he is.*--identity.*--insecure"):
        await serve_tracker("0.0.0.0:0", f"sqlite:///{tmp_path}/t.db")
    cache_of = Credentials(Signer().give(tmp_path / "c", cache("a1")))
    with pytest.raises(ConfigError, match="cache/a1, not of a tracker"):
        await serve_tracker("127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", credentials=cache_of)


async def test_a_node_is_whom_its_certificate_names(fleet: Fleet) -> None:
    fleet.signer.give(fleet.root / "id-a1", cache("a1"))
    for said, why in [({"id": "a2"}, "id 'a2' is not 'a1'"), ({"isp": "isp-b"}, "isp 'isp-b' is not 'isp-a'")]:
        config = NodeConfig.load(None, identity=str(fleet.root / "id-a1"), data=str(fleet.root / "d"), **said)
        with pytest.raises(ConfigError, match=f"do not fit identity.*{why}"):
            async with open_node(config):
                pass
    fleet.signer.give(fleet.root / "id-anna", user("anna"))
    config = NodeConfig.load(None, identity=str(fleet.root / "id-anna"), id="x", isp="x", data=str(fleet.root / "d"))
    with pytest.raises(ConfigError, match="of user/anna, and a node needs that of a cache"):
        async with open_node(config):
            pass


async def test_a_call_that_is_cancelled_in_its_handshake_leaves_nothing_open(tmp_path: Path) -> None:
    anna = Credentials(Signer().give(tmp_path / "anna", user("anna")))
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")  # which never says a word
    port = listener.socket.getsockname()[1]
    async with listener, TrackerClient(f"https://127.0.0.1:{port}", credentials=anna) as client:
        before = len(os.listdir("/proc/self/fd"))
        gc.disable()
        try:
            for _ in range(10):
                with trio.move_on_after(0.02):
                    await client.status()
            assert len(os.listdir("/proc/self/fd")) == before
        finally:
            gc.enable()


async def test_a_cache_in_the_place_of_the_tracker_is_not_believed(tmp_path: Path) -> None:
    signer = Signer()
    thief = Credentials(signer.give(tmp_path / "thief", cache("a9")))
    anna = Credentials(signer.give(tmp_path / "anna", user("anna")))

    async def answer(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            heard.append(await stream.receive_some())
        except trio.BrokenResourceError:
            heard.append(b"")
            return
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")

    heard: list[bytes | bytearray] = []
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_ssl_over_tcp_listeners(0, thief.accepting, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, answer, [listener])
        port = listener.transport_listener.socket.getsockname()[1]
        async with TrackerClient(f"https://127.0.0.1:{port}", credentials=anna) as client:
            with pytest.raises(TrackerUnreachable, match="cache/a9 answers in the place of a tracker"):
                await client.post_fill(FillRequest("0" * 64, "all", ["https://web.example/{path}?signature=secret"]))
        with trio.fail_after(5):
            await until(lambda: bool(heard))
        assert not any(heard), "it has not heard what was asked"
        nursery.cancel_scope.cancel()
