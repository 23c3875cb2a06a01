"""Kills processes of a fleet, and replays losses of power, and tells what was lost: nothing, where all is well.

    python -m bench.crashes power --prefixes all [--out DIR] [--json] [--seed 1] [--workers 1]
    python -m bench.crashes kills [--kills 300] [--roles cache,seed,master,tracker] [--out DIR] [--json] [--seed 1]

Both take some minutes, print what they are at, and end with 1 where something was lost.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.status import Status

from bench.crashes import kills, power, report, strace
from bench.crashes.records import KillsReport, PowerReport, used_s
from p2pfill.bench.measure import describe_machine
from p2pfill.errors import P2PFillError

LINE_S: Final = 30.0
"""Between two lines of progress where there is no terminal."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.crashes", description=about)
    what = parser.add_subparsers(dest="what", required=True)
    lose = what.add_parser("power", help="replay losses of power; needs strace")
    lose.add_argument("--prefixes", type=_count, default="all", help="of each recording, or all (default)")
    lose.add_argument("--workers", type=int, default=1, help="processes side by side (1)")
    lose.add_argument("--titles", type=int, default=power.NIGHT_TITLES, help="of the tracker's night")
    lose.add_argument("--only", choices=power.SUBJECTS, default="", help="by default both")
    lose.add_argument("--every", type=int, default=1, help="start a node after so many prefixes (1)")
    kill = what.add_parser("kills", help="kill processes; with strace also at their calls")
    kill.add_argument("--kills", type=int, default=300, help="in all (300)")
    kill.add_argument("--roles", type=_roles, default=list(kills.VICTIMS), help="in turns; default: all")
    kill.add_argument("--fleets", type=int, default=1, help="side by side (1)")
    kill.add_argument("--by-time", action="store_true", help="only after random times, never at a call")
    for one in (lose, kill):
        one.add_argument("--seed", type=int, default=1)
        one.add_argument("--work", type=Path, metavar="DIR", help="where disks are made (default: in memory)")
        one.add_argument("--out", type=Path, metavar="DIR", help="write JSON and Markdown there")
        one.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    return 0 if text == "all" else int(text)


def _roles(text: str) -> list[str]:
    if unknown := set(roles := text.split(",")) - set(kills.VICTIMS):
        raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: roles are {', '.join(kills.VICTIMS)}")
    return roles


def run_power(options: argparse.Namespace, command: str, work: Path, say: power.Say) -> PowerReport:
    """Replay losses of power. Raises `strace.RecordingFailed`."""
    if strace.find_strace() is None:
        raise strace.RecordingFailed("strace is not installed; on Debian: apt-get install strace")
    settings = power.Settings(
        options.prefixes, options.seed, options.workers, options.titles, options.every, options.only
    )
    return PowerReport(describe_machine(work), options.seed, command, power.run(settings, work, say))


def run_kills(options: argparse.Namespace, command: str, work: Path, say: power.Say) -> KillsReport:
    """Kill processes. Raises `fleet.KillsFailed`."""
    began, before = time.monotonic(), used_s()
    settings = kills.Settings(
        options.roles, options.kills, options.seed, options.fleets, at_calls=not options.by_time
    )
    roles = kills.run(settings, work, say)
    used = [after - first for after, first in zip(used_s(), before, strict=True)]
    return KillsReport(
        describe_machine(work), options.seed, command, roles, round(time.monotonic() - began, 1), *used
    )


class Progress:
    """Tells what is being done: in place on a terminal, else a line now and then."""

    def __init__(self, console: Console, status: Status) -> None:
        self._console = console
        self._status = status
        self._said_at = time.monotonic()

    def say(self, text: str) -> None:
        """Tell it."""
        if self._console.is_terminal:
            self._status.update(text)
        elif time.monotonic() > self._said_at + LINE_S:
            self._said_at = time.monotonic()
            print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says: 0, or 1 where something was lost, 2 where it cannot run, 130 after a signal."""
    words = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(words)
    # As an exception, so that processes and directories go also when the benchmark is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=options.json, highlight=False)
    memory = Path("/dev/shm")
    where = options.work or (memory if memory.is_dir() else None)
    # As somebody else would give it: not where this run has written.
    places = {str(place) for place in (options.out, options.work) if place is not None} | {"--out", "--work"}
    command = shlex.join(["python", "-m", "bench.crashes", *(word for word in words if word not in places)])
    make = run_power if options.what == "power" else run_kills
    try:
        with tempfile.TemporaryDirectory(prefix="p2pfill-crashes-", dir=where) as work, console.status("") as status:
            made = make(options, command, Path(work), Progress(console, status).say)
    except P2PFillError as error:
        print(f"bench.crashes: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if options.out:
        report.write(made, options.out)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(made), indent=1).decode())
    else:
        console.print(report.page(made), markup=False)
    return 0 if made.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
