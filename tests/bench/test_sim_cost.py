"""The benchmark of what a chunk costs in the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import sim_cost

ROOT = Path(__file__).parents[2]


def test_two_versions_that_do_the_same_are_told_from_two_that_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--caches", "4", "--chunks", "3", "--runs", "1", "--beside", str(ROOT)]
    assert sim_cost.main(small) == 0
    assert "12 chunks" in capsys.readouterr().out

    digests = iter(["one", "another"])
    measured = sim_cost.measure

    def measure(*arguments: object) -> sim_cost.Cost:
        cost = measured(*arguments)  # type: ignore[arg-type]
        cost.digest = next(digests)
        return cost

    monkeypatch.setattr(sim_cost, "measure", measure)
    monkeypatch.setattr(sim_cost, "ROOT", ROOT / "bench" / "..")
    assert sim_cost.main(small) == 1


def test_a_run_gives_its_figures() -> None:
    cost = sim_cost.run(sim_cost.scenario_of("fleet-20000", 4, 3))
    assert cost.chunks == 12
    assert cost.deeds > cost.chunks
    assert cost.seconds > 0
    assert cost.each_us == pytest.approx(cost.seconds / 12 * 1e6)
