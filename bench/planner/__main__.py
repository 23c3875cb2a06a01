"""Runs the planner beside others, day by day and without a look ahead, on made worlds and on MovieLens 100k.

    python -m bench.planner [--only base,hard,thin,movielens,movielens-regions] [--seed 1] [--movielens WHEEL]
                            [--netflix all-weeks-countries.tsv] [--out docs/reports/planner] [--json]

MovieLens comes out of the wheel of RecBole, which pip fetches into a temporary directory unless one is named. With
--netflix, Netflix's weekly lists by country are read too. Exit code 1 where the planner misses what it is to reach.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.planner import movielens, netflix, plot, report, verdict
from bench.planner.contenders import planner_courses
from bench.planner.intervals import paired
from bench.planner.policies import POLICIES, SEES_THE_FUTURE, requests_of, run_policy
from bench.planner.records import Contestant, Figure, Kind, Report, Section
from bench.planner.rolling import Course, Dataset, totals
from bench.swarm import plots
from p2pfill.bench.measure import describe_machine
from p2pfill.errors import ConfigError
from p2pfill.plan.synthetic import WorldSettings, make_world

ROOT: Final = Path(__file__).parents[2]
SHARES: Final = (0.01, 0.05, 0.1, 0.3)
"""Of a made catalogue's bytes."""
WORLDS: Final = {
    "base": ("A made world, grade base", WorldSettings("base")),
    "hard": ("A made world, grade hard", WorldSettings("hard")),
    "thin": ("A made world, grade base, 5,000 views a day", WorldSettings("base", views_a_day=5_000.0)),
}
TUNED_FROM: Final = 30
SCORED_FROM: Final = 50
"""Of 90 days: a week of launches has then grown old, and 40 days are left, in which 290 titles launch."""
WITH_POLICIES: Final = ("base", "hard", "movielens")
KEYS: Final = (*WORLDS, "movielens", "movielens-regions")


def made_dataset(key: str, settings: WorldSettings, name: str, seed: int) -> Dataset:
    """Make a world and say which of its days count."""
    world = make_world(settings, seed)
    first = world.views.first_day
    tuned, scored = first + TUNED_FROM, first + SCORED_FROM
    return Dataset(key, name, world.catalogue, world.views, tuned, scored, SHARES, tuned, world=world)


def datasets(keys: list[str], seed: int, wheel: Path | None) -> Iterator[Dataset]:
    """Yield what is asked for, in the order of `KEYS`. Raises `NoData` and `ConfigError`."""
    with ExitStack() as stack:
        for key in KEYS:
            if key not in keys:
                continue
            if key in WORLDS:
                name, settings = WORLDS[key]
                yield made_dataset(key, settings, name, seed)
                continue
            if wheel is None:
                wheel = stack.enter_context(movielens.fetched_wheel())
            yield movielens.read_movielens(wheel, by_region=key == "movielens-regions")


def courses(data: Dataset, with_policies: bool, seed: int) -> Iterator[tuple[Kind, Course | None, str]]:
    """Run all contenders, the planner first; a policy that cannot be run here has no course."""
    for course in planner_courses(data):
        kind: Kind = "future" if course.name == "knows the rates" else "plan"
        yield "planner" if course.name.startswith("planner") else kind, course, course.name
    if with_policies:
        asked = requests_of(data, 0, seed)
        for policy in POLICIES:
            yield "future" if policy == SEES_THE_FUTURE else "policy", run_policy(policy, asked, data, 0), policy


