"""A small run of `bench/many_titles.py`, with real processes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from bench import many_titles


@pytest.mark.process
def test_a_small_run_measures_and_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_titles, "LARGE_BYTES", 4 << 20)
    monkeypatch.setattr(many_titles, "LARGE_CHUNK_BYTES", 1 << 20)
    monkeypatch.setattr(many_titles, "SETTLE_S", 0.1)
    monkeypatch.setattr(many_titles, "POLLS", 3)
    courses = trio.run(many_titles.measure, tmp_path / "work", [5, 20], 2, 0.5)
    many_titles.write(tmp_path / "out", courses, 0.5)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| | 5 titles | 20 titles |" in text
    assert "loop lag p99" in text
    read = msgspec.json.decode((tmp_path / "out" / "titles.json").read_bytes(), type=list[many_titles.Course])
    assert [len(course.rounds) for course in read] == [2, 2]
    for course in read:
        assert all(one.served_bytes_s > 0 for one in course.rounds)
        assert all(0 < one.idle.heartbeat_bytes < 1000 for one in course.rounds)
    few, many = read
    assert many.whole_bytes > few.whole_bytes
    assert many.change_bytes < 1000
