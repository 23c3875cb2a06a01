"""Whose a node's name is: a forged heartbeat takes it from nobody for longer than until his own next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tracker.services import service_on

from p2pfill.tracker import names
from p2pfill.tracker.callers import Caller
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.names import Tenancy

HOME, OTHER = Caller("192.0.2.1"), Caller("198.51.100.9")
LEASE_S = 6.0


class World:
    """One name, and a clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sequences: dict[str, int] = {"node": 1}
        self.tenancy = Tenancy("node", HOME, self.now, 1)

    def beat(self, boot: str, caller: Caller = HOME, *, after_s: float = 2.0) -> bool:
        self.now += after_s
        self.sequences[boot] = self.sequences.get(boot, 0) + 1
        return self.tenancy.claim(caller, boot, self.sequences[boot], self.now, LEASE_S)


def test_a_stranger_elsewhere_is_refused_while_the_node_reports() -> None:
    world = World()
    for number in range(9):
        assert not world.beat(f"forged-{number}", OTHER)
        assert world.beat("node")


def test_a_stranger_at_the_same_address_has_the_name_until_the_next_heartbeat() -> None:
    world = World()
    assert world.beat("forged")
    assert world.beat("node")
    for number in range(9):
        assert not world.beat("forged")
        assert not world.beat(f"forged-{number}"), "a restart is not believed for a while"
        assert world.beat("node")


def test_a_restart_is_taken_at_once_at_the_same_address_and_elsewhere_after_a_lease() -> None:
    world = World()
    assert world.beat("second", after_s=0.5)
    assert world.beat("second")
    assert not world.beat("third", OTHER)
    assert world.beat("third", OTHER, after_s=LEASE_S)
    assert world.beat("third", OTHER)


def test_the_last_heartbeat_of_before_a_restart_that_comes_late_is_made_good_after_a_lease() -> None:
    world = World()
    assert world.beat("second")
    assert world.beat("node", after_s=0.1), "nobody can tell it from one that lives"
    assert not world.beat("second")
    assert world.beat("second", after_s=LEASE_S)
    assert not world.tenancy.claim(HOME, "node", world.sequences["node"], world.now, LEASE_S), "it counts no further"


def test_a_node_that_comes_back_to_its_home_has_its_name_again() -> None:
    world = World()
    for boot in ("node", "started anew"):  # it was cut off, or has died
        assert world.beat("forged", OTHER, after_s=LEASE_S + 1)
        assert world.beat("forged", OTHER)
        assert world.beat(boot)
        assert not world.beat("forged", OTHER)
        assert not world.beat("forged again", OTHER)


def test_a_node_that_was_moved_has_a_new_home_after_a_while() -> None:
    world = World()
    assert world.beat("node", OTHER), "its own process, wherever from"
    assert world.beat("old machine")
    assert world.beat("node", OTHER, after_s=LEASE_S + 1)
    for _ in range(1 + int(names.HOME_S / 5)):
        assert world.beat("node", OTHER, after_s=5.0)
    assert not world.beat("old machine")
    assert world.beat("started anew", OTHER)


@given(st.lists(st.tuples(st.sampled_from(["node", "a", "b", "c"]), st.sampled_from([HOME, OTHER]), st.floats(0, 5))))
def test_whoever_has_the_name_and_goes_on_has_it_or_it_is_contested_from_home(
    steps: list[tuple[str, Caller, float]],
) -> None:
    world, honest = World(), 100.0
    for boot, caller, after_s in steps:
        if boot == "node":
            caller = HOME
        taken = world.beat(boot, caller, after_s=after_s)
        if boot == "node":
            # Silent for less than a lease, the oldest process is always taken.
            assert taken or world.now - honest > LEASE_S
            honest = world.now if taken else honest
    assert len(world.tenancy._before) <= names.REMEMBERED


async def test_a_forged_heartbeat_does_not_lock_a_node_out(client: TrackerClient, make: Any) -> None:
    for sequence in (1, 2):
        await client.heartbeat(make.report(make.info("n1"), sequence))
    forged = make.info("n1", isp="forged")
    await client.heartbeat(make.report(forged, 1 << 50, boot="forged"))
    reply = await client.heartbeat(make.report(make.info("n1"), 3))
    assert (await client.node("n1")).info.isp == "isp-a"
    assert not reply.again


async def test_after_a_restart_of_the_tracker_the_process_that_had_the_name_has_it(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "t.db") as service:
        service.handle_heartbeat("n1", make.report(make.info("n1"), 7), HOME)
        await service.flush()
    async with service_on(tmp_path / "t.db") as service:
        with pytest.raises(RequestRefused, match="another process"):
            service.handle_heartbeat("n1", make.report(make.info("n1"), 1, boot="forged"), OTHER)
        service.handle_heartbeat("n1", make.report(make.info("n1"), 8), HOME)
        with pytest.raises(RequestRefused, match="another process") as refused:
            service.handle_heartbeat("n1", make.report(make.info("n1"), 2, boot="forged"), OTHER)
        assert refused.value.status == 409
        service.handle_heartbeat("n1", make.report(make.info("n1"), 1, boot="restarted"), HOME)
