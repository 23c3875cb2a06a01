"""Who stands in the roster of each title that some node seeks, and whom a change there concerns. Pure.

A roster is of use to those who fetch a title, and to those who are to be linked with them. So a title has one only
while somebody seeks it: a node that is to hold it, and is not live. Of all the others, which in a fleet at rest is all
of them, nothing is kept here, and a node that comes, goes or moves changes nothing but what is sought. Who asks for the
roster of one all the same is given one that is made for him.

Invariant: a title has neighbourhoods exactly while it has seekers, and all of its members are in them then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from p2pfill.swarm.neighbourhood import Member, Neighbourhoods


class Standing(NamedTuple):
    """What a node is to a title."""

    member: Member | None
    """Its place in the roster, if it has one."""
    seeks: bool
    """It is alive and shall hold the title, and is not live."""


class Rosters:
    """The rosters of all titles."""

    def __init__(self, new: Callable[[str], Neighbourhoods], members: Callable[[str], Iterable[Member]]) -> None:
        """`new` makes neighbourhoods for a title, and `members` returns all that belong into them now."""
        self._new = new
        self._members = members
        self._around: dict[str, Neighbourhoods] = {}
        self._seekers: dict[str, set[str]] = {}
        self._sought: dict[str, set[str]] = defaultdict(set)
        """Node -> what it seeks."""

    def titles_of(self, node_id: str, held: Mapping[str, object]) -> set[str]:
        """Return the titles in whose rosters a node may stand that has `held` others than those it seeks."""
        few, many = (held, self._around) if len(held) < len(self._around) else (self._around, held)
        found = {title for title in few if title in many}
        return found | self._sought.get(node_id, set())

    def follow(self, title: str, changed: Mapping[str, Standing]) -> set[str]:
        """Take in what nodes are to a title now; return the ids of those who should be told soon."""
        seekers = self._seekers.setdefault(title, set())
        for node_id, (_, seeks) in changed.items():
            if seeks:
                seekers.add(node_id)
                self._sought[node_id].add(title)
            elif node_id in seekers:
                seekers.discard(node_id)
                self._sought[node_id].discard(title)
                if not self._sought[node_id]:
                    del self._sought[node_id]
        around = self._around.get(title)
        if not seekers:
            del self._seekers[title]
            return set() if around is None else set(self._around.pop(title).members)
        if around is None:
            around = self._around[title] = self._new(title)
            return around.put_all(self._members(title))
        told: set[str] = set()
        coming: list[Member] = []
        for node_id, (member, _) in changed.items():
            if member is None:
                told |= around.drop(node_id)
            elif around.members.get(node_id) != member:
                coming.append(member)
        if coming:
            told |= around.put_all(coming)
        # Who has failed and holds nothing is no member, and tries again with the sources of then.
        return told | (seekers - around.members.keys()) if told else told

    def renew(self, title: str) -> None:
        """Make a title's neighbourhoods anew: how it is cut has become known."""
        if title in self._around:
            around = self._around[title] = self._new(title)
            around.put_all(self._members(title))

    def is_sought(self, title: str) -> bool:
        """Tell whether a title has a roster."""
        return title in self._around

    def around(self, title: str) -> Neighbourhoods:
        """Return the neighbourhoods of a title; where nobody seeks it, those that it would have."""
        if (around := self._around.get(title)) is None:
            around = self._new(title)
            around.put_all(self._members(title))
        return around
