"""What a night has, by what nodes say: over restarts of nodes and tracker, nights that change, and orders anew."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.model.reports import HoursReport, NodeReport, SourceReport, TitleReport
from p2pfill.tracker import nights as nights_module
from p2pfill.tracker.night_rows import COURSE_MAX, OTHERS, REASONS_MAX, NightHead, NightPage, NightRow
from p2pfill.tracker.nights import NIGHTS_KEPT, NIGHTS_OPEN_MAX, STRANGE_KEPT, Nights, own_night, still_open
from p2pfill.tracker.records import FillRecord, FillRequest

NOW = datetime(2026, 11, 30, 3, tzinfo=UTC).timestamp()
NIGHT = "2026-11-29"
TITLE = "ab" * 32
OTHER = "cd" * 32
SIZE = 1000


def said(
    state: Any = "filling", tiers: tuple[int, int, int] = (0, 0, 0), started_at: float = NOW, **more: Any
) -> TitleReport:
    peer, regional, origin = tiers
    have = min(SIZE, sum(tiers))
    more = {"title": TITLE, "have_bytes": have, "title_bytes": SIZE, "number": 1} | more
    return TitleReport(
        state=state, bytes_peer=peer, bytes_regional=regional, bytes_origin=origin, started_at=started_at, **more
    )


def order(number: int = 1, at: float = NOW, title: str = TITLE) -> FillRecord:
    return FillRecord("f1", FillRequest(title, "all", []), at, number, at)


class Fleet:
    """Nodes and a tracker's nights, driven by hand."""

    def __init__(self, make: Any) -> None:
        self.make = make
        self.nights = Nights()
        self.known: dict[str, dict[str, TitleReport]] = {}
        self.saved: dict[str, NightPage] = {}
        self.order: FillRecord | None = None
        self.rule = ""

    def beat(self, node: str, *titles: TitleReport, at: float = NOW, hours: Any = None, **more: Any) -> None:
        report: NodeReport = self.make.report(self.make.info(node), 1, *titles, boot=more.pop("boot", "b"))
        hours = HoursReport(phase="open", night=NIGHT) if hours is None else hours
        report = msgspec.structs.replace(report, hours=hours, **more)
        known = self.known.setdefault(node, {})
        lacking = [title for title, one in known.items() if one.state != "live"]
        self.nights.take(at, report, known, lacking, lambda *_: self.order, lambda *_: self.rule)
        known.update({title.title: title for title in titles})

    def save(self) -> None:
        """Write what is unsaved into the store, as the catalogue does."""
        unsaved = self.nights.take_unsaved()
        for night in unsaved.dropped:
            self.saved.pop(night, None)
        copy = msgspec.json.decode(msgspec.json.encode(unsaved.heads), type=list[NightHead])
        for head in copy:
            old = self.saved.get(head.night)
            self.saved[head.night] = NightPage(head, [], []) if old is None else old._replace(head=head)
        for night, cache in unsaved.caches:
            caches = [one for one in self.saved[night].caches if one.node != cache.node]
            raw = msgspec.json.encode(cache)
            caches.append(msgspec.json.decode(raw, type=type(cache)))
            self.saved[night] = self.saved[night]._replace(caches=caches)
        for night, row in unsaved.rows:
            rows = [one for one in self.saved[night].rows if (one.node, one.title) != (row.node, row.title)]
            rows.append(msgspec.json.decode(msgspec.json.encode(row), type=NightRow))
            self.saved[night] = self.saved[night]._replace(rows=rows)

    def restart(self) -> None:
        """Begin as a tracker does that has crashed: with what was saved."""
        raw = msgspec.json.encode(list(self.saved.values()))
        pages = [NightPage(*page) for page in msgspec.json.decode(raw, type=list[NightPage])]
        heads = [page.head for page in pages]
        added_to = still_open(heads)
        self.nights = Nights(heads, [page for page in pages if page.head.night in added_to])

    def row(self, node: str = "n1", title: str = TITLE, night: str = NIGHT) -> NightRow:
        self.save()
        (found,) = (row for row in self.saved[night].rows if (row.node, row.title) == (node, title))
        return found

    def rows(self, night: str = NIGHT) -> list[NightRow]:
        self.save()
        return self.saved[night].rows if night in self.saved else []


@pytest.fixture
def fleet(make: Any) -> Fleet:
    return Fleet(make)


