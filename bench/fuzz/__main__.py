"""Fuzz the parsers that somebody else's bytes can reach; see `bench.fuzz`.

    python -m bench.fuzz [TARGET...] [--runs N] [--seconds S] [--out DIR] [--json]
    python -m bench.fuzz --list
    python -m bench.fuzz TARGET --repeat FILE

Without targets all of them are run, each with as many inputs as `--list` says. An input that breaks something is kept
in the directory of `--out`, and the status is 1. `--keep` takes what was found on the way into the corpus.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.fuzz.corpora import keep
from bench.fuzz.reports import HEAD, row_of, write_report
from bench.fuzz.running import Options, fuzz, runs_of
from bench.fuzz.target import Target
from bench.fuzz.targets import TARGETS

OUT: Final = Path("build/fuzz")
MISSING: Final = "atheris is not installed: pip install -e '.[fuzz]', or `make fuzz`, which does that"


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    made = argparse.ArgumentParser(
        prog="python -m bench.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("targets", nargs="*", metavar="TARGET", help="by name; all where none is named")
    made.add_argument("--list", action="store_true", help="show all targets, and what each must keep to")
    made.add_argument("--runs", type=_count, help="inputs for each target")
    made.add_argument("--seconds", type=_count, help="at most, for each worker of a target")
    made.add_argument(
        "--out", type=Path, default=OUT, help="for inputs that break something, and the report (%(default)s)"
    )
    made.add_argument("--json", action="store_true", help="print the report as JSON")
    made.add_argument("--workers", type=_count, default=2, help="processes at a time (%(default)s)")
    made.add_argument("--pure", action="store_true", help="with the twins in Python of what is compiled")
    made.add_argument("--seed", type=int, default=0, help="of chance (%(default)s)")
    made.add_argument("--keep", action="store_true", help="take what reaches something new into the corpus")
    made.add_argument(
        "--repeat", type=Path, metavar="FILE", help="run the input, or inputs, in a file; needs no atheris"
    )
    return made


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def repeat(target: Target, path: Path) -> None:
    """Run what is in a file. Raises what that raises."""
    data = path.read_bytes()
    inputs = msgspec.msgpack.decode(data, type=list[bytes]) if path.suffix == ".history" else [data]
    with TemporaryDirectory(prefix="p2pfill-fuzz-") as work, target.opened(Path(work)) as run:
        for one in inputs:
            taken = run(one)
    print(f"{len(inputs)} inputs, the last {'taken' if taken else 'refused'}: nothing breaks")


def show_list() -> None:
    """Print all targets."""
    for target in TARGETS.values():
        print(f"{target.name}  ({target.runs:,} runs, up to {target.size_max} bytes)")
        print("    " + target.invariant.replace("\n", "\n    "))


def main() -> int:
    """Do what the command line says; return the exit code."""
    arguments = parser().parse_args()
    if unknown := set(arguments.targets) - TARGETS.keys():
        print(f"no target is called {min(unknown)!r}; --list shows all", file=sys.stderr)
        return 2
    if arguments.list:
        show_list()
        return 0
    chosen = [TARGETS[name] for name in dict.fromkeys(arguments.targets)] or list(TARGETS.values())
    if arguments.repeat is not None:
        if len(chosen) != 1:
            print("--repeat needs the name of one target", file=sys.stderr)
            return 2
        repeat(chosen[0], arguments.repeat)
        return 0
    if importlib.util.find_spec("atheris") is None:
        print(MISSING, file=sys.stderr)
        return 2
    with TemporaryDirectory(prefix="p2pfill-fuzz-") as corpora:
        options = Options(
            arguments.out.absolute(),
            arguments.runs,
            arguments.seconds,
            arguments.workers,
            arguments.pure,
            Path(corpora) if arguments.keep else None,
            arguments.seed,
        )
        return _fuzz(chosen, options, as_json=arguments.json)


def _fuzz(chosen: list[Target], options: Options, *, as_json: bool) -> int:
    console = Console(stderr=True)
    found = []
    for one in fuzz(chosen, options):
        found.append(one)
        report = write_report(found, options)  # at once: a run takes hours, and may be broken off
        wanted = runs_of(TARGETS[one.target], options)
        console.print(f"{one.target}: {one.runs:,} of {wanted:,} runs, {one.runs_s:,.0f}/s, {len(one.finds)} finds")
    if as_json:
        print(json.dumps(msgspec.to_builtins(report), indent=1))
    else:
        table = Table(*HEAD)
        for one in found:
            table.add_row(*row_of(one))
        Console().print(table)
    finds = [find for one in found for find in one.finds]
    for find in finds:
        console.print(f"{find.target}: {find.said}\n    {find.command}", markup=False, highlight=False, soft_wrap=True)
    if options.corpora is not None:
        for target in chosen:
            console.print(f"{target.name}: {keep(target, options.corpora / target.name)} inputs added to the corpus")
    return 1 if finds else 0


if __name__ == "__main__":
    sys.exit(main())
