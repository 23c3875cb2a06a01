"""Data streams through TLS: real nodes with certificates, and what others can do about them."""

from __future__ import annotations

import os
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
import trio
from certificates import Signer, cache
from ports import free_port

from p2pfill.engine.link import DATA_STREAMS_MAX
from p2pfill.errors import ConfigError, RemoteProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.node import Node, NodeConfig, links, open_node
from p2pfill.protocol import messages as m
from p2pfill.protocol.data import DataHeader, encode_header, encode_preface
from p2pfill.protocol.framing import OUR_VERSIONS, Deframer, encode_frame, encode_preamble
from p2pfill.protocol.tokens import TOKEN_LIFETIME_S
from p2pfill.store.publish import publish
from p2pfill.transport.secure import secure_link
from p2pfill.trust.credentials import Credentials

MessageT = TypeVar("MessageT", bound=m.Message)

SIZE = 5_000_000


class Pair:
    """Two caches of one ISP, `a1` with a title and `a2` without, each with a certificate."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.signer = Signer()
        (root / "src").mkdir()
        (root / "src" / "a.bin").write_bytes(os.urandom(SIZE))
        self.manifest: Manifest = publish(root / "src", name="film").manifest

    @asynccontextmanager
    async def node(
        self, name: str, *, encrypt: bool, rates: str = "", listen: str = "127.0.0.1:0", advertise: str = ""
    ) -> AsyncIterator[Node]:
        directory = self.root / f"id-{name}"
        if not directory.exists():
            self.signer.give(directory, cache(name))
        data = str(self.root / f"data-{name}")
        # However busy the machine is: else nodes refuse requests for a while.
        health = {"load": 0, "disk_reads": 0, "link_use": 0}
        config = NodeConfig.load(
            None, identity=str(directory), data=data, encrypt_data=encrypt, rates=rates, health=health,
            listen=listen, advertise=advertise,
        )  # fmt: skip
        async with open_node(config) as node:
            yield node

    async def fill(self, source: Node, receiver: Node) -> None:
        """Have the receiver fill the title from the source alone."""
        filling = await receiver.start_fill(self.manifest, members=[source.info])
        source.want_links([receiver.info])
        receiver.want_links([source.info])
        await filling.wait()
        got = Path(receiver.config.data) / "live/film/a.bin"
        assert got.read_bytes() == (self.root / "src" / "a.bin").read_bytes()


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


@pytest.fixture(autouse=True)
async def hurry() -> AsyncIterator[None]:
    with trio.fail_after(30):
        yield


async def until(holds: Callable[[], object]) -> None:
    while not holds():
        await trio.sleep(0.01)


@pytest.mark.parametrize("who", ["sender", "receiver", "both", "none"])
async def test_where_either_side_asks_for_it_both_encrypt(pair: Pair, who: str) -> None:
    async with (
        pair.node("a1", encrypt=who in ("sender", "both")) as a1,
        pair.node("a2", encrypt=who in ("receiver", "both")) as a2,
    ):
        await a1.fill(pair.manifest, [str(pair.root / "src")])
        await pair.fill(a1, a2)
        assert a1.links.moved()[1] >= SIZE
        told = [node.links.encryption() for node in (a1, a2)]
        assert [one.streams for one in told] == ([0, 0] if who == "none" else [1, 1])
        assert [one.required for one in told] == [who in ("sender", "both"), who in ("receiver", "both")]


# ---- who is on the wire


class Tap:
    """A proxy on the path, that keeps what goes by and may change what the one who connects says."""

    def __init__(self, to: int) -> None:
        """`to` is the port of whom it stands before."""
        self.to = to
        self.said: list[bytearray] = []
        """By the one who connected, of each connection."""
        self.answered = bytearray()
        self.change: Callable[[bytes], bytes] = lambda data: data
        self.port = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listener.socket.getsockname()[1]
        task_status.started()
        await trio.serve_listeners(self._serve, [listener])

    async def _serve(self, near: trio.SocketStream) -> None:
        far = await trio.open_tcp_stream("127.0.0.1", self.to)
        said = bytearray()
        self.said.append(said)

        async def there() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := bytes(await near.receive_some(65536)):
                    said.extend(data)
                    await far.send_all(self.change(data))
                await far.send_eof()

        async with far, trio.open_nursery() as nursery:
            nursery.start_soon(there)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := bytes(await far.receive_some(65536)):
                    self.answered += data
                    await near.send_all(data)
            nursery.cancel_scope.cancel()

    def data(self) -> list[bytes]:
        """Return the prefaces of data streams that were opened."""
        return [bytes(one[:40]) for one in self.said if one[:4] in (b"P2FD", b"P2FE")]


@asynccontextmanager
async def tapped(pair: Pair, *, encrypt: bool) -> AsyncIterator[tuple[Node, Node, Tap]]:
    """Two nodes, the first one with the title and reached through a tap alone."""
    tap = Tap(free_port())
    async with trio.open_nursery() as nursery:
        await nursery.start(tap.run)
        listen, advertise = f"127.0.0.1:{tap.to}", f"127.0.0.1:{tap.port}"
        async with (
            pair.node("a1", encrypt=encrypt, listen=listen, advertise=advertise) as a1,
            pair.node("a2", encrypt=encrypt) as a2,
        ):
            await a1.fill(pair.manifest, [str(pair.root / "src")])
            yield a1, a2, tap
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("encrypt", [True, False])
async def test_who_listens_on_the_wire_reads_no_payload(pair: Pair, encrypt: bool) -> None:
    payload = (pair.root / "src" / "a.bin").read_bytes()
    samples = [payload[at : at + 32] for at in range(0, SIZE - 32, 10_007)]
    async with tapped(pair, encrypt=encrypt) as (a1, a2, tap):
        await pair.fill(a1, a2)
        seen = bytes(tap.answered)
        assert len(seen) > SIZE
        assert [one[:4] for one in tap.data()] == [b"P2FE" if encrypt else b"P2FD"]
    read = sum(sample in seen for sample in samples)
    assert read == (0 if encrypt else len(samples))


async def test_who_changes_what_is_asked_for_gets_nothing_in_the_clear(
    pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    """A preface that says plain in the place of encrypted: the token is of the other kind, and of no more use."""
    caplog.set_level("INFO")
    payload = (pair.root / "src" / "a.bin").read_bytes()
    async with tapped(pair, encrypt=True) as (a1, a2, tap):
        tap.change = lambda data: b"P2FD" + data[4:] if data.startswith(b"P2FE") else data
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.fill, a1, a2)
            await until(lambda: "is to be encrypted came on one that is plain" in caplog.text)
            await until(lambda: len(tap.data()) >= 2)  # it is asked for again
            assert not a1.links.moved()[1]
            assert not any(payload[at : at + 32] in tap.answered for at in range(0, SIZE - 32, 10_007))
            tap.change = lambda data: data
        assert all(one.startswith(b"P2FE") for one in tap.data())


async def test_a_token_that_was_read_on_the_wire_is_of_no_use(pair: Pair) -> None:
    """Before the one to whom it was granted has shown it: without that one's key nothing comes of it."""
    taken: list[bytes] = []
    async with tapped(pair, encrypt=True) as (a1, a2, tap):

        def steal(data: bytes) -> bytes:
            if data.startswith(b"P2FE") and not taken:
                taken.append(data[:40])
                return b"P2FE" + data[4:8] + bytes(32)
            return data

        tap.change = steal
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pair.fill, a1, a2)
            await until(lambda: taken)
            # A cache of the fleet, too: its certificate is not the one that the token is for.
            mallory = Credentials(pair.signer.give(pair.root / "id-mallory", cache("mallory")))
            stream = await trio.open_tcp_stream("127.0.0.1", tap.to)
            await stream.send_all(taken[0])
            assert await said_through_tls(stream, mallory) == b""


