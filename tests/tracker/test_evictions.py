"""Requests to make room: who is asked, and what of their answers is taken."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from p2pfill.cli.fleet import nodes_table
from p2pfill.model import limits
from p2pfill.model.reports import DiskReport, EvictReport, TitleFate, TitleReport
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import EvictRequest

TITLE = "ab" * 32


async def test_a_node_is_asked_until_it_has_said_that_it_is_done(client: TrackerClient, make: Any) -> None:
    reports = [make.report(make.info(node)) for node in ("n1", "n2")]
    for report in reports:
        await client.heartbeat(report)
    assert (await client.post_eviction(EvictRequest("id=nobody", 1))).done
    status = await client.post_eviction(EvictRequest("all", 1 << 30))
    assert ([node.node for node in status.nodes], status.done) == (["n1", "n2"], False)
    (order,) = (await client.orders("n1")).evictions
    assert (order.number, order.free_bytes, order.dry_run) == (status.number, 1 << 30, False)
    for number, (report, state) in enumerate(zip(reports, ("done", "failed"), strict=True)):
        report.sequence, report.evictions = 2, [EvictReport(status.number, "evicting", 7, [TitleFate(TITLE, "film")])]
        await client.heartbeat(report)
        assert (await client.eviction(status.number)).nodes[number].report == report.evictions[0]
        report.sequence, report.evictions = 3, [EvictReport(status.number, state)]
        assert not (await client.eviction(status.number)).done
        await client.heartbeat(report)
    assert (await client.eviction(status.number)).done
    assert not (await client.orders("n1")).evictions
    for _ in range(limits.EVICTIONS_MAX):
        await client.post_eviction(EvictRequest("all", dry_run=True))
    with pytest.raises(TrackerRefused, match="no eviction"):
        await client.eviction(status.number)
    with pytest.raises(TrackerRefused, match="how much"):
        await client.post_eviction(EvictRequest("all"))


async def test_a_disk_that_is_low_on_space_is_said_to_be(client: TrackerClient, make: Any) -> None:
    manifest = make.manifest()
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    report = make.report(make.info("n1"), 1, TitleReport(title, "live", 4, 4))
    report.disk = DiskReport(size_bytes=1 << 40, free_bytes=5 << 20, free_bytes_min=1 << 30)
    await client.heartbeat(report)
    assert (await client.node("n1")).disk.is_low
    assert [one.is_low for one in (await client.holders(title)).holders] == [True]
    assert any("low on space" in note for note in (await client.explain("n1", title)).notes)
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(nodes_table(await client.nodes(), 10, 200))
    assert "5 MiB low" in console.export_text()
    report.sequence, report.disk = 2, DiskReport(1 << 40, 2 << 30, 1 << 30)
    await client.heartbeat(report)
    assert not (await client.node("n1")).disk.is_low
    assert not any("low on space" in note for note in (await client.explain("n1", title)).notes)
    report.sequence, report.disk = 3, DiskReport(-1)
    with pytest.raises(TrackerRefused, match="disk figure"):
        await client.heartbeat(report)


@pytest.mark.parametrize(
    "said",
    [
        [EvictReport(1, "done", -1)],
        [EvictReport(1, "failed", error="x" * (limits.REASON_CHARS_MAX + 1))],
        [EvictReport(1, "done", titles=[TitleFate(TITLE)] * (limits.EVICT_TITLES_MAX + 1))],
        [EvictReport(1, "done", titles=[TitleFate("zz")])],
        [EvictReport(1, "done", titles=[TitleFate(TITLE, "x" * (limits.REASON_CHARS_MAX + 1))])],
        [EvictReport(1, "done", titles=[TitleFate(TITLE, used_at=1e300)])],
        [EvictReport(number, "done") for number in range(limits.EVICTIONS_MAX + 1)],
    ],
)
async def test_what_a_node_says_is_bounded(client: TrackerClient, make: Any, said: list[EvictReport]) -> None:
    report = make.report(make.info("n1"))
    report.evictions = said
    with pytest.raises(TrackerRefused):
        await client.heartbeat(report)
