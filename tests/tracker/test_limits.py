"""Standing limits: durable, told to whom they concern at once, and bounded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from tracker.services import service_on

from p2pfill.model.node import NodeInfo
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.model.reports import NodeReport, PayloadRates
from p2pfill.node import NodeConfig, open_node
from p2pfill.tracker import pauses, views
from p2pfill.tracker import service as service_module
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.limits import StandingLimits
from p2pfill.tracker.records import LimitRecord
from p2pfill.tracker.service import Service

SLOW = RateLimits(Rates(total=1_000_000, origin=5), Rates(peer=7))


def beat(service: Service, make: Any, node: str, sequence: int, isp: str = "isp-a") -> None:
    service.handle_heartbeat(node, make.report(make.info(node, isp=isp), sequence))


async def rates_of(service: Service, node: str) -> RateLimits:
    return (await service.wait_orders(node, -1, 0)).rates


async def test_a_limit_reaches_those_that_match_now_and_later_and_is_durable(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        for node, isp in (("a1", "isp-a"), ("b1", "isp-b")):
            beat(service, make, node, 1, isp)
        versions = {node: service.node(node).version for node in service.nodes}
        standing = await service.set_limit(LimitRecord(" isp=isp-a ", SLOW), nodes_min=1)
        assert standing == [LimitRecord("isp=isp-a", SLOW)]
        assert service.node("a1").version > versions["a1"]
        assert service.node("b1").version == versions["b1"], "it does not concern it"
        assert await rates_of(service, "a1") == SLOW
        assert await rates_of(service, "b1") == NO_LIMITS
        beat(service, make, "a2", 1)
        assert await rates_of(service, "a2") == SLOW
        await service.set_limit(LimitRecord("id=a1", RateLimits(Rates(total=3, peer=4))))
        assert await rates_of(service, "a1") == RateLimits(Rates(total=3, peer=4, origin=5), Rates(peer=7))
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "a2", 2)
        assert await rates_of(service, "a2") == SLOW
        assert [one.selector for one in await service.set_limit(LimitRecord("isp=isp-a", NO_LIMITS))] == ["id=a1"]
        assert await rates_of(service, "a2") == NO_LIMITS
    async with service_on(tmp_path / "db") as service:
        assert [one.selector for one in service.limits.records()] == ["id=a1"]


async def test_a_limit_is_worked_out_for_those_that_match_and_calls_are_answered_meanwhile(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "COMPARED_AT_ONCE", 10)
    done = most = total = 0
    real = StandingLimits.of

    def of(limits: StandingLimits, info: NodeInfo) -> RateLimits:
        nonlocal done, most, total
        done, total = done + 1, total + 1
        most = max(most, done)
        return real(limits, info)

    async def answer_calls() -> None:
        nonlocal done
        while True:
            done = 0
            await trio.lowlevel.checkpoint()

    async with service_on(tmp_path / "db") as service:
        for number in range(80):
            beat(service, make, f"n{number}", 1, isp="isp-a" if number < 60 else "isp-b")
        monkeypatch.setattr(StandingLimits, "of", of)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_calls)
            await service.set_limit(LimitRecord("isp=isp-a", SLOW))
            nursery.cancel_scope.cancel()
        assert (await rates_of(service, "n59"), await rates_of(service, "n60")) == (SLOW, NO_LIMITS)
    assert total == 60
    assert most <= 20, "two turns at most, as tasks take theirs in any order"


async def test_limits_are_refused_that_cannot_be(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "LIMITS_MAX", 1)
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "a1", 1)
        for selector, rates, nodes_min, why in (
            ("isp", SLOW, 0, "isp"), ("isp=nowhere", SLOW, 1, "nowhere"), ("all", NO_LIMITS, 0, "no limit stands")
        ):  # fmt: skip
            with pytest.raises(RequestRefused, match=why):
                await service.set_limit(LimitRecord(selector, rates), nodes_min)
        await service.set_limit(LimitRecord("all", SLOW))
        await service.set_limit(LimitRecord("all", RateLimits(Rates(total=1))))
        with pytest.raises(RequestRefused, match="1 limits stand"):
            await service.set_limit(LimitRecord("id=a1", SLOW))


async def test_a_node_keeps_to_what_the_tracker_says_and_tells_what_it_does(
    tmp_path: Path, client: TrackerClient, make: Any
) -> None:
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), tracker=client.url, rates="2MB")
    with trio.fail_after(30):
        async with open_node(config) as node:
            while not await client.nodes():
                await trio.sleep(0.05)
            assert await client.set_limit("all", SLOW) == [LimitRecord("all", SLOW)] == await client.limits()
            while node.rates != SLOW:
                await trio.sleep(0.01)
            while (await client.node("a1")).rates != SLOW:
                await trio.sleep(0.05)
            await client.set_limit("all", NO_LIMITS)
            while node.rates != RateLimits(Rates(total=2_000_000)):
                await trio.sleep(0.01)
            negative: Any = {"inbound": {"total": -1}}
            with pytest.raises(TrackerRefused, match="from 0"):
                await client.set_limit("all", negative)


async def test_what_a_heartbeat_says_of_rates_is_shown_and_bounded(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        report: NodeReport = make.report(make.info("a1"), 1)
        report.rates, report.moves = SLOW, PayloadRates(1000, 20)
        service.handle_heartbeat("a1", report)
        shown = views.node_status(service.node("a1"))
        assert (shown.rates, shown.moves) == (SLOW, PayloadRates(1000, 20))
        wrong: NodeReport = make.report(make.info("a1"), 2)
        wrong.moves = PayloadRates(-1)
        with pytest.raises(RequestRefused, match="a rate at which"):
            service.handle_heartbeat("a1", wrong)
