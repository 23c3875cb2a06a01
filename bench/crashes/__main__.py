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
from pathlib import Path

import msgspec
from rich.console import Console

from bench.crashes import power, report, strace
from bench.crashes.records import PowerReport
from p2pfill.bench.measure import BenchFailed, describe_machine


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m bench.crashes", description=about)
    what = parser.add_subparsers(dest="what", required=True)
    lose = what.add_parser("power", help="replay losses of power; needs strace")
    lose.add_argument("--prefixes", type=_count, default="all", help="of each recording, or all (default)")
    lose.add_argument("--workers", type=int, default=1, help="processes side by side (1)")
    lose.add_argument("--titles", type=int, default=power.NIGHT_TITLES, help="of the tracker's night")
    lose.add_argument("--every", type=int, default=1, help="start a node after so many prefixes (1)")
    for one in (lose,):
        one.add_argument("--seed", type=int, default=1)
        one.add_argument("--work", type=Path, metavar="DIR", help="where disks are made (default: in memory)")
        one.add_argument("--out", type=Path, metavar="DIR", help="write JSON and Markdown there")
        one.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    return parser.parse_args(arguments)


def _count(text: str) -> int:
    return 0 if text == "all" else int(text)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says: 0, or 1 where something was lost, 2 where it cannot run, 130 after a signal."""
    words = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(words)
    # As an exception, so that processes and directories go also when the benchmark is told to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=options.json, highlight=False)
    memory = Path("/dev/shm")
    where = options.work or (memory if memory.is_dir() else None)
    command = shlex.join(["python", "-m", "bench.crashes", *words])
    settings = power.Settings(options.prefixes, options.seed, options.workers, options.titles, options.every)
    try:
        with tempfile.TemporaryDirectory(prefix="p2pfill-crashes-", dir=where) as work, console.status("") as status:
            made = PowerReport(
                machine=describe_machine(Path(work)),
                seed=options.seed,
                command=command,
                parts=power.run(settings, Path(work), status.update),
            )
    except (BenchFailed, strace.RecordingFailed) as error:
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
