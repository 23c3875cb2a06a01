"""`p2pfill plan`: the commands and their help. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import AsJson
from p2pfill.cli.plan_windows import windows

app = typer.Typer(
    help="What will be watched where, and what should lie where. Needs the extra `planner`.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
)

HistoryDir = Annotated[
    Path, typer.Option("--history", metavar="DIR", help="Where what was watched is kept from night to night.")
]


@app.command("ingest", epilog=EXIT_CODES_HELP)
def ingest(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOGS...",
            help="Viewing logs, as Parquet or CSV (also compressed by gzip), with the columns time, region, cache or "
            "cluster, title, file, bytes.",
        ),
    ],
    history: HistoryDir,
    catalogue: Annotated[
        Path,
        typer.Option("--catalogue", metavar="FILE", help="The files that there are, as CSV, Parquet or TOML."),
    ],
    caches: Annotated[
        Path, typer.Option("--caches", metavar="FILE", help="The caches that there are, as CSV, Parquet or TOML.")
    ],
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="What may be taken before disk is used instead.")
    ] = "3GiB",
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=0, help="By default (0) one for each processor.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Take viewing logs into the history.

    A log is known again by its content and counts once. What is wrong is counted by kind and shown with examples. Where
    no log can be used the history stays as it was; where some cannot, the others are taken in and the exit code is 1.
    """
    from p2pfill.cli.plan_history import ingest_logs

    ingest_logs(logs, history, catalogue, caches, memory=memory, threads=threads, as_json=as_json)


@app.command("history", epilog=EXIT_CODES_HELP)
def history_show(history: HistoryDir, as_json: AsJson = False) -> None:
    """Show what the history has: days, rows, bytes, and what was wrong with its logs."""
    from p2pfill.cli.plan_history import show_history

    show_history(history, as_json=as_json)


app.command("windows", epilog=EXIT_CODES_HELP)(windows)
