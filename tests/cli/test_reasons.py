"""What is said of a fill that does not get on."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfill.cli import main
from p2pfill.cli.exits import CommandFailed
from p2pfill.cli.fill import check_outcome, is_settled, wait_fill
from p2pfill.cli.reasons import LINES_MAX, Remarks, Stall, reasons
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import SourceReport, TitleReport
from p2pfill.tracker.records import FillRecord, FillRequest, FillStatus, FillTotals, NodeProgress

TITLE = "0" * 64
BAD = SourceReport("http://web/film", "origin", state="failing", reason="connection refused")
PEER = SourceReport("a", "peer")


def status_of(*nodes: NodeProgress, **totals: int) -> FillStatus:
    fill = FillRecord("f", FillRequest(TITLE, "all", []), 0.0)
    return FillStatus(fill, "film", 4, done=False, totals=FillTotals(nodes=len(nodes), **totals), nodes=list(nodes))


def node(name: str, report: TitleReport | None, **more: bool) -> NodeProgress:
    info = NodeInfo(NodeId(name), "isp", "eu")
    return NodeProgress(info, **({"alive": True, "report": report} | more))  # type: ignore[arg-type]


def test_each_cause_is_said_in_plain_words() -> None:
    lines = reasons(
        status_of(
            node("a", TitleReport(TITLE, "filling", 4, 1, sources=[BAD, SourceReport("b", "peer")])),
            node("b", TitleReport(TITLE, "filling", 4, 1, waits={"room at a peer": 3}, sources=[PEER])),
            node("c", TitleReport(TITLE, "filling", 4, 0)),
            node("d", None),
            node("e", None, alive=False),
            node("f", TitleReport(TITLE, "failed", error="no space\x1b[31m")),
            node("g", TitleReport(TITLE, "live")),
            node("h", None, superseded=True),
            node("i", TitleReport(TITLE, "waiting", error="the disk is read-only")),
        )
    )
    assert lines == [
        "a: origin http://web/film: connection refused",
        "b: 3 chunks wait for room at a peer",
        "c: knows of no source: no origin is named, and no cache has a part of it",
        "d: has not begun with this order",
        "e: its heartbeats have stopped; is it running?",
        "f: failed: no space\ufffd[31m",
        "i: waits for its disk: the disk is read-only",
    ]


def test_what_is_to_be_known_of_an_origin_that_works_is_said_once() -> None:
    plain = SourceReport("http://web/film", "origin", reason="has no Range")
    full = SourceReport("b", "peer", reason="its link has as many requests as it may")
    status = status_of(*(node(name, TitleReport(TITLE, "live", sources=[plain, full, BAD])) for name in "ab"))
    remarks = Remarks()
    assert remarks.new(status) == ["origin http://web/film: has no Range"]
    assert remarks.new(status) == []
    many = [SourceReport(f"http://web/{k}", "origin", reason="has no Range") for k in range(100)]
    remarks.new(status_of(node("a", TitleReport(TITLE, "filling", sources=many))))
    assert len(remarks.said) == LINES_MAX


def test_there_are_few_lines_of_a_large_fleet() -> None:
    assert reasons(status_of(*(node(f"n{k}", None) for k in range(100)))) == [
        "n0, n1, n2 and 97 other caches: has not begun with this order"
    ]
    lines = reasons(status_of(*(node(f"n{k}", TitleReport(TITLE, "failed", error=f"{k}")) for k in range(100))))
    assert len(lines) == LINES_MAX
    assert lines[-1] == "and 93 causes more"


REGIONAL = SourceReport("b9", "regional", state="failing", reason="refuses")
SENDING = SourceReport("http://good/", "origin", in_flight=2)
NO_ORIGIN, MATE = "the origin, which cannot be reached from here", "the ISP's fill master"


def filling(lacking: int, *sources: SourceReport, **waits: int) -> TitleReport:
    names = {"origin": NO_ORIGIN, "mate": MATE, "beyond": "a source beyond the ISP", "way": "bytes on their way"}
    named = {names.get(name, name): count for name, count in waits.items()}
    have = 100 - lacking
    return TitleReport(TITLE, "filling", 100, title_bytes=100, have_bytes=have, sources=[*sources], waits=named)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        # One that is dead beside many that an origin fails, and the other way round.
        ({"a1": None, "a2": filling(90, BAD, origin=9), "a3": filling(90, BAD, origin=9)}, "a2, a3: origin http://web/"),
        ({"a1": None, "a2": filling(1, BAD, origin=9), "a3": filling(1, BAD, origin=9)}, "a1: has not begun"),
        # A slow neighbour, while nearly all waits for bytes of others.
        ({"a1": filling(90, PEER, REGIONAL, way=80, beyond=1)}, "a1: 80 chunks wait for bytes on their way"),
        # One of two origins fails, and the other one sends.
        ({"a1": filling(90, BAD, SENDING, beyond=80, way=2)}, "a1: 80 chunks wait for a source beyond the ISP"),
        # Two wait for the one that cannot reach the origin.
        (
            {"a0": filling(80, BAD, origin=3), "a1": filling(99, PEER, mate=9), "a2": filling(99, PEER, mate=9)},
            "a0: origin http://web/film: connection refused",
        ),
        ({"a1": filling(99, PEER, mate=9)}, "a1: 9 chunks wait for the ISP's fill master"),
    ],
)
def test_the_cause_of_most_bytes_goes_first(nodes: dict[str, TitleReport | None], first: str) -> None:
    lines = reasons(status_of(*(node(name, report) for name, report in nodes.items())))
    assert lines[0].startswith(first), lines


def test_the_last_line_names_the_causes_of_most_bytes(
    fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cache that comes first by its name has not begun: it is one of four, and the others fail at the origin."""
    fleet.beat("a0", make.report(make.manifest(), "failed", 3, error="no space"))
    for name in ("a1", "a2", "a3", "a4"):
        fleet.beat(name, make.report(make.manifest(), "filling", 0, sources=[BAD]))
    fleet.beat("a5")
    assert main(["fill", str(film), "--tracker", fleet.url, "--to", "all", "--wait", "--timeout", "0.1"]) == 4
    last = capsys.readouterr().err.splitlines()[-1]
    origin, begun, failed = (last.index(text) for text in ("a1, a2, a3 and 1 other cache: origin", "a5: has", "a0: "))
    assert origin < begun < failed
    assert "see: p2pfill explain a1 " in last


