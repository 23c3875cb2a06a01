"""What caches hold now, as the tracker tells it, in the planner's numbers. Pure.

The tracker knows of each cache how much it has of a title, and which orders for some files of it are done there. What
lies there of files that nothing orders any more it does not know, so it counts as not held: the plan may then say that
a file comes that is there, and nothing is fetched for it.

That, and titles that the catalogue does not have, lie there all the same (`others_of`). They may go where room is
needed, so they take no space from what is planned; but a cache in which they lie is not empty, and what takes their
place rewrites it. What viewers do not see yet is nothing to lose: it is what comes, or a fill that broke off.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import translate
from typing import Final, NamedTuple

import numpy as np

from p2pfill.model.reports import TitleReport
from p2pfill.model.selector import Selector
from p2pfill.plan.document import Plan
from p2pfill.plan.making import placement_of
from p2pfill.plan.tables import Caches, Catalogue, Longs, Placement
from p2pfill.tracker.records import FillRecord, NodeStatus, TitleRecord

SERVED: frozenset[str] = frozenset({"live", "repairing"})
"""States of a title in which what is ordered of it lies there."""

_WILD: Final = re.compile(r"[*?[]")


class _Order(NamedTuple):
    """An order of a title, and what it means in the planner's numbers."""

    fill: FillRecord
    selector: Selector
    files: frozenset[int]


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
    files = _files_by_title(catalogue)
    records = {one.title: one for one in newest_of(titles).values() if one.name in files}
    orders: dict[str, list[_Order]] = defaultdict(list)
    for fill in fills:
        if record := records.get(fill.request.title):
            meant = files_meant(files[record.name], fill.request.files)
            orders[record.title].append(_Order(fill, Selector.parse(fill.request.selector), meant))
    cache_at = {name: number for number, name in enumerate(caches.names)}
    found: list[set[int]] = [set() for _ in caches.names]
    for node in nodes:
        number = cache_at.get(node.info.id)
        if number is None:
            continue
        for report in node.titles:
            record = records.get(report.title)
            if record is None:
                continue
            if report.have_bytes >= record.size:
                found[number].update(files[record.name].values())
            elif report.state in SERVED:
                mine = [one for one in orders[report.title] if one.selector.matches(node.info)]
                found[number].update(*(one.files for one in mine if _is_done(report, one.fill)))
    return placement_of([sorted(one) for one in found])


def others_of(nodes: Iterable[NodeStatus], held: Placement, catalogue: Catalogue, caches: Caches) -> Longs:
    """Return what viewers see in each cache beside what it holds of a catalogue, in bytes."""
    cache_at = {name: number for number, name in enumerate(caches.names)}
    found = np.zeros(len(caches.names), np.int64)
    for node in nodes:
        number = cache_at.get(node.info.id)
        if number is not None:
            lies = sum(one.have_bytes for one in node.titles if is_shown(one))
            found[number] = max(lies - int(catalogue.size[held.of(number)].sum()), 0)
    return found


def is_shown(report: TitleReport) -> bool:
    """Tell whether viewers may see something of a title in a cache: it is served there, or whole."""
    return report.have_bytes > 0 and (report.state in SERVED or report.have_bytes >= report.title_bytes)


def _is_done(report: TitleReport, fill: FillRecord) -> bool:
    """Tell whether what an order means of a title lies there, which a cache shows.

    What a cache says of an older order it does not say of this one. While it repairs a title it either gets more files,
    by its newest order, or mends what had come.
    """
    if report.number < fill.number:
        return False
    is_mended = report.finished_at >= fill.ordered_at > 0
    return report.state == "live" or report.number > fill.number or is_mended


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


def files_meant(paths: Mapping[str, int], patterns: Sequence[str]) -> frozenset[int]:
    """Return the files that an order means, as `model.selection.select` has it; no patterns mean all.

    `paths`: path within the title -> number of the file.
    """
    if not patterns:
        return frozenset(paths.values())
    found = {paths[one] for one in patterns if one in paths and not one.endswith("/")}
    for pattern in patterns:
        if pattern.endswith("/"):
            found |= {number for path, number in paths.items() if path.startswith(pattern)}
        if _WILD.search(pattern):
            matches = re.compile(translate(pattern)).match
            found |= {number for path, number in paths.items() if matches(path)}
    return frozenset(found)
