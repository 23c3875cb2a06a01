"""A caller that calls without end is told when to come again, and keeps nobody else from anything."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from certificates import user
from hypothesis import given
from hypothesis import strategies as st
from tracker.test_floods import HEALTH, ask, connect
from trusted import Fleet

from p2pfill.tracker import admission as admission_module
from p2pfill.tracker import call_rates
from p2pfill.tracker import client as client_module
from p2pfill.tracker.call_rates import NAMED, UNNAMED, CallRates, Rate
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.server import serve_tracker


@pytest.fixture
async def url(tmp_path: Path, nursery: trio.Nursery) -> str:
    serve = partial(serve_tracker, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db", heartbeat_s=0.2)
    return str(await nursery.start(serve))


async def test_an_address_that_calls_without_end_is_refused_and_others_are_not(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_rates, "UNNAMED", Rate(0.5, 20.0))
    answers = [await ask(url, HEALTH, "127.0.0.2") for _ in range(25)]
    assert sum("200 " in answer for answer in answers) == 20
    assert "429" in answers[-1]
    assert "too many calls a second of one caller; try again later" in answers[-1]
    assert "retry-after: 2" in answers[-1].lower()
    async with TrackerClient(url) as client:
        assert (await client.status()).refused["too many calls a second of one caller"] == 5


async def test_with_certificates_each_caller_has_its_own_share(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_rates, "NAMED", Rate(0.001, 10.0))
    monkeypatch.setattr(client_module, "REPEATS_MAX", 0)
    fleet = Fleet(tmp_path, nursery)
    await fleet.start()
    async with fleet.client(user("eve")) as eve, fleet.client(user("anna")) as anna:
        for _ in range(10):
            with pytest.raises(TrackerRefused, match="may not read"):
                await eve.status()
        with pytest.raises(TrackerRefused, match="too many calls") as refused:
            await eve.status()
        assert refused.value.status == 429
        assert (await anna.health()).status == "ok"


async def test_the_client_waits_for_as_long_as_it_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_rates, "UNNAMED", Rate(2.0, 2.0))
    began = trio.current_time()
    async with TrackerClient(url) as client:
        for _ in range(4):
            await client.health()
    assert trio.current_time() - began > 0.9
    monkeypatch.setattr(call_rates, "UNNAMED", Rate(0.001, 0.0))
    monkeypatch.setattr(client_module, "AGAIN_MAX_S", 0.1)
    began = trio.current_time()
    async with TrackerClient(url) as client:
        with pytest.raises(TrackerRefused, match="too many calls"):
            await client.health()
        assert 0.3 < trio.current_time() - began < 3, "a tracker does not make it wait for ever"


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0.0, 100.0), st.booleans()), max_size=200))
def test_nobody_has_more_than_a_share_and_all_of_it_comes_back(calls: list[tuple[str, float, bool]]) -> None:
    rates, now, made = CallRates(), 0.0, {"a": 0, "b": 0}
    for caller, later, is_named in calls:
        now += later
        if not rates.wait_s(caller, now, is_named=is_named):
            made[caller] += 1
        most = max(NAMED.burst, UNNAMED.burst) + max(NAMED.calls_s, UNNAMED.calls_s) * now
        assert made[caller] <= most
    assert rates.wait_s("a", now + NAMED.burst / NAMED.calls_s, is_named=True) == 0


def test_a_share_is_so_many_at_once_and_so_many_a_second() -> None:
    for is_named, rate in ((True, NAMED), (False, UNNAMED)):
        rates = CallRates()
        taken = [rates.wait_s("a", 0.0, is_named=is_named) for _ in range(int(rate.burst) + 100)]
        assert taken.count(0.0) == rate.burst
        assert max(taken) <= 1 / rate.calls_s
        assert [rates.wait_s("a", 1.0, is_named=is_named) for _ in range(int(rate.calls_s) + 9)].count(0.0) == (
            rate.calls_s
        )
        assert rates.wait_s("b", 1.0, is_named=is_named) == 0


def test_callers_that_are_counted_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call_rates, "CALLERS_MAX", 3)
    rates = CallRates()
    for number in range(100):
        rates.wait_s(f"192.0.2.{number}", 0.0, is_named=False)
    assert len(rates._buckets) == 3


async def test_a_long_poll_whose_caller_has_gone_counts_no_more(url: str, make: Any) -> None:
    async with TrackerClient(url) as client:
        await client.heartbeat(make.report(make.info("n1")))
        version = (await client.orders("n1")).version
        poll = b"GET /v1/nodes/n1/orders?after=%d&wait_s=20 HTTP/1.1\r\nHost: x\r\n\r\n" % version
        for _ in range(5 * admission_module.POLLS_OF_NODE_MAX):
            async with await connect(url) as stream:
                await stream.send_all(poll)
                await trio.sleep(0.02)
        await trio.sleep(0.1)
        assert not [why for why in (await client.status()).refused if "poll" in why]
        with trio.move_on_after(0.2) as waits:
            await client.orders("n1", after=version, wait_s=20)
        assert waits.cancelled_caught


async def test_what_a_long_poll_raises_comes_as_itself(url: str, make: Any) -> None:
    async with TrackerClient(url) as client, trio.open_nursery() as nursery:
        await client.heartbeat(make.report(make.info("n1")))
        version = (await client.orders("n1")).version
        said: list[TrackerRefused] = []

        async def poll() -> None:
            with pytest.raises(TrackerRefused) as refused:
                await client.orders("n1", after=version, wait_s=20)
            said.append(refused.value)

        nursery.start_soon(poll)
        while True:
            await trio.sleep(0.2)
            try:
                await client.delete_node("n1")
            except TrackerRefused:
                continue
            break
        while not said:
            await trio.sleep(0.01)
        assert said[0].status == 404
        assert "was removed" in str(said[0])
