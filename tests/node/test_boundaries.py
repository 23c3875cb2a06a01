"""What one title, origin, link, data stream, stored title, order or call raises ends there, with a reason to be seen.

Each test walks one place through faults of every kind, injected into a real collaborator of a running node. Beside the
unit that fails another title must complete, and the node's report must be one that a tracker takes.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import trio
from obstore import exceptions as obstore_errors

from p2pfill.engine import dialler as dialler_module
from p2pfill.engine import link as link_module
from p2pfill.engine import task as task_module
from p2pfill.engine.engine import Engine
from p2pfill.engine.link import Link
from p2pfill.engine.task import FillTask
from p2pfill.errors import InternalError, P2PFillError, StoreError, leaves_of
from p2pfill.model.bitmap import Bitmap
from p2pfill.model.ids import title_id_from_hex
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import SourceReport, TitleReport
from p2pfill.node import Node, NodeConfig, agent, cached, open_node
from p2pfill.node import links as links_module
from p2pfill.node import node as node_module
from p2pfill.node import origins as origins_module
from p2pfill.node import titles as titles_module
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.cached import CachedTitles
from p2pfill.node.fill import FillDriver
from p2pfill.node.links import Links, LinkSockets
from p2pfill.origin.reader import OriginReader
from p2pfill.protocol.link import ControlLink
from p2pfill.protocol.messages import Goodbye, GoodbyeCode
from p2pfill.store.publish import publish
from p2pfill.store.store import Store
from p2pfill.store.title import StoredTitle
from p2pfill.swarm import events
from p2pfill.swarm.fill import Fill
from p2pfill.tracker.checks import check_report
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker
from p2pfill.tracker.service import Service
from p2pfill.transport.control import ControlChannel
from p2pfill.transport.data import Receiver, Sender

LIMIT_S = 60.0
PANIC = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
"""What PyO3 raises where a library in Rust panics; its own class can be imported from nowhere."""

FAULTS: list[BaseException] = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    ValueError("odd value"),
    KeyError("odd key"),
    RuntimeError("can't start new thread"),
    MemoryError("no memory"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd byte"),
    InternalError("an invariant is broken"),
    msgspec.ValidationError("Expected `int`, got `str`"),
    obstore_errors.GenericError("odd answer"),
    obstore_errors.JoinError("odd join"),
    ExceptionGroup("several", [obstore_errors.GenericError("first of them"), KeyError("second of them")]),
    BaseExceptionGroup("several", [PANIC("odd panic"), OSError(errno.EIO, "Input/output error")]),
    PANIC("odd panic"),
]


class Title(NamedTuple):
    manifest: Manifest
    root: str


@pytest.fixture(scope="module")
def titles(tmp_path_factory: pytest.TempPathFactory) -> list[Title]:
    """Two for each fault: one that meets it and one that must not notice."""
    made = []
    for number in range(2 * len(FAULTS)):
        root = tmp_path_factory.mktemp("tree")
        (root / "a.bin").write_bytes(os.urandom(150_000))
        made.append(Title(publish(root, name=f"t{number}", chunk_size=65536).manifest, str(root)))
    return made


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_module, "COMMIT_INTERVAL_S", 0.02)
    monkeypatch.setattr(task_module, "DISCOVERY_TIMEOUT_S", 0.2)
    monkeypatch.setattr(dialler_module, "REDIAL_S", 0.05)
    monkeypatch.setattr(dialler_module, "REDIAL_MAX_S", 0.1)
    monkeypatch.setattr(agent, "RETRY_S", 0.02)


@asynccontextmanager
async def node_at(place: Path, name: str = "a1", tracker: str = "", **settings: Any) -> AsyncIterator[Node]:
    with trio.fail_after(LIMIT_S):
        async with open_node(NodeConfig(id=name, isp="a", data=str(place / name), tracker=tracker, **settings)) as node:
            yield node


def text_of(fault: BaseException) -> str:
    """What must be seen of a fault."""
    leaf = leaves_of(fault)[0]
    return str(leaf) if isinstance(leaf, P2PFillError) else type(leaf).__name__


def is_told(fault: BaseException, text: str) -> bool:
    leaf = leaves_of(fault)[0]
    return text_of(fault) in text or str(getattr(leaf, "strerror", leaf)) in text


async def until(said: Callable[[], Any]) -> Any:
    while not (value := said()):
        await trio.sleep(0.01)
    return value


async def still_runs(node: Node, title: Title) -> None:
    with trio.fail_after(20):
        filling = await node.start_fill(title.manifest, [title.root])
        await filling.wait()
    assert filling.report().state == "live"
    check_report(node.info.id, node.report())


def pairs(titles: list[Title]) -> Iterator[tuple[BaseException, Title, Title]]:
    for number, fault in enumerate(FAULTS):
        yield fault, titles[2 * number], titles[2 * number + 1]


def inject(
    patched: pytest.MonkeyPatch, kind: Any, name: str, fault: BaseException, meant: Callable[[Any], bool]
) -> None:
    """Have a method raise, or a coroutine, on the objects that are meant."""
    real = getattr(kind, name)

    def method(self: Any, *arguments: Any, **named: Any) -> Any:
        if meant(self):
            raise fault
        return real(self, *arguments, **named)

    patched.setattr(kind, name, method)
    for message, take in link_module._TAKES.items():
        if take is real:
            patched.setitem(link_module._TAKES, message, method)


# ---- the boundary itself


def seen_by(fault: BaseException, caplog: pytest.LogCaptureFixture) -> P2PFillError:
    seen: list[P2PFillError] = []
    before = len(caplog.records)
    with ErrorBoundary(logging.getLogger("p2pfill.test"), "do it", seen.append):
        raise fault
    (error,) = seen
    assert len(caplog.records) == before + 1, "logged once"
    return error


@pytest.mark.parametrize("fault", FAULTS, ids=repr)
def test_a_fault_ends_in_its_boundary_with_one_traceback(
    fault: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    error = seen_by(fault, caplog)
    assert text_of(fault) in str(error)
    record = caplog.records[-1]
    assert record.levelno == logging.ERROR
    assert record.exc_info
    assert isinstance(error, InternalError)


def test_what_is_foreseen_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    fault = StoreError("the disk is full")
    assert seen_by(ExceptionGroup("one", [fault]), caplog) is fault
    record = caplog.records[-1]
    assert (record.levelno, record.exc_info) == (logging.WARNING, None)
    assert record.getMessage() == "cannot do it: the disk is full"


def test_the_reason_fits_a_report(caplog: pytest.LogCaptureFixture) -> None:
    assert len(str(seen_by(ValueError("\udcff" * 10_000), caplog))) < 2000
    str(seen_by(ValueError("\udcff"), caplog)).encode()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_demand_to_end_goes_on(kind: type[BaseException]) -> None:
    bounds = ErrorBoundary(logging.getLogger("p2pfill.test"), "do it")
    with pytest.raises(kind), bounds:
        raise kind
    seen: list[P2PFillError] = []
    bounds = ErrorBoundary(logging.getLogger("p2pfill.test"), "do it", seen.append)
    with pytest.raises(BaseExceptionGroup) as raised, bounds:
        raise BaseExceptionGroup("both", [kind(), BaseExceptionGroup("in", [KeyError("x"), kind()])])
    assert [type(leaf) for leaf in leaves_of(raised.value)] == [kind, kind]
    assert len(seen) == 1


def test_a_callback_that_raises_does_not_matter(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: P2PFillError) -> None:
        raise KeyError("second")

    with ErrorBoundary(logging.getLogger("p2pfill.test"), "do it", fail):
        raise ValueError("first")
    assert "first" in caplog.text
    assert "second" in caplog.text


async def test_a_cancel_beside_a_fault_reaches_its_scope() -> None:
    """Trio raises both in one group: the fault ends, the cancel goes on to where it belongs and no further."""
    seen: list[P2PFillError] = []
    passed: list[type[BaseException]] = []

    async def fail_at_end() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError(errno.EIO, "Input/output error")

    with trio.CancelScope() as scope:
        async with ErrorBoundary(logging.getLogger("p2pfill.test"), "do it", seen.append):
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail_at_end)
                    nursery.start_soon(trio.sleep_forever)
                    await trio.sleep(0.01)
                    scope.cancel()
            except BaseException as error:
                passed += [type(leaf) for leaf in leaves_of(error)]
                raise
        pytest.fail("the cancel must go on")
    assert scope.cancelled_caught
    assert passed.count(OSError) == 1
    assert trio.Cancelled in passed
    assert len(seen) == 1
    await trio.lowlevel.checkpoint()


# ---- titles

TITLE_PLACES = [
    (StoredTitle, "write_chunk"),
    (StoredTitle, "commit"),
    (StoredTitle, "go_live"),
    (Fill, "handle"),
    (Fill, "poll_actions"),
    (Fill, "next_wakeup"),
    (Fill, "is_outstanding"),
    (FillTask, "next_wakeup"),
    (FillTask, "next_slots"),
    (FillTask, "take_news"),
    (FillTask, "take_commit"),
    (FillTask, "committed"),
    (FillDriver, "perform"),
    (FillDriver, "_read"),
    (FillDriver, "_commit"),
    (FillDriver, "_go_live"),
]


@pytest.mark.parametrize(("kind", "name"), TITLE_PLACES, ids=lambda one: getattr(one, "__name__", one))
async def test_a_title_fails_alone_and_is_tried_again(
    kind: Any, name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_at(tmp_path) as node:
        for fault, bad, good in pairs(titles):
            with monkeypatch.context() as patched:
                inject(patched, kind, name, fault, lambda one, bad=bad: one.manifest.title_id == bad.manifest.title_id)
                filling = await node.start_fill(bad.manifest, [bad.root])
                await still_runs(node, good)
                await filling.done.wait()
                report = filling.report()
                assert report.state == "failed"
                assert text_of(fault) in report.error
                with pytest.raises(P2PFillError):
                    await filling.wait()
            await still_runs(node, bad)


async def test_a_fill_can_do_without_an_early_write(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(task_module, "WRITE_OUT_BYTES", 1)
    async with node_at(tmp_path) as node:
        for fault, first, second in pairs(titles):
            caplog.clear()
            with monkeypatch.context() as patched:
                inject(patched, StoredTitle, "begin_write_out", fault, lambda _: True)
                await still_runs(node, first)
                await still_runs(node, second)
            assert text_of(fault) in caplog.text


async def test_a_title_that_cannot_even_be_told_is_one_of_many(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_at(tmp_path) as node:
        for fault, bad, good in pairs(titles):
            with monkeypatch.context() as patched:
                wanted = bad.manifest.title_id
                inject(patched, Fill, "waits", fault, lambda one, wanted=wanted: one.manifest.title_id == wanted)
                await node.start_fill(bad.manifest, [str(tmp_path)])
                await still_runs(node, good)
                report = next(one for one in node.report().titles if one.title == bad.manifest.title_id.hex())
                assert report.state == "failed"
                assert text_of(fault) in report.error


async def test_a_long_reason_does_not_spoil_the_heartbeat(titles: list[Title], tmp_path: Path) -> None:
    """Each origin is as long as one can be ordered; the reason names it and the file."""
    bad, good = titles[:2]
    origin = "/" + "a" * 2047
    async with node_at(tmp_path) as node:
        filling = await node.start_fill(bad.manifest, [origin])
        await until(lambda: filling.report().sources[0].reason)
        filling.fail(StoreError("\udcff" * 5000))
        filling.set_origins([f"http://127.0.0.1/{number}" for number in range(2000)])
        await still_runs(node, good)
        filling.report().error.encode()


async def test_a_title_that_is_tried_again_in_vain_is_told_once(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice in one heartbeat, and the tracker would refuse all of it."""
    bad, good = titles[:2]
    async with node_at(tmp_path) as node:
        filling = await node.start_fill(bad.manifest, [str(tmp_path)])
        filling.fail(StoreError("first"))
        with monkeypatch.context() as patched:
            inject(patched, Store, "begin_fill", StoreError("second"), lambda _: True)
            with pytest.raises(StoreError):
                await node.start_fill(bad.manifest, [bad.root])
        await still_runs(node, good)
        reports = {one.title: one for one in node.report().titles}
        assert reports[bad.manifest.title_id.hex()].error == "second"
        await still_runs(node, bad)


