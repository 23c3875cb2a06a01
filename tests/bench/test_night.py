"""Nights in the lab: files, what counters say, the verdict, the committed report, and one short night."""

from __future__ import annotations

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from docs.pages import ROOT

from bench.night import plot, report, verdict
from bench.night.__main__ import parse_arguments
from bench.night.records import FRAME_BYTES, CacheNight, Copies, Night, NightsReport, Outside
from bench.night.topology import NightTopology, Span, load_night
from bench.night.watch import GRACE_S, Sample, outside_of
from bench.swarm import plots
from bench.swarm.lab import HostCounts, Reading
from bench.swarm.topology import TopologyError
from p2pfill.bench.measure import Load

ZONES = ROOT / "bench" / "nights" / "zones.toml"
COMMITTED = ROOT / "docs" / "reports" / "night"


# ---- files


def test_the_night_has_three_time_zones_with_windows_of_20_s() -> None:
    night = load_night(ZONES)
    assert len(night.caches()) == 9
    assert len(set(night.regions.values())) == 3
    spans = {cache.region: night.spans(cache) for cache in night.caches()}
    assert [[round(edge, 3) for edge in span] for (span,) in spans.values()] == [[5, 25], [20, 40], [40, 60]]
    assert verdict.urgent(night) == "news"
    assert night.date() == "2026-11-28"
    assert verdict.chunk_bytes(night) == 256 * 1024


def test_viewers_are_a_host_beside_their_cache_and_not_to_be_filled() -> None:
    night = load_night(ZONES)
    viewers, busy = night.host("viewers"), night.host("e-hub")
    assert (viewers.isp, viewers.region) == (busy.isp, busy.region)
    assert len({host.address for host in night.hosts()}) == len(night.hosts()) == 11
    assert "viewers" not in [cache.name for cache in night.caches() + night.counted()]


@pytest.mark.parametrize(
    ("was", "wrong", "said"),
    [
        ('cache = "e-hub"', 'cache = "origin"', "which is no cache"),
        ('name = "viewers"', 'name = "e1"', "is a host's"),
        ("streams = 4", "streams = 0", "1 to 64 streams"),
        ("lasts_s = 64", "lasts_s = 0", "lasts_s is above 0"),
        ("lasts_s = 64", "lasts_s = 30", "'b1' has no fill window in this night"),
        ('timezone = "Asia/Dubai"', 'timezone = "Asia/Nowhere"', "windows.gulf.timezone"),
        ("at_s = 9", "at = 0.5", "each with `at_s`"),
        ("wall_at", "wall_it", "wall_it"),
    ],
)
def test_mistakes_are_named(was: str, wrong: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(ZONES.read_text().replace(was, wrong))
    with pytest.raises(TopologyError, match=said.replace("`", ".")):
        load_night(path)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TopologyError, match="cannot be read"):
        load_night(tmp_path / "none.toml")


def test_the_command_line_names_what_it_needs(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--nights", "0"], ["--redraw"]):
        with pytest.raises(SystemExit):
            parse_arguments(wrong)
    assert "--redraw needs --out" in capsys.readouterr().err


# ---- what counters say


def samples(*points: tuple[float, int, int]) -> list[Sample]:
    """Return samples of one cache from (seconds, bytes in, packets in)."""
    return [Sample(at_s, Reading({}, {"a": HostCounts(came, packets, 0, 0)})) for at_s, came, packets in points]


def test_only_intervals_that_lie_outside_as_a_whole_count() -> None:
    window = [Span(2.0, 4.0)]
    found = outside_of(
        "a", window, samples((0, 0, 0), (1, 100, 1), (2, 300, 2), (3, 9000, 9), (4.25, 9999, 10), (5, 10_500, 12))
    )
    assert (found.seconds, found.bytes_in, found.packets_in) == (2.0, 300, 2)
    later = outside_of("a", window, samples((4 + GRACE_S, 9999, 10), (6, 10_500, 12)))
    assert (later.seconds, later.bytes_in) == (1.5, 501)


def test_what_comes_between_two_windows_counts() -> None:
    windows = [Span(0.0, 1.0), Span(5.0, 6.0)]
    assert outside_of("a", windows, samples((2, 0, 0), (4, 777, 3))).bytes_in == 777


def test_headers_are_no_content() -> None:
    assert Outside(bytes_in=10 * FRAME_BYTES, packets_in=10).content_in == 0
    assert Outside(bytes_in=10 * FRAME_BYTES + 512, packets_in=10).content_in == 512
    assert Outside(bytes_in=42, packets_in=1).content_in == 0  # a packet of another protocol is shorter


# ---- the verdict


def good_night(topology: NightTopology) -> Night:
    """Return a night that reaches everything."""
    caches = {}
    for host in topology.caches():
        windows = topology.spans(host)
        opened_s = windows[0].opens_s
        caches[host.name] = CacheNight(
            isp=host.isp, region=host.region, windows=windows,
            live_s={"film": opened_s + 9, "series": opened_s + 9.5, "news": opened_s + 6}, bytes_in=1, bytes_out=1,
            outside=Outside(40.0, 90_000, 500, 1000), course=[(0.0, 0), (opened_s, 0), (64.0, 9_000_000)],
        )  # fmt: skip
    return Night(
        caches=caches, ordered_s={"film": 0.1, "series": 0.1, "news": 9.1}, origin=Copies(1.0, 1.04),
        isps={isp: Copies(1.0, 1.03) for isp in topology.isps if isp != "cloud"},
        tiers={"peer": 1, "regional": 1, "origin": 1}, viewers_bytes=640_000_000, viewers_s=64.0, user_s=1.0,
        system_s=0.5, load=Load(0.5, 0.0, 0.0, None, None), load_average=1.0,
    )  # fmt: skip


def test_a_good_night_misses_nothing() -> None:
    topology = load_night(ZONES)
    assert verdict.misses(good_night(topology), topology) == []


def _lacks(night: Night) -> None:
    del night.caches["e1"].live_s["film"]


def _urgent_last(night: Night) -> None:
    night.caches["b2"].live_s["news"] = 63.0


def _fetched_a_chunk(night: Night) -> None:
    night.caches["g1"].outside.bytes_in += 256 * 1024 + 200 * FRAME_BYTES
    night.caches["g1"].outside.packets_in += 200


def _twice_into_an_isp(night: Night) -> None:
    night.isps["gulf-hub"].wire = 1.09


def _more_from_the_origin(night: Night) -> None:
    night.origin.wire = 1.06


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_lacks, "titles lacking in caches: 1, and not 0"),
        (_urgent_last, "the urgent title was not the first: 1"),
        (_fetched_a_chunk, "came in outside of windows"),
        (_twice_into_an_isp, "copies into an ISP, wire"),
        (_more_from_the_origin, "origin copies, wire: 1.060, and not at most 1.05"),
    ],
)
def test_what_was_missed_is_named(spoil: Any, said: str) -> None:
    topology = load_night(ZONES)
    night = copy.deepcopy(good_night(topology))
    spoil(night)
    (missed,) = verdict.misses(night, topology)
    assert said in missed


