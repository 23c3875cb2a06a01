"""A tracker of thousands of nodes: small answers, little work for each, and few that are woken."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import NodeReport, Order, Orders, TitleReport
from p2pfill.swarm import borders
from p2pfill.swarm.neighbourhood import EVERYBODY_MAX
from p2pfill.tracker import ranking
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service

ISP_CACHES = 50

TITLES = 4
"""Who leads where differs with the title: with one a change may cost 28 elections, and with the next one 18. Over so
many the sums for 1,000 and for 4,000 caches differ by a tenth at most."""

LOTS = 200
"""Chunks where masters matter: four for each cache of an ISP."""


class Fleet:
    """A service without its server, in front of nodes that are reports only. Its clock is turned by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.title = ""
        """The last of `titles`; most tests have one."""
        self.titles: list[str] = []
        self.reports: dict[str, NodeReport] = {}
        self.service: Service

    async def begin(self, catalogue: Catalogue, make: Any, chunks: int, titles: int) -> None:
        self.service = Service(catalogue, await catalogue.load(), heartbeat_s=2.0, now=lambda: self.now_s)
        for number in range(titles):
            manifest = make.manifest(f"film{number}", chunks=chunks)
            self.title = manifest.title_id.hex()
            self.titles.append(self.title)
            await self.service.add_title(self.title, manifest, manifest.encode())

    def beat(self, node_id: str, *titles: TitleReport, isp: int = 0, host: str = "10.0.0.1") -> None:
        before = self.reports.get(node_id)
        info = NodeInfo(NodeId(node_id), f"isp{isp}", f"region{isp // 10}", host=host, port=4000)
        sequence = 1 if before is None else before.sequence + 1
        report = NodeReport(before.info if before is not None else info, "boot", sequence, titles=list(titles))
        self.reports[node_id] = report
        self.service.handle_heartbeat(node_id, report)

    async def grow(self, caches: int) -> None:
        for number in range(caches):
            self.beat(f"c{number:05}", isp=number // ISP_CACHES)
        for title in self.titles:
            await self.service.add_fill(FillRequest(title, "all", ["http://origin/"]))

    def order(self, node_id: str) -> Order:
        (order,) = self.service.orders(node_id)
        return order

    def versions(self) -> dict[str, int]:
        return {node_id: state.version for node_id, state in self.service.nodes.items()}

    def woken(self, before: dict[str, int]) -> set[str]:
        return {node_id for node_id, version in self.versions().items() if before.get(node_id) != version}


@asynccontextmanager
async def fleet_of(tmp_path: Path, make: Any, caches: int, chunks: int = 4, titles: int = 1) -> AsyncIterator[Fleet]:
    catalogue = Catalogue.open(f"sqlite:///{tmp_path}/{caches}.db")
    try:
        fleet = Fleet()
        await fleet.begin(catalogue, make, chunks, titles)
        await fleet.grow(caches)
        yield fleet
    finally:
        await trio.to_thread.run_sync(catalogue.close)


async def test_an_answer_of_a_large_fleet_is_small_and_names_both_ends(tmp_path: Path, make: Any) -> None:
    async with fleet_of(tmp_path, make, 3000) as fleet:
        rosters: dict[str, set[str]] = {}
        for node_id in fleet.reports:
            order = fleet.order(node_id)
            assert order.election is not None
            assert len(order.election.electors) == ISP_CACHES
            assert len(order.election.groups) == 9 + 5
            rosters[node_id] = {entry.node.id for entry in order.roster}
        assert all(node_id in rosters[other] for node_id, others in rosters.items() for other in others)
        assert max(map(len, rosters.values())) <= 96
        assert sum(map(len, rosters.values())) <= 44 * 3000
        answer = Orders(1, [fleet.order("c00000")])
        encoded = msgspec.json.encode(answer)
        assert len(encoded) < 24 * 1024
        assert msgspec.json.decode(encoded, type=Orders) == answer


async def test_a_small_fleet_is_named_whole_and_its_answer_has_no_new_fields(tmp_path: Path, make: Any) -> None:
    async with fleet_of(tmp_path, make, EVERYBODY_MAX) as fleet:
        order = fleet.order("c00000")
        assert {entry.node.id for entry in order.roster} == fleet.reports.keys() - {"c00000"}
        assert order.election is None
        assert "election" not in msgspec.to_builtins(order)


async def test_work_for_a_poll_and_for_a_heartbeat_does_not_grow_with_the_fleet(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll and a heartbeat hold no election, and look at a cache's own lots; a change is a few elections."""
    counts: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        counted = getattr(owner, name)

        def counting(*given: Any) -> Any:
            counts[name] += 1
            return counted(*given)

        monkeypatch.setattr(owner, name, counting)

    count(ranking, "rank_of")
    count(borders, "elect")
    count(borders, "elect_masters")
    count(borders, "rank")
    count(borders.Tree, "around")
    work = []
    for caches in (1000, 4000):
        async with fleet_of(tmp_path, make, caches, LOTS, TITLES) as fleet:
            fleet.service.orders("c00000")  # the first answer of all works out the borders
            told: list[Counter[str]] = []
            for deed in ("poll", "progress", "join", "leave"):
                counts.clear()
                for number in range(10):
                    if deed == "poll":
                        fleet.service.orders(f"c{37 * number:05}")
                    elif deed == "progress":
                        fleet.beat(f"c{37 * number:05}", TitleReport(fleet.title, "filling", LOTS, 1))
                    elif deed == "join":
                        fleet.beat(f"late{number}", isp=number)
                    else:
                        fleet.now_s += 1.0
                        fleet.service.node(f"c{53 * number:05}").alive = False
                        fleet.service._lose(fleet.service.node(f"c{53 * number:05}"))
                    while fleet.service.catch_up():
                        pass
                told.append(counts.copy())
            work.append(told)
    few, many = work
    polls, beats, *changes = many
    assert few[0]["rank_of"] > 0
    assert few[0]["around"] > 0
    assert polls["elect"] == polls["elect_masters"] == polls["rank"] == 0
    assert beats.total() == 0
    for change in changes:
        # Among the ISPs of the region, and among regions; in the ISP, and in those that lead for other lots by that.
        # Who stands in for whom is as it was.
        assert change["elect"] == 2 * 10 * TITLES
        assert 10 * TITLES <= change["elect_masters"] <= 8 * 10 * TITLES
        assert change["rank"] == 0
    for before, after in zip(few, many, strict=True):
        for what in after:
            # Of four times as many caches.
            assert after[what] <= 1.5 * before[what]


async def test_who_comes_or_goes_wakes_its_isp_and_its_neighbours_only(tmp_path: Path, make: Any) -> None:
    async with fleet_of(tmp_path, make, 3000) as fleet:
        isp = {f"c{number:05}" for number in range(5 * ISP_CACHES, 6 * ISP_CACHES)}
        before = fleet.versions()
        fleet.beat("late", isp=5)
        linked = {entry.node.id for entry in fleet.order("late").roster}
        woken = fleet.woken(before)
        assert woken >= isp | {"late"} | linked
        assert len(woken) < 4 * ISP_CACHES
        # What the ISP weighs is in the next answer of everybody, woken or not.
        far = next(node_id for node_id in fleet.reports if fleet.reports[node_id].info.isp == "isp7")
        weights = {group.isp: group.weight for group in fleet.order(far).election.groups}  # type: ignore[union-attr]
        assert weights["isp5"] == ISP_CACHES + 1

        before = fleet.versions()
        fleet.beat("late", TitleReport(fleet.title, "filling", 4, 2))
        fleet.beat("late", TitleReport(fleet.title, "live", 4, 4))
        assert not fleet.woken(before)
        assert any(entry.node.id == "late" and not entry.filling for entry in fleet.order(min(linked)).roster)

        before = fleet.versions()
        fleet.beat("late", TitleReport(fleet.title, "failed", 4, 0))
        assert fleet.woken(before) >= isp | linked
        assert "late" not in {entry.node.id for entry in fleet.order(min(linked)).roster}
        weights = {group.isp: group.weight for group in fleet.order(far).election.groups}  # type: ignore[union-attr]
        assert weights["isp5"] == ISP_CACHES

        # One that waits for its disk fetches nothing either, and comes back when that is well.
        for report, counts in (
            (TitleReport(fleet.title, "filling", 4, 0), True),
            (TitleReport(fleet.title, "waiting", 4, 0, error="the disk is read-only"), False),
            (TitleReport(fleet.title, "filling", 4, 0), True),
        ):
            fleet.beat("late", report)
            assert ("late" in {entry.node.id for entry in fleet.order(min(linked)).roster}) == counts


async def test_the_dead_are_replaced_and_their_weight_is_gone(tmp_path: Path, make: Any) -> None:
    async with fleet_of(tmp_path, make, 1000) as fleet:
        dead = [entry.node.id for entry in fleet.order("c00000").roster if entry.node.isp == "isp0"]
        for _ in range(8):
            fleet.now_s += 1.0
            for node_id in set(fleet.reports) - set(dead):
                fleet.beat(node_id)
            fleet.service.expire()
        order = fleet.order("c00000")
        assert not {entry.node.id for entry in order.roster} & set(dead)
        assert len([entry for entry in order.roster if entry.node.isp == "isp0"]) > len(dead) // 2
        assert order.election is not None
        assert {elector.id for elector in order.election.electors}.isdisjoint(dead)
        groups = fleet.order("c00999").election.groups  # type: ignore[union-attr]
        assert sum(group.weight for group in groups if group.region == "region0") == 500 - len(dead)


async def test_a_late_joiner_sees_who_has_the_title_first(tmp_path: Path, make: Any) -> None:
    async with fleet_of(tmp_path, make, 1000) as fleet:
        holders = {f"c{number:05}" for number in range(0, 1000, 3)}
        for node_id in holders:
            fleet.beat(node_id, TitleReport(fleet.title, "live", 4, 4))
        fleet.beat("late", isp=3)
        roster = fleet.order("late").roster
        own = [entry.have_chunks for entry in roster if entry.node.isp == "isp3"]
        assert own == sorted(own, reverse=True)
        assert own[0] == 4
        assert [entry.rank for entry in roster] == list(range(len(roster)))
        # A node that is not of the fill may ask for sources too, and gets as few.
        assert 0 < len(fleet.service.roster("c00000", fleet.title)) <= 96


async def test_a_moved_node_is_told_to_those_who_are_linked_with_it(tmp_path: Path, make: Any) -> None:
    async with fleet_of(tmp_path, make, 1000) as fleet:
        linked = {entry.node.id for entry in fleet.order("c00500").roster}
        before = fleet.versions()
        report = fleet.reports["c00500"]
        moved = msgspec.structs.replace(report.info, host="10.9.9.9")
        fleet.reports["c00500"] = msgspec.structs.replace(report, info=moved)
        fleet.beat("c00500")
        assert fleet.woken(before) >= linked
        assert all(
            entry.node.host == "10.9.9.9"
            for node_id in linked
            for entry in fleet.order(node_id).roster
            if entry.node.id == "c00500"
        )


async def test_a_restarted_tracker_answers_as_before(tmp_path: Path, make: Any) -> None:
    async with fleet_of(tmp_path, make, 1000) as fleet:
        before = {node_id: fleet.order(node_id) for node_id in list(fleet.reports)[::50]}
        await fleet.service.flush()
    catalogue = Catalogue.open(f"sqlite:///{tmp_path}/1000.db")
    try:
        service = Service(catalogue, await catalogue.load(), heartbeat_s=2.0)
        for node_id, order in before.items():
            (again,) = service.orders(node_id)
            assert {entry.node.id for entry in again.roster} == {entry.node.id for entry in order.roster}
            assert again.election == order.election
    finally:
        await trio.to_thread.run_sync(catalogue.close)
