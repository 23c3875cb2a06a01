"""What the fleet's policy says of a cache: told by the tracker, kept on disk, and in force without a tracker."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pfill.errors import StoreError
from p2pfill.model.fleet_policy import NO_SETTINGS, CacheSettings
from p2pfill.model.rates import NO_LIMITS, RateLimits, Rates
from p2pfill.node import NodeConfig, open_node
from p2pfill.node.settings import FILE_BYTES_MAX, SETTINGS, PolicySettings
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import PolicyRequest
from p2pfill.tracker.server import serve_tracker

RATES = '[[caches]]\nname = "slow"\nrates = "{}M"\nwindows = "02:00,1.2G 08:00,off"\n'
LOG = logging.getLogger("test")
LIMIT = RateLimits(Rates(total=1 << 20), Rates(total=2 << 20))
SLOW = CacheSettings("slow", None, RateLimits(Rates(total=3)))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await trio.sleep(0.02)


async def test_settings_come_from_the_tracker_and_hold_without_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            with_tracker = NodeConfig(id="a1", isp="isp-a", data=config.data, tracker=url)
            async with open_node(with_tracker) as node, TrackerClient(url) as client:
                told: list[CacheSettings] = []
                follow = node.settings._apply
                node.settings.on_change(lambda settings: (told.append(settings), follow(settings)))
                assert told == [NO_SETTINGS]
                for rate in (3, 4):
                    began = trio.current_time()
                    await client.apply_policy(PolicyRequest(RATES.format(rate)))
                    await until(lambda rate=rate: told[-1].rates.inbound.total == rate << 20)  # type: ignore[misc]
                    assert trio.current_time() < began + 5, "within seconds"
                await until(lambda: node.settings.digest != "")
                assert "goes by rule 'slow' of the policy; limits now in force: in: total 4 MiB/s" in caplog.text
                assert told[-1].windows is not None
                assert node.hours.windows == told[-1].windows
                assert node.rates.inbound.total == 4 << 20
            nursery.cancel_scope.cancel()
        async with open_node(config) as node:
            assert node.settings.settings == told[-1]
            assert node.settings.digest
            assert node.hours.windows == told[-1].windows


async def test_a_limit_of_the_tracker_holds_from_the_start_while_it_is_away(tmp_path: Path) -> None:
    """Else a cache that starts again sends as fast as it can until the tracker is back."""
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tracker, heartbeat_s=0.1)
            url = await nursery.start(serve, "127.0.0.1:0", f"sqlite:///{tmp_path}/t.db")
            config = NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"), tracker=url)
            async with open_node(config) as node, TrackerClient(url) as client:
                await client.set_limit("isp=isp-a", LIMIT)
                stored = tmp_path / "a1" / SETTINGS
                await until(lambda: stored.exists() and b"limits" in stored.read_bytes())
                assert node.settings.limits == LIMIT
            nursery.cancel_scope.cancel()
        async with open_node(config) as node:
            assert node.rates == LIMIT
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=config.data)) as node:
            assert node.rates == NO_LIMITS, "nobody could ever clear it"


async def test_limits_that_are_cleared_are_so_after_a_restart(tmp_path: Path) -> None:
    for limits in (LIMIT, NO_LIMITS):
        settings = PolicySettings(tmp_path, LOG)
        await settings.take(SLOW, "d")
        await settings.take_limits(limits)
        again = PolicySettings(tmp_path, LOG)
        await again.load()
        assert (again.limits, again.settings, again.digest) == (limits, SLOW, "d")
        await settings.take_limits(LIMIT)


async def test_what_cannot_be_read_is_asked_for_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for damaged in (b"", b"{", b"\xff", os.urandom(100), b'{"digest": 1}', b"[" * FILE_BYTES_MAX * 2):
        (tmp_path / SETTINGS).write_bytes(damaged)
        settings = PolicySettings(tmp_path, LOG)
        await settings.load()
        assert (settings.settings, settings.digest) == (NO_SETTINGS, "")
    assert "cannot be read" in caplog.text


async def test_what_cannot_be_stored_holds_all_the_same_and_is_told_again(tmp_path: Path) -> None:
    settings = PolicySettings(tmp_path / "gone", LOG)
    await settings.load()
    with pytest.raises(StoreError, match="cannot write"):
        await settings.take(SLOW, "d")
    assert (settings.settings, settings.digest) == (SLOW, "")
    (tmp_path / "gone").mkdir()
    await settings.take(SLOW, "d")
    again = PolicySettings(tmp_path / "gone", LOG)
    await again.load()
    assert (again.settings, again.digest) == (SLOW, "d")
