"""Orders for some files of a title: what each node is told of its own files, and of those of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tracker.services import service_on

from p2pfill.model.bitmap import Bitmap
from p2pfill.model.manifest import Manifest, layout
from p2pfill.model.reports import Order, TitleReport
from p2pfill.tracker import service as service_module
from p2pfill.tracker import views
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import PARTS_NODES_MAX, Service

SIZE = 65536
NAMES = ("a", "b", "c", "d", "e", "f", "g", "h", "i")


async def publish(service: Service) -> str:
    files = layout((name, SIZE) for name in NAMES)
    manifest = Manifest("film", SIZE, files, bytes(16 * len(NAMES)), bytes(32 * len(NAMES)))
    title = manifest.title_id.hex()
    await service.add_title(title, manifest, manifest.encode())
    return title


def beat(service: Service, make: Any, node: str, sequence: int, *titles: TitleReport) -> None:
    service.handle_heartbeat(node, make.report(make.info(node), sequence, *titles))


def bits(*indexes: int) -> bytes:
    chosen = Bitmap(len(NAMES))
    chosen.add_all(indexes)
    return chosen.to_bytes()


def order_of(service: Service, node: str) -> Order:
    (order,) = service.orders(node)
    return order


def wants(order: Order) -> dict[str, bytes]:
    """Return what the others of a roster want; empty: everything."""
    return {
        entry.node.id: order.selections[entry.selection - 1] if entry.selection else b""
        for entry in order.roster
        if entry.filling
    }


async def test_each_is_told_what_it_wants_and_what_others_want(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service)
        for node in ("n1", "n2", "n3"):
            beat(service, make, node, 1)
        first = await service.add_fill(FillRequest(title, "id=n1", [], files=("a", "b")))
        await service.add_fill(FillRequest(title, "id=n2", [], files=("b", "c", "i")))
        await service.add_fill(FillRequest(title, "id=n3", []))
        one, three = order_of(service, "n1"), order_of(service, "n3")
        assert (one.files, three.files) == (bits(0, 1), b"")
        assert wants(one) == {"n2": bits(1, 2, 8), "n3": b""}
        assert wants(three) == {"n1": bits(0, 1), "n2": bits(1, 2, 8)}
        status = views.fill_status(service, service.fill(first.fill_id))
        assert (status.title_bytes, status.fill.file_count) == (2 * SIZE, 2)
        # Of several fills all files together, and the whole title where one is for all.
        more = await service.add_fill(FillRequest(title, "id=n1", [], files=("h",)))
        assert order_of(service, "n1").files == bits(0, 1, 7)
        assert wants(order_of(service, "n3"))["n1"] == bits(0, 1, 7)
        await service.delete_fill(first.fill_id)
        assert order_of(service, "n1").files == bits(7)
        whole = await service.add_fill(FillRequest(title, "all", []))
        assert order_of(service, "n1").files == b""
        await service.delete_fill(whole.fill_id)
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        assert order_of(service, "n1").files == bits(7)
        assert service.fill(more.fill_id).request.files == ("h",)


async def test_files_that_are_ordered_later_are_sought_with_a_roster(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service)
        await service.add_fill(FillRequest(title, "all", [], files=("a",)))
        for node in ("n1", "n2"):
            beat(service, make, node, 1, TitleReport(title, "live", 1, 1, number=1, files=1))
        assert order_of(service, "n1").roster == [], "nobody seeks it"
        await service.add_fill(FillRequest(title, "id=n1", [], files=("b",)))
        order = order_of(service, "n1")
        assert order.files == bits(0, 1)
        assert [entry.node.id for entry in order.roster] == ["n2"]
        assert wants(order_of(service, "n2")) == {"n1": bits(0, 1)}
        beat(service, make, "n1", 2, TitleReport(title, "repairing", 2, 1, number=1, files=2))
        assert order_of(service, "n1").roster
        beat(service, make, "n1", 3, TitleReport(title, "live", 2, 2, number=2, files=2))
        assert order_of(service, "n1").roster == []


async def test_what_means_no_file_orders_nothing(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service)
        with pytest.raises(RequestRefused, match="no file of the title is meant by 'x/', nor 1 more"):
            await service.add_fill(FillRequest(title, "all", [], files=("a", "x/", "y")))
        with pytest.raises(RequestRefused, match="characters, not 0"):
            await service.add_fill(FillRequest(title, "all", [], files=("",)))
        with pytest.raises(RequestRefused, match="10001 files are named"):
            await service.add_fill(FillRequest(title, "all", [], files=("a",) * 10_001))
        assert not service.fills
        # All files by name are the whole title.
        created = await service.add_fill(FillRequest(title, "all", [], files=NAMES))
        assert service.fill(created.fill_id).file_count == 0


async def test_fills_that_name_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "SELECTIONS_BYTES_MAX", 3 * len(bits()))
    async with service_on(tmp_path / "db") as service:
        title = await publish(service)
        for number in range(3):
            await service.add_fill(FillRequest(title, f"id=n{number}", [], files=("a",)))
        with pytest.raises(RequestRefused, match="3 fills of this title name files: withdraw old ones"):
            await service.add_fill(FillRequest(title, "id=n4", [], files=("a",)))
        await service.add_fill(FillRequest(title, "id=n2", [], files=("a",)))  # the same again
        await service.add_fill(FillRequest(title, "id=n4", []))


async def test_all_are_told_of_all_where_some_want_a_part(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service)
        count = 80
        assert 64 < count <= PARTS_NODES_MAX
        for number in range(count):
            beat(service, make, f"n{number}", 1)
        await service.add_fill(FillRequest(title, "all", [], files=("a", "b")))
        await service.add_fill(FillRequest(title, "id=n7", [], files=("c",)))
        order = order_of(service, "n0")
        assert order.election is None
        assert len(order.roster) == count - 1
        assert len(order.selections) == 2
        assert wants(order)["n7"] == bits(0, 1, 2)
