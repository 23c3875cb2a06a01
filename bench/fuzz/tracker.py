"""What callers say to the tracker, through its real application in memory, and what it answers a cache."""

from __future__ import annotations

import queue
import shutil
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote

import msgspec
import trio
from trio.testing import MockClock

from bench.fuzz.samples import POLICY
from bench.fuzz.target import NESTED, Run, Target, check
from bench.fuzz.titles import make_manifests
from p2pfill.errors import TrackerError
from p2pfill.model.ids import NodeId
from p2pfill.model.limits import KIB
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.model.reports import BroughtOrder, BroughtOrders, NodeReport, Order, Orders, SourceReport, TitleReport
from p2pfill.tracker import openapi, records
from p2pfill.tracker.admission import Admission
from p2pfill.tracker.api import build_app
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.client import ANSWER_BYTES_MAX, TrackerClient, _refusal
from p2pfill.tracker.service import Service

T = TypeVar("T")

FILM: Final = next(make_manifests())
TITLE: Final = FILM.title_id.hex()
NODES: Final = tuple(
    NodeInfo(NodeId(name), isp, "eu", host="127.0.0.1", port=7400) for name, isp in (("a1", "isp-a"), ("b1", "isp-b"))
)
CALLER: Final = ("127.0.0.9", 4711)

LOOK_EVERY: Final = 256
"""Calls between two looks at the whole of the tracker."""

STATE_CALLS: Final = 4096
"""Calls that one tracker takes; then it is started anew from its database, and after that a new one begins."""

BLOCKED_S: Final = 0.001
"""After so long in which nothing can go on, time is moved to where something does, as to the end of a long poll."""


