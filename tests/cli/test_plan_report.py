"""`p2pfill plan report`: a made-up night and the day after it in words, as JSON and as plots."""

from __future__ import annotations

import io
import json
import time
from datetime import date, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

pytest.importorskip("ibis")

from rich.console import Console

from p2pfill.cli import main, plan_plot
from p2pfill.cli.exits import ExitCode
from p2pfill.cli.plan_report import choose_night
from p2pfill.cli.plan_report_view import report_view
from p2pfill.errors import ConfigError
from p2pfill.model.limits import GIB
from p2pfill.model.night import Span
from p2pfill.model.quantities import parse_rate
from p2pfill.plan.document import Plan, PlanHead, PlannedCluster, PlannedFile, read_plan, write_plan
from p2pfill.plan.report.day import ClusterDay, DayReport
from p2pfill.plan.report.report import PlanReport
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.night_report import NightSummary, build_report
from p2pfill.tracker.night_rows import NightCache, NightHead, NightPage, NightRow
from p2pfill.tracker.records import FillRequest

DAY, NIGHT = "2026-11-27", "2026-11-26"
NOON = 1_795_694_400.0
"""Of the night, in UTC."""
TWO = NOON + 14 * 3600
FILM, NEWS = "aa" * 32, "bb" * 32


def made_plan(day: str = DAY) -> Plan:
    head = PlanHead(
        1, day, NOON - 3600, ("2026-11-20", NIGHT), 3, 4, 4.0 * GIB, 3.0 * GIB, 3.0 * GIB, GIB, 0, 0.9,
        clusters={"ka": PlannedCluster(1.0, 2.0), "kb": PlannedCluster(1.0, 2.0)},
        finish_at=TWO + 600, deadline=TWO + 4 * 3600,
    )  # fmt: skip
    files = (
        PlannedFile("film/hd", "film", 4 * GIB, 3.0, ("a1", "b1"), expected={"eu": (3.0, 1.0), "us": (2.5, 1.0)}),
        PlannedFile("film/sd", "film", GIB, 9.0, (), ("a1",), expected={"eu": (9.0, 3.0)}),
        PlannedFile("news", "news", GIB, 5.0, ("a2",), expected={"eu": (5.0, 2.0)}),
        PlannedFile("old/hd", "old", 2 * GIB, 1.0, expected={"eu": (1.0, 1.0)}),
    )
    return Plan(head, files)


