"""Which windows are proposed for a load, and what they are as a policy."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from p2pfill.cli.plan import windows as windows_command
from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import RULES_MAX, parse_policy
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.windows import HOUR_S
from p2pfill.plan.history.history import History, Resources
from p2pfill.plan.hours.load import LoadForecast
from p2pfill.plan.hours.policy import MARK, as_policy
from p2pfill.plan.hours.windows import RATE_MIN, Proposal, WindowRules, of_caches, propose
from p2pfill.plan.inputs import read_fleet
from p2pfill.plan.tables import Caches, Catalogue, Floats

TB = 10**12
NOON = int(datetime(2026, 11, 30, 12, tzinfo=UTC).timestamp()) // HOUR_S
"""When the load ends and the forecasts begin."""


RULES = WindowRules()


def day(peak: float = 100.0, low: float = 10.0, idlest: int = 4) -> Floats:
    """Return what is served in the 24 hours from noon on, in terabytes, in UTC, least in one hour of the day."""
    away = np.abs((np.arange(12, 36) % 24 - idlest + 12) % 24 - 12)
    return low + (peak - low) * (away / 12) ** 2


def foreseen(*rows: Floats, names: tuple[str, ...] = (), first_hour: int = NOON) -> LoadForecast:
    """Return a forecast whose bands are as wide as a point; rows in terabytes an hour."""
    served = np.repeat(np.array(rows)[..., None] * TB, 5, axis=-1)
    names = names or tuple(f"c{row}" for row in range(len(rows)))
    return LoadForecast(names, first_hour, served, np.zeros(len(rows), np.bool_), np.ones(len(rows)))


def caches_of(count: int, serving: float = 125.0, filling: float = 1000.0, clusters: int = 1) -> Caches:
    """Return caches that can serve and fill so many terabytes an hour, in clusters in turn."""
    cluster = np.arange(count, dtype=np.int32) % clusters
    one = np.ones(count)
    return Caches(
        tuple(f"c{cache}" for cache in range(count)), tuple(f"k{number}" for number in range(clusters)), ("isp-a",),
        ("eu",), cluster, np.zeros(clusters, np.int32), np.zeros(1, np.int32), np.full(count, 10**12),
        one * serving * TB / HOUR_S, one * filling * TB / HOUR_S,
    )  # fmt: skip


def one(
    load: Floats, need: float, rules: WindowRules = RULES, zone: str = "UTC", first_hour: int = NOON,
    serving: float = 125.0, filling: float = 1000.0,
) -> Proposal:  # fmt: skip
    """Return the proposal for one cache; amounts are in terabytes."""
    said, needs = foreseen(load, first_hour=first_hour), np.array([int(need * TB)])
    return propose(said, caches_of(1, serving, filling), needs, (zone,), rules)[0]


def opened(proposal: Proposal) -> list[int]:
    """Return the hours of the day, in UTC, in which it is open."""
    return sorted((proposal.first_hour + hour) % 24 for hour, rate in enumerate(proposal.rates) if rate)


# ---- which window


def test_the_window_lies_around_the_hour_of_least_load() -> None:
    proposal = one(day(), 150)
    hours = opened(proposal)
    assert 4 in hours
    assert 2 <= len(hours) <= 8
    assert abs(np.mean(hours) - 4) <= 0.5
    assert proposal.windows is not None
    assert proposal.short == 0


def test_without_a_need_it_has_all_the_room_of_the_idlest_hours() -> None:
    proposal = one(day(), 0)
    assert opened(proposal) in ([3, 4], [4, 5])
    assert max(proposal.rates) * HOUR_S / TB == pytest.approx(125 * 0.8 - day()[17], rel=0.01)


def test_a_larger_need_has_a_longer_window() -> None:
    small, large = one(day(), 50), one(day(), 500)
    assert len(opened(small)) < len(opened(large))
    assert large.fits >= 500 * TB


def test_a_rate_is_what_the_need_takes_with_some_to_spare() -> None:
    proposal = one(day(), 150)
    assert 150 * 1.25 <= proposal.fits / TB <= 150 * 1.25 * 1.05


def test_a_cache_fills_no_faster_than_it_can() -> None:
    assert max(one(day(), 500, filling=40).rates) * HOUR_S <= 40 * TB


def test_bounds_are_kept_on_the_clock_of_the_cache() -> None:
    rules = WindowRules(earliest_min=22 * 60, latest_min=2 * 60)
    proposal = one(day(), 100, rules, "Europe/Berlin")
    assert set(opened(proposal)) <= {21, 22, 23, 0}
    assert proposal.line.startswith("Europe/Berlin ")
    assert one(day(), 100, WindowRules(earliest_min=60, latest_min=2 * 60)).line == ""


def test_two_windows_hold_what_one_cannot() -> None:
    """Two idle times of two hours, and a busy one between them."""
    load = np.full(24, 99.0)
    load[[6, 7, 15, 16]] = 20
    alone, both = one(load, 250), one(load, 250, WindowRules(parts_max=2))
    assert alone.short > 0
    assert "short" in alone.text
    assert both.short == 0
    assert opened(both) == [3, 4, 18, 19]
    assert both.windows is not None
    assert len(both.windows.windows) == 2


def test_one_window_does_where_it_can() -> None:
    assert one(day(), 150, WindowRules(parts_max=2)).line == one(day(), 150).line


def test_who_has_no_room_has_no_window() -> None:
    proposal = one(np.full(24, 110.0), 100)
    assert (proposal.line, proposal.windows, proposal.fits) == ("", None, 0)
    assert proposal.short == 100 * TB
    assert "no window leaves its headroom" in proposal.text
    load = np.full(24, 120.0)
    load[0] = 1.0
    later = one(load, 1, WindowRules(earliest_min=20 * 60, latest_min=23 * 60))
    assert "in the idlest one it may serve 31.0 GiB/s" in later.text, "not its idlest hour, which is at another time"
    assert "less than a day of its load is known" in one(np.full(24, np.nan), 100).text


def test_an_hour_that_is_not_known_is_not_used() -> None:
    load = day()
    load[16] = np.nan  # 04:00, the idlest
    assert 4 not in opened(one(load, 100))


def test_the_upper_edge_of_the_band_counts() -> None:
    served = np.repeat(day()[None, :, None] * TB, 5, axis=-1)
    served[..., 3] *= 1.5
    served[..., 4] *= 3
    wide = LoadForecast(("c0",), NOON, served, np.zeros(1, np.bool_), np.ones(1))
    upper, half = (
        propose(wide, caches_of(1), np.array([0]), rules=WindowRules(band=band))[0] for band in (0.9, 0.5)
    )  # fmt: skip
    least = day()[16:18].max()
    assert max(upper.rates) * HOUR_S / TB == pytest.approx(100 - 3 * least, rel=0.01)
    assert max(half.rates) * HOUR_S / TB == pytest.approx(100 - 1.5 * least, rel=0.01)


# ---- timetables


@settings(max_examples=120, deadline=None)
@given(
    load=st.lists(st.floats(0, 120), min_size=24, max_size=24), need=st.floats(0, 1500),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "America/St_Johns"]),
    first=st.one_of(
        st.integers(NOON, NOON + 9000),
        # Around the nights in which clocks are changed in Berlin, and in New York and St. John's.
        *[st.integers(hour - 26, hour + 26) for hour in (492_985, 498_025, 492_487, 498_198)],
    ),
    parts=st.integers(1, 2), band=st.tuples(st.integers(0, 23), st.integers(0, 23)), burden=st.sampled_from([1.0, 2.0]),
    least=st.integers(1, 4),
)  # fmt: skip
def test_the_timetable_opens_the_hours_that_leave_the_headroom_and_no_others(
    load: list[float], need: float, zone: str, first: int, parts: int, band: tuple[int, int], burden: float, least: int
) -> None:
    rules = WindowRules(
        parts_max=parts, earliest_min=band[0] * 60, latest_min=band[1] * 60, burden=burden, hours_min=least
    )  # fmt: skip
    proposal = one(np.array(load), need, rules, zone, first)
    assert proposal.short == max(0, int(need * TB) - proposal.fits)
    windows = proposal.windows
    if windows is None:
        return
    assert 1 <= len(windows.windows) <= parts
    assert least <= len(opened(proposal)) <= rules.hours_max
    for hour, rate in enumerate(proposal.rates):
        moments = [windows.at((first + hour) * HOUR_S + second) for second in range(0, HOUR_S, 900)]
        assert any(moment.is_open for moment in moments) == (rate > 0)
        # In Newfoundland clocks are changed amid an hour of UTC, so a part of one may be open.
        assert zone == "America/St_Johns" or len({moment.is_open for moment in moments}) == 1
        for moment in moments:
            assert not moment.is_open or windows.rates_of(moment.window).inbound.total == rate
        if rate:
            assert rate % RATE_MIN == 0
            assert load[hour] * TB + burden * rate * HOUR_S <= 125 * 0.8 * TB * (1 + 1e-9)
    assert proposal.share_with_headroom(np.array(load) * TB) == 1 or not proposal.need


def test_in_the_hour_that_comes_twice_it_is_open_twice() -> None:
    """In Berlin, on 2026-10-25, clocks go back from 03:00 to 02:00: 02:00 to 04:00 are three hours."""
    first = int(datetime(2026, 10, 24, 12, tzinfo=UTC).timestamp()) // HOUR_S
    load = np.full(24, 99.0)
    load[12:15] = 10  # from 00:00 to 03:00 in UTC
    proposal = one(load, 200, zone="Europe/Berlin", first_hour=first)
    assert opened(proposal) == [0, 1, 2]
    assert proposal.line.startswith("Europe/Berlin 02:00,")
    assert proposal.line.endswith(" 04:00,off")


# ---- how it turned out


def test_what_is_filled_beyond_the_headroom_is_told() -> None:
    proposal = one(day(), 150)
    assert proposal.share_with_headroom(day() * TB) == 1
    rates = np.array(proposal.rates)
    busy = day() * TB
    last = int(np.flatnonzero(proposal.fill())[-1])
    busy[last] = 125 * TB
    assert proposal.share_with_headroom(busy) == pytest.approx(1 - proposal.fill()[last] / (150 * TB))
    assert proposal.fill().sum() == pytest.approx(150 * TB)
    assert (proposal.fill() <= rates * HOUR_S).all()
    assert np.isnan(proposal.share_with_headroom(np.full(24, np.nan)))


# ---- caches and clusters


def test_of_its_cluster_a_cache_has_its_share() -> None:
    table = caches_of(3, clusters=2)
    table.serving[0] *= 3
    spread = of_caches(foreseen(day(), day() * 2, names=("k1", "k0")), table)
    assert spread.names == ("c0", "c1", "c2")
    assert spread.served[:, 0, 0] / TB == pytest.approx(day()[0] * np.array([2 * 0.75, 1, 2 * 0.25]))


def test_a_cache_without_a_load_is_named() -> None:
    with pytest.raises(ConfigError, match="no load of 'k0'"):
        of_caches(foreseen(day(), names=("k1",)), caches_of(2, clusters=2))
    with pytest.raises(ValueError, match="do not fit"):
        propose(foreseen(day()), caches_of(1), np.array([1, 2]))


@pytest.mark.parametrize(
    "wrong",
    [
        {"headroom": 1.0}, {"earliest_min": 1440}, {"hours_min": 3, "hours_max": 2}, {"parts_max": 3}, {"spare": 0.5},
        {"burden": 0.0},
    ],
)  # fmt: skip
def test_rules_that_cannot_be_kept_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        WindowRules(**wrong)  # type: ignore[arg-type]


# ---- policies


def node(cache: str, cluster: str = "k0", isp: str = "isp-a") -> NodeInfo:
    return NodeInfo(NodeId(cache), isp, "eu", cluster)


def proposals_of(count: int, clusters: int = 1) -> list[Proposal]:
    """Return proposals for caches; those of a cluster have the same load."""
    table = caches_of(count, clusters=clusters)
    rows = [day(idlest=int(cluster) % 24) for cluster in table.cluster]
    return propose(foreseen(*rows), table, np.full(count, 100 * TB), (), WindowRules())


def test_each_cache_has_its_windows_by_the_policy() -> None:
    proposals = proposals_of(12, clusters=3)
    policy = parse_policy(as_policy(proposals))
    assert len(policy.caches) == 3
    for proposal in proposals:
        rule = policy.rule_for(node(proposal.cache, proposal.cluster))
        assert rule is not None
        assert rule.windows == proposal.windows


def test_a_cluster_of_which_one_cache_has_no_window_is_not_named() -> None:
    table = caches_of(3)
    table.serving[2] = 1.0
    proposals = propose(foreseen(day(), day(), day()), table, np.full(3, 100 * TB))
    policy = parse_policy(as_policy(proposals))
    assert policy.rule_for(node("c2")) is None
    assert policy.rule_for(node("c0")) == policy.rule_for(node("c1")) != None  # noqa: E711


def test_what_people_wrote_stays_and_an_earlier_plan_goes() -> None:
    base = (
        '# ours\n[[caches]]\nname = "all"\nwindows = "01:00,max 02:00,off"\n\n[[fills]]\nname = "f"\nhops = ["isp"]\n'
    )
    first = as_policy(proposals_of(4, clusters=2), base)
    second = as_policy(proposals_of(4), first)
    assert second.endswith(base)
    assert second.count(MARK) == 1
    policy = parse_policy(second)
    assert [rule.name for rule in policy.caches] == ["planned-1", "all"]
    rule = policy.rule_for(node("another", "k9"))
    assert rule is not None
    assert rule.name == "all"
    assert policy.fills[0].name == "f"


def test_of_very_many_different_caches_rates_are_made_alike() -> None:
    """More rules than a policy may have: rates go down, never up."""
    count = 3 * RULES_MAX
    needs = (np.linspace(50, 400, count) * TB).astype(np.int64)
    table = caches_of(count, clusters=count)
    proposals = propose(foreseen(*[day()] * count), table, needs)
    assert len({proposal.line for proposal in proposals}) > RULES_MAX
    policy = parse_policy(as_policy(proposals))
    assert len(policy.caches) <= RULES_MAX
    for proposal in proposals:
        rule = policy.rule_for(node(proposal.cache, proposal.cluster))
        assert rule is not None
        assert rule.windows is not None
        assert proposal.windows is not None
        for planned, written in zip(proposal.windows.windows, rule.windows.windows, strict=True):
            assert planned.start_min == written.start_min
            assert planned.rates.inbound.total / 2 <= written.rates.inbound.total <= planned.rates.inbound.total


def test_names_that_no_selector_can_have_are_refused() -> None:
    table = caches_of(1)
    odd = Caches(("a,b",), *[getattr(table, name) for name in table.__slots__[1:]])
    proposals = propose(foreseen(day(), names=("a,b",)), odd, np.array([TB]))
    with pytest.raises(ConfigError, match="not a node id"):
        as_policy(proposals)


def test_a_plan_without_windows_is_no_policy() -> None:
    with pytest.raises(ConfigError, match="no cache has a window"):
        as_policy([one(np.full(24, 120.0), 1)])
    with pytest.raises(ConfigError, match="after it"):
        as_policy(proposals_of(1), f"{MARK}\n[[caches]]\n")


# ---- the command


app = typer.Typer()
app.command()(windows_command)


def run(*arguments: object) -> str:
    """Return what the command prints. Raises what it raises."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "160"})
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Write three weeks of load of a cluster and the table of its two caches."""
    load, caches = tmp_path / "load.csv", tmp_path / "caches.csv"
    lines = ["hour,place,bytes"]
    for hour in range(21 * 24):
        at = datetime.fromtimestamp((NOON - 21 * 24 + hour) * HOUR_S, UTC)
        served = 200 * day()[hour % 24]
        lines.append(f"{at:%Y-%m-%dT%H},k0,{served * TB / 100:.0f}")
    load.write_text("\n".join(lines) + "\n")
    caches.write_text(
        "name,cluster,isp,region,serving,timezone,need\n"
        "a1,k0,isp-a,eu,40GB,Europe/Berlin,90TB\na2,k0,isp-a,eu,40GB,Europe/Berlin,\n"
    )
    return load, caches


def test_the_command_proposes_and_writes_a_policy(tables: tuple[Path, Path], tmp_path: Path) -> None:
    load, caches = tables
    out, base = tmp_path / "policy.toml", tmp_path / "base.toml"
    base.write_text('[[fills]]\nname = "f"\nhops = ["isp"]\n')
    said = run("--load", load, "--caches", caches, "--need", "90TB", "--out", out, "--base", base)
    assert "a1" in said
    assert f"p2pfill policy apply {out}" in said
    policy = parse_policy(out.read_text())
    assert policy.fills[0].name == "f"
    rule = policy.rule_for(node("a1"))
    assert rule is not None
    assert rule.windows is not None
    assert rule.windows.timezone == "Europe/Berlin"
    assert rule == policy.rule_for(node("a2"))
    # The idlest hour is 04:00 in UTC, which is 05:00 in Berlin.
    assert rule.windows.at((NOON + 16) * HOUR_S).is_open
    assert not rule.windows.at((NOON + 4) * HOUR_S).is_open


def test_a_policy_that_people_wrote_is_not_written_over(tables: tuple[Path, Path], tmp_path: Path) -> None:
    load, caches = tables
    out = tmp_path / "policy.toml"
    arguments = ("--load", load, "--caches", caches, "--out", out)
    run(*arguments)
    run(*arguments)
    own = '[[fills]]\nname = "f"\nhops = ["isp"]\n'
    out.write_text(own)
    with pytest.raises(ConfigError, match="add --base"):
        run(*arguments)
    assert out.read_text() == own
    run(*arguments, "--base", out)
    assert out.read_text().endswith(own)


def test_the_command_tells_scripts_all(tables: tuple[Path, Path]) -> None:
    load, caches = tables
    first, second = json.loads(run("--load", load, "--caches", caches, "--json"))
    assert (first["cache"], first["need"], first["first_hour"]) == ("a1", 90 * TB, NOON)
    assert first["fits"] == sum(first["rates"]) * HOUR_S >= 90 * TB
    assert (second["need"], second["short"]) == (0, 0)
    later = json.loads(run("--load", load, "--caches", caches, "--json", "--from", "2026-11-30T18:00:00"))
    assert later[0]["first_hour"] == NOON + 6
    bounded = run("--load", load, "--caches", caches, "--earliest", "12:00", "--latest", "14:00", "--need", "900TB")
    assert "short" in bounded
    assert "what is needed does not fit into 2 caches" in bounded


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--base", "x"), "give both"), (("--latest", "25:00"), "no time of the day"),
        (("--headroom", "1"), "headroom"), (("--holidays", "Christmas"), "no date"),
        (("--from", "noon"), "no time"), (("--need", "much"), "no size"),
    ],
)  # fmt: skip
def test_what_the_command_cannot_use_is_said(tables: tuple[Path, Path], arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run("--load", tables[0], "--caches", tables[1], *arguments)


@pytest.mark.parametrize(
    ("place", "text", "said"),
    [
        (0, "hour,place\n", "lacks the columns bytes"), (0, "hour,place,bytes\n", "it has no rows"),
        (0, "hour,place,bytes\n2026-11-01T00,k7,1\n", "no usable row: 1 x place unknown"),
        (0, "hour,place,bytes\n2026-11-01T00,a1,1\n", "no load of 'k0'"),
        (1, "name,cluster,isp,region,serving\na,k,i,r,max\n", "no usable row: 1 x serving out of range"),
        (1, "name,cluster,isp,region,serving,timezone\na,k0,i,r,1G,Mars\n", "timezone unknown .*Mars"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_named(tables: tuple[Path, Path], place: int, text: str, said: str) -> None:
    tables[place].write_text(text)
    with pytest.raises(ConfigError, match=said):
        run("--load", tables[0], "--caches", tables[1])


def test_what_is_wrong_with_its_tables_is_told(tables: tuple[Path, Path]) -> None:
    load, caches = tables
    clean = run("--load", load, "--caches", caches, "--json")
    with load.open("a") as more, caches.open("a") as others:
        more.write("2026-11-01T00,k7,1\n2026-11-01T00,k0,-3\n")
        others.write("a3,k0,isp-a,eu,40GB,Mars,\n")
    said = run("--load", load, "--caches", caches)
    for kind in ("place unknown", "bytes unreadable", "timezone unknown"):
        assert f"1 x {kind}\n" in said
    assert f"{caches}, row 3: 'Mars'" in said.replace("\n", "")
    result = CliRunner().invoke(app, ["--load", str(load), "--caches", str(caches), "--json"])
    assert result.stdout == clean, "what a script reads has proposals only"
    assert "timezone unknown" in result.stderr


def test_the_load_may_come_from_the_history(tables: tuple[Path, Path], tmp_path: Path) -> None:
    load, caches = tables
    log = tmp_path / "log.csv"
    rows = [line.split(",") for line in load.read_text().splitlines()[1:]]
    # In parts, since a row of a log is no more than a petabyte.
    log.write_text("time,region,cluster,title,file,bytes\n" + "".join(
        f"{hour}:30,eu,{place},t,f,{part}\n" for hour, place, amount in rows for part in (int(amount) - 1, 1)
    ))  # fmt: skip
    catalogue = Catalogue(
        ("t",), ("",), ("",), np.zeros(1, np.int32), np.zeros(1, np.int32), np.full(1, np.nan), ("f",),
        np.zeros(1, np.int32), np.zeros(1, np.int32), np.ones(1, np.int64),
    )  # fmt: skip
    fleet, _, _ = read_fleet(caches, 0)
    kept = History(tmp_path / "history", Resources(256 << 20, 1))
    assert not kept.ingest([log], catalogue, fleet, now_s=NOON * HOUR_S).faults
    said = [run(*where, "--caches", caches, "--json") for where in (("--load", load), ("--history", kept.directory))]
    assert said[0] == said[1]
    with pytest.raises(ConfigError, match="give one of them"):
        run("--load", load, "--history", kept.directory, "--caches", caches)
    planner = tmp_path / "planner.toml"
    for some in ((), ("--caches", caches)):
        with pytest.raises(ConfigError, match=r"give --.*, or a planner's file with --planner; there is no '.*toml'"):
            run(*some, "--planner", planner)
    planner.write_text('catalogue = "catalogue.csv"\ncaches = "caches.csv"\n')
    assert run("--planner", planner, "--json") == said[0]
    planner.write_text('catalogue = "catalogue.csv"\ncaches = "moon.csv"\nhistory = "moon"\n')
    for where in (("--load", load), ("--history", kept.directory)):
        assert run("--planner", planner, "--caches", caches, *where, "--json") == said[0], "options go before the file"
