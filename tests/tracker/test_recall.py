"""Orders that nodes bring back to a database that does not know them: what stands again, and what must not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console
from tracker.services import publish, service_on

from p2pfill.cli.fleet import status_view
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.policy import FillPolicy, Reach
from p2pfill.model.reports import BroughtOrder, BroughtOrders, Order
from p2pfill.tracker import brought_back, views
from p2pfill.tracker import recall as recall_module
from p2pfill.tracker import service as service_module
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.recall import bring_back
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service

POLICY = FillPolicy(stall_wait_s=7.0, reach=Reach(region_s=1.0, rule="r"))


def beat(service: Service, make: Any, *names: str) -> None:
    for name in names:
        service.handle_heartbeat(name, make.report(make.info(name)))


def brought(title: str, **more: Any) -> BroughtOrder:
    fields = {"origins": ["http://o/{path}?key=secret"], "priority": 3, "policy": POLICY, "number": 41} | more
    return BroughtOrder(title, **fields)


def told(service: Service, name: str) -> Order:
    (order,) = service.orders(name)
    return order


async def test_nodes_bring_back_one_order_between_them_and_it_outlives_restarts(tmp_path: Path, make: Any) -> None:
    path, names = tmp_path / "t.db", ["a1", "a2", "b1"]
    async with service_on(path) as service:
        beat(service, make, *names)
        title = make.manifest(chunks=3).title_id.hex()
        reply = await bring_back(service, "a1", [brought(title)])
        assert (reply.manifests, service.fills) == ([title], {})
        assert views.status(service, 0.0).brought_back[0].reason == "nobody has brought its manifest yet"
        await publish(service, make, 3)
        for name in names:
            for _ in range(2):  # again changes nothing
                reply = await bring_back(service, name, [brought(title)])
                assert (reply.manifests, reply.refused) == ([], {})
    async with service_on(path) as service:
        (fill,) = service.fills.values()
        assert service.nodes_of_fill(fill.fill_id) == names
        assert (fill.number, fill.request.selector) == (41, "id=a1,id=a2,id=b1")
        beat(service, make, *names)
        order = told(service, "b1")
        assert (order.origins, order.priority, order.number) == (["http://o/{path}?key=secret"], 3, 41)
        assert order.policy == msgspec.structs.replace(POLICY, reach=Reach())
        # What is ordered from now on is newer, and one that was made up meanwhile is not meant.
        beat(service, make, "c1")
        assert service.orders("c1") == []
        created = await service.add_fill(FillRequest(title, "id=c1", ["http://o/"]))
        assert service.fills[created.fill_id].number == 42
        assert "secret" not in str(views.status(service, 0.0))


async def test_why_a_manifest_was_not_taken_is_said_until_it_is(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        title = make.manifest(chunks=3).title_id.hex()
        service.recall.refuse(title, "nobody has brought an order of it: not kept")
        for why in ("nobody has brought its manifest yet", "it is not signed"):
            reply = await bring_back(service, "a1", [brought(title)])
            assert reply.manifests == [title], "a node is asked again: it may be signed by now"
            (told_now,) = views.status(service, 0.0).brought_back
            assert told_now.reason == why
            service.recall.refuse(title, "it is not signed")
        await publish(service, make, 3)
        await bring_back(service, "a1", [brought(title)])
        assert views.status(service, 0.0).brought_back[0].reason == ""


async def test_a_withdrawal_wins(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "a2")
        urgent, plain = await publish(service, make, 3), await publish(service, make, 4)
        for title in (urgent, plain):
            await bring_back(service, "a1", [brought(title)])
        await service.withdraw(urgent, urgent=True)
        await service.withdraw(plain)
        for node, title in (("a1", urgent), ("a2", urgent), ("a1", plain)):
            reply = await bring_back(service, node, [brought(title)])
            assert reply.refused == {title: "it was withdrawn here"}
        assert service.fills == {}


async def test_what_cannot_stand_is_refused_and_listed_and_the_rest_comes_back(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        titles = [await publish(service, make, chunks) for chunks in range(2, 9)]
        wrong: list[dict[str, Any]] = [
            {"number": 1 << 60}, {"number": -1}, {"files": b"\xff" * 9}, {"origins": ["ftp://x"]},
            {"priority": 1 << 40}, {"policy": FillPolicy(stall_wait_s=1e300)},
        ]  # fmt: skip
        orders = [brought(title, **more) for title, more in zip(titles, [*wrong, {}], strict=True)]
        reply = await bring_back(service, "a1", orders)
        assert reply.refused.keys() == set(titles[:-1])
        assert [fill.request.title for fill in service.fills.values()] == [titles[-1]]
        status = views.status(service, 0.0)
        assert {one.title for one in status.brought_back if one.reason} == set(titles[:-1])
        console = Console(width=200)
        with console.capture() as capture:
            console.print(status_view(status))
        said = capture.get()
        assert "brought back orders of 1 title" in said
        assert said.count("has not come back") == len(wrong)
        with pytest.raises(RequestRefused, match="title"):
            await bring_back(service, "a1", [brought("x" * 64)])
        with pytest.raises(RequestRefused, match="at most"):
            await bring_back(service, "a1", [brought(titles[0])] * (recall_module.BROUGHT_MAX + 1))
        with pytest.raises(RequestRefused, match="never sent"):
            await bring_back(service, "zz", [brought(titles[0])])


async def test_some_files_of_a_title_come_back(tmp_path: Path, make: Any) -> None:
    size = 65536
    manifest = Manifest(
        name="tree", chunk_size=size, files=layout([("a", size), ("b", size), ("c", size)]), xxh3=bytes(48),
        blake3=bytes(96), integrity="blake3",
    )  # fmt: skip
    title = manifest.title_id.hex()
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        await service.add_title(title, manifest, manifest.encode())
        await bring_back(service, "a1", [brought(title, files=b"\x05")])
        assert told(service, "a1").files == b"\x05"
        (fill,) = service.fills.values()
        assert (fill.file_count, fill.file_bytes) == (2, 2 * size)


async def test_nothing_comes_back_to_a_database_that_has_lost_nothing(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        title = await publish(service, make, 3)
    monkeypatch.setattr(brought_back, "REBUILT_S", -1.0)
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        with pytest.raises(RequestRefused, match="lost nothing") as refused:
            await bring_back(service, "a1", [brought(title)])
        assert refused.value.status == 409


async def test_selectors_and_fills_stay_within_their_bounds(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall_module, "SELECTOR_CHARS_MAX", 20)
    monkeypatch.setattr(service_module, "FILLS_MAX", 3)
    async with service_on(tmp_path / "t.db") as service:
        names = [f"n{number}" for number in range(12)]
        beat(service, make, *names)
        title = await publish(service, make, 3)
        replies = [await bring_back(service, name, [brought(title)]) for name in names]
        assert len(service.fills) <= 3
        assert "delete old fills" in replies[-1].refused[title]
        back = {name for fill in service.fills for name in service.nodes_of_fill(fill)}
        assert back == {name for name, reply in zip(names, replies, strict=True) if not reply.refused}


async def test_over_the_wire(client: TrackerClient, make: Any) -> None:
    await client.heartbeat(make.report(make.info("a1")))
    manifest = make.manifest()
    title = manifest.title_id.hex()
    assert (await client.bring_back("a1", [brought(title)])).manifests == [title]
    await client.put_title(title, manifest.encode())
    assert (await client.bring_back("a1", [brought(title)])).manifests == []
    assert [order.title for order in (await client.orders("a1")).orders] == [title]
    with pytest.raises(TrackerRefused, match="never sent"):
        await client.bring_back("a2", [brought(title)])
    assert msgspec.json.decode(msgspec.json.encode(BroughtOrders([brought(title)])), type=BroughtOrders)
