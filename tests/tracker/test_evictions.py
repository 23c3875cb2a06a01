"""Requests to make room: who is asked, and what of their answers is taken."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfill.model import limits
from p2pfill.model.reports import EvictReport, TitleFate
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
