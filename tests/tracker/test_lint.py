"""What `p2pfill fleet lint` finds: far fills that were not needed, and labels and addresses that do not fit."""

from __future__ import annotations

from typing import Any

import pytest

from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import SourceReport, TitleReport
from p2pfill.model.routes import Match, Pair, Route, RouteConfig, Routes, TableFile
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.lint import CLOCKS_APART_S, FINDINGS_MAX, Cache, find_all
from p2pfill.tracker.records import Finding

FILM, NAMES = "f" * 64, {"f" * 64: "film"}
BEGAN = 10_000.0
EARLY = BEGAN - CLOCKS_APART_S
MIB = 1 << 20


def cache(name: str, *titles: TitleReport, isp: str = "a", region: str = "eu", **more: Any) -> Cache:
    unreached = more.pop("unreached", "")
    info = NodeInfo(NodeId(name), isp, region, host=more.pop("host", f"{name}.example"), port=1, **more)
    return Cache(info, {title.title: title for title in titles}, unreached)


def had(since: float = EARLY, **more: Any) -> TitleReport:
    """A whole title since a time."""
    return TitleReport(FILM, "live", finished_at=since, **more)


def filled(regional: int = 0, origin: int = 0, sources: dict[str, int] | None = None) -> TitleReport:
    """A title that was begun at `BEGAN`, and where its bytes came from."""
    named = [SourceReport(name, "regional", count) for name, count in (sources or {}).items()]
    return TitleReport(
        FILM, "live", started_at=BEGAN, finished_at=BEGAN + 9, bytes_regional=regional, bytes_origin=origin,
        sources=named,
    )  # fmt: skip


def found(*caches: Cache, routes: Routes | None = None) -> list[Finding]:
    return find_all(caches, NAMES, routes).findings


def test_a_fleet_in_order_has_no_findings() -> None:
    assert found() == []
    assert found(cache("a1", had()), cache("a2", filled()), cache("b1", filled(MIB), isp="b")) == []


def test_bytes_from_beyond_an_isp_that_had_the_title_are_a_missed_tier() -> None:
    (one,) = found(cache("a1", had()), cache("a2", filled(3 * MIB, 4 * MIB)))
    assert (one.kind, one.nodes, one.bytes, one.titles) == ("missed-tier", ["a2", "a1"], 7 * MIB, ["film"])
    assert one.what == "a2 had bytes of film from beyond its own ISP, and a1 had all of it"
    assert one.next_step.startswith("p2pfill explain a2 ffffffffffffffff says why")


@pytest.mark.parametrize(
    "holder",
    [
        had(EARLY + 1),  # clocks may be so far apart
        had(BEGAN + 5),
        had(files=2),
        TitleReport(FILM, "filling", have_chunks=3),
        TitleReport("e" * 64, "live", finished_at=EARLY),
    ],
)
def test_a_title_that_was_not_there_was_not_missed(holder: TitleReport) -> None:
    assert found(cache("a1", holder), cache("a2", filled(MIB, MIB))) == []


def test_a_holder_that_is_not_reached_is_the_next_step() -> None:
    (one,) = found(cache("a1", had(), unreached="nobody answers at 10.0.0.1"), cache("a2", filled(MIB)))
    assert one.next_step == "see the advertise of a1: nobody answers at 10.0.0.1"


def test_further_groups_count_what_came_from_beyond_them() -> None:
    report = filled(5 * MIB, 2 * MIB, {"b1": MIB, "c1": 4 * MIB})
    near = [cache("b1", had(), isp="b"), cache("c1", isp="c", region="us"), cache("a2", report)]
    (one,) = found(*near)
    assert (one.bytes, one.nodes) == (6 * MIB, ["a2", "b1"])  # of the origin, and of the other region
    (one,) = found(cache("b1", isp="b"), cache("c1", had(), isp="c", region="us"), cache("a2", report))
    assert (one.bytes, one.nodes) == (2 * MIB, ["a2", "c1"])
    assert "from beyond the caches" in one.what
    ours = NodeInfo(NodeId("a9"), "a", "us")
    assert found(Cache(ours, {FILM: had()}), cache("a2", filled(9))) != [], "its ISP in another region is another group"


