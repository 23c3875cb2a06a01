"""One mistyped origin, real processes: refused when it is ordered; where it was ordered before, its title says why."""

from __future__ import annotations

import sqlite3
import time
import urllib.error
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from measure import check_at_most
from process.fleet import Fleet, Title, cli, wait_until

from p2pfill.tracker.records import FillRecord, FillRequest

MISTYPED = "http://127.0.0.300/"
STALL_S = 1.0


pytestmark = [pytest.mark.process, pytest.mark.alone]


def test_a_mistyped_origin_ends_no_cache(tmp_path: Path, make_title: Callable[..., Title]) -> None:
    bad, good, late = make_title("bad", 1), make_title("good", 1), make_title("late", 1)
    fleet = Fleet(tmp_path)
    try:
        fleet.start(("a1", "isp-a"), ("a2", "isp-a"))
        done = cli("fill", str(bad.fill), "--tracker", fleet.url, "--origin", MISTYPED, "--to", "all")
        assert done.code == 2, done
        assert "no IPv4 address" in done.err
        with pytest.raises(urllib.error.HTTPError) as refused:
            fleet.order(bad, [MISTYPED], stall_wait_s=5.0)
        assert refused.value.code == 400
        assert b"no IPv4 address" in refused.value.read()

        # Into the database, as a tracker without the check would have written it. The title is there by now.
        assert fleet.tracker.end() == 0
        record = FillRecord("badbadbadbad", FillRequest(bad.id, "all", [MISTYPED]), time.time(), number=1)
        with closing(sqlite3.connect(tmp_path / "tracker.db")) as db, db:
            db.execute("INSERT INTO fills VALUES (?, ?)", (record.fill_id, msgspec.json.encode(record)))
            pairs = [(record.fill_id, name) for name in ("a1", "a2")]
            db.executemany("INSERT INTO assignments VALUES (?, ?)", pairs)
        fleet.restart_tracker()
        fleet.order(good, [good.root.as_uri()])
        fleet.live(("a1", "a2"), good)

        def reason(name: str) -> Any:
            assert fleet.nodes[name].running(), fleet.nodes[name].text()[-3000:]
            return next((one["reason"] for one in fleet.report(name, bad).get("sources", []) if one["reason"]), "")

        reasons = [wait_until(f"{name} says why", lambda name=name: reason(name)) for name in ("a1", "a2")]
        assert any("no IPv4 address" in text for text in reasons), reasons
        # A restart brings the order again.
        assert fleet.nodes["a1"].end() == 0
        fleet.restart("a1")
        fleet.order(late, [late.root.as_uri()])
        fleet.live(("a1", "a2"), late)
        wait_until("a1 says why", lambda: reason("a1"))
        # A second order of the title brings an origin that can be used.
        fleet.order(bad, [bad.root.as_uri()])
        fleet.live(("a1", "a2"), bad)
    finally:
        fleet.close()


def test_an_order_with_the_right_origin_mends_one_with_a_wrong_one(
    tmp_path: Path, make_title: Callable[..., Title]
) -> None:
    """Each cache has tried the wrong one in vain by then, and has freed itself to fetch what others do not bring."""

    def reasons(report: dict[str, Any]) -> list[str]:
        return [source["reason"] for source in report.get("sources", []) if source["reason"]]

    names = ("a1", "a2", "a3")
    fleet = Fleet(tmp_path)
    try:
        fleet.start(*((name, "isp-a") for name in names))

        def copies(number: int) -> float:
            title = make_title(f"corrected{number}", 3)
            fleet.order(title, ["http://127.0.0.1:1/"], stall_wait_s=STALL_S)
            for name in names:
                wait_until(f"{name} says why", lambda name=name: reasons(fleet.report(name, title)))
            time.sleep(3 * STALL_S)  # whoever starves helps itself by then
            fleet.order(title, [title.root.as_uri()], stall_wait_s=STALL_S)
            reports = fleet.live(names, title)
            return float(sum(report["bytes_origin"] for report in reports.values())) / title.size

        check_at_most(1.25, copies)
    finally:
        fleet.close()
