"""The benchmark of big titles at a small size: that it measures, and what must hold at any size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pfill.bench import big, report

PEERS = 8

pytestmark = pytest.mark.process


def test_small_titles_are_measured_in_every_way(tmp_path: Path) -> None:
    said: list[str] = []
    record = big.measure_big(
        gib_sizes=[0.05], file_counts=[200, 1000, 1000], peers=PEERS, runs=1, work=tmp_path, say=said.append
    )
    record = json.loads(json.dumps(record))
    assert any("publishing" in line for line in said)
    assert [title["files"] for title in record["small_files"]] == [200, 1000]
    (sparse,) = record["sparse"]
    assert sparse["bytes"] == int(0.05 * big.GIB)
    assert not list(tmp_path.iterdir())
    for title in (sparse, record["small_files"][-1]):
        for place in (title["complete"], title["half"]):
            assert 0 < place["linked_s"] <= place["holdings_s"] <= place["chunk_s"]
            assert place["crowd"]["peers"] == PEERS
            assert place["crowd"]["peak_rss_mib"] < 120
        # The start of Python is most of it, and takes as much longer on a busy machine.
        assert title["complete"]["chunk_s"] < 3 * record["start_empty_s"] + 2
        assert title["half"]["crowd"]["chunks_filled"] >= min(big.EXTRA_CHUNKS, title["chunks"] // 2)
    assert set(record["growth"]["small_files"]) == set(big.GROWING)
    assert not record["growth"]["sparse"]


def test_the_page_tells_of_every_title() -> None:
    record = json.loads((Path(__file__).parents[2] / "docs/reports/bench/big.json").read_text())
    lines = "\n".join(report.big_lines(record))
    for title in (*record["sparse"], *record["small_files"]):
        assert f"{title['chunks']:,} chunks" in lines
        assert f"| {title['publish_s']:.2f} |" in lines
    for kind in ("sparse", "small_files"):
        assert f"{record[kind][-1]['half']['crowd']['peak_rss_mib']:.0f} |" in lines


def test_growth_is_the_exponent_between_the_two_largest() -> None:
    def title(size: int, took: float) -> big.Record:
        start = {"holdings_s": took, "chunk_s": took}
        return {"files": size, "publish_s": took, "verify_s": took, "order_s": took, "complete": start, "half": start}

    records = [title(1, 50), title(1000, 2), title(4000, 32)]
    assert set(big.growth(records, "files").values()) == {2.0}
    assert not big.growth(records[:1], "files")
