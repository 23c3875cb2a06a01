"""What `p2pfill limit` does: standing limits of rates, kept by the tracker."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import partial

import msgspec
import trio
from rich.console import Console, RenderableType
from rich.text import Text

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.fill import order_now
from p2pfill.cli.options import selector_of
from p2pfill.cli.text import printable
from p2pfill.errors import ConfigError
from p2pfill.model.rates import NO_LIMITS, RateLimits, parse_limits, spell
from p2pfill.tracker.records import LimitRecord, Limits


def limit_nodes(
    nodes: str, rates: Sequence[str], tracker: str, *, clear: bool, later: bool, as_json: bool
) -> None:
    """Set the limit of a selector, clear it, or without one show all. Raises `ConfigError`."""
    if not nodes and (rates or clear):
        raise ConfigError("a limit needs a SELECTOR: an id, `all`, or as for `fill --to`")
    if nodes and bool(rates) == clear:
        raise ConfigError(f"limit {nodes[:80]!r}: give either rates, such as 150MiB or out=1.2Gbit, or --clear")
    limits = _limits_of(nodes, rates) if rates else NO_LIMITS
    selector = selector_of(nodes) if nodes else ""

    async def work() -> list[LimitRecord]:
        async with call_tracker(tracker) as client:
            if not selector:
                return await client.limits()
            set_it = partial(client.set_limit, selector, limits, nodes_min=0 if later or clear else 1)
            return await order_now(set_it)

    standing = trio.run(work)
    if as_json:
        print(msgspec.json.encode(Limits(standing)).decode())
        return
    if selector:
        print(f"done: {'clear' if clear else 'set'} the limit of {printable(selector)}")
    console = Console()
    console.print(limits_table(standing, console.width) if standing else "no limit stands", highlight=False)


def _limits_of(nodes: str, rates: Sequence[str]) -> RateLimits:
    try:
        return parse_limits(rates)
    except ConfigError:
        with suppress(ConfigError):
            parse_limits([nodes])
            raise CommandFailed(
                f"{nodes[:80]!r} is a rate: the SELECTOR goes first, as in `p2pfill limit all {nodes[:80]}`",
                ExitCode.USAGE,
            ) from None
        raise


def limits_table(standing: Sequence[LimitRecord], width: int) -> RenderableType:
    """Return all limits as a table of at most `width` characters."""
    rows = [[Text(printable(one.selector)), Text(spell(one.rates))] for one in standing]
    return table_within(width, [Column("caches"), Column("limit")], rows)
