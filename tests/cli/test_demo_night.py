"""The demo of a night: what it draws, and the whole of it with real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfill.cli.demo_night import BEGINS, HOURS, REGIONS, Hour, draw, is_open, text_plot
from p2pfill.errors import ConfigError

NONE = {region.name: 0 for region in REGIONS}
NIGHT = [Hour(number, NONE, {**NONE, "europe": 7 * (number == 3)}, NONE) for number in range(HOURS)]


def test_each_region_is_open_for_four_hours_of_its_own() -> None:
    assert BEGINS.endswith("T22:00:00")
    opens = {region.name: [hour for hour in range(24) if is_open(region, hour)] for region in REGIONS}
    assert opens == {"europe": [3, 4, 5, 6], "america": [9, 10, 11, 12], "japan": [19, 20, 21, 22]}


def test_the_plot_has_a_column_an_hour_above_the_windows() -> None:
    lines = [line.plain for line in text_plot(NIGHT)]
    regional = next(line for line in lines if "regional" in line)
    europe = next(line for line in lines if "europe" in line)
    assert regional.index("█") == europe.index("─") == 10 + 3
    assert regional.count("█") == 1
    assert regional.endswith("7 B")


def test_the_plot_is_drawn_into_a_file(tmp_path: Path) -> None:
    draw(NIGHT, tmp_path / "night.png")
    assert (tmp_path / "night.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="cannot write the plot"):
        draw(NIGHT, tmp_path / "no" / "night.png")


@pytest.mark.alone
@pytest.mark.process
def test_a_night_in_which_nothing_comes_outside_of_windows(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "p2pfill.cli", "demo", "--night", "--work", str(tmp_path), "--json"],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["caches"] == 9
    assert record["lacking"] == []
    assert record["outside_bytes"] == 0
    for title in record["titles"]:
        assert title["origin_copies"] <= 1.05, title
        assert title["isp_copies_max"] <= 1.08, title
    assert record["reused_bytes"] > 0
    assert not list(tmp_path.iterdir())
