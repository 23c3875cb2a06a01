"""A process with some of the light caches: told in lines of JSON what titles there are, tells what they have done.

    python -m bench.soak.crowd PLAN.json

It ends with its standard input.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import trio

from bench.soak.peer import Crowd, Habits, Held, Peer
from p2pfill.cli.services import raise_descriptors
from p2pfill.model.manifest import Manifest

SETTLE_S = 0.02
"""Between two caches that begin: a node takes so many handshakes in a row."""


class Member(msgspec.Struct):
    """One cache."""

    name: str
    isp: str
    region: str
    identity: str


class Plan(msgspec.Struct):
    """What a process is told."""

    host: str
    port: int
    """Of the node."""
    tracker: str
    members: list[Member]
    reporting: int
    """So many of them report to the tracker."""
    link_s: float
    fetch_s: float
    seed: int


async def run(plan: Plan) -> None:
    """Run the caches until standard input ends."""
    crowd = Crowd((plan.host, plan.port), Habits(plan.link_s, plan.fetch_s), plan.seed)
    async with trio.open_nursery() as nursery:
        await crowd.listen(nursery)
        nursery.start_soon(_obey, crowd, nursery.cancel_scope)
        for number, member in enumerate(plan.members):
            reports = number < plan.reporting
            where = (member.isp, member.region, Path(member.identity))
            peer = Peer(crowd, member.name, *where, is_reporting=reports)
            nursery.start_soon(peer.run)
            if reports:
                nursery.start_soon(peer.report, plan.tracker)
            await trio.sleep(SETTLE_S)


async def _obey(crowd: Crowd, scope: trio.CancelScope) -> None:
    """Take lines: `add` a title, `live` it is, `gone` it is, or tell what was done."""
    while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
        told: dict[str, Any] = json.loads(line)
        if "add" in told:
            crowd.titles[bytes.fromhex(told["add"])] = _held(told)
        elif "live" in told:
            crowd.live.append(bytes.fromhex(told["live"]))
        elif "gone" in told:
            title_id = bytes.fromhex(told["gone"])
            crowd.titles.pop(title_id, None)
            crowd.live = [one for one in crowd.live if one != title_id]
        else:
            print(json.dumps(crowd.did), flush=True)
    scope.cancel()


def _held(told: dict[str, Any]) -> Held:
    return Held(Manifest.decode(Path(told["fill"]).read_bytes()), Path(told["file"]), told["some_hold"])


def main() -> None:
    """Run as a process; see the top of this file."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    raise_descriptors()
    os.setpriority(os.PRIO_PROCESS, 0, min(19, os.getpriority(os.PRIO_PROCESS, 0) + 1))
    trio.run(run, msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Plan))


if __name__ == "__main__":
    main()
