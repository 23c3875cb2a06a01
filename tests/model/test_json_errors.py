"""JSON at which the decoder fails in other ways than it says is refused where it is read, as any other would be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfill.cli.plan_report import read_night
from p2pfill.errors import ConfigError, StoreError
from p2pfill.node.scrubber import Place, _read_place
from p2pfill.plan.history.state import STATE, read_state
from p2pfill.store.tally import TALLY, Tally, read_tally
from p2pfill.tracker.client import _refusal
from p2pfill.trust import records

BROKEN = {
    "nested": b'{"x":' + b"[" * 5000,
    "no text": b'{"id":"\xff","domain":"\xff","night":"\xff","error":"\xff","title":"\xff","logs":["\xff"]}',
    "no JSON": b"{",
}


@pytest.fixture(params=BROKEN)
def data(request: pytest.FixtureRequest) -> bytes:
    return BROKEN[request.param]


def refused(error: type[Exception], read: Callable[[], Any]) -> None:
    with pytest.raises(error):
        read()


def test_what_people_and_authorities_keep(tmp_path: Path, data: bytes) -> None:
    for name in (STATE, records.STATE_FILE, "night.json"):
        (tmp_path / name).write_bytes(data)
    refused(StoreError, lambda: read_state(tmp_path))
    refused(ConfigError, lambda: records.read_state(tmp_path))
    refused(ConfigError, lambda: read_night(tmp_path / "night.json", "2026-12-01", ("2026-12-01",)))


def test_what_a_cache_finds_on_its_disk(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "place").write_bytes(data)
    (tmp_path / TALLY).write_bytes(data)
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert read_tally(fd) == Tally()
    finally:
        os.close(fd)
    assert _read_place(tmp_path / "place") == Place()


def test_what_refuses_a_call_in_the_trackers_place(data: bytes) -> None:
    assert "no reason" in str(_refusal(data, 500, "http://127.0.0.1:7070"))