async def said_through_tls(stream: trio.SocketStream, credentials: Credentials) -> bytes:
    """Shake hands with whatever certificate; return all that the other side says inside."""
    secured = trio.SSLStream(stream, credentials.connecting)
    said = b""
    async with stream:
        with suppress(trio.BrokenResourceError):
            await secured.do_handshake()
            while data := bytes(await secured.receive_some(65536)):
                said += data
    return said


# ---- a cache that lies: linked with a certificate of the fleet


class Liar:
    """A cache that says what a test has it say, over a link that is in order."""

    def __init__(self, pair: Pair, name: str = "a9") -> None:
        directory = pair.root / f"id-{name}"
        if not directory.exists():
            pair.signer.give(directory, cache(name))
        self.credentials = Credentials(directory)
        self.name = name
        self.heard: list[m.Message] = []
        self.answer: Callable[[m.Message], m.Message | None] = lambda message: None
        self.ended = trio.Event()
        self.port = 0

    @property
    def info(self) -> NodeInfo:
        return NodeInfo(NodeId(self.name), "isp-a", "default", "", "127.0.0.1", self.port)

    async def run(self, node: Node, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", node.info.port) as self._stream:
            self._layer = (await secure_link(self._stream, self.credentials, accepting=False)).layer
            hello = m.Hello(self.name, "isp-a", "default", "", "127.0.0.1", self.port, 1.0, "liar", os.urandom(4).hex())
            await self._write(encode_preamble(OUR_VERSIONS) + encode_frame(m.encode_payload(hello)))
            deframer = Deframer()
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while data := await self._stream.receive_some(65536):
                    clear, _ = self._layer.unseal(bytes(data))
                    deframer.feed(clear)
                    if deframer.poll_preamble() is None:
                        continue
                    for payload in deframer.poll_frames():
                        message = m.decode_payload(payload)
                        self.heard.append(message)
                        if isinstance(message, m.Hello):
                            task_status.started()
                        answer = m.Pong(message.nonce) if isinstance(message, m.Ping) else self.answer(message)
                        if answer is not None:
                            await self.say(answer)
            self.ended.set()

    async def _write(self, data: bytes) -> None:
        await self._stream.send_all(self._layer.seal(data))

    async def say(self, *messages: m.Message) -> None:
        await self._write(b"".join(encode_frame(m.encode_payload(one)) for one in messages))

    async def heard_of(self, kind: type[MessageT]) -> MessageT:
        """Return the last message of a kind, once there is one."""
        await until(lambda: any(isinstance(one, kind) for one in self.heard))
        return [one for one in self.heard if isinstance(one, kind)][-1]

    async def token(self, number: int = 0, *, encrypt: bool = True, named: bytes | None = None) -> bytes:
        """Ask for a data stream, and return the token."""
        certificate = self.credentials.fingerprint if named is None else named
        await self.say(m.StreamOpen(number, encrypt, certificate))
        while (grant := await self.heard_of(m.StreamGrant)).stream_id != number:
            await trio.sleep(0.01)
        return grant.token

    async def ask(self, manifest: Manifest) -> None:
        """Ask for the title's first chunk."""
        await self.say(m.Subscribe(0, manifest.title_id))
        await self.heard_of(m.Holdings)
        await self.say(m.Request(0, 0, 0))


def claims_to_have(manifest: Manifest, certificate: bytes, message: m.Message) -> m.Message | None:
    """Answer as one that has all of a title, and grants streams with this certificate."""
    match message:
        case m.Subscribe(handle):
            count = manifest.chunk_count
            return m.Holdings(handle, True, count, Bitmap.full(count).to_bytes())
        case m.StreamOpen(number):
            return m.StreamGrant(number, bytes(32), certificate)
    return None


@asynccontextmanager
async def lied_to(pair: Pair, *, encrypt: bool = True, fills: bool = True) -> AsyncIterator[tuple[Node, Liar]]:
    """A node, with the title where it `fills`, and a liar that is linked with it."""
    async with pair.node("a1", encrypt=encrypt) as a1, trio.open_nursery() as nursery:
        if fills:
            await a1.fill(pair.manifest, [str(pair.root / "src")])
        liar = Liar(pair)
        await nursery.start(liar.run, a1)
        yield a1, liar
        nursery.cancel_scope.cancel()


async def shown(node: Node, preface: bytes, credentials: Credentials | None = None) -> bytes:
    """Return what a node says on a data stream that begins so; in the clear, or through TLS with `credentials`."""
    stream = await trio.open_tcp_stream("127.0.0.1", node.info.port)
    await stream.send_all(preface)
    if credentials is not None:
        return await said_through_tls(stream, credentials)
    said = b""
    async with stream:
        with suppress(trio.BrokenResourceError):
            while data := bytes(await stream.receive_some(65536)):
                said += data
    return said


async def chunk_of(node: Node, preface: bytes, credentials: Credentials) -> bytes:
    """Return the header of a chunk that a node sends through TLS, with the certificate of `credentials`."""
    async with await trio.open_tcp_stream("127.0.0.1", node.info.port) as stream:
        await stream.send_all(preface)
        secured = trio.SSLStream(stream, credentials.connecting)
        await secured.do_handshake()
        return bytes(await secured.receive_some(16))


async def test_a_cache_that_requires_it_grants_and_sends_nothing_else(pair: Pair) -> None:
    async with lied_to(pair) as (a1, liar):
        await liar.ask(pair.manifest)
        token = await liar.token(encrypt=False)
        assert (await liar.heard_of(m.StreamGrant)).certificate == Credentials(pair.root / "id-a1").fingerprint
        assert await shown(a1, encode_preface(token)) == b""
        # That one was spent by it.
        assert await shown(a1, encode_preface(token, encrypted=True), liar.credentials) == b""
        await liar.say(m.StreamOpen(1))
        assert "no certificate" in (await liar.heard_of(m.StreamRefuse)).reason
        assert not a1.links.moved()[1]
        token = await liar.token(2)
        assert len(await chunk_of(a1, encode_preface(token, encrypted=True), liar.credentials)) == 16
        assert not liar.ended.is_set()


async def test_a_token_for_a_plain_stream_is_of_no_use_on_an_encrypted_one(pair: Pair) -> None:
    async with lied_to(pair, encrypt=False) as (a1, liar):
        await liar.ask(pair.manifest)
        token = await liar.token(encrypt=False)
        assert (await liar.heard_of(m.StreamGrant)).certificate == b""
        assert await shown(a1, encode_preface(token, encrypted=True), liar.credentials) == b""
        assert await shown(a1, encode_preface(token)) == b""


async def test_a_grant_of_a_plain_stream_ends_the_link_of_who_requires_encryption(pair: Pair) -> None:
    """It connects to nobody, and the liar is told which rule it has broken."""
    came: list[bytes] = []

    async def take(stream: trio.SocketStream) -> None:
        async with stream:
            came.append(bytes(await stream.receive_some(100)))

    async with lied_to(pair, fills=False) as (a1, liar), trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, take, [listener])
        liar.answer = partial(claims_to_have, pair.manifest, b"")
        member = msgspec.structs.replace(liar.info, port=listener.socket.getsockname()[1])
        filling = await a1.start_fill(pair.manifest, members=[member])
        await liar.ended.wait()
        goodbye = await liar.heard_of(m.Goodbye)
        assert goodbye.code == m.GoodbyeCode.PROTOCOL_ERROR
        assert "must be encrypted, and is granted as one that is not" in goodbye.reason
        opening = await liar.heard_of(m.StreamOpen)
        assert (opening.encrypt, opening.certificate) == (True, Credentials(pair.root / "id-a1").fingerprint)
        assert came == []
        filling.withdraw()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("who", ["another cache", "the same name again", "another authority", "nobody"])
