"""A node and its origins as they are: what it takes from them, and what it says of them."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from measure import acheck_at_most
from origin.servers import Request, head, part_of, serve, without_range

from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import SourceReport
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.fill import FillDriver
from p2pfill.node.origins import Origins
from p2pfill.store.publish import publish

CHUNK = 65536


@asynccontextmanager
async def node_at(tmp_path: Path, **settings: Any) -> AsyncIterator[Node]:
    with trio.fail_after(60):
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), **settings)) as node:
            yield node


def make_title(tmp_path: Path, size: int, name: str = "film") -> tuple[Manifest, bytes]:
    root, data = tmp_path / name, os.urandom(size)
    root.mkdir()
    (root / "m.bin").write_bytes(data)
    return publish(root, name=name, chunk_size=CHUNK).manifest, data


def source_of(fill: FillDriver) -> SourceReport:
    (source,) = fill.report().sources
    return source


async def until(said: Callable[[], Any]) -> Any:
    while not (value := said()):
        await trio.sleep(0.02)
    return value


def lines_on(url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.getMessage().startswith(f"origin {url}")]


async def test_an_origin_without_range_is_read_once_and_said_to_be_one(
    tmp_path: Path, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def excess(number: int) -> float:
        """Return by how much too often, or too much of it, the file was read."""
        place = tmp_path / str(number)
        place.mkdir()
        manifest, data = make_title(place, 100 * CHUNK + 7)
        server = start(without_range(data))
        async with node_at(place) as node:
            fill = await node.start_fill(manifest, [server.url])
            await fill.wait()
            report = fill.report()
            assert (place / "a1" / "live" / "film" / "m.bin").read_bytes() == data
            assert report.bytes_origin == len(data), "what came on the way counts too"
            assert source_of(fill).bytes == len(data)
            assert source_of(fill).state == "ok"
            assert source_of(fill).reason.startswith("has no Range: ")
        (line,) = lines_on(server.url, caplog)
        assert "has no Range: " in line
        return max(len(server.seen) / 3, report.duplicate_bytes / (len(data) / 2))

    await acheck_at_most(1.0, excess)


async def test_what_an_origin_does_wrong_is_said_at_once_and_once(
    tmp_path: Path, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, data = make_title(tmp_path, 40 * CHUNK)

    def zipped(request: Request, connection: socket.socket) -> bool:
        body = gzip.compress(data, 1)
        connection.sendall(head(200, Content_Encoding="gzip", Content_Length=len(body)) + body)
        return True

    server = start(zipped)
    async with node_at(tmp_path) as node:
        began = time.monotonic()
        fill = await node.start_fill(manifest, [server.url])
        await until(lambda: source_of(fill).reason)
        assert time.monotonic() - began < 5
        assert "Content-Encoding: gzip" in source_of(fill).reason
        assert source_of(fill).state == "failing"
        await trio.sleep(2)
        assert len(server.seen) > 3, "it is tried again"
        (line,) = lines_on(server.url, caplog)
        assert "Content-Encoding: gzip" in line
        assert "switch compression off" in line


async def test_an_origin_that_says_nothing_is_said_to_within_five_seconds(
    tmp_path: Path, start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, data = make_title(tmp_path, CHUNK)
    is_awake = False

    def answer(request: Request, connection: socket.socket) -> object:
        until_s = time.monotonic() + 20
        while not is_awake and time.monotonic() < until_s:
            time.sleep(0.05)
        return serve(data)(request, connection)

    server = start(answer)
    async with node_at(tmp_path) as node:
        began = time.monotonic()
        fill = await node.start_fill(manifest, [server.url])
        await until(lambda: source_of(fill).reason)
        assert time.monotonic() - began < 5
        assert "has sent nothing for" in source_of(fill).reason
        is_awake = True
        await fill.wait()
        assert source_of(fill).reason == ""
    fails, works = lines_on(server.url, caplog)
    assert "has sent nothing for" in fails
    assert "works again" in works


async def test_a_chunk_put_together_of_servers_that_differ_is_no_fault_of_the_origin(
    tmp_path: Path, start: Any
) -> None:
    manifest, data = make_title(tmp_path, CHUNK)
    count = 0

    def answer(request: Request, connection: socket.socket) -> bool:
        nonlocal count
        count += 1
        part, status, headers = part_of(os.urandom(CHUNK) if count == 1 else data, request)
        sent = part[:30_000] if count == 1 else part
        connection.sendall(head(status, Content_Length=len(part), **headers) + sent)
        return sent is part

    server = start(answer)
    async with node_at(tmp_path) as node:
        fill = await node.start_fill(manifest, [server.url])
        await fill.wait()
        assert source_of(fill).state == "ok"
        assert fill.report().duplicate_bytes == CHUNK, "the first one was thrown away"
    assert len(server.seen) == 3


async def test_a_signed_url_is_secret(tmp_path: Path, start: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    manifest, data = make_title(tmp_path, 3 * CHUNK)
    signature = "old-secret"

    def answer(request: Request, connection: socket.socket) -> bool:
        if request.target != f"/titles/m.bin?sig={signature}":
            connection.sendall(head(403, Content_Length=0))
            return True
        return bool(serve(data)(request, connection))

    server = start(answer)
    (tmp_path / "records").mkdir()
    async with node_at(tmp_path, record=str(tmp_path / "records")) as node:
        signature = "new-secret"
        fill = await node.start_fill(manifest, [server.url + "/titles/{path}?sig=old-secret"])
        await until(lambda: "the origin refuses it" in source_of(fill).reason)
        assert source_of(fill).id == server.url + "/titles/{path}?…"
        assert "secret" not in str(node.report())
        # A signature that was renewed is no other origin.
        fill.set_origins([server.url + "/titles/{path}?sig=new-secret"])
        await fill.wait()
        assert source_of(fill).bytes == len(data)
        assert "secret" not in str(node.report())
    recorded = b"".join(path.read_bytes() for path in (tmp_path / "records").iterdir())
    assert b"/titles/{path}" in recorded
    assert b"secret" not in recorded
    assert "secret" not in caplog.text


def test_another_fill_of_a_title_gets_whole_urls_and_people_get_names() -> None:
    stored: Any = SimpleNamespace(manifest=SimpleNamespace(name="film"))
    origins = Origins(stored, logging.getLogger())
    url = "https://origin.example/{path}?sig=SECRET"
    names = origins.add([url])
    assert "SECRET" not in names[0]
    assert origins.urls() == [url]
    assert Origins(stored, logging.getLogger()).add(origins.urls()) == names
