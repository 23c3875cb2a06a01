"""A real node beside a cache that was written from docs/protocol.md alone: they link, serve, fetch and elect alike."""

from __future__ import annotations

import ast
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
from wire import independent, masters
from wire.second import Cache, plain_answer
from wire.second_link import Link, Stored

from p2pfill.model.ids import NodeId
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.store.publish import publish
from p2pfill.swarm.election import Scope

CHUNK = 64 * 1024
ALLOWED = {"msgpack", "xxhash", "blake3", "wire"} | set(sys.stdlib_module_names)


class Made(NamedTuple):
    """A title on disk, as both see it."""

    manifest: Manifest
    title: independent.Title
    content: bytes
    folder: str

    def whole(self) -> Stored:
        stored = Stored(self.title)
        for chunk in range(stored.count):
            assert stored.take(chunk, self.content[chunk * CHUNK : (chunk + 1) * CHUNK])
        return stored

    async def read(self, chunk: int) -> bytes:
        await asyncio.sleep(0.01)
        return self.content[chunk * CHUNK : (chunk + 1) * CHUNK]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    (tmp_path / "src").mkdir()
    content = os.urandom(40 * CHUNK - 5)
    (tmp_path / "src" / "big.bin").write_bytes(content)
    manifest = publish(tmp_path / "src", name="t", chunk_size=CHUNK).manifest
    return Made(manifest, independent.decode_manifest(manifest.encode()), content, str(tmp_path / "src"))


@asynccontextmanager
async def node_at(tmp_path: Path, name: str = "m1", isp: str = "isp-a") -> AsyncIterator[Node]:
    with trio.fail_after(30):
        async with open_node(NodeConfig(id=name, isp=isp, data=str(tmp_path / name))) as node:
            yield node


