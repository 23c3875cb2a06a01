"""Whether a node is reached at the address that it tells others, over real sockets."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pfill.cli.fleet import unreached_lines
from p2pfill.cli.reasons import Remarks, reasons
from p2pfill.model.node import NodeInfo
from p2pfill.node import NodeConfig, open_node, reach
from p2pfill.protocol.messages import Hello
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker


@asynccontextmanager
async def tracker_at(tmp_path: Path) -> AsyncIterator[str]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", heartbeat_s=0.2)
            yield await nursery.start(serve)
            nursery.cancel_scope.cancel()


def node_of(tmp_path: Path, name: str, url: str, **more: str) -> NodeConfig:
    return NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name), tracker=url, **more)


def hello_at(host: str, port: int, name: str = "a1", boot: str = "b") -> Hello:
    return Hello(name, "isp-a", "eu", "", host, port, 1.0, "test", boot)


async def unreached(client: TrackerClient, name: str, want: bool) -> str:
    """Wait until a node says whether it is reached."""
    while True:
        found = [node for node in await client.nodes() if node.info.id == name]
        if found and bool(found[0].unreached) is want:
            return found[0].unreached
        await trio.sleep(0.05)


async def test_a_port_where_nobody_listens_is_said_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, make_film: bytes
) -> None:
    async with (
        tracker_at(tmp_path) as url, TrackerClient(url) as client,
        open_node(node_of(tmp_path, "a1", url, advertise="127.0.0.1:1")),
    ):  # fmt: skip
        said = await unreached(client, "a1", True)
        assert said == "does not reach itself at 127.0.0.1:1; Connection refused"
        assert caplog.text.count("others are told to reach it there: see advertise") == 1
        assert [str(line) for line in unreached_lines(await client.nodes())] == [f"a1: {said}: see its advertise"]
        manifest_id = await publish(client, make_film)
        fill = await client.post_fill(FillRequest(manifest_id, "all", []))
        status = await client.fill(fill.fill_id)
        assert Remarks().new(status) == [f"a1: {said}: see its advertise"]
        assert f"a1: {said}: see its advertise" in reasons(status)


async def test_another_machine_is_told_from_the_own_one(tmp_path: Path) -> None:
    async with tracker_at(tmp_path) as url, TrackerClient(url) as client, open_node(node_of(tmp_path, "b1", url)) as b1:
        where = f"{b1.info.host}:{b1.info.port}"
        async with open_node(node_of(tmp_path, "a1", url, advertise=where)):
            assert (await unreached(client, "a1", True)).endswith(f"at {where}; cache b1 answers there")
        assert await unreached(client, "b1", False) == ""
        assert "another process of this id" in await reach.look(hello_at(b1.info.host, b1.info.port, "b1", "other"))


@pytest.mark.parametrize(
    ("does", "says"),
    [("greets", "something else"), ("hangs up", "without a word"), ("waits", "no cache answers within 0.2 s")],
)
async def test_what_is_no_cache_is_told_so(does: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "ANSWER_S", 0.2)

    async def serve(stream: trio.SocketStream) -> None:
        if does == "greets":
            await stream.send_all(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n" * 9)
        if does != "hangs up":
            await trio.sleep(5)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        assert says in await reach.look(hello_at("127.0.0.1", listener.socket.getsockname()[1]))
        nursery.cancel_scope.cancel()
    assert "does not reach itself at nosuch.invalid:7; " in await reach.look(hello_at("nosuch.invalid", 7))


async def test_who_reaches_itself_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="p2pfill.node.a1")
    async with tracker_at(tmp_path) as url, open_node(node_of(tmp_path, "a1", url)) as node:
        assert await reach.look(hello_at(node.info.host, node.info.port, "a1", node.boot)) == ""
        await trio.sleep(0.1)
        assert not [line for line in caplog.messages if "link" in line or "refused" in line]


async def test_a_neighbour_that_comes_from_outside_ends_it(tmp_path: Path) -> None:
    """It has used the address that others are told, whether the node reaches itself there or not."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with (
        tracker_at(tmp_path) as url, TrackerClient(url) as client,
        open_node(node_of(tmp_path, "a1", url, advertise="127.0.0.1:1", listen=f"127.0.0.1:{port}")) as a1,
        open_node(node_of(tmp_path, "a0", url)) as a0,
    ):  # fmt: skip
        await unreached(client, "a1", True)
        # As through a port that is forwarded for others alone: the one where it really listens.
        a0.want_links([NodeInfo(a1.info.id, "isp-a", "default", host="127.0.0.1", port=port)])
        assert await unreached(client, "a1", False) == ""


async def test_it_is_tried_again_while_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A forwarded port may come later than the node."""
    monkeypatch.setattr(reach, "AGAIN_S", 0.01)
    answers = ["refused", "refused", ""]

    async def look(_: Hello, __: object) -> str:
        return answers.pop(0)

    monkeypatch.setattr(reach, "look", look)
    looks = reach.Reach(hello_at("h", 1), lambda: False, logging.getLogger("test"))
    with trio.fail_after(10):
        await looks.run()
    assert (looks.fault, answers) == ("", [])


@pytest.fixture
def make_film(tmp_path: Path) -> bytes:
    from p2pfill.store.publish import publish as publish_tree

    (tmp_path / "film").mkdir()
    (tmp_path / "film" / "a").write_bytes(bytes(9))
    return publish_tree(tmp_path / "film", name="film").manifest.encode()


async def publish(client: TrackerClient, encoded: bytes) -> str:
    from p2pfill.model.manifest import Manifest

    title = Manifest.decode(encoded).title_id.hex()
    await client.put_title(title, encoded)
    return title