def test_what_was_missed_is_summed_by_cache_and_the_dearest_comes_first() -> None:
    other = "e" * 64
    whole = TitleReport(other, "live", finished_at=1.0)
    more = TitleReport(other, "live", started_at=BEGAN, finished_at=BEGAN + 1, bytes_origin=9 * MIB)
    findings = found(cache("a1", had(), whole), cache("a2", filled(MIB)), cache("a3", filled(MIB), more))
    assert [(one.nodes[0], one.bytes) for one in findings] == [("a3", 10 * MIB), ("a2", MIB)]
    assert findings[0].titles == [other[:16], "film"]


def test_a_source_over_a_border_that_was_dear_beside_another_is_named() -> None:
    routes = Routes(RouteConfig(pair=[Pair(10, source="isp=b"), Pair(4, source="isp=c")]), [])
    others = [cache("b1", had(), isp="b"), cache("c1", had(), isp="c")]
    receiver = cache("a1", filled(5 * MIB, 0, {"b1": 5 * MIB}))
    (one,) = found(*others, receiver, routes=routes)
    assert (one.kind, one.bytes, one.nodes) == ("dear-source", 5 * MIB, ["a1", "c1"])
    close = Routes(RouteConfig(pair=[Pair(8, source="isp=b"), Pair(4, source="isp=c")]), [])
    assert found(*others, receiver, routes=close) == []
    assert found(*others, receiver) == []


class Table:
    name = "rib"

    def __init__(self, **ways: Route) -> None:
        self.ways = ways

    def find(self, address: str) -> Match | None:
        way = self.ways.get(address.removesuffix(".example"))
        return None if way is None else Match("10.0.0.0/8", way)


def test_a_site_whose_caches_are_announced_differently_is_named() -> None:
    one_way, other = Route(("1", "2")), Route(("1", "3"), 80)
    routes = Routes(RouteConfig(table=[TableFile("rib")]), [Table(a1=one_way, a2=other, a3=one_way, b1=other)])
    site = [cache("a1", cluster="north"), cache("a3", cluster="north")]
    assert found(*site, cache("a2", cluster="south"), cache("b1", isp="b", cluster="north"), routes=routes) == []
    odd = cache("a2", filled(0, 0, {"a1": MIB}), cluster="north")
    (finding,) = found(*site, odd, routes=routes)
    assert (finding.kind, finding.nodes, finding.bytes) == ("announced-apart", ["a1", "a2", "a3"], MIB)
    said = "site north of a is announced in 2 ways: a1 and a3 by 1 2; a2 by 1 3 at local preference 80"
    assert finding.what == said
    (finding,) = found(*site, cache("a4", cluster="north"), routes=routes)
    assert "a4 in no prefix" in finding.what


def test_an_isp_in_two_regions_is_named_with_what_went_between() -> None:
    (one,) = found(cache("a1", region="us"), cache("a2", filled(0, 0, {"a1": 3 * MIB})))
    assert (one.kind, one.nodes, one.bytes) == ("isp-in-two-regions", ["a1", "a2"], 3 * MIB)
    assert one.what == "a stands in eu and us"


def test_labels_that_look_alike_are_named() -> None:
    kinds = {
        one.what for one in found(
            cache("x1", isp="Isp A", cluster="N"), cache("x2", isp="isp a", cluster="n "),
            cache("y1", isp="b", region="EU"), cache("z1", isp="c", cluster="n"),
        )
    }  # fmt: skip
    assert kinds == {"isp is spelt 'Isp A', 'isp a'", "cluster is spelt 'N', 'n '", "region is spelt 'EU', 'eu'"}


def test_caches_at_one_address_are_named() -> None:
    hosts = {"a1": "10.0.0.1", "a2": "10.0.0.1", "a3": "", "a4": ""}
    (one,) = found(*(cache(name, host=host) for name, host in hosts.items()))
    assert (one.kind, one.nodes, one.bytes) == ("same-address", ["a1", "a2"], None)


def test_findings_have_a_limit_and_the_rest_is_counted() -> None:
    many = [cache(f"c{number}", filled(number + 1)) for number in range(FINDINGS_MAX + 7)]
    lint = find_all([cache("a1", had()), *many], NAMES, None)
    assert (len(lint.findings), lint.more) == (FINDINGS_MAX, 7)
    assert lint.findings[0].bytes == FINDINGS_MAX + 7


async def test_the_api_says_what_is_found(client: TrackerClient, make: Any) -> None:
    assert (await client.lint()).findings == []
    for name in ("a1", "a2"):
        await client.heartbeat(make.report(make.info(name)))
    assert [(one.kind, one.nodes) for one in (await client.lint()).findings] == [("same-address", ["a1", "a2"])]