async def beside(script: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run the second cache's part in a thread with a loop of its own."""
    return await trio.to_thread.run_sync(partial(asyncio.run, script()))


async def until(condition: Callable[[], object], limit_s: float = 8.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.005)


def node_info(name: str, isp: str, port: int = 0, weight: float = 1.0) -> NodeInfo:
    return NodeInfo(NodeId(name), isp, "default", host="127.0.0.1", port=port, weight=weight)


@pytest.mark.parametrize("module", ["second", "second_link", "masters", "independent"])
def test_it_uses_nothing_of_p2pfill(module: str) -> None:
    tree = ast.parse((Path(__file__).parent / f"{module}.py").read_text(encoding="utf-8"))
    for found in ast.walk(tree):
        if isinstance(found, ast.Import):
            assert {alias.name.split(".")[0] for alias in found.names} <= ALLOWED
        elif isinstance(found, ast.ImportFrom):
            assert found.level == 1 or (found.module or "").split(".")[0] in ALLOWED


async def test_it_fetches_a_title_from_a_node(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:
        await node.fill(made.manifest, [made.folder])

        async def script() -> bytes:
            async with Cache("b2", "isp-a") as cache:
                await cache.dial(node.info.host, node.info.port)
                stored = await cache.fill(made.title, [masters.Member("m1", "isp-a", "default")])
                assert list(cache.links) == ["m1"]
                return stored.content()

        assert await beside(script) == made.content


@pytest.mark.parametrize("name", ["b2", "z2"])
async def test_a_node_fetches_a_title_from_it(tmp_path: Path, made: Made, name: str) -> None:
    """The one with the lower id dials: the second cache, or the node."""
    ports, filled = [], trio.Event()
    async with node_at(tmp_path) as node, trio.open_nursery() as nursery:

        async def script() -> None:
            async with Cache(name, "isp-a") as cache:
                cache.titles[made.title.id] = made.whole()
                ports.append(cache.port)
                if name < node.info.id:
                    await cache.dial(node.info.host, node.info.port)
                await until(filled.is_set)
                # One of the two has dialled, once.
                assert len(cache.all_links) == 1
                assert cache.all_links[0].goodbye is None

        nursery.start_soon(beside, script)
        while not ports:
            await trio.sleep(0.005)
        node.want_links([node_info(name, "isp-a", ports[0])])
        filling = await node.start_fill(made.manifest, members=[node_info(name, "isp-a")])
        await filling.wait()
        assert filling.fill.bytes_by_scope[Scope.ISP] == len(made.content)
        filled.set()
    assert (tmp_path / "m1" / "live" / "t" / "big.bin").read_bytes() == made.content


@pytest.mark.parametrize("weight", [1.0, 0.3])
async def test_both_elect_and_each_chunk_leaves_the_origin_once(tmp_path: Path, made: Made, weight: float) -> None:
    """Two ISPs of one region: what one is master of in the world it fetches, and the other takes it from there."""
    roster = [masters.Member("m1", "isp-a", "default"), masters.Member("b2", "isp-b", "default", weight)]
    elected = masters.Fleet(made.title.id, made.manifest.chunk_count, roster)
    theirs = elected.may_go(roster[1])[masters.ORIGIN]
    ports: list[int] = []
    ready = trio.Event()
    fetched: list[list[int]] = []
    async with node_at(tmp_path) as node, trio.open_nursery() as nursery:

        async def script() -> None:
            async with Cache("b2", "isp-b", weight=weight) as cache:
                cache.titles[made.title.id] = Stored(made.title)
                await cache.dial(node.info.host, node.info.port)
                ports.append(cache.port)
                stored = await cache.fill(made.title, roster, made.read)
                assert stored.content() == made.content
                fetched.append(sorted(cache.from_origin))
                await until(ready.is_set)

        nursery.start_soon(beside, script)
        while not node.engine.links:
            await trio.sleep(0.005)
        members = [node_info("b2", "isp-b", weight=weight)]
        filling = await node.start_fill(made.manifest, [made.folder], members=members)
        await filling.wait()
        while not fetched:
            await trio.sleep(0.005)
        ready.set()
        assert fetched == [sorted(theirs)]
        theirs_bytes = sum(made.manifest.chunk_length(chunk) for chunk in theirs)
        assert 0 < theirs_bytes < len(made.content)
        assert filling.fill.bytes_by_scope[Scope.REGION] == theirs_bytes
        assert filling.fill.bytes_by_scope[Scope.ORIGIN] == len(made.content) - theirs_bytes
        assert not filling.fill.escalations
    assert (tmp_path / "m1" / "live" / "t" / "big.bin").read_bytes() == made.content


# ---- what may follow what


def twice(number: int, chunk: int, data: bytes) -> list[bytes]:
    return 2 * plain_answer(number, chunk, data)


def never_asked(number: int, chunk: int, data: bytes) -> list[bytes]:
    return plain_answer(number + 1000, chunk, data)


def another_chunk(number: int, chunk: int, data: bytes) -> list[bytes]:
    return plain_answer(number, chunk ^ 1, data)


def another_length(number: int, chunk: int, data: bytes) -> list[bytes]:
    return plain_answer(number, chunk, data[:-1])


def another_kind(number: int, chunk: int, data: bytes) -> list[bytes]:
    header, payload = plain_answer(number, chunk, data)
    return [b"\x02" + header[1:], payload]


def wrong_bytes(number: int, chunk: int, data: bytes) -> list[bytes]:
    return plain_answer(number, chunk, bytes(len(data)))


@pytest.mark.parametrize("answer", [twice, never_asked, another_chunk, another_length, another_kind, wrong_bytes])
async def test_breaches_on_a_data_stream_end_the_link_and_wrong_bytes_do_not(
    tmp_path: Path, made: Made, answer: Callable[[int, int, bytes], list[bytes]]
) -> None:
    async with node_at(tmp_path) as node:
        filling = await node.start_fill(made.manifest)

        async def script() -> Link:
            async with Cache("b2", "isp-a") as cache:
                cache.answer = answer
                cache.titles[made.title.id] = made.whole()
                link = await cache.dial(node.info.host, node.info.port)
                if answer is wrong_bytes:
                    await until(lambda: any(message.name == "Request" for message in link.heard) and not link.queue)
                    await asyncio.sleep(0.3)
                    assert not link.ended.is_set()
                else:
                    await until(link.ended.is_set)
                    assert link.goodbye is not None
                    assert link.goodbye["code"] == 1
                return link

        await beside(script)
        states = {source.id: source.state for source in filling.report().sources}
        assert states["b2"] in ("quarantined", "lost")
        assert filling.fill.sources.get("b2", filling.fill.past.get("b2")).quarantined  # type: ignore[union-attr]


async def test_an_answer_after_a_reject_is_a_breach(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:
        await node.start_fill(made.manifest)

        async def script() -> None:
            async with Cache("b2", "isp-a") as cache:
                cache.titles[made.title.id] = made.whole()
                link = await cache.dial(node.info.host, node.info.port)

                def refuse_and_answer(number: int, chunk: int, data: bytes) -> list[bytes]:
                    link.send("Reject", request_id=number, code="busy")
                    link.queue[number + 1_000_000] = -1, chunk
                    return []

                cache.answer = refuse_and_answer
                await until(lambda: any(message.name == "StreamOpen" for message in link.heard))
                await asyncio.sleep(0.1)
                number = next(m.fields["request_id"] for m in link.heard if m.name == "Request")
                link.theirs[-1] = next(iter(link.theirs.values()))
                cache.answer = lambda _, chunk, data: plain_answer(number, chunk, data)
                link.queue = {number: (-1, 0)}
                link.queued.set()
                await until(link.ended.is_set)
                assert link.goodbye is not None
                assert link.goodbye["code"] == 1

        await beside(script)


async def test_an_answer_after_cancel_is_read_past_once(tmp_path: Path, made: Made) -> None:
    """The title is withdrawn: the answers that were on their way come all the same, and then come again."""
    async with node_at(tmp_path) as node:
        filling = await node.start_fill(made.manifest)
        held = asyncio.Event()

        async def script() -> None:
            async with Cache("b2", "isp-a") as cache:
                held_back: list[tuple[int, int, bytes]] = []

                def keep(number: int, chunk: int, data: bytes) -> list[bytes]:
                    held_back.append((number, chunk, data))
                    return []

                cache.answer = keep
                cache.titles[made.title.id] = made.whole()
                link = await cache.dial(node.info.host, node.info.port)
                await until(lambda: len(held_back) >= 3)
                held.set()
                await until(lambda: not link.theirs)  # Unsubscribe
                answers = [b"".join(plain_answer(*kept)) for kept in held_back]
                (stream,) = cache.streams
                stream.write(b"".join(answers))
                await stream.drain()
                link.ping()
                await until(lambda: any(message.name == "Pong" for message in link.heard))
                await asyncio.sleep(0.2)
                assert not link.ended.is_set()
                stream.write(answers[0])
                await until(link.ended.is_set)
                assert link.goodbye is not None
                assert link.goodbye["code"] == 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside, script)
            while not held.is_set():
                await trio.sleep(0.01)
            filling.withdraw()


async def test_known_false_after_true_voids_the_requests(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:
        filling = await node.start_fill(made.manifest)

        async def script() -> None:
            async with Cache("b2", "isp-a") as cache:
                cache.answer = lambda number, chunk, data: []
                cache.titles[made.title.id] = made.whole()
                link = await cache.dial(node.info.host, node.info.port)
                await until(lambda: link.streams_here and not link.queue)
                stored = cache.titles.pop(made.title.id)
                (handle,) = link.theirs
                asked = {m.fields["request_id"] for m in link.heard if m.name == "Request"}
                link.tell_holdings(handle)
                await until(lambda: asked <= {m.fields["request_id"] for m in link.heard if m.name == "Cancel"})
                assert list(link.theirs) == [handle]
                # And it comes again, under the same handle.
                cache.answer = plain_answer
                cache.titles[made.title.id] = stored
                link.tell_holdings(handle)
                await until(lambda: handle not in link.theirs)
                assert link.goodbye is None

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside, script)
            await filling.wait()
    assert (tmp_path / "m1" / "live" / "t" / "big.bin").read_bytes() == made.content


async def test_a_stream_that_breaks_off_fails_what_was_outstanding_and_no_more(tmp_path: Path, made: Made) -> None:
    """Each request that had no answer gets a Cancel, the one whose chunk broke off among them; then all comes."""
    async with node_at(tmp_path) as node:
        filling = await node.start_fill(made.manifest)

        async def script() -> None:
            async with Cache("b2", "isp-a") as cache:

                def break_off(number: int, chunk: int, data: bytes) -> list[bytes]:
                    asked.update({number})
                    cache.answer = plain_answer
                    cache.streams[0].write(b"".join(plain_answer(number, chunk, data))[:1000])
                    raise ConnectionResetError

                asked: set[int] = set()
                cache.answer = break_off
                cache.titles[made.title.id] = made.whole()
                link = await cache.dial(node.info.host, node.info.port)
                await until(lambda: link.theirs)
                await until(lambda: not link.theirs)
                assert link.goodbye is None
                cancelled = {m.fields["request_id"] for m in link.heard if m.name == "Cancel"}
                assert asked <= cancelled
                assert sum(m.name == "StreamOpen" for m in link.heard) == 2

        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside, script)
            await filling.wait()


async def test_without_an_address_it_fetches_and_serves_nobody(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:
        filling = await node.start_fill(made.manifest)

        async def script() -> None:
            async with Cache("b2", "isp-a", host="") as cache:
                cache.hello["port"] = 0
                cache.titles[made.title.id] = made.whole()
                link = await cache.dial(node.info.host, node.info.port)
                await until(lambda: any(message.name == "Cancel" for message in link.heard))
                assert not cache.streams
                del cache.titles[made.title.id]
                filling_may_go_on.set()
                stored = await cache.fill(made.title, [masters.Member("m1", "isp-a", "default")])
                assert stored.content() == made.content
                assert link.goodbye is None

        filling_may_go_on = asyncio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside, script)
            while not filling_may_go_on.is_set():
                await trio.sleep(0.01)
            filling.set_origins([made.folder])
            await filling.wait()


# ---- links


async def test_double_links(tmp_path: Path, made: Made) -> None:
    """One that lives stays; one that does not answer gives way after the probe; a third meanwhile is a duplicate."""
    async with node_at(tmp_path) as node:

        async def script() -> None:
            async with Cache("b2", "isp-a") as cache, Cache("b2", "isp-a") as other, Cache("b2", "isp-a") as yet:
                first = await cache.dial(node.info.host, node.info.port)
                second = await other.dial(node.info.host, node.info.port)
                await until(second.ended.is_set, 2.0)
                assert second.goodbye is not None
                assert second.goodbye["code"] == 4
                assert not first.ended.is_set()
                cache.answers_pings = False
                second = await other.dial(node.info.host, node.info.port)
                third = await yet.dial(node.info.host, node.info.port)
                await until(third.ended.is_set, 2.0)
                assert third.goodbye is not None
                assert third.goodbye["code"] == 4
                await until(first.ended.is_set, 5.0)
                assert first.goodbye is not None
                assert first.goodbye["code"] == 4
                assert not second.ended.is_set()

        await beside(script)


FAULTS: list[tuple[str, dict[str, Any]]] = [
    ("Hello", {}),
    ("Unsubscribe", {"handle": 7}),
    ("Interest", {"handle": 7, "chunk_count": 0, "bitmap": b""}),
    ("Request", {"handle": 7, "request_id": 0, "chunk": 0}),
    ("Request", {"handle": 0, "request_id": 0, "chunk": 40}),
    ("Interest", {"handle": 0, "chunk_count": 39, "bitmap": bytes(5)}),
    ("Subscribe", {"handle": 0, "title_id": bytes(32)}),
    ("Cancel", {"request_id": 9}),
    ("Reject", {"request_id": 9, "code": "missing"}),
    ("Holdings", {"handle": 9, "known": False, "chunk_count": 0, "bitmap": b""}),
    ("Have", {"handle": 9, "chunks": [0]}),
    ("Fetching", {"handle": 9, "chunks": [0]}),
    ("ReportSlow", {"handle": 9, "node_id": "m9"}),
    ("Ways", {"handle": 9, "closed": 1}),
    ("StreamGrant", {"stream_id": 0, "token": bytes(32), "certificate": b""}),
    ("StreamRefuse", {"stream_id": 0, "reason": ""}),
    ("Pong", {"nonce": 77}),
]


async def test_every_fault_between_messages_is_answered_with_the_promised_goodbye(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:
        await node.fill(made.manifest, [made.folder])

        async def script() -> None:
            for number, (name, fields) in enumerate(FAULTS):
                async with Cache(f"b{number}", "isp-a") as cache:
                    link = await cache.dial(node.info.host, node.info.port)
                    link.subscribe(made.title.id)
                    await until(lambda link=link: link.mine[0].answered.is_set())
                    link.send(name, **(fields or cache.hello))
                    await until(link.ended.is_set, 3.0)
                    assert link.goodbye is not None, name
                    assert link.goodbye["code"] == 1, name

        await beside(script)
        assert (await node.fill(made.manifest)).state == "live"


async def test_what_is_about_something_that_is_over_is_no_fault(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:
        await node.fill(made.manifest, [made.folder])

        async def script() -> None:
            async with Cache("b2", "isp-a") as cache:
                cache.titles[made.title.id] = Stored(made.title)
                link = await cache.dial(node.info.host, node.info.port)
                handle = link.subscribe(made.title.id)
                await until(lambda: link.mine[handle].answered.is_set())
                assert await link.request(handle, 0)
                link.send("Cancel", request_id=0)
                futures = [link.request(handle, chunk) for chunk in range(1, 9)]
                link.unsubscribe(handle)
                assert not any(await asyncio.gather(*futures))
                link.send("Cancel", request_id=5)
                again = link.subscribe(made.title.id)
                await until(lambda: link.mine[again].answered.is_set())
                assert await link.request(again, 3)
                assert link.goodbye is None

        await beside(script)


async def test_interest_is_answered_with_holdings(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:
        await node.fill(made.manifest, [made.folder])

        async def script() -> None:
            async with Cache("b2", "isp-b") as cache:
                link = await cache.dial(node.info.host, node.info.port)
                handle = link.subscribe(made.title.id)
                await until(lambda: link.mine[handle].answered.is_set())
                link.send("Interest", handle=handle, chunk_count=40, bitmap=bytes(5))
                await until(lambda: sum(message.name == "Holdings" for message in link.heard) == 2)

        await beside(script)


async def test_a_remote_has_four_streams_and_tokens(tmp_path: Path, made: Made) -> None:
    async with node_at(tmp_path) as node:

        async def script() -> None:
            async with Cache("b2", "isp-b") as cache:
                link = await cache.dial(node.info.host, node.info.port)
                link.take_streamgrant = link.take_streamrefuse = lambda **_: None  # type: ignore[assignment,method-assign]
                for number in range(5):
                    link.send("StreamOpen", stream_id=number, encrypt=False, certificate=b"")
                await until(lambda: len(link.heard) >= 5)
                said = [message.name for message in link.heard if message.name.startswith("Stream")]
                assert said == 4 * ["StreamGrant"] + ["StreamRefuse"]

        await beside(script)
