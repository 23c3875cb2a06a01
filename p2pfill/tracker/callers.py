"""Who calls: the one place where it is said. Without a certificate that is an address, which others may share.

Whatever depends on who somebody is takes a `Caller`: shares (`admission`), and whose node a name is (`names`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from p2pfill.model.hosts import address_of
from p2pfill.model.identity import Identity

if TYPE_CHECKING:
    from starlette.requests import Request


class Caller(NamedTuple):
    """Somebody who calls the tracker."""

    address: str = ""
    """Where from, as `address_of` spells it; '' where that is not known, as inside this process."""
    identity: Identity | None = None
    """Whose certificate was shown; None where nobody is asked."""

    @property
    def who(self) -> str:
        """Name the caller for people and rules: `user/anna`."""
        return "anonymous" if self.identity is None else self.identity.who

    @property
    def key(self) -> str:
        """Return what is the same for two calls of one caller, as far as that can be told."""
        return self.address if self.identity is None else self.identity.who


NOBODY: Final = Caller()
"""Of whom nothing is known."""


def caller_of(request: Request) -> Caller:
    """Return who has sent a request, whose identity is known once it was admitted (`rights.admit`)."""
    if (call := request.scope.get("p2pfill.call")) is not None:
        caller: Caller = call.caller
        return caller
    return Caller("" if request.client is None else address_of(request.client.host))