# ---- reports


def test_a_report_survives_its_file_and_can_be_drawn(tmp_path: Path) -> None:
    topology = load_night(ZONES)
    made = msgspec.structs.replace(committed(), nights=[good_night(topology), Night(failed="g1 ended")])
    again = report.decode_report(report.encode_report(made))
    assert report.encode_report(again) == report.encode_report(made)
    text = report.page(again, "guide.md")
    assert "1 night did not come to an end: g1 ended." in text
    assert "No night missed anything" in text
    if not plots.missing():
        plot.draw_night(again, tmp_path)
        assert (tmp_path / "night.png").stat().st_size > 10_000


def test_rates_are_those_of_all_caches_between_readings() -> None:
    cache = good_night(load_night(ZONES)).caches["b1"]
    halves = msgspec.structs.replace(cache, course=[(0.0, 0), (1.0, 1_000_000), (2.0, 1_000_000)])
    times, rates = plot.rates_of([halves, halves])
    assert times == [0.0, 0.5, 1.0, 1.5]
    assert rates == pytest.approx([2.0, 2.0, 0.0, 0.0])


def committed() -> NightsReport:
    return report.decode_report((COMMITTED / "night.json").read_bytes())


def test_the_committed_report_holds_what_is_promised() -> None:
    made = committed()
    assert msgspec.to_builtins(made.topology) == msgspec.to_builtins(load_night(ZONES))
    assert len(verdict.good_nights(made)) >= 3
    for judged, figure in verdict.figures(made):
        assert judged.is_good(figure.median, made.topology), judged.name
    assert (COMMITTED / "README.md").read_text() == report.page(made, "../../swarm-benchmark.md")


# ---- a short night in the lab

SHORT = {
    "wall_speed = 720": "wall_speed = 1800",  # an hour is two seconds
    "lasts_s = 64": "lasts_s = 26",
    "size_mib = 48": "size_mib = 4",
    "size_mib = 16": "size_mib = 2",
    "at_s = 9": "at_s = 2.4",
    # Its first window ends long before the links could have brought everything.
    'timezone = "America/Sao_Paulo", timetable = "02:00,max 06:00,off"': (
        'timezone = "America/Sao_Paulo", timetable = "02:00,max 02:20,off 03:00,max 06:00,off"'
    ),
}
TRIES = 3


def what_is_amiss(night: Night, topology: NightTopology) -> list[str]:
    """Return what a night was to show and has not, but for copies, of which a short one has more."""
    return [miss for miss in verdict.misses(night, topology) if "copies" not in miss]


@pytest.mark.process
@pytest.mark.netns
@pytest.mark.alone
def test_a_short_night_fills_inside_windows_only(tmp_path: Path) -> None:
    lacking = "root" if os.geteuid() else "iproute2" if not shutil.which("ip") or not shutil.which("tc") else ""
    if lacking:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"the lab needs {lacking}")
        pytest.skip(f"the lab needs {lacking}")
    text = ZONES.read_text()
    for was, short in SHORT.items():
        assert was in text
        text = text.replace(was, short)
    (tmp_path / "short.toml").write_text(text)
    topology = load_night(tmp_path / "short.toml")
    for _ in range(TRIES):
        done = subprocess.run(
            [sys.executable, "-m", "bench.night", str(tmp_path / "short.toml"), "--nights", "1", "--json", "--work",
             str(tmp_path)],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 1), done.stderr
        (night,) = report.decode_report(done.stdout).nights
        if not (amiss := [night.failed] if night.failed else what_is_amiss(night, topology)):
            break
    # On a machine that lets processes wait for half a second one is late to close, or to be ready: one night is enough.
    assert amiss == []
    # Both parts of the night of the last region brought something.
    second = night.caches["b1"].windows[1]
    assert any(at_s > second.opens_s for at_s in night.caches["b1"].live_s.values())
    # The tracker's report of the night has all of it, and nothing twice.
    assert sum(night.tiers.values()) == len(night.caches) * topology.size
    assert night.tiers["origin"] == pytest.approx(night.origin.payload * topology.size, rel=1e-3)
    # How many copies more than one depends on the machine: the report has what is promised.
    assert 1.0 <= night.origin.payload < 1.5
    assert all(1.0 <= copies.payload < 1.5 for copies in night.isps.values())
    assert night.viewers_bytes > 0
    assert not list(tmp_path.glob("p2pfill-night-*"))
