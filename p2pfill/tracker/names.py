"""Whose a node's name is. Pure.

A node's process says with each heartbeat which start of it this is (its boot, which nobody else is told) and counts
(its sequence). Where two processes report under one name, one of them is not the node: a second one by mistake, or a
stranger. Without certificates nobody can prove who he is, so what counts is who was there first, and whether he lives:

- The process that has the name keeps it while it reports, wherever from.
- Once it has been silent for a lease, the next one to report has the name.
- Another process of the same address has it at once, as after a restart. But where the one before reports on, it was
  no restart: the older one has the name again, and for `CONTEST_S` nobody gets it this way.
- The address from which the name has been used for long (`HOME_S`) is its home, and has it at once from any other.

So a stranger who forges a heartbeat from elsewhere is refused, and one at the node's own address has the name until
the node's next heartbeat. Whoever has it while the node is away loses it when the node is back at its home.

`Tenancy.claim` is the single place in which it is decided. Certificates, where there are some, decide there instead.
Rejected: that the newest start wins, by which one forged heartbeat locks a node out until it is started anew.
"""

from __future__ import annotations

from typing import Final

from p2pfill.tracker.callers import Caller

HOME_S: Final = 3600.0
"""From when an address is a name's home: longer than a stranger stays unnoticed, shorter than machines are moved."""

CONTEST_S: Final = 60.0
"""How long a restart is not believed after one that was none."""

REMEMBERED: Final = 8
"""Processes that had the name, of which it is known how far they had counted."""


class Session:
    """One process that has reported under a name. Times are of a monotonic clock."""

    def __init__(self, boot: str, age: int, caller: Caller, now: float, sequence: int) -> None:
        self.boot, self.age = boot, age
        """The lower the age, the older it is."""
        self.address, self.since = caller.key, now
        """Where it reports from, and since when from there."""
        self.heard_at = now
        self.sequence = sequence


class Tenancy:
    """Who has one name, and who had it."""

    def __init__(self, boot: str, caller: Caller, now: float, sequence: int = 0) -> None:
        self._has = Session(boot, 0, caller, now, sequence)
        self._count = 1
        self._home = caller.key
        self._before: dict[str, Session] = {}
        self._contested_until = float("-inf")

    def claim(self, caller: Caller, boot: str, sequence: int, now: float, lease_s: float) -> bool:
        """Have a process report under the name; False where it is another's."""
        if boot != self._has.boot:
            if not self._may_take(caller, boot, sequence, now, lease_s):
                return False
            self._take(caller, boot, now)
        has = self._has
        if has.address != caller.key:
            has.address, has.since = caller.key, now
        has.heard_at = now
        has.sequence = max(has.sequence, sequence)
        if now - has.since >= HOME_S:
            self._home = has.address
        return True

    def _may_take(self, caller: Caller, boot: str, sequence: int, now: float, lease_s: float) -> bool:
        has, before = self._has, self._before.get(boot)
        if now - has.heard_at > lease_s:
            return True
        if caller.key == self._home != has.address:
            return True
        if before is not None:
            # It counts on, so it was not replaced by the one that came after it.
            lives = caller.key == has.address and sequence > before.sequence and before.age < has.age
            if lives:
                self._contested_until = now + CONTEST_S
            return lives
        return caller.key == has.address and now >= self._contested_until

    def _take(self, caller: Caller, boot: str, now: float) -> None:
        self._before[self._has.boot] = self._has
        new = Session(boot, self._count, caller, now, 0)
        self._has = self._before.pop(boot, new)
        self._has.since = now
        self._count += 1
        if len(self._before) > REMEMBERED:
            del self._before[next(iter(self._before))]
