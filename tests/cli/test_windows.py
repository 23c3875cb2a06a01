"""`p2pfill windows`: what a timetable means, and which caches of a fleet are open now."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import trio

from p2pfill.cli import main
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import HoursReport, NodeReport
from p2pfill.tracker.client import TrackerClient


def beat(fleet: Any, node: str, hours: HoursReport) -> None:
    info = NodeInfo(id=NodeId(node), isp="isp-a", region="eu", host="127.0.0.1", port=4000)

    async def send() -> None:
        async with TrackerClient(fleet.url) as client:
            await client.heartbeat(NodeReport(info=info, boot="boot", sequence=1, hours=hours))

    trio.run(send)


def test_a_fleet_of_80_columns_breaks_no_row(
    fleet: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    used = {"night": "2026-11-29", "used_bytes": 900 << 30, "budget_bytes": 6 << 40, "exempt_bytes": 100 << 20}
    beat(fleet, "a1", HoursReport(until=time.time() + 3600, **used))
    beat(fleet, "a2", HoursReport(phase="closed", until=time.time() + 3600, night="2026-11-29"))
    assert main(["windows", "--tracker", fleet.url]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert "window" in head
    assert [row.split()[0] for row in rows] == ["a1", "a2", "not"]
    assert main(["windows", "--json", "--tracker", fleet.url]) == 0
    assert [hours["phase"] for hours in json.loads(capsys.readouterr().out).values()] == ["open", "closed"]


def test_a_timetable_that_never_closes_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["windows", "02:00,max"]) == 0
    assert "never   always" in capsys.readouterr().out
