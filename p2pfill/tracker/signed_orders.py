"""What a tracker takes of signed orders and withdrawals, and what of them is on its books.

A caller who signs must sign what he asks for, and in his own name. What is brought back after a loss nobody asks for
now: its signer must still be granted it. Of one name each statement has a higher number than all before, so an old one
that is shown again changes nothing; and what was withdrawn so comes back only by an order that is signed later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import msgspec

from p2pfill.errors import SignatureError
from p2pfill.model.identity import Identity
from p2pfill.model.selector import Selector
from p2pfill.model.signed_order import WithdrawalStatement
from p2pfill.tracker.callers import Caller
from p2pfill.tracker.catalogue import WITHDRAWALS_MAX
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.order_terms import request_of
from p2pfill.tracker.records import FillRequest, SignedBy, TitleRecord
from p2pfill.tracker.rights import Call, Grants, Right
from p2pfill.trust.credentials import Credentials
from p2pfill.trust.order_signing import Opened, SignedOrder, SignedWithdrawal, open_signed

UNSIGNED: Final = "nobody has signed it"
"""Why an order does not come back, to begin with."""


class SignedOrders:
    """Whose orders a tracker believes. All that opens documents blocks."""

    def __init__(
        self, credentials: Credentials | None, grants: Grants | None = None, wall: Callable[[], float] = time.time
    ) -> None:
        """Without credentials nobody is asked who he is, and signatures say nothing."""
        self._credentials = credentials
        self._grants = grants
        self._wall = wall

    @property
    def is_asked(self) -> bool:
        """Tell whether callers are asked who they are."""
        return self._credentials is not None

    def order(self, document: bytes, wanted: FillRequest, record: TitleRecord, caller: Caller) -> SignedOrder | None:
        """Return a signed order, None where signatures say nothing. Raises `RequestRefused` for another."""
        if (opened := self._open(document, record, caller)) is None:
            return None
        if not isinstance(opened, SignedOrder) or request_of(opened.said) != _bare(wanted):
            raise RequestRefused("what is signed is not what is ordered")
        return opened

    def withdrawal(
        self, document: bytes, record: TitleRecord, caller: Caller, *, urgent: bool = False, terms: bytes = b""
    ) -> SignedWithdrawal | None:
        """Return a signed withdrawal, likewise; `terms` of one order, b'' of all."""
        if (opened := self._open(document, record, caller)) is None:
            return None
        if not isinstance(opened, SignedWithdrawal) or (opened.said.urgent, opened.said.terms) != (urgent, terms):
            raise RequestRefused("what is signed is not what is to be withdrawn")
        return opened

    def _open(self, document: bytes, record: TitleRecord, caller: Caller) -> Opened | None:
        if self._credentials is None or not document:
            return None
        try:
            opened = open_signed(self._credentials, document, self._wall())
        except SignatureError as error:
            raise RequestRefused(f"what is signed cannot be taken: {error}") from error
        if caller.identity is None or opened.identity.uri != caller.identity.uri:
            raise RequestRefused(f"{opened.identity.who} has signed this, and {caller.who} sends it", 403)
        _check_title(opened, record)
        return opened

    def brought(self, document: bytes) -> Opened:
        """Return what a cache has brought, by whomever it is signed. Raises `SignatureError`."""
        if self._credentials is None:
            raise SignatureError("this tracker asks nobody who he is, and so cannot look who has signed what")
        return open_signed(self._credentials, document, self._wall())

    def require_granted(self, opened: SignedOrder, record: TitleRecord, selector: Selector) -> None:
        """Look whether the signer of an order would be granted it now. Raises `RequestRefused`."""
        said = opened.said
        _check_title(opened, record)
        call = self._call(opened.identity, Right.ORDER)
        call.require_order(record.name, selector, said.priority, record.size)
        if said.rollback:
            call.require_rollback(record.name)

    def require_may_withdraw(self, opened: SignedWithdrawal) -> None:
        """Look whether the signer of a withdrawal would be granted it now. Raises `RequestRefused`."""
        self._call(opened.identity, Right.WITHDRAW).require_title(opened.said.name)

    def _call(self, identity: Identity, right: Right) -> Call:
        found = [] if self._grants is None else self._grants.of(identity.who, right)
        return Call(Caller("", identity), found, self._grants)


class Withdrawn(NamedTuple):
    """A signed withdrawal that is on the books."""

    said: WithdrawalStatement
    who: str

    def __str__(self) -> str:
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.said.number / 1000))
        return f"{self.who} withdrew it at {at}"


class SignedBook:
    """Which numbers names have had, and what was withdrawn. In memory; `catalogue` keeps the same."""

    def __init__(self, numbers: dict[str, int], withdrawn: Iterable[Withdrawn]) -> None:
        self._numbers = numbers
        self._withdrawn: dict[str, dict[tuple[str, bytes], Withdrawn]] = {}
        """Title -> the name that is signed, and terms, b'' for all orders -> the latest withdrawal of that."""
        self._signers: dict[str, dict[tuple[str, str, bytes], None]] = {}
        """Who -> title, name and terms of what he has signed, the oldest first."""
        self._count = 0
        for one in withdrawn:
            self.put(one)

    def require_news(self, name: str, number: int) -> None:
        """Look whether a number is higher than all that a name has had. Raises `RequestRefused` that has that one."""
        before = self._numbers.get(name, 0)
        if number <= before:
            raise RequestRefused(
                f"of {name[:100]!r} an order with a higher number has been seen, {before}: this one, {number}, is old",
                409, number=before,
            )  # fmt: skip

    def note(self, name: str, number: int) -> None:
        """Note that a name has had a number."""
        self._numbers[name] = max(number, self._numbers.get(name, 0))

    def is_news(self, said: WithdrawalStatement) -> bool:
        """Tell whether a withdrawal is not on the books, nor a later one of the same."""
        before = self._withdrawn.get(said.title_id.hex(), {}).get((said.name, said.terms))
        return before is None or said.number > before.said.number

    def put(self, one: Withdrawn) -> list[WithdrawalStatement]:
        """Put a withdrawal on the books, unless a later one of the same is; return those for which there is no room.

        Those are the oldest of who has signed most: nobody can have those of others forgotten by signing many.
        """
        said = one.said
        if not self.is_news(said):
            return []
        title, key = said.title_id.hex(), (said.name, said.terms)
        if (before := self._withdrawn.get(title, {}).get(key)) is not None:
            self._take_out(before)
        self._withdrawn.setdefault(title, {})[key] = one
        self._signers.setdefault(one.who, {})[title, *key] = None
        self._count += 1
        forgotten: list[WithdrawalStatement] = []
        while self._count > WITHDRAWALS_MAX:
            who = max(self._signers, key=lambda one: len(self._signers[one]))
            title, name, terms = next(iter(self._signers[who]))
            oldest = self._withdrawn[title][name, terms]
            self._take_out(oldest)
            forgotten.append(oldest.said)
        return forgotten

    def _take_out(self, one: Withdrawn) -> None:
        said = one.said
        title, key = said.title_id.hex(), (said.name, said.terms)
        del self._withdrawn[title][key], self._signers[one.who][title, *key]
        if not self._withdrawn[title]:
            del self._withdrawn[title]
        if not self._signers[one.who]:
            del self._signers[one.who]
        self._count -= 1

    def withdrawal_of(self, title: str, name: str, terms: bytes, number: int) -> Withdrawn | None:
        """Return what has withdrawn an order of a title with these terms and this number, if anything has."""
        of_title = self._withdrawn.get(title, {})
        found = [of_title[name, one] for one in (b"", terms) if (name, one) in of_title]
        return next((one for one in found if number <= one.said.number), None)

    def knows(self, title: str, name: str) -> bool:
        """Tell whether there are signed withdrawals of a title: then numbers say what holds."""
        return any(one == name for one, _ in self._withdrawn.get(title, ()))

    def require_signed(self, title: str, name: str) -> None:
        """Look whether a title may be ordered without a signature. Raises `RequestRefused`.

        Where a signed withdrawal stands it may not: caches would bring that back after a loss, and end the order.
        """
        if (one := self._withdrawn.get(title, {}).get((name, b""))) is not None and one.said.expires > time.time():
            raise RequestRefused(f"{one}, and has signed that: only an order that is signed lifts it", 409)


def signed_by(opened: SignedOrder) -> SignedBy:
    """Return what is shown of who has signed an order."""
    return SignedBy(opened.id, opened.identity.who, opened.said.number, opened.said.terms.hex())


def _bare(wanted: FillRequest) -> FillRequest:
    return msgspec.structs.replace(wanted, call_id="", signed=b"")


def _check_title(opened: Opened, record: TitleRecord) -> None:
    said = opened.said
    if (said.title_id.hex(), said.name) != (record.title, record.name):
        raise RequestRefused(f"what is signed is of title {said.title_id.hex()} named {said.name[:100]!r}")
