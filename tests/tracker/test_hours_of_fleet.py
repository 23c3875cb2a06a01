"""What the tracker makes of fill windows that caches say are open, about to open, or closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tracker.services import publish, service_on

from p2pfill.model.reports import HoursReport
from p2pfill.tracker.records import FillRequest


@pytest.mark.parametrize("now", [False, True])
async def test_who_fills_out_of_cycle_is_no_less_open_before_its_window(tmp_path: Path, make: Any, now: bool) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 2)
        await service.add_fill(FillRequest(title, "all", [], now=now))
        service.handle_heartbeat("n1", make.report(make.info("n1")))
        for sequence, phase in enumerate(("closed", "soon", "open"), 1):
            report = make.report(make.info("n2"), sequence)
            service.handle_heartbeat("n2", msgspec.structs.replace(report, hours=HoursReport(phase=phase, until=9.0)))
            (entry,) = service.order("n1", title).roster
            assert entry.filling == (now or phase != "closed")
            assert entry.soon == (phase == "soon" and not now)
