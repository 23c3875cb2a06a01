"""Seeds of mixed faults: nothing that must hold is ever broken, and everything completes once faults heal."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from sim.worlds import CHAOS, world

from p2pfill.cli.sim import repeat_command
from p2pfill.errors import ConfigError
from p2pfill.model.timing import SILENCE_TIMEOUT_S
from p2pfill.sim.faults import KINDS, draw
from p2pfill.sim.scenario import FaultSpec, Fleet, Scenario
from p2pfill.sim.trace import Trace
from p2pfill.sim.world import World

SCENARIO = Scenario.load(CHAOS)
SEEDS = 200
SEEDS_A_TEST = 25
ONCE_FAILED = [int(line.split("#")[0]) for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
               if line.split("#")[0].strip()]  # fmt: skip


def pass_seed(seed: int) -> None:
    try:
        World(SCENARIO, seed).run()
    except Exception as error:
        raise AssertionError(f"{error}; repeat it with: {repeat_command(CHAOS, seed)}") from error


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_seeds(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        pass_seed(seed)


@pytest.mark.parametrize("seed", ONCE_FAILED)
def test_seeds_that_once_failed(seed: int) -> None:
    pass_seed(seed)


@pytest.mark.parametrize("seed", range(4))
def test_seeds_with_bounded_neighbourhoods(seed: int) -> None:
    """Tier order is checked against the rosters that caches are told, stand-ins and all."""
    scenario = msgspec.structs.replace(
        SCENARIO,
        isps={"cloud": ["origin"]},
        fleet=Fleet(caches=24, isps=4, regions=2),
        neighbours=4,
    )
    World(scenario, seed).run()


def test_the_seeds_draw_every_kind_of_fault() -> None:
    from random import Random

    drawn = {spec.kind for seed in range(SEEDS) for spec in draw(SCENARIO, Random(f"faults {seed}"))}
    assert drawn == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_fault_is_overcome(kind: str) -> None:
    built = world(faults=(FaultSpec(kind=kind, at_s=0.15, for_s=4.0, node="a1"),), wire=True)
    report = built.run()
    assert report.faults == 1
    assert report.complete >= 5
    assert built.schedule.now >= 4.0


def test_a_restart_fetches_nothing_twice_that_was_durable() -> None:
    built = world(faults=(FaultSpec(kind="crash", at_s=0.6, for_s=0.5, node="a1"),))
    durable: list[int] = []
    crash = type(built.caches["a1"]).crash

    def look(*, seen: bool) -> None:
        crash(built.caches["a1"], seen=seen)
        durable.extend(next(iter(built.caches["a1"].stored.values())).durable.indexes())

    built.caches["a1"].crash = look  # type: ignore[method-assign]
    report = built.run()
    assert durable
    assert report.complete == 6
    length = built.manifest.chunk_size
    fetched = sum(report.bytes_by_scope.values()) - 5 * report.title_bytes
    assert fetched <= (built.manifest.chunk_count + 16 - len(durable)) * length


def test_faults_of_a_scenario_are_checked() -> None:
    with pytest.raises(ConfigError, match="no fault of kind"):
        world(faults=(FaultSpec(kind="meteor"),))
    with pytest.raises(ConfigError, match="no cache and no ISP"):
        world(faults=(FaultSpec(kind="crash", node="z9"),))


def test_a_process_that_is_frozen_does_nothing_and_is_found_silent() -> None:
    trace = Trace(keep=True)
    built = world(trace=trace, size_mib=16, faults=(FaultSpec(kind="freeze", at_s=0.4, for_s=40.0, node="a1"),))
    report = built.run()
    trace.digest()
    lines = [(float(at_s), who, what) for at_s, who, what in (line.split(" ", 2) for line in trace.lines)]
    assert report.complete == 6
    assert not [line for line in lines if line[1] == "a1" and 0.4 < line[0] < 40.4]
    lost = [at_s for at_s, _, what in lines if what == "lost a1" and at_s < 40.4]
    assert len(lost) == 5
    assert lost == pytest.approx([0.4 + SILENCE_TIMEOUT_S] * 5, abs=0.1)
    assert report.completions["a1"] > 40.4
    assert max(at_s for name, at_s in report.completions.items() if name != "a1") < 20
