"""A tracker whose database is lost, or a copy from before, withdraws nothing; only a withdrawal does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tracker.services import service_on

from p2pfill.model.ids import TitleId
from p2pfill.model.reports import TitleReport
from p2pfill.node.standing import Changed, StandingOrders
from p2pfill.tracker.commits import SUFFIX
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service


class Cache:
    """A node, as far as orders are concerned."""

    def __init__(self, make: Any) -> None:
        self.make, self.sequence, self.standing = make, 0, StandingOrders()

    def beat(self, service: Service, *held: str) -> None:
        self.sequence += 1
        titles = [TitleReport(title, "filling", 4, 2) for title in held]
        service.handle_heartbeat("n1", self.make.report(self.make.info("n1"), self.sequence, *titles))

    async def take(self, service: Service) -> Changed:
        answer = await service.wait_changes("n1", self.standing.cursor, 0.0)
        assert not answer.more
        return self.standing.take(answer)


async def publish(service: Service, make: Any, chunks: int) -> str:
    manifest = make.manifest(f"film-{chunks}", chunks)
    title: str = manifest.title_id.hex()
    await service.add_title(title, manifest, manifest.encode())
    return title


async def order(service: Service, title: str) -> None:
    await service.add_fill(FillRequest(title, "all", ["http://o/"]))


def ids(*titles: str) -> set[TitleId]:
    return {TitleId(bytes.fromhex(title)) for title in titles}


@contextmanager
def lost(path: Path, how: str) -> Iterator[None]:
    """Lose the database, or put back a copy of how it was before the `with`."""
    copy = path.with_suffix(".copy")
    if how == "restored":
        shutil.copy(path, copy)
    yield
    path.unlink()
    if how == "restored":
        copy.rename(path)
    elif how == "moved":
        Path(f"{path}{SUFFIX}").unlink()


@pytest.mark.parametrize("how", ["gone", "moved", "restored"])
async def test_what_a_new_database_does_not_know_goes_on(tmp_path: Path, make: Any, how: str) -> None:
    path, cache = tmp_path / "t.db", Cache(make)
    async with service_on(path) as service:
        first = await publish(service, make, 2)
        await order(service, first)
    with lost(path, how):
        async with service_on(path) as service:
            second = await publish(service, make, 3)
            await order(service, second)
            cache.beat(service, first, second)
            assert not (await cache.take(service)).orphaned
            assert set(cache.standing.orders) == ids(first, second)
    async with service_on(path) as service:
        cache.beat(service, first, second)
        changed = await cache.take(service)
        expected = ids(second) if how == "restored" else ids(first, second)
        assert (changed.gone, changed.orphaned, cache.standing.orphans) == (set(), expected, expected)
        assert set(cache.standing.orders) == ids(first, second)
        # Other orders change nothing of that, nor does a restart of the tracker.
        third = await publish(service, make, 4)
        await order(service, third)
        assert not (await cache.take(service)).gone
    async with service_on(path) as service:
        cache.beat(service, first, second)
        changed = await cache.take(service)
        assert (changed.gone, changed.orphaned, cache.standing.orphans) == (set(), set(), expected)
        # Named again, it is the tracker's like any other.
        await publish(service, make, 3)
        await order(service, second)
        await cache.take(service)
        assert cache.standing.orphans == expected - ids(second)
        await service.withdraw(second)
        assert (await cache.take(service)).gone == ids(second)


@pytest.mark.parametrize("urgent", [False, True])
async def test_an_order_that_a_new_database_does_not_know_can_be_withdrawn(
    tmp_path: Path, make: Any, urgent: bool
) -> None:
    path, cache = tmp_path / "t.db", Cache(make)
    with lost(path, "gone"):
        async with service_on(path) as service:
            first, second = await publish(service, make, 2), await publish(service, make, 3)
            await order(service, first)
            await order(service, second)
            cache.beat(service)
            await cache.take(service)
    async with service_on(path) as service:
        await publish(service, make, 2)
        cache.beat(service, first, second)
        await cache.take(service)
        assert cache.standing.orphans == ids(first, second)
        await service.withdraw(first, urgent=urgent)
        changed = await cache.take(service)
        assert (changed.gone, cache.standing.orphans) == (ids(first), ids(second))


async def test_what_was_withdrawn_while_a_node_was_away_is_gone(tmp_path: Path, make: Any) -> None:
    path, cache = tmp_path / "t.db", Cache(make)
    async with service_on(path) as service:
        first, second = await publish(service, make, 2), await publish(service, make, 3)
        await order(service, first)
        await order(service, second)
        cache.beat(service)
        await cache.take(service)
        await service.withdraw(second)
    async with service_on(path) as service:
        cache.beat(service, first, second)
        changed = await cache.take(service)
        assert (changed.gone, changed.orphaned) == (ids(second), set())


async def test_an_order_of_a_node_whose_first_report_was_not_saved_stands(tmp_path: Path, make: Any) -> None:
    path, cache = tmp_path / "t.db", Cache(make)
    async with service_on(path) as service:
        cache.beat(service)  # and the tracker is killed before this is on disk
        first = await publish(service, make, 2)
        await order(service, first)
        await cache.take(service)
    async with service_on(path) as service:
        assert not service.nodes
        cache.beat(service)
        assert (await cache.take(service)).gone == set()
        assert set(cache.standing.orders) == ids(first)
