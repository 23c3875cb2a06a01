"""Writes small MRT files: what a router would dump (RFC 6396), and what none would."""

from __future__ import annotations

import struct
from ipaddress import ip_network

PEERS, UNICAST = 1, {4: 2, 6: 4}


def record(subtype: int, body: bytes, kind: int = 13) -> bytes:
    return struct.pack("!IHHI", 1_700_000_000, kind, subtype, len(body)) + body


def peers(count: int = 1) -> bytes:
    """The table of peers, which each dump begins with."""
    body = struct.pack("!4sHH", bytes([10, 0, 0, 1]), 0, count)
    for number in range(count):
        body += struct.pack("!B4s4sI", 2, bytes([10, 0, 0, 9]), bytes([10, 0, 1, number]), 64500 + number)
    return record(PEERS, body)


def attribute(kind: int, value: bytes, *, extended: bool = False) -> bytes:
    flags = 0x50 if extended else 0x40
    return struct.pack("!BBH" if extended else "!BBB", flags, kind, len(value)) + value


def segment(kind: int, *numbers: int) -> bytes:
    return struct.pack(f"!BB{len(numbers)}I", kind, len(numbers), *numbers)


def attributes(path: bytes, preference: int | None = None, med: int | None = None) -> bytes:
    found = attribute(1, b"\0") + attribute(2, path, extended=True) + attribute(3, bytes([10, 0, 1, 1]))
    if med is not None:
        found += attribute(4, struct.pack("!I", med))
    return found if preference is None else found + attribute(5, struct.pack("!I", preference))


def rib(prefix: str, *routes: bytes, path_ids: bool = False) -> bytes:
    """A record of one prefix with routes of as many peers."""
    network = ip_network(prefix)
    packed = network.network_address.packed[: (network.prefixlen + 7) // 8]
    body = struct.pack("!IB", 0, network.prefixlen) + packed + struct.pack("!H", len(routes))
    for peer, route in enumerate(routes):
        path_id = struct.pack("!I", 7) if path_ids else b""
        body += struct.pack("!HI", peer, 1_700_000_000) + path_id + struct.pack("!H", len(route)) + route
    return record(UNICAST[network.version] + 6 * path_ids, body)
