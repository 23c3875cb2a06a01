"""`p2pfill route explain`: what a byte between two caches or addresses costs."""

from __future__ import annotations

from typing import Final

import msgspec
import trio
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.text import printable
from p2pfill.model.routes import RouteCost, Side

UNITS: Final = {
    "configured": "configured", "as_hops": "AS hops", "local_preference": "local preference below 100", "med": "MED",
    "distance": "kilometres",
}  # fmt: skip


def explain_route(receiver: str, source: str, tracker: str, *, as_json: bool) -> None:
    """Print what a byte to `receiver` from `source` costs, each a cache's id or an address."""
    trio.run(_explain, receiver, source, tracker, as_json)


async def _explain(receiver: str, source: str, tracker: str, as_json: bool) -> None:
    async with call_tracker(tracker) as client:
        found = await client.route(receiver, source)
    if as_json:
        print(msgspec.json.encode(found).decode())
    else:
        Console().print(route_view(found))


def route_view(found: RouteCost) -> RenderableType:
    """Return the cost of a route as text: both ends, then each part, then the sum."""
    head = Text(f"A byte to {_name(found.receiver)} from {_name(found.source)} costs ", style="bold")
    head.append(f"{found.cost:.4g}", style="bold green")
    lines = [head, _end_line("to", found.receiver, found.table), _end_line("from", found.source, found.table), Text("")]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("part")
    for name in ("value", "weight", "cost"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for part in found.parts:
        figures = (f"{part.value:,.4g}" if part.value < 1000 else f"{part.value:,.0f}", f"{part.weight:g}")
        table.add_row(UNITS[part.kind], *figures, f"{part.cost:.4g}", Text(printable(part.why)))
    return Group(*lines, table)


def _name(side: Side) -> str:
    return printable(side.id or side.address)


def _end_line(which: str, side: Side, table: str) -> Text:
    line = Text(f"{which:<5}{_name(side)}")
    if side.id:
        line.append(f" at {printable(side.address) or 'no address'}")
    if side.prefix:
        path = " ".join(side.as_path) or "empty"
        line.append(f": in {side.prefix}, AS path {printable(path)}")
        line.append(f", local preference {'none' if side.local_preference is None else side.local_preference}")
        line.append(f", MED {'none' if side.med is None else side.med}")
    elif table:
        line.append(f": in no prefix of {printable(table)}")
    if side.latitude is not None and side.longitude is not None:
        line.append(f", at {side.latitude:g} {side.longitude:g}")
    return line
