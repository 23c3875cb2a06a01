"""Every command and every block of the pages, run; see sandbox.py for what is substituted."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import pytest
from docs.pages import LANGUAGES, PAGES, ROOT, SHOWN, Block, blocks
from docs.sandbox import Sandbox

from p2pfill.model.windows import read_windows

pytestmark = [pytest.mark.process, pytest.mark.nginx]

PROGRAMS = ("bash", "curl", "nginx")

WITHDRAWN_S = 20.0
"""Within which a title that is withdrawn at once is gone from all caches; five seconds where nothing else runs."""


def make_title(root: Path) -> None:
    """A small title: one file of several chunks, small ones, an empty one."""
    (root / "extras").mkdir(parents=True)
    (root / "film.mp4").write_bytes(random.Random(1).randbytes(3 * 1024 * 1024))
    (root / "extras" / "ä b.srt").write_bytes(random.Random(2).randbytes(10_000))
    (root / "extras" / "empty").touch()


@pytest.fixture(autouse=True)
def _needed_programs() -> None:
    for name in PROGRAMS:
        if shutil.which(name, path="/usr/local/bin:/usr/bin:/bin:/usr/sbin:/usr/local/sbin") is None:
            pytest.skip(f"{name} is not installed")


def run_page(page: Path, box: Sandbox) -> str:
    return "".join(box.run(block) for block in blocks(page))


def start_origin(box: Sandbox) -> None:
    """What README takes for granted: a web server over the titles, as docs/running.md sets one up."""
    config = next(block for block in blocks(ROOT / "docs" / "running.md") if block.file.endswith("origin.conf"))
    box.run(config)
    box.shell("systemctl reload nginx", "1", "origin")


def test_readme(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "srv" / "titles" / "film")
        start_origin(box)
        for number in ("1", "2", "3"):
            (box.machine(number) / "home" / "pyproject.toml").touch()  # the clone that pip installs
        said = run_page(ROOT / "README.md", box)
    assert "All bytes are right." in said
    assert "3 of 3 caches alive" in said
    assert said.count("are right (") == 2
    assert "live: " in said


def test_running(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "srv" / "titles" / "film")
        for number in ("1", "2", "3"):
            (box.machine(number) / "home" / "pyproject.toml").touch()
        said = run_page(ROOT / "docs" / "running.md", box)
        stores = [box.machine(number) / "srv" / "p2pfill" for number in ("2", "3")]
        until = time.monotonic() + WITHDRAWN_S
        while any(list((store / place).iterdir()) for store in stores for place in ("live", "titles")):
            assert time.monotonic() < until, "the page withdraws the title from all caches"
            time.sleep(0.1)
    assert said.count("are right (") == 2
    assert "3 of 3 live" in said
    assert "Sources now, best first" in said


def test_embedding(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "home" / "film")
        said = run_page(ROOT / "docs" / "embedding.md", box)
        home = box.machine("1") / "home"
        assert all((home / name / "live/film/film.mp4").is_file() for name in ("cache-a1", "cache-b1", "cache-lone"))
    assert "film is at cache-a1/live/film" in said
    assert "film is at cache-b1/live/film" in said
    assert "['extras', 'film.mp4']" in said


def test_tracker_api(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "home" / "film")
        said = run_page(ROOT / "docs" / "tracker-api.md", box)
    assert '"priority":10' in said


def test_policy(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "policy.md", box)
    assert "policy.toml can be used: 1 rule for caches, 2 rules for fills, 1 rule for residency" in said
    assert "~ fills 'films': waits was region 30s, origin 5m, is region 30s, origin 1h" in said
    assert "back to version 1" not in said, "the log was shown before"
    assert "version 3 of the policy stands" in said
    assert "both say the same" in said


def test_simulator(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        shutil.copytree(ROOT / "scenarios", box.machine("1") / "home" / "scenarios")
        said = run_page(ROOT / "docs" / "simulator.md", box)
        assert (box.machine("1") / "home" / "two-isps.trace").stat().st_size
    assert "two ISPs behind narrow uplinks, seed 1" in said
    assert "16 seeds passed" in said
    assert "the same actions" in said


def test_windows(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        shutil.copytree(ROOT / "scenarios", box.machine("1") / "home" / "scenarios")
        said = run_page(ROOT / "docs" / "windows.md", box)
    assert "by the clock of Europe/Berlin" in said
    table = next(block for block in blocks(ROOT / "docs" / "windows.md") if block.text.startswith("[windows]"))
    assert len(read_windows(tomllib.loads(table.text)["windows"]).windows) == 2
    assert "1.00" in said


def test_night(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        make_title(box.machine("1") / "home" / "film")
        said = run_page(ROOT / "docs" / "night.md", box)
        report = json.loads((box.machine("1") / "home" / "night.json").read_text())
    plain = " ".join(said.split())
    assert "1 title for 1 cache, 1 of 1 live." in plain
    assert "Out of origins came 1.00 times the least possible" in plain
    assert (report["totals"]["live"], report["is_over"]) == (1, False)


def test_benchmark(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "benchmark.md", box)
    assert "XXH3-128 and BLAKE3 of each chunk" in said
    assert "one receiver fetches from 2" in said


def test_routes(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "routes.md", box)
    shown = next(block.text for block in blocks(ROOT / "docs" / "routes.md") if block.language == "text")
    assert shown.splitlines()[0] in said
    assert "1 2.5 pair 1: to isp=isp-a from isp=isp-b" in " ".join(said.split())
    assert '"prefixes":3' in said
    assert "Nothing found." in said


def test_planner(tmp_path: Path) -> None:
    with Sandbox(tmp_path) as box:
        said = run_page(ROOT / "docs" / "planner.md", box)
        (home,) = (box.machine("1") / "srv").iterdir()
        assert (box.machine("1") / "home" / "plan.png").read_bytes().startswith(b"\x89PNG")
        assert (home / "plans" / "2026-01-08.plan").exists()
    for region in ("europe", "america", "japan"):
        line = next(line.split() for line in said.splitlines() if line.startswith(region))
        planned, lru, best = (float(part.rstrip("%")) for part in line[1:])
        assert 0.8 * best < planned <= best
        assert lru < best
    assert "7 logs taken in before, not counted again" in said
    assert "Nothing says that it does not fit" in said
    assert "streams expected" in said
    plain = " ".join(said.split())
    assert "orders would be made for 2026-01-08" in plain
    assert "orders made for 2026-01-08, due 2026-01-08 20:00" in plain


TESTED = {
    "README.md", "docs/running.md", "docs/embedding.md", "docs/tracker-api.md", "docs/simulator.md",
    "docs/benchmark.md", "docs/windows.md", "docs/policy.md", "docs/routes.md",
    "docs/night.md", "docs/planner.md",
}  # fmt: skip
ALL_BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.mark.parametrize("block", ALL_BLOCKS, ids=lambda block: block.where)
def test_no_block_is_left_out(block: Block) -> None:
    assert block.language in LANGUAGES
    if block.language not in SHOWN and block.page not in TESTED:
        # Pages for contributors: commands of this repository's own make and tools.
        assert block.language == "sh", f"{block.where} is not run by any test"
        done = subprocess.run(["/bin/bash", "-n", "-c", block.text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
