"""Budgets: whatever crashes, restarts and is lost, no more is fetched in a night than the budget allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tracker.services import publish, service_on

from p2pfill.model import budgets as module
from p2pfill.model.budgets import Budgets
from p2pfill.model.fleet_policy import BudgetRule
from p2pfill.model.origins import OriginReport
from p2pfill.model.prices import Price, Prices
from p2pfill.model.reports import Allowance
from p2pfill.model.terms import MILLIONTHS, BudgetTerms
from p2pfill.node.origin_counts import OriginCounts
from p2pfill.tracker.applying import apply_policy
from p2pfill.tracker.records import FillRequest, PolicyRequest

ORIGIN = "http://cloud/film"
LIMIT = 1000
CHUNK = 7
RULE = BudgetRule("cloud", LIMIT, "http://cloud/*")
TERMS = {"cloud": BudgetTerms("http://cloud/*")}
PRICES = Prices("EUR", [Price("http://cloud/", per_gb=1000.0), Price("http://cloud/dear/", per_gb=9000.0)])
"""A millionth for each byte."""
RULES = {
    "bytes": RULE,
    "money": BudgetRule("cloud", 0, "http://cloud/*", money=LIMIT / MILLIONTHS),
    "regional": BudgetRule("cloud", LIMIT, tier="regional"),
}


class Fleet:
    """Nodes with the counts of real ones, and a tracker with the budgets of a real one, over calls that get lost."""

    def __init__(self, count: int, rule: BudgetRule = RULE) -> None:
        self.catalogue: dict[str, tuple[str, int]] = {}
        self.budgets = Budgets({})
        self.night = "1"
        self.rule = rule
        self.nodes = {f"n{number}": OriginCounts() for number in range(count)}
        self.boots = dict.fromkeys(self.nodes, 0)
        self.regional = dict.fromkeys(self.nodes, 0)
        self.fetched = 0
        self.late = 0
        """What may be on its way when a night begins, or is held of the night before."""

    def beat(self, node: str, *, needs: bool, is_lost: bool) -> None:
        counts, terms = self.nodes[node], self.rule.terms(PRICES)
        counts.set_budgets({self.rule.name: terms})
        counts.set_regional(self.regional[node], 0)
        reply = self.budgets.renew(
            [(self.rule, terms)], self.night, node, str(self.boots[node]), counts.totals(), counts.allowances(),
            needs=needs,
        )  # fmt: skip
        if not is_lost:
            counts.set_allowances(reply)

    def fetch(self, node: str, chunks: int) -> None:
        counts = self.nodes[node]
        if not counts.allowances():
            return  # a node begins to fill once the tracker has answered
        for _ in range(chunks):
            if self.rule.tier == "regional":
                most, _ = counts.regional_limit()
                if most is not None and self.regional[node] + CHUNK > most:
                    break
                self.regional[node] += CHUNK
            else:
                if counts.begin_read(ORIGIN, CHUNK):
                    break
                counts.add(ORIGIN, kept=CHUNK)
                counts.end_read(ORIGIN, CHUNK)
            self.fetched += CHUNK

    @property
    def spent(self) -> int:
        return self.budgets.spent(self.rule.ledger)

    def flush(self) -> None:
        if reserved := self.budgets.to_reserve():
            self.catalogue |= reserved
            self.budgets.note_reserved(reserved)

    def restart_tracker(self) -> None:
        self.budgets = Budgets(self.catalogue)

    def crash(self, node: str) -> None:
        self.nodes[node] = OriginCounts()
        self.boots[node] += 1
        self.regional[node] = 0


STEP = st.tuples(
    st.sampled_from(["beat", "beat", "beat", "lost", "idle", "fetch", "fetch", "flush", "flush", "restart", "crash"]),
    st.integers(0, 3),
    st.integers(1, 40),
)


@pytest.mark.parametrize("kind", RULES)
@given(st.lists(STEP, max_size=150))
@settings(deadline=None)
def test_no_more_is_fetched_than_the_budget_whatever_is_lost(kind: str, steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEASE_MIN", 50)
        patch.setattr(module, "SLAB_LEASES", 3)
        fleet = Fleet(4, RULES[kind])
        for what, number, chunks in steps:
            node = f"n{number}"
            if what in ("beat", "lost", "idle"):
                fleet.beat(node, needs=what != "idle", is_lost=what == "lost")
            elif what == "fetch":
                fleet.fetch(node, chunks)
            elif what == "flush":
                fleet.flush()
            elif what == "restart":
                fleet.restart_tracker()
            else:
                fleet.crash(node)
            for ledger in fleet.budgets._ledgers.values():
                ledger.check()
            assert fleet.fetched <= fleet.spent <= LIMIT or not fleet.budgets._ledgers
            assert fleet.fetched <= LIMIT


@pytest.mark.parametrize("kind", RULES)
def test_all_of_a_budget_can_be_used_and_the_next_night_has_another(kind: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEASE_MIN", 50)
        fleet = Fleet(4, RULES[kind])
        for night in ("1", "2"):
            fleet.night = night
            for _ in range(40):
                for node in fleet.nodes:
                    fleet.beat(node, needs=True, is_lost=False)
                    fleet.fetch(node, 3)
                fleet.flush()
            # What is less than a chunk, one a node, stays.
            assert int(night) * LIMIT - 4 * CHUNK * int(night) <= fleet.fetched <= int(night) * LIMIT


def test_a_clock_that_is_set_back_and_on_again_gives_no_night_a_second_budget() -> None:
    """The tracker's clock may be ahead or behind for a while, and be put right, also over the hour of the change."""
    came: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEASE_MIN", 50)
        fleet = Fleet(4)
        for night in ("2", "1", "2", "9", "2", "1", "3"):
            fleet.night, before = night, fleet.fetched
            for node in fleet.nodes:
                fleet.beat(node, needs=True, is_lost=False)
            for _ in range(40):
                for node in fleet.nodes:
                    fleet.beat(node, needs=True, is_lost=False)
                    fleet.fetch(node, 3)
                fleet.flush()
            came[night] = came.get(night, 0) + fleet.fetched - before
            assert came[night] <= LIMIT
    assert min(came.values()) > 0.9 * LIMIT, "each night has its own"