async def test_another_certificate_on_a_data_stream_is_refused(
    pair: Pair, who: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    signer = Signer("another") if who == "another authority" else pair.signer
    name = "a5" if who == "another cache" else "a9"
    other = Credentials(signer.give(pair.root / "other", cache(name)))
    pair.signer.give(pair.root / "id-a1", cache("a1"))
    other.connecting.load_verify_locations(pair.root / "id-a1" / "ca.pem")  # it believes the node in any case
    if who == "nobody":
        other.connecting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        other.connecting.check_hostname, other.connecting.verify_mode = False, ssl.CERT_NONE
    async with lied_to(pair) as (a1, liar):
        await liar.ask(pair.manifest)
        token = await liar.token()
        assert await shown(a1, encode_preface(token, encrypted=True), other) == b""
        assert "a data stream was refused" in caplog.text
        assert not a1.links.moved()[1]
        # Nor where it was named beforehand: the name must be that of the link.
        if who == "another cache":
            token = await liar.token(1, named=other.fingerprint)
            assert await shown(a1, encode_preface(token, encrypted=True), other) == b""


async def test_a_source_that_shows_another_certificate_is_sent_nothing(pair: Pair) -> None:
    """As one that stands at the source's address, with a certificate of the fleet."""
    other = Credentials(pair.signer.give(pair.root / "other", cache("a5")))
    outcomes: list[str] = []

    async def take(stream: trio.SocketStream) -> None:
        secured = trio.SSLStream(stream, other.accepting, server_side=True)
        async with stream:
            try:
                assert (await stream.receive_some(40))[:4] == b"P2FE"
                await secured.do_handshake()
                await secured.send_all(encode_header(DataHeader(0, 0, 1)))
                outcomes.append("said " + str(bytes(await secured.receive_some(1))))
            except trio.BrokenResourceError:
                outcomes.append("broken")

    liar = Liar(pair)
    liar.answer = partial(claims_to_have, pair.manifest, liar.credentials.fingerprint)
    async with pair.node("a1", encrypt=True) as a1, trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, take, [listener])
        liar.port = listener.socket.getsockname()[1]
        await nursery.start(liar.run, a1)
        filling = await a1.start_fill(pair.manifest, members=[liar.info])
        await until(lambda: outcomes)
        assert outcomes[0] in ("said b''", "broken")
        assert not a1.links.moved()[0]
        assert not liar.ended.is_set(), "who is at the address is not known to be the liar"
        filling.withdraw()
        nursery.cancel_scope.cancel()


