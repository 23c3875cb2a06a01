"""What the simulator says of the lab's topologies, beside what the lab has measured.

    python -m bench.model [--lab docs/reports/swarm] [--seeds 5] [--out docs/reports/model] [--json]

Reads the lab's reports, simulates each topology that has one, and prints both. Exit code 1 where one is off by more
than `OFF_MAX`. Topologies of several titles are left out: the lab measures those in rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.swarm import report as lab_report
from bench.swarm import summary
from bench.swarm.records import Report
from p2pfill.errors import ConfigError
from p2pfill.sim.scenario import Scenario
from p2pfill.sim.world import World

ROOT: Final = Path(__file__).parents[1]
TOPOLOGIES: Final = ROOT / "bench" / "topologies"
CONTENDER: Final = "p2pfill"

ORIGIN_SPREAD: Final = 0.4
"""How unequally caches share the lab's origin (`Scenario.origin_spread`). When the first cache of a fill had had all of
its share, what the others had had spread by 0.24, 0.39 and 0.40 in three fills of 12 caches, by 0.56, 0.60 and 0.64 in
three of 16. Streams inside an ISP spread by 0.1 to 0.25, which is left out."""

OFF_MAX: Final = 0.1


class Prediction(msgspec.Struct, frozen=True):
    """One topology, filled in the lab and in the simulator: medians of time / bound."""

    topology: str
    """The name of its file without the ending."""
    title: str
    lab: float
    fair: float
    """Simulated, with an origin that all caches share alike."""
    simulated: float
    """Simulated with `ORIGIN_SPREAD`."""
    seeds: int

    @property
    def off(self) -> float:
        """By what part of the lab's figure the simulator's is larger."""
        return self.simulated / self.lab - 1


def simulate(path: Path, seeds: int, origin_spread: float) -> float:
    """Return the median of time / bound over the seeds 1 to `seeds`. Raises `ConfigError`."""
    scenario = msgspec.structs.replace(Scenario.load(path), origin_spread=origin_spread)
    return statistics.median(World(scenario, seed).run().time_over_bound for seed in range(1, seeds + 1))


def predict(reports: dict[str, Report], seeds: int) -> Iterator[Prediction]:
    """Yield what the simulator says of each topology of one title, in order of names. Raises `ConfigError`."""
    for key, report in sorted(reports.items()):
        figures = summary.figures(report, CONTENDER) if not report.topology.titles else {}
        if not figures:
            continue
        path = TOPOLOGIES / f"{key}.toml"
        if not path.exists():
            raise ConfigError(f"the report {key}.json has no topology {path}; name a directory of reports that have")
        fair, simulated = (round(simulate(path, seeds, spread), 4) for spread in (0.0, ORIGIN_SPREAD))
        lab = round(figures["time_over_bound"].median, 4)
        yield Prediction(key, report.topology.name, lab, fair, simulated, seeds)


def rows(found: list[Prediction]) -> list[tuple[str, ...]]:
    """Return the table's rows under `HEAD`."""
    return [(p.title, f"{p.lab:.2f}", f"{p.simulated:.2f}", f"{p.off:+.0%}", f"{p.fair:.2f}") for p in found]


HEAD: Final = ("topology", "lab", "simulator", "off by", "simulator, a fair origin")


def page(found: list[Prediction], lab: str) -> str:
    """Return the page in Markdown; `lab` is the path to the lab's reports."""
    return "\n".join(
        [
            "# The simulator beside the lab",
            "",
            f"Time over the bound: medians of what [the lab]({lab}/README.md) has measured, and of {found[0].seeds}"
            f" seeds of the simulator, with caches whose streams share the origin's link unequally (`origin_spread ="
            f" {ORIGIN_SPREAD:g}`), as they do in the lab. The last column is for an origin that all share alike.",
            "",
            lab_report.table_in_markdown(HEAD, rows(found)),
            "Made by `make bench-model`. As data: [model.json](model.json).",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 1 where a prediction is off, 2 where it cannot run."""
    parser = argparse.ArgumentParser(prog="python -m bench.model", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--lab", type=Path, default=ROOT / "docs" / "reports" / "swarm", help="the lab's reports")
    parser.add_argument("--seeds", type=int, default=5, help="of each topology (default: 5)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write model.json and README.md there")
    parser.add_argument("--json", action="store_true", help="print the predictions as JSON and nothing else")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be at least 1")
    console = Console(stderr=options.json, highlight=False)
    try:
        found = []
        for one in predict(lab_report.read_reports(options.lab), options.seeds):
            found.append(one)
            said = f"lab {one.lab:.2f}, simulator {one.simulated:.2f} ({one.off:+.0%})"
            console.print(f"{one.topology}: {said}", markup=False, soft_wrap=True)
    except (ConfigError, OSError, msgspec.DecodeError) as error:
        print(f"bench.model: {error}", file=sys.stderr)
        return 2
    if not found:
        print(f"bench.model: no reports of one title in {options.lab}; make some: make bench-swarm", file=sys.stderr)
        return 2
    table = Table(*HEAD, title="Time / bound", title_justify="left")
    for row in rows(found):
        table.add_row(*row)
    console.print(table)
    if options.json:
        print(msgspec.json.encode(found).decode())
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        lines = ",\n ".join(msgspec.json.encode(one).decode() for one in found)
        (options.out / "model.json").write_text(f"[\n {lines}\n]\n")
        lab = Path(os.path.relpath(options.lab.resolve(), options.out.resolve())).as_posix()
        (options.out / "README.md").write_text(page(found, lab))
    return 1 if any(abs(one.off) > OFF_MAX for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