def test_a_fill_is_counted_by_what_is_new(fleet: Fleet) -> None:
    fleet.beat("n1")
    fleet.order = order(7, NOW - 5)
    for count in (10, 400, 400, 1000):
        fleet.beat("n1", said("filling", (count, 0, 0), number=7), at=NOW + count)
    fleet.beat("n1", said("live", (1000, 0, 0), finished_at=NOW + 900, number=7), at=NOW + 1001)
    row = fleet.row()
    assert (row.tiers, row.live_at, row.ordered_at, row.state) == ((1000, 0, 0), NOW + 900, NOW - 5, "live")
    assert row.is_wanted
    head = fleet.saved[NIGHT].head
    assert (head.tiers, head.titles, head.caches) == ((1000, 0, 0), 1, 1)
    assert sum(sum(tiers) for tiers in head.course.values()) == 1000


def test_what_a_title_has_had_before_does_not_count(fleet: Fleet) -> None:
    old = NOW - 40 * 86400
    fleet.beat("n1", said("live", (900, 0, 100), old))  # a new tracker, or a node that opens its titles one by one
    assert fleet.rows() == []
    fleet.beat("n1", TitleReport(TITLE, "failed", error="its disk does not answer"))
    fleet.beat("n1", said("live", (900, 0, 100), old))
    fleet.beat("n1", said("repairing", (900, 0, 130), old))
    row = fleet.row()
    assert (row.tiers, row.repair) == ((0, 0, 30), 30)


def test_a_repair_is_not_to_be_had_and_counts_apart(fleet: Fleet) -> None:
    old = NOW - 40 * 86400
    fleet.beat("n1", said("live", (1000, 0, 0), old))
    fleet.beat("n1", said("repairing", (1000, 0, 0), old, have_bytes=900))
    fleet.beat("n1", said("live", (1050, 0, 50), old))
    row = fleet.row()
    assert (row.is_wanted, row.tiers, row.repair) == (False, (50, 0, 50), 100)


def test_a_title_that_came_between_two_heartbeats_counts_whole(fleet: Fleet) -> None:
    fleet.beat("n1")
    fleet.beat("n1", said("live", (0, 0, 1000), NOW + 0.1, finished_at=NOW + 0.5), at=NOW + 1)
    assert (fleet.row().tiers, fleet.row().is_wanted) == ((0, 0, 1000), True)


def test_a_title_that_was_evicted_and_comes_again_counts_again(fleet: Fleet) -> None:
    fleet.beat("n1")
    fleet.beat("n1", said("live", (0, 0, 1000), NOW + 1))
    fleet.beat("n1", said("live", (800, 0, 200), NOW + 100), gone=[])
    assert fleet.row().tiers == (800, 0, 1200)


def test_two_nights_share_a_fill(fleet: Fleet) -> None:
    next_night, at = "2026-11-30", NOW + 86400
    fleet.beat("n1")
    fleet.beat("n1", said("filling", (300, 0, 0), waits={"slow": 2}))
    fleet.save()
    fleet.restart()
    # As after a restart of the tracker, whose catalogue knows how the fill began only.
    fleet.known = {"n1": {TITLE: said("filling", (10, 0, 0))}}
    fleet.beat("n1", at=at, hours=HoursReport(phase="closed", night=next_night))
    row = fleet.row(night=next_night)
    assert (row.is_wanted, row.had_bytes, row.tiers) == (True, 300, (0, 0, 0))
    fleet.beat("n1", said("live", (900, 0, 100)), at=at + 1, hours=HoursReport(phase="open", night=next_night))
    row = fleet.row(night=next_night)
    assert (row.tiers, row.had_bytes) == ((600, 0, 100), 300)
    row = fleet.row()
    assert (row.tiers, row.waits, row.state) == ((300, 0, 0), {"slow": 2}, "filling")


def test_waits_are_those_of_when_it_was_open(fleet: Fleet) -> None:
    fleet.beat("n1", said("filling", waits={"next window": 4}), hours=HoursReport(phase="closed", night=NIGHT))
    fleet.beat("n1", said("filling", waits={"slow": 2}), hours=HoursReport(phase="open", night=NIGHT))
    fleet.beat("n1", said("filling", waits={"next window": 2}), hours=HoursReport(phase="closed", night=NIGHT))
    assert fleet.row().waits == {"slow": 2}


def test_windows_and_bytes_out_of_cycle(fleet: Fleet) -> None:
    def hours(phase: Any, exempt: int, night: str = NIGHT, **more: Any) -> HoursReport:
        return HoursReport(phase=phase, until=NOW + 99, night=night, exempt_bytes=exempt, **more)

    fleet.beat("n1", hours=hours("closed", 50), at=NOW)  # of before the tracker knew it
    fleet.beat("n1", hours=hours("open", 60, used_bytes=5, budget_bytes=9), at=NOW + 1)
    fleet.beat("n1", hours=hours("closed", 70, used_bytes=9, budget_bytes=9, budget_used=True), at=NOW + 2)
    fleet.beat("n1", hours=hours("open", 5), at=NOW + 3, boot="other")
    fleet.beat("n1", hours=hours("closed", 8, "2026-11-30"), at=NOW + 4, boot="other")
    fleet.save()
    (cache,), (following,) = fleet.saved[NIGHT].caches, fleet.saved["2026-11-30"].caches
    assert [(one.opened_at, one.closed_at) for one in cache.spans] == [(NOW + 1, NOW + 2), (NOW + 3, 0.0)]
    assert (cache.exempt_bytes, following.exempt_bytes, cache.budget_used_at) == (25, 3, NOW + 2)


