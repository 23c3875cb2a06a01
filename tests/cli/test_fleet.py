"""fill, status and explain, against a real tracker whose caches only pretend."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from p2pfill.cli import main
from p2pfill.cli.deadline import parse_deadline
from p2pfill.errors import ConfigError

SHOWN_S = 20
"""For a wait to show what it has seen."""


def fill(fleet: Any, film: Path, *more: str) -> int:
    return main(["fill", str(film), "--tracker", fleet.url, "--to", "all", *more])


def test_fill_without_waiting(fleet: Any, film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill(fleet, film, "--origin", str(tmp_path), "--later") == 0
    captured = capsys.readouterr()
    assert "to 0 caches" in captured.out
    assert "no running cache matches 'all' yet" in captured.err
    fleet.beat("a1")
    assert fill(fleet, film, "--origin", str(tmp_path), "--json") == 0
    assert json.loads(capsys.readouterr().out)["nodes"] == ["a1"]
    assert main(["status", "--tracker", fleet.url, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert [one["fill"]["request"]["origins"] for one in status["fills"]] == [[tmp_path.as_uri()]]


def test_a_selector_that_means_nobody_orders_nothing(
    fleet: Any, film: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(fleet, film) == 2
    assert "none has reported to this tracker yet" in capsys.readouterr().err
    fleet.beat("a1")
    assert main(["fill", str(film), "--tracker", fleet.url, "--to", "isp=isp_a"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "matches 'isp=isp_a': running are a1 (isp isp-a, region eu); nothing was ordered" in line
    assert line.endswith("add --later")
    assert main(["status", "--tracker", fleet.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fills"] == []


def test_half_of_a_selector_that_means_nobody_is_named(
    fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfill.cli.fill.JOIN_WAIT_S", 0.0)
    fleet.beat("a1", make.report(make.manifest(), "live", 4))
    half, tracker = "isp=isp-a, isp=bb,id=zz", ["--tracker", fleet.url]
    assert main(["fill", str(film), *tracker, "--to", half]) == 2
    said = capsys.readouterr().err
    assert f"no running cache matches 'isp=bb', 'id=zz' of '{half}': running are a1 (isp isp-a" in said
    assert "nothing was ordered; for caches that start later add --later" in said
    assert main(["status", *tracker, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fills"] == []
    assert main(["fill", str(film), *tracker, "--to", half, "--later", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["unmatched"] == ["isp=bb", "id=zz"]
    assert [f"no running cache matches '{clause}' yet" in captured.err for clause in ("isp=bb", "id=zz", "all")] == [
        True, True, False
    ]  # fmt: skip
    for command in ("title pin film --nodes", "title evict --dry-run --nodes", "scrub film --node"):
        assert main([*command.split(), half, *tracker]) == 2
        assert "no running cache matches 'isp=bb', 'id=zz' of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "hint"),
    [("a1", "for the cache of that id write id=a1"), ("ips=a", "did you mean isp=?"), ("isp=a,b7", "write id=b7")],
)
def test_a_selector_that_is_nearly_right(text: str, hint: str, film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fill", str(film), "--tracker", "http://127.0.0.1:1", "--to", text]) == 2
    assert hint in capsys.readouterr().err


def test_fill_waits_until_all_are_live(fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.beat("a1")
    fleet.beat("a2")
    manifest = make.manifest()
    out, err = "", ""

    def look() -> str:
        nonlocal out, err
        captured = capsys.readouterr()
        out, err = out + captured.out, err + captured.err
        return out

    def finish() -> None:
        """Have each cache go on once what was before is shown."""
        for node, before in (("a1", "a1 ordered"), ("a2", "a1 live")):
            until = time.monotonic() + SHOWN_S
            while before not in look() and time.monotonic() < until:
                time.sleep(0.02)
            fleet.beat(node, make.report(manifest, "live", 4))

    thread = threading.Thread(target=finish)
    thread.start()
    assert fill(fleet, film, "--wait", "--timeout", str(3 * SHOWN_S)) == 0
    thread.join()
    assert "a1 ordered" in look()
    assert "a1 live, a2 live  2 of 2 live · peer 512 KiB" in out.splitlines()[-1]
    assert err == ""


def test_fill_that_is_not_done_in_time(fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.beat("a1", make.report(make.manifest(), "filling", 1))
    assert fill(fleet, film, "--wait", "--timeout", "0.1", "--json") == 4
    captured = capsys.readouterr()
    status = json.loads(captured.out)
    assert not status["done"]
    assert "a1 25 %" in captured.err
    assert captured.err.splitlines()[-1].startswith("p2pfill: error: 0 of 1 cache")


def test_fill_that_fails_says_why(fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.beat("a1", make.report(make.manifest(), "failed", 1, error="disk full\nreally\x1b[31m"))
    assert fill(fleet, film, "--wait") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == "p2pfill: error: 1 cache of 1 failed; a1: disk full really [31m"


def test_status_for_people(fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill(fleet, film, "--later") == 0
    fleet.beat("a1", make.report(make.manifest(), "filling", 3))
    fleet.beat("b1", isp="isp-b")
    capsys.readouterr()
    assert main(["status", "--tracker", fleet.url]) == 0
    said = capsys.readouterr().out
    assert "2 of 2 caches alive · 1 title · 1 fill" in said
    assert "75 %" in said
    assert "isp-b" in said


def test_a_deadline_is_ordered_and_shown(
    fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(fleet, film, "--deadline", "2033-05-18T05:33:20+02:00", "--priority", "2", "--later") == 0
    fleet.beat("a1", make.report(make.manifest(), "filling", 3))
    capsys.readouterr()
    assert main(["status", "--tracker", fleet.url, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["fills"]
    assert (one["fill"]["request"]["deadline"], one["outlook"]) == (2e9, "due")
    assert main(["status", "--tracker", fleet.url]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "priority 2 running deadline 2033-05-18 03:33:20 UTC due" in said
    assert fill(fleet, film, "--deadline", "tomorrow") == 2
    assert "as in +90m" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("+90m", 1000.0 + 5400), ("+1d12h", 1000.0 + 129600), ("+0s", 1000.0), ("+1h2m3s", 1000.0 + 3723),
        ("1970-01-01T01:00:00Z", 3600.0), ("1970-01-01T01:00:00.5+01:00", 0.5), ("1970-01-02 00:00:00-00:00", 86400.0),
    ],
)  # fmt: skip
def test_deadlines_as_people_write_them(text: str, seconds: float) -> None:
    assert parse_deadline(text, 1000.0) == seconds


@pytest.mark.parametrize("text", ["", "+", "90m", "+90", "+5m3h", "-5m", "2030-01-31T06:00:00", "2030-01-31", "x" * 99])
def test_deadlines_that_mean_nothing_or_not_one_instant_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="offset") as refused:
        parse_deadline(text, 1000.0)
    assert len(str(refused.value)) < 300


@pytest.mark.process
def test_status_can_be_watched_through_a_pipe(fleet: Any) -> None:
    fleet.beat("a1")
    command = f"{sys.executable} -m p2pfill.cli status --tracker {fleet.url} --watch --interval 0.1 --json | head -2"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=30, check=True)
    assert [json.loads(line)["nodes"][0]["info"]["id"] for line in done.stdout.splitlines()] == ["a1", "a1"]
    assert done.stderr == ""


def test_explain(fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = make.manifest()
    title = manifest.title_id.hex()
    assert fill(fleet, film, "--origin", "http://origin.example/film/", "--later") == 0
    waits = {"its fill master has not sent it yet": 3}
    fleet.beat("a1", make.report(manifest, "filling", 1, waits=waits, bytes_origin=7))
    fleet.beat("b1", make.report(manifest, "live", 4), isp="isp-b")
    capsys.readouterr()
    for name in ("film", title, title[:6], title.upper()):
        assert main(["explain", "a1", name, "--tracker", fleet.url]) == 0
        said = capsys.readouterr().out
        for text in (
            "25 %",
            "slow: half as fast as others",
            "http://origin.example/film",
            "3 chunks wait: its fill master has not sent it yet",
            "2 chunks came from further out: master silent",
            "regional",
        ):
            assert text in said
    assert main(["explain", "a1", "film", "--tracker", fleet.url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["report"]["have_chunks"] == 1
    assert main(["explain", "a1", "absent", "--tracker", fleet.url]) == 2
    assert "knows no title 'absent'; it knows: film" in capsys.readouterr().err
    assert main(["explain", "zz", "film", "--tracker", fleet.url]) == 2
    assert "zz" in capsys.readouterr().err


def test_a_tracker_that_is_gone(film: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (
        ["fill", str(film), "--to", "all", "--wait"],
        ["status"],
        ["status", "--watch"],
        ["explain", "a1", "film"],
    ):
        assert main([*command, "--tracker", "http://127.0.0.1:1"]) == 3
        assert capsys.readouterr().err.count("\n") == 1
        assert main([*command, "--tracker", "127.0.0.1:7070"]) == 2
        assert "write http://127.0.0.1:7070" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("origin", "cause"),
    [
        ("http://127.0.0.300/", "no IPv4 address"), ("http://h:0/", "port 0"), ("http:h", "write http://HOST"),
        ("127.0.0.9:8080/film", "write http://127.0.0.9:8080/film"), ("web.example", "write http://web.example"),
    ],
)
def test_a_mistyped_origin_is_an_error_of_usage(
    fleet: Any, film: Path, origin: str, cause: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(fleet, film, "--origin", origin) == 2
    assert cause in capsys.readouterr().err
