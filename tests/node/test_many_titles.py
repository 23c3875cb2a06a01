"""Work for a node and its tracker follows what changes, not how many titles are live: counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.reports import NodeReport, Order
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node import titles as titles_module
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker
from p2pfill.tracker.service import Service

LIMIT_S = 60
FEW, MANY = 10, 50


def make_titles(root: Path, count: int) -> list[Manifest]:
    """Return titles of one file each, below `root/src`."""
    manifests = []
    for number in range(count):
        source = root / "src" / f"clip{number}"
        source.mkdir(parents=True)
        (source / "clip").write_bytes(bytes([number]) * 5000)
        manifests.append(publish(source, name=f"clip{number}").manifest)
    return manifests


async def until(holds: Callable[[], Any]) -> None:
    while not holds():
        await trio.sleep(0.02)


async def measure(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Have a node hold `count` titles by standing orders; return what one more order, and being idle, costs then."""
    seen: Counter[str] = Counter()

    def count_calls(patch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            seen[f"{owner.__name__}.{name}"] += 1
            return real(*given, **named)

        patch.setattr(owner, name, counted)

    manifests = make_titles(tmp_path, count + 1)
    *standing, late = manifests
    with trio.fail_after(LIMIT_S):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/tracker.db")
            async with TrackerClient(url) as client:

                async def order(manifest: Manifest) -> None:
                    title, origin = manifest.title_id.hex(), str(tmp_path / "src" / manifest.name)
                    await client.put_title(title, manifest.encode())
                    await client.post_fill(FillRequest(title, "all", [origin]))

                for manifest in standing:
                    await order(manifest)
                config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), tracker=url)
                async with open_node(config) as node:
                    await until(lambda: len(node.titles.live_ids()) == count)
                    await until(lambda: not len(node.titles.untold))
                # As a node whose titles were all there when it began.
                async with open_node(config) as node:
                    await until(lambda: node.titles.orders is not None and len(node.titles.orders) == count)
                    await until(lambda: node.titles.untold.since and not len(node.titles.untold))
                    await trio.sleep(0.5)
                    reports: list[NodeReport] = []
                    answers: list[list[Order]] = []
                    with monkeypatch.context() as patch:
                        real_beat, real_fetch = Node.heartbeat, TrackerClient.changes

                        def heartbeat(self: Node, **given: Any) -> NodeReport:
                            reports.append(real_beat(self, **given))
                            return reports[-1]

                        async def changes(self: TrackerClient, *given: Any, **named: Any) -> Any:
                            answer = await real_fetch(self, *given, **named)
                            answers.append(answer.orders)
                            return answer

                        patch.setattr(Node, "heartbeat", heartbeat)
                        patch.setattr(TrackerClient, "changes", changes)
                        for owner, names in {
                            Service: ("order", "_standing", "is_wanted", "_note_order"),
                            Order: ("__eq__",),
                            titles_module.TitleRegistry: ("_report_of", "is_at_rest", "phase_of", "note_order"),
                        }.items():
                            for name in names:
                                count_calls(patch, owner, name)
                        seen.clear()
                        await order(late)
                        await until(lambda: len(node.titles.live_ids()) == count + 1)
                        await until(lambda: reports and not reports[-1].titles)
                        await trio.sleep(0.3)
                        # What is left depends on time: how often there is a heartbeat while the fill runs.
                        del seen["TitleRegistry._report_of"]
                        seen["heartbeat bytes"] = len(msgspec.json.encode(reports[-1]))
                        seen["titles of a heartbeat"] = max(len(report.titles) for report in reports)
                        seen["orders of an answer"] = max(map(len, answers))
                        seen["fills that are kept"] = sum(
                            node.titles.fill_of(TitleId(one.title_id)) is not None for one in manifests
                        )
            nursery.cancel_scope.cancel()
    return seen


async def test_one_more_order_costs_the_same_with_few_and_with_many_titles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = await measure(tmp_path / "few", FEW, monkeypatch)
    many = await measure(tmp_path / "many", MANY, monkeypatch)
    assert many["heartbeat bytes"] < 1000
    assert many["heartbeat bytes"] <= few["heartbeat bytes"] + 30
    assert many["titles of a heartbeat"] == few["titles of a heartbeat"] == 1
    assert many["orders of an answer"] == few["orders of an answer"] == 1
    assert many["fills that are kept"] == few["fills that are kept"] == 1
    for what in ("Service.order", "Service._standing", "TitleRegistry.is_at_rest"):
        assert few[what] > 0
    for what, count in many.items():
        # Heartbeats and polls come by the clock, so one more or less of each is nothing; ten would be one a title.
        assert count <= few[what] + FEW or what == "heartbeat bytes", what


async def test_of_finished_fills_the_last_ones_are_kept_and_of_others_what_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(titles_module, "FINISHED_MAX", 2)
    manifests = make_titles(tmp_path, 5)
    with trio.fail_after(LIMIT_S):
        async with open_node(NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"))) as node:
            said = {}
            for manifest in manifests:
                fill = await node.start_fill(manifest, [str(tmp_path / "src" / manifest.name)])
                await fill.wait()
                await fill.ended.wait()
                said[manifest.title_id] = fill.report()
            assert [node.fill_of(one.title_id) is not None for one in manifests] == 3 * [False] + 2 * [True]
            reports = {report.title: report for report in node.titles.reports()}
            for title_id, report in said.items():
                found = reports[title_id.hex()]
                assert (found.state, found.bytes_origin, found.sources) == ("live", 5000, report.sources)
                assert found.finished_at == report.finished_at > 0
            # Whoever asks for one again is given one that is over.
            again = await node.start_fill(manifests[0])
            assert again.done.is_set()
            assert again.state == "live"
