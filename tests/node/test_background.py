"""Background mode of a real node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from p2pfill.errors import ConfigError
from p2pfill.model.manifest import Manifest
from p2pfill.model.rates import NO_LIMITS
from p2pfill.node import NodeConfig, background, open_node
from p2pfill.node.health import HealthConfig
from p2pfill.store.publish import publish

LINK = 12_500_000_000
"""Bytes a second: what other tests move on the loopback network is little of it."""


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.bin").write_bytes(os.urandom(4 * 1024 * 1024))
    return publish(tmp_path / "src", name="film", chunk_size=1024 * 1024).manifest


async def test_fill_keeps_to_what_the_link_has_left(tmp_path: Path, manifest: Manifest) -> None:
    link = HealthConfig(interface="lo", link="100Gbit")
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), background=True, health=link)
    with trio.fail_after(60):
        async with open_node(config) as node:
            while node.rates == NO_LIMITS:
                await trio.sleep(0.01)
            assert node.rates.inbound.total <= 0.02 * LINK, "it begins with little"
            first = node.rates
            while node.rates.inbound.total <= first.inbound.total:
                await trio.sleep(0.05)
            assert (await node.fill(manifest, [str(tmp_path / "src")])).state == "live"
            assert node.rates.inbound.total <= 0.9 * LINK


async def test_a_link_that_nobody_knows_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    config = NodeConfig(
        id="a1", isp="a", data=str(tmp_path / "a1"), background=True, health=HealthConfig(interface="lo")
    )
    with trio.fail_after(60), pytest.raises(ConfigError, match="set link and"):
        async with open_node(config):
            await trio.sleep_forever()


def test_a_process_of_its_own_runs_at_the_lowest_priority() -> None:
    code = "import os; from p2pfill.node.background import yield_processors as y; y(); print(os.nice(0))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(background.NICENESS)


async def test_an_interface_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    """Nothing of it could ever be measured, and the fill would keep to its first rate for good."""
    link = HealthConfig(interface="no such one", link="1Gbit")
    config = NodeConfig(id="a1", isp="a", data=str(tmp_path / "a1"), background=True, health=link)
    with trio.fail_after(20), pytest.raises(ConfigError, match="no interface 'no such one'"):
        async with open_node(config):
            await trio.sleep_forever()