class Loop:
    """Trio, run by whoever waits for something of it: one call goes through it in some ten microseconds."""

    def __init__(self) -> None:
        self._ready: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._asked: deque[Callable[[], Awaitable[Any]]] = deque()
        self._found: list[tuple[Any, BaseException | None]] = []
        self._is_over = False
        trio.lowlevel.start_guest_run(
            self._work,
            run_sync_soon_threadsafe=self._ready.put,
            done_callback=lambda outcome: self._end(outcome),
            clock=MockClock(autojump_threshold=BLOCKED_S),
        )

    async def _work(self) -> None:
        while not self._is_over:
            if not self._asked:
                await trio.lowlevel.checkpoint()
                continue
            ask = self._asked.popleft()
            try:
                found: tuple[Any, BaseException | None] = await ask(), None
            except BaseException as error:  # noqa: BLE001  (raised where it was asked for)
                found = None, error
            self._found.append(found)

    def _end(self, outcome: Any) -> None:
        self._is_over = True
        outcome.unwrap()

    def run(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what comes of something asynchronous."""
        self._asked.append(ask)
        while not self._found:
            self._ready.get()()
        found, error = self._found.pop()
        if error is not None:
            raise error
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """End it."""

        async def end() -> None:
            self._is_over = True

        self.run(end)
        while not self._ready.empty():
            self._ready.get()()


class World:
    """A tracker with a title, two caches that report, an order and a policy."""

    def __init__(self, loop: Loop, directory: Path) -> None:
        self._loop = loop
        self._directory = directory
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        self.calls = 0
        self._catalogue = Catalogue.open(f"sqlite:///{directory}/t.db")
        self._start()
        for data in _first_calls():
            status, answer = self.call(data)
            check(status < 300, "the first calls are refused", data[:200], answer)

    def _start(self) -> None:
        async def start() -> None:
            self.service = Service(self._catalogue, await self._catalogue.load(), heartbeat_s=2.0)
            self.admission = Admission(self.service.refused)
            self._app = self.admission.wrap(build_app(self.service, self.admission))

        self._loop.run(start)

    def close(self) -> None:
        """Look whether the tracker can be started from its database; end it."""
        self.look()
        self._start()
        self.look()
        self._loop.run(lambda: trio.to_thread.run_sync(self._catalogue.close))

    def look(self) -> None:
        """Have everything saved that is to be saved, and look at all that the tracker shows of itself."""
        self._loop.run(self.service.flush)
        for path in ("status", "fills", "nodes", "titles", "nights", "lint", "origins", "policy/versions", "audit"):
            status, answer = self.call(f"GET /v1/{path}\n".encode())
            check(status == 200, "the tracker cannot be looked at any more", path, answer[:500])

    def call(self, data: bytes) -> tuple[int, bytes]:
        """Make one call; return its status and what was answered. What does not hold of the answer is raised."""
        line, _, body = data.partition(b"\n")
        method, target, host = [*line.decode("latin-1").split(" ", 2), "", ""][:3]
        self.calls += 1
        return self._loop.run(lambda: self._call(method, target, host, body))

    async def _call(self, method: str, target: str, host: str, body: bytes) -> tuple[int, bytes]:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote(path),
            "raw_path": path.encode("latin-1"),
            "query_string": query.encode("latin-1"),
            "root_path": "",
            "headers": [(b"host", host.encode("latin-1")), (b"content-length", b"%d" % len(body))],
            "client": CALLER,
            "server": ("127.0.0.1", 7070),
            "state": {},
        }
        half = len(body) // 2
        coming = [
            {"type": "http.request", "body": body[:half], "more_body": True},
            {"type": "http.request", "body": body[half:], "more_body": False},
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return coming.pop(0) if coming else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        answer = b"".join(message.get("body", b"") for message in sent[1:])
        self._check(sent[0]["status"], answer)
        return sent[0]["status"], answer

    def _check(self, status: int, answer: bytes) -> None:
        check(200 <= status < 300 or 400 <= status < 500, "an answer that is none of ours", status, answer[:500])
        check(len(answer) <= ANSWER_BYTES_MAX, "an answer without an end", len(answer))
        if status >= 400:
            told = msgspec.json.decode(answer, type=records.ErrorReply).error
            check(len(told) < 20_000, "an error without an end", len(told))
        held = self.admission
        check(not held._bodies.taken and not held._polls.taken and not held._waiting, "a share is not given back")


def _call(method: str, path: str, body: object = None) -> bytes:
    said = b"" if body is None else body if isinstance(body, bytes) else msgspec.json.encode(body)
    return f"{method} {path}\n".encode() + said


def _heartbeat(info: NodeInfo, sequence: int = 1, *titles: TitleReport) -> NodeReport:
    return NodeReport(info, "boot", sequence, list(titles))


def _titles() -> Iterator[TitleReport]:
    yield TitleReport(TITLE, "live", 4, 4, 4 * 65536, 4 * 65536)
    yield TitleReport(
        TITLE,
        "filling",
        4,
        2,
        escalations={"no peer": 2},
        waits={"window": 1},
        started_at=1e9,
        error="slow",
        sources=[
            SourceReport("b1", "regional", 5, 1.5),
            SourceReport("http://origin.example/", "origin", state="failing"),
        ],
    )


def _first_calls() -> Iterator[bytes]:
    yield _call("PUT", f"/v1/titles/{TITLE}", FILM.encode())
    for info in NODES:
        yield _call("POST", f"/v1/nodes/{info.id}/heartbeat", _heartbeat(info))
    yield _call("POST", "/v1/fills", records.FillRequest(TITLE, "all", ["http://origin.example/"]))
    yield _call("POST", "/v1/policy", records.PolicyRequest(POLICY, "first", "anna"))


def _call_seeds() -> Iterator[bytes]:
    yield from _first_calls()
    live, filling = _titles()
    yield _call("POST", "/v1/nodes/a1/heartbeat", _heartbeat(NODES[0], 2, live))
    yield _call("POST", "/v1/nodes/b1/heartbeat", _heartbeat(NODES[1], 2, filling))
    yield _call(
        "POST",
        "/v1/fills?nodes_min=1",
        records.FillRequest(
            TITLE,
            "isp=isp-a+region=eu,node=b1",
            [],
            9,
            FillPolicy(),
            2e9,
            ("a.*",),
            now=True,
            call_id="x",
        ),
    )
    yield _call("POST", "/v1/limits?nodes_min=0", records.LimitRecord("all", RateLimits(Rates(1000), Rates(total=5))))
    yield _call("POST", f"/v1/titles/{TITLE}/pin", records.PinRequest("all"))
    yield _call("POST", f"/v1/titles/{TITLE}/scrubs", records.ScrubRequest("all"))
    yield _call("POST", "/v1/evictions", records.EvictRequest("all", 1 << 30, dry_run=True))
    yield _call("POST", "/v1/policy?dry_run=1", records.PolicyRequest(POLICY, base=1))
    brought = [BroughtOrder(TITLE, ["http://origin.example/"], 1, FillPolicy(), number=3, files=b"\1")]
    yield _call("POST", "/v1/nodes/a1/brought", BroughtOrders(brought))
    yield _call("POST", f"/v1/titles/{TITLE}/withdraw?urgent=1")
    yield _call("PUT", f"/v1/titles/{TITLE}?signatures=AAAA", FILM.encode())
    names = {
        "title": TITLE,
        "node": "a1",
        "fill": "f",
        "scrub": "1",
        "eviction": "1",
        "night": "2026-01-01",
        "policy": "1",
        "receiver": "a1",
        "source": "b1",
    }
    for one in openapi.OPERATIONS:
        query = "&".join(f"{name}=1" for name in one.query)
        yield _call(one.method, one.path.format(**names) + (f"?{query}" if query else ""), {} if one.request else None)
    yield _call("GET", "/v1/nothing t.example:80")
    yield _call("GET", "/v1/nodes/a1/orders?since=&pins=x&settings=y&wait_s=1")
    yield _call("GET", f"/v1/nodes/a1/orders?title={TITLE}")


def _words() -> tuple[str, ...]:
    """Return the names of all fields of what is sent, and what they hold."""
    said: set[str] = {TITLE, "all", "isp=isp-a", "a1", "live", "filling", "http://origin.example/", "1e999"}
    for kind in (
        NodeReport,
        records.FillRequest,
        records.PolicyRequest,
        BroughtOrder,
        TitleReport,
        SourceReport,
        NodeInfo,
    ):
        said.update(kind.__struct_fields__)
    return tuple(sorted(said))


class Calls:
    """Runs inputs as calls, once `to_call` has made one of each, on one tracker after the other."""

    def __init__(self, directory: Path, to_call: Callable[[bytes], bytes]) -> None:
        self._loop = Loop()
        self._directory = directory / "world"
        self._to_call = to_call
        self._world = World(self._loop, self._directory)

    def __call__(self, data: bytes) -> bool:
        """Make one call."""
        if self._world.calls >= STATE_CALLS:
            self._world.close()
            self._world = World(self._loop, self._directory)
        status, _ = self._world.call(self._to_call(data))
        if self._world.calls % LOOK_EVERY == 0:
            self._world.look()
        return status < 300

    def close(self) -> None:
        """End the tracker."""
        self._world.close()
        self._loop.close()


def open_api(directory: Path) -> Run:
    """Whatever is called is answered, with a status of 200 to 299 or 400 to 499 and an error in JSON; each share that
    a call takes is given back. Whatever calls have left behind, the tracker can be looked at and saved, and starts
    anew.

    An input is a line, `METHOD PATH?QUERY HOST`, and the body behind it.
    """
    return Calls(directory, bytes)


def open_heartbeats(directory: Path) -> Run:
    """The same for heartbeats, each of the cache that its body names."""

    def to_call(data: bytes) -> bytes:
        name = "a1"
        try:
            found = msgspec.json.decode(data)["info"]["id"]
            name = found if isinstance(found, str) else name
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
            pass
        return f"POST /v1/nodes/{quote(name, errors='replace')[:300]}/heartbeat\n".encode() + data

    return Calls(directory, to_call)


def _heartbeat_seeds() -> Iterator[bytes]:
    live, filling = _titles()
    for sequence, titles in enumerate(([], [live], [filling], [live, filling]), 2):
        yield msgspec.json.encode(_heartbeat(NODES[0], sequence, *titles))
        yield msgspec.json.encode(msgspec.structs.replace(_heartbeat(NODES[1], sequence, *titles), since=1, more=True))
    full = msgspec.json.encode(
        {
            "info": {**msgspec.to_builtins(NODES[0]), "latitude": 52.5, "longitude": 13.4},
            "boot": "boot",
            "sequence": 9,
            "titles": [],
            "upload_active": 1,
            "upload_queued": 2,
            "upload_bytes": 3,
            "since": 8,
            "gone": [TITLE],
            "loop_lag": {"last_us": 1},
            "usage": {"processor_s": 1.5},
            "unreached": "no way",
            "rates": {"inbound": {"total": 5}},
            "disk": {"size_bytes": 9, "free_bytes": 1, "free_bytes_min": 2},
            "serving": {"busy": 0.5, "why": "viewers"},
            "scrubs": [{"number": 1, "title": TITLE, "state": "whole"}],
            "moves": {"in_bytes_s": 7},
            "evictions": [{"number": 1, "state": "done", "titles": [{"title": TITLE, "goes": True}]}],
            "origins": [{"id": "http://origin.example/", "requests": 3, "bytes_kept": 9}],
            "allowances": [{"budget": "cloud", "terms": "x", "amount": 5}],
            "hours": {"phase": "soon", "until": 1e9, "night": "2026-01-01", "used_bytes": 5},
        }
    )
    yield full


KINDS: Final = ("orders", "order", "nodes", "status", "titles", "health", "revocations", "refusal")
"""Calls whose answer an input is, by its first byte: `0` is the first of them."""


class _Canned(TrackerClient):
    """A client that is answered with what it was given."""

    answer = b""

    async def _fetch(self, *_: Any, **__: Any) -> bytes:
        return self.answer


class Answers:
    """Runs inputs as answers."""

    def __init__(self) -> None:
        self._loop = Loop()
        self._client = client = self._loop.run(self._make)
        self._asks: dict[str, Callable[[], Awaitable[Any]]] = {
            "orders": lambda: client.orders("a1"),
            "order": lambda: client.order("a1", TITLE),
            "nodes": client.nodes,
            "status": client.status,
            "titles": client.titles,
            "health": client.health,
            "revocations": client.revocations,
            "refusal": self._refuse,
        }

    async def _make(self) -> _Canned:
        return _Canned("http://127.0.0.1:7070")

    async def _refuse(self) -> None:
        raise _refusal(self._client.answer, 500, self._client.url)

    def __call__(self, data: bytes) -> bool:
        """Ask for what the first byte says, and be answered with the lines behind it."""
        kind = KINDS[(data[0] if data else 0) % len(KINDS)]
        self._client.answer = data.partition(b"\n")[2]
        try:
            found = self._loop.run(self._asks[kind])
        except TrackerError:
            return False
        if type(found) is Orders:
            check(msgspec.json.decode(msgspec.json.encode(found), type=Orders) == found, "other orders", found)
        return True

    def close(self) -> None:
        """End the loop."""
        self._loop.close()


def open_tracker_answers(_: Path) -> Run:
    """What answers in a tracker's place is read as what was asked for, or `TrackerError`. Orders that can be read are
    written and read again as the same, whatever stands beside them.
    """
    return Answers()


def _answer_seeds() -> Iterator[bytes]:
    order = Order("f", TITLE, ["http://origin.example/"], 3, FillPolicy(), [])
    settings = b'"settings":{"rule":"r","windows":"02:00,off"}'
    said = msgspec.json.encode(Orders(3, [order], withdrawn=[TITLE], cursor="c", database="d", number=7))
    yield b"0\n" + said
    yield b"0\n" + said[:-1] + b"," + settings + b"}"
    yield b"0\n" + b'{"version":3,"orders":[{"fill_id":1},' + msgspec.json.encode(order) + b",7]}"
    yield b"1\n" + msgspec.json.encode(order)
    yield b"5\n" + msgspec.json.encode(records.Health("ok", "0"))
    yield b"7\n" + msgspec.json.encode(records.ErrorReply("no"))
    for kind in b"0123456789":
        yield bytes([kind]) + b"\n" + NESTED


CODE: Final = tuple(
    f"p2pfill.{name}"
    for name in (
        "tracker.api",
        "tracker.checks",
        "tracker.service",
        "tracker.names",
        "tracker.recall",
        "model.selector",
    )
)
"""What judges what callers say. Of the rest inputs reach nearly all at once, and it would cost each of them time."""


TARGETS: Final = (
    Target(
        "api",
        open_api,
        _call_seeds,
        runs=1_000_000,
        size_max=8 * KIB,
        form="call",
        words=_words(),
        per_state=STATE_CALLS,
        code=CODE,
    ),
    Target(
        "heartbeats",
        open_heartbeats,
        _heartbeat_seeds,
        size_max=8 * KIB,
        form="json",
        words=_words(),
        per_state=STATE_CALLS,
        code=CODE,
    ),
    Target(
        "tracker-answers",
        open_tracker_answers,
        _answer_seeds,
        size_max=8 * KIB,
        form="call",
        words=_words(),
        code=("p2pfill.model",),
    ),
)
