"""Orders that were signed, in a fleet of real nodes: they outlive the tracker's database, and nobody makes them up."""

from __future__ import annotations

import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from certificates import cache
from publishing import Film, Studio
from signed_fleet import Fleet, shown, until

from p2pfill.model.signed_order import Document, OrderStatement, WithdrawalStatement, decode_statement
from p2pfill.node import Node, open_node
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import BroughtBack, FillRecord, FillRequest

ONE = Studio("studio-1")


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr("p2pfill.node.orphans.PAUSE_S", 0.1)
    monkeypatch.setattr("p2pfill.node.orphans.PAUSE_MAX_S", 0.2)
    monkeypatch.setattr("p2pfill.node.signed_orders.PAUSE_S", 0.1)
    monkeypatch.setattr("p2pfill.node.signed_orders.PAUSE_MAX_S", 0.2)
    monkeypatch.setattr("p2pfill.node.agent.POLL_S", 1.0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            yield Fleet(tmp_path, nursery)
            nursery.cancel_scope.cancel()


async def order(client: TrackerClient, film: Film, **more: Any) -> FillRecord:
    await client.put_title(film.title, film.encoded, more.pop("signatures", b""))
    request = FillRequest(**({"title": film.title, "selector": "isp=isp-a", "origins": [str(film.origin)]} | more))
    made = await client.post_fill(request)
    return (await client.fill(made.fill_id)).fill


async def eventually(look: Callable[[], Awaitable[object]]) -> None:
    while not await look():
        await trio.sleep(0.05)


def kept(node: Node, film: Film) -> list[type]:
    return [type(said) for said, _ in node.kept_orders.documents(film.title_id)]


async def lost(client: TrackerClient) -> list[BroughtBack]:
    return [one for one in (await client.status()).brought_back if one.reason]


async def test_the_database_is_lost_and_the_orders_stand_again_for_all_whom_they_mean(fleet: Fleet) -> None:
    await fleet.start()
    film, rest = Film(fleet.root, "v1"), Film(fleet.root, "v1", name="rest")
    async with open_node(fleet.config(who=cache("a1"))) as a1, open_node(fleet.config(who=cache("a2"))):
        async with fleet.client() as anna:
            before = await order(anna, film, priority=7)
            await until(lambda: shown(a1) == b"v1" and kept(a1, film) == [OrderStatement])
            # This one nobody has signed, as by curl.
            anna._signer = None
            await order(anna, rest, origins=[str(rest.origin)], selector="id=a1")
            await until(lambda: rest.title_id in a1.titles.live_ids())
        await fleet.stop()
        await fleet.start(database="another")
        async with fleet.client() as anna:
            await eventually(anna.fills)
            (fill,) = await anna.fills()
            assert msgspec.structs.replace(fill, fill_id="", created_at=0.0, ordered_at=0.0) == msgspec.structs.replace(
                before, fill_id="", created_at=0.0, ordered_at=0.0, call_id="", is_brought_back=True
            )
            # Who comes later is meant as well.
            async with open_node(fleet.config(who=cache("a3"))) as a3:
                await until(lambda: shown(a3) == b"v1")
            await eventually(lambda: lost(anna))
            (one,) = await lost(anna)
            assert (one.title, "nobody has signed it" in one.reason) == (rest.title, True)
            assert one.again == f"p2pfill fill rest.fill --origin {rest.origin} --to id=a1"
            assert rest.title_id in a1.titles.live_ids(), "what runs does not stop"
            assert rest.title_id in a1.tracker._standing.orders  # type: ignore[union-attr]
            # The command orders it again.
            await order(anna, rest, selector="id=a1")
            await eventually(lambda: anna.fills())
            while len((await anna.status()).fills) < 2:
                await trio.sleep(0.05)


async def test_a_cache_that_is_started_anew_has_not_forgotten(fleet: Fleet) -> None:
    await fleet.start()
    film = Film(fleet.root, "v1")
    async with open_node(fleet.config(who=cache("a1"))) as a1, fleet.client() as anna:
        await order(anna, film)
        await until(lambda: shown(a1) == b"v1" and kept(a1, film) == [OrderStatement])
    await fleet.stop()
    await fleet.start(database="another")
    async with open_node(fleet.config(who=cache("a1"))), fleet.client() as anna:
        await eventually(anna.fills)
        (fill,) = await anna.fills()
        assert (fill.request.selector, fill.is_brought_back) == ("isp=isp-a", True)


async def test_a_signed_withdrawal_wins_whoever_is_heard_first(fleet: Fleet) -> None:
    await fleet.start()
    film = Film(fleet.root, "v1")
    first, second = fleet.config(who=cache("a1")), fleet.config(who=cache("a2"))
    async with open_node(first) as a1, fleet.client() as anna:
        async with open_node(second) as a2:
            await order(anna, film)
            await until(lambda: all(shown(node) and kept(node, film) == [OrderStatement] for node in (a1, a2)))
        # a2 is away, and does not hear of it.
        await anna.withdraw(film.title, urgent=True)
        await until(lambda: kept(a1, film) == [WithdrawalStatement] and not shown(a1))
    await fleet.stop()
    await fleet.start(database="another")
    async with fleet.client() as anna, open_node(second) as a2:
        await eventually(anna.fills)  # it is the only one that is heard
        assert shown(a2) == b"v1"
        async with open_node(first) as a1:
            await until(lambda: not shown(a2) and kept(a2, film) == [WithdrawalStatement])
            assert await anna.fills() == []
            assert (await anna.catalogue()).withdrawn == [film.title]
            # What is ordered after that holds, also when all is lost once more, and the withdrawal comes first.
            await order(anna, film)
            await until(lambda: bool(shown(a1) and shown(a2)))
            await until(lambda: kept(a2, film) == [OrderStatement, WithdrawalStatement])
            await fleet.stop()
            await fleet.start(database="third")
            await eventually(anna.fills)
            await trio.sleep(0.5)
            assert (await anna.catalogue()).withdrawn == []
            assert shown(a2) == shown(a1) == b"v1"


async def test_to_a_tracker_that_has_lost_nothing_nobody_brings_anything(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfill.tracker.brought_back.REBUILT_S", -1.0)
    await fleet.start()
    film = Film(fleet.root, "v1")
    config = fleet.config(who=cache("a1"))
    async with fleet.client() as anna:
        async with open_node(config) as a1:
            fill = await order(anna, film)
            await until(lambda: bool(shown(a1)) and kept(a1, film) == [OrderStatement])
        # By somebody who does not sign: nothing is left of it, and so the cache keeps nothing.
        anna._signer = None
        await anna.delete_fill(fill.fill_id)
        async with open_node(config) as a1:
            await until(lambda: kept(a1, film) == [])
        assert await anna.fills() == []


async def test_no_tracker_makes_a_rollback_up_nor_shows_an_old_one_again(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    await fleet.start()
    films = [Film(fleet.root, f"v{number}") for number in (1, 2, 3)]
    said = [film.signed(ONE, number=number) for number, film in enumerate(films, 1)]
    async with fleet.client() as anna, open_node(fleet.config(ONE)) as a1:
        for film, signatures in zip(films[:2], said, strict=False):
            await order(anna, film, signatures=signatures, selector="all")
            begin = (film.origin / "a.bin").read_bytes()[:2]
            while shown(a1) != begin:
                await trio.sleep(0.02)
        # The tracker says so, and nobody has signed it.
        signer, anna._signer = anna._signer, None
        made = await order(anna, films[0], selector="id=a1", rollback=True)
        await until(lambda: "no user has signed" in caplog.text)
        assert shown(a1) == b"v2"
        await anna.delete_fill(made.fill_id)
        anna._signer = signer
        back = await order(anna, films[0], selector="id=a1", rollback=True)
        await until(lambda: shown(a1) == b"v1")
        rollback = next(
            document
            for said_of, document in a1.kept_orders.documents(films[0].title_id)
            if isinstance(said_of, OrderStatement) and said_of.rollback
        )
        await anna.delete_fill(back.fill_id)
        await order(anna, films[2], signatures=said[2], selector="all")
        await until(lambda: shown(a1) == b"v3" and kept(a1, films[2]) == [OrderStatement])
        # Shown again by a tracker in bad hands it is old, also to a cache that has forgotten the withdrawal.
        a1.kept_orders.keep(films[0].title_id, [rollback])
        signed = a1.tracker._signed  # type: ignore[union-attr]
        assert not signed._may_go_back(films[0].title_id, signed._wall())
        a1.kept_orders._numbers.clear()
        shutil.rmtree(Path(a1.config.data) / "orders/names")
        assert signed._may_go_back(films[0].title_id, signed._wall()), "by that number alone it is known"


async def test_what_is_damaged_on_disk_or_forged_is_not_kept(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    await fleet.start()
    film, other = Film(fleet.root, "v1"), Film(fleet.root, "v1", name="other")
    async with fleet.client() as anna, open_node(fleet.config(who=cache("a1"))) as a1:
        await order(anna, film)
        await until(lambda: kept(a1, film) == [OrderStatement])
        ((_, document),) = a1.kept_orders.documents(film.title_id)
        found = Document.decode(document)
        said = decode_statement(found.statement)
        forged = msgspec.structs.replace(found, statement=msgspec.structs.replace(said, priority=9).encode()).encode()
        signed = a1.tracker._signed  # type: ignore[union-attr]
        for wrong in (forged, b"junk"):
            assert signed._open(film.title_id, wrong, signed._wall()) is None
        assert signed._open(other.title_id, document, signed._wall()) is None
        assert caplog.text.count("is not kept") == 3
        path = Path(a1.config.data) / "orders" / film.title
        for damage in (path.read_bytes()[:-9], b"", b"\xdd" + b"\xff" * 9, b"\x91\xc0"):
            path.write_bytes(damage)
            assert kept(a1, film) == []
            assert not signed.keeps(film.title_id)
