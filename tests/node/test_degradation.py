"""What goes on without what: real nodes, with certificates where those matter. The rest is named in the docs."""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
from certificates import cache, tracker, user
from trusted import Fleet, film, unhurried

from p2pfill.cli.fleet import trouble_lines
from p2pfill.model.manifest import Manifest
from p2pfill.model.rates import RateLimits, Rates
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.troubles import CLOCK_S, Troubles
from p2pfill.store.publish import publish
from p2pfill.tracker import client as client_module
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.server import serve_tracker
from p2pfill.transport.secure import reason_of
from p2pfill.trust.credentials import Credentials

DAY_S = 86400.0
LIFE_S = 5.0


async def until(said: Callable[[], object], limit_s: float = 30.0) -> None:
    with trio.fail_after(limit_s):
        while not said():
            await trio.sleep(0.02)


@pytest.fixture
async def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fleet]:
    monkeypatch.setattr("p2pfill.node.renewal.LOOK_S", 0.05)
    with trio.fail_after(90):
        async with trio.open_nursery() as nursery:
            made = Fleet(tmp_path, nursery)
            await made.start()
            yield made
            nursery.cancel_scope.cancel()


def chunks(root: Path) -> tuple[Manifest, str]:
    """Return a title of 40 chunks of 64 KiB, and an origin."""
    (root / "src").mkdir()
    (root / "src" / "a.bin").write_bytes(os.urandom(40 * 65536))
    return publish(root / "src", name="film", chunk_size=65536).manifest, str(root / "src")


def has(node: Node) -> bool:
    return (Path(node.config.data) / "live" / "film" / "a.bin").exists()


async def test_a_certificate_that_expires_in_mid_fill_ends_no_link_and_lets_none_begin(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    manifest, origin = chunks(fleet.root)
    fleet.signer.give(fleet.root / "id-b1", cache("b1"), hours=LIFE_S / 3600)
    async with (
        open_node(fleet.config(cache("b1"), "")) as b1, open_node(fleet.config(cache("a1"), "")) as a1,
        open_node(fleet.config(cache("a2"), "")) as a2,
    ):  # fmt: skip
        assert b1.credentials is not None
        await b1.fill(manifest, [origin])
        a1.limits.put("test", RateLimits(Rates(total=100_000)))
        filling = await a1.start_fill(manifest, members=[a1.info], holders=[b1.info])
        a1.want_links([b1.info])
        await until(lambda: "b1" in a1.engine.links)
        await until(lambda: datetime.now(UTC) > b1.credentials.expires)  # type: ignore[union-attr]
        await until(lambda: "its certificate has ended at" in b1.troubles.told())
        assert not filling.done.is_set()
        a2.want_links([b1.info])
        await until(lambda: "cannot link with b1" in caplog.text)
        assert "certificate has expired; is this machine's clock right?" in caplog.text
        a1.limits.put("test", RateLimits())
        await filling.wait()
        assert has(a1), "over the link that stood"
        assert not b1.engine.links.keys() & {"a2"}
        fleet.signer.give(fleet.root / "id-b1", cache("b1"), hours=24 * 9)
        await until(lambda: "a2" in b1.engine.links)
        assert b1.troubles.told() == ""


async def test_the_tracker_says_when_its_own_certificate_ends(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, nursery: trio.Nursery
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("p2pfill.tracker.server.RENEW_S", 0.05)
    directory = fleet.signer.give(fleet.root / "second", tracker("second"), hours=1 / 3600)
    serve = partial(serve_tracker, "127.0.0.1:0", f"sqlite:///{fleet.root}/2.db", credentials=Credentials(directory))
    await nursery.start(serve)

    def said(text: str) -> int:
        return sum(text in one.getMessage() for one in caplog.records if one.name == "p2pfill.tracker")

    await until(lambda: said("its certificate has ended at"))
    fleet.signer.give(directory, tracker("second"), hours=24 * 9)
    await until(lambda: said("has read its certificates again"))
    assert said("its certificate has ended at") == 1


@pytest.mark.parametrize("ahead_s", [DAY_S, -DAY_S])
async def test_a_clock_that_is_wrong_by_a_day_is_said_and_stops_no_fill(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ahead_s: float
) -> None:
    now = time.time

    class Wrong:
        """The node's clock: all in this process share the machine's."""

        ahead_s = 0.0

        @classmethod
        def time(cls) -> float:
            return now() + cls.ahead_s

    Wrong.ahead_s = ahead_s
    monkeypatch.setattr(client_module, "time", Wrong)
    caplog.set_level(logging.INFO)
    encoded, title, origin = film(fleet.root)
    async with fleet.client(user("anna")) as anna, open_node(fleet.config(cache("a1"))) as a1:
        await anna.put_title(title, encoded)
        await anna.post_fill(FillRequest(title, "all", [origin]))
        await until(lambda: has(a1))
        with trio.fail_after(10):
            while not (node := await anna.node("a1")).trouble:
                await trio.sleep(0.05)
        way = "ahead of" if ahead_s > 0 else "behind"
        assert f"its clock is 24 hours {way} the tracker's" in node.trouble
        assert "its clock" in str(trouble_lines([node])[0])
        Wrong.ahead_s = 0.0
        with trio.fail_after(10):
            while "clock" in (await anna.node("a1")).trouble:
                await trio.sleep(0.05)
    said = [one.getMessage() for one in caplog.records if "its clock" in one.getMessage()]
    assert len(said) == 2, said


def test_what_is_wrong_is_said_once_and_that_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    troubles = Troubles(logging.getLogger("test"))
    for ahead_s in (None, 0.0, CLOCK_S - 1, -CLOCK_S, -CLOCK_S - 1, 7200.0, 7300.0, 0.0, 0.0):
        troubles.look_at_clock(ahead_s)
    assert [one.getMessage().split(":")[0] for one in caplog.records] == [
        "its clock is 5 minutes behind the tracker's", "its clock is 2 hours ahead of the tracker's", "no more",
    ]  # fmt: skip
    assert troubles.told() == ""


async def test_with_all_peers_of_its_isp_gone_a_cache_goes_to_the_next_ones(tmp_path: Path) -> None:
    manifest, origin = chunks(tmp_path)

    def config(name: str, isp: str) -> NodeConfig:
        return unhurried(NodeConfig(id=name, isp=isp, data=str(tmp_path / name)))

    with trio.fail_after(60):
        async with open_node(config("c1", "isp-c")) as far, open_node(config("a1", "isp-a")) as a1:
            await far.fill(manifest, [origin])
            async with open_node(config("b1", "isp-a")) as b1:
                await b1.fill(manifest, [origin])
                a1.limits.put("test", RateLimits(Rates(total=200_000)))
                members = [a1.info, b1.info]
                filling = await a1.start_fill(manifest, members=members, holders=[b1.info, far.info])
                a1.want_links([b1.info, far.info])
                await until(lambda: filling.report().bytes_peer > 0)
            a1.limits.put("test", RateLimits())
            await filling.wait()
            report = filling.report()
            assert has(a1)
            assert report.bytes_peer > 0
            assert report.bytes_regional > 0, "the rest comes from the nearest that have it"
            assert report.bytes_origin == 0


def test_a_clock_is_thought_of_where_a_certificate_is_out_of_its_time() -> None:
    error = ssl.SSLCertVerificationError()
    for code, asks in ((9, True), (10, True), (20, False)):
        error.verify_code, error.verify_message = code, "why"
        assert ("clock" in reason_of(error)) is asks
