"""The tracker's database is lost in the midst of a fill: the fill goes on, and nothing is said to be withdrawn."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

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
        title = make_title("film", 4)
        origin = make_origin(title.root, allowed=HALF)
        fleet.order(title, [origin.url])
        wait_until("half has come", lambda: origin.sent_bytes >= HALF)
        fleet.tracker.end(signal.SIGKILL)
        for path in tmp_path.glob("tracker.db*"):
            path.unlink()
        fleet.restart_tracker()
        for name in ("a1", "a2"):
            log = fleet.nodes[name]
            wait_until(f"{name} says that it goes on", lambda log=log: "does not know 1 orders" in log.text())
        assert {fleet.report(name, title)["state"] for name in ("a1", "a2")} == {"filling"}
        origin.allow(2 * title.size)
        fleet.live(("a1", "a2"), title)
        status = json.loads(cli("status", "--tracker", fleet.url, "--json").out)
        assert status["fills"] == []
    finally:
        fleet.close()
