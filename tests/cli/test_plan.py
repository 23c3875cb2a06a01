"""`p2pfill plan`: what a person sees of a history."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ibis")

from p2pfill.cli import main
from p2pfill.cli.exits import ExitCode

HEADER = "time,region,cache,title,file,bytes\n"
GOOD = "2026-11-28T20:00:00Z,eu,a1,Film,film.mp4,1000\n"
WRONG = "2026-11-28T21:00:00Z,mars,a1,Film,film.mp4,1\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {
        "catalogue.csv": "title,file,size\nFilm,film.mp4,4.2 GB\nFilm,film.mp4,1\nFilm,zero.mp4,0\n",
        "caches.toml": '[[cache]]\nname = "a1"\ncluster = "c"\nisp = "isp-a"\nregion = "eu"\ncapacity = "60TB"\n'
        'serving = "40Gbit/s"\n',
        "good.csv": HEADER + GOOD,
        "wrong.csv": HEADER + GOOD.replace("20:", "22:") + WRONG,
        "bad.csv": "a;b\n1;2\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return {name.split(".")[0]: str(tmp_path / name) for name in texts} | {"history": str(tmp_path / "history")}


class Plan:
    """Runs commands on some files, and gives what they said."""

    def __init__(self, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        self.files = files
        self.capsys = capsys

    def ingest(self, *logs: str, code: int = 0, **options: str) -> tuple[str, str]:
        given = {name: self.files[name] for name in ("history", "catalogue", "caches")} | options
        named = [self.files.get(log, log) for log in logs]
        return self.run(
            "ingest", *named, *(part for name, value in given.items() for part in (f"--{name}", value)), code=code
        )

    def run(self, *command: str, code: int = 0) -> tuple[str, str]:
        assert main(["plan", *command]) == code
        captured = self.capsys.readouterr()
        return " ".join(captured.out.split()), captured.err


@pytest.fixture
def plan(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> Plan:
    return Plan(files, capsys)


def test_ingest_says_what_counts_and_what_is_wrong(plan: Plan) -> None:
    out, err = plan.ingest("good", "wrong")
    assert "2 logs taken in: 2 of 3 rows count as views, 2026-11-28 to 2026-11-28" in out
    assert "1 x file twice" in out
    assert "1 x size of zero or less" in out
    assert "1 x region unknown" in out
    assert "csv, row 2: 'mars'" in out, "however long the path is that stands before it"
    assert "next: add the region to the caches' table" in out
    assert not err.strip()
    out, _ = plan.ingest("good", "wrong")
    assert "0 logs taken in" in out
    assert "2 logs taken in before, not counted again" in out
    out, _ = plan.run("history", "--history", plan.files["history"])
    assert "1 day, 2026-11-28 to 2026-11-28, out of 2 logs with 3 rows, of which 2 count as views" in out
    assert "2026-11-28 3 2 3 1.95 KiB 1.95 KiB" in out
    assert "1 x region unknown" in out


def test_json_is_for_scripts(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [part for name in ("history", "catalogue", "caches") for part in (f"--{name}", plan.files[name])]
    assert main(["plan", "ingest", plan.files["wrong"], *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["days"] == ["2026-11-28"]
    assert (found["taken"][0]["rows"], found["taken"][0]["used"]) == (2, 1)
    assert found["faults"]["kinds"]["region unknown"]["examples"][0]["row"] == 2
    assert set(found["tables"]["kinds"]) == {"file twice", "size of zero or less"}
    assert main(["plan", "history", "--history", plan.files["history"], "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert shown["days"]["2026-11-28"]["requests"] == 2
    assert shown["faults"] == found["faults"]


def test_exit_codes(plan: Plan) -> None:
    assert "there is no history" in plan.run("history", "--history", plan.files["history"], code=ExitCode.USAGE)[1]
    for logs, why in (
        (["bad"], "lacks the columns"),
        (["nosuch.csv"], "No such file"),
        (["bad", "no.csv"], "and 1 more"),
    ):
        assert why in plan.ingest(*logs, code=ExitCode.USAGE)[1]
    for name in ("catalogue", "caches"):
        err = plan.ingest("good", code=ExitCode.USAGE, **{name: plan.files["bad"]})[1]
        assert "lacks the columns" in err
        assert err.count("\n") == 1
    assert "is no size" in plan.ingest("good", memory="much", code=ExitCode.USAGE)[1]
    out, err = plan.ingest("good", "bad", code=ExitCode.FAILED)
    assert "1 log taken in" in out
    assert "1 log of 2 could not be used; the others were taken in" in err


def test_what_no_option_names_the_planners_file_does(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command, what, option in (
        (("history",), "history is", "--history DIR"), (("ingest",), "logs are", "LOGS"),
        (("ingest", plan.files["good"]), "history is", "--history DIR"),
        (("ingest", plan.files["good"], "--history", "x"), "catalogue is", "--catalogue FILE"),
        (("ingest", plan.files["good"], "--history", "x", "--catalogue", "y"), "caches are", "--caches FILE"),
    ):  # fmt: skip
        err = plan.run(*command, "--planner", str(tmp_path / "no.toml"), code=ExitCode.USAGE)[1]
        assert f"no {what} named: give {option}, or a planner's file with --planner; there is no " in err
    planner = tmp_path / "planner.toml"
    planner.write_text('catalogue = "catalogue.csv"\ncaches = "caches.toml"\n')
    assert "give LOGS, or write logs = " in plan.run("ingest", "--planner", str(planner), code=ExitCode.USAGE)[1]
    planner.write_text(planner.read_text() + 'logs = ["go*.csv"]\n')
    monkeypatch.chdir(tmp_path)
    assert "1 log taken in: 1 of 1 row" in plan.run("ingest")[0]
    assert "1 log taken in before" in plan.run("ingest", "good.csv")[0]
    assert "1 day, 2026-11-28" in plan.run("history")[0]
    planner.write_text('catalogue = "moon.csv"\ncaches = "moon.toml"\nhistory = "moon"\n')
    assert "1 log taken in" in plan.ingest("wrong")[0], "options go before the file"
    assert "out of 2 logs" in plan.run("history", "--history", "history")[0]


def test_without_the_extra_it_says_what_to_install(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "duckdb" else find(name))
    for command in (
        ("history", "--history", "x"),
        ("ingest", "log", "--history", "x", "--catalogue", "y", "--caches", "z"),
    ):
        err = plan.run(*command, code=ExitCode.USAGE)[1]
        assert "the planner needs duckdb: pip install 'p2pfill[planner]'" in err
