"""Reads costs of routes from disk: the TOML file of `p2pfill tracker --routes`, and the BGP tables that it names.

A table is an MRT file (`tracker.mrt`) or CSV: prefix, AS path, local preference, MED, of which the last two may be
empty. Both may be compressed with gzip or bzip2; which they are is seen from their first bytes, not from their names. A
line or record that cannot be used is counted, and the first ones are named; a table of which nothing can be used is an
error. All of it runs in a worker thread: a table of the whole Internet takes a dozen seconds.

The prefixes stand in a trie of the library pytricia, one for each family of addresses; see docs/experiments.md,
"Routes", for what else was tried.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import importlib
import re
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple, cast

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.routes import Match, Route, RouteConfig, Routes, TableFile
from p2pfill.model.toml import read_toml
from p2pfill.tracker.mrt import Entry, is_mrt, read_mrt
from p2pfill.tracker.records import TableState

PREFIXES_MAX: Final = 4_000_000
"""Of one table: three times those of the whole Internet, in less than a gigabyte."""

LINE_CHARS_MAX: Final = 64 * 1024
"""Of CSV: an AS path of some thousand networks."""

WRONG_NAMED_MAX: Final = 5
"""Lines that cannot be used of which it is said why; the others are counted."""

CONFIG_BYTES_MAX: Final = 1024 * 1024
"""Of the TOML file: a thousand pairs of long selectors."""

HEAD_BYTES: Final = 16

_HOP: Final = r"(?:\d{1,10}|\{\d{1,10}(?:[, ]\d{1,10})*\})"
_HOPS: Final = re.compile(_HOP)
_PATH: Final = re.compile(rf"{_HOP}(?:\s+{_HOP})*")
_NUMBER_MAX: Final = 2**32 - 1


class LoadedRoutes(NamedTuple):
    """Costs, and what their tables are."""

    routes: Routes
    tables: list[TableState]


class Trie:
    """The prefixes of one table; a `RouteTable`."""

    def __init__(self, name: str) -> None:
        """Raises `ConfigError` where the library is not installed."""
        try:
            library: Any = importlib.import_module("pytricia")
        except ImportError as error:
            raise ConfigError("BGP tables need a library: pip install 'p2pfill[routes]'") from error
        self.name = name
        self._by_version = {4: library.PyTricia(32), 6: library.PyTricia(128)}
        self._count = 0
        """The library counts its prefixes anew each time that it is asked."""

    def __len__(self) -> int:
        return self._count

    def add(self, prefix: str, route: Route) -> None:
        """Take in a route to a prefix without bits behind its length; of several routes the best counts."""
        trie = self._by_version[6 if ":" in prefix else 4]
        # The library's own look-up is for the longest prefix, and this is about the very same.
        is_new = not trie.has_key(prefix)
        if is_new or route.is_better_than(trie[prefix]):
            trie[prefix] = route
            self._count += is_new

    def find(self, address: str) -> Match | None:
        """Return the longest prefix that an address is in."""
        parsed = parse_address(address)
        if parsed is None:
            return None
        trie, key = self._by_version[parsed.version], str(parsed)
        route = trie.get(key)
        # It writes some of IPv6 with an IPv4 address at the end.
        return None if route is None else Match(str(ip_network(trie.get_key(key))), cast(Route, route))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """Return an address, one of IPv4 that is written as one of IPv6 as the former; None where it is none."""
    try:
        found = ip_address(text.strip("[]"))
    except ValueError:
        return None
    return (isinstance(found, IPv6Address) and found.ipv4_mapped) or found


def load_routes(path: Path) -> LoadedRoutes:
    """Return the costs that a TOML file and its tables say. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            text = file.read(CONFIG_BYTES_MAX + 1)
        if len(text) > CONFIG_BYTES_MAX:
            raise ConfigError(f"it has more than {CONFIG_BYTES_MAX} bytes")
        config = msgspec.convert(read_toml(text.decode("utf-8-sig")), RouteConfig)
        Routes(config, [Trie(file.file) for file in config.table])  # what is wrong there is said before minutes of work
    except OSError as error:
        raise ConfigError(f"cannot read the routes in {path}: {error.strerror}") from error
    except (UnicodeDecodeError, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"cannot use the routes in {path}: {error}") from error
    loaded = [load_table(path.parent / table.file, table) for table in config.table]
    return LoadedRoutes(Routes(config, [trie for trie, _ in loaded]), [state for _, state in loaded])


