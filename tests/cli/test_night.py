"""`p2pfill night`: the report of a made-up night in words, as JSON and as a plot."""

from __future__ import annotations

import io
import json
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.console import Console

from p2pfill.cli import main
from p2pfill.cli.night_plot import draw_night
from p2pfill.cli.nights import report_view
from p2pfill.model.limits import GIB
from p2pfill.model.night import Span
from p2pfill.model.reports import TitleReport
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.night_report import NightReport, build_report, is_in_night
from p2pfill.tracker.night_rows import NightCache, NightHead, NightPage, NightRow
from p2pfill.tracker.records import FillRequest

FILM, NEWS, GONE = "aa" * 32, "bb" * 32, "cc" * 32
NIGHT = "2026-11-29"
ORIGIN = "https://origin.example.net/films"


def at(clock: str, day: int = 30) -> float:
    """Return a time of the night on the clock of this machine."""
    hour, minute = map(int, clock.split(":"))
    return datetime(2026, 11, day, hour, minute).astimezone().timestamp()


def day_of(clock: str) -> int:
    return 29 if clock > "12" else 30


def cache(node: str, *spans: tuple[str, str], region: str = "eu", **more: Any) -> NightCache:
    windows = [Span(at(start, day_of(start)), at(end, day_of(end)) if end else 0.0) for start, end in spans]
    fields = {"heard_at": at("12:00", 29), "last_at": at("07:00"), "has_windows": True, "phase": "closed"} | more
    return NightCache(node, f"isp-{node[0]}", region, spans=windows, **fields)


def row(title: str, node: str, tiers: tuple[int, int, int], **more: Any) -> NightRow:
    fields = {
        "is_wanted": True, "ordered_at": at("18:00", 29), "state": "live", "live_at": at("03:10"),
        "have_bytes": 10 * GIB, "title_bytes": 10 * GIB, "tiers": tiers,
    }  # fmt: skip
    return NightRow(title, node, **(fields | more))