def made_night() -> bytes:
    fields: dict[str, Any] = {"is_wanted": True, "ordered_at": NOON + 60, "state": "live", "live_at": TWO + 900}
    caches = [
        NightCache(
            name, f"isp-{name[0]}", region, NOON, NOON + 86000, True, "closed", spans=[Span(TWO, TWO + 4 * 3600)]
        )
        for name, region in (("a1", "eu"), ("a2", "eu"), ("b1", "us"))
    ]
    caches[1].budget_used_at = TWO + 1200
    rows = [
        NightRow(FILM, "a1", have_bytes=5 * GIB, title_bytes=5 * GIB, tiers=(0, 0, 4 * GIB), **fields),
        NightRow(FILM, "b1", have_bytes=4 * GIB, title_bytes=4 * GIB, tiers=(0, 4 * GIB, 0), far={"a1": 4 * GIB},
                 **fields),
        NightRow(NEWS, "a2", have_bytes=GIB // 2, title_bytes=GIB, tiers=(0, 0, GIB // 2),
                 **fields | {"state": "filling", "live_at": 0.0}),
    ]  # fmt: skip
    page = NightPage(
        NightHead(NIGHT, NOON, NOON + 86000, 2, 3, (0, 4 * GIB, 4 * GIB), False, 900, {int(TWO) // 900: (0, 5, 9)}),
        caches, rows,
    )  # fmt: skip
    return msgspec.json.encode(build_report(page, {FILM: "film", NEWS: "news"}, set(), set(), is_over=True))


CATALOGUE = """title,file,size,released
film,film/hd,4294967296,2026-11-20
film,sd,1073741824,2026-11-20
news,news,1073741824,2026-11-20
old,old/hd,2147483648,2020-01-01
fresh,fresh/hd,1073741824,2026-11-27
"""
CACHES = """name,cluster,isp,region,capacity,serving
a1,ka,isp-a,eu,60 GB,1Gbit/s
a2,ka,isp-a,eu,60 GB,1Gbit/s
b1,kb,isp-b,us,60 GB,1Gbit/s
"""
LOG = f"""time,region,cluster,title,file,bytes
{DAY}T20:00:00Z,eu,ka,film,film/hd,{8 * GIB}
{DAY}T20:00:00Z,us,kb,film,film/hd,{4 * GIB}
{DAY}T20:00:00Z,eu,ka,news,news,{2 * GIB}
{DAY}T20:00:00Z,eu,ka,old,old/hd,{6 * GIB}
{DAY}T20:00:00Z,us,kb,old,old/hd,{GIB}
{DAY}T20:00:00Z,us,kb,fresh,fresh/hd,{GIB}
{DAY}T20:00:00Z,us,kb,other,other/hd,{3 * GIB}
2026-11-26T20:00:00Z,us,kb,old,old/hd,{GIB}
"""


class World:
    """Files of a made-up night, and the command on them."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.capsys = directory, capsys
        write_plan(directory / "tonight.plan", made_plan())
        (directory / "night.json").write_bytes(made_night())
        for name, text in (("catalogue", CATALOGUE), ("caches", CACHES), ("log", LOG)):
            (directory / f"{name}.csv").write_text(text)
        self.night = ["--night", str(directory / "night.json")]
        self.tables = [
            "--history", str(directory / "history"), "--catalogue", str(directory / "catalogue.csv"),
            "--caches", str(directory / "caches.csv"),
        ]  # fmt: skip

    def ingest(self) -> None:
        assert main(["plan", "ingest", str(self.directory / "log.csv"), *self.tables]) == 0
        self.capsys.readouterr()

    def run(self, *options: str, code: int = ExitCode.OK) -> tuple[str, str]:
        assert main(["plan", "report", str(self.directory / "tonight.plan"), *options]) == code
        captured = self.capsys.readouterr()
        return captured.out, captured.err


@pytest.fixture
def world(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.delenv("P2PFILL_TRACKER", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    return World(tmp_path, capsys)


def plain(text: str) -> str:
    return " ".join(text.split())


def test_of_the_night_alone(world: World) -> None:
    said = plain(world.run(*world.night)[0])
    for line in (
        "filled in the night of 2026-11-26: 2 of 3 copies that were to come are there (8 GiB of 9 GiB)",
        "and 1 of 1 that were to stay.",
        "other regions 4 GiB 4 GiB",
        "origins 5 GiB 4.50 GiB",
        "Into ISPs came 8.50 GiB, where all of it takes 9 GiB at least",
        "1 copy did not come by",
        "by the plan's proof it could not be before",
        "rate: a budget or a rate was spent: 1 copy, 1 GiB",
        "news in a2: the budget of the night was used up at",
    ):
        assert line in said, line
    assert "watched" not in said


def test_while_the_night_goes_on_nothing_is_late(world: World) -> None:
    night = world.directory / "night.json"
    text = night.read_text()
    assert '"is_over":true' in text
    night.write_text(text.replace('"is_over":true', '"is_over":false'))
    said = plain(world.run(*world.night)[0])
    assert "which is not over" in said
    assert "1 copy not there yet, due by " in said
    assert "did not come" not in said


def test_of_the_day_after(world: World) -> None:
    world.ingest()
    out, err = world.run(*world.night, *world.tables, "--json")
    told = msgspec.json.decode(out, type=PlanReport)
    assert told.viewing is not None
    assert {part.name: part.bytes for part in told.viewing.parts if part.bytes} == {
        "planned": 12 * GIB, "rate": 2 * GIB, "too low": 6 * GIB, "no space": GIB, "new": GIB,
    }  # fmt: skip
    assert (told.viewing.demand_bytes, told.unknown_bytes) == (22 * GIB, 3 * GIB)
    assert not err
    said = plain(world.run(*world.night, *world.tables)[0])
    for line in (
        "Of 22 GiB that were watched, 54 % lay in a cache of their cluster",
        "3 GiB more were watched of files or in regions that the tables do not name",
        "not planned: new 1 GiB 4 % 1",
        "not planned: forecast too low 6 GiB 27 % 1",
        "old/hd in ka: 6 GiB (3 streams, 1 expected); a place took more than 2",
        "planned, not there: rate 2 GiB 9 % 1",
        "news in ka: 2 GiB (2 streams, 5 expected); a2: the budget of the night was used up at",
        "kb us 10 GiB 6 GiB 66 % 100 %",
        "film/hd eu 3 1 2 4 GiB",
        "60 % of 5 forecasts of a file in a region came within the band of 90 %",
    ):
        assert line in said, line


def test_no_line_is_wider_than_the_terminal(world: World) -> None:
    world.ingest()
    told = msgspec.json.decode(world.run(*world.night, *world.tables, "--json")[0], type=PlanReport)
    for width in (80, 120, 200):
        console = Console(file=io.StringIO(), width=width)
        console.print(report_view(told, width, ["a note"]))
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_plots_are_pictures(world: World) -> None:
    directory = world.directory / "plots"
    _, err = world.run(*world.night, "--plot", str(directory))
    assert [path.name for path in sorted(directory.iterdir())] == ["placement.png", "windows.png"]
    assert str(directory / "placement.png") in err
    world.ingest()
    world.run(*world.night, *world.tables, "--plot", str(directory))
    assert [path.name for path in sorted(directory.iterdir())] == [
        "demand.png", "forecast.png", "placement.png", "windows.png",
    ]  # fmt: skip
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in directory.iterdir())
    assert "cannot draw" in world.run(*world.night, "--plot", world.night[1], code=ExitCode.USAGE)[1]


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
@pytest.mark.parametrize("serving", ["1kbit", "1Mbit", "1Gbit"])
def test_all_bars_are_within_the_plot(world: World, monkeypatch: pytest.MonkeyPatch, serving: str) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(plan_plot, "save_plot", lambda figure, path: kept.append(figure))
    clusters = [
        ClusterDay("ka", "eu", 9.0 * GIB, 8 * GIB, 6 * GIB, 7.0 * GIB, parse_rate(serving) * 43200.0, 1.0, {}),
        ClusterDay("kb", "us", 1.0, 0, 0, 0.0, 5.0 * GIB, 1.0, {}),
    ]
    told = DayReport(8 * GIB, 6 * GIB, 9.0 * GIB, 7.0 * GIB, [], clusters, [], [], 0, 0, 0, "")
    plan_plot.draw_demand(told, DAY, world.directory / "demand.png")
    (axes,) = kept[0].axes
    assert axes.get_xlim()[1] >= 9
    assert all(one.get_x() + one.get_width() <= axes.get_xlim()[1] for one in axes.patches)
    assert ("is more than this shows" in axes.get_xlabel()) == (serving == "1Gbit")


def test_a_day_that_is_not_there_yet_leaves_the_night(world: World) -> None:
    (world.directory / "log.csv").write_text(LOG.replace(DAY, "2026-11-25"))
    world.ingest()
    out, err = world.run(*world.night, *world.tables, "--json")
    assert json.loads(out)["viewing"] is None
    assert f"has 2026-11-25 to 2026-11-26, and nothing of {DAY}" in err
    assert "`p2pfill plan ingest` takes its logs in" in err


def test_another_catalogue_is_noticed(world: World) -> None:
    world.ingest()
    (world.directory / "catalogue.csv").write_text(CATALOGUE.replace("film,", "movie,").replace(",film/", ",movie/"))
    said = plain(world.run(*world.night, *world.tables)[0])
    assert "2 files of the plan (film/hd, …) cannot be found in the catalogue" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([], "say whose night it is: --tracker URL, or --night FILE"),
        (["--night", "{dir}/none.json"], "make it with: p2pfill night report 2026-11-26 --json > none.json"),
        (["--night", "{dir}/log.csv"], "is no report of a night"),
        (["--night", "{dir}/night.json", "--date", "2026-11-20"], "is of the night of 2026-11-26"),
        (["--night", "{dir}/night.json", "--caches", "{dir}/caches.csv"], "give all three, or a planner's file"),
        (["--night", "{dir}/night.json", "--history", "{dir}", "--catalogue", "{dir}/catalogue.csv", "--caches",
          "{dir}/caches.csv"], "there is no history in"),
    ],
)  # fmt: skip
def test_what_does_not_fit_says_what_to_do(world: World, options: list[str], says: str) -> None:
    _, err = world.run(*(option.replace("{dir}", str(world.directory)) for option in options), code=ExitCode.USAGE)
    assert says in plain(err)


def test_a_plan_of_another_day_is_refused(world: World) -> None:
    write_plan(world.directory / "tonight.plan", made_plan("2026-12-24"))
    _, err = world.run(*world.night, code=ExitCode.USAGE)
    assert "the plan for 2026-12-24 was filled in that of 2026-12-23: p2pfill night report 2026-12-23 --json >" in err
    assert "--date 2026-11-26" in err
    assert "filled in the night of 2026-11-26" in world.run(*world.night, "--date", "2026-11-26")[0]


def test_the_tracker_says_what_was_ordered_and_which_titles_it_has(world: World, fleet: Any, make: Any) -> None:
    fleet.beat("a1")
    manifest = make.manifest()
    title = manifest.title_id.hex()

    async def order() -> str:
        async with TrackerClient(fleet.url) as client:
            await client.put_title(title, manifest.encode())
            await client.post_fill(FillRequest(title, "id=a1", [], call_id="plan:x:0"))
            return (await client.nights())[0].night

    night = trio.run(order)
    fleet.beat("a1", make.report(manifest, "live", 4, started_at=1.0, finished_at=2.0))
    plan = made_plan(str(date.fromisoformat(night) + timedelta(days=1)))
    size = manifest.size
    files = (PlannedFile("film", "film", size, 3.0, ("a1",)), PlannedFile("news", "news", 7, 3.0, ("a1", "b1")))
    write_plan(world.directory / "tonight.plan", Plan(plan.head, files))
    out, _ = world.run("--tracker", fleet.url)
    said = plain(out)
    assert "1 of 3 copies that were to come are there" in said
    assert "The tracker does not have 1 title of the plan (news)" in said
    assert "The night knows nothing of 1 cache of the plan (b1)" in said
    assert "news in a1: the tracker does not have its title" in said
    assert "which is not over" in said
    write_plan(world.directory / "tonight.plan", made_plan("2020-01-01"))
    _, err = world.run("--tracker", fleet.url, code=ExitCode.USAGE)
    assert "the tracker has no night of 2019-12-31, in which the plan for 2020-01-01 was filled" in err
    assert "--night FILE" in err


def test_a_cache_whose_night_has_not_begun_is_not_taken_for_down(world: World, fleet: Any, make: Any) -> None:
    manifest = make.manifest()
    title = manifest.title_id.hex()
    tonight = time.strftime("%Y-%m-%d", time.gmtime())
    before = str(date.fromisoformat(tonight) - timedelta(days=1))
    fleet.beat("a1", night=tonight)
    fleet.beat("b1", night=before)
    fleet.beat("b2", make.report(manifest, "live", 4), night=before)

    async def order() -> None:
        async with TrackerClient(fleet.url) as client:
            await client.put_title(title, manifest.encode())
            await client.post_fill(FillRequest(title, "id=a1,id=b1,id=b2", [], call_id="plan:2026-11-30:0"))

    trio.run(order)
    plan = made_plan(str(date.fromisoformat(tonight) + timedelta(days=1)))
    files = (
        PlannedFile("film", "film", manifest.size, 3.0, ("a1", "b1", "b2")),
        PlannedFile("song", "song", 7, 3.0, ("b2",), ("b1",)),
    )
    write_plan(world.directory / "tonight.plan", Plan(plan.head, files))
    said = plain(world.run("--tracker", fleet.url)[0])
    assert "1 of 4 copies that were to come are there" in said, "b2 has the film"
    assert "and 1 of 1 that were to stay" in said, "b1 has what it had"
    assert "film in b1: the night of the cache has not begun" in said
    assert "window: the time did not do, or is yet to come: 2 copies" in said, "a1 is open still"
    assert "health" not in said
    assert "song in b2: the tracker does not have its title" in said


def test_a_night_is_the_first_that_lasts_until_the_deadline() -> None:
    due = made_plan().head.deadline

    def nights(**last: float) -> list[NightSummary]:
        """Nights by their days, with when they were last heard of; those above 0 hours after the deadline are over."""
        return [
            NightSummary(f"2026-11-{name[1:]}", 0.0, due + hours * 3600, hours > 0, 1, 1, 0, 0, 0)
            for name, hours in last.items()
        ]

    head, names = made_plan().head, (NIGHT, DAY)
    assert choose_night(nights(d27=18, d26=6), head, names) == NIGHT
    assert choose_night(nights(d26=-1), head, names) == NIGHT, "it is going on"
    early = [msgspec.structs.replace(one, is_over=True) for one in nights(d26=-9)]
    assert choose_night([*nights(d27=6), *early], head, names) == DAY, "a night in Tokyo"
    assert choose_night(early, head, names) == NIGHT
    for kept, says in (
        ([], "knows of no night yet"),
        (nights(d01=1), "has not begun"),
        (nights(d29=1), "--night FILE"),
    ):
        with pytest.raises(ConfigError, match=says):
            choose_night(kept, head, names)


def test_a_planners_file_says_where_all_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ingest()
    monkeypatch.chdir(world.directory)
    assert main(["plan", "report", *world.night]) == ExitCode.USAGE
    assert "there is no 'planner.toml'" in world.capsys.readouterr().err
    Path("planner.toml").write_text('catalogue = "catalogue.csv"\ncaches = "caches.csv"\n')
    assert main(["plan", "report", *world.night]) == ExitCode.USAGE
    assert "no plan is kept" in world.capsys.readouterr().err
    Path("plans").mkdir()
    Path("tonight.plan").rename(f"plans/{DAY}.plan")
    for name in ([], [DAY], [f"plans/{DAY}.plan"]):
        assert main(["plan", "report", *name, *world.night, "--json"]) == ExitCode.OK
        assert json.loads(world.capsys.readouterr().out)["viewing"]["demand_bytes"] == 22 * GIB
    assert main(["plan", "report"]) == ExitCode.USAGE
    assert "--tracker URL, or --night FILE" in world.capsys.readouterr().err


def test_a_plan_has_what_the_report_needs(world: World) -> None:
    assert read_plan(world.directory / "tonight.plan") == made_plan()
