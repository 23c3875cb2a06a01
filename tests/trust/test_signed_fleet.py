"""A fleet that takes only what its publishers have signed: real nodes and a real tracker, with certificates."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

import pytest
import trio
from publishing import Film, Studio, write_publishers
from rich.console import Console
from signed_fleet import Fleet, shown, until

from p2pfill.cli.fleet import status_view
from p2pfill.errors import ConfigError, SignatureError
from p2pfill.model.statement import Signatures, Statement
from p2pfill.node import Node, open_node
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest

ONE, TWO, STRANGER = Studio("studio-1"), Studio("studio-2"), Studio("stranger")


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr("p2pfill.node.renewal.LOOK_S", 0.05)
    monkeypatch.setattr("p2pfill.tracker.server.RENEW_S", 0.05)
    monkeypatch.setattr("p2pfill.node.agent.POLL_S", 1.0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            yield Fleet(tmp_path, nursery)
            nursery.cancel_scope.cancel()


def why(node: Node, film: Film) -> str:
    return str(node.titles.refusal(film.title_id) or "")


async def refusal_of(call: Awaitable[object]) -> str:
    try:
        await call
    except TrackerRefused as error:
        return str(error) if error.status == 403 else ""
    return ""


async def order(client: TrackerClient, film: Film, signatures: bytes = b"", *, rollback: bool = False) -> None:
    await client.put_title(film.title, film.encoded, signatures)
    await client.post_fill(FillRequest(film.title, "all", [str(film.origin)], rollback=rollback))


async def test_only_what_is_signed_is_filled_and_nobody_is_asked_for_the_rest(fleet: Fleet) -> None:
    await fleet.start()
    films = [Film(fleet.root, f"v{number}") for number in range(4)]
    async with fleet.client() as anna, open_node(fleet.config(ONE)) as a1:
        await order(anna, films[0])
        await order(anna, films[1], films[1].signed(STRANGER))
        await until(lambda: bool(why(a1, films[0]) and why(a1, films[1])))
        assert "is not signed at all" in why(a1, films[0])
        assert "rule 1 (titles = '*')" in why(a1, films[1])
        while (report := (await anna.node("a1")).titles) is None or {one.state for one in report} != {"failed"}:
            await trio.sleep(0.05)
        assert not a1.titles.origin_counts.totals()
        assert not any((Path(a1.config.data) / "filling").iterdir())
        await order(anna, films[2], films[2].signed(ONE, STRANGER))
        await until(lambda: shown(a1) == b"v2")
        assert not a1.titles.refusal(films[2].title_id)
        # What was refused goes as soon as it is signed.
        await anna.put_title(films[0].title, films[0].encoded, films[0].signed(ONE))
        await anna.post_fill(FillRequest(films[0].title, "id=a1", [str(films[0].origin)]))
        await until(lambda: shown(a1) == b"v0")


async def test_an_older_version_comes_back_only_by_an_order_that_says_so(fleet: Fleet) -> None:
    await fleet.start()
    old, new, oldest = Film(fleet.root, "v1"), Film(fleet.root, "v2"), Film(fleet.root, "v0")
    async with fleet.client() as anna, fleet.client("bob") as bob:
        async with open_node(fleet.config(ONE)) as a1:
            await order(anna, old, old.signed(ONE, number=10))
            await until(lambda: shown(a1) == b"v1")
            await order(anna, new, new.signed(ONE, number=20))
            await until(lambda: shown(a1) == b"v2")
            # One that is live yet, and one that is not here.
            await order(bob, old)
            await order(bob, oldest, oldest.signed(ONE, number=5))
            await until(lambda: bool(why(a1, old) and why(a1, oldest)))
            assert "is older (number 10) than one that was live here (number 20)" in why(a1, old)
            assert "signed anew with a higher number (`p2pfill sign --anew --number 21`)" in why(a1, old)
            assert "is older (number 5)" in why(a1, oldest)
            assert shown(a1) == b"v2"
            # Also when what is newer is taken away.
            await anna.withdraw(new.title, urgent=True)
            await until(lambda: not (Path(a1.config.data) / "titles" / new.title).exists())
            assert shown(a1) == b""
        async with open_node(fleet.config(ONE)) as a1:  # it is remembered
            await until(lambda: bool(why(a1, old) and why(a1, oldest)))
            assert shown(a1) == b""
            with pytest.raises(TrackerRefused, match="user/bob may not roll back titles named 'film'") as refused:
                await order(bob, old, rollback=True)
            assert refused.value.status == 403
            await order(anna, old, rollback=True)
            await until(lambda: shown(a1) == b"v1" and not why(a1, old))
            # An order of before that stands says nothing for one of now.
            await order(anna, oldest, rollback=True)
            await until(lambda: shown(a1) == b"v0")
            await bob.post_fill(FillRequest(old.title, "id=a1", [str(old.origin)]))
            await until(lambda: bool(why(a1, old)))
            assert shown(a1) == b"v0"


async def test_a_rule_may_take_no_orders_word_and_what_is_signed_anew_is_new(fleet: Fleet) -> None:
    await fleet.start()
    old, new = Film(fleet.root, "v1"), Film(fleet.root, "v2")
    async with fleet.client() as anna, open_node(fleet.config(ONE, more="rollback = false")) as a1:
        await order(anna, old, old.signed(ONE, number=10))
        await until(lambda: shown(a1) == b"v1")
        await order(anna, new, new.signed(ONE, number=20))
        await until(lambda: shown(a1) == b"v2")
        await order(anna, old, rollback=True)
        await until(lambda: bool(why(a1, old)))
        await order(anna, old, old.signed(ONE, number=30))
        await until(lambda: shown(a1) == b"v1" and not why(a1, old))
        await order(anna, new)
        await until(lambda: bool(why(a1, new)))
        assert shown(a1) == b"v1"


async def test_what_has_expired_is_not_filled_and_what_is_live_stays(fleet: Fleet) -> None:
    await fleet.start()
    film, late = Film(fleet.root, "v1"), Film(fleet.root, "v2")
    now = [1000.0]
    async with fleet.client() as anna, open_node(fleet.config(ONE), wall=lambda: now[0]) as a1:
        await order(anna, film, film.signed(ONE, number=1, expires=1001))
        await until(lambda: shown(a1) == b"v1")
        now[0] = 1001.0
        await order(anna, late, late.signed(ONE, number=2, expires=1001))
        await until(lambda: "has expired" in why(a1, late))
        a1.titles.suspect(film.title_id, 0, "a test")  # it is looked at, and repaired where that is needed
        await a1.titles.repair(film.title_id)
        assert shown(a1) == b"v1"
        await anna.put_title(late.title, late.encoded, late.signed(ONE, number=3, expires=1002))
        a1.titles.retry()
        await until(lambda: shown(a1) == b"v2")
    now[0] = 5000.0
    async with open_node(fleet.config(ONE), wall=lambda: now[0]) as a1:
        await until(lambda: {film.title_id, late.title_id} == set(a1.titles.live_ids()))
        assert shown(a1) == b"v2"


async def test_publishers_change_while_a_node_runs(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    await fleet.start()
    renewed = Studio("studio-1")
    film, other, third = Film(fleet.root, "v1"), Film(fleet.root, "v2"), Film(fleet.root, "v3")
    async with fleet.client() as anna, open_node(fleet.config(ONE)) as a1:
        directory = fleet.root / "id-a1"
        await order(anna, film, film.signed(renewed, number=1))
        await until(lambda: "not by studio-1" in why(a1, film))
        write_publishers(directory, ONE, renewed)
        await until(lambda: shown(a1) == b"v1")
        await order(anna, other, other.signed(ONE, number=2))
        await until(lambda: shown(a1) == b"v2")
        write_publishers(directory, renewed)
        await until(lambda: a1.credentials is not None and a1.credentials.generation == 2)
        await order(anna, third, third.signed(ONE, number=3))
        await until(lambda: "not by studio-1" in why(a1, third))
        assert shown(a1) == b"v2"  # what is live stays so
        for breaks in (lambda path: path.write_text("rules = 1"), lambda path: path.unlink()):
            caplog.clear()
            breaks(directory / "publishers.toml")
            await until(lambda: "those before stand" in caplog.text)
            assert a1.credentials is not None
            with pytest.raises(ConfigError, match=r"publishers.toml"):
                a1.credentials.reload()
            assert a1.vetting.publishers is not None


async def test_a_fill_under_way_ends_where_its_publisher_is_trusted_no_more(fleet: Fleet) -> None:
    film = Film(fleet.root, "v1")
    async with open_node(fleet.config(ONE, url="")) as a1:
        fill = await a1.order(film.manifest, [], signatures=film.signed(ONE))  # from nowhere: it waits
        assert fill.state == "filling"
        write_publishers(fleet.root / "id-a1", TWO)
        await fill.done.wait()
        assert "not by studio-2" in fill.error
        with pytest.raises(SignatureError, match="not by studio-2"):
            await a1.order(film.manifest, [str(film.origin)], signatures=film.signed(ONE))


async def test_without_a_tracker_signatures_are_given_by_hand_and_kept(fleet: Fleet) -> None:
    film, old = Film(fleet.root, "v2"), Film(fleet.root, "v1")
    config = fleet.config(ONE, url="")
    async with open_node(config) as a1:
        with pytest.raises(SignatureError, match="not signed at all"):
            await a1.fill(film.manifest, [str(film.origin)])
        await a1.order(film.manifest, [], signatures=film.signed(ONE, number=2))
    async with open_node(config) as a1:
        await a1.fill(film.manifest, [str(film.origin)])  # those that lie there
        assert shown(a1) == b"v2"
        with pytest.raises(SignatureError, match="is older"):
            await a1.fill(old.manifest, [str(old.origin)], signatures=old.signed(ONE, number=1))
        await a1.fill(old.manifest, [str(old.origin)], signatures=old.signed(ONE, number=1), rollback=True)
        assert shown(a1) == b"v1"


async def test_a_tracker_with_publishers_takes_and_orders_what_is_signed(fleet: Fleet) -> None:
    await fleet.start(ONE)
    film, other = Film(fleet.root, "v1"), Film(fleet.root, "v2", "other")
    async with fleet.client() as anna:
        for signatures, said in [
            (b"", "not signed at all"),
            (film.signed(STRANGER), "not by studio-1"),
            (film.signed(ONE, expires=1), "has expired"),
            (other.signed(ONE), "of title"),
            (b"nonsense", "no signatures"),
        ]:
            with pytest.raises(TrackerRefused, match=said) as refused:
                await anna.put_title(film.title, film.encoded, signatures)
            assert refused.value.status == 403
        assert not await anna.titles()
        assert not (await anna.status()).takes_unsigned
        good, soon = film.signed(ONE, number=5), int(time.time()) + 3600
        await anna.put_title(film.title, film.encoded, film.signed(STRANGER, ONE, number=5))
        assert await anna.signatures(film.title) == good  # without what does not count
        await anna.put_title(film.title, film.encoded)  # known, and again
        with pytest.raises(TrackerRefused, match="newer, of number 5"):
            await anna.put_title(film.title, film.encoded, film.signed(ONE, number=4))
        forged = Signatures(Statement(film.title_id, "film", 9), Signatures.decode(good).by)
        with pytest.raises(TrackerRefused, match="does not hold"):
            await anna.put_title(film.title, film.encoded, forged.encode())
        assert await anna.signatures(film.title) == good
        await anna.put_title(film.title, film.encoded, film.signed(ONE, number=6, expires=soon))
        assert await anna.signatures(film.title) == film.signed(ONE, number=6, expires=soon)
        await anna.post_fill(FillRequest(film.title, "all", []))
        write_publishers(fleet.root / "tracker", TWO)
        while not (refusal := await refusal_of(anna.post_fill(FillRequest(film.title, "all", [])))):
            await trio.sleep(0.05)
        assert "cannot be ordered: title 'film' is not signed as rule 1" in refusal
        # What suffices no more gives way, whatever its number is.
        await anna.put_title(film.title, film.encoded, film.signed(TWO, number=1))
        await anna.post_fill(FillRequest(film.title, "all", []))


async def test_without_publishers_of_its_own_it_keeps_one_statement(fleet: Fleet) -> None:
    await fleet.start()
    film = Film(fleet.root, "v1")
    crowd = [Studio(str(number)) for number in range(20)]
    async with fleet.client() as anna, fleet.client("eve") as eve:
        await anna.put_title(film.title, film.encoded, film.signed(ONE, number=2))
        assert await anna.signatures(film.title) == film.signed(ONE, number=2)
        with pytest.raises(TrackerRefused, match="may not publish"):
            await eve.put_title(film.title, film.encoded, film.signed(STRANGER, number=3))
        with pytest.raises(TrackerRefused, match="newer, of number 2"):
            await anna.put_title(film.title, film.encoded, film.signed(ONE, number=1))
        for studio in crowd:
            await anna.put_title(film.title, film.encoded, film.signed(studio, number=2))
        held = Signatures.decode(await anna.signatures(film.title))
        assert Signatures.decode(film.signed(ONE, number=2)).by.items() <= held.by.items()
        assert len(held.by) == 16
        for query in ("signatures=%ff", "signatures=!!!!", "signatures=AAA", "signatures=AAAA"):
            with pytest.raises(TrackerRefused) as refused:
                await anna._fetch("PUT", f"/v1/titles/{film.title}?{query}", body=film.encoded)
            assert refused.value.status == 400
        await anna.delete_title(film.title)
        await anna.put_title(film.title, film.encoded)
        assert await anna.signatures(film.title) == b""


async def test_a_tracker_that_has_lost_its_database_is_told_who_has_signed(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfill.node.orphans.PAUSE_S", 0.1)
    film, expires = Film(fleet.root, "v1"), int(time.time()) + 2
    signatures = film.signed(ONE, number=1, expires=expires)
    await fleet.start(ONE)
    async with open_node(fleet.config(ONE)) as a1:
        async with fleet.client() as anna:
            await order(anna, film, signatures)
            await until(lambda: shown(a1) == b"v1")
        await fleet.stop()
        await trio.sleep(max(0.0, expires - time.time()))  # it has expired then, and is brought all the same
        await fleet.start(ONE, database="another")
        async with fleet.client() as anna:
            while not await anna.fills():
                await trio.sleep(0.05)
            assert await anna.signatures(film.title) == signatures


async def test_without_publishers_everything_is_taken_and_that_is_said(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    await fleet.start()
    film = Film(fleet.root, "v1")
    async with fleet.client() as anna, open_node(fleet.config()) as a1:
        await order(anna, film)
        await until(lambda: shown(a1) == b"v1")
        status = await anna.status()
        assert status.takes_unsigned
    console = Console(width=120)
    with console.capture() as printed:
        console.print(status_view(status))
    assert "titles that nobody has signed are taken" in printed.get()
    said = [one.name for one in caplog.records if "takes titles that nobody has signed" in one.getMessage()]
    assert said == ["p2pfill.tracker", "p2pfill.node.a1"]