def evaluate(data: Dataset, with_policies: bool, seed: int, say: Callable[[str], None]) -> Section:
    """Run all contenders on a data set."""
    regions = slice(0, 1) if with_policies else slice(None)
    all_bytes, all_requests = (values[data.scored_days] for values in totals(data))
    asked = all_bytes[:, regions].sum(axis=1)
    found = list(courses(data, with_policies, seed))
    planner = found[0][1]
    truth = next((course for _, course, name in found if name == "knows the rates"), None)
    assert planner is not None

    def served(course: Course, share: int) -> tuple[float, tuple[float, float, float] | None, float | None]:
        hits, own = (one.hit_bytes[data.scored_days, share, regions].sum(axis=1) for one in (course, planner))
        more = None if course is planner else paired(own, hits, asked, seed)
        expected = [one.expected_bytes[data.scored_days, share].sum() for one in (course, truth) if one]
        return (
            float(hits.sum() / asked.sum()),
            more,
            float(expected[0] / expected[1]) if truth and expected[0] else None,
        )

    contestants = []
    for kind, course, name in found:
        if course is None:
            say(f"{data.name}: {name} cannot be run here")
            contestants.append(Contestant(name, kind, [], "", 0.0, 0.0))
            continue
        figures = [Figure(share, *served(course, place)) for place, share in enumerate(data.shares)]
        contestants.append(Contestant(name, kind, figures, course.chosen, course.user_s, course.system_s))
        hits = " ".join(f"{one.hit:.3f}" for one in figures)
        ratios = " ".join(f"{one.ratio:.3f}" for one in figures if one.ratio is not None)
        say(f"{data.name}: {name}: hits {hits}{f', of the rates {ratios}' if ratios else ''}")
    names = list(data.views.regions)
    return Section(
        data.key, data.name, len(data.catalogue.files), names, names[regions], int(all_requests.sum()),
        data.scored_from - data.views.first_day, asked.size, contestants,
    )  # fmt: skip


def commit() -> str:
    """Return the commit that is checked out, with a plus where files differ from it; nothing: git does not know."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+", "--exclude=*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if not done.returncode else ""


def versions() -> dict[str, str]:
    """Return the versions of the libraries that figures hang on."""
    return {name: importlib.metadata.version(name) for name in ("numpy", "lightgbm", "libcachesim")}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.planner", description=about)
    parser.add_argument("--only", metavar="NAMES", default=",".join(KEYS), help=f"of {', '.join(KEYS)}")
    parser.add_argument("--seed", type=int, default=1, help="of made worlds and of draws (default: 1)")
    parser.add_argument("--movielens", type=Path, metavar="WHEEL", help="RecBole's wheel (default: pip fetches it)")
    parser.add_argument("--netflix", type=Path, metavar="FILE", help="Netflix's all-weeks-countries.tsv")
    parser.add_argument("--out", type=Path, metavar="DIR", help="write planner.json, README.md and planner.png there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    options = parser.parse_args(arguments)
    options.only = [key for key in options.only.split(",") if key]
    if unknown := [key for key in options.only if key not in KEYS]:
        parser.error(f"--only knows {', '.join(KEYS)}, and not {', '.join(unknown)}")
    return options


def run(options: argparse.Namespace, console: Console) -> Report:
    """Do what the command line says. Raises `NoData` and `ConfigError`."""

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    sections = [
        evaluate(data, data.key in WITH_POLICIES, options.seed, say)
        for data in datasets(options.only, options.seed, options.movielens)
    ]
    lists = netflix.read_netflix(options.netflix) if options.netflix else []
    recalls = [netflix.recall(one, options.seed) for one in lists]
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Report(
        describe_machine(Path(tempfile.gettempdir())), commit(), versions(), options.seed,
        sum(one.ru_utime for one in used), sum(one.ru_stime for one in used), sections, recalls,
    )  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 1 where the planner misses something, 2 where it cannot run."""
    options = parse_arguments(arguments)
    console = Console(stderr=options.json, highlight=False)
    try:
        made = run(options, console)
    except (movielens.NoData, ConfigError) as error:
        print(f"bench.planner: {error}", file=sys.stderr)
        return 2
    for table in report.terminal_tables(made):
        console.print(table)
    if options.json:
        print(report.encode_report(made))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        report.write_report(made, options.out)
        if undrawn := plots.missing():
            console.print(f"no plot: {undrawn}", markup=False)
        elif made.sections:
            plot.draw(made, options.out)
    missed = [one.what for one in verdict.judge(made) if not one.reached]
    for what in missed:
        console.print(f"missed: {what}", markup=False, soft_wrap=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
