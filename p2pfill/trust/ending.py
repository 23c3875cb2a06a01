"""A process says in time that its certificate ends, and of whose end that comes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials

SOON: Final = timedelta(days=7)
"""Before the end of a certificate that it is said: renewed ones are carried to the machines each week or so."""

AUTHORITY_SOON: Final = timedelta(days=60)
"""The same where it ends since its authority does: another root takes three rounds to all machines."""

AGAIN: Final = timedelta(days=1)
"""Between two lines of it."""


def told_of_end(credentials: Credentials, now: datetime) -> str:
    """Return what is to be said of the end of a certificate, '' where that is far away."""
    ends, authority_ends = credentials.expires, credentials.authority_expires
    of_authority = authority_ends is not None and authority_ends <= ends
    if ends - now > (AUTHORITY_SOON if of_authority else SOON):
        return ""
    said = f"its certificate {'ends' if now < ends else 'has ended'} at {ends}"
    if of_authority:
        return (
            f"{said}, and so does the authority that has signed it: nobody can link from then on. Change it before "
            "(`p2pfill ca rotate`), or have it renewed if it is another's"
        )
    return f"{said}: renew it with `p2pfill ca renew`, or no link can be made"


class Ending:
    """Says it once a day, and where it changes."""

    def __init__(self) -> None:
        self._said_at: datetime | None = None
        self._said = ""

    def line(self, credentials: Credentials, now: datetime) -> str:
        """Return what is to be said, '' where nothing is to be said now."""
        said = told_of_end(credentials, now)
        # Also where the clock was set back.
        if not said or (self._said_at is not None and self._said == said and abs(now - self._said_at) < AGAIN):
            return ""
        self._said_at, self._said = now, said
        return said
