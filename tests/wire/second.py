"""A second cache, written from docs/protocol.md alone: it links, serves, fetches and elects.

asyncio, sockets, the two digests and what else of the page is written once more (`independent`, `masters`); nothing of
p2pfill. It keeps its titles in memory and is plain, not fast. What goes over one link stands in `second_link`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from typing import Any

from . import independent as wire
from . import masters
from .second_link import HANDSHAKE_S, Fault, Link, Stored, to_bitmap

PROBE_S, TOKEN_S, DISCOVERY_S, CLAIM_S, AGAIN_S = 3.0, 30.0, 1.5, 2.25, 0.5
WINDOW = 4
"""Requests outstanding at one source; its own choice."""


def plain_answer(number: int, chunk: int, data: bytes) -> list[bytes]:
    return [wire.encode_header(number, chunk, len(data)), data]


class Cache:
    """One cache. Use it as an async context manager; it listens on loopback."""

    def __init__(self, name: str, isp: str, region: str = "default", weight: float = 1.0, host: str = "127.0.0.1"):
        self.name = name
        self.hello: dict[str, Any] = {
            "node_id": name, "isp": isp, "region": region, "cluster": "", "host": host, "port": 0, "weight": weight,
            "agent": "second/1", "boot": os.urandom(4).hex(),
        }  # fmt: skip
        self.titles: dict[bytes, Stored] = {}
        self.links: dict[str, Link] = {}
        self.all_links: list[Link] = []
        self.tokens: dict[bytes, tuple[Link, float]] = {}
        self.streams: list[asyncio.StreamWriter] = []
        """Data streams on which others are being sent chunks."""
        self.at_border: dict[bytes, set[int]] = {}
        self.closed: dict[str, frozenset[int]] = {}
        self.from_origin: list[int] = []
        self.answers_pings = True
        self.answer: Callable[[int, int, bytes], list[bytes]] = plain_answer
        self.probes: dict[Link, Link] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.server: asyncio.Server | None = None

    async def __aenter__(self) -> Cache:
        self.server = await asyncio.start_server(self.welcome, "127.0.0.1", 0)
        self.port = self.server.sockets[0].getsockname()[1]
        self.hello["port"] = self.port
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.server is not None:
            self.server.close()
        for link in self.all_links:
            link.part(3, "the end")
        async with asyncio.timeout(2.0):
            while not all(link.is_closed for link in self.all_links):
                await asyncio.sleep(0.005)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for link in self.all_links:
            with suppress(OSError):
                await link.writer.wait_closed()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # ---- connections

    async def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                first = await reader.readexactly(4)
                if first == b"P2FD":
                    link, until = self.tokens.pop(wire.decode_preface(first + await reader.readexactly(36)))
                    if time.monotonic() > until or link.ended.is_set():
                        raise EOFError
                    self.spawn(link.serve(reader, writer))
                    return
        except (OSError, EOFError, TimeoutError, KeyError, wire.Invalid):
            writer.close()
            return
        self.start_link(reader, writer, first)

    def start_link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, first: bytes = b"") -> Link:
        link = Link(self, reader, writer)
        self.all_links.append(link)
        self.spawn(link.run(first))
        return link

    async def dial(self, host: str, port: int) -> Link:
        link = self.start_link(*await asyncio.open_connection(host, port))
        await link.opened.wait()
        return link

    def admit(self, link: Link) -> None:
        name = link.hello["node_id"]
        if name == self.name:
            raise Fault("my own name")
        before = self.links.get(name)
        if before is None:
            self.links[name] = link
        elif before in self.probes:
            link.part(4, "a duplicate")
        else:
            self.probes[before] = link
            before.ping()
            self.spawn(self.replace(before, link))
        link.opened.set()

    async def replace(self, before: Link, link: Link) -> None:
        await asyncio.sleep(PROBE_S)
        if self.probes.pop(before, None) is link:
            self.links[link.hello["node_id"]] = link
            before.part(4, "a newer link")

    def lives(self, link: Link) -> None:
        if (newcomer := self.probes.pop(link, None)) is not None:
            newcomer.part(4, "a duplicate")

    def forget(self, link: Link) -> None:
        name = link.hello.get("node_id", "")
        if self.links.get(name) is link:
            del self.links[name]
            if (newcomer := self.probes.pop(link, None)) is not None:
                self.links[name] = newcomer

    def grant(self, link: Link) -> bytes | None:
        now = time.monotonic()
        self.tokens = {token: held for token, held in self.tokens.items() if held[1] > now}
        if link.streams_here + sum(held[0] is link for held in self.tokens.values()) >= 4:
            return None
        token = os.urandom(32)
        self.tokens[token] = link, now + TOKEN_S
        return token

    # ---- filling

    def place_of(self, link: Link) -> int:
        """How far a linked cache is: 0 for the own ISP."""
        if link.hello["region"] != self.hello["region"]:
            return masters.WORLD
        return 0 if link.hello["isp"] == self.hello["isp"] else masters.REGION

    def announce(self, title_id: bytes, chunk: int) -> None:
        self.tell("Have", title_id, chunk)

    def tell(self, name: str, title_id: bytes, chunk: int) -> None:
        for link in self.links.values():
            for handle, wanted in link.theirs.items():
                concerns = name == "Fetching" or wanted.interest is None or chunk in wanted.interest
                if wanted.title_id == title_id and wanted.count is not None and concerns:
                    link.send(name, handle=handle, chunks=[chunk])

    async def fill(
        self,
        title: wire.Title,
        roster: Iterable[masters.Member],
        origin: Callable[[int], Coroutine[Any, Any, bytes]] | None = None,
    ) -> Stored:
        """Fetch a title from linked caches of the roster, and as master from elsewhere."""
        stored = self.titles.setdefault(title.id, Stored(title))
        me = masters.Member(self.name, self.hello["isp"], self.hello["region"], self.hello["weight"])
        members = [member for member in roster if member.name != self.name]
        for link in self.links.values():
            for handle, wanted in link.theirs.items():
                if wanted.title_id == title.id:
                    link.tell_holdings(handle)
        may_go = masters.Fleet(title.id, stored.count, [*members, me]).may_go(me)
        asked: dict[int, Link] = {}
        handles: dict[Link, int] = {}
        working: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        while len(stored.chunks) < stored.count:
            for link in self.links.values():
                if link not in handles:
                    handles[link] = link.subscribe(title.id)
            answered = {link: link.mine[handle] for link, handle in handles.items() if not link.ended.is_set()}
            for link, wanted in answered.items():
                place = self.place_of(link)
                if wanted.known and place and wanted.interest is None:
                    wanted.interest = may_go[place]
                    wanted.answered.clear()
                    bits = to_bitmap(may_go[place], stored.count)
                    link.send("Interest", handle=handles[link], chunk_count=stored.count, bitmap=bits)
            known = {link.hello["node_id"] for link, wanted in answered.items() if wanted.answered.is_set()}
            late = time.monotonic() > began + DISCOVERY_S
            met = late or all(member.name in known for member in members)
            for chunk in range(stored.count):
                if chunk not in stored.chunks and chunk not in asked:
                    self.ask(stored, chunk, may_go, handles, asked, working, origin if met else None)
            done = [task for task in working if task.done()]
            working.difference_update(done)
            for task in done:
                task.result()
            await asyncio.sleep(0.005)
        for link, handle in handles.items():
            if not link.ended.is_set():
                link.unsubscribe(handle)
        return stored

    def ask(
        self,
        stored: Stored,
        chunk: int,
        may_go: dict[int, set[int]],
        handles: dict[Link, int],
        asked: dict[int, Link],
        working: set[asyncio.Task[None]],
        origin: Callable[[int], Coroutine[Any, Any, bytes]] | None,
    ) -> None:
        sources = [link for link in handles if not link.ended.is_set()]
        for link in sorted(sources, key=self.place_of):
            place, wanted = self.place_of(link), link.mine[handles[link]]
            if chunk in wanted.holds and (not place or chunk in may_go[place]) and len(link.asked) < WINDOW:
                asked[chunk] = link
                working.add(asyncio.ensure_future(self.from_link(stored, chunk, link, handles[link], asked)))
                return
        held = any(chunk in link.mine[handles[link]].holds for link in sources)
        claims = [link.mine[handles[link]].claims.get(chunk, -9.0) for link in sources]
        if origin is None or held or chunk not in may_go[masters.ORIGIN]:
            return
        if max(claims, default=-9.0) < time.monotonic() - CLAIM_S:
            asked[chunk] = None  # type: ignore[assignment]
            working.add(asyncio.ensure_future(self.from_far(stored, chunk, origin)))

    async def from_link(self, stored: Stored, chunk: int, link: Link, handle: int, asked: dict[int, Link]) -> None:
        good = await link.request(handle, chunk)
        del asked[chunk]
        if good:
            self.announce(stored.title.id, chunk)
        else:
            await asyncio.sleep(AGAIN_S)

    async def from_far(self, stored: Stored, chunk: int, origin: Callable[[int], Coroutine[Any, Any, bytes]]) -> None:
        at_border = self.at_border.setdefault(stored.title.id, set())
        at_border.add(chunk)
        self.tell("Fetching", stored.title.id, chunk)
        assert stored.take(chunk, await origin(chunk))
        self.from_origin.append(chunk)
        at_border.discard(chunk)
        self.announce(stored.title.id, chunk)
