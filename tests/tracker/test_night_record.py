"""What is recorded of a night so that it can be rebuilt: caches and their paces, silences, titles and their holders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tracker.services import publish, service_on

from p2pfill.model.night import Busy, RecordedNight, Span
from p2pfill.model.policy import FillPolicy
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.model.reports import HoursReport, NodeReport, PayloadRates, ServingReport, TitleReport
from p2pfill.tracker.night_record import build_record
from p2pfill.tracker.night_rows import (
    BUSY_MAX,
    HOLDERS_MAX,
    SPANS_MAX,
    NightCache,
    NightHead,
    NightPage,
    NightRow,
    note_away,
)
from p2pfill.tracker.nights import Nights, own_night
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service

SIZE = 3 * 65536


def whole(title: str, **more: Any) -> TitleReport:
    facts = {"state": "live", "have_chunks": 3, "chunk_count": 3, "have_bytes": SIZE, "title_bytes": SIZE}
    return TitleReport(title=title, **(facts | more))


async def record_of(service: Service) -> RecordedNight:
    (night,) = service.nights.heads
    record = build_record(await service.night(night), is_over=False)
    return msgspec.json.decode(msgspec.json.encode(record), type=RecordedNight)


async def test_who_held_what_and_what_was_ordered(tmp_path: Path, make: Any) -> None:
    """A cache that held a title before is no row of the night, and yet a source of it."""
    async with service_on(tmp_path / "tracker.db") as service:
        title = await publish(service, make, 3)
        for name in ("a1", "b1", "c1"):
            service.handle_heartbeat(name, make.report(make.info(name), 1))
        service.handle_heartbeat("a1", make.report(make.info("a1"), 2, whole(title)))
        policy = FillPolicy(stall_wait_s=9.0)
        await service.add_fill(FillRequest(title, "id=b1", [], priority=4, policy=policy, deadline=9e9))
        came = whole(title, state="filling", have_bytes=65536, bytes_regional=65536, started_at=2e9, number=1)
        service.handle_heartbeat("b1", make.report(make.info("b1"), 2, came))
        record = await record_of(service)
    (recorded,), (fill,) = record.titles, record.fills
    assert (recorded.title, recorded.size, recorded.chunk_size) == (title, SIZE, 65536)
    assert recorded.held == {"a1": SIZE}
    assert [cache.info.id for cache in record.caches] == ["a1", "b1"], "c1 had nothing to do with it"
    assert record.caches[1].info == make.info("b1")
    assert (fill.node, fill.priority, fill.policy, fill.deadline) == ("b1", 4, policy, 9e9)
    assert (fill.tiers, fill.live_at) == ((0, 65536, 0), 0.0)


async def test_it_is_the_same_after_a_restart_of_the_tracker(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "tracker.db") as service:
        title = await publish(service, make, 3)
        service.handle_heartbeat("a1", make.report(make.info("a1"), 1, whole(title)))
        service.handle_heartbeat("b1", make.report(make.info("b1"), 1))
        await service.add_fill(FillRequest(title, "id=b1", []))
        await service.flush()
        before = await record_of(service)
    async with service_on(tmp_path / "tracker.db") as service:
        assert await record_of(service) == before
        assert before.titles[0].held == {"a1": SIZE}


@pytest.mark.parametrize("boot", ["another", "same"])
async def test_a_cache_that_is_lost_and_starts_anew_was_off(tmp_path: Path, make: Any, boot: str) -> None:
    """One that was merely not heard, and is the same process afterwards, was not."""
    async with service_on(tmp_path / "tracker.db") as service:
        title = await publish(service, make, 3)
        service.handle_heartbeat("a1", make.report(make.info("a1"), 1, boot="same"))
        await service.add_fill(FillRequest(title, "all", []))
        state = service.node("a1")
        last_at = state.seen_at
        state.lease_from -= 100
        assert service.expire() == ["a1"]
        (cache,) = (await record_of(service)).caches
        assert cache.away[-1] == Span(last_at)
        service.handle_heartbeat("a1", make.report(make.info("a1"), 2, boot=boot))
        (cache,) = (await record_of(service)).caches
    first, *others = cache.away
    assert first.opened_at == 0 < first.closed_at, "it was never heard of before"
    assert len(others) == (boot == "another")
    if not others:
        return
    (second,) = others
    assert second.opened_at == last_at <= second.closed_at


def test_paces_are_the_highest_and_limits_those_of_open_hours(make: Any) -> None:
    nights = Nights()
    limits = RateLimits(Rates(total=50))

    def beat(phase: Any, pace: int, rates: RateLimits, number: int) -> None:
        report: NodeReport = make.report(make.info("a1"), number)
        hours = HoursReport(phase=phase, night="2026-11-29")
        report = msgspec.structs.replace(report, hours=hours, moves=PayloadRates(pace, 2 * pace), rates=rates)
        nights.take(2e9 + number, report, {}, [], lambda *_: None, lambda *_: "")

    for number, (phase, pace, rates) in enumerate(
        [("open", 10, limits), ("open", 40, limits), ("open", 20, limits), ("closed", 0, NO_LIMITS)]
    ):
        beat(phase, pace, rates, number)
    (_, cache), *_ = nights.take_unsaved().caches
    assert (cache.fastest_in, cache.fastest_out, cache.rates) == (40, 80, limits)


def test_how_busy_caches_were_is_kept_where_it_changes(make: Any) -> None:
    nights = Nights()
    busy = [0.0, 0.6, 0.6, 0.0, *(0.3 * (number % 2) for number in range(1, 3 * BUSY_MAX))]
    for number, one in enumerate(busy):
        weight = 1.0 if not one else 0.25
        info = msgspec.structs.replace(make.info("a1"), weight=2 * weight)
        report = msgspec.structs.replace(make.report(info, number), serving=ServingReport(one, "viewers", weight))
        nights.take(2e9 + number, report, {}, [], lambda *_: None, lambda *_: "")
    unsaved = nights.take_unsaved()
    (_, cache), *_ = unsaved.caches
    assert cache.busy[:3] == [Busy(2e9 + 1, 0.6), Busy(2e9 + 3, 0.0), Busy(2e9 + 4, 0.3)]
    assert len(cache.busy) == BUSY_MAX
    rows = [NightRow("ab", "a1", is_wanted=True)]
    record = build_record(NightPage(unsaved.heads[0], [cache], rows), is_over=False)
    assert record.caches[0].info.weight == 2.0, "not what its viewers left of it last"


def test_what_is_kept_of_silences_is_bounded() -> None:
    cache = NightCache("a1")
    for at in range(1, 3 * SPANS_MAX):
        note_away(cache, at)
        note_away(cache, at, at + 0.5)
    assert len(cache.away) == SPANS_MAX
    assert cache.away[0] == Span(1, 1.5)
    assert cache.away[-1] == Span(SPANS_MAX, 3 * SPANS_MAX - 0.5)


async def test_what_is_kept_of_holders_is_bounded(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "tracker.db") as service:
        title = await publish(service, make, 3)
        for number in range(HOLDERS_MAX + 5):
            service.handle_heartbeat(f"n{number}", make.report(make.info(f"n{number}"), 1, whole(title)))
        service.handle_heartbeat("new", make.report(make.info("new"), 1))
        await service.add_fill(FillRequest(title, "id=new", []))
        assert len((await record_of(service)).titles[0].held) == HOLDERS_MAX


@pytest.mark.parametrize("is_over", [False, True])
def test_what_an_older_tracker_has_kept_can_be_read(is_over: bool) -> None:
    """Rows without any of the new fields, as of before a tracker was upgraded in mid-night."""
    row = msgspec.json.decode(
        b'{"title":"ab","node":"a1","is_wanted":true,"title_bytes":9,"tiers":[1,2,3],"had_bytes":2,"reused":1}',
        type=NightRow,
    )
    cache = msgspec.json.decode(b'{"node":"a1","isp":"x","region":"y","heard_at":5}', type=NightCache)
    gone = NightRow("ab", "b1", is_wanted=True, ended="its order was withdrawn", tiers=(5, 0, 0))
    record = build_record(NightPage(NightHead(own_night(5.0)), [cache], [row, gone]), is_over=is_over)
    assert (record.titles[0].name, record.titles[0].size) == ("", 9)
    assert (record.fills[0].had, record.left_out) == (3, (5, 0, 0))
    assert (record.caches[0].info.isp, record.caches[0].info.region) == ("x", "y")


def test_when_a_window_was_announced_is_kept(make: Any) -> None:
    nights = Nights()
    phases: list[Any] = ["closed", "soon", "soon", "open", "open", "closed", "open"]
    for number, phase in enumerate(phases):
        report = msgspec.structs.replace(
            make.report(make.info("a1"), number), hours=HoursReport(phase=phase, night="2026-11-29")
        )
        nights.take(2e9 + number, report, {}, [], lambda *_: None, lambda *_: "")
    (_, cache), *_ = nights.take_unsaved().caches
    assert cache.spans == [Span(2e9 + 3, 2e9 + 5, 2e9 + 1), Span(2e9 + 6)]