def test_a_budget_that_was_used_up_while_the_tracker_was_away_is_known(fleet: Fleet) -> None:
    hours = HoursReport(phase="closed", until=NOW, night=NIGHT, used_bytes=10, budget_bytes=10)
    fleet.beat("n1", hours=hours)
    fleet.save()
    assert fleet.saved[NIGHT].caches[0].budget_used_at == NOW


def test_an_order_has_a_row_though_its_cache_says_nothing(fleet: Fleet) -> None:
    fleet.beat("n1")
    fleet.order = order(3)
    fleet.nights.note_order(NOW + 5, fleet.order, [(fleet.make.info(one), None) for one in ("n1", "n2")])
    rows = {row.node: row for row in fleet.rows()}
    assert (rows["n1"].is_wanted, rows["n1"].number, rows["n1"].state) == (True, 3, "")
    night = own_night(NOW)
    assert {cache.node: bool(cache.heard_at) for cache in fleet.saved[night].caches} == {"n1": True, "n2": False}
    fleet.nights.note_end(NOW + 6, TITLE, ["n1", "n2"], "withdrawn")
    assert [row.ended for row in fleet.rows()] == ["withdrawn", "withdrawn"]
    fleet.nights.note_order(NOW + 9, order(4), [(fleet.make.info("n1"), None)])
    assert (fleet.row().ended, fleet.row().number) == ("", 4)


def test_escalations_and_what_came_from_far(fleet: Fleet) -> None:
    def far(count: int, *names: str) -> list[SourceReport]:
        return [SourceReport(name, "origin", count) for name in names]

    fleet.beat("n1")
    fleet.rule = "patient"
    fleet.beat("n1", said(escalations={"silent": 2}, sources=far(100, "o1")))
    fleet.beat("n1", said(escalations={"silent": 5, "starved": 1}, sources=far(130, "o1")))
    fleet.beat("n1", said(escalations={"silent": 5, "starved": 1}, sources=far(20, "o1")))  # its process began anew
    row = fleet.row()
    assert (row.escalations, row.far, row.rule) == ({"silent": 5, "starved": 1}, {"o1": 150}, "patient")
    fleet.beat("n1", said(sources=far(10, *(f"x{number}" for number in range(20)))))
    row = fleet.row()
    assert len(row.far) == 9
    assert row.far[OTHERS] == 10 * 13


def test_reasons_of_a_row_are_bounded_and_their_sum_is_right(fleet: Fleet) -> None:
    fleet.beat("n1")
    for number in range(100):
        fleet.beat("n1", said(escalations={f"reason {number}": 2}))
    row = fleet.row()
    assert len(row.escalations) == REASONS_MAX + 1
    assert sum(row.escalations.values()) == 200


def test_many_wrong_clocks_close_no_night_of_others(fleet: Fleet) -> None:
    for minute in range(3):
        for number in range(20):
            for node, night in ((f"wrong{number}", f"1980-01-{number + 1:02}"), ("n1", NIGHT), ("n2", "2026-11-28")):
                fleet.beat(node, at=NOW + 60 * minute + number, hours=HoursReport(phase="open", night=night))
                fleet.save()
    assert "n1" in fleet.nights.in_night(NIGHT)
    assert fleet.nights.in_night("2026-11-28") == ["n2"]


def test_caches_that_come_and_go_are_forgotten_with_their_nights(fleet: Fleet) -> None:
    for day in range(40):
        at = NOW + day * 86400
        fleet.beat(f"n{day}", at=at, hours=HoursReport(phase="open", night=own_night(at)))
        fleet.save()
    found = [name for day in range(40) for name in fleet.nights.in_night(own_night(NOW + day * 86400))]
    assert found == [f"n{day}" for day in (37, 38, 39)]


steps = st.lists(
    st.sampled_from(["fetch", "fetch", "fetch", "say", "say", "node", "crash", "tracker", "night", "evict", "save"]),
    max_size=40,
)


