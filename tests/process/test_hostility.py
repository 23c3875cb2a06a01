"""Garbage, crowds and liars at the door of a running fleet."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
import trio
from measure import check_at_most
from process.fleet import Fleet, HeldOrigin, Title, cli
from process.peer import Peer

pytestmark = [pytest.mark.process, pytest.mark.alone]

ALL = ("a1", "a2", "b1", "b2", "hub")
CROWD = 2000


def address_of(fleet: Fleet, name: str) -> tuple[str, int]:
    host, port = fleet.nodes[name].ready["address"].rsplit(":", 1)
    return host, int(port)


def test_garbage_and_a_crowd(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    chance = random.Random(7)
    address = address_of(fleet, "a1")
    begun = [b"", b"P", b"P2FC", b"P2FC\x02", b"P2FC\x02\x02", b"P2FC\x02\x02\0\0\0\x40", b"P2FD", b"P2FD\x02\0\0\0"]
    bad = [b"GET / HTTP/1.1\r\n\r\n", b"P2FC\x09\x09", b"P2FC\x02\x02\xff\xff\xff\xff", b"P2FD\x02\0\0\0" + bytes(32)]
    crowd = []
    try:
        for number in range(CROWD):
            sock = socket.create_connection(address, timeout=10)
            crowd.append(sock)
            with suppress(OSError):
                sock.sendall(begun[number % len(begun)])
        for number in range(200):
            with socket.create_connection(address, timeout=10) as sock, suppress(OSError):
                sock.sendall(bad[number % len(bad)] if number % 2 else chance.randbytes(chance.randrange(1, 4096)))

        def copies(number: int) -> float:
            title = make_title(f"crowd{number}", 4)
            fleet.order(title, [make_origin(title.root).url])
            reports = fleet.live(ALL, title)
            return float(sum(report["bytes_origin"] for report in reports.values())) / title.size

        check_at_most(1.05, copies)
    finally:
        for sock in crowd:
            sock.close()
    fleet.check_logs()


def test_a_liar_is_quarantined_and_named(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("lies", 4)
    origin = make_origin(title.root)

    def half_true(chunk: int, length: int) -> bytes:
        return bytes(length // 2) + os.urandom(length - length // 2)

    async def lie() -> dict[str, dict[str, object]]:
        liar = Peer(title.manifest, payload=half_true)
        async with trio.open_nursery() as nursery:
            await nursery.start(liar.run, address_of(fleet, "a1"))
            await liar.linked.wait()
            await trio.to_thread.run_sync(fleet.order, title, [origin.url])
            reports = await trio.to_thread.run_sync(fleet.live, ALL, title)
            assert liar.requested
            nursery.cancel_scope.cancel()
        return reports

    reports = trio.run(lie)
    report = reports["a1"]
    sources = {source["id"]: source for source in report["sources"]}  # type: ignore[attr-defined]
    assert sources["zz-peer"]["state"] == "quarantined"
    assert sources["zz-peer"]["bytes"] == 0
    assert report["duplicate_bytes"]
    text = " ".join(cli("explain", "a1", title.name, "--tracker", fleet.url).out.split())
    assert "Source zz-peer is quarantined: wrong XXH3 digest." in text
