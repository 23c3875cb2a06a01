"""`p2pfill plan`: the commands and their help. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import PLANNER, AsJson, Planner

app = typer.Typer(
    help="What will be watched where, and what should lie where. Needs the extra `planner`.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
)

MaybeHistory = Annotated[
    Path | None,
    typer.Option(
        "--history",
        metavar="DIR",
        help="Where what was watched is kept from night to night; by default as the planner's file says.",
    ),
]
PlanName = Annotated[
    str, typer.Argument(metavar="[PLAN]", help="A plan's file, or the day that it is for; by default the newest.")
]
Day = Annotated[
    str, typer.Option("--day", metavar="DATE", help="Whose viewing is planned for; by default when the night is over.")
]
At = Annotated[
    str, typer.Option("--at", metavar="TIME", help="When the night begins, as 2026-12-01T22:00 (UTC); by default now.")
]
Held = Annotated[
    str,
    typer.Option(
        "--held",
        metavar="WHO",
        help="Who says what lies in the caches: tracker, plan (the one before), nothing, or a plan's file; by default "
        "the tracker where there is one, else the plan before.",
    ),
]
Fit = Annotated[
    bool, typer.Option("--fit/--no-fit", help="Give up what is worth least, where not all fits into the night.")
]
Simulate = Annotated[
    bool, typer.Option("--simulate/--no-simulate", help="Say also when the simulator thinks that it is over.")
]
MaybeTracker = Annotated[
    str,
    typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="Instead of the planner's file's."),
]
OriginUrls = Annotated[
    list[str] | None,
    typer.Option(
        "--origin", metavar="URL", help="Where titles come from, {title} being a title's name; by default the table's."
    ),
]
Go = Annotated[bool, typer.Option("--yes", help="Do it. Without, it is only said what would be done.")]
RewriteMax = Annotated[
    float | None,
    typer.Option(
        "--rewrite-max",
        metavar="SHARE",
        min=0.0,
        max=1.0,
        help="Of a cache that may be rewritten tonight; by default what the placement may, 0.1.",
    ),
]


@app.command("make", epilog=EXIT_CODES_HELP)
def make(
    planner: Planner = PLANNER,
    day: Day = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write it there, and not among those that are kept.")
    ] = None,
    held: Held = "",
    fit: Fit = True,
    at: At = "",
    tracker_url: MaybeTracker = "",
    as_json: AsJson = False,
) -> None:
    """Make a plan: forecast what will be watched, and say what is to lie where. Nothing is ordered.

    The exit code is 5 where it does not fit into the night.
    """
    from p2pfill.cli.plan_make import make_plan

    make_plan(planner, day=day, out=out, held=held, fit=fit, at=at, tracker=tracker_url, as_json=as_json)


@app.command("check", epilog=EXIT_CODES_HELP)
def check(
    plan: PlanName = "",
    planner: Planner = PLANNER,
    at: At = "",
    deadline: Annotated[
        str,
        typer.Option(
            "--deadline", metavar="TIME", help="As for `fill`; by default when the last window of the night closes."
        ),
    ] = "",
    simulate: Simulate = True,
    tracker_url: MaybeTracker = "",
    as_json: AsJson = False,
) -> None:
    """Prove whether a plan fits into the night: what is short where, what would help, and when it will be over."""
    from p2pfill.cli.plan_make import check_plan

    check_plan(planner, plan, at=at, deadline=deadline, simulate=simulate, tracker=tracker_url, as_json=as_json)


@app.command("show", epilog=EXIT_CODES_HELP)
def show(
    plan: PlanName = "",
    planner: Planner = PLANNER,
    cache: Annotated[str, typer.Option("--cache", metavar="NAME", help="What this cache is to hold.")] = "",
    title: Annotated[str, typer.Option("--title", metavar="NAME", help="Where this title's files are to lie.")] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="PLAN", help="What lies elsewhere than by this plan.")
    ] = "",
    most: Annotated[int, typer.Option("--most", metavar="N", min=1, help="How many files are shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show a plan: what comes, stays and may go, in all, of a cache or of a title."""
    from p2pfill.cli.plan_make import show_plan

    show_plan(planner, plan, cache=cache, title=title, since=since, most=most, tracker="", as_json=as_json)


