"""How much the fleet may still fetch from far tonight, handed out to nodes as allowances. Pure.

An allowance is a total: so many bytes, or so much money's worth of them (`model.terms`), may come to the node of what
a budget is for, counted since its process began, as its heartbeats count what has come. So a heartbeat or an answer
that is lost, or comes twice, changes nothing. A node asks for a chunk only where what has come, what is on its way and
the chunk fit into that (`node.origin_counts`). So a budget holds without a question for each chunk.

What counts against a budget is what nodes may have fetched at most, and not what they say that they have:

    spent = closed + sum over nodes of (held - base)          spent <= reserved <= limit

`held` is the allowance that a node goes by, `base` what it had fetched when the night began, and `closed` what was held
by processes that have ended. A heartbeat says which allowance the node goes by, and a node has one heartbeat on its way
at a time, so what an earlier answer said is then taken in or lost. A node that seeks nothing gives back what it has not
used. One that is lost keeps it until the night ends, since it may be fetching all the same.

`reserved` is durable before anything of it is handed out. A tracker that starts anew takes all of it for spent. So a
crash of a node costs its unused allowance, and one of the tracker what was reserved and not handed out, each until the
night ends; neither lets more be fetched.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping
from typing import Final

from p2pfill.errors import InternalError
from p2pfill.model.fleet_policy import BudgetRule
from p2pfill.model.limits import GIB, MIB
from p2pfill.model.origins import OriginReport
from p2pfill.model.reports import Allowance
from p2pfill.model.terms import BudgetTerms

LEASE_MIN: Final = 512 * MIB
"""What a node is given at a time, at least: eight chunks of the largest size. It is given more at half of that, where
the next chunk still fits in any case."""

LEASE_MAX: Final = 4 * GIB
"""At most: half a minute at a gigabit a second, several heartbeats."""

LEASES: Final = 64
"""Between those bounds a node is given this part of the budget."""

SLAB_LEASES: Final = 32
"""What is reserved at a time, in such parts: reserving takes a write to disk."""

NIGHTS_KEPT: Final = 8
"""Nights of which it is known what was spent, besides the one that is on: the tracker's clock may be set back, and what
it goes back to must not be had twice."""


def refusing(
    allowances: Mapping[str, Allowance],
    budgets: Mapping[str, BudgetTerms],
    counts: Iterable[OriginReport],
    read: OriginReport,
) -> str:
    """Return the budget for which a node may not read a chunk of an origin now; empty: it may.

    `allowances` are those that it goes by and `budgets` the terms of all there are, both by budget. `counts` is what
    has come or may be coming of each origin, and `read` what the chunk comes to.
    """
    known: list[OriginReport] | None = None
    for budget, terms in budgets.items():
        if not terms.fits(read.id):
            continue
        allowance = allowances.get(budget)
        if allowance is None or allowance.terms != terms.key:
            return budget
        known = list(counts) if known is None else known
        if taken(terms, known) + terms.amount(read) > allowance.amount:
            return budget
    return ""


def taken(terms: BudgetTerms, counts: Iterable[OriginReport]) -> int:
    """Return what some origins have taken of a budget with these terms."""
    return sum(terms.amount(one) for one in counts if terms.fits(one.id))


class _Lease:
    """What one process of a node may have of a budget."""

    def __init__(self, boot: str, base: int) -> None:
        self.boot = boot
        self.base = base
        self.held = base
        self.used = base
        """What it has last said."""


class Ledger:
    """One budget. `reserved` is what is durable of `night` already, all of which counts as spent."""

    def __init__(self, night: str, reserved: int) -> None:
        self.night = night
        self.terms: BudgetTerms | None = None
        """None: not known yet."""
        self.reserved = reserved
        self.closed = reserved
        self.is_taken_over = reserved > 0
        """What nodes hold of a tracker of before is in `closed`."""
        self.wanted = 0
        """What should be reserved besides, so that nodes can be given what they need."""
        self.out = 0
        """The sum over all leases of `held - base`: kept, since each heartbeat asks for it, and there are as many
        leases as nodes."""
        self._lease_min, self._lease_max = LEASE_MIN, LEASE_MAX
        """In the unit of the budget."""
        self._before: dict[str, int] = {}
        """Nights that were on before this one, and what was spent in them; in the order in which they ended."""
        self._leases: dict[str, _Lease] = {}
        self._known: set[str] = set()
        """Nodes that have had a lease: another process of theirs begins at 0."""

    @property
    def spent(self) -> int:
        """What may have been fetched tonight."""
        return self.closed + self.out

    def check(self) -> None:
        """Raise `InternalError` where the sum is not that of the leases."""
        if self.out != sum(lease.held - lease.base for lease in self._leases.values()):
            raise InternalError(f"budget: {self.out} bytes are said to be out, which is not what leases hold")

    def follow(self, night: str, terms: BudgetTerms) -> None:
        """Let another night begin, if it has. What nodes hold of the one before counts for this one.

        One that was on before goes on with what was spent in it: then the clock was set back, or was ahead.
        Where something else counts against it now, or otherwise, what nodes hold is spent, and none holds any.
        """
        if self.terms not in (terms, None):
            self.forget_all()
        self.terms = terms
        self._lease_min, self._lease_max = terms.most(LEASE_MIN), terms.most(LEASE_MAX)
        if night != self.night:
            self._before[self.night] = self.spent
            spent = self._before.pop(night, 0)
            for gone in list(self._before)[:-NIGHTS_KEPT]:
                del self._before[gone]
            # No more is taken for reserved than is spent: the catalogue may have another night by now.
            self.night, self.closed, self.reserved, self.wanted, self.is_taken_over = night, spent, spent, 0, False
            for lease in self._leases.values():
                lease.base = lease.used
            self.out = sum(lease.held - lease.base for lease in self._leases.values())

    def take(self, node: str, boot: str, used: int, held: int | None) -> None:
        """Take in what a process has fetched since it began, and which allowance it goes by; None: of none."""
        if held is not None:
            held = min(held, used + self._lease_max)  # more is ahead of none, whatever it says
        lease = self._leases.get(node)
        if lease is not None and lease.boot != boot:
            self.forget(node)
            lease = None
        if lease is None:
            # What a node has had before the budget was there is not its, and what is spent already counts once.
            is_new = held is None and node in self._known
            base = 0 if is_new else held if held is not None and self.is_taken_over else used
            lease = self._leases[node] = _Lease(boot, base)
            self._known.add(node)
        lease.used = used
        self._hold(lease, max(used, held if held is not None else lease.base))

    def give(self, node: str, limit: int, *, needs: bool) -> int:
        """Return the allowance of a node from now on; `needs`: it seeks a title."""
        lease = self._leases[node]
        size = max(self._lease_min, min(self._lease_max, limit // LEASES))
        allowed = lease.held
        if not needs:
            allowed = lease.used
        elif lease.held - lease.used < max(1, size // 2):  # of a millionth there is no half
            want = lease.used + size - lease.held
            if limit - self.reserved > 0 and self.reserved - self.spent < want:
                self.wanted = min(limit - self.reserved, max(want, SLAB_LEASES * size))
            allowed = lease.held + max(0, min(want, min(self.reserved, limit) - self.spent))
        self._hold(lease, max(lease.held, allowed))  # until it says that it goes by less
        return allowed

    def _hold(self, lease: _Lease, held: int) -> None:
        self.out += held - lease.held
        lease.held = held

    def forget(self, node: str) -> None:
        """Take a node for gone: what it held is spent."""
        if (lease := self._leases.pop(node, None)) is not None:
            self.out -= lease.held - lease.base
            self.closed += lease.held - lease.base


    def forget_all(self) -> None:
        """Begin anew with all nodes: what they held is spent, and what they have had by now is not counted again."""
        for node in list(self._leases):
            self.forget(node)
        self._known.clear()


class Budgets:
    """All budgets of the policy that stands."""

    def __init__(self, reserved: Mapping[str, tuple[str, int]]) -> None:
        """`reserved` is what the catalogue has: budget -> night, bytes."""
        self._ledgers = {name: Ledger(night, count) for name, (night, count) in reserved.items()}

    def renew(
        self,
        rules: Iterable[tuple[BudgetRule, BudgetTerms]],
        night: str,
        node: str,
        boot: str,
        used: Collection[OriginReport],
        held: Iterable[Allowance],
        *,
        needs: bool,
    ) -> list[Allowance]:
        """Take in a heartbeat, and return the allowances that answer it. `used` is what has come since its boot."""
        goes_by = {(one.budget, one.terms): one.amount for one in held}
        given = []
        for rule, terms in rules:
            ledger = self._ledgers.setdefault(rule.ledger, Ledger(night, 0))
            ledger.follow(night, terms)
            ledger.take(node, boot, taken(terms, used), goes_by.get((rule.name, terms.key)))
            given.append(Allowance(rule.name, terms.key, ledger.give(node, rule.limit, needs=needs)))
        return given

    def to_reserve(self) -> dict[str, tuple[str, int]]:
        """Return what is to be durable: budget -> night, bytes. `reserved` says that it is."""
        return {
            name: (ledger.night, ledger.reserved + ledger.wanted)
            for name, ledger in self._ledgers.items()
            if ledger.wanted
        }

    def note_reserved(self, reserved: Mapping[str, tuple[str, int]]) -> None:
        """Note that so much is durable."""
        for name, (night, count) in reserved.items():
            ledger = self._ledgers[name]
            if ledger.night == night:
                ledger.reserved, ledger.wanted = max(ledger.reserved, count), 0

    def spent(self, name: str) -> int:
        """Return what may have been fetched of a budget tonight."""
        ledger = self._ledgers.get(name)
        return 0 if ledger is None else ledger.spent

    def keep(self, names: Container[str]) -> None:
        """Have no other budgets than those with these names (`BudgetRule.ledger`): what nodes held of others is spent.

        One that comes back goes on with what was spent, and what came meanwhile is not its.
        """
        for name, ledger in self._ledgers.items():
            if name not in names:
                ledger.forget_all()

    def forget(self, node: str) -> None:
        """Take a node for gone."""
        for ledger in self._ledgers.values():
            ledger.forget(node)
