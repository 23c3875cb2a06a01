"""Who may call what: nobody anything, but for what is granted here.

A cache may report, in its own name alone, and read what it needs for its orders. What a user may, the operator writes
into a table, which is read again when it has changed:

    [[grants]]
    who = "user/anna"             # whose certificate; `*` stands for anything
    may = ["read", "publish", "order"]
    titles = "films-*"            # names of titles; by default all
    to = "isp=64501"              # the caches that may be ordered to; by default all
    priority_max = 10
    bytes_max = "2TB"             # of a title

Where the tracker asks for no certificates, all callers may everything.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Role
from p2pfill.model.node import NodeInfo
from p2pfill.model.quantities import parse_bytes, spell_bytes
from p2pfill.model.selector import Selector, matches_glob
from p2pfill.model.toml import read_toml
from p2pfill.tracker.callers import Caller
from p2pfill.tracker.checks import RequestRefused

if TYPE_CHECKING:
    from starlette.requests import Request

GRANTS_MAX: Final = 10_000
"""Each call looks at all of them."""


class Right(StrEnum):
    """What a call needs."""

    READ = "read"
    REPORT = "report"
    """In a cache's own name; granted to nobody else."""
    PUBLISH = "publish"
    ORDER = "order"
    WITHDRAW = "withdraw"
    MANAGE = "manage"
    """Policies, limits, pins, room, nodes: what changes the fleet."""


GRANTABLE: Final = frozenset(Right) - {Right.REPORT}

CACHE_READS: Final = frozenset(
    {"get_title", "get_manifest", "get_signatures", "get_sources", "explain", "get_revocations"}
)
"""What a cache may read beside its orders; those of them that name a node, of itself alone."""

