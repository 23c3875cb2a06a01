"""Options that several commands share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Final

import typer

TrackerUrl = Annotated[
    str,
    typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="The tracker, as in https://10.0.0.1:7070."),
]
PLANNER: Final = Path("planner.toml")
"""The planner's file, where none is named: it is read where there is one."""

Planner = Annotated[
    Path,
    typer.Option(
        "--planner",
        metavar="FILE",
        envvar="P2PFILL_PLANNER",
        help="Names catalogue, caches, history and what else a plan is made of (docs/planner.md).",
    ),
]
Later = Annotated[bool, typer.Option("--later", help="Also where no running cache matches, for later ones.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts instead of text for people.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before something is deleted.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]

Expires = Annotated[
    str,
    typer.Option(
        "--expires", metavar="SPAN", help="How long caches may begin to fill it, as 90d or 12h; by default for ever."
    ),
]
Number = Annotated[
    int | None,
    typer.Option(
        "--number", min=0, help="Grows with each version of a name; by default the time, in milliseconds since 1970."
    ),
]

Files = Annotated[
    list[str] | None,
    typer.Option(
        "--files",
        metavar="PATTERN",
        help="Only these files of the title: a path, a directory with / at its end, or a pattern, whose * stands for "
        "anything; may be given many times.",
    ),
]
FilesFrom = Annotated[
    Path | None, typer.Option("--files-from", metavar="FILE", help="The same, one a line; - for the standard input.")
]


def note_timeout(timeout_s: float | None, *, wait: bool) -> None:
    """Say on stderr that a `--timeout` without `--wait` is of no use."""
    if timeout_s is not None and not wait:
        print("--timeout is of no use without --wait: this command returns at once", file=sys.stderr)


def selector_of(nodes: str) -> str:
    """Return the selector that `--nodes` means, where a single word is a cache's id. Raises `ConfigError`."""
    from p2pfill.model.selector import Selector

    return Selector.parse(nodes if nodes.strip() == "all" or "=" in nodes else f"id={nodes}").text
