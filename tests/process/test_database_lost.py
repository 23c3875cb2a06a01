"""The tracker's database is lost in the midst of a fill: the fill goes on, and nothing is said to be withdrawn."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from process.fleet import Fleet, HeldOrigin, Title, cli, wait_until

pytestmark = [pytest.mark.process]

HALF = 2 * 1024 * 1024


def test_a_fill_goes_on_without_the_database(
    tmp_path: Path, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    fleet = Fleet(tmp_path)
    try:
        fleet.start(("a1", "isp-a"), ("a2", "isp-a"))
        assert cli("limit", "all", "out=900MiB", "--tracker", fleet.url).code == 0
        title = make_title("film", 4)
        origin = make_origin(title.root, allowed=HALF)
        fleet.order(title, [origin.url])
        wait_until("half has come", lambda: origin.sent_bytes >= HALF)
        fleet.tracker.end(signal.SIGKILL)
        for end in ("", "-wal"):
            (tmp_path / f"tracker.db{end}").unlink(missing_ok=True)
        fleet.restart_tracker()
        for name in ("a1", "a2"):
            log = fleet.nodes[name]
            wait_until(f"{name} says that it goes on", lambda log=log: "does not know 1 orders" in log.text())
        rates = {fleet.get(f"/v1/nodes/{name}")["rates"]["outbound"]["total"] for name in ("a1", "a2")}
        assert rates == {900 << 20}, "a limit that the new database does not know is not lifted"
        assert {fleet.report(name, title)["state"] for name in ("a1", "a2")} == {"filling"}

        def status() -> Any:
            return json.loads(cli("status", "--tracker", fleet.url, "--json").out)

        wait_until("both have brought it back", lambda: [one["nodes"] for one in status()["brought_back"]] == [2])
        (fill,) = status()["fills"]
        assert (fill["fill"]["request"]["origins"], fill["totals"]["nodes"]) == ([origin.url], 2)
        origin.allow(2 * title.size)
        fleet.live(("a1", "a2"), title)
        assert fleet.get(f"/v1/fills/{fill['fill']['fill_id']}")["done"]
        assert "is gone" in " ".join(cli("status", "--tracker", fleet.url).out.split())
        # A withdrawal ends it, here as everywhere.
        assert cli("title", "withdraw", "film", "--urgent", "--yes", "--tracker", fleet.url).code == 0
        for name in ("a1", "a2"):
            wait_until(f"{name} has deleted it", lambda name=name: not (fleet.data(name) / "live" / "film").exists())
    finally:
        fleet.close()