CACHE_BRINGS: Final = "put_title"
"""What a cache may do where the tracker has asked for it: bring back the manifest of a title that it holds."""


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What somebody may."""

    who: str
    may: tuple[Right, ...]
    titles: str = "*"
    to: str = "all"
    priority_max: int | None = None
    bytes_max: str = ""

    def __post_init__(self) -> None:
        if not self.who or not set(self.may) <= GRANTABLE:
            raise ConfigError(f"a grant names who, and of {', '.join(sorted(GRANTABLE))} what they may")
        Selector.parse(self.to)
        if self.bytes_max:
            parse_bytes(self.bytes_max)

    def refusal_of_order(self, selector: Selector, priority: int, size: int) -> str:
        """Return why an order is beyond this grant, '' where it is not."""
        if self.priority_max is not None and priority > self.priority_max:
            return f"its priority is above {self.priority_max}"
        if self.bytes_max and size > parse_bytes(self.bytes_max):
            return f"{spell_bytes(size)} are more than {self.bytes_max}"
        allowed = Selector.parse(self.to).clauses
        # A clause with all terms of one that is allowed means no other caches than that does.
        if not all(any(set(terms) <= set(clause) for terms in allowed) for clause in selector.clauses):
            return f"it is not for {self.to} alone: add that to each part of the selector with `+`"
        return ""


class _File(msgspec.Struct, forbid_unknown_fields=True):
    grants: list[Grant] = []


class Grants:
    """The table of grants, in a file or nowhere: then no user may anything."""

    def __init__(self, path: Path | None = None) -> None:
        """Read `path`. Raises `ConfigError`."""
        self.path = path
        self._stamp: tuple[int, int] | None = None
        self.grants: list[Grant] = []
        self.reload()

    def reload(self) -> bool:
        """Read the file where it has changed; tell whether it has. Raises `ConfigError`: then what stood stands."""
        if self.path is None:
            return False
        try:
            seen = self.path.stat()
            stamp = (seen.st_mtime_ns, seen.st_size)
            if stamp == self._stamp:
                return False
            found = msgspec.convert(read_toml(self.path.read_text(encoding="utf-8-sig")), _File)
        except OSError as error:
            raise ConfigError(f"cannot read grants {str(self.path)!r}: {error.strerror}") from error
        except (UnicodeDecodeError, msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(f"grants {str(self.path)!r} cannot be used: {error}") from error
        if len(found.grants) > GRANTS_MAX:
            raise ConfigError(f"grants {str(self.path)!r} has more than {GRANTS_MAX}: write `*` in names")
        self.grants, self._stamp = found.grants, stamp
        return True

    def of(self, who: str, right: Right) -> list[Grant]:
        """Return the grants of a right that somebody has."""
        return [grant for grant in self.grants if right in grant.may and matches_glob(grant.who, who)]


class Call:
    """One call, and what of it is granted. Without an identity that is everything: nobody is asked who he is."""

    def __init__(self, caller: Caller, grants: list[Grant], table: Grants | None = None) -> None:
        self.caller = caller
        self.grants = grants
        """Those of the right that the call needs."""
        self._table = table
        self.noted = ""
        """What the call has changed, for the audit."""
        self.has_changed = True
        """Whether it has changed anything."""

    @property
    def is_cache(self) -> bool:
        """Tell whether a cache calls, to which nothing can be granted."""
        return self.caller.identity is not None and self.caller.identity.role is Role.CACHE

    def require_title(self, name: str) -> list[Grant]:
        """Return the grants that mean a title of this name. Raises `RequestRefused`."""
        found = [grant for grant in self.grants if matches_glob(grant.titles, name)]
        if self.caller.identity is not None and not found:
            raise RequestRefused(
                f"{self.caller.who} may not do this with titles named {name[:100]!r}: its grants in the tracker's "
                "--grants are for others", 403,
            )  # fmt: skip
        return found

    def require_order(self, name: str, selector: Selector, priority: int, size: int) -> None:
        """Look whether an order is granted. Raises `RequestRefused` that says what it is beyond."""
        found = self.require_title(name)
        if self.caller.identity is None:
            return
        refusals = [grant.refusal_of_order(selector, priority, size) for grant in found]
        if all(refusals):
            raise RequestRefused(f"{self.caller.who} may not order this: {refusals[0]}", 403)

    def require_rollback(self, name: str) -> None:
        """Look whether the caller may have an older version of a name shown. Raises `RequestRefused`."""
        if self.caller.identity is None:
            return
        who = self.caller.who
        found = [] if self._table is None else self._table.of(who, Right.MANAGE)
        if not any(matches_glob(grant.titles, name) for grant in found):
            raise RequestRefused(f"{who} may not roll back titles named {name[:100]!r}: that needs `manage`", 403)

    def require_report(self, info: NodeInfo) -> None:
        """Look whether a heartbeat says what the certificate of its sender does. Raises `RequestRefused`."""
        if self.caller.identity is not None and (wrong := self.caller.identity.disagrees_with(info)):
            raise RequestRefused(f"this is not what {self.caller.who} is: {wrong}", 403)


def call_of(request: Request) -> Call:
    """Return the call that a request is. It was admitted before any handler sees it."""
    call: Call = request.scope["p2pfill.call"]
    return call


def admit(caller: Caller, grants: Grants | None, name: str, right: Right, node: str) -> Call:
    """Return the call of the operation `name`, which is about `node` ('' for none).

    `grants` is None where nobody is asked who he is. Raises `RequestRefused` with status 403.
    """
    if grants is None:
        return Call(caller, [])
    identity = caller.identity
    if identity is None:
        raise RequestRefused("show a certificate: this tracker asks who calls", 403)
    if identity.role is Role.CACHE and (not node or node == identity.name):
        if right is Right.REPORT or name in CACHE_READS or name == CACHE_BRINGS:
            return Call(caller, [])
    elif identity.role is Role.USER:
        found = grants.of(identity.who, right)
        if found:
            return Call(caller, found, grants)
    where = f" as {node}" if node else ""
    if identity.role is Role.USER:
        advice = "what users may is in the tracker's --grants"
    elif right is Right.REPORT:
        advice = "a cache does so in its own name alone"
    else:
        advice = "that is for users: show the identity of one"
    raise RequestRefused(f"{identity.who} may not {right}{where}; {advice}", 403)
