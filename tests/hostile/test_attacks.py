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

pytestmark = pytest.mark.process

RUNS = 3
TIMING = {"honest slow", "others not served", "late"}
"""What a machine that others use may cause as well: it counts if it comes again, and again."""


class Open(NamedTuple):
    """An attack that is known to do harm, in which ways, and why."""

    kinds: set[str]
    reason: str


_UNPUNISHED = {"not quarantined", "unnamed", "link stays"}

KNOWN_OPEN: dict[str, Open] = {
    "second_answer_good_then_garbage": Open(
        {"wrong bytes", *_UNPUNISHED}, "a second answer in the same segment is written over verified bytes"
    ),
    "second_answer_begun": Open(
        {"wrong bytes", *_UNPUNISHED}, "a second answer in the same segment is written over verified bytes"
    ),
    "second_answer_later": Open(_UNPUNISHED, "the stream ends, but a second answer is no fault of the source"),
    "second_answer_on_another_stream": Open(_UNPUNISHED, "as second_answer_later"),
    "second_answer_crosswise": Open(_UNPUNISHED, "as second_answer_later"),
    "second_answer_interleaved": Open(
        {"wrong bytes", *_UNPUNISHED}, "two streams write one chunk, and XXH3 is of what came, not of what was written"
    ),
    "second_answer_announced_first": Open(
        {"wrong bytes", *_UNPUNISHED}, "a stream may write from its header on, also when the chunk has been verified"
    ),
    "answer_twice_after_cancel": Open(_UNPUNISHED, "the second answer to a request that was cancelled is read past"),
    "crawl": Open(
        {"unnamed", "incomplete"}, "a source that gives a chunk a second is waited for beside an idle origin"
    ),
    "interest_and_unwant": Open({"died"}, "news is sent under a handle that the rule book has closed already"),
    "unwant_with_uploads": Open({"queue", "memory"}, "Unwant leaves its requests in the queue for uploads"),
    "request_and_cancel": Open(TIMING, "all messages of one read are handled in one turn of the loop"),
    "token_flood": Open({"others not served"}, "4096 tokens for all remotes together, and one may take them all"),
    "holdings_that_flap": Open(TIMING, "each Holdings costs the loop milliseconds, as many as come"),
    "have_flood": Open(TIMING, "each Have of thousands of chunks costs the loop a millisecond, as many as come"),
    "interest_flood": Open(TIMING, "each Interest is answered with all holdings, as many as come"),
    "never_reads": Open({"link stays"}, "a link whose remote has stopped reading ends only when the remote ends it"),
    "slander_before_others_speak": Open({"honest accused"}, "who has not said what it holds has no vote: one is half"),
    "claims_without_end": Open({"unnamed", "incomplete"}, "a claim is believed as often as it is repeated"),
    "claims_from_another_isp": Open({"unnamed", "incomplete"}, "a claim is believed as often as it is repeated"),
    "claims_from_another_region": Open({"unnamed", "incomplete"}, "a claim is believed as often as it is repeated"),
    "fault_beside_the_hello": Open({"unnamed"}, "a fault in the segment of the Hello is logged as a stranger's"),
    "takeover": Open(
        {"honest slow", "honest link lost", "honest accused", "others not served"}, "the newest link of a name wins"
    ),
    "takeover_in_silence": Open(
        {"honest slow", "honest link lost", "honest accused", "others not served"}, "the newest link of a name wins"
    ),
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
    for _ in range(RUNS):
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
