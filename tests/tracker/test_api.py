"""The tracker over real HTTP on the loopback."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trio

from p2pfill.errors import ConfigError
from p2pfill.model.reports import LoopLag, SourceReport, TitleReport
from p2pfill.tracker import openapi, views
from p2pfill.tracker.api import Api
from p2pfill.tracker.client import TrackerClient, TrackerRefused, TrackerUnreachable
from p2pfill.tracker.records import EvictRequest, FillRequest, PolicyRequest
from p2pfill.tracker.server import parse_listen, serve_tracker

DUE = b'{"title": "' + b"0" * 64 + b'", "selector": "all", "origins": [], "deadline": %s}'


async def publish(client: TrackerClient, make: Any, name: str = "film") -> str:
    manifest = make.manifest(name)
    title: str = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    return title


async def test_a_title_is_published_once_and_comes_back_whole(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    await publish(client, make)
    (record,) = await client.titles()
    assert (record.title, record.name, record.chunk_count) == (title, "film", 4)
    assert await client.manifest(title) == make.manifest().encode()
    with pytest.raises(TrackerRefused, match="title id is") as refused:
        await client.put_title("0" * 64, make.manifest("other").encode())
    assert refused.value.status == 400
    with pytest.raises(TrackerRefused, match="manifest cannot be used"):
        await client.put_title(title, b"rubbish")
    with pytest.raises(TrackerRefused, match="not in the catalogue"):
        await client.manifest("0" * 64)


async def test_a_fault_of_the_tracker_is_logged_and_ends_one_call_only(
    client: TrackerClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(views, "status", fail)
        with pytest.raises(TrackerRefused) as refused:
            await client.status()
    assert refused.value.status == 500
    assert "a fault of ours" in caplog.text
    assert (await client.status()).nodes == []


async def test_orders_reach_matching_nodes_and_those_that_join_later(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    await client.heartbeat(make.report(make.info("n1")))
    await client.heartbeat(make.report(make.info("x1", isp="isp-b")))
    created = await client.post_fill(FillRequest(title, "isp=isp-a", ["http://origin/"], priority=3))
    assert created.nodes == ["n1"]
    assert (await client.post_fill(FillRequest(title, "isp=isp-a", ["http://origin/"], priority=3))) == created
    first = await client.orders("n1")
    (order,) = first.orders
    assert (order.title, order.origins, order.priority, order.roster) == (title, ["http://origin/"], 3, [])
    assert (await client.orders("x1")).orders == []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.heartbeat, make.report(make.info("n2")))
        second = await client.orders("n1", after=first.version, wait_s=5)
    assert second.version > first.version
    (entry,) = second.orders[0].roster
    assert (entry.node.id, entry.filling, entry.have_chunks) == ("n2", True, 0)
    assert (await client.orders("n2")).orders[0].roster[0].node.id == "n1"

    await client.delete_fill(created.fill_id)
    assert (await client.orders("n1", after=second.version, wait_s=5)).orders == []
    with pytest.raises(TrackerRefused):
        await client.fill(created.fill_id)


async def test_orders_come_by_priority_then_deadline_then_age(client: TrackerClient, make: Any) -> None:
    titles = {name: await publish(client, make, name) for name in ("old", "new", "soon", "later", "first")}
    await client.heartbeat(make.report(make.info("n1")))
    deadlines = {"soon": 2e9, "later": 3e9}
    for name, title in titles.items():
        priority = 1 if name == "first" else 0
        await client.post_fill(FillRequest(title, "all", [], priority=priority, deadline=deadlines.get(name)))
    found = await client.orders("n1")
    names = {title: name for name, title in titles.items()}
    assert [names[order.title] for order in found.orders] == ["first", "soon", "later", "old", "new"]
    assert [order.deadline for order in found.orders] == [None, 2e9, 3e9, None, None]
    assert [order.urgency for order in found.orders] == sorted(order.urgency for order in found.orders)
    # Another order of a title that is ordered already: the more urgent one counts, and nodes hear of it.
    await client.post_fill(FillRequest(titles["new"], "all", [], priority=2))
    again = await client.orders("n1", after=found.version, wait_s=5)
    assert names[again.orders[0].title] == "new"
    assert len(again.orders) == 5


async def test_what_becomes_of_a_deadline_is_shown(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    now = time.time()

    async def outlook(deadline: float | None, *titles: TitleReport) -> str:
        made = await client.post_fill(FillRequest(title, "all", [], deadline=deadline))
        nonlocal sequence
        for number, report in enumerate(titles):
            sequence += 1
            await client.heartbeat(make.report(make.info(f"n{number}"), sequence, report))
        found = (await client.fill(made.fill_id)).outlook
        await client.delete_fill(made.fill_id)
        return found

    def filling(rate_bytes_s: float) -> TitleReport:
        return TitleReport(title, "filling", 4, 1, have_bytes=100, title_bytes=1100, rate_bytes_s=rate_bytes_s)

    def live(at: float) -> TitleReport:
        return TitleReport(title, "live", 4, 4, have_bytes=1100, title_bytes=1100, finished_at=at)

    sequence = 0
    assert await outlook(None, filling(1.0)) == ""
    assert await outlook(now + 100, filling(0.0)) == "due"
    assert await outlook(now + 100, filling(50.0)) == "due"
    assert await outlook(now + 100, filling(50.0), filling(5.0)) == "late"
    assert await outlook(now + 100, live(now), filling(500.0)) == "due"
    assert await outlook(now + 100, live(now), live(now + 99)) == "kept"
    assert await outlook(now - 100, live(now - 101), filling(500.0)) == "missed"
    assert await outlook(now - 100, live(now - 101), live(now - 99)) == "missed"
    assert await outlook(now - 100, live(now - 101), live(now - 101)) == "kept"


async def test_a_long_poll_without_news_ends_in_time(client: TrackerClient, make: Any) -> None:
    reply = await client.heartbeat(make.report(make.info("n1")))
    started = trio.current_time()
    orders = await client.orders("n1", after=reply.orders_version, wait_s=0.1)
    assert orders.version == reply.orders_version
    assert 0.09 < trio.current_time() - started < 2


async def test_a_silent_node_is_no_source_any_more_and_polls_return(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    holding = TitleReport(title, "live", chunk_count=4, have_chunks=4)
    await client.heartbeat(make.report(make.info("dead"), 1, holding))
    await client.post_fill(FillRequest(title, "id=n1", []))
    await client.heartbeat(make.report(make.info("n1")))
    before = await client.orders("n1")
    assert [entry.node.id for entry in before.orders[0].roster] == ["dead"]
    with trio.fail_after(10 * make.heartbeat_s):
        after = await client.orders("n1", after=before.version, wait_s=9)
    assert after.orders[0].roster == []
    assert not (await client.node("dead")).alive
    assert await client.sources("n1", title) == []
    await client.heartbeat(make.report(make.info("dead"), 2, holding))
    assert [source.id for source in await client.sources("n1", title)] == ["dead"]


async def test_late_heartbeats_are_dropped_and_replaced_processes_told(client: TrackerClient, make: Any) -> None:
    title = "ab" * 32
    filling = TitleReport(title, "filling", chunk_count=4, have_chunks=2)
    await client.heartbeat(make.report(make.info("n1"), 5, filling))
    await client.heartbeat(make.report(make.info("n1"), 4))
    assert (await client.node("n1")).titles == [filling]
    await client.heartbeat(make.report(make.info("n1"), 1, boot="boot-2"))
    assert (await client.node("n1")).titles == []
    await client.heartbeat(make.report(make.info("n1"), 2, filling, boot="boot-2"))
    with pytest.raises(TrackerRefused, match="another process") as refused:
        await client.heartbeat(make.report(make.info("n1"), 5))
    assert refused.value.status == 409
    assert (await client.node("n1")).titles == [filling]


async def test_the_query_of_an_origin_goes_to_its_caches_and_is_shown_to_nobody(
    client: TrackerClient, make: Any
) -> None:
    title = await publish(client, make)
    await client.heartbeat(make.report(make.info("a1")))
    url = "https://origin/film/{path}?key=secret"
    created = await client.post_fill(FillRequest(title=title, selector="all", origins=[url, "http://other"]))
    assert (await client.orders("a1")).orders[0].origins == [url, "http://other"]
    seen = [
        await client.fills(),
        await client.fill(created.fill_id),
        await client.sources("a1", title),
        await client.explain("a1", title),
        await client.status(),
    ]
    for one in seen:
        assert "https://origin/film/{path}?…" in str(one)
        assert "http://other" in str(one)
        assert "secret" not in str(one)
    for wrong in (url + "\x00", url.replace("{path}", ""), url + "#x", "https://u:p@h/{path}?key=secret"):
        with pytest.raises(TrackerRefused, match="origin") as refused:
            await client.post_fill(FillRequest(title=title, selector="all", origins=[wrong]))
        assert "secret" not in str(refused.value)


async def test_progress_is_summed_by_tier_and_explained(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    fill = await client.post_fill(FillRequest(title, "all", ["http://origin/"]))
    n1 = TitleReport(title, "live", chunk_count=4, have_chunks=4, bytes_origin=100, escalations={"master stalled": 2})
    n1.sources = [SourceReport("http://origin/", "origin", 90), SourceReport("http://other/", "origin", 10)]
    n2 = TitleReport(title, "filling", chunk_count=4, have_chunks=1, bytes_peer=7, waits={"waits for n1": 3})
    n2.sources = [SourceReport("http://origin/", "origin", 1), SourceReport("n1", "peer", 7)]
    await client.heartbeat(make.report(make.info("n1"), 1, n1))
    await client.heartbeat(make.report(make.info("n2"), 1, n2))
    status = await client.fill(fill.fill_id)
    assert (status.done, status.totals.nodes, status.totals.live) == (False, 2, 1)
    assert (status.totals.bytes_origin, status.totals.bytes_peer) == (100, 7)
    assert status.totals.isp_bytes == {"isp-a": 100}
    assert status.totals.origins == {"http://origin/": 91, "http://other/": 10}
    assert status.totals.escalations == {"master stalled": 2}
    explained = await client.explain("n2", title)
    assert explained.fill_ids == [fill.fill_id]
    assert "3 chunks wait: waits for n1." in explained.notes
    assert [source.id for source in explained.sources] == ["n1", "http://origin/"]
    whole = await client.status()
    assert [node.info.id for node in whole.nodes] == ["n1", "n2"]
    assert whole.fills[0].totals == status.totals


async def test_why_a_source_is_not_used_is_said_once_and_whole(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    reason = "connection refused, " * 20
    sources = [
        SourceReport("http://origin/", "origin", state="failing", reason=reason),
        SourceReport("http://other/", "origin", reason="has no Range"),
        SourceReport("n2", "peer"),
    ]
    waits = {"the origin, which cannot be reached from here": 3}
    report = TitleReport(title, "filling", 4, 1, waits=waits, sources=sources)
    await client.heartbeat(make.report(make.info("n1"), 1, report))
    notes = (await client.explain("n1", title)).notes
    assert sum("refused" in note for note in notes) == 1
    assert f"Source http://origin/ is failing: {reason}." in notes
    assert "Source http://other/: has no Range." in notes
    assert not any("n2" in note for note in notes)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "text"),
    [
        ("POST", "/v1/fills", b"{", 400, "FillRequest"),
        ("POST", "/v1/fills", b'{"title": "x", "selector": "all", "origins": []}', 400, "title id"),
        ("POST", "/v1/fills", b'{"title":"%s","selector":"who","origins":[]}' % (b"0" * 64), 400, "selector"),
        ("POST", "/v1/fills", DUE % b"0", 400, "1970"),
        ("POST", "/v1/fills", DUE % b"1e12", 400, "9999"),
        ("POST", "/v1/fills", DUE % b'"soon"', 400, "float"),
        ("POST", "/v1/nodes/..%20/heartbeat", b"{}", 400, "node id"),
        ("POST", "/v1/nodes/n1/heartbeat", b"[" * 100_000, 400, "NodeReport"),
        ("GET", "/v1/nodes/n1/orders?after=x", b"", 400, "not a number"),
        ("GET", "/v1/nodes/n1/orders", b"", 404, "never sent"),
        ("GET", "/v1/fills/none", b"", 404, "no fill"),
        ("GET", "/v2", b"", 404, "openapi"),
        ("PATCH", "/v1/fills", b"", 405, "not possible"),
        ("POST", "/v1/fills", bytes(17 << 20), 413, "larger than"),
    ],
)
async def test_wrong_calls_get_a_reason(
    client: TrackerClient, method: str, path: str, body: bytes, status: int, text: str
) -> None:
    async with httpx2.AsyncClient() as http:
        answer = await http.request(method, client.url + path, content=body)
    assert answer.status_code == status
    assert text in answer.json()["error"]


async def test_hostile_reports_are_refused(client: TrackerClient, make: Any) -> None:
    too_many = TitleReport("ab" * 32, "filling", chunk_count=1, have_chunks=2)
    with pytest.raises(TrackerRefused, match="have_chunks"):
        await client.heartbeat(make.report(make.info("n1"), 1, too_many))
    with pytest.raises(TrackerRefused, match="isp is empty"):
        await client.heartbeat(make.report(make.info("n1", isp="")))
    assert await client.nodes() == []


async def test_a_restart_forgets_nothing(tmp_path: Path, make: Any) -> None:
    url = f"sqlite:///{tmp_path}/t.db"
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_tracker, "127.0.0.1:0", url)
        async with TrackerClient(address) as client:
            title = await publish(client, make)
            holding = TitleReport(title, "live", chunk_count=4, have_chunks=4)
            await client.heartbeat(make.report(make.info("n1"), 7, holding))
            fill = await client.post_fill(FillRequest(title, "all", []))
            await client.heartbeat(make.report(make.info("n2"), 1))
            before = await client.orders("n2")
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        address = await nursery.start(serve_tracker, "127.0.0.1:0", url)
        async with TrackerClient(address) as client:
            assert await client.manifest(title) == make.manifest().encode()
            status = await client.fill(fill.fill_id)
            assert [progress.node.id for progress in status.nodes] == ["n1", "n2"]
            assert status.totals.live == 1
            after = await client.orders("n2", after=before.version, wait_s=9)
            assert after.version > before.version
            assert [entry.node.id for entry in after.orders[0].roster] == ["n1"]
        nursery.cancel_scope.cancel()
    assert sorted(os.listdir(tmp_path)) == ["t.db", "t.db-commits"]  # no journal left behind


async def test_stopping_answers_long_polls(tmp_path: Path, make: Any) -> None:
    async with trio.open_nursery() as outer:
        nursery_scope = trio.CancelScope()

        async def run(task_status: trio.TaskStatus[str]) -> None:
            with nursery_scope:
                await serve_tracker("127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", task_status=task_status)

        address = await outer.start(run)
        async with TrackerClient(address) as client:
            reply = await client.heartbeat(make.report(make.info("n1")))
            outer.start_soon(_cancel_soon, nursery_scope)
            with trio.fail_after(20):
                await client.orders("n1", after=reply.orders_version, wait_s=50)
    async with TrackerClient(address) as client:
        with pytest.raises(TrackerUnreachable, match="cannot be reached"):
            await client.health()


async def _cancel_soon(scope: trio.CancelScope) -> None:
    await trio.sleep(0.1)
    scope.cancel()


async def test_start_errors_are_one_clear_line(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, but long enough to be looked at" * 100)
    good = f"sqlite:///{tmp_path}/t.db"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        cases = [
            (f"127.0.0.1:{taken.getsockname()[1]}", good, "already in use"),
            ("nowhere", good, "HOST:PORT"),
            ("127.0.0.1:0", "postgres://x/y", "sqlite:///FILE"),
            ("127.0.0.1:0", f"sqlite:///{tmp_path}/none/t.db", "directory exists"),
            ("127.0.0.1:0", f"sqlite:///{text}", "not a database"),
        ]
        for listen, url, expected in cases:
            with pytest.raises(ConfigError, match=expected) as raised:
                await serve_tracker(listen, url)
            assert "\n" not in str(raised.value)


async def test_two_trackers_never_share_a_file(tmp_path: Path, client: TrackerClient) -> None:
    with pytest.raises(ConfigError, match="another tracker"):
        await serve_tracker("127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")


async def test_a_file_of_another_layout_is_refused(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / "t.db")
    db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(ConfigError, match="layout 99"):
        await serve_tracker("127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")


def test_listen_addresses() -> None:
    assert parse_listen("[::1]:80") == ("::1", 80)
    assert parse_listen("host:0") == ("host", 0)
    for wrong in ("host", ":80", "host:x", "host:70000"):
        with pytest.raises(ConfigError):
            parse_listen(wrong)


def test_wrong_tracker_urls_are_refused() -> None:
    for wrong in ("host:80", "ftp://host", ""):
        with pytest.raises(ConfigError, match="write http://"):
            TrackerClient(wrong)


async def test_the_description_is_what_is_served(client: TrackerClient) -> None:
    async with httpx2.AsyncClient() as http:
        document = (await http.get(client.url + "/openapi.json")).json()
    described = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert described == {(one.method, one.path) for one in openapi.OPERATIONS}
    handlers = {name for name in vars(Api) if not name.startswith("_")}
    assert handlers == {one.name for one in openapi.OPERATIONS}
    names = set(document["components"]["schemas"])
    assert {"NodeReport", "Orders", "FillRequest", "ErrorReply"} <= names


async def test_answers_are_of_the_described_kind(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    await client.heartbeat(make.report(make.info("n1")))
    fill = await client.post_fill(FillRequest(title, "all", []))
    scrub = await client.post_scrub(title, "all")
    values = {"title": title, "node": "n1", "fill": fill.fill_id, "scrub": str(scrub.number)}
    values["policy"] = str((await client.apply_policy(PolicyRequest("# nothing"))).version.number)
    values["night"] = (await client.nights())[0].night
    values["eviction"] = str((await client.post_eviction(EvictRequest("all", 1))).number)
    values |= {"receiver": "n1", "source": "n1"}
    refused = {"get_routes": 409, "explain_route": 409}  # this tracker knows no costs of routes
    async with httpx2.AsyncClient() as http:
        for one in openapi.OPERATIONS:
            if one.method == "GET":
                answer = await http.get(client.url + one.path.format(**values))
                kind = openapi.MANIFEST_TYPE if one.response is bytes else openapi.JSON_TYPE
                status = refused.get(one.name, one.status)
                assert (answer.status_code, answer.headers["content-type"]) == (status, kind), one.name


async def test_lag_of_loops_is_told_and_explained(client: TrackerClient, make: Any) -> None:
    title = await publish(client, make)
    report = make.report(make.info("n1"))
    report.loop_lag = LoopLag(last_us=900, p99_us=1_100, max_us=2_500_000)
    await client.heartbeat(report)
    status = await client.status()
    assert [node.loop_lag for node in status.nodes] == [report.loop_lag]
    with trio.fail_after(20):
        while not (await client.status()).loop_lag.max_us:
            await trio.sleep(0.05)
    assert any("up to 2.5 s late" in note for note in (await client.explain("n1", title)).notes)
    report.sequence, report.loop_lag = 2, LoopLag(last_us=900, p99_us=1_100, max_us=90_000)
    await client.heartbeat(report)
    assert not any("late" in note for note in (await client.explain("n1", title)).notes)
    report.sequence, report.loop_lag = 3, LoopLag(last_us=-1)
    with pytest.raises(TrackerRefused, match="loop_lag"):
        await client.heartbeat(report)
