"""What caches hold now, as the tracker tells it, in the planner's numbers. Pure.

The tracker knows of each cache how much it has of a title, and which orders for some files of it are done there. What
lies there of files that nothing orders any more it does not know, so it counts as not held: the plan may then say that
a file comes that is there, and nothing is fetched for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from p2pfill.model.selector import Selector
from p2pfill.plan.document import Plan
from p2pfill.plan.making import placement_of
from p2pfill.plan.tables import Caches, Catalogue, Placement
from p2pfill.tracker.records import FillRecord, NodeStatus, TitleRecord

SERVED: frozenset[str] = frozenset({"live", "repairing"})
"""States of a title in which what is ordered of it lies there."""


def held_of(
    nodes: Iterable[NodeStatus],
    titles: Iterable[TitleRecord],
    fills: Iterable[FillRecord],
    catalogue: Catalogue,
    caches: Caches,
) -> Placement:
    """Return what caches hold of a catalogue. Nodes, titles and files that the tables do not have are left out.

    Of several titles of a name the newest counts: what changed in it would have to come.
    """
    records = {one.title: one for one in newest_of(titles).values()}
    orders: dict[str, list[tuple[Selector, tuple[str, ...]]]] = defaultdict(list)
    for fill in fills:
        orders[fill.request.title].append((Selector.parse(fill.request.selector), fill.request.files))
    files = _files_by_title(catalogue)
    cache_at = {name: number for number, name in enumerate(caches.names)}
    found: list[set[int]] = [set() for _ in caches.names]
    for node in nodes:
        number = cache_at.get(node.info.id)
        if number is None:
            continue
        for report in node.titles:
            record = records.get(report.title)
            if record is None or record.name not in files:
                continue
            its = files[record.name]
            if report.have_bytes >= record.size:
                found[number].update(its.values())
            elif report.state in SERVED:
                for selector, patterns in orders[report.title]:
                    if selector.matches(node.info):
                        found[number].update(place for path, place in its.items() if _is_meant(path, patterns))
    return placement_of([sorted(one) for one in found])


def newest_of(titles: Iterable[TitleRecord]) -> dict[str, TitleRecord]:
    """Return name -> the title that it is published as now: the one that was added last."""
    found: dict[str, TitleRecord] = {}
    for record in titles:
        if record.name not in found or record.added_at >= found[record.name].added_at:
            found[record.name] = record
    return found


def as_planned(plan: Plan, catalogue: Catalogue, caches: Caches) -> Placement:
    """Return what caches hold if all of a plan has come and gone. What the tables no longer have is left out."""
    file_at = {name: number for number, name in enumerate(catalogue.files)}
    cache_at = {name: number for number, name in enumerate(caches.names)}
    found: list[list[int]] = [[] for _ in caches.names]
    for one in plan.files:
        for name in one.holders:
            if one.file in file_at and name in cache_at:
                found[cache_at[name]].append(file_at[one.file])
    return placement_of(found)


def _files_by_title(catalogue: Catalogue) -> dict[str, dict[str, int]]:
    """Return title -> path within it -> number of the file."""
    found: dict[str, dict[str, int]] = {name: {} for name in catalogue.titles}
    for number, (file, title) in enumerate(zip(catalogue.files, catalogue.title.tolist(), strict=True)):
        name = catalogue.titles[title]
        found[name][file[len(name) + 1 :]] = number
    return found


def _is_meant(path: str, patterns: Sequence[str]) -> bool:
    """Whether an order means a file, as `model.selection.select` has it; no patterns mean all."""
    return not patterns or any(
        path == one or (one.endswith("/") and path.startswith(one)) or fnmatchcase(path, one) for one in patterns
    )
