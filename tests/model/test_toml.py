"""What is no TOML, or none that can be read, is one kind of error wherever people write some."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfill.cli.plan_desk import _read_config
from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import parse_policy
from p2pfill.model.toml import read_toml
from p2pfill.node.config import NodeConfig
from p2pfill.plan.inputs import read_caches
from p2pfill.tracker.prices import load_prices
from p2pfill.tracker.rights import Grants
from p2pfill.tracker.route_tables import load_routes
from p2pfill.trust.fleet_list import read_fleet_list
from p2pfill.trust.publishers import Publishers

UNREADABLE = {
    "a key alone": (b"a", "Expected '='"),
    "arrays in arrays": (b"a = " + b"[" * 5000, "nested too deeply"),
    "a long number": (b"a = " + b"9" * 5000, "more digits"),
    "no text": (b"\xff", "UTF-8"),
}

READERS: dict[str, Callable[[Path], Any]] = {
    "node": NodeConfig.load,
    "grants": Grants,
    "fleet": lambda path: read_fleet_list(path, "fleet.example"),
    "publishers": Publishers.load,
    "planner": _read_config,
    "prices": load_prices,
    "routes": load_routes,
    "policy": lambda path: parse_policy(path.read_text(errors="replace")),
    "table": read_caches,
}


def test_a_document_is_read() -> None:
    assert read_toml('a = 1\n[[b]]\nc = "d"\n') == {"a": 1, "b": [{"c": "d"}]}


@pytest.mark.parametrize("what", UNREADABLE)
@pytest.mark.parametrize("reader", READERS)
def test_what_cannot_be_read_is_said_in_a_line(tmp_path: Path, reader: str, what: str) -> None:
    data, said = UNREADABLE[what]
    path = tmp_path / f"{reader}.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as refused:
        READERS[reader](path)
    assert said.casefold() in str(refused.value).casefold() or reader == "policy"
    assert "\n" not in str(refused.value)
