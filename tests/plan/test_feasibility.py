"""The proof that a night fits, or not: beside a linear program and the simulator, in words, and what would help."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.planner.feasibility import (
    MB,
    MIDNIGHT,
    Case,
    Draw,
    beside_least,
    beside_simulator,
    fleet,
    most_by_program,
    named,
    one_by_program,
    placement,
    planted_night,
    quantiles,
    small_night,
    spelled,
)
from p2pfill.cli.planned_night import predict, rehearse
from p2pfill.errors import ConfigError
from p2pfill.model.windows import at_utc, read_windows
from p2pfill.plan.feasibility import network as network_module
from p2pfill.plan.feasibility.bounds import in_turn, stages
from p2pfill.plan.feasibility.feasibility import Verdict, check
from p2pfill.plan.feasibility.flow import Level, solve
from p2pfill.plan.feasibility.needs import Demand, demand_of, demand_of_bytes, needs_of
from p2pfill.plan.feasibility.network import Network, Night, Origin, Span, night_budget, night_spans, timeline
from p2pfill.plan.feasibility.remedies import drop, min_knapsack, remedies

HOUR = 3600.0
TB = 10**12
TIB = 1 << 40
PAIRS_FEW = 300
NIGHT = Night(MIDNIGHT, MIDNIGHT + 8 * HOUR, MIDNIGHT + 24 * HOUR)


@st.composite
def draws(draw: st.DrawFn) -> Draw:
    """Draw whatever a maker of nights asks for."""
    return lambda low, high: draw(st.integers(low, high))


@st.composite
def nights(draw: st.DrawFn) -> Case:
    return small_night(draw(draws()))


def some_night(seed: int, **how: Any) -> Case:
    chance = np.random.default_rng(seed)
    return small_night(lambda low, high: int(chance.integers(low, high + 1)), **how)


def at_or_never(verdict: Verdict) -> float:
    return np.inf if verdict.finish is None else verdict.finish


def one_isp(missing: list[float], distinct: float, uplink: float, **more: Any) -> tuple[Network, Demand]:
    """Return caches of one ISP that are open from 02:00 to 06:00, with bytes missing of each."""
    caches = fleet([0] * len(missing), [0], [1e10] * len(missing))
    spans = tuple((Span(MIDNIGHT + 2 * HOUR, MIDNIGHT + 6 * HOUR),) for _ in missing)
    facts: dict[str, Any] = {
        "caches": caches, "spans": spans, "uplink": np.array([uplink]), "region_uplink": np.array([np.inf]),
        "origins": (Origin("cloud"),),
    }  # fmt: skip
    network = Network(**(facts | more))
    group = np.array([int(distinct)], np.int64)
    return network, demand_of_bytes(network, np.array(missing).astype(np.int64), group, group, int(distinct))


# ---- what is counted


def test_an_isp_of_ten_caches_needs_its_distinct_bytes_once_over_its_uplink() -> None:
    network, demand = one_isp([2.68 * TB] * 10, 0.84 * TB, 0.85 * TB / (4 * HOUR))
    assert demand.missing.sum() == 26.8 * TB
    assert check(network, demand, NIGHT).fits
    network, demand = one_isp([2.68 * TB] * 10, 0.84 * TB, 0.8 * TB / (4 * HOUR))
    (shortage,) = check(network, demand, NIGHT).shortages
    assert shortage.need == 0.84 * TB
    assert shortage.short == pytest.approx(0.04 * TB, rel=0.02)


def test_a_cut_is_put_into_words() -> None:
    network, demand = one_isp([5 * TIB, 5 * TIB], 5 * TIB, 4.25 * TIB / (4 * HOUR + 10))
    (shortage,) = check(network, demand, NIGHT).shortages
    assert shortage.text == (
        "ISP 64500: caches a0 and a1 need 5 TiB, the uplink carries 4.25 TiB between 02:00 and 06:00 UTC; short 768 GiB"
    )
    assert (shortage.begin, shortage.end) == (MIDNIGHT + 2 * HOUR, MIDNIGHT + 6 * HOUR)


def test_disks_and_budgets_are_named() -> None:
    network, demand = one_isp(
        [2 * TIB, 2 * TIB], 2 * TIB, np.inf, room=np.array([3 * TIB, TIB]), budget=np.array([TIB, 1e15])
    )
    verdict = check(network, demand, NIGHT)
    assert named(verdict) == {("disk", (1,)), ("budget", (0,))}
    assert "its disk has room for 1 TiB" in verdict.shortages[0].text


def test_what_reaches_an_isp_after_a_cache_has_closed_is_too_late_for_it_though_all_together_fits() -> None:
    network, demand = one_isp([1e9, 1e9], 1e9, 1e9 / (3 * HOUR))
    early = (Span(MIDNIGHT + 2 * HOUR, MIDNIGHT + 3 * HOUR),)
    network = network.with_spans((early, network.spans[1]))
    needs_all = replace(demand, nested=np.stack([demand.nested[3]] * 4))
    assert solve(network, needs_all, timeline(network, NIGHT), NIGHT.deadline, Level.WORLD).short == 0
    (shortage,) = check(network, needs_all, NIGHT).shortages
    assert (shortage.where, shortage.owners) == ("late", (0,))
    assert shortage.short == pytest.approx(2e9 / 3, rel=0.01)


@given(nights())
@settings(max_examples=60)
def test_what_is_missing_is_counted_as_sets_have_it(case: Case) -> None:
    network, needs, demand = case.network, case.needs, case.demand
    size, isp, region = needs.size, network.isp, network.region
    lacks = {(int(cache), int(file)) for cache, file in zip(needs.cache, needs.file, strict=True)}
    holds = {(cache, int(file)) for cache in range(len(isp)) for file in case.held.of(cache)}
    assert not lacks & holds

    def distinct(group: Any) -> dict[Any, set[int]]:
        found: dict[Any, set[int]] = {}
        for cache, file in lacks:
            if not any(group(other) == group(cache) and had == file for other, had in holds):
                found.setdefault(group(cache), set()).add(file)
        return found

    def bytes_of(files: Any) -> int:
        return sum(int(size[file]) for file in files)

    of_isps, of_regions = distinct(lambda cache: int(isp[cache])), distinct(lambda cache: int(region[cache]))
    of_world = distinct(lambda _: 0).get(0, set())
    assert list(demand.isp) == [bytes_of(of_isps.get(one, ())) for one in range(len(network.uplink))]
    assert list(demand.region) == [bytes_of(of_regions.get(one, ())) for one in range(len(network.region_uplink))]
    assert demand.world.sum() == bytes_of(of_world)
    for one, files in of_isps.items():
        others = [isp_ for isp_ in of_isps if isp_ != one and network.caches.region[isp_] == network.caches.region[one]]
        alone = {file for file in files if file in of_regions.get(int(network.caches.region[one]), ())}
        assert demand.isp_alone[one] == bytes_of(alone - set().union(*(of_isps[other] for other in others)))
    for one, files in of_regions.items():
        others = [of_regions[other] for other in of_regions if other != one]
        assert demand.region_alone[one] == bytes_of((files & of_world) - set().union(*others))
    for cache in range(len(isp)):
        mine = {file for one, file in lacks if one == cache}
        peers = {file for one, file in lacks if one != cache and isp[one] == isp[cache]}
        into = of_isps.get(int(isp[cache]), set())
        expected = [mine & of_world, mine & of_regions.get(int(region[cache]), set()), mine & into, mine]
        assert list(demand.nested[:, cache]) == [bytes_of(files) for files in expected]
        assert demand.alone[cache] == bytes_of((mine & into) - peers)


# ---- the bound


@given(nights())
@settings(max_examples=25)
def test_the_flow_is_as_large_as_the_linear_program_says_and_the_finish_is_where_it_is_whole(case: Case) -> None:
    demand, deadline = case.demand, case.night.deadline
    need = float(demand.missing.sum())
    flow = solve(case.network, demand, timeline(case.network, case.night), deadline, Level.WORLD)
    assert need - flow.short == pytest.approx(most_by_program(case, deadline), rel=1e-6, abs=100)
    verdict = check(case.network, demand, case.night)
    assert verdict.fits == (at_or_never(verdict) <= deadline)
    if verdict.finish is None:
        return
    assert most_by_program(case, verdict.finish + 1e-3) >= need * (1 - 1e-6) - 100
    if "share" in verdict.kept_by:
        assert most_by_program(case, verdict.finish - 1) < need


@given(nights(), st.data())
@settings(max_examples=25)
def test_what_reaches_one_cache_is_what_the_linear_program_says(case: Case, data: st.DataObject) -> None:
    network, demand = case.network, case.demand
    line = timeline(network, case.night)
    cache = data.draw(st.integers(0, len(network.spans) - 1))
    found = in_turn(network, demand, line, stages(network, demand, line))
    edge = int(np.searchsorted(line.edges, case.night.deadline))
    expected = one_by_program(case, cache, case.night.deadline)
    assert found.arrived[cache, edge] == pytest.approx(expected, rel=1e-6, abs=10)
    if np.isfinite(at := float(found.at[cache])) and at > MIDNIGHT + 1:
        assert one_by_program(case, cache, at - 0.5) < demand.missing[cache] * (1 - 1e-9)
        assert one_by_program(case, cache, at + 1e-3) >= demand.missing[cache] * (1 - 1e-6)


@given(nights(), st.data())
@settings(max_examples=40)
def test_more_capacity_never_makes_it_worse(case: Case, data: st.DataObject) -> None:
    network, demand, night = case.network, case.demand, case.night
    before = check(network, demand, night)
    factors = st.floats(1, 4)

    def more(rates: Any) -> Any:
        return rates * np.array([data.draw(factors) for _ in rates])

    caches = replace(network.caches, filling=more(network.caches.filling))
    origins = tuple(replace(origin, rate=origin.rate * data.draw(factors)) for origin in network.origins)
    sending = None if network.sending is None else more(network.sending)
    spans = tuple(
        tuple(Span(max(begin - data.draw(st.integers(0, 600)), MIDNIGHT), end, rate) for begin, end, rate in row[:1])
        + row[1:]
        for row in network.spans
    )
    wider = replace(
        network, caches=caches, uplink=more(network.uplink), region_uplink=more(network.region_uplink), origins=origins,
        sending=sending, spans=spans,
    )  # fmt: skip
    after = check(wider, demand, night)
    assert at_or_never(after) <= at_or_never(before) + 1
    assert after.fits or not before.fits


@given(nights(), st.floats(0.05, 1))
@settings(max_examples=30)
def test_less_of_every_file_never_makes_it_worse(case: Case, part: float) -> None:
    before = check(case.network, case.demand, case.night)
    less = replace(case.needs, size=np.maximum((case.needs.size * part).astype(np.int64), 1))
    after = check(case.network, demand_of(case.network, less), case.night)
    assert at_or_never(after) <= at_or_never(before) + 1
    assert after.fits or not before.fits


def test_a_copy_that_is_given_up_can_make_others_later() -> None:
    """While the second cache is closed the first one takes in what both lack: without its need nothing would come."""
    caches = fleet([0, 0], [0], [3.0 * MB] * 2)
    always, pauses = (
        Span(MIDNIGHT, MIDNIGHT + HOUR),
        (Span(MIDNIGHT, MIDNIGHT + 60), Span(MIDNIGHT + 120, MIDNIGHT + HOUR)),
    )
    nothing = np.array([np.inf])
    network = Network(caches, ((always,), pauses), nothing, nothing, (Origin("cloud", MB / 4),))
    size, held = np.array([60 * MB], np.int64), placement([[], []])
    both, one = (needs_of(network, size, placement(wanted), held) for wanted in ([[0], [0]], [[], [0]]))
    assert check(network, demand_of(network, both), NIGHT).finish == pytest.approx(MIDNIGHT + 240, abs=1)
    assert check(network, demand_of(network, one), NIGHT).finish == pytest.approx(MIDNIGHT + 290, abs=1)


@given(nights(), st.sampled_from([1e-3, 7.0, 2e7]))
@settings(max_examples=25)
def test_units_do_not_matter(case: Case, factor: float) -> None:
    """Twenty million times such a night are more bytes than fit into 64 bits, in all buckets together."""
    network = case.network
    scaled = replace(
        network,
        caches=replace(network.caches, filling=network.caches.filling * factor),
        uplink=network.uplink * factor,
        region_uplink=network.region_uplink * factor,
        origins=tuple(replace(origin, rate=origin.rate * factor) for origin in network.origins),
        sending=None if network.sending is None else network.sending * factor,
        spans=tuple(tuple(span._replace(rate=span.rate * factor) for span in row) for row in network.spans),
    )
    needs = replace(case.needs, size=np.round(case.needs.size * factor).astype(np.int64))
    one = check(network, case.demand, case.night)
    other = check(scaled, demand_of(scaled, needs), case.night)
    assert named(one) == named(other)
    if one.finish is None or other.finish is None:
        assert one.finish is other.finish
    else:
        assert one.finish == pytest.approx(other.finish, abs=2)


@given(nights())
@settings(max_examples=25)
def test_buckets_of_equal_length_are_no_tighter_than_those_of_the_spans(case: Case) -> None:
    exact = check(case.network, case.demand, case.night)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network_module, "BUCKETS_MAX", 5)
        coarse = check(case.network, case.demand, case.night)
    assert at_or_never(coarse) <= at_or_never(exact) + 1
    assert coarse.fits or not exact.fits


@pytest.mark.parametrize("seed", range(24))
def test_planted_bottlenecks_are_named_and_nothing_else(seed: int) -> None:
    chance = np.random.default_rng(seed)
    case, expected = planted_night(lambda low, high: int(chance.integers(low, high + 1)), seed % 4)
    assert named(check(case.network, case.demand, case.night)) == expected


def test_a_network_that_cannot_be_is_refused() -> None:
    network, _ = one_isp([1e9], 1e9, 1e6)
    for wrong in ({"uplink": np.array([-1.0])}, {"uplink": np.array([1.0, 2.0])}, {"origins": ()}, {"spans": ()}):
        with pytest.raises(ConfigError):
            replace(network, **wrong)


# ---- beside the simulator


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 5, 6])
def test_nothing_that_the_simulator_completes_is_called_impossible(seed: int) -> None:
    case = some_night(seed, minutes=6, unit=MB // 2, origins_max=1)
    network = replace(case.network, region_uplink=np.full_like(case.network.region_uplink, np.inf))
    demand = demand_of(network, case.needs)
    found = predict(network, case.needs, case.held, case.night)
    if found.finish is None:
        return
    assert at_or_never(check(network, demand, case.night)) <= found.finish
    assert check(network, demand, case.night._replace(deadline=found.finish)).fits


def big_night() -> Case:
    """Return a night of twelve caches, each of which lacks terabytes, in files that differ in who needs them."""
    chance = np.random.default_rng(5)
    isp_of = [0] * 4 + [1] * 4 + [2] * 4
    caches = fleet(isp_of, [0, 0, 1], [250e6] * 12)
    size = chance.integers(10, 60, 200) * 10**9
    target = placement([sorted(chance.choice(200, 60, replace=False).tolist()) for _ in isp_of])
    held = placement([sorted(chance.choice(200, 10, replace=False).tolist()) for _ in isp_of])
    spans = tuple((Span(MIDNIGHT + HOUR, MIDNIGHT + 20 * HOUR, 200e6),) for _ in isp_of)
    network = Network(caches, spans, np.full(3, 150e6), np.full(2, np.inf), (Origin("cloud", 300e6),))
    return Case(network, needs_of(network, size, target, held), held, NIGHT._replace(deadline=MIDNIGHT + 20 * HOUR))


def test_a_night_of_terabytes_is_predicted_in_few_chunks() -> None:
    case = big_night()
    rehearsal = rehearse(case.network, case.needs, case.held, case.night, pairs=PAIRS_FEW)
    chunks = sum(title.manifest().chunk_count * len(title.caches) for title in rehearsal.scenario.titles)
    assert chunks <= 2 * PAIRS_FEW
    assert rehearsal.speed > 10
    assert len(rehearsal.notes) == 2
    verdict = check(case.network, case.demand, case.night)
    found = predict(case.network, case.needs, case.held, case.night, pairs=PAIRS_FEW)
    assert verdict.finish is not None
    assert found.finish is not None
    assert found.caches == found.complete == 12
    assert verdict.finish - MIDNIGHT <= (found.finish - MIDNIGHT) * 1.05 <= 1.6 * (verdict.finish - MIDNIGHT)


def test_spans_of_different_rates_become_windows_of_the_clock() -> None:
    network, _ = one_isp([1e8], 1e8, np.inf)
    spans = (Span(MIDNIGHT + 60, MIDNIGHT + 120, 1e6), Span(MIDNIGHT + 180, MIDNIGHT + 86400, 2e6))
    network = network.with_spans((spans,))
    held = placement([[]])
    needs = needs_of(network, np.array([100 * MB]), placement([[0]]), held)
    found = predict(network, needs, held, NIGHT)
    assert found.finish is not None
    # 60 s at 1 MB/s and 20 s at 2 MB/s
    assert found.finish - MIDNIGHT == pytest.approx(200, rel=0.05)


def test_more_caches_than_are_simulated_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfill.cli.planned_night.CACHES_MAX", 3)
    case = big_night()
    with pytest.raises(ConfigError, match="12 caches are more than"):
        predict(case.network, case.needs, case.held, case.night)


# ---- hours


@pytest.mark.parametrize(
    ("start", "hours"),
    [("2026-10-24T12:00:00", 3), ("2026-03-28T12:00:00", 1), ("2026-11-29T12:00:00", 2)],
    ids=["clocks are set back", "clocks are set forward", "no change"],
)
def test_a_night_has_the_hours_that_its_clock_shows(start: str, hours: int) -> None:
    begin = at_utc(start)
    (span,) = night_spans(read_windows("Europe/Berlin 02:00,100M 04:00,off"), begin, begin + 86400)
    assert span.end - span.begin == hours * HOUR
    assert span.rate == 100 * 1024**2


def test_windows_are_cut_at_the_ends_of_a_night_and_change_their_rate() -> None:
    windows = read_windows("22:00,100M 02:00,max 05:00,off")
    spans = night_spans(windows, MIDNIGHT + HOUR, MIDNIGHT + 23 * HOUR)
    assert [(span.begin - MIDNIGHT, span.end - MIDNIGHT) for span in spans] == [
        (HOUR, 2 * HOUR), (2 * HOUR, 5 * HOUR), (22 * HOUR, 23 * HOUR),
    ]  # fmt: skip
    assert [span.rate for span in spans] == [100 * 1024**2, np.inf, 100 * 1024**2]
    assert night_spans(read_windows({}), MIDNIGHT, MIDNIGHT + 9) == (Span(MIDNIGHT, MIDNIGHT + 9),)


def test_budgets_are_of_a_night_and_of_a_window() -> None:
    of_window, of_night = "02:00,max,5G 08:00,off", {"timetable": "02:00,max 08:00,off", "budget": "3G"}
    for nights_ in (1, 2):
        end = MIDNIGHT + nights_ * 86400
        late = 2e9 * nights_
        assert night_budget(read_windows(of_window), MIDNIGHT, end, 1e9) == 5 * 1024**3 * nights_ + late
        assert night_budget(read_windows(of_night), MIDNIGHT, end, 1e9) == 3 * 1024**3 * nights_ + late
    assert night_budget(read_windows("02:00,max 08:00,off"), MIDNIGHT, MIDNIGHT + 86400, 1e9) == np.inf


def test_a_window_in_which_a_night_ends_has_the_budgets_of_two() -> None:
    windows = read_windows({"timetable": "10:00,max 14:00,off", "budget": "3G"})
    late = 2e9
    assert night_budget(windows, MIDNIGHT, MIDNIGHT + 86400, 1e9) == 2 * (3 * 1024**3 + late)
    # Of the second night there is a minute only.
    assert night_budget(windows, MIDNIGHT, MIDNIGHT + 12 * HOUR + 60, 1e8) == 3 * 1024**3 + late / 10 + min(
        60e8, 3 * 1024**3 + late / 10
    )


# ---- what helps


@given(nights())
@settings(max_examples=25, deadline=None)
def test_what_is_left_after_dropping_fits_and_is_worth_what_is_said(case: Case) -> None:
    found = drop(case.network, case.needs, case.night)
    assert found.fits
    assert check(case.network, demand_of(case.network, found.needs), case.night).fits
    assert len(found.needs.cache) + len(found.rows) == len(case.needs.cache)
    assert found.lost == case.needs.worth[found.rows].sum()
    if check(case.network, case.demand, case.night).fits:
        assert not len(found.rows)


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=9), st.integers(1, 60))
def test_a_cover_is_worth_at_most_twice_the_least(items: list[tuple[int, int]], amount: int) -> None:
    size, worth = (np.array(part, np.float64) for part in zip(*items, strict=True))
    taken = min_knapsack(size, worth, amount)
    covers = [
        sum(worth[list(chosen)])
        for bits in product((False, True), repeat=len(items))
        if sum(size[list(chosen := [place for place, is_in in enumerate(bits) if is_in])]) >= amount
    ]
    if not covers:
        assert len(taken) == len(items)
        return
    assert size[taken].sum() >= amount
    assert worth[taken].sum() <= 2 * min(covers)


def test_of_an_uplink_the_least_valuable_file_is_given_up_by_all_of_its_isp() -> None:
    caches = fleet([0, 0], [0], [1e10] * 2)
    network = Network(
        caches, ((Span(MIDNIGHT, MIDNIGHT + HOUR),),) * 2, np.array([70.0 * MB]), np.array([np.inf]), (Origin("cloud"),)
    )
    size = np.array([100, 100, 100], np.int64) * 10**9
    both = placement([[0, 1, 2], [0, 1, 2]])
    value = np.array([5.0, 1.0, 3.0, 5.0, 4.5, 3.0])
    held = placement([[], []])
    needs = needs_of(network, size, both, held, value)
    found = drop(network, needs, Night(MIDNIGHT, MIDNIGHT + HOUR, MIDNIGHT + HOUR))
    assert found.fits
    assert found.lost == 5.5
    assert set(needs.file[found.rows]) == {1}


@pytest.mark.parametrize("seed", range(8))
def test_each_remedy_ends_its_shortage_and_less_of_it_does_not(seed: int) -> None:
    chance = np.random.default_rng(100 + seed)
    case, expected = planted_night(lambda low, high: int(chance.integers(low, high + 1)), 1)
    network, demand, night = case.network, case.demand, case.night._replace(deadline=MIDNIGHT + 23 * HOUR)
    (shortage,) = check(network, demand, night).shortages
    found = {remedy.what: remedy for remedy in remedies(network, demand, night, shortage)}
    assert "end later" in found

    def widened(seconds: float) -> Network:
        spans = list(network.spans)
        for cache in shortage.caches:
            ((begin, end, rate),) = spans[cache]
            spans[cache] = (Span(begin, end + seconds, rate),)
        return network.with_spans(tuple(spans))

    seconds = found["end later"].amount
    assert not named(check(widened(seconds), demand, night))
    assert named(check(widened(seconds - 300), demand, night)) == expected
    (what,) = found.keys() - {"begin earlier", "end later"}
    rate = found[what].amount
    where, (owner,) = next(iter(expected))

    def raised(part: float) -> Network:
        def put(rates: Any) -> Any:
            return np.where(np.arange(len(rates)) == owner, rate * part, rates)

        if where == "hours":
            return replace(network, caches=replace(network.caches, filling=put(network.caches.filling)))
        if where == "isp":
            return replace(network, uplink=put(network.uplink))
        if where == "region":
            return replace(network, region_uplink=put(network.region_uplink))
        return replace(network, origins=(Origin("cloud", rate * part),))

    assert not named(check(raised(1.0), demand, night))
    assert named(check(raised(0.98), demand, night)) == expected


def test_a_full_disk_has_no_remedy_but_giving_up_and_a_budget_has() -> None:
    network, demand = one_isp(
        [2 * TIB, 2 * TIB], 2 * TIB, np.inf, room=np.array([3 * TIB, TIB]), budget=np.array([TIB, 1e15])
    )
    of_disk, of_budget = check(network, demand, NIGHT).shortages
    assert remedies(network, demand, NIGHT, of_disk) == ()
    (remedy,) = remedies(network, demand, NIGHT, of_budget)
    assert remedy.text == "let cache a0 have a budget of 2 TiB for the night"


def test_the_bench_says_what_it_has_found() -> None:
    completed, impossible, over = beside_simulator(2, 1)
    assert impossible == 0
    assert completed >= len(over)
    assert all(times >= 1 for times in over)
    assert all(times >= 1 - 1e-9 for times in beside_least(6, 1))
    assert quantiles([1.0, 2.0, 3.0]) == {"median": 2.0, "p90": 2.8, "max": 3.0}
    assert spelled({"median": 2.0, "max": 3.0}) == "median 2, max 3"