# ---- origins


def source_of(filling: FillDriver, name: str) -> SourceReport | None:
    found = [one for one in filling.report().sources if one.id == name and one.reason]
    return found[0] if found else None


ORIGIN_PLACES = ["open_origin", "verify_chunk", "read_chunk", "close"]


@pytest.mark.parametrize("name", ORIGIN_PLACES)
async def test_an_origin_fails_alone(
    name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_at(tmp_path) as node:
        for fault, bad, good in pairs(titles):
            spoilt = f"{bad.root}/"  # the same directory under another name
            with monkeypatch.context() as patched:
                if name in ("open_origin", "verify_chunk"):
                    real = getattr(origins_module, name)

                    def fail(
                        url: str, *more: Any, real: Any = real, bad: str = spoilt, fault: Any = fault, **named: Any
                    ) -> Any:
                        if url == bad:
                            raise fault
                        return real(url, *more, **named)

                    patched.setattr(origins_module, name, fail)
                else:
                    inject(patched, OriginReader, name, fault, lambda one, bad=bad: one.url == bad.root)
                filling = await node.start_fill(bad.manifest, [spoilt])
                await still_runs(node, good)
                if name != "close":
                    source = await until(lambda f=filling, s=spoilt: source_of(f, s))
                    assert text_of(fault) in source.reason
                    assert filling.state == "filling"
            if name != "close":
                filling.set_origins([good.root, bad.root])
            await filling.wait()


# ---- links and streams

RECEIVING = [
    (Link, "_take_holdings"),
    (Link, "request"),
    (Link, "reap"),
    (Link, "_streams_wanted"),
    (Links, "open_stream"),
    (Links, "_receive_stream"),
    (Links, "_receive"),
    (LinkSockets, "receiving"),
    (Receiver, "work"),
    (Receiver, "interest"),
    (StoredTitle, "check_blake3"),
    (ControlChannel, "next_request_id"),
    (ControlChannel, "finish_request"),
]
SENDING = [
    (Links, "_take_upload"),
    (Links, "wake_uploads"),
    (Links, "_send_stream"),
    (Links, "_sent"),
    (Link, "sent"),
    (Link, "_take_subscribe"),
    (Link, "_take_request"),
    (Link, "_take_stream_open"),
    (Sender, "work"),
    (Sender, "interest"),
]


@pytest.mark.parametrize(
    ("kind", "name", "is_sender"),
    [(*place, False) for place in RECEIVING] + [(*place, True) for place in SENDING],
    ids=lambda one: getattr(one, "__name__", str(one)),
)
async def test_a_link_or_a_stream_fails_alone(
    kind: Any,
    name: str,
    is_sender: bool,
    titles: list[Title],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    # Every second, which ones by turns: two nodes for each take their time.
    for fault, bad, good in list(pairs(titles))[len(name) % 2 :: 2]:
        place = tmp_path / str(FAULTS.index(fault))
        async with node_at(place, "a1") as node, node_at(place, "a2") as other:
            await still_runs(other, bad)
            caplog.clear()
            with monkeypatch.context() as patched:
                side = other if is_sender else node

                def meant(one: Any, side: Node = side) -> bool:
                    if isinstance(one, LinkSockets):
                        one = one.link
                    own: dict[type, Callable[[], bool]] = {
                        Link: lambda: one._host is side.engine,
                        Links: lambda: one is side.links,
                        ControlChannel: lambda: one._link.hello.node_id == side.info.id,
                    }
                    return own.get(type(one), lambda: True)()

                inject(patched, kind, name, fault, meant)
                filling = await node.start_fill(bad.manifest, [], members=[node.info], holders=[other.info])
                node.want_links([other.info])
                if name in ("_take_holdings", "_take_subscribe"):
                    # It was no source of the title yet.
                    await until(lambda f=fault: is_told(f, caplog.text))
                else:
                    await until(lambda f=filling: source_of(f, "a2") or f.done.is_set())
                    source = source_of(filling, "a2")
                    if filling.state == "failed":  # what a disk answers is the title's
                        assert is_told(fault, filling.error)
                    elif source is not None:
                        assert source.state != "ok"
                        assert is_told(fault, caplog.text if is_sender else source.reason), source.reason
                await still_runs(node, good)
                check_report("a2", other.report())
            filling.set_origins([bad.root])
            await still_runs(node, bad)
            await still_runs(other, good)


CONNECTING = [
    (links_module, "connect"),
    (links_module, "tune"),
    (Links, "dial"),
    (Links, "_run_link"),
    (Link, "subscribe"),
]


@pytest.mark.parametrize(("kind", "name"), CONNECTING, ids=lambda one: getattr(one, "__name__", one))
async def test_a_connection_that_fails_is_the_only_one(
    kind: Any, name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dialling and being dialled: the other cache is linked with as soon as it can be."""
    async with node_at(tmp_path, "a1") as node, node_at(tmp_path, "a2") as other:
        for fault, bad, good in pairs(titles):
            # A title that is wanted of whoever is linked with.
            waiting = await node.start_fill(bad.manifest, [])
            with monkeypatch.context() as patched:
                inject(patched, kind, name, fault, lambda _: True)
                node.want_links([other.info])
                await trio.sleep(0.1)
                await still_runs(node, good)
                await still_runs(other, good)
                link = node.engine.links.get("a2")
                assert link is None or link.fault
            node.want_links([other.info])
            await until(lambda: node.engine.links.get("a2") is not None and other.engine.links.get("a1") is not None)
            for link in list(node.engine.links.values()):
                node.engine.fail_link(link, InternalError("the next one"))
            node.want_links([])
            waiting.withdraw()
            await until(lambda: not list(node.engine.links.values()) and not list(other.engine.links.values()))


async def test_a_send_that_the_rules_forbid_ends_its_link_only(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sends: the fill's task as much as the link's own."""
    async with node_at(tmp_path, "a1") as node, node_at(tmp_path, "a2") as other:
        for fault, bad, good in pairs(titles):
            node.want_links([other.info])
            await until(lambda: node.engine.links.get("a2"))
            with monkeypatch.context() as patched:
                inject(patched, ControlLink, "send", fault, lambda _: True)
                filling = await node.start_fill(bad.manifest, [bad.root])
                await filling.wait()
                await still_runs(node, good)
                await until(lambda: node.engine.links.get("a2") is None)
            node.want_links([])


async def test_a_link_that_fails_while_the_node_stops_keeps_it_from_nothing(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The cancel of the whole node meets the fault in one group; only the fault may end in the boundary."""

    async def keep_alive(self: ControlChannel) -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError(errno.EPIPE, "Broken pipe at the end")

    monkeypatch.setattr(ControlChannel, "_keep_alive", keep_alive)
    async with node_at(tmp_path, "a1") as node, node_at(tmp_path, "a2") as other:
        node.want_links([other.info])
        await still_runs(node, titles[0])
    assert "Broken pipe at the end" in caplog.text


async def test_a_withdrawn_title_that_fails_at_its_end_leaves_the_node_alone(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = FillDriver._give_up_reads

    def give_up(self: FillDriver) -> None:
        real(self)
        if self.title_id == titles[0].manifest.title_id:
            raise OSError(errno.EPIPE, "Broken pipe at the end")

    monkeypatch.setattr(FillDriver, "_give_up_reads", give_up)
    async with node_at(tmp_path, "a1") as node:
        filling = await node.start_fill(titles[0].manifest, [str(tmp_path)])
        await trio.sleep(0.05)
        filling.withdraw()
        await trio.sleep(0.05)
        await still_runs(node, titles[1])
        assert filling.error == "the fill was withdrawn"


def goodbyes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Note who hears which Goodbye."""
    heard: list[tuple[str, int]] = []
    real = ControlLink.handle_bytes

    def handle_bytes(self: ControlLink, data: bytes) -> Iterator[Any]:
        for message in real(self, data):
            if isinstance(message, Goodbye):
                heard.append((self.hello.node_id, message.code))
            yield message

    monkeypatch.setattr(ControlLink, "handle_bytes", handle_bytes)
    return heard


@pytest.mark.parametrize(("kind", "name"), [(Link, "_take_holdings"), (Engine, "handle"), (Links, "_receive_stream")])
async def test_a_link_that_raises_says_goodbye_and_is_dialled_again(
    kind: Any, name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = goodbyes(monkeypatch)
    async with node_at(tmp_path, "a1") as node, node_at(tmp_path, "a2") as other:
        node.want_links([other.info])
        for fault, bad, _ in pairs(titles):
            await still_runs(other, bad)
            # One that has no data stream yet.
            used = await until(lambda: node.engine.links.get("a2"))
            node.engine.fail_link(used, InternalError("the next one"))
            before = await until(lambda u=used: (link := node.engine.links.get("a2")) is not u and link)
            heard.clear()
            with monkeypatch.context() as patched:
                own = node.links if kind is Links else node.engine
                inject(patched, kind, name, fault, lambda one, own=own: own in (one, getattr(one, "_host", None)))
                filling = await node.start_fill(bad.manifest, [])
                await until(lambda h=heard: h)
                assert heard[0] == ("a2", GoodbyeCode.INTERNAL)
                await until(lambda b=before: node.engine.links.get("a2") is not b)
            await filling.wait()
            assert before.is_over
            assert before.fault


@pytest.mark.parametrize("name", ["news", "border_chunks"])
async def test_a_title_that_cannot_say_what_is_news_harms_no_link(
    name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_at(tmp_path, "a1") as node, node_at(tmp_path, "a2") as other:
        node.want_links([other.info])
        link = await until(lambda: node.engine.links.get("a2"))
        for fault, bad, good in pairs(titles):
            with monkeypatch.context() as patched:
                own = bad.manifest.title_id
                inject(
                    patched, Fill, name, fault, lambda one, own=own: one.me.id == "a1" and one.manifest.title_id == own
                )
                members = [node.info, other.info]
                there = await other.start_fill(bad.manifest, [], members=members)
                filling = await node.start_fill(bad.manifest, [], members=members)
                await until(lambda f=filling: f.fill.sources.get("a2"))
                await until(lambda f=there: f.fill.sources.get("a1"))
                other.engine.links["a1"].show_interest(there.task, Bitmap.full(bad.manifest.chunk_count))
                filling.set_origins([bad.root])
                await filling.done.wait()
                assert filling.state == "failed"
                assert text_of(fault) in filling.error
                await still_runs(node, good)
            assert node.engine.links.get("a2") is link
            there.withdraw()


# ---- the engine


async def test_titles_that_fail_as_time_goes_by_fail_together(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine walks its titles while they end."""
    real = Fill.handle
    async with node_at(tmp_path, "a1") as node, node_at(tmp_path, "a2") as other:
        for fault, *both in pairs(titles):
            with monkeypatch.context() as patched:

                def handle(self: Fill, now: float, event: Any, fault: BaseException = fault) -> None:
                    if isinstance(event, events.NeighboursHeard):
                        raise fault
                    real(self, now, event)

                patched.setattr(Fill, "handle", handle)
                fillings = [await node.start_fill(one.manifest, [], holders=[other.info]) for one in both]
                for filling in fillings:
                    await filling.done.wait()
                    assert filling.state == "failed"
                    assert text_of(fault) in filling.error
            for one in both:
                await still_runs(node, one)


@pytest.mark.parametrize("name", ["poll", "next_wakeup", "_advance"])
async def test_an_engine_that_cannot_decide_is_asked_again_after_a_pause(
    name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "FAULT_PAUSE_S", 0.05)
    async with node_at(tmp_path) as node:
        for fault, bad, good in pairs(titles):
            asked: list[bool] = []
            with monkeypatch.context() as patched:
                inject(patched, Engine, name, fault, lambda _, asked=asked: not asked.append(True))
                began = trio.current_time()
                await node.start_fill(bad.manifest, [bad.root])
                for _ in range(100):
                    node.engine._timers_at = -math.inf  # as if one were due: a small fill may be through before
                    node.wake()
                    await trio.sleep(0.001)
                # Once at once, and then once in each pause.
                assert 1 <= len(asked) <= 2 + (trio.current_time() - began) / 0.05
            await still_runs(node, bad)
            await still_runs(node, good)


# ---- stored titles


async def test_a_stored_title_that_cannot_be_opened_says_so_alone(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with node_at(tmp_path) as node:
        for _, bad, good in pairs(titles):
            await still_runs(node, bad)
            await still_runs(node, good)
    by_id = {bad.manifest.title_id: fault for fault, bad, _ in pairs(titles)}
    real = Store.open_title

    def open_title(store: Store, title_id: Any) -> StoredTitle:
        if title_id in by_id:
            raise by_id[title_id]
        return real(store, title_id)

    monkeypatch.setattr(Store, "open_title", open_title)
    async with node_at(tmp_path) as node:
        reports = {one.title: one for one in node.report().titles}
        check_report("a1", node.report())
        for fault, bad, good in pairs(titles):
            assert reports[good.manifest.title_id.hex()].state == "live"
            report = reports[bad.manifest.title_id.hex()]
            assert report.state == "failed"
            assert text_of(fault) in report.error
        monkeypatch.undo()
        await still_runs(node, titles[0])  # an order for it tries again
        title_id = titles[0].manifest.title_id.hex()
        assert next(one for one in node.report().titles if one.title == title_id).state == "live"


def _cut_short(data: Path, title: Title) -> Path:
    """Make a live title look as if its go-live had been cut short."""
    directory = data / "titles" / title.manifest.title_id.hex()
    (directory / "journal").write_bytes(b"")
    return directory


async def test_what_lies_in_the_data_directory_keeps_no_node_from_starting(titles: list[Title], tmp_path: Path) -> None:
    damaged, unshown, good, late, extra = titles[:5]
    data = tmp_path / "a1"
    async with node_at(tmp_path) as node:
        for title in (damaged, unshown, good, late):
            await still_runs(node, title)
    (_cut_short(data, damaged) / "manifest").write_bytes(b"rubbish")
    _cut_short(data, unshown)
    (data / "live" / "t1").unlink()
    (data / "live" / "t1").mkdir()  # somebody's own directory, under the title's name
    _cut_short(data, late)
    (data / "live" / "t3").unlink()
    (data / "filling" / "x.link").mkdir()
    (data / "filling" / "x.gone").write_bytes(b"")
    (data / "titles" / ("ab" * 32)).write_bytes(b"a file where a title should be")
    async with node_at(tmp_path) as node:
        reports = {one.title: one for one in node.report().titles}
        for title, state, word in ((damaged, "failed", "damaged"), (unshown, "waiting", "cannot show")):
            report = reports[title.manifest.title_id.hex()]
            assert report.state == state
            assert word in report.error
        assert reports[good.manifest.title_id.hex()].state == "live"
        assert reports[late.manifest.title_id.hex()].state == "live"
        assert (data / "live" / "t3").is_symlink()
        await still_runs(node, extra)
        (data / "live" / "t1").rmdir()
        await still_runs(node, unshown)
        assert (data / "live" / "t1").is_symlink()


@pytest.mark.parametrize(("kind", "name"), [(StoredTitle, "drop_pages"), (CachedTitles, "_next_at_rest")])
async def test_pages_that_cannot_be_dropped_harm_nothing(
    kind: Any,
    name: str,
    titles: list[Title],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cached, "IDLE_S", 0.0)
    monkeypatch.setattr(cached, "LOOK_S", 0.01)
    async with node_at(tmp_path, drop_pages=True) as node:
        for fault, bad, good in pairs(titles):
            caplog.clear()
            with monkeypatch.context() as patched:
                inject(patched, kind, name, fault, lambda _: True)
                await still_runs(node, bad)
                await until(lambda f=fault: text_of(f) in caplog.text)
            await still_runs(node, good)


# ---- the tracker


@asynccontextmanager
async def with_tracker(tmp_path: Path) -> AsyncIterator[tuple[Node, TrackerClient]]:
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            async with node_at(tmp_path, tracker=url) as node, TrackerClient(url) as client:
                while not await client.nodes():
                    await trio.sleep(0.02)
                yield node, client
            nursery.cancel_scope.cancel()


async def order(client: TrackerClient, title: Title, *origins: str, priority: int = 0) -> None:
    title_id = title.manifest.title_id.hex()
    await client.put_title(title_id, title.manifest.encode())
    await client.post_fill(FillRequest(title_id, "all", list(origins) or [title.root], priority=priority))


async def told(client: TrackerClient, title: Title, state: str) -> TitleReport:
    """Return what the tracker was told of a title, once it is in a state."""
    while True:
        for report in (await client.nodes())[0].titles:
            if report.title == title.manifest.title_id.hex() and report.state == state:
                return report
        await trio.sleep(0.02)


@pytest.mark.parametrize("name", ["heartbeat", "changes"])
async def test_a_call_to_the_tracker_that_fails_is_made_again(
    name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_tracker(tmp_path) as (_, client):
        for fault, title, _ in pairs(titles):
            met: list[bool] = []
            with monkeypatch.context() as patched:
                inject(patched, TrackerClient, name, fault, lambda one, m=met: one is not client and not m.append(True))
                await order(client, title)
                # An answer that is on its way brings the order; what comes after it fails.
                await until(lambda m=met: len(m) > 1)
            await told(client, title, "live")


ORDER_PLACES = [
    (TrackerClient, "manifest"),
    (Store, "begin_fill"),
    (Engine, "begin_fill"),
    (Engine, "set_members"),
    (titles_module, "make_fill"),
    (Node, "start_fill"),
]


def title_of(one: Any) -> Any:
    return getattr(one, "title_id", None) or getattr(getattr(one, "manifest", None), "title_id", one)


@pytest.mark.parametrize(("kind", "name"), ORDER_PLACES, ids=lambda one: getattr(one, "__name__", one))
async def test_an_order_that_fails_keeps_no_other_from_being_taken(
    kind: Any, name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_tracker(tmp_path) as (_, client):
        for fault, bad, good in pairs(titles):
            wanted = bad.manifest.title_id
            with monkeypatch.context() as patched:
                real = getattr(kind, name)

                def fail(
                    self: Any, *more: Any, real: Any = real, wanted: Any = wanted, fault: Any = fault, **named: Any
                ) -> Any:
                    if wanted in [title_of(one) for one in (self, *more)] or wanted.hex() in more:
                        raise fault
                    return real(self, *more, **named)

                patched.setattr(kind, name, fail)
                await order(client, bad)
                await order(client, good)
                await told(client, good, "live")
                report = await told(client, bad, "failed")
                assert text_of(fault) in report.error
            await order(client, bad, priority=1)
            await told(client, bad, "live")


async def test_an_answer_that_cannot_be_read_in_part_is_taken_in_part(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A tracker of another version, or one that is broken; what runs already goes on."""
    running, first, second = titles[:3]
    real = TrackerClient._fetch

    async def fetch(self: TrackerClient, method: str, path: str, **more: Any) -> bytes:
        answer = await real(self, method, path, **more)
        if "/orders" not in path:
            return answer
        decoded = json.loads(answer)
        decoded["orders"] = [one for one in decoded["orders"] if one["title"] != running.manifest.title_id.hex()]
        for spoilt in ({"title": "no title id"}, {"roster": [{"node": 1}]}, {"policy": {"unknown": 1}}):
            decoded["orders"] += [{**one, **spoilt} for one in decoded["orders"][:1]]
        decoded["orders"].reverse()
        return json.dumps(decoded).encode()

    async with with_tracker(tmp_path) as (node, client):
        await order(client, running, str(tmp_path))
        await told(client, running, "filling")
        monkeypatch.setattr(TrackerClient, "_fetch", fetch)
        await order(client, first)
        await order(client, second)
        await told(client, first, "live")
        await told(client, second, "live")
        assert "cannot take an order" in caplog.text
        assert "no title id" in caplog.text
        filling = node.fill_of(running.manifest.title_id)
        assert filling is not None
        assert filling.state == "filling"


@pytest.mark.parametrize("answer", [b"", b"rubbish", b"[]", b'{"version": 1}', b'{"version": 1, "orders": 1}', b"\xff"])
async def test_an_answer_that_cannot_be_read_ends_nothing(
    answer: bytes, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A title whose manifest cannot be read either is tried again with the next answer, as it is when a poll ends.
    monkeypatch.setattr("p2pfill.node.agent.POLL_S", 0.2)
    async with with_tracker(tmp_path) as (_, client):
        asked: list[str] = []
        real = TrackerClient._fetch

        async def fetch(self: TrackerClient, method: str, path: str, **more: Any) -> bytes:
            if self is client:
                return await real(self, method, path, **more)
            asked.append(path)
            await trio.sleep(0.01)
            return answer

        with monkeypatch.context() as patched:
            patched.setattr(TrackerClient, "_fetch", fetch)
            await order(client, titles[0])
            await until(lambda: any("/orders" in one for one in asked) and any("heartbeat" in one for one in asked))
            await trio.sleep(0.1)
        await told(client, titles[0], "live")


@pytest.mark.parametrize("name", ["expire", "flush"])
async def test_the_tracker_outlives_its_own_faults(
    name: str, titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("p2pfill.tracker.server.FLUSH_S", 0.02)
    async with with_tracker(tmp_path) as (_, client):
        for fault, title, _ in pairs(titles):
            if not isinstance(fault, Exception):
                continue  # it uses no library in Rust
            caplog.clear()
            with monkeypatch.context() as patched:
                inject(patched, Service, name, fault, lambda _: True)
                await until(lambda f=fault: text_of(f) in caplog.text)
            await order(client, title)
            await told(client, title, "live")


async def test_an_origin_is_checked_when_it_is_ordered_and_harmless_if_it_was_not(
    titles: list[Title], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good, other = titles[:3]
    async with with_tracker(tmp_path) as (node, client):
        for origin in ("http://127.0.0.300/", "http://u:p@h/", "http://h:99999/", "film"):
            with pytest.raises(TrackerRefused, match="origin") as refused:
                await order(client, bad, origin)
            assert refused.value.status == 400
        # As an order that was stored before there was a check.
        with monkeypatch.context() as patched:
            patched.setattr("p2pfill.tracker.checks.check_origin", lambda url: url)
            await order(client, bad, "http://127.0.0.300/")
        await order(client, good)
        await told(client, good, "live")
        report = await told(client, bad, "filling")
        while not (report.sources and report.sources[0].reason):
            report = await told(client, bad, "filling")
        assert report.sources[0].id == "http://127.0.0.300/"
        assert "no IPv4 address" in report.sources[0].reason
        filling = await node.start_fill(other.manifest, ["http://127.0.0.300/"])
        source = await until(lambda: source_of(filling, "http://127.0.0.300/"))
        assert "no IPv4 address" in source.reason
        # A second order brings an origin that can be used.
        await order(client, bad)
        await told(client, bad, "live")
    assert title_id_from_hex(bad.manifest.title_id.hex()) == bad.manifest.title_id
