"""Each copy that a plan wants, that is a file in a cache: whether it is there after the night, and why not. Pure.

And the least that the night's fill can cost, by where it comes from. A file that no cache of an ISP has comes into it
once, whatever number of its caches is to get it; the others copy it. It comes from the same region where that has it,
else from another region, else, once for the fleet, from an origin. What a cache holds and may give up counts as held:
until its room is needed others copy it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from p2pfill.plan.document import Plan, PlannedFile
from p2pfill.plan.report.night import ByTier, CacheFacts, NightFacts, TitleFacts, Why

SIZES_AGREE: Final = 0.99
"""A cache that has such a part of what the plan's files add up to has them all: sizes of a catalogue may be rounded."""
FILE_LACKS: Final = 0.5
"""Of its size that must be lacking for a file not to be there, where the rest of the title is."""
NO_ORDER: Final = "no order of the planner is about it"
UNHEARD: Final = "the cache has said nothing of it since it was ordered"
EARLY: Final = "the night of the cache has not begun"
NO_WORD: Final = "the night has no word of it"


class Copy(NamedTuple):
    """A file that is to lie in a cache, after the night."""

    file: PlannedFile
    cache: str
    comes: bool
    """It was to come in the night; else it was there before."""
    why: Why | None
    """None: it is there."""
    said: str
    have_bytes: int
    """What is there of its title."""
    live_at: float
    """When it was there; 0: not known."""


def copies_of(plan: Plan, night: NightFacts) -> Iterator[Copy]:
    """Yield all copies that a plan wants, in its order."""
    planned: dict[tuple[str, str], int] = defaultdict(int)
    for file in plan.files:
        for cache in file.holders:
            planned[file.title, cache] += file.size
    nothing: dict[str, TitleFacts] = {}
    for file in plan.files:
        of_title = night.titles.get(file.title, nothing)
        for caches, comes in ((file.comes, True), (file.stays, False)):
            for cache in caches:
                facts = of_title.get(cache)
                why, said = _lack(file, cache, night, facts, planned[file.title, cache], comes=comes)
                have, live_at = (0, 0.0) if facts is None else (facts.have_bytes, facts.live_at)
                yield Copy(file, cache, comes, why, said, have, live_at)


def _lack(
    file: PlannedFile, cache: str, night: NightFacts, facts: TitleFacts | None, planned: int, *, comes: bool
) -> tuple[Why | None, str]:
    """Return why a copy is not there, and in words; None: it is."""
    here = night.caches.get(cache)
    if here is None:
        return "health", "the night knows nothing of the cache"
    if here.down:
        return "health", here.down
    if facts is None or here.is_early:
        if not comes:
            return None, ""  # it was live before the night
        if _is_ordered(file, cache, night):
            if (file.title, cache) in night.live:
                return None, ""
            return ("window", EARLY) if here.is_early else ("health", UNHEARD)
        if night.at_tracker is not None and file.title not in night.at_tracker:
            return "order", "the tracker does not have its title"
        return "order", NO_ORDER if night.ordered is not None else NO_WORD
    if not comes and facts.is_shown:
        return None, ""
    if not facts.is_whole:
        return facts.why, facts.said
    if planned - facts.have_bytes <= max(file.size * FILE_LACKS, planned * (1 - SIZES_AGREE)):
        return None, ""
    if night.ordered is None or _is_ordered(file, cache, night):
        return facts.why, facts.said
    return "order", NO_ORDER


def _is_ordered(file: PlannedFile, cache: str, night: NightFacts) -> bool:
    files = (night.ordered or {}).get(file.title, {}).get(cache)
    return files is not None and (not files or file.path in files)


def least_of(plan: Plan, caches: Mapping[str, CacheFacts]) -> ByTier:
    """Return the least that must come in the night, by where it comes from; the first comes from farthest away.

    A cache of which the ISP is not known is one by itself.
    """
    least = ByTier()
    for file in plan.files:
        if not file.comes:
            continue
        held = {_place(cache, caches) for cache in (*file.stays, *file.goes)}
        regions, isps, anywhere = {region for region, _ in held}, {isp for _, isp in held}, bool(held)
        for cache in file.comes:
            region, isp = _place(cache, caches)
            if isp in isps:
                least.peer += file.size
            elif region in regions:
                least.region += file.size
            elif anywhere:
                least.other += file.size
            else:
                least.origin += file.size
            isps.add(isp)
            regions.add(region)
            anywhere = True
    return least


def _place(cache: str, caches: Mapping[str, CacheFacts]) -> tuple[str, str]:
    facts = caches.get(cache)
    # A name of an ISP has no blank before it, so that no cache without one is taken for another's neighbour.
    return ("", f" {cache}") if facts is None or not facts.isp else (facts.region, facts.isp)
