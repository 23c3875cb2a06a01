"""How a policy of the fleet comes to stand, and who is told: only those for whom it changes something.

The change is durable first. Then node by node and order by order the old and the new policy are compared, with calls
answered in between; nodes and orders that come meanwhile are told what stands by then anyway.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec
import trio
import trio.lowlevel

from p2pfill.model.fleet_policy import diff
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.policies import Policies, StoredPolicy, read_request
from p2pfill.tracker.records import PolicyApplied, PolicyRequest, PolicyVersion

if TYPE_CHECKING:
    from p2pfill.tracker.service import Service

COMPARED_AT_ONCE: Final = 200
"""Orders that are compared before calls are answered again: a millisecond or two."""


async def apply_policy(service: Service, request: PolicyRequest, *, dry_run: bool = False) -> PolicyApplied:
    """Let a policy stand, and have nodes told what it changes for them; or say what it would.

    What is the same text as the one that stands makes no new version, so a call may be sent again. Raises
    `RequestRefused`, with status 409 where it was made from another version than the one that stands, and `StoreError`.
    """
    policy = await trio.to_thread.run_sync(read_request, request)
    async with service.policies.applying:
        before = service.policies.stands
        number = before.version.number
        if number and before.version.text == request.text:
            return PolicyApplied(msgspec.structs.replace(before.version, text=""), [])
        if request.base is not None and request.base != number:
            raise RequestRefused(
                f"version {number} of the fleet's policy stands, not {request.base}: see what it says with "
                "`p2pfill policy show`, and apply again",
                409,
            )
        version = PolicyVersion(number + 1, time.time(), request.by, request.comment, request.text)
        stored = StoredPolicy(version, policy)
        if not dry_run:
            await service.put_policy(stored)
        applied = PolicyApplied(msgspec.structs.replace(version, text=""), diff(before.policy, policy))
        return await _follow(service, Policies([before]), Policies([stored]), applied, dry_run=dry_run)


async def _follow(
    service: Service, before: Policies, after: Policies, applied: PolicyApplied, *, dry_run: bool
) -> PolicyApplied:
    """Count what differs, and have nodes told of it unless it is a dry run."""
    for node_id, state in list(service.nodes.items()):
        (digest_was, was), (digest, now) = before.settings(state.info), after.settings(state.info)
        applied.caches += was != now
        if digest_was != digest and not dry_run:
            service.wake(node_id)
    compared = 0
    for title in list(service.titles):
        told: list[str] = []
        moved: list[str] = []
        name = service.titles[title].name if title in service.titles else ""
        for node_id in service.told_or_ordered(title) if name else ():
            if (found := service.nodes.get(node_id)) is None:
                continue
            is_ordered, is_barred = service.is_ordered(node_id, title), after.bars(found.info, name) != ""
            if (before.bars(found.info, name) != "") != is_barred:
                moved.append(node_id)
                applied.orders += is_ordered
                applied.left_out += is_ordered and is_barred
            elif is_ordered and not is_barred and before.reach(found.info, name) != after.reach(found.info, name):
                told.append(node_id)
                applied.orders += 1
            compared += 1
            if compared % COMPARED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        if not dry_run and (told or moved):
            service.follow_policy(title, told, moved)
    return applied
