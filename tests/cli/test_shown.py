"""What is shown of a fleet on a terminal of 80 characters, and of caches whose heartbeats have stopped."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console, RenderableType

from p2pfill.cli.board import fill_table
from p2pfill.cli.catalogue import fills_table, holders_table, titles_table
from p2pfill.cli.fleet import explanation_view, origins_table, status_view
from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.model.origins import OriginReport
from p2pfill.model.reports import EncryptionReport, LoopLag, SourceReport, TitleReport
from p2pfill.tracker.records import (
    Explanation,
    FillRecord,
    FillRequest,
    FillStatus,
    FillTotals,
    NodeProgress,
    NodeStatus,
    OriginsUsed,
    OriginTotals,
    RankedSource,
    Status,
    TitleHolder,
    TitleHolders,
    TitleRecord,
)

TITLE = "0" * 64
ORIGIN = "http://origin.example.net/a/directory/of/some/depth/with-a-title-of-a-long-name/version-17/"
COLUMNS = {"isp", "region", "cluster", "address", "uploads", "uploaded", "receives", "sends", "scrubbed", "lag"}
NAMES = [f"edge-{city}-{number:02}" for city in ("frankfurt", "amsterdam", "sao-paulo") for number in (1, 12)]


def text_of(shown: RenderableType, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(shown)
    return console.export_text()


def report() -> TitleReport:
    gib = 1 << 30
    sources = [
        SourceReport(ORIGIN, "origin", gib, 5e6, 3, "failing", "connection refused"),
        SourceReport("edge-amsterdam-01", "peer", gib, 6e6, 4),
    ]
    return TitleReport(
        TITLE, "filling", 400, 100, 100 * gib, 400 * gib, gib, 2 * gib, 3 * gib, rate_bytes_s=7e6, sources=sources
    )


def node_of(name: str, *, alive: bool = True) -> NodeStatus:
    info = NodeInfo(NodeId(name), "isp-of-a-name", "region-west", cluster="rack-1", host="198.51.100.217", port=41000)
    return NodeStatus(info, alive, 0.0, 0.5, 1, [report()], 12, 345, 1 << 40, LoopLag(1, 1234, 2))


def fill_of(*, alive: bool = True) -> FillStatus:
    fill = FillRecord("f", FillRequest(TITLE, "all", []), 0.0)
    nodes = [NodeProgress(node_of(name).info, alive, report()) for name in NAMES]
    return FillStatus(fill, "film", 400 << 30, done=False, totals=FillTotals(nodes=len(nodes)), nodes=nodes)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_nothing_is_cut_and_what_is_not_shown_is_said(width: int) -> None:
    status = Status("1", 0.0, 0.0, 2.0, [], [fill_of()], [node_of(name) for name in NAMES])
    said = text_of(status_view(status, width=width), width)
    assert "\u2026" not in said
    lines = said.splitlines()
    assert max(map(len, lines)) <= width
    for name in NAMES:
        # One line of the caches and one of the fill, each whole.
        assert sum(line.startswith(f"{name} ") for line in lines) == 2
    shown = COLUMNS & set(next(line for line in lines if line.startswith("cache ")).split())
    left_out = " ".join(said.split()).partition("not shown at this width: ")[2].partition(";")[0]
    assert set(left_out.split(", ")) - {""} == COLUMNS - shown
    assert ("not shown" in said) == (width < 200)
    assert "25 %" in said


def test_the_fill_keeps_its_rate_and_tiers_at_80() -> None:
    head = text_of(fill_table(fill_of(), width=80)).splitlines()[0].split()
    assert head[0] == "cache"
    assert {"rate", "peer", "regional", "origin"} <= set(head)


def test_a_dead_cache_has_no_rate_and_no_time_left() -> None:
    dead = Explanation(node_of("a1", alive=False), TITLE, "film", [], report(), [], [])
    said = text_of(explanation_view(dead), 200)
    assert "dead; its last state filling: 25 %" in said
    assert "B/s" not in said
    assert "to go" not in said
    assert "B/s" not in text_of(fill_table(fill_of(alive=False), width=200))
    alive = Explanation(node_of("a1"), TITLE, "film", [], report(), [], [])
    said = text_of(explanation_view(alive), 200)
    assert "MiB/s, about" in said
    assert "to go" in said


def test_an_explanation_cuts_no_name_and_says_no_reason_twice() -> None:
    notes = [f"Source {ORIGIN} is failing: connection refused."]
    sources = [RankedSource(0, "edge-amsterdam-01", "peer", False, 4, "same ISP; healthy; has it whole"),
               RankedSource(1, ORIGIN, "origin", False, 4, "origin of the fill; last resort")]  # fmt: skip
    said = text_of(explanation_view(Explanation(node_of("a1"), TITLE, "film", [], report(), sources, notes)))
    assert "\u2026" not in said
    assert said.count("connection refused") == 1
    assert "".join(said.split()).count(ORIGIN[-12:]) == 3


WEB = "http://origin-2.example.net:8080/titles/film/version-17"


@pytest.mark.parametrize("width", [72, 80, 100, 200])
def test_origins_are_shown_whole_beside_what_was_had_of_them(width: int) -> None:
    counts = OriginReport(WEB, 12_345, 678, 9 << 30, 1 << 30, 12)
    used = OriginsUsed([OriginTotals(counts, 1234, 56.78)], "EUR")
    said = text_of(origins_table(used, 10, width), width)
    line = next(line for line in said.splitlines() if line.startswith(WEB))
    assert line.split()[-1] == "56.78"
    assert "9 GiB" in line
    assert max(map(len, said.splitlines())) <= width
    assert ("requests" in said.splitlines()[0]) != ("requests" in said.partition("not shown")[2])


@pytest.mark.parametrize("width", [60, 80, 200])
def test_orders_and_titles_are_not_cut(width: int) -> None:
    selector = ",".join(f"isp=isp-{number}+region=eu" for number in range(9))
    request = FillRequest(TITLE, selector, [WEB, "http://origin-3.example.net/"])
    fill = FillRecord("0123456789ab", request, 0.0, 123456, file_count=1234)
    title = TitleRecord(TITLE, "a-title-with-a-long-name", 1 << 40, 1 << 22, 1 << 18, 123_456, 0.0, [selector])
    holders = TitleHolders(title, [fill], [TitleHolder("edge-amsterdam-01", False, "filling", 1 << 39, 12)], False)
    for shown in (
        fills_table([fill], {TITLE: title.name}, width), titles_table([title], {}, width),
        holders_table(holders, width),
    ):  # fmt: skip
        said = text_of(shown, width)
        assert "\u2026" not in said
        assert max(map(len, said.splitlines())) <= width
        assert selector in "".join(said.replace(title.name, "").split()) or "not shown at this width" in said
    assert "0123456789ab" in text_of(fills_table([fill], {}, width), width)


def test_it_is_said_who_encrypts_data_streams_and_the_kernel_only_where_it_says_so_itself() -> None:
    def line_of(told: EncryptionReport, count: int = 1) -> str:
        nodes = [msgspec.structs.replace(node_of(name), encryption=told) for name in NAMES[:count]]
        said = text_of(status_view(Status("1", 0.0, 0.0, 2.0, [], [], nodes), width=300), 300)
        return "".join(line for line in said.splitlines() if "encrypted" in line)

    assert line_of(EncryptionReport()) == ""
    assert line_of(EncryptionReport(required=True)) == (
        f"{NAMES[0]}: all data streams are encrypted, 0 now, by the process itself, as the kernel shows no TLS"
    )
    assert line_of(EncryptionReport(streams=2, kernel=True)) == (
        f"{NAMES[0]}: data streams with some caches are encrypted, 2 now, by the process itself"
    )
    assert line_of(EncryptionReport(True, 3, 2, True), 6) == (
        f"{', '.join(NAMES[:5])} and 1 more: all data streams are encrypted, 18 now, what is sent on 12 of them by the "
        "kernel"
    )
    dead = msgspec.structs.replace(node_of("a1", alive=False), encryption=EncryptionReport(required=True))
    assert "encrypted" not in text_of(status_view(Status("1", 0.0, 0.0, 2.0, [], [], [dead]), width=300), 300)


def test_what_nothing_is_known_of_is_not_all_there() -> None:
    """As of a title that was refused before its manifest was looked at."""
    refused = Explanation(node_of("a1"), TITLE, "film", [], TitleReport(TITLE, "failed"), [], [])
    said = text_of(explanation_view(refused), 200)
    assert "state failed" in said
    assert "100 %" not in said
    assert "0 of 0" not in said
