"""`p2pfill policy`: the commands and their help. What they do is imported when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import AsJson, DryRun, TrackerUrl

app = typer.Typer(
    help="The fleet's policy: when and how fast caches fill, how far they go for what, and what stays where.",
    epilog=EXIT_CODES_HELP,
    no_args_is_help=True,
)

PolicyFile = Annotated[str, typer.Argument(metavar="FILE", help="A policy in TOML; - for the standard input.")]
FileOrVersion = Annotated[
    str, typer.Argument(metavar="FILE|N", help="A policy in TOML, or the number of a version in the tracker.")
]
Comment = Annotated[str, typer.Option("--comment", metavar="TEXT", help="Why, for the log.")]
By = Annotated[str, typer.Option("--by", metavar="NAME", help="Who, for the log; by default the name of the user.")]
MaybeTracker = Annotated[
    str,
    typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="The tracker, where a version is named."),
]


@app.command("check", epilog=EXIT_CODES_HELP)
def check(
    file: PolicyFile,
    night: Annotated[
        str,
        typer.Option(
            "--night",
            metavar="DATE|last",
            help="Also rebuild this night in the simulator, and say what the policy would have given; last: the last "
            "one that is over, or the newest.",
        ),
    ] = "",
    tracker_url: Annotated[
        str,
        typer.Option("--tracker", metavar="URL", envvar="P2PFILL_TRACKER", help="The tracker that has the night."),
    ] = "",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the simulation: with the same the same comes.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether a policy can be used, and all that is wrong with it, each with its place. Needs no tracker.

    With --night a recorded night is rebuilt in the simulator, on this machine, which takes up to some minutes.

    First under the policy that stood, which should give that night's bytes by tier within 5 %: else the exit code is 1.

    Then under this one, beside it.
    """
    from p2pfill.cli.policies import check_file

    check_file(file, as_json=as_json, night=night, tracker=tracker_url, seed=seed)


@app.command("diff", epilog=EXIT_CODES_HELP)
def diff(
    before: FileOrVersion = "", after: FileOrVersion = "", tracker_url: MaybeTracker = "", as_json: AsJson = False
) -> None:
    """Say in words what differs from one policy to another.

    With one, from the policy that stands to that one. With none, from the version before to the one that stands.
    """
    from p2pfill.cli.policies import show_diff

    show_diff(before, after, tracker_url, as_json=as_json)


@app.command("apply", epilog=EXIT_CODES_HELP)
def apply(
    file: PolicyFile,
    tracker_url: TrackerUrl,
    comment: Comment = "",
    by: By = "",
    base: Annotated[
        int | None,
        typer.Option("--base", metavar="N", min=0, help="Only where version N stands still; 0: none was ever applied."),
    ] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let a policy stand from now on. Caches are told within seconds, also of fills that run."""
    from p2pfill.cli.policies import apply_file

    apply_file(file, tracker_url, comment=comment, by=by, base=base, dry_run=dry_run, as_json=as_json)


@app.command("rollback", epilog=EXIT_CODES_HELP)
def rollback(
    tracker_url: TrackerUrl,
    number: Annotated[int, typer.Argument(metavar="[N]", min=0, help="By default the version before.")] = 0,
    comment: Comment = "",
    by: By = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Let an earlier version stand again. That makes a new version with its text."""
    from p2pfill.cli.policies import roll_back

    roll_back(number, tracker_url, comment=comment, by=by, dry_run=dry_run, as_json=as_json)


@app.command("show", epilog=EXIT_CODES_HELP)
def show(
    tracker_url: TrackerUrl,
    number: Annotated[int, typer.Argument(metavar="[N]", min=0, help="By default the version that stands.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Print a version of the policy as it was applied."""
    from p2pfill.cli.policies import show_version

    show_version(number, tracker_url, as_json=as_json)


@app.command("log", epilog=EXIT_CODES_HELP)
def log(tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """List the versions that the tracker keeps, the latest first."""
    from p2pfill.cli.policies import list_versions

    list_versions(tracker_url, as_json=as_json)
