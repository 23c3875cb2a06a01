"""`p2pfill title`, `fills` and `nodes`: the commands and their help. What they do is imported when they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from p2pfill.cli.exits import EXIT_CODES_HELP
from p2pfill.cli.options import AsJson, DryRun, Later, TrackerUrl, Yes, selector_of
from p2pfill.errors import ConfigError

title = typer.Typer(
    help="List, show, add, pin, evict, withdraw and remove titles.", epilog=EXIT_CODES_HELP, no_args_is_help=True
)
fills = typer.Typer(help="List, show and withdraw orders.", epilog=EXIT_CODES_HELP, no_args_is_help=True)
nodes = typer.Typer(help="List caches, and remove dead ones.", epilog=EXIT_CODES_HELP, no_args_is_help=True)

route = typer.Typer(help="Explain what routes cost.", epilog=EXIT_CODES_HELP, no_args_is_help=True)
fleet = typer.Typer(help="Look over the whole fleet.", epilog=EXIT_CODES_HELP, no_args_is_help=True)

RouteEnd = Annotated[str, typer.Argument(metavar="NODE|ADDRESS", help="A cache's id, or an IP address.")]
TitleName = Annotated[
    str, typer.Argument(metavar="TITLE", help="A title's name, id, or the start of its id; of versions the newest.")
]
OneTitle = Annotated[
    str, typer.Argument(metavar="TITLE", help="A title's name, id, or the start of its id; of versions an id.")
]
FillId = Annotated[str, typer.Argument(metavar="FILL", help="A fill's id, as `fills list` shows it, or its start.")]


@title.command("list", epilog=EXIT_CODES_HELP)
def title_list(tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """List the catalogue, the versions of a name together, the newest order first."""
    from p2pfill.cli.catalogue import list_titles

    list_titles(tracker_url, as_json=as_json)


@title.command("add", epilog=EXIT_CODES_HELP)
def title_add(
    fill_files: Annotated[
        list[Path], typer.Argument(metavar="FILE.fill...", help="Manifests, as `p2pfill publish` makes them.")
    ],
    tracker_url: TrackerUrl,
    as_json: AsJson = False,
) -> None:
    """Have the catalogue know titles that nothing orders yet, as a plan needs them. Again is harmless."""
    from p2pfill.cli.catalogue import add_titles

    add_titles(fill_files, tracker_url, as_json=as_json)


@title.command("show", epilog=EXIT_CODES_HELP)
def title_show(name: TitleName, tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """Show one title: what orders it, and which caches have a part of it."""
    from p2pfill.cli.catalogue import show_title

    show_title(name, tracker_url, as_json=as_json)


@title.command("pin", epilog=EXIT_CODES_HELP)
def title_pin(
    name: TitleName,
    tracker_url: TrackerUrl,
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="SELECTOR", help="Which caches: an id, or a selector as for `fill --to`.")
    ] = "all",
    later: Later = False,
    as_json: AsJson = False,
) -> None:
    """Have caches keep what they hold of a title though no order wants it, also those that come to hold it later.

    A pin fetches nothing. It stands until `title unpin`; `title withdraw --urgent` and `title remove` end it too.
    """
    from p2pfill.cli.catalogue import pin_title

    pin_title(name, nodes, tracker_url, later=later, as_json=as_json)


@title.command("unpin", epilog=EXIT_CODES_HELP)
def title_unpin(
    name: OneTitle,
    tracker_url: TrackerUrl,
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="SELECTOR", help="The pin with this selector; by default all.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Take back pins of a title: where no order wants it, it goes when room is needed."""
    from p2pfill.cli.catalogue import unpin_title

    unpin_title(name, nodes, tracker_url, as_json=as_json)


