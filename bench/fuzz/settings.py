"""What an operator writes, and people send to others: settings, grants, publishers, lists, policies, tables."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.fuzz.samples import FLEET, GRANTS, NODE, PLANNER, POLICY, PRICES, PUBLISHERS, ROUTES
from bench.fuzz.target import Run, Target, check
from bench.fuzz.titles import KEY
from p2pfill.cli.plan_desk import _read_config as read_planner
from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.fleet_policy import FAULTS_MAX, PolicyError, parse_policy
from p2pfill.model.limits import KIB
from p2pfill.model.quantities import parse_bytes, parse_rate, parse_span
from p2pfill.model.routes import TableFile
from p2pfill.model.selector import Selector
from p2pfill.node.config import NodeConfig
from p2pfill.plan.document import VERSION, PlanHead, PlannedFile, read_plan
from p2pfill.tracker.mrt import TABLE_DUMP_V2
from p2pfill.tracker.prices import load_prices
from p2pfill.tracker.rights import Grants
from p2pfill.tracker.route_tables import load_routes, load_table
from p2pfill.trust.fleet_list import read_fleet_list
from p2pfill.trust.publishers import Publishers
from p2pfill.trust.signing import public_word

ERROR_CHARS_MAX: Final = 20_000
"""An error quotes a line of what it complains of, at most."""

NESTED: Final = b"a = " + b"[" * 1000
LONG_NUMBER: Final = b"a = " + b"9" * 5000
"""Where Python's own reader of TOML raises something else than it says."""

WORDS: Final = ("[[", "]]", "\n[", " = ", '"', "'''", "{", "}", "1979-05-27T07:32:00Z", "nan", "inf", "1e999", "true")


def open_file(read: Callable[[Path], Any], name: str, *errors: type[Exception]) -> Callable[[Path], Run]:
    """Return how a target is opened that reads a file, or raises `ConfigError` or one of `errors`."""

    def opened(directory: Path) -> Run:
        path = directory / name

        def run(data: bytes) -> bool:
            path.write_bytes(data)
            try:
                read(path)
            except (ConfigError, *errors) as error:
                check(len(str(error)) < ERROR_CHARS_MAX, "an error without an end", len(str(error)))
                return False
            return True

        return run

    opened.__doc__ = f"A file is {name}, or `ConfigError` of a bounded length."
    return opened


def _toml_seeds(*texts: str) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        yield from (text.encode() for text in texts)
        yield from (NESTED, LONG_NUMBER, b"a.b.c.d = 1\n[a.b.c]\n", b"\xff")

    return seeds


def open_policies(_: Path) -> Run:
    """A text is a policy, or `PolicyError`, whose faults are a line each and not too many. A number, a rate, a span or
    a selector is one, or `ConfigError`.
    """

    def run(data: bytes) -> bool:
        text = data.decode("utf-8", "replace")
        for read in (parse_bytes, parse_rate, parse_span, Selector.parse):
            try:
                read(text[:100])
            except ConfigError as error:
                check(len(str(error)) < ERROR_CHARS_MAX, "an error without an end")
        try:
            parse_policy(text)
        except PolicyError as error:
            check(1 <= len(error.faults) <= FAULTS_MAX, "no fault is told, or too many", len(error.faults))
            return False
        return True

    return run


CSV: Final = b"prefix,as_path,local_preference,med\n192.0.2.0/24,64501 {64502 64503},200,5\n2001:db8::/32,64503,,\n"


def _mrt_row() -> bytes:
    """Return a prefix with one route, as routers dump it: origin, AS path, MED and local preference."""
    attributes = bytes.fromhex("40010100 40020602010000fbf5 80040400000005 400504000000c8")
    body = struct.pack("!IB3sHHIH", 0, 24, bytes([192, 0, 2]), 1, 0, 0, len(attributes)) + attributes
    return struct.pack("!IHHI", 0, TABLE_DUMP_V2, 2, len(body)) + body


def _table_seeds() -> Iterator[bytes]:
    yield CSV
    yield CSV.replace(b"/24", b"/99") + b"x" * 10
    yield _mrt_row()
    yield _mrt_row() * 3


def open_tables(directory: Path) -> Run:
    """A BGP table, in CSV or MRT, is read, its wrong lines counted, or `ConfigError`."""

    def run(data: bytes) -> bool:
        path = directory / "table"
        path.write_bytes(data)
        try:
            trie, state = load_table(path, TableFile("table"))
        except ConfigError:
            return False
        for address in ("192.0.2.1", "2001:db8::1", "x"):
            trie.find(address)
        check(len(trie) >= 0 and state is not None, "no table")
        return True

    return run


def _plan_seeds() -> Iterator[bytes]:
    head = PlanHead(
        VERSION, "2026-12-01", 1e9, ("2026-11-01", "2026-11-30"), 2, 1, 5.0, 4.0, 4.5, 100, 0, 1.0, {"a1": 10**12}
    )
    one = PlannedFile("film/a.ts", "film", 100, 2.5, ("a1",), ("b1",), expected={"eu": (1.5, 0.5)})
    lines = [msgspec.json.encode(record) + b"\n" for record in (head, one)]
    yield b"".join(lines)
    yield lines[0]
    yield b"{}\n" + lines[1]


CODE: Final = (
    "p2pfill.model",
    "p2pfill.node.config",
    "p2pfill.tracker.rights",
    "p2pfill.tracker.route_tables",
    "p2pfill.tracker.mrt",
    "p2pfill.trust.fleet_list",
    "p2pfill.trust.publishers",
    "p2pfill.plan.document",
)

TARGETS: Final = (
    Target(
        "node-settings",
        open_file(lambda path: NodeConfig.load(path), "node.toml"),
        _toml_seeds(NODE),
        words=WORDS,
        code=CODE,
        form="lines",
    ),
    Target("grants", open_file(Grants, "grants.toml"), _toml_seeds(GRANTS), words=WORDS, code=CODE, form="lines"),
    Target(
        "fleet-lists",
        open_file(lambda path: read_fleet_list(path, "fleet.example"), "fleet.toml"),
        _toml_seeds(FLEET),
        words=WORDS,
        code=CODE,
        form="lines",
    ),
    Target(
        "publishers",
        open_file(Publishers.load, "publishers.toml"),
        _toml_seeds(PUBLISHERS.replace("KEY", public_word(KEY))),
        words=WORDS,
        code=CODE,
        form="lines",
    ),
    Target(
        "planner-settings",
        open_file(read_planner, "planner.toml"),
        _toml_seeds(PLANNER),
        words=WORDS,
        code=CODE,
        form="lines",
    ),
    Target("prices", open_file(load_prices, "prices.toml"), _toml_seeds(PRICES), words=WORDS, code=CODE, form="lines"),
    Target("routes", open_file(load_routes, "routes.toml"), _toml_seeds(ROUTES), words=WORDS, code=CODE, form="lines"),
    Target("policies", open_policies, _toml_seeds(POLICY), size_max=8 * KIB, words=WORDS, code=CODE, form="lines"),
    Target("route-tables", open_tables, _table_seeds, code=CODE),
    Target("plans", open_file(read_plan, "a plan", StoreError), _plan_seeds, code=CODE),
)
