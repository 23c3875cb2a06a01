"""What an order can have a node read, and what everybody is told of it."""

from __future__ import annotations

import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from origin.servers import Request, head, serve

from p2pfill.cli import main, services
from p2pfill.errors import ConfigError
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import SourceReport
from p2pfill.node import NodeConfig, open_node
from p2pfill.node.fill import FillDriver
from p2pfill.store.publish import publish

CHUNK = 65536


def make_title(tmp_path: Path, size: int, name: str = "film") -> tuple[Manifest, bytes]:
    root, data = tmp_path / name, os.urandom(size)
    root.mkdir()
    (root / "m.bin").write_bytes(data)
    return publish(root, name=name, chunk_size=CHUNK).manifest, data


def config(tmp_path: Path, name: str = "a1", **settings: Any) -> NodeConfig:
    return NodeConfig(id=name, isp="isp-a", data=str(tmp_path / name), **settings)


async def reason_of(fill: FillDriver) -> SourceReport:
    with trio.fail_after(30):
        while not (source := fill.report().sources[0]).reason:
            await trio.sleep(0.02)
    return source


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, True),
        ({"listen": "127.0.0.1:7400", "tracker": "http://127.0.0.1:7070"}, True),
        ({"listen": "[::1]:7400", "tracker": "http://localhost:7070"}, True),
        ({"listen": "localhost:7400", "advertise": "127.0.0.2"}, True),
        ({"listen": "192.0.2.11:7400", "insecure": True}, False),
        ({"listen": "0.0.0.0:7400", "insecure": True}, False),
        ({"listen": ":7400", "insecure": True}, False),
        ({"advertise": "192.0.2.11"}, False),
        # Its orders come from elsewhere.
        ({"tracker": "http://192.0.2.10:7070"}, False),
        ({"tracker": "http://tracker.example:7070"}, False),
    ],
)
def test_a_node_is_wholly_on_loopback_where_all_that_it_speaks_to_is(
    settings: dict[str, Any], expected: bool, tmp_path: Path
) -> None:
    assert config(tmp_path, **settings).origin_access().is_local is expected