def load_table(path: Path, table: TableFile) -> tuple[Trie, TableState]:
    """Return a BGP table, and what it is. Raises `ConfigError` where nothing of it can be used."""
    trie, wrong, first = Trie(table.file), 0, list[str]()
    try:
        with _open(path) as file:
            for entry in _entries(file):
                if not entry.wrong:
                    trie.add(entry.prefix, entry.route)
                    if len(trie) > PREFIXES_MAX:
                        raise ConfigError(f"cannot use the table in {path}: it has more than {PREFIXES_MAX} prefixes")
                    continue
                wrong += 1
                if len(first) < WRONG_NAMED_MAX:
                    first.append(f"{entry.number}: {entry.wrong}"[:200])
    except (OSError, EOFError) as error:
        # Also of a file that is compressed and cut short: what was read till then is a table that lacks the rest.
        raise ConfigError(f"cannot read the table in {path}: {getattr(error, 'strerror', None) or error}") from error
    if not len(trie):
        why = f"; the first that is wrong is {first[0]}" if first else ""
        raise ConfigError(f"cannot use the table in {path}: it has no prefix that can be read{why}")
    return trie, TableState(table.file, table.seen_from, len(trie), wrong, first)


def _open(path: Path) -> BinaryIO:
    """Open a file as it was before it was compressed."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.open(path))
    return cast(BinaryIO, bz2.open(path)) if head.startswith(b"BZh") else path.open("rb")


def _entries(file: BinaryIO) -> Iterator[Entry]:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return read_mrt(file) if is_mrt(head) else read_csv(file)


def read_csv(file: BinaryIO) -> Iterator[Entry]:
    """Yield the prefixes of a CSV file. Empty lines, `#` and a first line with names are passed over."""
    number = 0
    while line := file.readline(LINE_CHARS_MAX):
        number += 1
        text = line.decode("utf-8", "replace").strip().removeprefix("\ufeff")
        if not line.endswith(b"\n") and len(line) == LINE_CHARS_MAX:
            while (rest := file.readline(LINE_CHARS_MAX)) and not rest.endswith(b"\n"):
                pass
            yield Entry(number, "", Route(()), f"it has more than {LINE_CHARS_MAX} characters")
            continue
        if not text or text.startswith("#") or (number == 1 and text.lower().startswith("prefix")):
            continue
        try:
            fields = [field.strip() for field in next(csv.reader([text]))]
            route = _route_of(fields)
            yield Entry(number, str(ip_network(fields[0], strict=False)), route)
        except (csv.Error, ValueError) as error:
            yield Entry(number, "", Route(()), str(error))


def _route_of(fields: list[str]) -> Route:
    if not 2 <= len(fields) <= 4:
        raise ValueError(f"{len(fields)} columns; write prefix, AS path, local preference and MED")
    _, path, preference, med = [*fields, "", ""][:4]
    if path and not _PATH.fullmatch(path):
        raise ValueError(f"the AS path {path[:60]!r} is not numbers with spaces between")
    hops = tuple(hop.replace(" ", ",") for hop in _HOPS.findall(path))
    return Route(hops, _number(preference, "local preference"), _number(med, "MED"))


def _number(text: str, what: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdecimal()) or int(text[:11]) > _NUMBER_MAX:
        raise ValueError(f"the {what} {text[:20]!r} is not in 0..{_NUMBER_MAX}")
    return int(text)
