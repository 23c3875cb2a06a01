"""Reads BGP tables in MRT files: TABLE_DUMP_V2 of RFC 6396, also with the path ids of RFC 8050.

Only what a cost needs is read: prefix, AS path, local preference and MED. The library for the format, mrtparse, makes
objects of everything: 54 microseconds a prefix with one peer and 1.2 milliseconds with twenty, so a table of the whole
Internet from a route collector would take half an hour. It reads the same files in the tests, to compare. See
docs/experiments.md, "Routes".

A record says how long it is, so one that cannot be read is passed over, and those that follow are read.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from struct import Struct, error, unpack_from
from typing import BinaryIO, Final, NamedTuple

from p2pfill.model.routes import Route

TABLE_DUMP_V2: Final = 13

RECORD_BYTES_MAX: Final = 16 * 1024 * 1024
"""A prefix with all routes of a thousand peers has some hundred kilobytes; beyond this the length is no length."""

DISTINCT_MAX: Final = 100_000
"""Sets of attributes that are remembered while a file is read: prefixes of one network mostly share theirs."""

_HEADER: Final = Struct("!IHHI")
_FAMILIES: Final = {2: socket.AF_INET, 4: socket.AF_INET6, 8: socket.AF_INET, 10: socket.AF_INET6}
"""Subtype -> family, of unicast prefixes. Others, such as multicast and the table of peers, are passed over."""
_WITH_PATH_IDS: Final = (8, 10)
_ADDRESS_BYTES: Final = {socket.AF_INET: 4, socket.AF_INET6: 16}

_EXTENDED: Final = 0x10
"""The flag of an attribute whose length has two bytes."""
_AS_PATH, _MED, _LOCAL_PREFERENCE = 2, 4, 5
_SET, _SEQUENCE, _CONFED_SEQUENCE, _CONFED_SET = 1, 2, 3, 4


class Entry(NamedTuple):
    """One prefix of a table, and the best of its routes; without a prefix one that cannot be read, with the reason."""

    number: int
    """Of the record or line, counted from 1."""
    prefix: str
    route: Route
    wrong: str = ""


def is_mrt(head: bytes) -> bool:
    """Tell whether a file that begins so is an MRT file with a table."""
    return len(head) >= _HEADER.size and _HEADER.unpack_from(head)[1] == TABLE_DUMP_V2


def read_mrt(file: BinaryIO) -> Iterator[Entry]:
    """Yield the prefixes of a file. Raises `OSError` and `EOFError` of the file itself."""
    known: dict[bytes, Route] = {}
    number = 0
    while head := file.read(_HEADER.size):
        number += 1
        if len(head) < _HEADER.size:
            yield _wrong(number, "the file ends in the midst of it")
            return
        _, kind, subtype, length = _HEADER.unpack(head)
        if length > RECORD_BYTES_MAX:
            yield _wrong(number, f"it claims {length} bytes, so what follows cannot be found")
            return
        body = file.read(length)
        if len(body) < length:
            yield _wrong(number, "the file ends in the midst of it")
            return
        if kind != TABLE_DUMP_V2 or subtype not in _FAMILIES:
            continue
        try:
            entry = _prefix_of(number, subtype, body, known)
        except (error, IndexError, ValueError) as wrong:
            entry = _wrong(number, str(wrong))
        if entry is not None:
            yield entry


def _wrong(number: int, why: str) -> Entry:
    return Entry(number, "", Route(()), why)


def _prefix_of(number: int, subtype: int, body: bytes, known: dict[bytes, Route]) -> Entry | None:
    """Return the prefix of a record; None where it has no route."""
    family = _FAMILIES[subtype]
    bits = body[4]
    size = _ADDRESS_BYTES[family]
    if bits > 8 * size:
        raise ValueError(f"a prefix of {bits} bits")
    at = 5 + (bits + 7) // 8
    address = bytearray(body[5:at].ljust(size, b"\0"))
    if bits % 8:
        address[bits // 8] &= 0xFF00 >> bits % 8  # what lies behind the prefix's bits may be anything
    prefix = f"{socket.inet_ntop(family, address)}/{bits}"
    (count,) = unpack_from("!H", body, at)
    at += 2
    best: Route | None = None
    skipped = 6 + 4 * (subtype in _WITH_PATH_IDS)  # peer, time and path id
    for _ in range(count):
        (length,) = unpack_from("!H", body, at + skipped)
        at += skipped + 2
        attributes = body[at : at + length]
        if len(attributes) < length:
            raise ValueError("it ends in the midst of a route")
        at += length
        if (route := known.get(attributes)) is None:
            if len(known) >= DISTINCT_MAX:
                known.clear()
            route = known[attributes] = _route_of(attributes)
        if best is None or route.is_better_than(best):
            best = route
    return None if best is None else Entry(number, prefix, best)


def _route_of(attributes: bytes) -> Route:
    path: tuple[str, ...] = ()
    preference = med = None
    at = 0
    while at < len(attributes):
        flags, kind = attributes[at], attributes[at + 1]
        (length,) = unpack_from("!H" if flags & _EXTENDED else "!B", attributes, at + 2)
        at += 4 if flags & _EXTENDED else 3
        value = attributes[at : at + length]
        if len(value) < length:
            raise ValueError(f"it ends in the midst of attribute {kind}")
        at += length
        if kind == _AS_PATH:
            path = _path_of(value)
        elif kind == _MED:
            (med,) = unpack_from("!I", value)
        elif kind == _LOCAL_PREFERENCE:
            (preference,) = unpack_from("!I", value)
    return Route(path, preference, med)


def _path_of(value: bytes) -> tuple[str, ...]:
    """Return an AS path; in these files all AS numbers have four bytes."""
    path: list[str] = []
    at = 0
    while at < len(value):
        kind, count = value[at], value[at + 1]
        numbers = [str(number) for number in unpack_from(f"!{count}I", value, at + 2)]
        at += 2 + 4 * count
        if kind == _SEQUENCE:
            path += numbers
        elif kind == _SET:
            path.append(f"{{{','.join(numbers)}}}")
        elif kind not in (_CONFED_SEQUENCE, _CONFED_SET):  # those count nothing (RFC 5065, 5.3)
            raise ValueError(f"a segment of kind {kind} in an AS path")
    return tuple(path)