def test_a_list_is_read_from_file_and_flags_and_refused_where_it_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "node.toml"
    file.write_text(
        'id = "a1"\nisp = "i"\ndata = "/d"\norigins_allow = ["*.cdn.example", "10.1.0.0/16"]\norigin_dir = ["/srv/x"]\n'
    )
    read = NodeConfig.load(file)
    assert (read.origins_allow, read.origin_dir) == (("*.cdn.example", "10.1.0.0/16"), ("/srv/x",))
    assert NodeConfig.load(file, origins_allow=["https://*"]).origins_allow == ("https://*",)
    for wrong in ({"origins_allow": ["http://cdn.example/films"]}, {"origin_dir": ["titles"]}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            NodeConfig.load(file, **wrong)


def test_the_flags_take_the_place_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[dict[str, Any]] = []
    base = ["node", "--id", "a1", "--isp", "i", "--data", str(tmp_path / "a1")]
    assert main([*base, "--origins-allow", "http://cdn.example/films"]) == 2
    assert "origins_allow: 'http://cdn.example/films' is no place" in capsys.readouterr().err
    assert not (tmp_path / "a1").exists()
    monkeypatch.setattr(services, "run_node", lambda config, given, **_: ran.append(given))
    assert main([*base, "--origins-allow", "*.a", "--origins-allow", "*.b", "--origin-dir", "/srv/x"]) == 0
    assert main(base) == 0
    assert (ran[0]["origins_allow"], ran[0]["origin_dir"]) == (["*.a", "*.b"], ["/srv/x"])
    assert ran[1].keys() == {"id", "isp", "data"}, "what is not given leaves the file's"


async def test_a_node_that_others_reach_does_not_read_its_own_loopback_for_them(tmp_path: Path, start: Any) -> None:
    manifest, data = make_title(tmp_path, CHUNK + 7)
    server = start(serve(data))
    beyond = {"listen": "0.0.0.0:0", "insecure": True}
    async with open_node(config(tmp_path, **beyond)) as node:
        fill = await node.start_fill(manifest, [server.url])
        source = await reason_of(fill)
        assert source.reason.startswith("this cache may not read from there; list it in origins_allow")
        assert source.state == "failing"
        assert not any(one.requests or one.failed for one in node.titles.origin_counts.totals()), "nothing was sent"
    assert server.seen == []
    async with open_node(config(tmp_path, **beyond, origins_allow=("127.0.0.1",))) as node:
        with trio.fail_after(30):
            await node.fill(manifest, [server.url])
    assert (tmp_path / "a1" / "live" / "film" / "m.bin").read_bytes() == data


async def test_a_node_that_others_reach_reads_no_directory_that_is_not_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, data = make_title(tmp_path, CHUNK + 7)
    beyond = {"listen": "0.0.0.0:0", "insecure": True}
    async with open_node(config(tmp_path, **beyond, origin_dir=("/srv/nothing",))) as node:
        reasons = {}
        for url in ("/etc", str(tmp_path / "film"), "/nonexistent"):
            fill = await node.start_fill(manifest, [url])
            reasons[url] = (await reason_of(fill)).reason
            fill.withdraw()
            await fill.ended.wait()
        assert not any(one.requests or one.failed for one in node.titles.origin_counts.totals())
        assert len(set(reasons.values())) == 1
        assert "name the directory with origin_dir" in reasons["/etc"]
    assert "/etc" in caplog.text
    async with open_node(config(tmp_path, **beyond, origin_dir=(str(tmp_path),))) as node:
        with trio.fail_after(30):
            await node.fill(manifest, [(tmp_path / "film").as_uri()])
    assert (tmp_path / "a1" / "live" / "film" / "m.bin").read_bytes() == data


async def test_pipes_in_the_place_of_files_stop_no_other_title(tmp_path: Path) -> None:
    """There are more of them than threads that read origins."""
    pipes = []
    for number in range(12):
        manifest, _ = make_title(tmp_path, CHUNK, f"pipe{number}")
        (tmp_path / f"pipe{number}" / "m.bin").unlink()
        os.mkfifo(tmp_path / f"pipe{number}" / "m.bin")
        pipes.append((manifest, str(tmp_path / f"pipe{number}")))
    good, data = make_title(tmp_path, 3 * CHUNK)
    async with open_node(config(tmp_path)) as node:
        fills = [await node.start_fill(manifest, [root]) for manifest, root in pipes]
        for fill in fills:
            assert "no plain file" in (await reason_of(fill)).reason
        with trio.fail_after(20):
            await node.fill(good, [str(tmp_path / "film")])
    assert (tmp_path / "a1" / "live" / "film" / "m.bin").read_bytes() == data


def sized(size: int) -> Callable[[Request, socket.socket], object]:
    return lambda request, connection: connection.sendall(head(200, Content_Length=size) + bytes(size))


def unsized(size: int) -> Callable[[Request, socket.socket], object]:
    return lambda request, connection: connection.sendall(head(200, Connection="close") + bytes(size))


@pytest.mark.parametrize("answers", [sized, unsized])
async def test_the_size_of_what_an_order_names_is_in_nothing_that_leaves_the_node(
    answers: Any, tmp_path: Path, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, _ = make_title(tmp_path, CHUNK)
    told = []
    for number, size in enumerate((12_347, 23_459)):
        server = start(answers(size))
        async with open_node(config(tmp_path, f"n{number}")) as node:
            fill = await node.start_fill(manifest, [server.url])
            source = await reason_of(fill)
            with trio.fail_after(30):
                while not node.titles.origin_counts.totals():
                    await trio.sleep(0.02)
            (counts,) = node.titles.origin_counts.totals()
            assert counts.bytes_wasted % CHUNK == 0
            assert fill.report().duplicate_bytes % CHUNK == 0
            text = msgspec.json.encode(node.report()).decode()
            assert not re.search(rf"\D{size}\D", text)
            told.append(source.reason)
        if answers is sized:
            assert str(size) in caplog.text, "it is in the log of the node"
    assert told[0] == told[1]


async def test_a_status_is_in_the_log_and_in_nothing_that_leaves_the_node(
    tmp_path: Path, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    manifest, _ = make_title(tmp_path, CHUNK)
    server = start(lambda request, connection: connection.sendall(head(418, Content_Length=0)))
    async with open_node(config(tmp_path)) as node:
        fill = await node.start_fill(manifest, [server.url])
        source = await reason_of(fill)
        assert source.reason == "the origin refuses it; check the server's set-up"
    assert "status 418" in caplog.text
