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

from p2pfill.model.fleet_policy import FleetPolicy, diff, doubts
from p2pfill.model.node import NodeInfo
from p2pfill.model.selector import Selector
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.pauses import COMPARED_AT_ONCE, Pauses
from p2pfill.tracker.policies import Policies, StoredPolicy, read_request
from p2pfill.tracker.records import PolicyApplied, PolicyRequest, PolicyVersion

if TYPE_CHECKING:
    from p2pfill.tracker.service import Service

TOLD: Final = "told"
"""It may go further or less far than before."""

BARRED: Final = "barred"
ADMITTED: Final = "admitted"
"""It may not hold the title any more, or may again."""


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
        applied = PolicyApplied(
            msgspec.structs.replace(version, text=""), diff(before.policy, policy),
            doubts=doubts(policy, service.prices),
        )  # fmt: skip
        was, now = (Policies([one], service.prices) for one in (before, stored))
        return await _follow(service, was, now, applied, dry_run=dry_run)


async def _follow(
    service: Service, before: Policies, after: Policies, applied: PolicyApplied, *, dry_run: bool
) -> PolicyApplied:
    """Count what differs, and have nodes told of it unless it is a dry run."""
    compare, pauses = _Comparison(before.policy, after.policy), Pauses()
    rules = 1 + len(before.policy.caches) + len(after.policy.caches) + len(after.policy.fills)
    unmatched = _selectors(after.policy)
    for node_id, state in list(service.nodes.items()):
        unmatched = [one for one in unmatched if not one[1].matches(state.info)]
        (digest_was, was), (digest, now) = before.settings(state.info), after.settings(state.info)
        applied.caches += (was.windows, was.rates) != (now.windows, now.rates)
        if digest_was != digest and not dry_run:
            service.wake(node_id)
        await pauses.note(rules)
    if service.nodes:
        applied.doubts += [f"{rule}: no cache that the tracker knows fits {one.text!r} yet" for rule, one in unmatched]
    for title in list(service.titles):
        told: list[str] = []
        moved: list[str] = []
        compare.title_name = service.titles[title].name if title in service.titles else ""
        await pauses.note(1)
        for node_id in service.told_or_ordered(title) if compare.title_name else ():
            await pauses.note(1)
            if (found := service.nodes.get(node_id)) is None:
                continue
            verdict = compare.verdict(found.info)
            if verdict is None:
                continue
            is_ordered = service.is_ordered(node_id, title)
            applied.orders += is_ordered
            if verdict == TOLD and is_ordered:
                told.append(node_id)
            elif verdict != TOLD:
                moved.append(node_id)
                applied.left_out += is_ordered and verdict == BARRED
        if dry_run:
            continue
        if moved:
            # Whoever has an order is told besides, since how far it may go has changed too.
            service.follow_moved(title, moved)
        for place in range(0, len(told), COMPARED_AT_ONCE):
            service.follow_orders(title, told[place : place + COMPARED_AT_ONCE])
            await trio.lowlevel.checkpoint()
    return applied


def _selectors(policy: FleetPolicy) -> list[tuple[str, Selector]]:
    """Return the rules of a policy that are of some caches, as people are told of them, with their selectors."""
    return [
        (f"{kind} {rule.name!r}", Selector.parse(rule.selector))
        for kind, rules in (("caches", policy.caches), ("fills", policy.fills))
        for rule in rules
        if rule.selector != "all"
    ]


class _Comparison:
    """What two policies say of a title on a cache. The answer is worked out once for all caches that are alike."""

    def __init__(self, before: FleetPolicy, after: FleetPolicy) -> None:
        self._before, self._after = before, after
        texts = dict.fromkeys(rule.selector for rule in (*before.fills, *after.fills))
        self._selectors = [Selector.parse(text) for text in texts]
        self._kinds: dict[NodeInfo, tuple[object, ...]] = {}
        self._verdicts: dict[tuple[object, ...], str | None] = {}
        self._title_name = ""

    @property
    def title_name(self) -> str:
        """The name of the title that is looked at."""
        return self._title_name

    @title_name.setter
    def title_name(self, name: str) -> None:
        self._title_name = name
        self._verdicts.clear()

    def verdict(self, info: NodeInfo) -> str | None:
        """Return what a cache is to be told; None where nothing differs for it."""
        kind = self._kinds.get(info)
        if kind is None:
            kind = self._kinds[info] = (info.region, *(selector.matches(info) for selector in self._selectors))
        if kind not in self._verdicts:
            self._verdicts[kind] = self._compare(info)
        return self._verdicts[kind]

    def _compare(self, info: NodeInfo) -> str | None:
        was, now = self._before.bars(info, self._title_name), self._after.bars(info, self._title_name)
        if bool(was) != bool(now):
            return BARRED if now else ADMITTED
        if now:
            return None
        differs = self._before.reach_for(info, self._title_name) != self._after.reach_for(info, self._title_name)
        return TOLD if differs else None
