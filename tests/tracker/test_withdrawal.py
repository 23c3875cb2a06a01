"""Withdrawing titles, orders and nodes: durable, and told to whom it concerns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from tracker.services import publish, service_on

from p2pfill.model.reports import TitleReport
from p2pfill.tracker import views
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service

NODES = 200


def beat(service: Service, make: Any, number: int, sequence: int, *titles: TitleReport, boot: str = "boot") -> None:
    info = make.info(f"n{number:03}", isp=f"isp{number // 20}")
    service.handle_heartbeat(info.id, make.report(info, sequence, *titles, boot=boot))


async def test_an_urgent_withdrawal_reaches_200_nodes_and_those_that_come_back(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        good, bad = [await publish(service, make, chunks) for chunks in (1, 2)]
        for number in range(NODES):
            beat(service, make, number, 1)
        for title in (good, bad):
            await service.add_fill(FillRequest(title, "all", []))
        held = (TitleReport(good, "live", 1, 1, number=1), TitleReport(bad, "live", 2, 2, number=2))
        for number in range(NODES):
            beat(service, make, number, 2, *held)
        answered = []

        async def poll(node_id: str) -> None:
            found = await service.wait_orders(node_id, service.node(node_id).version, 30.0)
            answered.append((node_id, [order.title for order in found.orders], found.withdrawn))

        async with trio.open_nursery() as nursery:
            for node_id in service.nodes:
                nursery.start_soon(poll, node_id)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(20):
                await service.withdraw(bad, urgent=True)
        assert len(answered) == NODES
        assert all(found == ([good], [bad]) for _, *found in answered for found in [tuple(found)])
        # Those that have done it are told nothing more.
        version = service.node("n000").version
        beat(service, make, 0, 3, held[0])
        assert service.node("n000").version > version
        assert (await service.wait_orders("n000", -1, 0)).withdrawn == []
        version = service.node("n000").version
        beat(service, make, 0, 4, held[0])
        assert service.node("n000").version == version
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        # One that comes back, and one that nobody had heard of.
        for number in (7, NODES):
            beat(service, make, number, 1, held[1], boot="again")
            assert (await service.wait_orders(f"n{number:03}", -1, 0)).withdrawn == [bad]
        assert views.holders(service, bad).withdrawn
        # A later order lifts it.
        await service.add_fill(FillRequest(bad, "all", []))
        assert (await service.wait_orders("n007", -1, 0)).withdrawn == []
        assert bad in {order.title for order in service.orders("n007")}
    async with service_on(tmp_path / "db") as service:
        assert not service.withdrawn


async def test_without_urgency_only_the_orders_go(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        beat(service, make, 0, 1, TitleReport(title, "live", 1, 1, have_bytes=65536))
        await service.add_fill(FillRequest(title, "all", []))
        await service.add_fill(FillRequest(title, "id=n000", []))
        stood = views.holders(service, title)
        assert [fill.number for fill in stood.fills] == [2, 1]
        assert [(one.node, one.have_bytes) for one in stood.holders] == [("n000", 65536)]
        await service.withdraw(title)
        found = await service.wait_orders("n000", -1, 0)
        assert (found.orders, found.withdrawn) == ([], [])


async def test_titles_and_nodes_that_are_in_use_are_not_removed(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        beat(service, make, 0, 1)
        fill = await service.add_fill(FillRequest(title, "all", []))
        with pytest.raises(RequestRefused, match=f"ordered by fill {fill.fill_id}"):
            await service.delete_title(title)
        with pytest.raises(RequestRefused, match="is alive"):
            await service.delete_node("n000")
        await service.flush()
        service.node("n000").alive = False
        await service.delete_node("n000")
        assert service.nodes_of_fill(fill.fill_id) == []
        await service.withdraw(title)
        await service.delete_title(title)
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        assert not service.nodes
        assert not service.titles


async def test_the_calls(client: TrackerClient, make: Any) -> None:
    manifest = make.manifest()
    title = manifest.title_id.hex()
    await client.put_title(title, manifest.encode())
    await client.heartbeat(make.report(make.info("n1"), 1, TitleReport(title, "live", 4, 4)))
    first = await client.post_fill(FillRequest(title, "all", []))
    second = await client.post_fill(FillRequest(title, "all", ["http://origin/"]))
    assert second.others == [first.fill_id]
    assert len((await client.withdraw(title, urgent=True)).fills) == 2
    assert (await client.holders(title)).withdrawn
    assert (await client.orders("n1")).withdrawn == [title]
    await client.delete_title(title)
    with pytest.raises(TrackerRefused, match="not in the catalogue"):
        await client.holders(title)
    with pytest.raises(TrackerRefused) as refused:
        await client.delete_node("n1")
    assert refused.value.status == 409


async def test_what_holds_a_title_shows_no_secret_and_a_removed_node_is_told_at_once(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        beat(service, make, 0, 1)
        await service.add_fill(FillRequest(title, "all", ["https://origin.example/{path}?sig=SECRET"]))
        assert b"SECRET" not in msgspec.json.encode(views.holders(service, title))
        service.node("n000").alive = False
        with trio.fail_after(5.0):
            async with trio.open_nursery() as nursery:

                async def poll() -> None:
                    with pytest.raises(RequestRefused, match="removed"):
                        await service.wait_orders("n000", service.node("n000").version, 60.0)

                nursery.start_soon(poll)
                await trio.testing.wait_all_tasks_blocked()
                await service.delete_node("n000")
