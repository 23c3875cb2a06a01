"""What people mean by a name or the start of an id: which title, which fill.

The versions of a title share its name. One that an order or a pin wants *stands*. Those that were withdrawn, or that a
newer one has replaced, do not count while another one stands. Commands that only look take, of several, the one that
was ordered last, which is what caches show, and say so on stderr; commands that withdraw or delete ask for an id.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from p2pfill.cli.text import plural, printable
from p2pfill.errors import ConfigError
from p2pfill.model.limits import TITLE_ID_BYTES

if TYPE_CHECKING:
    from p2pfill.tracker.client import TrackerClient
    from p2pfill.tracker.records import FillRecord, TitleRecord, Titles

ID_PREFIX_MIN: Final = 4
"""Digits of a title's id that are enough to type."""

ID_CHARS: Final = 12
"""Of a title's id, in tables: enough to tell versions apart, and to type."""

NAMED_MAX: Final = 10
"""Candidates that a message names."""


class Version(NamedTuple):
    """A title among those of its name."""

    record: TitleRecord
    number: int
    """Of its newest order that stands; 0: none."""
    is_withdrawn: bool
    """Caches delete it."""

    @property
    def stands(self) -> bool:
        """Whether an order or a pin wants it."""
        return self.number > 0 or bool(self.record.pins)

    @property
    def age_key(self) -> tuple[int, float]:
        """What sorts versions: by their orders, those without by when they were published."""
        return self.number, self.record.added_at

    def __str__(self) -> str:
        order = "withdrawn" if self.is_withdrawn else f"order {self.number}" if self.number else "not ordered"
        published = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.record.added_at))
        return f"{self.record.title[:ID_CHARS]} (published {published}, {order})"


def standing(versions: list[Version]) -> list[Version]:
    """Return the versions that stand; where none does, those that were not withdrawn, and else all."""
    return (
        [one for one in versions if one.stands] or [one for one in versions if not one.is_withdrawn] or versions
    )


def pinned(versions: list[Version]) -> list[Version]:
    """Return the versions that are pinned, or where none is those that stand."""
    return [one for one in versions if one.record.pins] or standing(versions)


async def find_title(client: TrackerClient, text: str) -> str:
    """Return the id of the title that a person wants to see. Raises `ConfigError` where there is none.

    Of several versions that stand it is the one that was ordered last, and that is said on stderr.
    """
    if _is_whole_id(text):
        return text.lower()
    versions = _versions(await client.catalogue(), await client.fills(), text)
    first, *others = sorted(standing(versions), key=lambda one: one.age_key, reverse=True)
    if others:
        why = "ordered last" if first.number else "published last"
        print(
            printable(f"{text} means {first}, which was {why}; not {_list(others)}"), file=sys.stderr
        )
    return first.record.title


async def find_title_to_change(
    client: TrackerClient, text: str, counts: Callable[[list[Version]], list[Version]] = standing
) -> str:
    """Return the id of the title that a person wants to withdraw or delete.

    Raises `ConfigError` unless there is just one of those that count.
    """
    if _is_whole_id(text):
        return text.lower()
    versions = counts(_versions(await client.catalogue(), await client.fills(), text))
    if len(versions) > 1:
        found = sorted(versions, key=lambda one: one.age_key, reverse=True)
        raise ConfigError(f"{text[:80]!r} means {len(found)} titles; name one by its id: {_list(found)}")
    return versions[0].record.title


def _is_whole_id(text: str) -> bool:
    return len(text) == 2 * TITLE_ID_BYTES and all(char in "0123456789abcdefABCDEF" for char in text)


def _versions(catalogue: Titles, fills: list[FillRecord], text: str) -> list[Version]:
    """Return the titles of a name, or the only one whose id starts so. Raises `ConfigError` where there is none."""
    numbers: dict[str, int] = {}
    for fill in fills:
        numbers[fill.request.title] = max(fill.number, numbers.get(fill.request.title, 0))
    withdrawn = set(catalogue.withdrawn)
    every = [Version(one, numbers.get(one.title, 0), one.title in withdrawn) for one in catalogue.titles]
    found = [one for one in every if one.record.name == text]
    if not found and len(text) >= ID_PREFIX_MIN:
        found = [one for one in every if one.record.title.startswith(text.lower())]
        if len(found) > 1:
            raise ConfigError(f"{len(found)} titles have ids that start with {text[:80]!r}: {_list(found)}")
    if not found:
        names = ", ".join(sorted({one.record.name for one in every})[:NAMED_MAX]) or "none yet"
        raise ConfigError(f"the tracker knows no title {text[:80]!r}; it knows: {names}")
    return found


def _list(found: Iterable[object]) -> str:
    lines = [str(one) for one in found]
    more = f", and {plural(len(lines) - NAMED_MAX, 'other')}" if len(lines) > NAMED_MAX else ""
    return ", ".join(lines[:NAMED_MAX]) + more


async def find_fill(client: TrackerClient, text: str) -> str:
    """Return the id of the fill whose id is `text`, or starts so. Raises `ConfigError` unless there is just one.

    A start has some length: what is short may mean another fill tomorrow.
    """
    fills = await client.fills()
    is_prefix = len(text) >= ID_PREFIX_MIN
    found = [fill.fill_id for fill in fills if is_prefix and fill.fill_id.startswith(text.lower())]
    if text.lower() in found:
        return text.lower()
    if len(found) == 1:
        return found[0]
    if not is_prefix:
        raise ConfigError(f"a fill is named by {ID_PREFIX_MIN} characters of its id or more, not by {text[:80]!r}")
    if not found:
        raise ConfigError(f"there is no fill {text[:80]!r}; `p2pfill fills list` shows those that stand")
    raise ConfigError(f"{len(found)} fills have ids that start with {text[:80]!r}: {_list(sorted(found))}")
