"""What a plan asks of the tracker: one order for each title and set of files, on the caches that shall hold it. Pure.

The planner's orders are known by their call ids and by their selectors, which name caches one by one (`is_planned`),
and it touches no others; nor those of caches that the plan knows nothing of, which another planner may have. A plan
replaces the one before: an order that both ask for stays as it is, one that only the last plan asked for ends, and what
it was for may go where room is needed. What a file is worth decides how urgent its order is, and all that is to come
should be there by the deadline.

What is in a plan or a catalogue is foreign text: a cache's name must be a node's id, lest it be a pattern for many; a
path with the signs of wildcards in it is ordered by a pattern that means it alone; and a title's name is put into an
origin's URL as one part of a path, whatever is in it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from glob import escape
from itertools import product
from typing import Final
from urllib.parse import quote

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.ids import node_id_from_text
from p2pfill.model.selection import PATTERNS_MAX, WILDCARDS_MAX
from p2pfill.model.selector import SELECTOR_CHARS_MAX
from p2pfill.origin.urls import check_origin, is_bucket, is_http
from p2pfill.plan.document import Plan, PlannedFile
from p2pfill.plan.holding import newest_of
from p2pfill.tracker.records import FillRecord, FillRequest, TitleRecord

CALL: Final = "plan:"
"""How the call id of a planner's order begins."""

_CALL_ID: Final = re.compile(rf"{CALL}\d{{4}}-\d\d-\d\d:\d+")
_NAMED: Final = re.compile(r"id=[A-Za-z0-9._-]+(,id=[A-Za-z0-9._-]+)*")
_WILD: Final = re.compile(r"[*?[]")
_BRACKETED: Final = re.compile(r"\[([*?[])\1*\]")


class Orders(msgspec.Struct):
    """What is to be done for a plan to stand."""

    post: list[FillRequest]
    delete: list[FillRecord]
    keep: int
    """Orders of the plan before that stay as they are."""
    unknown: dict[str, int]
    """Title that the tracker does not know -> files of the plan in it, which are left out."""
    withdrawn: dict[str, int] = {}
    """Title that was withdrawn and that no cache may hold -> likewise. An order would bring it back."""
    names: dict[str, str] = {}
    """Id of a title -> its name, of all that the tracker has."""


def orders_of(
    plan: Plan,
    titles: Iterable[TitleRecord],
    fills: Iterable[FillRecord],
    origins: Sequence[str],
    deadline: float | None,
    withdrawn: Collection[str] = (),
) -> Orders:
    """Return what is to be ordered, and which orders end.

    `origins` are base URLs in which `{title}` stands for the title's name; `deadline` is of what is to come, in seconds
    since the epoch; `withdrawn` are titles, by id, that no cache may hold until they are ordered again, which is not
    for a plan to decide. Of several titles of a name the newest counts. Raises `ConfigError` where the plan names a
    cache as none can be called, or a title's name fits into no origin.
    """
    records, fills = list(titles), list(fills)
    newest = newest_of(records)
    by_title: dict[str, list[PlannedFile]] = defaultdict(list)
    unknown: dict[str, int] = {}
    gone: dict[str, int] = {}
    for one in plan.files:
        for cache in one.holders:
            node_id_from_text(cache)
        if not one.holders:
            continue
        if one.title not in newest:
            unknown[one.title] = unknown.get(one.title, 0) + 1
        elif newest[one.title].title in withdrawn:
            gone[one.title] = gone.get(one.title, 0) + 1
        else:
            by_title[one.title].append(one)
    wanted: dict[tuple[str, str, tuple[str, ...]], FillRequest] = {}
    for name, files in by_title.items():
        for request in _requests(plan.head.day, newest[name], files, origins, deadline):
            wanted[_what(request)] = request
    keep, delete = 0, []
    own = {fill.fill_id for fill in fills if is_planned(fill)}
    for fill in fills:
        # The tracker has one order of each content: to ask for the same would make the planner's what is another's.
        asked = wanted.get(_what(fill.request))
        if fill.fill_id not in own and asked is not None and msgspec.structs.replace(asked, call_id="") == fill.request:
            keep += 1
            del wanted[_what(fill.request)]
    known = {*plan.head.capacities, *(name for one in plan.files for name in (*one.comes, *one.stays, *one.goes))}
    for fill in fills:
        if fill.fill_id not in own or known.isdisjoint(named_by(fill)):
            continue
        asked = wanted.get(_what(fill.request))
        if asked is None:
            delete.append(fill)
        elif asked.deadline is None or _same(asked, fill.request):
            keep += 1  # nothing is to come of it, or it stands already
            del wanted[_what(fill.request)]
        else:
            delete.append(fill)  # once another one stands in its place
    names = {record.title: record.name for record in records}
    return Orders(list(wanted.values()), delete, keep, unknown, gone, names)


