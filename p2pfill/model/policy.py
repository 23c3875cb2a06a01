"""How a fill behaves where the plan meets reality: waits before going further out, retries, quarantine."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Reach(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How far a cache may go for a title, and after which waits: what the fleet's policy says of both together.

    A wait is in seconds, for each chunk by itself, from when no nearer cache holds it; None: it may never go there.
    """

    region_s: float | None = 0.0
    """To caches of other ISPs of its region."""
    world_s: float | None = 0.0
    """To caches of other regions."""
    origin_s: float | None = 0.0
    rule: str = ""
    """The rule of `fills` that says so; empty where none does."""
    regions: tuple[str, ...] = ()
    """The title may not leave these; empty: it may go anywhere."""
    residency: str = ""
    """The rule of `residency` that says so."""
    isp_s: float | None = None
    """To caches of other clusters of its ISP; None: clusters make no difference."""
    minimum_bytes_s: int = 0
    """Where nearer caches that hold chunks give less, the next hop is asked for them too; 0: never."""


ANYWHERE = Reach()


class FillPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Settings of one fill; the tracker hands them to every node so that all elect and escalate alike."""

    stall_wait_s: float = 3.0
    """A fill master that delivers nothing for this long, while it has chunks left to fetch, is passed over.
    The scheduler stretches it to several times what chunks have been taking."""

    request_timeout_s: float = 10.0
    """The least time that a requested chunk may take without a byte moving before it is asked for elsewhere."""

    quarantine_s: float = 60.0
    """How long a source that sent a chunk with a wrong digest is left alone; doubles with each relapse."""

    escalate: bool = True
    """False makes tier order absolute: chunks then wait for their master for ever."""

    reach: Reach = ANYWHERE
    """How far this cache may go. The tracker fills it in from the fleet's policy; an order itself has none."""


def together(policies: Sequence[FillPolicy]) -> FillPolicy:
    """Return the policy of a title that was ordered with several: the shortest waits, and escalation if one allows it.

    So what one order allows no other can forbid, as by waits that stop the fill.
    """
    first = policies[0]
    if all(policy == first for policy in policies):
        return first
    return FillPolicy(
        stall_wait_s=min(policy.stall_wait_s for policy in policies),
        request_timeout_s=min(policy.request_timeout_s for policy in policies),
        quarantine_s=min(policy.quarantine_s for policy in policies),
        escalate=any(policy.escalate for policy in policies),
        reach=first.reach,
    )
