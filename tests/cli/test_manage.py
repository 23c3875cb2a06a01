"""title, fills and nodes, against a real tracker whose caches only pretend."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from p2pfill.cli import main
from p2pfill.model.reports import SourceReport


@pytest.fixture
def fill_id(fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]) -> str:
    """Order `film` on a1, which holds it; return the id of the order."""
    fleet.beat("a1", make.report(make.manifest(), "live", 4))
    assert main(["fill", str(film), "--tracker", fleet.url, "--to", "all", "--json"]) == 0
    return str(json.loads(capsys.readouterr().out)["fill"])


def run(fleet: Any, capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    assert main([*command, "--tracker", fleet.url]) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_titles(fleet: Any, make: Any, fill_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    title = make.manifest().title_id.hex()
    assert title[:12] in run(fleet, capsys, "title", "list")
    assert [one["title"] for one in json.loads(run(fleet, capsys, "title", "list", "--json"))] == [title]
    said = " ".join(run(fleet, capsys, "title", "show", "film").split())
    assert f"fill {fill_id} to all 1" in said
    assert "cache a1 live 256 KiB 0" in said
    assert json.loads(run(fleet, capsys, "title", "show", "film", "--json"))["holders"][0]["node"] == "a1"
    assert fill_id in run(fleet, capsys, "title", "remove", "film", "--yes", code=1)
    assert "would withdraw 1 order of film" in run(fleet, capsys, "title", "withdraw", "film", "--dry-run")
    assert json.loads(run(fleet, capsys, "fills", "list", "--json"))
    assert "1 cache with 256 KiB keep it" in run(fleet, capsys, "title", "withdraw", "film")
    assert json.loads(run(fleet, capsys, "fills", "list", "--json")) == []
    assert "add --yes" in run(fleet, capsys, "title", "withdraw", "film", "--urgent", code=2)
    found = json.loads(run(fleet, capsys, "title", "withdraw", "film", "--urgent", "--yes", "--json"))
    assert not found["withdrawn"], "what stood before"
    assert "withdrawn: caches that hold it delete it" in run(fleet, capsys, "title", "show", "film")
    assert "would remove film" in run(fleet, capsys, "title", "remove", "film", "--dry-run")
    assert "done: remove film" in run(fleet, capsys, "title", "remove", "film", "--yes")
    assert "knows no title" in run(fleet, capsys, "title", "show", "film", code=2)


def test_titles_are_added_before_anything_orders_them(
    fleet: Any, film: Path, tmp_path: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.fill"
    broken.write_bytes(b"no manifest")
    assert "broken.fill" in run(fleet, capsys, "title", "add", str(film), str(broken), code=2)
    assert json.loads(run(fleet, capsys, "title", "list", "--json")) == [], "all are read before one is sent"
    assert "the catalogue has film" in run(fleet, capsys, "title", "add", str(film))
    again = json.loads(run(fleet, capsys, "title", "add", str(film), "--json"))
    assert [one["title"] for one in again] == [make.manifest().title_id.hex()]
    assert json.loads(run(fleet, capsys, "fills", "list", "--json")) == []


def test_pins(fleet: Any, make: Any, fill_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(fleet, capsys, "title", "pin", "film", "--nodes", "a1")
    assert "done: pin film on id=a1" in said
    assert "order, pin" in said
    assert "id=a1" in run(fleet, capsys, "title", "list")
    assert json.loads(run(fleet, capsys, "title", "list", "--json"))[0]["pins"] == ["id=a1"]
    assert "pin on id=a1" in " ".join(run(fleet, capsys, "title", "show", "film").split())
    assert "add --later" in run(fleet, capsys, "title", "pin", "film", "--nodes", "isp=typo", code=2)
    found = json.loads(run(fleet, capsys, "title", "pin", "film", "--nodes", "isp=typo", "--later", "--json"))
    assert found["title"]["pins"] == ["id=a1", "isp=typo"]
    assert "pinned on id=a1, isp=typo" in run(fleet, capsys, "title", "unpin", "film", "--nodes", "zz", code=2)
    assert "unpin film, which was pinned on isp=typo" in run(
        fleet, capsys, "title", "unpin", "film", "--nodes", "isp=typo"
    )
    said = run(fleet, capsys, "title", "withdraw", "film")
    assert f"p2pfill title unpin {make.manifest().title_id.hex()[:12]} --tracker {fleet.url}" in said
    assert found["holders"][0]["kept_by"] == ["order", "pin"]
    said = run(fleet, capsys, "title", "withdraw", "film", "--urgent", "--dry-run")
    assert "unpin it (pinned on id=a1) and delete it" in said
    assert "and its pins (id=a1)" in run(fleet, capsys, "title", "remove", "film", "--dry-run")
    run(fleet, capsys, "title", "unpin", "film")
    assert "kept by nothing: it goes when" in run(fleet, capsys, "title", "show", "film")
    run(fleet, capsys, "title", "withdraw", "film", "--urgent", "--yes")
    assert "order it again first" in run(fleet, capsys, "title", "pin", "film", code=1)


def test_an_eviction_that_nobody_answers(fleet: Any, fill_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = run(fleet, capsys, "title", "evict", "--dry-run", "--timeout", "0.2", code=4)
    assert "1 cache not done after 0.2 s, as a1" in said
    assert "no running cache matches" in run(fleet, capsys, "title", "evict", "--dry-run", "--nodes", "zz", code=2)
    assert "is no size" in run(fleet, capsys, "title", "evict", "--free", "much", code=2)


def test_fills(fleet: Any, film: Path, make: Any, fill_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fill_id in run(fleet, capsys, "fills", "list")
    report = make.report(make.manifest(), "live", 4)
    report.sources = [SourceReport("http://web/film", "origin", 3 << 20)]
    fleet.beat("a1", report)
    said = run(fleet, capsys, "fills", "show", fill_id)
    assert "1 of 1 live" in said
    assert "3 MiB from http://web/film" in said
    assert json.loads(run(fleet, capsys, "fills", "show", fill_id, "--json"))["done"]
    # A corrected order says that the one before stands.
    assert main(["fill", str(film), "--tracker", fleet.url, "--to", "all", "--origin", "http://web/"]) == 0
    assert f"p2pfill fills withdraw {fill_id} --tracker {fleet.url}" in capsys.readouterr().err
    said = run(fleet, capsys, "fills", "withdraw", fill_id, "--dry-run")
    assert "would withdraw the order of film to 1 cache" in said
    assert "done: withdraw the order of film" in run(fleet, capsys, "fills", "withdraw", fill_id)
    assert fill_id in run(fleet, capsys, "fills", "show", fill_id, code=2)


def test_bytes_from_before_an_order_are_said_to_be(
    fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    now = time.time()
    fleet.beat("a1", make.report(make.manifest(), "live", 4, started_at=now - 9, finished_at=now - 8))
    fleet.beat("a2")
    fill = ["fill", str(film), "--tracker", fleet.url, "--to", "all", "--wait", "--timeout", "0.1"]
    assert main(fill) == 4
    said = "bytes count since a title came to a cache: those of a1 from before this order, too"
    assert capsys.readouterr().out.count(said) == 1
    fleet.beat("a2", make.report(make.manifest(), "live", 4, started_at=now + 9, finished_at=now + 10))
    assert main(fill) == 0
    assert said in capsys.readouterr().out
    assert said in " ".join(run(fleet, capsys, "status").split())


def test_a_timeout_without_a_wait_is_said_to_be_of_no_use(
    fleet: Any, film: Path, fill_id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    order, scrub = ["fill", str(film), "--to", "all"], ["scrub", "film"]
    for command, more, says in (
        (order, ["--timeout", "9"], True), (scrub, ["--timeout", "9"], True), (order, [], False),
        (order, ["--wait", "--timeout", "9"], False),
    ):  # fmt: skip
        assert main([*command, *more, "--tracker", fleet.url]) == 0
        assert ("--timeout is of no use without --wait" in capsys.readouterr().err) == says


def test_nodes(fleet: Any, fill_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "\na1 " in run(fleet, capsys, "nodes", "list")
    assert [one["info"]["id"] for one in json.loads(run(fleet, capsys, "nodes", "list", "--json"))] == ["a1"]
    assert "is alive" in run(fleet, capsys, "nodes", "remove", "a1", "--yes", code=1)
    assert "never sent a heartbeat" in run(fleet, capsys, "nodes", "remove", "zz", "--yes", code=2)


def test_caches_that_are_silent_for_long_are_removed_together(
    fleet: Any, fill_id: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("x1", "x2"):
        fleet.beat(name)
    remove = ["nodes", "remove", "--silent"]
    assert "forget 0 caches" in run(fleet, capsys, *remove, "0s", "--yes")
    monkeypatch.setattr("p2pfill.tracker.service.LEASE_INTERVALS", 0)  # so all are dead that do not report just now
    end = time.monotonic() + 30
    while any(one["alive"] for one in json.loads(run(fleet, capsys, "nodes", "list", "--json"))):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "forget 0 caches" in run(fleet, capsys, *remove, "1h", "--yes")
    assert "would forget 3 caches: a1, x1, x2" in run(fleet, capsys, *remove, "0s", "--dry-run")
    assert len(json.loads(run(fleet, capsys, "nodes", "list", "--json"))) == 3
    assert "done: forget 3 caches" in run(fleet, capsys, *remove, "0s", "--yes")
    assert json.loads(run(fleet, capsys, "nodes", "list", "--json")) == []
    assert "write how long" in run(fleet, capsys, *remove, "soon", "--yes", code=2)
    assert "name one cache" in run(fleet, capsys, "nodes", "remove", "--yes", code=2)