# ---- tokens


async def test_a_token_twice_late_or_guessed(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """No handshake comes of any of them: nothing is said before the connection is closed."""
    async with lied_to(pair) as (a1, liar):
        await liar.ask(pair.manifest)
        first = await liar.token()
        preface = encode_preface(first, encrypted=True)
        assert len(await chunk_of(a1, preface, liar.credentials)) == 16
        assert await raw_answer(a1, preface) == b""
        assert await raw_answer(a1, encode_preface(os.urandom(32), encrypted=True)) == b""
        late = await liar.token(1)
        now = trio.current_time() + TOKEN_LIFETIME_S
        with pytest.raises(RemoteProtocolError, match="has expired"):
            a1.engine.spend_token(now, late, encrypted=True)
        assert await raw_answer(a1, encode_preface(late, encrypted=True)) == b""


async def raw_answer(node: Node, preface: bytes) -> bytes:
    """Return what a node says, in TLS or not, where a handshake is begun."""
    async with await trio.open_tcp_stream("127.0.0.1", node.info.port) as stream:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tls = context.wrap_bio(incoming, outgoing)
        with suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        said = b""
        with suppress(trio.BrokenResourceError):
            await stream.send_all(preface + outgoing.read())
            while data := bytes(await stream.receive_some(65536)):
                said += data
    return said


async def test_a_handshake_that_stands_still_holds_up_nobody_and_ends(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as one of the streams that its cache may have, from the token on."""
    monkeypatch.setattr(links, "PREFACE_TIMEOUT_S", 2.0)
    async with lied_to(pair) as (a1, liar), pair.node("a2", encrypt=True) as a2:
        silent = []
        for number in range(DATA_STREAMS_MAX):
            token = await liar.token(number)
            stream = await trio.open_tcp_stream("127.0.0.1", a1.info.port)
            await stream.send_all(encode_preface(token, encrypted=True) + b"\x16\x03\x01\x02")
            silent.append(stream)
        (link,) = a1.engine.links.values()
        await until(lambda: link.upload_streams == DATA_STREAMS_MAX)
        await liar.say(m.StreamOpen(DATA_STREAMS_MAX, True, liar.credentials.fingerprint))
        await liar.heard_of(m.StreamRefuse)
        await pair.fill(a1, a2)
        for stream in silent:
            async with stream:
                with suppress(trio.BrokenResourceError):
                    assert await stream.receive_some(1) == b""
        await until(lambda: not link.upload_streams)


# ---- while certificates change


async def test_a_new_stream_goes_by_the_certificate_of_today_and_both_can_be_taken_back(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfill.node.renewal.LOOK_S", 0.05)
    (pair.root / "more").mkdir()
    (pair.root / "more" / "a.bin").write_bytes(os.urandom(300_000))
    async with pair.node("a1", encrypt=True) as a1, pair.node("a2", encrypt=False) as a2:
        await a1.fill(pair.manifest, [str(pair.root / "src")])
        assert a1.credentials is not None
        assert a2.credentials is not None
        before = a2.credentials.fingerprint
        a1.want_links([a2.info])
        a2.want_links([a1.info])
        await until(lambda: a1.engine.links and a2.engine.links)
        pair.signer.give(pair.root / "id-a2", cache("a2"))
        await until(lambda: a2.credentials is not None and a2.credentials.fingerprint != before)
        await pair.fill(a1, a2)
        (sockets,) = a1.links.sockets()
        assert {sha256(one or b"").digest() for one in sockets.certificates()} == {before, a2.credentials.fingerprint}
        # The newer one, which the link itself has never shown.
        link = sockets.link
        revoked = pair.signer.revoke(pair.root / "id-a2")
        assert a1.credentials.revoke(revoked)
        a1.recheck()
        await until(lambda: link.is_over and not sockets.data)
        assert not a1.engine.links


async def test_limits_of_rate_hold(pair: Pair) -> None:
    async with pair.node("a1", encrypt=True) as a1, pair.node("a2", encrypt=True, rates="4MB") as a2:
        await a1.fill(pair.manifest, [str(pair.root / "src")])
        began = trio.current_time()
        await pair.fill(a1, a2)
        assert trio.current_time() - began > 0.8 * SIZE / 4e6


async def test_it_needs_an_identity(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="encrypt_data needs a certificate"):
        NodeConfig(id="a1", isp="isp-a", data=str(tmp_path), encrypt_data=True)
