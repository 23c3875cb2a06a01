"""A tracker that knows what routes cost, as a process: its file is read at start and at SIGHUP, and explained."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from process.fleet import Fleet, cli, wait_until

pytestmark = pytest.mark.process


def test_sighup_reads_the_tables_anew_and_a_wrong_one_changes_nothing(tmp_path: Path) -> None:
    config, rib = tmp_path / "routes.toml", tmp_path / "rib.csv"
    config.write_text("[[table]]\nfile = 'rib.csv'\n")
    rib.write_text("127.0.0.0/8,64500 64501,120,3\nnonsense\n")
    fleet = Fleet(tmp_path, ("--routes", str(config)))
    try:
        fleet.start(("a1", "isp"), ("a2", "isp"))
        wait_until("both are known", lambda: fleet.alive() == {"a1", "a2"})
        explain = ("route", "explain", "a1", "192.0.2.1", "--tracker", fleet.url)
        assert json.loads(cli(*explain, "--json").out)["cost"] == 16.0
        said = " ".join(cli(*explain).out.split())
        assert "in 127.0.0.0/8, AS path 64500 64501, local preference 120, MED 3" in said
        assert "A byte to a1 from 192.0.2.1 costs 16" in said
        rib.write_text("127.0.0.0/8,64500 64501\n192.0.2.0/24,64500 64502,90\n")
        fleet.tracker.process.send_signal(signal.SIGHUP)
        wait_until("it is read", lambda: json.loads(cli(*explain, "--json").out)["cost"] == pytest.approx(2.1))
        rib.write_text("")
        fleet.tracker.process.send_signal(signal.SIGHUP)
        wait_until("it is said", lambda: "what was read before counts" in fleet.tracker.text())
        assert json.loads(cli(*explain, "--json").out)["cost"] == pytest.approx(2.1)
        assert fleet.alive() == {"a1", "a2"}
    finally:
        fleet.close()


def test_a_tracker_does_not_start_with_routes_that_cannot_be_used(tmp_path: Path) -> None:
    config = tmp_path / "routes.toml"
    config.write_text("[[table]]\nfile = 'rib.csv'\n")
    done = cli("tracker", "--listen", "127.0.0.1:0", "--db", f"sqlite:///{tmp_path}/t.db", "--routes", str(config))
    assert done.code == 2
    assert "cannot read the table in" in done.err