def test_nights_that_were_on_before_are_kept_in_a_few_places() -> None:
    ledger = module.Ledger("0", 10)
    for night in range(1, 100):
        ledger.follow(str(night), BudgetTerms("*"))
    assert list(ledger._before) == [str(night) for night in range(99 - module.NIGHTS_KEPT, 99)]


NIGHTS_STEP = st.tuples(
    st.sampled_from(
        ["beat", "beat", "lost", "idle", "fetch", "fetch", "flush", "flush", "restart", "crash", "night", "remove"]
    ),
    st.integers(0, 3),
    st.integers(1, 40),
)


HELD = [("beat", 0, 1), ("flush", 0, 1), ("beat", 0, 1)]
OVER_NOON = [("night", 0, 1), ("fetch", 0, 40), *[(what, 1, 40) for what in ("beat", "flush", "beat", "fetch")] * 3]


@given(st.lists(NIGHTS_STEP, max_size=150))
@settings(deadline=None)
@example([*HELD, ("restart", 0, 1), *OVER_NOON])
@example([*HELD, ("remove", 0, 1), *OVER_NOON])
def test_each_night_holds_also_where_trackers_and_nodes_go_in_between(steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LEASE_MIN", 50)
        patch.setattr(module, "SLAB_LEASES", 3)
        fleet, before = Fleet(4), 0
        fleet.rule = msgspec.structs.replace(RULE, bytes=100)
        for what, number, chunks in steps:
            node = f"n{number}"
            if what in ("beat", "lost", "idle"):
                fleet.beat(node, needs=what != "idle", is_lost=what == "lost")
            elif what == "fetch":
                fleet.fetch(node, chunks)
            elif what == "flush":
                fleet.flush()
            elif what == "restart":
                fleet.restart_tracker()
            elif what == "crash":
                fleet.crash(node)
            elif what == "remove":
                fleet.budgets.forget(node)
            else:
                # All are heard as it begins: what comes before the first heartbeat of a night counts for that night.
                fleet.night, before = str(int(fleet.night) + 1).zfill(3), fleet.fetched
                for one in fleet.nodes:
                    fleet.beat(one, needs=True, is_lost=True)
            assert fleet.fetched - before <= fleet.rule.bytes


def test_what_is_held_over_noon_counts_where_the_tracker_has_begun_anew() -> None:
    fleet = Fleet(1)
    for _ in range(2):
        fleet.beat("n0", needs=True, is_lost=False)
        fleet.flush()
    fleet.restart_tracker()
    fleet.night = "2"
    fleet.beat("n0", needs=True, is_lost=True)
    fleet.fetch("n0", 1000)
    assert fleet.fetched == LIMIT // CHUNK * CHUNK
    fleet.beat("n0", needs=True, is_lost=False)
    assert fleet.budgets.spent("cloud") == LIMIT


@pytest.mark.parametrize(("was", "now"), [("*", "http://cloud/*"), ("http://cloud/*", "*")])
def test_a_budget_that_is_for_other_origins_counts_what_comes_from_these_from_now_on(was: str, now: str) -> None:
    fleet = Fleet(2)
    for node in fleet.nodes:
        fleet.nodes[node].add("http://elsewhere/film", kept=50 * LIMIT)
    fleet.rule = BudgetRule("cloud", LIMIT, was)
    for _ in range(2):
        fleet.beat("n0", needs=True, is_lost=False)
        fleet.flush()
    fleet.fetch("n0", 10)
    fleet.beat("n0", needs=False, is_lost=False)
    fleet.beat("n0", needs=False, is_lost=False)
    assert fleet.budgets.spent("cloud") == 10 * CHUNK
    fleet.rule = BudgetRule("cloud", LIMIT, now)
    for _ in range(2):
        for node in fleet.nodes:
            fleet.beat(node, needs=True, is_lost=False)
            fleet.fetch(node, 100)
        fleet.flush()
    assert LIMIT - 2 * CHUNK <= fleet.fetched <= LIMIT


async def test_a_node_that_is_to_say_all_again_is_not_judged_before_it_has(tmp_path: Path, make: Any) -> None:
    text = '[[budgets]]\nname = "cloud"\norigins = "http://cloud/*"\nbytes = 1000\n'
    async with service_on(tmp_path / "db") as service:
        await apply_policy(service, PolicyRequest(text))
        report = make.report(make.info("a1"), 7)
        report.since, report.allowances = 6, [Allowance("other", "*", 5)]
        reply = service.handle_heartbeat("a1", report)
        assert (reply.again, reply.allowances) == (True, report.allowances)
        report = make.report(make.info("a1"), 8)
        report.origins = [OriginReport("http://cloud/film", bytes_kept=5000)]
        assert not service.handle_heartbeat("a1", report).again
        assert service.budgets.spent("cloud") == 0, "what it had before the tracker knew it is of another time"


def test_a_node_that_holds_what_none_is_given_is_believed_no_more_than_a_lease() -> None:
    budgets = Budgets({})
    for night in ("1", "2"):
        held = [Allowance("cloud", RULE.origins, 1 << 62)]
        budgets.renew([(RULE, TERMS["cloud"])], night, "n0", "x", [], held, needs=False)
        assert budgets.spent("cloud") <= module.LEASE_MAX


def test_a_heartbeat_costs_the_same_in_a_fleet_of_any_size() -> None:
    looked_at = 0

    class Counted(dict[str, Any]):
        def values(self) -> Any:
            nonlocal looked_at
            looked_at += len(self)
            return super().values()

    fleet = Fleet(300)
    for node in fleet.nodes:
        fleet.beat(node, needs=True, is_lost=False)
    ledger = fleet.budgets._ledgers["cloud"]
    ledger._leases = Counted(ledger._leases)
    for node in fleet.nodes:
        fleet.beat(node, needs=True, is_lost=False)
    assert looked_at <= len(fleet.nodes)


def test_what_is_not_needed_comes_back() -> None:
    fleet = Fleet(2)
    for _ in range(2):
        fleet.beat("n0", needs=True, is_lost=False)
        fleet.flush()
    fleet.fetch("n0", 10)
    assert fleet.budgets.spent("cloud") == LIMIT, "it was given all there is"
    fleet.beat("n1", needs=True, is_lost=False)
    fleet.fetch("n1", 10)
    assert fleet.fetched == 10 * CHUNK
    for _ in range(2):
        fleet.beat("n0", needs=False, is_lost=False)
    assert fleet.budgets.spent("cloud") == 10 * CHUNK
    fleet.beat("n1", needs=True, is_lost=False)
    fleet.fetch("n1", 10)
    assert fleet.fetched == 20 * CHUNK


def test_what_is_on_its_way_counts_and_a_lower_allowance_lets_it_come() -> None:
    counts = OriginCounts()
    counts.set_budgets(TERMS)
    counts.set_allowances([Allowance("cloud", "http://cloud/*", 3 * CHUNK)])
    assert [counts.begin_read(ORIGIN, CHUNK) for _ in range(4)] == ["", "", "", "cloud"]
    assert not counts.begin_read("http://elsewhere/", CHUNK), "no budget is for that"
    counts.set_allowances([Allowance("cloud", "http://cloud/*", 0)])
    assert counts.allowances() == [Allowance("cloud", "http://cloud/*", 3 * CHUNK)]
    counts.add(ORIGIN, wasted=2)
    counts.end_read(ORIGIN, CHUNK)
    assert counts.begin_read(ORIGIN, CHUNK) == "cloud", "what was wasted counts"
    assert not counts.begin_read(ORIGIN, CHUNK - 2)


def test_without_an_allowance_nothing_comes() -> None:
    """Nor where the one that is there is for the origins that the budget had before."""
    counts = OriginCounts()
    counts.set_budgets(TERMS)
    assert counts.begin_read(ORIGIN, CHUNK) == "cloud"
    assert not counts.begin_read("http://elsewhere/", CHUNK)
    counts.set_allowances([Allowance("cloud", "http://old/*", 9 * CHUNK)])
    assert counts.begin_read(ORIGIN, CHUNK) == "cloud"
    counts.set_allowances([Allowance("cloud", "http://cloud/*", CHUNK)])
    assert [counts.begin_read(ORIGIN, CHUNK) for _ in range(2)] == ["", "cloud"]


def test_a_budget_of_next_to_no_money_is_handed_out() -> None:
    """Of an origin so cheap that a whole lease costs a millionth."""
    rule, prices = BudgetRule("cloud", 0, "http://cloud/*", money=100 / MILLIONTHS), Prices(
        "EUR", [Price("http://cloud/", per_gb=1 / MILLIONTHS)]
    )
    terms, fleet, came = rule.terms(prices), Budgets({}), 0
    counts = OriginCounts()
    counts.set_budgets({"cloud": terms})
    for _ in range(100):
        for _ in range(2):
            counts.set_allowances(
                fleet.renew([(rule, terms)], "1", "a1", "1", counts.totals(), counts.allowances(), needs=True)
            )
            fleet.note_reserved(fleet.to_reserve())
        while not counts.begin_read(ORIGIN, 10**8):
            counts.add(ORIGIN, requests=1, kept=10**8)
            counts.end_read(ORIGIN, 10**8)
            came += 10**8
    assert 99 * 10**9 <= came <= 100 * 10**9


def test_a_budget_that_was_taken_out_and_comes_back_begins_with_what_it_had_spent() -> None:
    budgets, terms = Budgets({}), RULE.terms(PRICES)

    def beat(night: str, used: int) -> int:
        counts = [OriginReport(ORIGIN, bytes_kept=used)]
        for _ in range(2):
            (given,) = budgets.renew([(RULE, terms)], night, "a1", "1", counts, [], needs=True)
            budgets.note_reserved(budgets.to_reserve())
        return given.amount

    beat("1", 0)
    assert budgets.spent("cloud") == LIMIT
    budgets.keep(())
    assert budgets.spent("cloud") == LIMIT
    assert beat("5", 70 * LIMIT) == 71 * LIMIT, "what came while there was none is not its"


def test_budgets_of_any_names_are_counted_apart() -> None:
    names = [BudgetRule("bill", money=1.0), BudgetRule("bill (money)", 5), BudgetRule("bill", 5, tier="regional")]
    names += [BudgetRule("bill", 5), BudgetRule("bill (regional)", 5)]
    assert len({rule.ledger for rule in names}) == len(names)


async def test_the_tracker_reserves_before_it_gives_and_starts_anew_with_that(tmp_path: Path, make: Any) -> None:
    text = '[[budgets]]\nname = "cloud"\norigins = "http://cloud/*"\nbytes = 1000\n'
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 4)
        report = make.report(make.info("a1"), 1)
        assert service.handle_heartbeat("a1", report).allowances == []
        await apply_policy(service, PolicyRequest(text))
        await service.add_fill(FillRequest(title, "all", ["http://cloud/film"]))
        report.sequence, report.since, report.origins = 2, 1, [OriginReport("http://cloud/film", bytes_kept=300)]
        first = service.handle_heartbeat("a1", report)
        assert first.allowances == [Allowance("cloud", "http://cloud/*", 300)], "nothing is reserved yet"
        await service.flush()
        report.sequence, report.since, report.allowances = 3, 2, first.allowances
        assert service.handle_heartbeat("a1", report).allowances == [Allowance("cloud", "http://cloud/*", 1300)]
    async with service_on(tmp_path / "db") as service:
        assert service.budgets.spent("cloud") == 1000
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "pattern", ["https://cloud.example/*", "https://Cloud.Example/*", "https://cloud.example:443/*"]
)
@pytest.mark.parametrize("url", ["https://cloud.example", "https://CLOUD.example", "https://cloud.example:443"])
def test_a_budget_and_a_price_go_by_the_host_however_it_is_spelled(pattern: str, url: str) -> None:
    """All of them lead to the same server. A path is another one in other letters."""
    assert BudgetTerms(pattern).fits(f"{url}/Film")
    assert not BudgetTerms(pattern + "film").fits(f"{url}/Film")
    assert Price(pattern.rstrip("*")).fits(f"{url}/Film")
    terms = BudgetRule("bill", origins=pattern, money=1.0).terms(Prices("EUR", [Price("https://cloud.example/", 1.0)]))
    assert terms.amount(OriginReport(f"{url}/Film", bytes_kept=10**9)) == MILLIONTHS


@pytest.mark.parametrize(
    "url", ["https://cloud.example:8443/film", "http://cloud.example:443/film", "http://cloud.example/"]
)
def test_another_port_or_scheme_is_another_origin(url: str) -> None:
    assert not BudgetTerms("https://cloud.example/*").fits(url)
    assert not Price("https://cloud.example/").fits(url)


@pytest.mark.parametrize(
    ("pattern", "url"),
    [
        ("https://*.example:443/*", "https://cloud.example:443/film"),
        ("https://*Film*", "https://cloud.example/a/Film/1"),
        ("*.Example/*", "https://cloud.Example/film"),
    ],
)
def test_what_comes_after_a_star_fits_as_it_is_written(pattern: str, url: str) -> None:
    assert BudgetTerms(pattern).fits(url)
