"""Sharing of bandwidth: fair, and never more than there is."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pfill.sim.flows import EPSILON_BYTES, ExactNetwork, Flow, LocalNetwork, Network, Pipe
from p2pfill.sim.schedule import Schedule

MODELS = [ExactNetwork, LocalNetwork]
Plan = tuple[list[float], list[tuple[list[int], float, float]]]
WEIGHTS = st.lists(st.floats(0.1, 10.0), min_size=14, max_size=14)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Rates of pipes; and flows, each with its pipes, its size and when it begins."""
    rates = draw(st.lists(st.floats(1.0, 1000.0), min_size=1, max_size=6))
    pipes = st.lists(st.integers(0, len(rates) - 1), min_size=1, max_size=3, unique=True)
    flows = draw(st.lists(st.tuples(pipes, st.floats(1.0, 5000.0), st.floats(0.0, 5.0)), min_size=1, max_size=14))
    return rates, flows


class Setup:
    def __init__(self, model: type[Network], plan: Plan, weights: list[float] | None = None) -> None:
        self.weights = weights or [1.0] * len(plan[1])
        self.schedule = Schedule()
        self.network = model(self.schedule)
        self.pipes = [Pipe(f"p{number}", rate) for number, rate in enumerate(plan[0])]
        self.flows: list[Flow] = []
        self.ended: list[tuple[float, int]] = []
        for number, (places, size, at) in enumerate(plan[1]):
            self.schedule.at(at, self.start, number, places, size)

    def start(self, number: int, places: list[int], size: float) -> None:
        pipes = tuple(self.pipes[place] for place in places)
        self.flows.append(self.network.start(pipes, size, self.end, number, weight=self.weights[number]))

    def end(self, number: int) -> None:
        self.ended.append((self.schedule.now, number))

    def advance(self, until: float) -> None:
        self.schedule.run(until, lambda: False)


@pytest.mark.parametrize("model", MODELS)
@given(plan=plans(), until=st.floats(0.0, 8.0))
@settings(deadline=None)
def test_no_pipe_carries_more_than_it_can(model: type[Network], plan: Plan, until: float) -> None:
    setup = Setup(model, plan)
    setup.advance(until)
    for pipe in setup.pipes:
        carried = sum(flow.rate for flow in pipe.flows.values())
        assert carried <= pipe.rate * (1 + 1e-6)
        assert carried == pytest.approx(pipe.used, rel=1e-6, abs=1e-6 * pipe.rate)


@given(plan=plans(), weights=st.none() | WEIGHTS, until=st.floats(0.0, 8.0))
@settings(deadline=None)
def test_exact_sharing_is_max_min_fair(plan: Plan, weights: list[float] | None, until: float) -> None:
    """A flow is held back by a full pipe in which nobody gets more for its weight (Bertsekas and Gallager, 6.5.2)."""
    setup = Setup(ExactNetwork, plan, weights)
    setup.advance(until)
    for flow in setup.flows:
        if flow.done is None:
            continue
        full = [pipe for pipe in flow.pipes if pipe.used >= pipe.rate * (1 - 1e-6)]
        most = [max(other.rate / other.weight for other in pipe.flows.values()) for pipe in full]
        assert any(flow.rate / flow.weight >= rate * (1 - 1e-6) for rate in most)
        for pipe in flow.pipes:
            assert sum(other.rate for other in pipe.flows.values()) <= pipe.rate * (1 + 1e-6)


@pytest.mark.parametrize("model", MODELS)
@given(plan=plans())
@settings(deadline=None)
def test_every_byte_arrives_and_not_before_it_can(model: type[Network], plan: Plan) -> None:
    setup = Setup(model, plan)
    setup.advance(1e9)
    assert sorted(number for _, number in setup.ended) == list(range(len(plan[1])))
    for at, number in setup.ended:
        places, size, began = plan[1][number]
        assert at >= began + (size - EPSILON_BYTES) / min(plan[0][place] for place in places) * (1 - 1e-6)
    for place, rate in enumerate(plan[0]):
        through = [(began, size) for places, size, began in plan[1] if place in places]
        ends = [at for at, number in setup.ended if place in plan[1][number][0]]
        if through:
            # Conservation: what has gone through cannot be more than rate times time, but for what counts as nothing.
            took_s = max(ends) - min(b for b, _ in through)
            assert sum(size - EPSILON_BYTES for _, size in through) <= rate * took_s * (1 + 1e-6)
    assert all(not pipe.flows for pipe in setup.pipes)


@pytest.mark.parametrize("model", MODELS)
def test_equal_flows_share_equally(model: type[Network]) -> None:
    setup = Setup(model, ([100.0], [([0], 100.0, 0.0)] * 4))
    setup.advance(0.1)
    assert [flow.rate for flow in setup.flows] == [25.0] * 4
    setup.advance(10.0)
    assert [at for at, _ in setup.ended] == pytest.approx([4.0] * 4)


@pytest.mark.parametrize("model", MODELS)
def test_what_one_flow_cannot_use_goes_to_the_others(model: type[Network]) -> None:
    setup = Setup(model, ([100.0, 10.0], [([0, 1], 1000.0, 0.0), ([0], 1000.0, 0.0)]))
    setup.advance(1.0)
    assert [flow.rate for flow in setup.flows] == pytest.approx([10.0, 90.0])


@pytest.mark.parametrize("model", MODELS)
def test_a_flow_can_be_paused_and_stopped(model: type[Network]) -> None:
    setup = Setup(model, ([100.0], [([0], 100.0, 0.0), ([0], 1000.0, 0.0)]))
    setup.advance(1.0)
    first, second = setup.flows
    setup.network.pause(first)
    assert first.is_paused
    setup.advance(2.0)
    assert second.rate == 100.0
    assert setup.network.moved_bytes(first) == pytest.approx(50.0)
    setup.network.resume(first)
    setup.advance(3.5)
    assert pytest.approx(setup.ended[0]) == (3.0, 0)
    assert setup.network.stop(second) == pytest.approx(50 + 100 + 50 + 50)
    setup.advance(100.0)
    assert len(setup.ended) == 1


@pytest.mark.parametrize("model", MODELS)
def test_a_pipe_can_become_slower(model: type[Network]) -> None:
    setup = Setup(model, ([100.0], [([0], 200.0, 0.0)]))
    setup.advance(1.0)
    setup.network.set_rate(setup.pipes[0], 10.0)
    setup.advance(100.0)
    assert setup.ended[0][0] == pytest.approx(11.0)