def is_planned(fill: FillRecord) -> bool:
    """Tell whether an order is a planner's: others may have call ids that begin alike."""
    return bool(_CALL_ID.fullmatch(fill.call_id) and _NAMED.fullmatch(fill.request.selector))


def named_by(fill: FillRecord) -> list[str]:
    """Return the caches that a planner's order names."""
    return [clause.removeprefix("id=") for clause in fill.request.selector.split(",")]


def origin_of(base: str, name: str) -> str:
    """Return an origin of a title: a base URL with the title's name in the place of `{title}`. Raises `ConfigError`.

    Whatever the name has in it stays one part of the path: in a URL it is encoded, and in a bucket, where nothing is,
    what would end the prefix is refused.
    """
    if is_bucket(base):
        if "?" in name and "{title}" in base:
            raise ConfigError(f"title {name!r} has a question mark, which no prefix in a bucket can have: {base}")
        text = name
    else:
        text = quote(name, safe="") if is_http(base) or base[:5].lower() == "file:" else name
    url = base.replace("{title}", text)
    check_origin(url)
    return url


def pattern_of(path: str, paths: Collection[str]) -> str:
    """Return what an order has for one file of a title: the path, or a pattern that means it and none of `paths` else.

    A path with the signs of wildcards in it means itself, but as a pattern may mean others besides; each sign in
    brackets means itself alone. That is a text which could be a path too: then brackets have it twice.
    """
    if not _WILD.search(path):
        return path
    pattern, signs = escape(path), 1
    while pattern in paths:
        signs += 1
        pattern = _WILD.sub("[" + r"\g<0>" * signs + "]", path)
    return pattern


def path_of(pattern: str) -> str:
    """Return the path that `pattern_of` made a pattern of."""
    return _BRACKETED.sub(r"\1", pattern)


def _requests(
    day: str, title: TitleRecord, files: Sequence[PlannedFile], origins: Sequence[str], deadline: float | None
) -> Iterable[FillRequest]:
    """Yield the orders of one title: caches that are to hold the same files of it share one, or some if need be."""
    every = {one.path for one in files}
    patterns = {path: pattern_of(path, every) for path in every}
    urls = [origin_of(origin, title.name) for origin in origins]
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
        portions = list(_portions([patterns[path] for path in paths])) if paths else [()]
        for number, (selector, chosen) in enumerate(product(_selectors(caches), portions)):
            yield FillRequest(
                title.title, selector, urls, priority=priority, deadline=deadline if coming else None, files=chosen,
                call_id=f"{CALL}{day}:{number}",
            )  # fmt: skip


def _portions(patterns: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """Yield patterns in as many portions as orders need for them."""
    portion: list[str] = []
    wild = 0
    for pattern in patterns:
        is_wild = _WILD.search(pattern) is not None
        if len(portion) == PATTERNS_MAX or (is_wild and wild == WILDCARDS_MAX):
            yield tuple(portion)
            portion, wild = [], 0
        portion.append(pattern)
        wild += is_wild
    yield tuple(portion)


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
