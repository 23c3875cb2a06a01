"""Nodes that were made up go by themselves, and the table of nodes does not grow with everybody who calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from tracker.services import publish, service_on

from p2pfill.model.limits import WEIGHT_MAX
from p2pfill.model.reports import TitleReport
from p2pfill.tracker import forgetting
from p2pfill.tracker import service as service_module
from p2pfill.tracker.callers import Caller
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service

DAY = 86400.0


class Clock:
    """Both clocks of a service."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1e9
        monkeypatch.setattr(service_module.time, "time", lambda: self.now)

    def watch(self, service: Service) -> None:
        service._now = lambda: self.now
        service._swept_at = self.now


def beat(service: Service, make: Any, name: str, sequence: int, address: str = "", *titles: TitleReport) -> None:
    service.handle_heartbeat(name, make.report(make.info(name), sequence, *titles), Caller(address))


def age(service: Service, clock: Clock, seconds: float) -> list[str]:
    clock.now += seconds
    service._swept_at = clock.now
    service.expire()
    return service.forget_silent()


async def test_newcomers_that_never_come_back_are_forgotten_and_others_much_later(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(monkeypatch), tmp_path / "t.db"
    async with service_on(path) as service:
        clock.watch(service)
        title = await publish(service, make, 3)
        await service.add_fill(FillRequest(title, "all", ["http://o/"]))
        beat(service, make, "old", 1)
        clock.now += 2 * forgetting.NEWCOMER_S
        beat(service, make, "old", 2, "", TitleReport(title, "live", 3, 3))
        beat(service, make, "made-up", 1, "", TitleReport(title, "live", 3, 3))
        assert age(service, clock, forgetting.NEWCOMER_KEPT_S - 60) == []
        await service.flush()
    async with service_on(path) as service:
        clock.watch(service)
        assert set(service.nodes) == {"old", "made-up"}
        assert age(service, clock, 120) == ["made-up"]
        await service.flush()
    async with service_on(path) as service:
        clock.watch(service)
        assert set(service.nodes) == {"old"}
        assert age(service, clock, forgetting.KEPT_S - 2 * DAY) == []
        assert age(service, clock, 2 * DAY) == ["old"]
        await service.flush()
        # One that comes back is told its orders again.
        beat(service, make, "old", 1)
        assert [order.title for order in service.orders("old")] == [title]
        await service.flush()
    async with service_on(path) as service:
        assert set(service.nodes) == {"old"}


async def test_one_that_reports_again_before_the_catalogue_has_forgotten_it_stays(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, path = Clock(monkeypatch), tmp_path / "t.db"
    async with service_on(path) as service:
        clock.watch(service)
        beat(service, make, "n1", 1)
        await service.flush()
        assert age(service, clock, 2 * DAY) == ["n1"]
        beat(service, make, "n1", 2)
        await service.flush()
    async with service_on(path) as service:
        assert set(service.nodes) == {"n1"}


async def test_a_full_table_loses_newcomers_that_are_silent_and_no_others(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(forgetting, "NODES_MAX", 6)
    monkeypatch.setattr(forgetting, "NODES_OF_ADDRESS_MAX", 4)
    async with service_on(tmp_path / "t.db") as service:
        clock.watch(service)
        beat(service, make, "old", 1)
        clock.now += 2 * forgetting.NEWCOMER_S
        beat(service, make, "old", 2)
        for number in range(4):
            beat(service, make, f"x{number}", 1, "192.0.2.66")
        with pytest.raises(RequestRefused, match=r"came from 192\.0\.2\.66") as refused:
            beat(service, make, "x9", 1, "192.0.2.66")
        assert refused.value.status == 507
        beat(service, make, "n1", 1, "192.0.2.1")
        with pytest.raises(RequestRefused, match="full"):
            beat(service, make, "n2", 1, "192.0.2.2")
        assert age(service, clock, 60) == []
        beat(service, make, "n2", 1, "192.0.2.2")
        assert set(service.nodes) == {"old", "n2"}
        beat(service, make, "x9", 1, "192.0.2.66")


@pytest.mark.parametrize("weight", [1e6, 1000.1, 0.0, -1.0])
async def test_a_weight_is_within_reason(tmp_path: Path, make: Any, weight: float) -> None:
    async with service_on(tmp_path / "t.db") as service:
        for value, refuses in ((WEIGHT_MAX, False), (weight, True)):
            report = make.report(msgspec.structs.replace(make.info("n1"), weight=value), 1)
            if not refuses:
                service.handle_heartbeat("n1", report)
                continue
            with pytest.raises(RequestRefused, match="weight"):
                service.handle_heartbeat("n1", report)