@title.command("evict", epilog=EXIT_CODES_HELP)
def title_evict(
    tracker_url: TrackerUrl,
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="SELECTOR", help="Which caches: an id, or a selector as for `fill --to`.")
    ] = "all",
    free: Annotated[
        str, typer.Option("--free", metavar="SIZE", help="How much is to be free on each then, as in 20GiB.")
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", min=0.0, help="Exit code 4 after that.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Have caches delete titles that nothing keeps, the longest unused first, until so much is free on each.

    What is ordered, pinned or in use stays. With --dry-run nothing goes: it shows what would, in order, and what keeps
    the rest; without --free it shows all that may go.
    """
    from p2pfill.cli.evict import evict_titles
    from p2pfill.model.quantities import parse_bytes

    evict_titles(
        selector_of(nodes), tracker_url, free_bytes=parse_bytes(free) if free else 0, dry_run=dry_run, yes=yes,
        timeout_s=timeout_s, as_json=as_json,
    )  # fmt: skip


@title.command("withdraw", epilog=EXIT_CODES_HELP)
def title_withdraw(
    name: OneTitle,
    tracker_url: TrackerUrl,
    urgent: Annotated[
        bool, typer.Option("--urgent", help="Delete it on every cache, also on those that come back later.")
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Withdraw all orders of a title.

    Caches keep its files until they need the room. With --urgent they delete it: the link in live/ first, then the
    files. live/NAME then shows the newest version that is still there and ordered, or nothing. Its pins go, too. A
    later order of the title lifts that.
    """
    from p2pfill.cli.catalogue import withdraw_title

    withdraw_title(name, tracker_url, urgent=urgent, dry_run=dry_run, yes=yes, as_json=as_json)


@title.command("remove", epilog=EXIT_CODES_HELP)
def title_remove(
    name: OneTitle, tracker_url: TrackerUrl, dry_run: DryRun = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Have the catalogue forget a title that nothing orders, and its pins.

    Caches keep its files until they need the room: see `title withdraw --urgent`.
    """
    from p2pfill.cli.catalogue import remove_title

    remove_title(name, tracker_url, dry_run=dry_run, yes=yes, as_json=as_json)


@fills.command("list", epilog=EXIT_CODES_HELP)
def fills_list(tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """List all orders, the most urgent first."""
    from p2pfill.cli.catalogue import list_fills

    list_fills(tracker_url, as_json=as_json)


@fills.command("show", epilog=EXIT_CODES_HELP)
def fills_show(fill: FillId, tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """Show one order with the progress of each cache, and what those that are not done wait for."""
    from p2pfill.cli.catalogue import show_fill

    show_fill(fill, tracker_url, as_json=as_json)


@fills.command("withdraw", epilog=EXIT_CODES_HELP)
def fills_withdraw(fill: FillId, tracker_url: TrackerUrl, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Withdraw one order. Other orders of the title stand, and caches keep what they have."""
    from p2pfill.cli.catalogue import withdraw_fill

    withdraw_fill(fill, tracker_url, dry_run=dry_run, as_json=as_json)


@nodes.command("list", epilog=EXIT_CODES_HELP)
def nodes_list(tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """List every cache that the tracker knows."""
    from p2pfill.cli.catalogue import list_nodes

    list_nodes(tracker_url, as_json=as_json)


@nodes.command("remove", epilog=EXIT_CODES_HELP)
def nodes_remove(
    tracker_url: TrackerUrl,
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="A cache's id.")] = "",
    silent: Annotated[
        str, typer.Option("--silent", metavar="SPAN", help="All that have not reported for so long, as in 12h or 3d.")
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Have the tracker forget a dead cache and what it was to hold, or all that are silent for long.

    If one reports again, it is a new one, and is told its orders again. By itself the tracker forgets caches after 30
    days of silence, and those that had reported for less than an hour after one day.
    """
    from p2pfill.cli.catalogue import remove_node, remove_silent_nodes

    if bool(node) == bool(silent):
        raise ConfigError("nodes remove: name one cache, or give --silent SPAN")
    if silent:
        remove_silent_nodes(silent, tracker_url, dry_run=dry_run, yes=yes, as_json=as_json)
    else:
        remove_node(node, tracker_url, dry_run=dry_run, yes=yes, as_json=as_json)


@route.command("explain", epilog=EXIT_CODES_HELP)
def route_explain(receiver: RouteEnd, source: RouteEnd, tracker_url: TrackerUrl, as_json: AsJson = False) -> None:
    """Say what a byte to the first cache or address from the second costs, and why.

    Of each end the prefix that matches, its AS path, local preference and MED; each part of the cost with its weight.
    """
    from p2pfill.cli.routes import explain_route

    explain_route(receiver, source, tracker_url, as_json=as_json)


@fleet.command("lint", epilog=EXIT_CODES_HELP)
def fleet_lint(tracker_url: TrackerUrl, as_json: AsJson = False) -> int:
    """Look for what costs bytes, or will: exit code 5 where something is found.

    Caches that had bytes from afar though another one near them, or with a cheaper route, had the title; sites whose
    caches are announced differently; an ISP in two regions; labels that differ by case or spaces only; caches that
    name the same address.
    """
    from p2pfill.cli.lint import lint_fleet

    return lint_fleet(tracker_url, as_json=as_json)
