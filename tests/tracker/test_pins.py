"""Pins: durable, told to whom they concern, and weaker than an urgent withdrawal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tracker.services import publish, service_on

from p2pfill.model.reports import TitleReport
from p2pfill.tracker import pins, views
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service


def beat(service: Service, make: Any, node: str, sequence: int, *titles: TitleReport, isp: str = "isp-a") -> None:
    service.handle_heartbeat(node, make.report(make.info(node, isp=isp), sequence, *titles))


async def pinned(service: Service, node: str) -> list[str]:
    return (await service.wait_orders(node, -1, 0)).pinned


async def test_a_pin_reaches_those_that_match_now_and_later_and_is_durable(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        for node, isp in (("a1", "isp-a"), ("b1", "isp-b")):
            beat(service, make, node, 1, isp=isp)
        versions = {node: service.node(node).version for node in service.nodes}
        record = await service.pin(title, " isp=isp-a ", nodes_min=1)
        assert record.pins == ["isp=isp-a"]
        assert (await service.pin(title, "isp=isp-a")).pins == ["isp=isp-a"], "once more changes nothing"
        assert service.node("a1").version > versions["a1"]
        assert service.node("b1").version == versions["b1"], "it does not concern it"
        assert await pinned(service, "a1") == [title]
        assert await pinned(service, "b1") == []
        beat(service, make, "a2", 1)
        assert await pinned(service, "a2") == [title], "also before it has said that it holds it"
        beat(service, make, "b1", 2, isp="isp-a")
        assert await pinned(service, "b1") == [title], "it has moved"
        beat(service, make, "b1", 3, isp="isp-b")
        assert await pinned(service, "b1") == []
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        assert service.title(title).pins == ["isp=isp-a"]
        assert await pinned(service, "a1") == [title]
        await service.pin(title, "id=b1")
        with pytest.raises(RequestRefused, match="it is pinned on isp=isp-a, id=b1"):
            await service.unpin(title, "id=a1")
        assert (await service.unpin(title, "isp=isp-a")).pins == ["id=b1"]
        assert await pinned(service, "a1") == []
        assert (await service.unpin(title)).pins == []
        with pytest.raises(RequestRefused, match="not pinned at all"):
            await service.unpin(title)
    async with service_on(tmp_path / "db") as service:
        assert service.title(title).pins == []
        assert await pinned(service, "b1") == []


async def test_who_waits_for_orders_is_woken(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        beat(service, make, "a1", 1)
        answers = []

        async def poll() -> None:
            answers.append(await service.wait_orders("a1", service.node("a1").version, 30.0))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await trio.testing.wait_all_tasks_blocked()
                await service.pin(title, "all")
        assert [answer.pinned for answer in answers] == [[title]]


async def test_an_urgent_withdrawal_and_a_removal_end_a_pin(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        beat(service, make, "a1", 1, TitleReport(title, "live", 1, 1, have_bytes=65536))
        await service.pin(title, "all")
        await service.add_fill(FillRequest(title, "all", []))
        assert [one.kept_by for one in views.holders(service, title).holders] == [["order", "pin"]]
        await service.withdraw(title)
        assert [one.kept_by for one in views.holders(service, title).holders] == [["pin"]]
        assert await pinned(service, "a1") == [title]
        await service.withdraw(title, urgent=True)
        found = await service.wait_orders("a1", -1, 0)
        assert (found.withdrawn, found.pinned) == ([title], [])
        with pytest.raises(RequestRefused, match="order it again first"):
            await service.pin(title, "all")
        await service.add_fill(FillRequest(title, "all", []))
        assert await pinned(service, "a1") == [], "an order does not bring it back"
        await service.pin(title, "all")
        await service.withdraw(title)
        await service.delete_title(title)
        assert await pinned(service, "a1") == []
    async with service_on(tmp_path / "db") as service:
        assert not service.pins.titles


async def test_pins_are_bounded(tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with service_on(tmp_path / "db") as service:
        title, other = [await publish(service, make, chunks) for chunks in (1, 2)]
        with pytest.raises(RequestRefused, match="none has reported"):
            await service.pin(title, "all", nodes_min=1)
        for number in range(pins.PINS_OF_TITLE_MAX):
            await service.pin(title, f"id=n{number}")
        with pytest.raises(RequestRefused, match="unpin one first"):
            await service.pin(title, "id=one-more")
        monkeypatch.setattr("p2pfill.tracker.service.PINS_MAX", 1)
        with pytest.raises(RequestRefused, match="unpin others first"):
            await service.pin(other, "all")


async def test_what_is_pinned_is_told_where_it_has_changed(tmp_path: Path, make: Any) -> None:
    """Each answer told all of it: 670 kB with the most that may be pinned."""
    async with service_on(tmp_path / "db") as service:
        title, other = [await publish(service, make, chunks) for chunks in (1, 2)]
        beat(service, make, "a1", 1)
        await service.pin(title, "all")
        first = await service.wait_changes("a1", "", 0.0)
        assert first.pinned == [title]
        await service.add_fill(FillRequest(other, "all", []))
        second = await service.wait_changes("a1", first.cursor, 0.0, first.pins)
        assert (second.pinned, second.pins, len(second.orders)) == ([], first.pins, 1)
        assert (await service.wait_changes("a1", first.cursor, 0.0)).pinned == [title], "who does not say is told"
        await service.pin(other, "id=b*")
        assert (await service.wait_changes("a1", first.cursor, 0.0, first.pins)).pins == first.pins
        await service.unpin(title)
        third = await service.wait_changes("a1", second.cursor, 0.0, second.pins)
        assert third.pins != second.pins
        assert third.pinned == []
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        await service.pin(title, "all")
        assert (await service.wait_changes("a1", third.cursor, 0.0, third.pins)).pinned == [title], "of another run"


async def test_the_calls(client: TrackerClient, make: Any) -> None:
    manifest = make.manifest()
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    with pytest.raises(TrackerRefused) as refused:
        await client.pin(title, "all", nodes_min=1)
    assert refused.value.status == 409
    await client.heartbeat(make.report(make.info("n1")))
    assert (await client.pin(title, "all", nodes_min=1)).pins == ["all"]
    assert (await client.titles())[0].pins == ["all"]
    assert (await client.orders("n1")).pinned == [title]
    assert (await client.unpin(title, "all")).pins == []
    with pytest.raises(TrackerRefused, match="cannot read"):
        await client.pin(title, "nobody")
