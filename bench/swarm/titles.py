"""Several titles: each alone, then all of them side by side, round after round; and what the rounds say.

In a round each title is filled by itself first, and its best time so found on the machine as it is in these minutes;
then all are ordered as the topology says. Two questions are asked. How much longer does a title take beside the others
than alone? For the most urgent one the answer should be 1. How long do all together take, from the first order to the
end of the last, beside the sum of the times alone? That sum is what they take one after the other.

libtorrent is no part of this: its priorities are of files and pieces inside one torrent.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from bench.swarm.bounds import bound_s
from bench.swarm.measure import run_contender
from bench.swarm.p2pfill_fleet import Offer, P2PFill, make_offer
from bench.swarm.records import Report, Run
from bench.swarm.summary import Figure
from bench.swarm.topology import Title, Topology
from p2pfill.bench.source import write_source

TOGETHER: Final = "all together"
"""What the run of all titles is called where a contender has its name."""


def alone(title: Title) -> str:
    """Return what the run of one title by itself is called."""
    return f"{title.name} alone"


def run_titles(topology: Topology, runs: int, work: Path, said: Callable[[int, Run], object]) -> list[Run]:
    """Run all rounds. `said` is called with the number of the round and each run. Raises `LabError`."""
    offers = {title.name: _offer(title, topology, work) for title in topology.titles}
    found = []
    for number in range(1, runs + 1):
        plan: list[tuple[str, Topology, list[Offer]]] = [
            (alone(title), topology.with_title(title), [offers[title.name]._replace(at_s=0.0)])
            for title in topology.titles
        ]
        for name, lab, titles in [*plan, (TOGETHER, topology, list(offers.values()))]:
            run = run_contender(name, P2PFill, lab, titles, work / "run")
            said(number, run)
            found.append(run)
    return found


def _offer(title: Title, topology: Topology, work: Path) -> Offer:
    source = work / f"source-{title.name}"
    source.mkdir()
    write_source(source / "file", title.size_mib)
    offer = make_offer(title.name, source, work)
    return offer._replace(priority=title.priority, at_s=title.at_seconds(bound_s(topology)))


# ---- what the rounds say; pure


def rounds(report: Report) -> list[dict[str, Run]]:
    """Return the rounds in which every run came to its end: name -> run. None where there is one title only."""
    if not report.topology.titles:
        return []
    size = len(report.topology.titles) + 1
    found = [report.runs[first : first + size] for first in range(0, len(report.runs), size)]
    return [{run.contender: run for run in runs} for runs in found if not any(run.failed for run in runs)]


def figures(report: Report) -> dict[str, dict[str, Figure]]:
    """Return, for each title and for all together, the seconds alone and side by side, and the second over the first.

    The ratio is taken inside each round, whose runs follow each other closely; its median is not that of the seconds.
    """
    names = {title.name: alone(title) for title in report.topology.titles}
    pairs: dict[str, list[tuple[float, float]]] = {name: [] for name in (*names, TOGETHER)}
    for runs in rounds(report):
        together = runs[TOGETHER]
        for name, by_itself in names.items():
            pairs[name].append((runs[by_itself].seconds, together.titles_s[name]))
        pairs[TOGETHER].append((sum(runs[by_itself].seconds for by_itself in names.values()), together.seconds))
    return {
        name: {
            "alone_s": _figure([before for before, _ in found]),
            "beside_s": _figure([beside for _, beside in found]),
            "ratio": _figure([beside / before for before, beside in found]),
        }
        for name, found in pairs.items()
        if found
    }


def _figure(values: list[float]) -> Figure:
    return Figure(statistics.median(values), min(values), max(values))


def as_record(report: Report) -> dict[str, Any]:
    """Return the figures as plain data, for the JSON report."""
    return {
        name: {key: figure._asdict() for key, figure in found.items()} for name, found in figures(report).items()
    }


HEAD: Final = ("title", "ordered", "s alone", "s beside the others", "beside / alone")


def rows(report: Report, show: Callable[[Figure, int], str]) -> list[tuple[str, ...]]:
    """Return the rows of the table under `HEAD`; the last one is all together beside the sum of the times alone."""
    found = figures(report)
    plain_s = bound_s(report.topology, report.surroundings.goodput)
    made = []
    for title in report.topology.titles:
        if title.name in found:
            ordered = f"priority {title.priority}, at {title.at_seconds(plain_s):.1f} s"
            made.append((title.name, ordered, *_cells(found[title.name], show)))
    if TOGETHER in found:
        made.append((f"{TOGETHER} / the sum", "", *_cells(found[TOGETHER], show)))
    return made


def _cells(found: dict[str, Figure], show: Callable[[Figure, int], str]) -> tuple[str, ...]:
    return show(found["alone_s"], 1), show(found["beside_s"], 1), show(found["ratio"], 3)
