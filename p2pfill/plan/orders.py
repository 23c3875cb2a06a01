"""What a plan asks of the tracker: one order for each title and set of files, on the caches that shall hold it. Pure.

The planner's orders are known by their call ids, and it touches no others. A plan replaces the one before: an order
that both ask for stays as it is, one that only the last plan asked for ends, and what it was for may go where room is
needed. What a file is worth decides how urgent its order is, and all that is to come should be there by the deadline.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.selector import SELECTOR_CHARS_MAX
from p2pfill.plan.document import Plan, PlannedFile, by_cache
from p2pfill.plan.holding import newest_of
from p2pfill.tracker.records import FillRecord, FillRequest, TitleRecord

CALL: Final = "plan:"
"""How the call id of a planner's order begins."""

REWRITE_MAX: Final = 0.10
"""Of a cache's capacity that may come in a night unless told otherwise: a plan that is wrong then costs a tenth."""


class Orders(msgspec.Struct):
    """What is to be done for a plan to stand."""

    post: list[FillRequest]
    delete: list[FillRecord]
    keep: int
    """Orders of the plan before that stay as they are."""
    unknown: dict[str, int]
    """Title that the tracker does not know -> files of the plan in it, which are left out."""


def orders_of(
    plan: Plan,
    titles: Iterable[TitleRecord],
    fills: Iterable[FillRecord],
    origins: Sequence[str],
    deadline: float | None,
) -> Orders:
    """Return what is to be ordered, and which orders end.

    `origins` are base URLs in which `{title}` stands for the title's name; `deadline` is of what is to come, in seconds
    since the epoch. Of several titles of a name the newest counts.
    """
    newest = newest_of(titles)
    by_title: dict[str, list[PlannedFile]] = defaultdict(list)
    unknown: dict[str, int] = {}
    for one in plan.files:
        if not one.holders:
            continue
        if one.title in newest:
            by_title[one.title].append(one)
        else:
            unknown[one.title] = unknown.get(one.title, 0) + 1
    wanted: dict[tuple[str, str, tuple[str, ...]], FillRequest] = {}
    for name, files in by_title.items():
        for request in _requests(plan.head.day, newest[name], files, origins, deadline):
            wanted[_what(request)] = request
    keep, delete = 0, []
    for fill in fills:
        if not fill.call_id.startswith(CALL):
            continue
        asked = wanted.get(_what(fill.request))
        if asked is None:
            delete.append(fill)
        elif asked.deadline is None or _same(asked, fill.request):
            keep += 1  # nothing is to come of it, or it stands already
            del wanted[_what(fill.request)]
        else:
            delete.append(fill)  # once another one stands in its place
    return Orders(list(wanted.values()), delete, keep, unknown)


def check_rewriting(plan: Plan, share: float = REWRITE_MAX) -> None:
    """Look whether a plan writes too much of caches that hold something. Raises `ConfigError`, with the worst."""
    worst, most = "", 0.0
    count = 0
    for name, (comes, stays, goes) in by_cache(plan.files).items():
        capacity = plan.head.capacities.get(name, 0)
        if stays + goes == 0 or not capacity:
            continue  # there is nothing to lose
        part = comes / capacity
        count += part > share
        if part > most:
            worst, most = name, part
    if count:
        raise ConfigError(
            f"the plan writes more than {share:.0%} of {count} cache{'s' if count != 1 else ''} tonight, up to "
            f"{most:.0%} of {worst}: make it with a smaller rewritten_share, or allow it here with --rewrite-max"
        )


def _requests(
    day: str, title: TitleRecord, files: Sequence[PlannedFile], origins: Sequence[str], deadline: float | None
) -> Iterable[FillRequest]:
    """Yield the orders of one title: caches that are to hold the same files of it share one."""
    held: dict[str, list[PlannedFile]] = defaultdict(list)
    for one in files:
        for cache in one.holders:
            held[cache].append(one)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for cache, its in held.items():
        paths = tuple(sorted(one.path for one in its))
        groups[() if "" in paths else paths].append(cache)
    for paths, caches in sorted(groups.items()):
        group = set(caches)
        coming = [one for one in files if group & set(one.comes)]
        priority = max((one.priority for one in coming), default=1)
        for number, selector in enumerate(_selectors(caches)):
            yield FillRequest(
                title.title,
                selector,
                [origin.replace("{title}", title.name) for origin in origins],
                priority=priority,
                deadline=deadline if coming else None,
                files=paths,
                call_id=f"{CALL}{day}:{number}",
            )


def _selectors(caches: Sequence[str]) -> Iterable[str]:
    """Yield selectors that name some caches each, as many as fit into one."""
    clauses: list[str] = []
    length = 0
    for cache in sorted(caches):
        clause = f"id={cache}"
        if length + len(clause) + 1 > SELECTOR_CHARS_MAX:
            yield ",".join(clauses)
            clauses, length = [], 0
        clauses.append(clause)
        length += len(clause) + 1
    yield ",".join(clauses)


def _what(request: FillRequest) -> tuple[str, str, tuple[str, ...]]:
    return request.title, request.selector, request.files


def _same(one: FillRequest, other: FillRequest) -> bool:
    return (one.origins, one.priority, one.deadline) == (other.origins, other.priority, other.deadline)
