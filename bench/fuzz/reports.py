"""What a run has come to, for people and as data."""

from __future__ import annotations

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import msgspec

from bench.fuzz.running import Find, Found, Options
from bench.fuzz.targets import TARGETS
from bench.swarm.report import table_in_markdown
from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.model.limits import MIB

HEAD: Final = (
    "target",
    "runs",
    "of",
    "taken",
    "runs/s",
    "processor s",
    "edges",
    "MiB, warm",
    "at the end",
    "peak",
    "finds",
)


class Report(msgspec.Struct, frozen=True):
    """What is written."""

    machine: Machine
    atheris: str
    """Its version."""
    workers: int
    pure: bool
    targets: list[Found]


def row_of(found: Found) -> list[str]:
    """Return a target's row below `HEAD`."""
    memory = (
        f"{count / MIB:.0f}" if count else "" for count in (found.began_bytes, found.ended_bytes, found.peak_bytes)
    )
    return [
        found.target,
        f"{found.runs:,}",
        f"{TARGETS[found.target].runs:,}" if found.target in TARGETS else "",
        f"{found.taken / max(1, found.runs):.0%}" if found.ended_bytes else "",
        f"{found.runs_s:,.0f}",
        f"{found.processor_s:.0f}" if found.ended_bytes else "",
        str(found.edges),
        *memory,
        str(len(found.finds)),
    ]


def write_report(found: list[Found], options: Options) -> Report:
    """Write `fuzz.json` and `README.md`; return what is in them. Rows of targets that were run before stay."""
    path = options.out / "fuzz.json"
    before: list[Found] = []
    if path.exists():
        before = msgspec.json.decode(path.read_bytes(), type=Report).targets
    ran = {one.target for one in found}
    rows = sorted([*found, *(one for one in before if one.target not in ran)], key=lambda one: one.target)
    rows = [_without_place(one, options.out) for one in rows]
    report = Report(describe_machine(Path.cwd()), _version(), options.workers, options.pure, rows)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    (options.out / "README.md").write_text(page(report))
    return report


def _version() -> str:
    with suppress(PackageNotFoundError):
        return version("atheris")
    return "of another name"


def _without_place(found: Found, out: Path) -> Found:
    """Return what was found without the name of a directory of this machine."""
    finds = [msgspec.structs.replace(find, file=Path(find.file).name, command=_shortened(find)) for find in found.finds]
    return msgspec.structs.replace(found, finds=finds)


def _shortened(find: Find) -> str:
    return f"python -m bench.fuzz {find.target} --repeat {Path(find.file).name}"


def page(report: Report) -> str:
    """Return the report for people."""
    machine = report.machine
    finds = [f"- {find.target}: {find.said} (`{find.command}`)" for one in report.targets for find in one.finds]
    lines = [
        "# Fuzzed parsers",
        "",
        f"Inputs for each parser that somebody else's bytes can reach, led by the branches that they take: atheris "
        f"{report.atheris}, {report.workers} processes at a time on {machine.processors} processors "
        f"({machine.processor}, {machine.kernel}, Python {machine.python}, {machine.made_at}). *Of* is what `make "
        "fuzz` tries where no time is set; with less, time was up. *Taken* is what was no error. Memory is that of one "
        "process: after a tenth of the inputs, at the end, and the most of all; it is not known where only some "
        "hundred inputs were run. What each must keep to, `python -m bench.fuzz --list` shows.",
        "",
        table_in_markdown(HEAD, [row_of(one) for one in report.targets]),
        "",
        *(finds or ["Nothing was found in this run."]),
        "",
        "Made by `make fuzz`. As data: [fuzz.json](fuzz.json).",
        "",
    ]
    return "\n".join(lines)
