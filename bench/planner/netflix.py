"""Netflix's weekly top ten by country, where the user has the table: who is on next week's list?

The file is the one that Netflix publishes as "all weeks by country" (all-weeks-countries.tsv): a line for each place of
each list, with country_iso2, week, category, weekly_rank, show_title and season_title. It is no part of this repository
and is never fetched. How much was watched is not told; a place stands for views as in Zipf's law, 1 / rank.

Next week's list of ten is held against twenty proposals for each country (recall at 20). Persistence proposes those
that were listed last, by rank. The planner takes a week for a day; of the catalogue it is shown what any list has had
so far, as if nothing of launches were announced, so it can propose no title that is new everywhere.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.planner.intervals import paired
from bench.planner.movielens import NoData
from bench.planner.planned import Planner
from bench.planner.records import Recall
from bench.planner.rolling import day_rows
from p2pfill.plan.tables import Catalogue, Views

COLUMNS: Final = ("country_iso2", "week", "category", "weekly_rank", "show_title", "season_title")
LISTED: Final = 20
"""Titles that are proposed for each country."""
SCORED_WEEKS: Final = 30
"""The last ones: each asks for a forecast from all weeks before it."""
WEEKS_BEFORE: Final = 8
VIEWS_OF_THE_FIRST: Final = 10_000
"""That stand for the first place: so many that rounding those of the tenth loses nothing."""
WEEK_DAYS: Final = 7


@dataclass(frozen=True)
class Lists:
    """All lists of one category. Arrays have an entry for each place of a list, ordered by week, country and rank."""

    category: str
    countries: tuple[str, ...]
    titles: tuple[str, ...]
    """By the week in which any list had them first."""
    first_week: NDArray[np.int32]
    """Of each title."""
    week: NDArray[np.int32]
    """Weeks since 1970."""
    country: NDArray[np.int32]
    title: NDArray[np.int32]
    rank: NDArray[np.int32]


def read_netflix(path: Path) -> list[Lists]:
    """Read the table, by category. Raises `NoData`."""
    try:
        with path.open(encoding="utf-8", newline="") as text:
            rows = csv.DictReader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
            if missing := [name for name in COLUMNS if name not in (rows.fieldnames or ())]:
                raise NoData(f"{path} lacks {', '.join(missing)}; it should be Netflix's all-weeks-countries.tsv")
            read = [
                (row["category"], _week(row["week"]), row["country_iso2"], int(row["weekly_rank"]), _title(row))
                for row in rows
            ]
    except (OSError, UnicodeDecodeError, ValueError, TypeError, csv.Error) as error:
        raise NoData(f"{path} cannot be read as Netflix's all-weeks-countries.tsv: {error}") from error
    categories = sorted({row[0] for row in read})
    return [_lists(category, [row[1:] for row in read if row[0] == category]) for category in categories]


def _week(text: str) -> int:
    return int(np.datetime64(text, "D").astype(np.int64)) // WEEK_DAYS


def _title(row: dict[str, str]) -> str:
    season = row["season_title"]
    return row["show_title"] if season in ("", "N/A") else f"{row['show_title']} | {season}"


def _lists(category: str, rows: list[tuple[int, str, int, str]]) -> Lists:
    rows = sorted(set(rows))
    titles = dict.fromkeys(title for *_, title in sorted(rows, key=lambda row: row[0]))
    number = {title: place for place, title in enumerate(titles)}
    countries = tuple(sorted({country for _, country, _, _ in rows}))
    place_of = {country: place for place, country in enumerate(countries)}
    week, country, rank, title = (
        np.array(column, np.int32)
        for column in zip(*((w, place_of[c], r, number[t]) for w, c, r, t in rows), strict=True)
    )
    first = np.full(len(titles), np.iinfo(np.int32).max, np.int32)
    np.minimum.at(first, title, week)
    return Lists(category, countries, tuple(titles), first, week, country, title, rank)


def tables_of(lists: Lists, week: int) -> tuple[Catalogue, Views]:
    """Return as the planner's tables what was known before a week."""
    known = int(np.searchsorted(lists.first_week, week))
    rows = np.flatnonzero(lists.week < week)
    rows = rows[np.lexsort((lists.title[rows], lists.country[rows], lists.week[rows]))]
    views = (VIEWS_OF_THE_FIRST / lists.rank[rows]).astype(np.int64)
    ones = np.ones(known, np.int64)
    none = np.zeros(known, np.int32)
    names = lists.titles[:known]
    catalogue = Catalogue(
        names, (lists.category,), ("title",), none, lists.first_week[:known], np.full(known, np.nan), names,
        np.arange(known, dtype=np.int32), none, ones,
    )  # fmt: skip
    first = int(lists.week.min())
    return catalogue, Views(
        lists.countries, first, week - 1, lists.week[rows], lists.country[rows], lists.title[rows], views, views
    )


def persistence(lists: Lists, week: int) -> list[list[int]]:
    """Return for each country the titles listed last before a week, the latest week first and then by rank."""
    found: list[list[int]] = []
    for country in range(len(lists.countries)):
        rows = np.flatnonzero((lists.country == country) & (lists.week < week))
        rows = rows[np.lexsort((lists.rank[rows], -lists.week[rows]))]
        found.append(list(dict.fromkeys(lists.title[rows].tolist()))[:LISTED])
    return found


def planned(lists: Lists, week: int) -> list[list[int]]:
    """Return for each country the titles that the planner expects most of."""
    catalogue, views = tables_of(lists, week)
    planner = Planner(catalogue, views.regions)
    for earlier in range(views.first_day, week):
        rows = day_rows(views, earlier)
        planner.take_in(earlier, views.region[rows], views.file[rows], views.bytes[rows], views.requests[rows])
    order = np.argsort(-planner.forecast(week).streams, axis=1, kind="stable")
    return [titles[:LISTED].tolist() for titles in order]


def recall(lists: Lists, seed: int) -> Recall:
    """Take both through the last weeks. Raises `NoData` where there are too few."""
    weeks = np.unique(lists.week)
    if weeks.size <= WEEKS_BEFORE:
        raise NoData(f"{lists.category} has lists of {weeks.size} weeks; at least {WEEKS_BEFORE + 1} are needed")
    scored = weeks[max(WEEKS_BEFORE, weeks.size - SCORED_WEEKS) :]
    hits, asked = np.zeros((2, scored.size)), np.zeros(scored.size)
    for at, week in enumerate(scored.tolist()):
        for row, proposals in enumerate((persistence(lists, week), planned(lists, week))):
            hits[row, at] = sum(_found(lists, week, country, titles) for country, titles in enumerate(proposals))
        asked[at] = (lists.week == week).sum()
    by_last, by_planner = (hits.sum(axis=1) / asked.sum()).tolist()
    more = paired(hits[1], hits[0], asked, seed)
    return Recall(lists.category, scored.size, len(lists.countries), by_last, by_planner, more, never_seen(lists))


def _found(lists: Lists, week: int, country: int, titles: list[int]) -> int:
    there = (lists.week == week) & (lists.country == country)
    return int(np.isin(lists.title[there], titles).sum())


def never_seen(lists: Lists) -> float:
    """Return what part of those that enter a country's list for the first time was on no list in any week before."""
    cells = lists.country.astype(np.int64) * len(lists.titles) + lists.title
    _, first = np.unique(cells[np.argsort(lists.week, kind="stable")], return_index=True)
    at = np.argsort(lists.week, kind="stable")[first]
    at = at[lists.week[at] > lists.week.min()]
    return float((lists.first_week[lists.title[at]] == lists.week[at]).mean()) if at.size else 0.0
