"""`p2pfill night`: the commands and their help. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import AsJson, TrackerUrl

app = typer.Typer(help="What the nights brought.", epilog=EXIT_CODES_HELP, no_args_is_help=True)


@app.command("report", epilog=EXIT_CODES_HELP)
def report(
    tracker_url: TrackerUrl,
    night: Annotated[
        str,
        typer.Argument(metavar="[DATE]", help="On which it began, as 2026-11-29; by default the last that is over."),
    ] = "",
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="FILE.png", help="Also draw what came when, by tier, above the windows."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Report a night: what was to be had, what came from where beside the least possible, what is lacking and why.

    A night is from noon to noon on each cache's own clock. The tracker keeps 30 of them.
    """
    from p2pfill.cli.nights import show_report

    show_report(night, tracker_url, plot, as_json=as_json)


@app.command("list", epilog=EXIT_CODES_HELP)
def night_list(tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """List the nights that the tracker keeps, the last one first."""
    from p2pfill.cli.nights import list_nights

    list_nights(tracker_url, as_json=as_json)