@app.command("why", epilog=EXIT_CODES_HELP)
def why_command(
    title: Annotated[str, typer.Argument(metavar="TITLE")],
    region: Annotated[str, typer.Argument(metavar="REGION")],
    planner: Planner = PLANNER,
    day: Annotated[
        str,
        typer.Option("--day", metavar="DATE", help="Whose viewing is forecast; by default the newest plan's day."),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Say what makes the forecast of a title in a region: the factors whose product it is."""
    from p2pfill.cli.plan_make import why

    why(planner, title, region, day=day, as_json=as_json)


@app.command("tune", epilog=EXIT_CODES_HELP)
def tune_command(
    planner: Planner = PLANNER,
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=2, max=60, help="How many of the last are replayed.")
    ] = 5,
    as_json: AsJson = False,
) -> None:
    """Say what part of each disk to leave to what is asked for unforeseen, as an LRU would hold it.

    The last days are replayed, each forecast from the days before it, for some shares; the first only fills the LRU.
    """
    from p2pfill.cli.plan_tune import tune

    tune(planner, days=days, as_json=as_json)


@app.command("apply", epilog=EXIT_CODES_HELP)
def apply_command(
    plan: PlanName = "",
    planner: Planner = PLANNER,
    origins: OriginUrls = None,
    deadline: Annotated[
        str, typer.Option("--deadline", metavar="TIME", help="As for `fill`; by default the plan's own.")
    ] = "",
    rewrite_max: RewriteMax = None,
    at: At = "",
    yes: Go = False,
    tracker_url: MaybeTracker = "",
    as_json: AsJson = False,
) -> None:
    """Say what a plan asks of the tracker, and with --yes order it: what is new, and the end of what was planned then.

    Orders of others are left alone. What no order wants any more goes where room is needed, and not before.
    """
    from p2pfill.cli.plan_apply import apply_plan

    apply_plan(
        planner, plan, origins=origins or [], deadline=deadline, at=at, rewrite_max=rewrite_max, yes=yes,
        tracker=tracker_url, as_json=as_json,
    )  # fmt: skip


@app.command("night", epilog=EXIT_CODES_HELP)
def night(
    planner: Planner = PLANNER,
    day: Day = "",
    origins: OriginUrls = None,
    fit: Fit = True,
    simulate: Simulate = True,
    at: At = "",
    rewrite_max: RewriteMax = None,
    yes: Go = False,
    tracker_url: MaybeTracker = "",
    as_json: AsJson = False,
) -> None:
    """Do all of a night's planning: take new logs in, make a plan, check it, and with --yes apply it."""
    from p2pfill.cli.plan_apply import run_night

    run_night(
        planner, day=day, origins=origins or [], fit=fit, simulate=simulate, at=at, rewrite_max=rewrite_max, yes=yes,
        tracker=tracker_url, as_json=as_json,
    )  # fmt: skip


@app.command("report", epilog=EXIT_CODES_HELP)
def report(
    plan: PlanName = "",
    planner: Planner = PLANNER,
    night_file: Annotated[
        Path | None,
        typer.Option("--night", metavar="FILE", help="The night out of `p2pfill night report --json`, and no tracker."),
    ] = None,
    date: Annotated[
        str,
        typer.Option("--date", metavar="DATE", help="On which the night began; by default the day before the plan's."),
    ] = "",
    history: Annotated[
        Path | None, typer.Option("--history", metavar="DIR", help="Instead of the planner's file's.")
    ] = None,
    catalogue: Annotated[Path | None, typer.Option("--catalogue", metavar="FILE", help="The same.")] = None,
    caches: Annotated[Path | None, typer.Option("--caches", metavar="FILE", help="The same.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="DIR", help="Also draw it: up to four PNG files in a directory.")
    ] = None,
    tracker_url: MaybeTracker = "",
    as_json: AsJson = False,
) -> None:
    """Report what came of a plan: bytes by tier beside the least possible, what is not there and why, the finish.

    Once the day's logs are taken in, also what was watched: what of it lay where it was planned, and of what kind each
    miss is. Nothing is changed. With a plan's file and --night no planner's file is needed.
    """
    from p2pfill.cli.plan_report import Tables, show_report

    show_report(
        planner, plan, night_file, date, Tables(history, catalogue, caches), plot, tracker=tracker_url,
        as_json=as_json,
    )  # fmt: skip


@app.command("ingest", epilog=EXIT_CODES_HELP)
def ingest(
    logs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[LOGS]...",
            help="Viewing logs, as Parquet or CSV (also compressed by gzip), with the columns time, region, cache or "
            "cluster, title, file, bytes; by default those of the planner's file.",
        ),
    ] = None,
    planner: Planner = PLANNER,
    history: MaybeHistory = None,
    catalogue: Annotated[
        Path | None,
        typer.Option(
            "--catalogue",
            metavar="FILE",
            help="The files that there are, as CSV, Parquet or TOML; by default as the planner's file says.",
        ),
    ] = None,
    caches: Annotated[
        Path | None, typer.Option("--caches", metavar="FILE", help="The same, of the caches that there are.")
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="What may be taken before disk is used instead.")
    ] = "3GiB",
    threads: Annotated[
        int, typer.Option("--threads", metavar="N", min=0, help="By default (0) one for each processor.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Take viewing logs into the history. What no option names the planner's file does.

    A log is known again by its content and counts once. What is wrong is counted by kind and shown with examples. Where
    no log can be used the history stays as it was; where some cannot, the others are taken in and the exit code is 1.
    """
    from p2pfill.cli.plan_desk import logs_of, place_of
    from p2pfill.cli.plan_history import ingest_logs

    ingest_logs(
        logs or logs_of(planner), place_of(planner, "history", history), place_of(planner, "catalogue", catalogue),
        place_of(planner, "caches", caches), memory=memory, threads=threads, as_json=as_json,
    )  # fmt: skip


@app.command("history", epilog=EXIT_CODES_HELP)
def history_show(planner: Planner = PLANNER, history: MaybeHistory = None, as_json: AsJson = False) -> None:
    """Show what the history has: days, rows, bytes, and what was wrong with its logs."""
    from p2pfill.cli.plan_desk import place_of
    from p2pfill.cli.plan_history import show_history

    show_history(place_of(planner, "history", history), as_json=as_json)


@app.command("windows", epilog=EXIT_CODES_HELP)
def windows(
    planner: Planner = PLANNER,
    caches_file: Annotated[
        Path | None,
        typer.Option(
            "--caches",
            metavar="FILE",
            help="The caches, as CSV, Parquet or TOML: name, cluster, isp, region, serving (a rate); filling, timezone "
            "and need may be there too; by default as the planner's file says.",
        ),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            "--history",
            metavar="DIR",
            help="Take the load from what `plan ingest` has kept; by default as the planner's file says.",
        ),
    ] = None,
    load_file: Annotated[
        Path | None,
        typer.Option("--load", metavar="FILE", help="Or take it from a table: hour (in UTC), place, bytes."),
    ] = None,
    need: Annotated[
        str, typer.Option("--need", metavar="SIZE", help="What each cache is to fill, where its row does not say.")
    ] = "",
    headroom: Annotated[
        float, typer.Option("--headroom", metavar="SHARE", help="Of what a cache can serve, to stay free.")
    ] = 0.2,
    earliest: Annotated[
        str, typer.Option("--earliest", metavar="HH:MM", help="No window opens before, on the cache's clock.")
    ] = "00:00",
    latest: Annotated[str, typer.Option("--latest", metavar="HH:MM", help="And none closes later.")] = "24:00",
    hours: Annotated[int, typer.Option("--hours", min=1, max=24, help="For how long a cache is open at most.")] = 8,
    split: Annotated[bool, typer.Option("--split", help="Two windows a night where one is not enough.")] = False,
    begin: Annotated[
        str,
        typer.Option(
            "--from", metavar="TIME", help="Plan the 24 hours from then on (UTC); by default from the end of the load."
        ),
    ] = "",
    holidays: Annotated[
        str, typer.Option("--holidays", metavar="DATES", help="Days that are as Sundays, as in 2026-12-25,2026-12-26.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the windows there, for `p2pfill policy apply`.")
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option("--base", metavar="FILE", help="The policy that stands, to which --out adds the windows."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the forecast: with the same the same comes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Propose fill windows for the next 24 hours, from the load that is foreseen. Nothing is changed.

    With --out they are written as a policy, and `p2pfill policy apply` lets it stand.
    """
    from p2pfill.cli.plan_windows import propose_windows

    propose_windows(
        planner, caches_file, history, load_file, need, headroom, earliest, latest, hours, begin, holidays, out, base,
        seed, split=split, as_json=as_json,
    )  # fmt: skip
