"""Whoever can finish finishes, within twice the time without the fault and the waits of the policy."""

from __future__ import annotations

from math import inf

import msgspec
import pytest
from sim.worlds import SMALL, world

from p2pfill.sim.checkers import InvariantBroken
from p2pfill.sim.faults import DRIP_BYTES_S
from p2pfill.sim.liveness import check_liveness
from p2pfill.sim.scenario import FaultSpec, Scenario
from p2pfill.sim.world import World
from p2pfill.swarm.sources import LEAST_RATE_BYTES_S

CHUNKS = (1, 2, 3, 5, 8, 13, 24, 40, 64)
BEGINS = (None, 0.7, 0.9, 1.0)
"""From the start; at 70 % and 90 % of the cache; at its last chunk."""


def small(chunk_count: int, faults: tuple[FaultSpec, ...], **isps: list[str]) -> Scenario:
    return Scenario(
        isps={"cloud": ["origin"], **isps},
        host_mbit=20,
        size_mib=chunk_count / 4,
        chunk_kib=256,
        delay_ms=2,
        faults=faults,
        limit_s=300,
        wire=True,
    )


def caches(count: int, letter: str = "a") -> list[str]:
    return [f"{letter}{number}" for number in range(1, count + 1)]


@pytest.mark.parametrize("begins", BEGINS)
@pytest.mark.parametrize("count", [2, 3, 4, 5])
@pytest.mark.parametrize("kind", ["origin-refused", "origin-lost"])
def test_one_cache_of_an_isp_without_a_way_to_the_origin(kind: str, count: int, begins: float | None) -> None:
    """Whether it is refused, and can say so, or hears nothing; with one chunk for all, or a part for each."""
    for chunk_count in CHUNKS:
        # Each place in an election has its turn.
        victim = caches(count)[chunk_count % count]
        fault = FaultSpec(kind=kind, node=victim, at_part=begins, for_s=inf)
        outcome = check_liveness(small(chunk_count, (fault,), isp=caches(count)), seed=chunk_count)
        assert outcome.faulty.complete == count
        assert outcome.faulty.origin_copies <= 1 + 2 / chunk_count


@pytest.mark.parametrize("begins", [None, 0.7, 1.0])
@pytest.mark.parametrize("kind", ["origin-refused", "origin-lost"])
@pytest.mark.parametrize("victim", ["a1", "b2", "h1"])
def test_it_may_stand_alone_in_its_isp_or_serve_another_region(kind: str, victim: str, begins: float | None) -> None:
    for chunk_count in (1, 3, 8, 24):
        fault = FaultSpec(kind=kind, node=victim, at_part=begins, for_s=inf)
        scenario = small(chunk_count, (fault,), a=caches(3), b=caches(2, "b"), hub=["h1"])
        scenario = msgspec.structs.replace(scenario, regions={"a": "east", "b": "west", "hub": "west"})
        assert check_liveness(scenario, seed=chunk_count).faulty.complete == 6


def test_who_says_so_is_not_elected_and_takes_part_again_when_its_way_is_open() -> None:
    fault = FaultSpec(kind="origin-refused", node="a1", at_s=0.1, for_s=2.0)
    built = world(size_mib=64, faults=(fault,))
    report = built.run()
    assert report.complete == 6
    assert report.escalations["master-no-route"] > 0
    assert report.origin_copies <= 1.05
    assert all(not cache.filling.fill.ways.closed for cache in built.caches.values() if cache.filling)


@pytest.mark.parametrize("chunk_count", [1, 3, 8, 24])
@pytest.mark.parametrize("liar", ["a2", "b1"])
def test_claims_without_fetching_hold_others_up_once(liar: str, chunk_count: int) -> None:
    """For as long as a chunk may take at the least rate, also in another region, however often they are repeated.

    Twice as long where somebody else has fetched the chunk before, and said so.
    """
    fault = FaultSpec(kind="lie-claim", node=liar, for_s=inf)
    scenario = small(chunk_count, (fault,), a=caches(3), b=caches(2, "b"))
    scenario = msgspec.structs.replace(scenario, regions={"a": "east", "b": "west"})
    built = World(scenario, seed=1)
    built.cache_is_lost(built.caches[liar])
    clean = World(msgspec.structs.replace(scenario, faults=()), seed=1).run()
    report = built.run()
    claim_s = scenario.policy.stall_wait_s + 256 * 1024 / LEAST_RATE_BYTES_S
    assert report.complete == 4
    claimed_before = 2 if liar == "b1" else 1
    assert report.seconds <= 2 * clean.seconds + claimed_before * claim_s + 2 * scenario.policy.stall_wait_s


def test_a_source_that_drips_does_not_last_beside_an_idle_origin() -> None:
    """It holds the whole title; at its rate the fill would take 512 s."""
    scenario = small(64, (FaultSpec(kind="drip", node="a1", at_s=3.1, for_s=inf),), a=caches(2))
    clean = World(scenario, seed=1)
    clean.caches["a2"].running = False
    clean.schedule.at(3.0, clean.caches["a2"].boot)
    clean.schedule.at(3.2, clean.tracker.cache_booted, clean.caches["a2"])
    report = clean.run()
    assert report.complete == 2
    assert 256 * 1024 * 64 / DRIP_BYTES_S > 500
    assert report.seconds < 3.2 + 40


def test_an_origin_that_is_the_only_source_gets_its_chunk_across_however_slow() -> None:
    """13 kB/s: 81 s for the only chunk, with nobody but one cache and with several that wait for it."""
    for count in (1, 4):
        scenario = Scenario(
            isps={"cloud": ["origin"], "a": caches(count)}, host_mbit=20, size_mib=1, chunk_kib=1024,
            rates={"origin": 0.109},
        )  # fmt: skip
        report = World(scenario, seed=1).run()
        assert report.complete == count
        assert report.seconds < 81 * 4
        assert report.origin_copies < 3


def test_a_slow_origin_is_read_once_while_all_have_something_to_fetch() -> None:
    report = world(rates={"origin": 2.0}, size_mib=8, chunk_kib=1024).run()
    assert report.origin_copies == pytest.approx(1.0)
    assert not report.escalations


def test_a_cache_that_flaps_holds_nobody_up() -> None:
    fault = FaultSpec(kind="flap", node="a2", for_s=600.0)
    scenario = msgspec.structs.replace(SMALL, size_mib=16, faults=(fault,))
    clean = World(msgspec.structs.replace(scenario, faults=()), seed=1).run()
    built = World(scenario, seed=1)
    report = built.run()
    others = [at_s for name, at_s in report.completions.items() if name != "a2"]
    assert max(others) <= 2 * clean.seconds + scenario.policy.stall_wait_s


def test_a_fill_that_takes_too_long_is_found() -> None:
    fault = FaultSpec(kind="slow", node="a1", factor=0.1, for_s=inf)
    with pytest.raises(InvariantBroken, match="complete after"):
        check_liveness(small(24, (fault,), a=caches(3)), seed=1)
