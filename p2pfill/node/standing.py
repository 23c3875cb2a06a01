"""The orders that stand for a node, as its tracker's answers change them. Pure.

An answer says what has changed since the one before, or begins anew. Then what stood before stands on until the last
piece has come, and what was not named again until then is gone. An order that could not be read may be for any of them,
so nothing goes with a round in which there was one.

Nor does anything go that the tracker's database cannot know of: it is another one than that which gave the order, or a
copy from before. Such an order is an orphan. It stands until the tracker names it, or says of itself that it is gone;
that it is left unnamed says nothing.

Of a title at rest only what a repair needs without a tracker is kept: its roster is the tracker's to say again.
Invariant: `linked` counts each node as often as rosters name it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from p2pfill.errors import ConfigError
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.node import NodeInfo
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import Order, Orders

DEFAULT_POLICY = FillPolicy()


class Changed(NamedTuple):
    """What an answer has changed."""

    orders: dict[TitleId, Order]
    """New, or others than before."""
    gone: set[TitleId]
    links: bool
    """Other nodes are to be linked with than before."""
    is_last: bool
    """With these, the tracker has said all that stands, after it has begun anew."""
    wrong: list[str]
    """What was said of titles that are none."""
    orphaned: set[TitleId]
    """Those that stand on though the tracker does not know of them, since this answer."""


NOTHING: Final = Changed({}, set(), links=False, is_last=False, wrong=[], orphaned=set())


class StandingOrders:
    """All orders of one node."""

    def __init__(self) -> None:
        self.orders: dict[TitleId, Order] = {}
        self.cursor = ""
        """Of the last answer; '' before the first."""
        self.is_whole = False
        """All orders were named, and could be read."""
        self._unconfirmed: set[TitleId] | None = None
        """Titles that were not named again since the tracker began anew; None: it has said all."""
        self._is_doubtful = False
        """An order of this round could not be read."""
        self.orphans: set[TitleId] = set()
        """Titles of whose orders the tracker does not know."""
        self._database = ""
        """The tracker's, as far as it has said all; '' where it has never named one."""
        self._named: Counter[str] = Counter()
        self._infos: dict[str, NodeInfo] = {}

    @property
    def linked(self) -> Iterable[NodeInfo]:
        """The nodes that rosters name."""
        return self._infos.values()

    def take(
        self, answer: Orders, *, unreadable: bool = False, may_return: Collection[TitleId] = ()
    ) -> Changed:
        """Take in an answer; return what has changed by it. `unreadable`: there were orders that could not be read.

        `may_return` are orphans of which the tracker may yet be shown that they were ordered later than withdrawn.
        """
        if not answer.changes:
            self._unconfirmed, self._is_doubtful = set(self.orders), False
        changed: dict[TitleId, Order] = {}
        gone: set[TitleId] = set()
        wrong: list[str] = []
        for order in answer.orders:
            try:
                changed[title_id_from_hex(order.title)] = order
            except ConfigError as error:
                wrong.append(f"{error}")
        for title in answer.gone:
            try:
                gone.add(title_id_from_hex(title))
            except ConfigError as error:
                wrong.append(f"{error}")
        self._is_doubtful |= bool(wrong) or unreadable
        is_last = self._unconfirmed is not None and not answer.more
        orphaned: set[TitleId] = set()
        if self._unconfirmed is not None:
            self._unconfirmed -= changed.keys()
            if is_last:
                if not self._is_doubtful:
                    unknown = {one for one in self._unconfirmed if self._is_unknown(one, answer)}
                    orphaned = unknown - gone - self.orphans
                    gone |= self._unconfirmed - unknown
                    self.is_whole = True
                    self._database = answer.database
                self._unconfirmed = None
        self.cursor = answer.cursor
        if self.orphans or orphaned:
            told = set(answer.withdrawn)
            gone |= {one for one in self.orphans | orphaned if one.hex() in told and one not in may_return}
        gone = (gone - changed.keys()) & self.orders.keys()
        self.orphans = (self.orphans | orphaned) - changed.keys() - gone
        links = False
        for title_id in gone:
            links |= self._unname(self.orders.pop(title_id))
        for title_id, order in changed.items():
            before = self.orders.get(title_id)
            if order.policy == DEFAULT_POLICY:
                order.policy = DEFAULT_POLICY  # one for all, and not one each
            self.orders[title_id] = order
            links |= self._name(order)
            if before is not None:
                links |= self._unname(before)
        return Changed(changed, gone, links, is_last, wrong, orphaned)

    def _is_unknown(self, title_id: TitleId, answer: Orders) -> bool:
        """Tell whether a tracker that leaves an order unnamed may never have known it."""
        if title_id in self.orphans:
            return True
        if not answer.database or not self._database:
            return False
        return answer.database != self._database or self.orders[title_id].number > answer.number

    def _name(self, order: Order) -> bool:
        is_news = False
        for entry in order.roster:
            self._named[entry.node.id] += 1
            if self._infos.get(entry.node.id) != entry.node:
                self._infos[entry.node.id] = entry.node
                is_news = True
        return is_news

    def _unname(self, order: Order) -> bool:
        is_news = False
        for entry in order.roster:
            self._named[entry.node.id] -= 1
            if not self._named[entry.node.id]:
                del self._named[entry.node.id], self._infos[entry.node.id]
                is_news = True
        return is_news
