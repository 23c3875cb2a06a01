"""Every attack against a real node, beside an honest fill: no wrong byte, alive, others served, the offender named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from p2pfill.model.manifest import Integrity
from tests.hostile.arena import Arena, run_attack
from tests.hostile.attacks import ATTACKS, Attack

pytestmark = [pytest.mark.process, pytest.mark.alone]

RUNS = 3
TIMING = {"honest slow", "others not served", "late", "slow title"}
"""What a machine that others use may cause as well: it counts if it comes again, and again, although as much more
time is granted then as node and honest cache have waited for a processor."""


class Open(NamedTuple):
    """An attack that is known to do harm, in which ways, and why."""

    kinds: set[str]
    reason: str


_UNPUNISHED = {"not quarantined", "unnamed", "link stays"}

KNOWN_OPEN: dict[str, Open] = {
}
"""Attacks that this release does not withstand. One that it does withstand must be taken out of here."""


class StillOpenError(AssertionError):
    """A known attack did the harm that is known."""


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    """One node for as many attacks as it survives, in memory where that is possible: a slow disk is no matter here."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path_factory.mktemp("hostile")) as scratch:
        arena = Arena(Path(scratch))
        try:
            yield arena
        finally:
            arena.close()


def cases() -> Iterator[object]:
    """Yield every attack, with and without BLAKE3 where that matters; it must fail where it is known to."""
    for name, attack in ATTACKS.items():
        for integrity in ("blake3", "xxh3") if attack.both else (attack.integrity,):
            marks = []
            if name in KNOWN_OPEN:
                reason = KNOWN_OPEN[name].reason
                marks.append(pytest.mark.xfail(reason=reason, raises=StillOpenError, strict=True))
            yield pytest.param(attack, integrity, id=f"{name}-{integrity}" if attack.both else name, marks=marks)


@pytest.mark.parametrize(("attack", "integrity"), list(cases()))
def test_attack(arena: Arena, attack: Attack, integrity: Integrity) -> None:
    known = KNOWN_OPEN.get(attack.name)
    for number in range(RUNS):
        arena.allows_for_machine = number > 0
        outcome = run_attack(arena, attack, integrity)
        if outcome.missed:
            continue
        # Known harm must be absent each time, and what may be the machine's doing must be there each time.
        if outcome.faults if known else not outcome.kinds or not outcome.kinds <= TIMING:
            break
    if outcome.missed:
        pytest.skip(outcome.missed)
    if known is not None and outcome.faults:
        assert outcome.kinds <= known.kinds | TIMING, outcome.faults
        raise StillOpenError(outcome.faults)
    assert not outcome.faults, outcome.figures


def test_what_is_known_to_be_open_is_an_attack() -> None:
    assert KNOWN_OPEN.keys() <= ATTACKS.keys()
