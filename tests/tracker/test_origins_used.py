"""What the fleet has had of origins, summed at the tracker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tracker.services import publish

from p2pfill.errors import ConfigError
from p2pfill.model.limits import ORIGINS_COUNTED_MAX
from p2pfill.model.origins import OriginReport
from p2pfill.model.prices import Price, Prices
from p2pfill.model.reports import NodeReport
from p2pfill.tracker import views
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.prices import load_prices
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service

CDN, BUCKET = "https://cdn.example/films/?…", "s3://films"
PRICES = Prices("EUR", [Price("https://cdn.example/", 0.02, 0.4), Price("s3://films", 0.05)])


@asynccontextmanager
async def service_with_prices(path: Path) -> AsyncIterator[Service]:
    catalogue = Catalogue.open(f"sqlite:///{path}")
    try:
        yield Service(catalogue, await catalogue.load(), heartbeat_s=2.0, prices=PRICES)
    finally:
        await trio.to_thread.run_sync(catalogue.close)


def beat(make: Any, node: str, sequence: int, *origins: OriginReport, boot: str = "boot", since: int = 0) -> NodeReport:
    report: NodeReport = make.report(make.info(node), sequence, boot=boot)
    return msgspec.structs.replace(report, origins=list(origins), since=since)


def used(service: Service) -> dict[str, tuple[int, int, float | None]]:
    found = views.origins_used(service)
    return {one.counts.id: (one.counts.requests, one.nodes, one.money) for one in found.origins}


async def test_the_counts_of_nodes_are_summed_and_nothing_counts_twice(tmp_path: Path, make: Any) -> None:
    async with service_with_prices(tmp_path / "db") as service:
        service.handle_heartbeat("n1", beat(make, "n1", 1, OriginReport(CDN, 1000, bytes_kept=10**9)))
        service.handle_heartbeat("n2", beat(make, "n2", 1, OriginReport(CDN, 500), OriginReport("/srv/films", 3)))
        assert used(service) == {CDN: (1500, 2, pytest.approx(0.02 + 0.6)), "/srv/films": (3, 1, None)}
        # Once more, since its answer was lost; late; with nothing new.
        again = beat(make, "n1", 2, OriginReport(CDN, 1200, bytes_kept=10**9), since=1)
        for report in (again, again, beat(make, "n1", 1, OriginReport(CDN, 1)), beat(make, "n1", 3, since=2)):
            service.handle_heartbeat("n1", report)
        assert used(service)[CDN][:2] == (1700, 2)
        # A process that has begun anew counts anew.
        service.handle_heartbeat("n1", beat(make, "n1", 1, OriginReport(BUCKET, 7), boot="second"))
        assert used(service)[CDN][:2] == (500, 1)
        assert used(service)[BUCKET][:2] == (7, 1)
        assert views.status(service, 1.0).used.currency == "EUR"
        assert [one.id for one in views.node_status(service.node("n1")).origins] == [BUCKET]


async def test_a_tracker_that_starts_anew_is_told_all_again(tmp_path: Path, make: Any) -> None:
    async with service_with_prices(tmp_path / "db") as service:
        service.handle_heartbeat("n1", beat(make, "n1", 1, OriginReport(CDN, 1000)))
        await service.flush()
    async with service_with_prices(tmp_path / "db") as service:
        assert used(service) == {}
        assert service.handle_heartbeat("n1", beat(make, "n1", 2, OriginReport(CDN, 1001), since=1)).again
        assert not service.handle_heartbeat("n1", beat(make, "n1", 3, OriginReport(CDN, 1002))).again
        assert used(service)[CDN][0] == 1002


async def test_what_a_node_names_has_a_limit(tmp_path: Path, make: Any) -> None:
    async with service_with_prices(tmp_path / "db") as service:
        many = [OriginReport(f"http://{number}/") for number in range(ORIGINS_COUNTED_MAX + 1)]
        for wrong in (many, [OriginReport("http://a/", requests=-1)], [OriginReport("")], [OriginReport("a" * 3000)]):
            with pytest.raises(RequestRefused):
                service.handle_heartbeat("n1", beat(make, "n1", 1, *wrong))
        service.handle_heartbeat("n1", beat(make, "n1", 2, *many[1:]))
        with pytest.raises(RequestRefused, match="origins"):
            service.handle_heartbeat("n1", beat(make, "n1", 3, many[0]))


async def test_an_order_of_several_origins_says_what_they_cost(tmp_path: Path, make: Any) -> None:
    async with service_with_prices(tmp_path / "db") as service:
        title = await publish(service, make, 3)
        service.handle_heartbeat("n1", beat(make, "n1", 1))
        await service.add_fill(FillRequest(title, "all", ["https://cdn.example/films/{path}?sig=secret"]))
        (order,) = service.orders("n1")
        assert order.costs == {}, "there is nothing to choose"
        await service.add_fill(FillRequest(title, "id=n1", ["s3://films", "/srv/films"]))
        (order,) = service.orders("n1")
        assert order.costs == {"https://cdn.example/films/{path}?…": pytest.approx(0.12), "s3://films": 0.05}


def test_a_file_of_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text('currency = "EUR"\n[[price]]\nprefix = "https://cdn.example/"\nper_gb = 0.02\n')
    assert load_prices(path) == Prices("EUR", [Price("https://cdn.example/", 0.02)])
    for wrong in ("currency = 1", "[[price]]\nprefix = 'a'\nper_tb = 1", "[[price]]\nprefix = ''", "\0", "prices = []"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match=r"prices in .*prices\.toml"):
            load_prices(path)
    with pytest.raises(ConfigError, match="cannot read"):
        load_prices(tmp_path / "none")