@given(steps, st.randoms(use_true_random=False))
def test_nights_together_have_what_came(steps: list[str], chance: Any) -> None:
    """Whatever is restarted when: nothing counts twice, and nothing that a node still knows is lost."""
    from tracker.conftest import Make

    fleet = Fleet(Make)
    at, night, started_at, boot = NOW, 0, NOW + 1, 0
    fleet.beat("n1", hours=HoursReport(phase="open", night="2026-12-01"))
    tally = [0, 0, 0]  # what the node says
    kept = list(tally)  # what its disk knows of that
    came = 0

    def say() -> None:
        nonlocal at
        at += 1
        hours = HoursReport(phase="open", night=f"2026-12-{night + 1:02}")
        tiers = (tally[0], tally[1], tally[2])
        fleet.beat("n1", said("filling", tiers, started_at), at=at, hours=hours, boot=str(boot))

    for step in steps:
        if step == "fetch":
            tier, count = chance.randrange(3), chance.randrange(1, 50)
            tally[tier] += count
            came += count
        elif step == "say":
            say()
        elif step == "node":
            boot, kept = boot + 1, list(tally)
        elif step == "crash":
            say()  # what it has fetched and not said is known to nobody
            boot, tally = boot + 1, list(kept)
            say()  # as a node does when it starts, before anything comes
        elif step == "tracker":
            fleet.save()
            fleet.restart()
        elif step == "save":
            kept = list(tally)
            fleet.save()
        elif step == "night":
            say()
            night = min(night + 1, NIGHTS_OPEN_MAX - 2)
        elif step == "evict":
            say()
            at += 10
            started_at, tally, kept = at, [0, 0, 0], [0, 0, 0]
    say()
    fleet.save()
    rows = [row for page in fleet.saved.values() for row in page.rows]
    assert sum(sum(row.tiers) for row in rows) == came
    for page in fleet.saved.values():
        courses = sum(sum(tiers) for tiers in page.head.course.values())
        assert courses == sum(page.head.tiers) == sum(sum(row.tiers) for row in page.rows)


def test_a_course_of_any_length_is_bounded_and_whole(fleet: Fleet) -> None:
    fleet.beat("n1")
    count = 0
    for hour in range(0, 50 * 60, 7):
        count += 1
        fleet.beat("n1", said("filling", (count, 0, 0)), at=NOW + hour * 60)
    fleet.save()
    head = fleet.saved[NIGHT].head
    assert len(head.course) <= COURSE_MAX
    assert head.step_s == 900
    assert sum(peer for peer, _, _ in head.course.values()) == count


def test_nights_are_kept_for_a_month_and_wrong_clocks_push_none_out(fleet: Fleet) -> None:
    for day in range(50):
        at = NOW + day * 86400
        fleet.beat("n1", at=at, hours=HoursReport(phase="open", night=own_night(at)))
        fleet.beat("wrong", at=at, hours=HoursReport(phase="open", night=f"1970-{1 + day // 28:02}-{1 + day % 28:02}"))
        fleet.save()
    assert len(fleet.saved) == NIGHTS_KEPT + STRANGE_KEPT == len(fleet.nights.heads)
    assert sum(night.startswith("1970") for night in fleet.saved) == STRANGE_KEPT
    assert own_night(NOW + 49 * 86400) in fleet.saved
    assert own_night(NOW + 20 * 86400) in fleet.saved
    fleet.restart()
    # A night that is closed for good is not begun again: that is the tracker's own.
    old = own_night(NOW + 21 * 86400)
    fleet.beat("n2", said(), at=NOW + 49 * 86400, hours=HoursReport(phase="open", night=old))
    assert [row.node for row in fleet.rows(old)] == []
    assert [row.node for row in fleet.rows(own_night(NOW + 49 * 86400))] == ["n2"]


@pytest.mark.parametrize("name", ["", "yesterday", "2026-W01-1", "2026-11-31", "20261129"])
def test_what_is_no_date_is_the_trackers_own_night(fleet: Fleet, name: str) -> None:
    fleet.beat("n1", said(), hours=HoursReport(night=name))
    assert list(fleet.nights.heads) == [NIGHT]
    assert own_night(datetime(2026, 11, 29, 11, 59, tzinfo=UTC).timestamp()) == "2026-11-28"


def test_more_than_there_is_room_for_is_summed_up(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nights_module, "ROWS_MAX", 2)
    for node in ("n1", "n2", "n3", "n4"):
        fleet.beat(node)
        for count in (10, 30, 30):
            fleet.beat(node, said("filling", (count, 0, 0)))
        fleet.beat(node, said("filling", (7, 0, 0), title=OTHER))
    rows = {(row.node, row.title == TITLE): row.tiers[0] for row in fleet.rows()}
    assert rows == {("n1", True): 30, ("n1", False): 7, ("", True): 90, ("", False): 21}
    assert fleet.saved[NIGHT].head.is_full
    assert fleet.saved[NIGHT].head.tiers == (148, 0, 0)
