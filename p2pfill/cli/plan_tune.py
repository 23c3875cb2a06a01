"""What `p2pfill plan tune` does: what part of each disk a reactive policy should have, by what was watched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Console
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.plan_desk import DAY_S, Desk, day_of
from p2pfill.cli.text import plural, printable
from p2pfill.errors import ConfigError

if TYPE_CHECKING:
    from p2pfill.plan.placement.demand import Demand

WORTH_CHANGING: Final = 0.001
"""Of the bytes asked for: a setting that serves less more is as good as the one that stands."""


def tune(planner: Path, *, days: int, as_json: bool) -> None:
    """Print what shares of the disks would have served of the last days. Raises `ConfigError`."""
    from p2pfill.plan.placement.reactive import choose_reactive_share

    desk = Desk(planner)
    with Console(stderr=True).status(f"replaying {plural(days, 'day')}", spinner="dots"):
        replayed = _days(desk, days)
        best, found = choose_reactive_share(replayed, desk.catalogue.size, desk.caches, desk.settings)
    now = desk.settings.reactive_share
    record: dict[str, Any] = {
        "days": days,
        "now": now,
        "best": best,
        "shares": [{"share": one.share, "planned": one.planned, "reactive": one.reactive, "asked": one.asked}
                   for one in found],
    }  # fmt: skip
    if as_json:
        print(json.dumps(record))
        return
    console = Console(highlight=False)
    columns = (
        Column("of each disk"), Column("served by the plan", is_right=True), Column("by the LRU", is_right=True),
        Column("in all", is_right=True),
    )  # fmt: skip
    rows = [
        [
            Text(f"{one.share:.0%}"),
            *(Text(f"{part / one.asked if one.asked else 0.0:.2%}") for part in (one.planned, one.reactive)),
            Text(f"{one.served:.2%}", style="bold" if one.share == best else ""),
        ]
        for one in found
    ]  # fmt: skip
    console.print(table_within(console.width, columns, rows))
    served = {one.share: one.served for one in found}
    if best == now or (now in served and served[best] - served[now] < WORTH_CHANGING):
        said = f"reactive_share = {now:g}, as it is, serves as much as any"
    else:
        said = f"write reactive_share = {best:g} under [placement] into {printable(str(planner))}"
    console.print(Text(said))  # not a str, in which [placement] would be markup


def _days(desk: Desk, count: int) -> list[tuple[Demand, Demand]]:
    """Return the last days of the history, each as it would have been forecast and as it was."""
    from p2pfill.plan.making import weights_by_load
    from p2pfill.plan.placement.demand import Demand, spread_demand
    from p2pfill.plan.popularity.popularity import learn

    views = desk.history.views(desk.catalogue, desk.caches.regions)
    first = views.last_day - count + 1
    if first <= views.first_day:
        raise ConfigError(
            f"{plural(count, 'day')} cannot be replayed: the history goes from {day_of(views.first_day * DAY_S)} to "
            f"{day_of(views.last_day * DAY_S)}, and each is forecast from the days before it; name fewer with --days"
        )
    weights = weights_by_load(desk.load, desk.caches)
    model = learn(views.until(first), desk.catalogue)
    found = []
    for day in range(first, views.last_day + 1):
        if day in views.unknown:
            continue
        said = spread_demand(model.forecast(day), desk.catalogue.size, desk.caches, weights)
        rows = slice(*np.searchsorted(views.day, (day, day + 1)).tolist())
        came = np.zeros_like(said.rows)
        np.add.at(came, (views.region[rows], views.file[rows]), views.bytes[rows])
        found.append((said, Demand(came, said.row, said.weight)))
        model.take_in(day, views.region[rows], views.file[rows], views.bytes[rows], views.requests[rows])
    return found
