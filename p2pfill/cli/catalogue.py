"""What `p2pfill title`, `fills` and `nodes` do: calls of the tracker's API, shown to people or as JSON.

Whatever deletes something says first what, and asks, unless `--yes` is given; with `--dry-run` it only says it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.text import Text

from p2pfill.cli.board import fill_table
from p2pfill.cli.calling import call_tracker
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.exits import CommandFailed
from p2pfill.cli.fill import order_now
from p2pfill.cli.fleet import nodes_table
from p2pfill.cli.naming import ID_CHARS, find_fill, find_title, find_title_to_change, pinned
from p2pfill.cli.options import selector_of
from p2pfill.cli.reasons import reasons
from p2pfill.cli.signing import encoded_beside
from p2pfill.cli.text import plural, printable, read_manifest, show_bytes, show_seconds
from p2pfill.errors import ConfigError
from p2pfill.model.quantities import parse_span
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRecord, TitleHolder, TitleHolders, TitleRecord

NAMED_MAX: Final = 10
"""Caches that a line names."""
SELECTOR_WIDTH: Final = 24
"""Of a column with selectors: those of many parts are broken into lines, so that the other columns stay."""


def _run(tracker: str, work: Callable[[TrackerClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with call_tracker(tracker) as client:
            await work(client)

    trio.run(run)


def _print_json(record: Any) -> None:
    print(msgspec.json.encode(record).decode())


async def confirm(what: str, *, yes: bool) -> None:
    """Ask before something is deleted. Raises `ConfigError` where nobody can answer, `CommandFailed` on a no."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{what}: nobody can be asked here; add --yes, or --dry-run to see what it means")
    answer = await trio.to_thread.run_sync(input, f"{printable(what)}? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise CommandFailed("nothing was done")


# ---- titles


def add_titles(paths: Sequence[Path], tracker: str, *, as_json: bool) -> None:
    """Hand manifests to the tracker, each of which is read before the first is sent. Raises `ConfigError`."""
    manifests = [read_manifest(path) for path in paths]
    signatures = [encoded_beside(*pair) for pair in zip(paths, manifests, strict=True)]

    async def work(client: TrackerClient) -> None:
        added = [
            await client.put_title(one.title_id.hex(), one.encode(), signed)
            for one, signed in zip(manifests, signatures, strict=True)
        ]
        if as_json:
            _print_json(added)
            return
        for title in added:
            print(f"the catalogue has {printable(title.name)} {title.title[:ID_CHARS]}, {show_bytes(title.size)}")

    _run(tracker, work)


def list_titles(tracker: str, *, as_json: bool) -> None:
    """Print the catalogue."""

    async def work(client: TrackerClient) -> None:
        titles, fills = await client.titles(), await client.fills()
        numbers: dict[str, int] = {}
        for fill in fills:
            numbers[fill.request.title] = max(fill.number, numbers.get(fill.request.title, 0))
        titles.sort(key=lambda one: (one.name, -numbers.get(one.title, 0), -one.added_at))
        if as_json:
            _print_json(titles)
            return
        console = Console()
        console.print(titles_table(titles, numbers, console.width))

    _run(tracker, work)


def titles_table(titles: list[TitleRecord], numbers: dict[str, int], width: int) -> RenderableType:
    """Return the catalogue as a table of at most `width` characters; `numbers` are those of the newest orders."""
    columns = [
        Column("title"), Column("id"), Column("size", 2, is_right=True), Column("files", 4, is_right=True),
        Column("order", 1, is_right=True), Column("pinned", 3, most=SELECTOR_WIDTH),
    ]  # fmt: skip
    rows = [
        _cells(
            one.name, one.title[:ID_CHARS], show_bytes(one.size), f"{one.file_count:,}",
            str(numbers.get(one.title) or "none"), _pins(one),
        )
        for one in titles
    ]  # fmt: skip
    return table_within(width, columns, rows)


def _cells(*texts: str) -> list[Text]:
    return [Text(printable(text)) for text in texts]


def show_title(name: str, tracker: str, *, as_json: bool) -> None:
    """Print what orders a title, and who has a part of it."""

    async def work(client: TrackerClient) -> None:
        found = await client.holders(await find_title(client, name))
        if as_json:
            _print_json(found)
            return
        _print_holders(found)

    _run(tracker, work)


def _print_holders(found: TitleHolders) -> None:
    console = Console()
    console.print(_head(found.title), holders_table(found, console.width), sep="\n")


def _head(title: TitleRecord) -> Text:
    head = Text(printable(title.name), style="bold")
    head.append(f"  {title.title}  {show_bytes(title.size)}, {plural(title.file_count, 'file')}", style="dim")
    return head


def holders_table(found: TitleHolders, width: int) -> RenderableType:
    """Return what orders, pins and holds a title."""
    columns = [
        Column(""), Column(""), Column("state", most=SELECTOR_WIDTH), Column("has", 2),
        Column("order", 3, is_right=True), Column("kept by", 1),
    ]  # fmt: skip
    rows = []
    for fill in found.fills:
        what = f"{plural(fill.file_count, 'file')}, {show_bytes(fill.file_bytes)}" if fill.file_count else ""
        rows.append(_cells("fill", fill.fill_id, f"to {fill.request.selector}", what, str(fill.number), ""))
    rows += [_cells("pin", "", f"on {selector}", "", "", "") for selector in found.title.pins]
    for one in found.holders:
        state = one.state if one.alive else f"{one.state}, dead"
        rows.append(
            _cells("cache", one.node, state, show_bytes(one.have_bytes), str(one.number), _kept(one, found))
        )
    parts = [table_within(width, columns, rows)] if rows else [Text("nothing orders it, and no cache has a part of it")]
    if found.withdrawn:
        parts.append(Text("withdrawn: caches that hold it delete it"))
    elif any(not one.kept_by for one in found.holders):
        parts.append(Text("kept by nothing: it goes when the cache needs the room"))
    return Group(*parts)


def _kept(holder: TitleHolder, found: TitleHolders) -> str:
    if found.withdrawn:
        return ""
    return (", ".join(holder.kept_by) or "nothing") + ("; low on space" if holder.is_low else "")


def _pins(title: TitleRecord) -> str:
    return printable(" ".join(title.pins))


def pin_title(name: str, nodes: str, tracker: str, *, later: bool, as_json: bool) -> None:
    """Have caches keep a title, with `later` also where no running one matches."""
    selector = selector_of(nodes)

    async def work(client: TrackerClient) -> None:
        found = await client.holders(await find_title(client, name))
        if found.withdrawn:
            raise CommandFailed(f"{found.title.name} was withdrawn and is deleted everywhere: order it again first")
        pin = partial(client.pin, found.title.title, selector, nodes_min=0 if later else 1)
        await order_now(pin)
        await _tell_pins(client, found.title.title, f"pin {found.title.name} on {selector}", as_json=as_json)

    _run(tracker, work)


def unpin_title(name: str, nodes: str, tracker: str, *, as_json: bool) -> None:
    """Take back the pin of a selector, or all of a title."""
    selector = selector_of(nodes) if nodes else ""

    async def work(client: TrackerClient) -> None:
        title = await client.title(await find_title_to_change(client, name, pinned))
        await client.unpin(title.title, selector)
        what = f"unpin {title.name}, which was pinned on {selector or _pins(title)}"
        await _tell_pins(client, title.title, what, as_json=as_json)

    _run(tracker, work)


async def _tell_pins(client: TrackerClient, title: str, what: str, *, as_json: bool) -> None:
    found = await client.holders(title)
    if as_json:
        _print_json(found)
        return
    print(f"done: {printable(what)}")
    if not found.holders:
        print("no cache holds any of it yet; a pin fetches nothing, see p2pfill fill")
        return
    console = Console()
    console.print(holders_table(found, console.width))


def withdraw_title(name: str, tracker: str, *, urgent: bool, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Withdraw all orders of a title; with `urgent` have every cache delete it."""

    async def work(client: TrackerClient) -> None:
        found = await client.holders(await find_title_to_change(client, name))
        held = sum(one.have_bytes for one in found.holders)
        holders = f"{plural(len(found.holders), 'cache')} with {show_bytes(held)}"
        what = f"withdraw {plural(len(found.fills), 'order')} of {found.title.name} {found.title.title[:ID_CHARS]}"
        if urgent:
            if found.title.pins:
                what += f", unpin it (pinned on {_pins(found.title)})"
            what += f" and delete it on {holders}"
        if not as_json:
            _print_holders(found)
        if not dry_run:
            if urgent:
                await confirm(what, yes=yes)
            found = await client.withdraw(found.title.title, urgent=urgent)
        if as_json:
            _print_json(found)
            return
        print(f"{'would' if dry_run else 'done:'} {printable(what)}")
        if not urgent:
            print(f"{holders} keep it until they need the room")
            if found.title.pins:
                print(
                    f"where it is pinned ({_pins(found.title)}) also then, until: "
                    f"p2pfill title unpin {found.title.title[:ID_CHARS]} --tracker {tracker}"
                )

    _run(tracker, work)


def remove_title(name: str, tracker: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Have the catalogue forget a title."""

    async def work(client: TrackerClient) -> None:
        title = await client.title(await find_title_to_change(client, name, list))
        what = f"remove {title.name} {title.title[:ID_CHARS]} from the catalogue"
        if title.pins:
            what += f", and its pins ({_pins(title)})"
        if not dry_run:
            await confirm(what, yes=yes)
            await client.delete_title(title.title)
        _outcome(title, what, dry_run=dry_run, as_json=as_json)

    _run(tracker, work)


def _outcome(record: Any, what: str, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        _print_json(record)
    else:
        print(f"{'would' if dry_run else 'done:'} {printable(what)}")


# ---- fills


def list_fills(tracker: str, *, as_json: bool) -> None:
    """Print all orders."""

    async def work(client: TrackerClient) -> None:
        fills = await client.fills()
        if as_json:
            _print_json(fills)
            return
        names = {title.title: title.name for title in await client.titles()}
        console = Console()
        console.print(fills_table(fills, names, console.width))

    _run(tracker, work)


def fills_table(fills: list[FillRecord], names: dict[str, str], width: int) -> RenderableType:
    """Return orders as a table of at most `width` characters; `names` are those of titles."""
    columns = [
        Column("fill"), Column("title"), Column("id", 4), Column("files", 5), Column("order", 3, is_right=True),
        Column("priority", 6, is_right=True), Column("to", 1, most=SELECTOR_WIDTH),
        Column("origins", 7), Column("age", 2, is_right=True),
    ]  # fmt: skip
    rows = [
        _cells(
            fill.fill_id, names.get(fill.request.title, ""), fill.request.title[:ID_CHARS],
            str(fill.file_count or "all"), str(fill.number), str(fill.request.priority), fill.request.selector,
            " ".join(fill.request.origins), show_seconds(max(0.0, time.time() - fill.created_at)),
        )
        for fill in fills
    ]  # fmt: skip
    return table_within(width, columns, rows)


def show_fill(fill_id: str, tracker: str, *, as_json: bool) -> None:
    """Print one order with the progress of its caches."""

    async def work(client: TrackerClient) -> None:
        status = await client.fill(await find_fill(client, fill_id))
        if as_json:
            _print_json(status)
            return
        console = Console()
        console.print(fills_table([status.fill], {status.fill.request.title: status.title_name}, console.width))
        console.print(fill_table(status, width=console.width), *map(Text, reasons(status)), sep="\n")
        for origin, kept in sorted(status.totals.origins.items(), key=lambda one: (-one[1], one[0])):
            console.print(Text(f"{show_bytes(kept)} from {printable(origin)}"))

    _run(tracker, work)


def withdraw_fill(fill_id: str, tracker: str, *, dry_run: bool, as_json: bool) -> None:
    """Withdraw one order."""

    async def work(client: TrackerClient) -> None:
        status = await client.fill(await find_fill(client, fill_id))
        name, caches = status.title_name or status.fill.request.title[:ID_CHARS], plural(status.totals.nodes, "cache")
        if not dry_run:
            await client.delete_fill(status.fill.fill_id, status.fill)
        _outcome(status.fill, f"withdraw the order of {name} to {caches}", dry_run=dry_run, as_json=as_json)

    _run(tracker, work)


# ---- nodes


def list_nodes(tracker: str, *, as_json: bool) -> None:
    """Print every cache."""

    async def work(client: TrackerClient) -> None:
        nodes = await client.nodes()
        if as_json:
            _print_json(nodes)
            return
        console = Console()
        console.print(nodes_table(nodes, len(nodes), console.width))

    _run(tracker, work)


def remove_node(node_id: str, tracker: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Have the tracker forget a dead cache."""

    async def work(client: TrackerClient) -> None:
        node = await client.node(node_id)
        if node.alive:
            raise CommandFailed(f"cache {node_id} is alive: stop it first, or it would come back at once")
        what = f"forget cache {node_id}, which was last seen {show_seconds(node.age_s)} ago"
        if not dry_run:
            await confirm(what, yes=yes)
            await client.delete_node(node_id)
        _outcome(node, what, dry_run=dry_run, as_json=as_json)

    _run(tracker, work)


def remove_silent_nodes(span: str, tracker: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Have the tracker forget all caches that have been silent for a span."""
    silent_s = parse_span(span)
    if silent_s is None:
        raise ConfigError(f"--silent {span[:40]!r}: write how long, as in 12h or 3d")

    async def work(client: TrackerClient) -> None:
        nodes = [node for node in await client.nodes() if not node.alive and node.age_s >= silent_s]
        named = ", ".join(node.info.id for node in nodes[:NAMED_MAX])
        more = f" and {len(nodes) - NAMED_MAX} more" if len(nodes) > NAMED_MAX else ""
        what = f"forget {plural(len(nodes), 'cache')}{': ' if nodes else ''}{named}{more}"
        if nodes and not dry_run:
            await confirm(what, yes=yes)
            for node in nodes:
                try:
                    await client.delete_node(node.info.id)
                except TrackerRefused as error:
                    if error.status not in (404, 409):  # it is back, or somebody else was faster
                        raise
        _outcome(nodes, what, dry_run=dry_run, as_json=as_json)

    _run(tracker, work)