def page() -> NightPage:
    early = ("02:00", "06:00")
    caches = [
        cache("a1", early, used_bytes=12 * GIB),
        cache("a2", early, used_bytes=4 * GIB, budget_bytes=4 * GIB, budget_used_at=at("02:40")),
        cache("a3", ("04:00", "06:30"), exempt_bytes=GIB),
        cache("b1", ("22:00", "23:00"), early),
        cache("b2"),
        cache("hub", has_windows=False, phase="open"),
        cache("late", ("02:00", ""), last_at=at("03:00"), phase="open"),
        NightCache("new", "isp-n", "eu"),
    ]
    reasons = {"master silent": 3, "starved": 1}
    out = {"rule": "patient", "escalations": reasons, "far": {ORIGIN: 8 * GIB, "hub": 4 * GIB}}
    part = {"state": "filling", "live_at": 0.0, "have_bytes": 4 * GIB}
    rows = [
        row(FILM, "a1", (2 * GIB, 4 * GIB, 8 * GIB), repair=GIB, **out),
        row(FILM, "a2", (4 * GIB, 0, 0), waits={"sources that are slow": 12}, **part),
        row(FILM, "a3", (10 * GIB, 0, 0)),
        row(FILM, "b1", (0, 0, 10 * GIB), far={ORIGIN: 10 * GIB}),
        row(FILM, "b2", (0, 0, 0), **part | {"have_bytes": 0}),
        row(FILM, "late", (0, 0, 4 * GIB), **part),
        row(FILM, "new", (0, 0, 0), state="", live_at=0.0, have_bytes=0, title_bytes=0),
        row(NEWS, "a1", (0, 0, 0), state="failed", error="its disk is full", live_at=0.0, have_bytes=0),
        row(NEWS, "b1", (0, 0, GIB), ordered_at=at("06:30"), **part),
        row(GONE, "a1", (0, 0, GIB), ended="its order was withdrawn", **part),
    ]
    course = {}
    for minute in range(0, 240, 15):
        tiers = (minute * GIB // 60, GIB // 2, (240 - minute) * GIB // 90)
        course[int(at(f"{2 + minute // 60:02}:{minute % 60:02}")) // 900] = tiers
    head = NightHead(NIGHT, at("12:00", 29), at("07:00"), 3, 8, (16 * GIB, 4 * GIB, 24 * GIB), False, 900, course)
    return NightPage(head, caches, rows)


def made_up() -> NightReport:
    names = {FILM: "film", NEWS: "news"}
    return build_report(page(), names, set(), {"late"}, is_over=True)


def text_of(report: NightReport, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(report_view(report, width), highlight=False)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_report_in_words() -> None:
    text = text_of(made_up(), 120)
    plain = " ".join(text.split())
    assert "2 titles for 7 caches, 3 of 9 live." in plain
    for line in (
        "film aaaaaaaa in a2 (40 % is there): the budget of the night was used up at 02:40; 12 chunks waited for",
        "film aaaaaaaa in b2 (0 % is there): no window of the cache opened in this night",
        "film aaaaaaaa in late (40 % is there): the cache has been silent since 03:00",
        "film aaaaaaaa in new (0 % is there): the cache was not heard in this night",
        "news bbbbbbbb in a1 (0 % is there): it failed: its disk is full",
        "it was ordered at 06:30, and the window had ended at 06:00",
        "3 chunks: master silent, under rule patient of the fleet's policy",
        "film aaaaaaaa: 1 GiB in place of what was bad",
        "1 GiB came by no window, to 1 cache",
        f"film aaaaaaaa: 18 GiB from {ORIGIN}",
        "22:00 to 23:00, 02:00 to 06:00",
        "always open",
    ):
        assert line in plain, line
    assert "withdrawn" not in text


@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, text_of(made_up(), width).splitlines())) <= width


def test_copies_beside_the_least() -> None:
    film = next(title for title in made_up().titles if title.name == "film")
    assert (film.bytes_origin, film.least_origin_bytes) == (22 * GIB, 10 * GIB)
    isps = {isp.isp: (isp.bytes, isp.least_bytes) for isp in film.isps}
    assert isps["isp-a"] == (12 * GIB, 10 * GIB)
    assert isps["isp-b"] == (10 * GIB, 10 * GIB)


@pytest.mark.parametrize(
    ("spans", "phase", "until", "is_in"),
    [
        ([], "closed", at("02:00"), True),  # its window is yet to come
        ([("22:00", "23:00")], "closed", at("03:00"), True),  # so is the second one
        ([("02:00", "06:00")], "closed", at("02:00", 30) + 86400, False),
        ([("02:00", "")], "open", at("06:00"), True),
    ],
)
def test_a_cache_is_in_its_night_until_its_last_window_has_ended(
    spans: list[tuple[str, str]], phase: str, until: float, is_in: bool
) -> None:
    assert is_in_night(cache("a1", *spans, phase=phase, until=until)) == is_in


def test_what_was_there_before_is_not_among_the_least() -> None:
    rows = [row(FILM, "a1", (0, 0, GIB), had_bytes=9 * GIB), row(FILM, "b1", (0, 0, 4 * GIB), reused=6 * GIB)]
    report = build_report(page()._replace(rows=rows), {}, set(), set(), is_over=True)
    assert [(isp.isp, isp.least_bytes) for isp in report.titles[0].isps] == [("isp-a", GIB), ("isp-b", 4 * GIB)]
    assert report.totals.least_origin_bytes == GIB


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    draw_night(made_up(), tmp_path / "night.png")
    assert (tmp_path / "night.png").read_bytes().startswith(b"\x89PNG")
    empty = NightPage(NightHead(NIGHT, at("12:00", 29), at("12:00", 29)), [], [])
    draw_night(build_report(empty, {}, set(), set(), is_over=False), tmp_path / "empty.svg")


def test_commands(fleet: Any, make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tracker = ["--tracker", fleet.url]
    assert main(["night", "report", *tracker]) == 2
    assert "knows of no night yet" in capsys.readouterr().err
    fleet.beat("a1")
    manifest = make.manifest()

    async def order() -> None:
        async with TrackerClient(fleet.url) as client:
            await client.put_title(manifest.title_id.hex(), manifest.encode())
            await client.post_fill(FillRequest(manifest.title_id.hex(), "all", []))

    trio.run(order)
    fleet.beat("a1", TitleReport(manifest.title_id.hex(), "filling", 4, bytes_origin=7, started_at=4e9, number=1))
    assert main(["night", "list", *tracker, "--json"]) == 0
    (night,) = json.loads(capsys.readouterr().out)
    assert (night["is_over"], night["caches"]) == (False, 1)
    assert main(["night", "list", *tracker]) == 0
    assert "going on" in capsys.readouterr().out
    assert main(["night", "report", *tracker]) == 0
    assert "It is not over." in " ".join(capsys.readouterr().out.split())
    assert main(["night", "report", night["night"], *tracker, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["titles"][0]["rows"][0]["cause"] == "filling"
    assert found["totals"]["bytes_origin"] == 7
    assert main(["night", "report", "1999-12-31", *tracker]) == 2
    assert "no night '1999-12-31' is known: a night is named by the date on which it began" in capsys.readouterr().err
    assert main(["night", "report", *tracker, "--plot", str(tmp_path / "night.txt")]) == 2
    if find_spec("matplotlib") is not None:
        assert main(["night", "report", *tracker, "--plot", str(tmp_path / "night.png")]) == 0
        assert (tmp_path / "night.png").stat().st_size
        assert main(["night", "report", *tracker, "--plot", str(tmp_path / "lacking" / "night.png")]) == 2


def test_without_matplotlib_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("p2pfill.cli.night_plot.find_spec", lambda name: None)
    assert main(["night", "report", "--tracker", "http://127.0.0.1:9", "--plot", "x.png"]) == 2
    assert "pip install 'p2pfill[bench]'" in capsys.readouterr().err
