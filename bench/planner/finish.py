"""When the planner says that a night's fill is over, beside when fills of the lab were.

    python -m bench.planner.finish [--lab docs/reports/swarm] [--seeds 5] [--out DIR] [--json]

Reads the lab's reports (`make bench-swarm`), takes each topology in which nothing happens as a night of one title, and
has the planner say before when that cannot be over (`plan.feasibility`) and when the simulator thinks that it is
(`cli.planned_night`). Left out are several titles, and hosts that are slower than they say, fail or join: nobody plans
for these. Exit code 1 where a prediction is off by more than `OFF_MAX`, or a fill was over before its bound.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from math import inf
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from bench.swarm.records import Report
from bench.swarm.report import read_reports, table_in_markdown
from bench.swarm.summary import figures
from bench.swarm.topology import Topology
from p2pfill.cli.planned_night import predict
from p2pfill.plan.feasibility.feasibility import check
from p2pfill.plan.feasibility.needs import Needs, demand_of, needs_of
from p2pfill.plan.feasibility.network import Network, Night, Origin, Span
from p2pfill.plan.tables import Caches, Placement

LAB: Final = Path(__file__).parents[2] / "docs" / "reports" / "swarm"
CONTENDER: Final = "p2pfill"

OFF_MAX: Final = 0.1

START: Final = 1_795_996_800.0
"""2026-11-30T00:00:00 in UTC. Caches are open from then on."""

LONG_S: Final = 86_400.0


class Finish(msgspec.Struct, frozen=True):
    """One topology: seconds from the order to the last cache, medians of runs and of seeds."""

    topology: str
    title: str
    lab: float
    bound: float
    """By the planner's proof: no fill is over before."""
    predicted: float

    @property
    def off(self) -> float:
        """By what part of the lab's figure the prediction is larger."""
        return self.predicted / self.lab - 1


def rate(mbit: float, goodput: float) -> float:
    """Return what a link of the lab carries, in bytes of payload a second; 0 Mbit/s: no limit."""
    return mbit * 1e6 / 8 * goodput if mbit else inf


def night_of(topology: Topology, goodput: float) -> tuple[Network, Needs, Night]:
    """Return a topology as a night in which all caches lack its title."""
    hosts = topology.caches()
    isps = tuple(dict.fromkeys(host.isp for host in hosts))
    regions = tuple(dict.fromkeys(host.region for host in hosts))
    of_isp = {host.isp: host.region for host in hosts}
    count = len(hosts)
    caches = Caches(
        tuple(host.name for host in hosts), isps, isps, regions,
        np.array([isps.index(host.isp) for host in hosts], np.int32), np.arange(len(isps), dtype=np.int32),
        np.array([regions.index(of_isp[isp]) for isp in isps], np.int32), np.full(count, 10**15),
        np.array([rate(host.up_mbit, goodput) for host in hosts]),
        np.array([rate(host.down_mbit, goodput) for host in hosts]),
    )  # fmt: skip
    (origin,) = (host for host in topology.hosts() if host.name == topology.origin)
    night = Night(START, START + LONG_S, START + LONG_S)
    network = Network(
        caches, tuple((Span(night.start, night.horizon),) for _ in hosts),
        np.array([rate(topology.uplink(isp), goodput) for isp in isps]), np.full(len(regions), inf),
        (Origin(origin.name, rate(origin.up_mbit, goodput)),),
        sending=np.array([rate(host.up_mbit, goodput) for host in hosts]),
    )  # fmt: skip
    target = Placement(np.arange(count + 1), np.zeros(count, np.int32))
    held = Placement(np.zeros(count + 1, np.int64), np.zeros(0, np.int32))
    return network, needs_of(network, np.array([topology.size]), target, held), night


def finish_of(key: str, report: Report, seeds: int) -> Finish:
    """Return what the planner says of a topology, and what the lab has measured."""
    network, needs, night = night_of(report.topology, report.surroundings.goodput)
    held = Placement(np.zeros(len(network.spans) + 1, np.int64), np.zeros(0, np.int32))
    verdict = check(network, demand_of(network, needs), night)
    found = [predict(network, needs, held, night, seed=seed).finish for seed in range(1, seeds + 1)]
    over = statistics.median(inf if one is None else one - START for one in found)
    lab = figures(report, CONTENDER)["seconds"].median
    bound = inf if verdict.finish is None else verdict.finish - START
    return Finish(key, report.topology.name, round(lab, 3), round(bound, 3), round(over, 3))


def is_planned(report: Report) -> bool:
    """Whether nothing happens in a topology that nobody plans for."""
    topology = report.topology
    slow = any(topology.upload_rates.get(host.name, host.down_mbit) < host.down_mbit for host in topology.caches())
    return not (topology.titles or topology.events or topology.apart or slow) and bool(figures(report, CONTENDER))


def page(found: list[Finish], seeds: int) -> str:
    """Return the report as Markdown."""
    rows = [
        (one.title, f"{one.lab:.1f} s", f"{one.bound:.1f} s", f"{one.predicted:.1f} s", f"{one.off:+.0%}")
        for one in found
    ]
    return "\n".join(
        [
            "# When the planner says that it is over",
            "",
            "One title to all caches of [the lab](../swarm/README.md): when the last one had it (medians of the lab's"
            f" runs), before when the planner proves that none is over, and its prediction (medians of {seeds} seeds).",
            "",
            table_in_markdown(("topology", "lab", "proved", "predicted", "off by"), rows),
            "Made by `python -m bench.planner.finish --out docs/reports/planner`. As data: [finish.json](finish.json).",
            "",
        ]
    )


def main() -> None:
    """Compare, print, and write a report where one is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--lab", type=Path, default=LAB)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    reports = {key: one for key, one in sorted(read_reports(options.lab).items()) if is_planned(one)}
    found = [finish_of(key, one, options.seeds) for key, one in reports.items()]
    if not found:
        parser.error(f"no report of a topology in which nothing happens in {options.lab}; make some: make bench-swarm")
    print(msgspec.json.encode(found).decode() if options.json else page(found, options.seeds))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        lines = ",\n ".join(msgspec.json.encode(one).decode() for one in found)
        (options.out / "finish.json").write_text(f"[\n {lines}\n]\n")
        (options.out / "finish.md").write_text(page(found, options.seeds))
    if any(abs(one.off) > OFF_MAX or one.lab < one.bound for one in found):
        sys.exit(1)


if __name__ == "__main__":
    main()