def test_what_does_not_move_is_noticed_and_said_now_and_then() -> None:
    stall = Stall()
    shown = ((0, 1), (4, 1), (6, 1), (7, 1), (11.5, 1), (12, 2))
    seen = [stall.seen(status_of(have_bytes=have), now) for now, have in shown]
    assert seen == [False, False, True, False, True, False]


def test_a_fill_that_is_late_ends_with_the_cause_and_the_next_command(
    fleet: Any, film: Path, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.beat("a1", make.report(make.manifest(), "filling", 1, sources=[BAD]))
    command = ["fill", str(film), "--tracker", fleet.url, "--to", "all", "--wait", "--timeout", "0.1"]
    for more in ([], ["--json"]):
        assert main([*command, *more]) == 4
        captured = capsys.readouterr()
        *_, said, last = captured.err.splitlines()
        assert said == "a1: origin http://web/film: connection refused"
        assert "; a1: origin http://web/film: connection refused; the fill goes on" in last
        title = make.manifest().title_id.hex()
        assert last.endswith(f"see: p2pfill explain a1 {title[:16]} --tracker {fleet.url}")
    assert not json.loads(captured.out)["done"]


@pytest.mark.parametrize("other", ["live", "failed"])
async def test_a_cache_that_died_with_the_title_is_waited_for_no_more(other: str) -> None:
    """Whatever has become of the others."""
    gone = node("a", TitleReport(TITLE, "live"), alive=False)
    status = status_of(gone, node("b", TitleReport(TITLE, other, error="disk")), lost=1, **{other: 1})
    status.done = other == "live"

    class Client:
        async def fill(self, fill_id: str) -> FillStatus:
            return status

    with trio.fail_after(2):
        assert await wait_fill(Client(), "f", show=lambda _: None) is status  # type: ignore[arg-type]
    with nullcontext() if status.done else pytest.raises(CommandFailed, match="1 cache of 2 failed; b: disk"):
        check_outcome(status, None)


def test_one_that_died_before_it_had_the_title_is_waited_for() -> None:
    assert not is_settled(status_of(node("a", TitleReport(TITLE, "failed"), alive=False)))
    assert not is_settled(status_of(node("a", None, alive=False), node("b", TitleReport(TITLE, "live"))))


def test_a_count_of_nothing_is_no_cause() -> None:
    report = TitleReport(TITLE, "filling", 4, 1, waits={"room at a peer": 0}, sources=[PEER])
    assert reasons(status_of(node("a", report))) == []
