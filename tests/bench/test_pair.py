"""The pair benchmark: one small run through the command, what it says of failures, and what the figures mean."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2pfill.bench import contenders, pair, plots, report
from p2pfill.bench.contenders import CONTENDERS, Curl, P2PFillXxh3
from p2pfill.bench.measure import BenchFailed, Load, Machine, Tree
from p2pfill.bench.processes import Child, run_program
from p2pfill.bench.source import make_source
from p2pfill.cli import main
from p2pfill.errors import ConfigError

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "docs" / "reports" / "bench"
MIB = 1 << 20

MACHINE = Machine("2030-01-01", "Linux 6", "a processor", 2, 8 << 30, "ext4", "3.11", "0.1", True)
LOAD = Load(0.5, 0.25, 0.0, 0.75, 3 << 20)


def run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "p2pfill.cli", "bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, **options)


# ---- a real run


@pytest.mark.process
def test_a_small_pair_measures_everybody_who_is_installed(tmp_path: Path) -> None:
    arguments = ["--mib", "16", "--runs", "1", "--json", "--work", str(tmp_path), "--out", str(tmp_path / "out")]
    done = run_command("pair", *arguments)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    present = {name for name, kind in CONTENDERS.items() if not kind.missing()}
    assert set(record["contenders"]) == present >= {"default", "xxh3"}
    assert set(record["absent"]) == set(CONTENDERS) - present
    for name in present:
        assert record["rate_gb_s"][name]["median"] > 0
        assert all(side["median"] > 0 for side in record["cpu_s_per_gb"][name].values()), name
        assert all(0 < peak < 300 * MIB for peak in record["peak_bytes"][name].values()), name
        assert f"run 1 of 1: {name}" in done.stderr
    for key in ("xxh3/floor", "default/floor", "default/curl", "default/aria2", "default/libtorrent"):
        one, _, other = key.partition("/")
        if {one, other} <= present:
            medians = [record["rate_gb_s"][name]["median"] for name in (one, other)]
            assert record["ratios"][key] == pytest.approx(medians[0] / medians[1])
        else:
            assert record["ratios"][key] is None
    assert (tmp_path / "out" / "README.md").is_file()
    assert not list(tmp_path.glob("p2pfill-bench-*")), "the work is left behind"


@pytest.mark.process
def test_who_is_not_installed_is_named_and_null(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    environment = {**os.environ, "PATH": str(tmp_path / "bin")}
    arguments = ["--only", "xxh3,curl,aria2,rsync", "--mib", "1", "--runs", "1", "--work", str(tmp_path)]
    done = run_command("pair", *arguments, "--json", env=environment)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert set(record["contenders"]) == {"xxh3"}
    assert set(record["absent"]) == {"curl", "aria2", "rsync"}
    assert "aria2c" in record["absent"]["aria2"]
    assert "apt-get install" in record["absent"]["rsync"]
    assert set(record["ratios"].values()) == {None}
    done = run_command("pair", *arguments, env=environment)
    assert re.search(r"left out: rsync, rsync is not installed; apt-get install rsync", done.stdout)


# ---- failures


@pytest.mark.process
def test_a_copy_that_is_corrupt_makes_the_run_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch = P2PFillXxh3.fetch

    def corrupted(self: P2PFillXxh3) -> contenders.Fetched:
        fetched = fetch(self)
        with self.copy.open("r+b") as file:
            file.seek(70_000)
            byte = file.read(1)[0]
            file.seek(70_000)
            file.write(bytes([byte ^ 1]))
        return fetched

    monkeypatch.setattr(P2PFillXxh3, "fetch", corrupted)
    with pytest.raises(BenchFailed, match="xxh3 fetched a file whose XXH3-128 is not that of the source"):
        pair.run_pair(tmp_path, 1, 1, ["xxh3"])


@pytest.mark.process
def test_a_receiver_that_crashes_makes_the_command_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if Curl.missing():
        pytest.skip(Curl.missing())
    shadow = tmp_path / "curl"
    shadow.write_text("#!/bin/sh\necho no luck today >&2\nexit 7\n")
    shadow.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    arguments = ["--only", "curl,xxh3", "--mib", "1", "--runs", "1", "--work", str(tmp_path), "--json"]
    done = run_command("pair", *arguments, env=environment)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1] == "p2pfill: error: curl-fetch ended with code 7: no luck today"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pair", "--only", "wget"], "there is no contender 'wget'; there are floor,"),
        (["pair", "--work", "/nowhere"], "--work '/nowhere' is not a directory"),
        (["pair", "--mib", str(1 << 40)], "choose a smaller --mib, or another directory with --work"),
        (["fanout", "--receivers", "", "--sources", ""], "give --receivers or --sources"),
        (["fanout", "--receivers", "1,x"], "--receivers '1,x' is not a list of numbers"),
        (["redraw", "/nowhere"], "'/nowhere' holds no report"),
    ],
)
def test_wrong_usage_says_what_to_do(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_copies_that_are_short_or_lacking_are_found(tmp_path: Path) -> None:
    source = make_source(tmp_path / "source", 1)
    shutil.copy(source.file, tmp_path / "copy")
    source.check(tmp_path / "copy", "it")
    with (tmp_path / "copy").open("r+b") as file:
        file.truncate(MIB - 1)
    with pytest.raises(BenchFailed, match=r"1,048,575 bytes where the source has 1,048,576"):
        source.check(tmp_path / "copy", "it")
    with pytest.raises(BenchFailed, match="left no file"):
        source.check(tmp_path / "other", "it")


# ---- the instrument

SPENDS = """
import sys, time
block = bytearray(int(sys.argv[1]) << 20)
for at in range(0, len(block), 4096): block[at] = 1
while time.process_time() < float(sys.argv[2]): pass
"""
"""Its start counts, however long that takes on a busy machine: what it spends in all is known."""


@pytest.mark.alone
def test_a_program_is_measured_with_its_children(tmp_path: Path) -> None:
    program = tmp_path / "spends.py"
    program.write_text(SPENDS)
    lone = run_program("lone", [sys.executable, str(program), "64", "0.8"], tmp_path)
    assert 0.8 <= lone.cpu_s < 1.1
    assert 64 * MIB < lone.peak_bytes < 110 * MIB
    script = f"{sys.executable} {program} 64 0.8 & {sys.executable} {program} 32 0.8 & wait"
    both = run_program("both", ["/bin/sh", "-c", script], tmp_path)
    assert 1.6 <= both.cpu_s < 2.2
    assert 96 * MIB < both.peak_bytes < 160 * MIB


@pytest.mark.alone
def test_a_tree_counts_from_its_start(tmp_path: Path) -> None:
    spend = "b = bytearray(50 << 20); b[::4096] = bytes(len(b[::4096])); del b"
    loop = f"import sys, time\n{spend}\nprint('{{}}', flush=True)\nfor _ in sys.stdin:\n t = time.process_time() + 0.2"
    loop += "\n while time.process_time() < t: pass\n print('{}', flush=True)"
    with Child("loop", [sys.executable, "-c", loop], tmp_path) as child:
        child.read()
        tree = Tree(child.tree.pid)
        assert tree.peak_bytes() > 50 * MIB
        tree.start()
        before = tree.cpu_s()
        assert tree.peak_bytes() < 50 * MIB
        child.tell({})
        child.read()
        assert before < 0.05
        assert 0.2 <= tree.cpu_s() < 0.4
        child.finish()
    with (
        Child("dies", [sys.executable, "-c", "import sys; sys.exit('out of luck')"], tmp_path) as child,
        pytest.raises(BenchFailed, match="dies ended with code 1: out of luck"),
    ):
        child.read()


# ---- what the figures mean


def measured(seconds: list[float], cost_s: float) -> pair.Measured:
    runs = [pair.Run(value, cost_s, 2 * cost_s, 10 << 20, 20 << 20, LOAD) for value in seconds]
    return pair.Measured("a title", "it 1.0", "nothing", False, runs)


def test_ratios_are_of_medians_and_null_where_one_is_absent() -> None:
    made = pair.PairReport(
        MACHINE,
        1_000_000_000,
        {"floor": measured([0.5, 9.0, 0.4], 1.0), "xxh3": measured([1.0, 0.9, 1.1], 1.5)},
        {"curl": "curl is not installed; apt-get install curl"},
    )
    record = pair.as_record(made)
    assert record["ratios"]["xxh3/floor"] == pytest.approx(0.5)
    assert record["ratios"]["default/curl"] is None
    assert record["rate_gb_s"]["floor"] == {"median": 2.0, "min": pytest.approx(1 / 9), "max": 2.5}
    assert record["cost_ratios"] == {
        "sender xxh3/floor": 1.5, "receiver xxh3/floor": 1.5, "receiver default/floor": None
    }  # fmt: skip
    text = report.page({"pair": made})
    assert "| xxh3/floor | 0.50 | at least 0.9 | **no** |" in text
    assert "| default/curl | absent | at least 1.2 |  |" in text
    assert "Left out: curl, curl is not installed" in text
    # The JSON is the report: it can be read again.
    assert msgspec.convert(record, pair.PairReport) == made


def test_unknown_contenders_are_refused() -> None:
    with pytest.raises(ConfigError, match="there is no contender 'wget'"):
        pair.choose(["default", "wget"])


def test_the_guide_names_all_contenders_and_who_is_on_the_disk() -> None:
    guide = (ROOT / "docs" / "benchmark.md").read_text()
    rows = re.findall(r"^\| (`.+?) \|", guide[guide.index("| contender |") :].split("\n\n", 1)[0], re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`([a-z0-9-]+)`", row)} == set(CONTENDERS)
    assert {kind.name for kind in CONTENDERS.values() if kind.durable} == {"floor-synced", "xxh3", "default", "aria2"}


# ---- the committed report


def test_the_committed_page_is_that_of_its_data() -> None:
    assert (REPORT / "README.md").read_text() == report.page(report.load(REPORT))


def test_committed_plots_can_be_drawn_again(tmp_path: Path) -> None:
    if plots.missing():
        pytest.skip(plots.missing())
    for section in report.SECTIONS:
        shutil.copy(REPORT / f"{section.name}.json", tmp_path)
    assert report.redraw(tmp_path) == []
    assert (tmp_path / "README.md").read_text() == (REPORT / "README.md").read_text()
    for section in report.SECTIONS:
        if section.draw is None:
            continue
        for kind in ("svg", "png"):
            assert (tmp_path / f"{section.name}.{kind}").stat().st_size > 10_000
            assert (REPORT / f"{section.name}.{kind}").is_file()
