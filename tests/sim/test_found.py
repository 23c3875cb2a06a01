"""What was once found wrong in the heart of the engine: each case passes, and fails with its mend taken out."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import msgspec
import pytest
from sim.worlds import world

from p2pfill.engine.engine import Engine
from p2pfill.engine.link import Link
from p2pfill.engine.requests import Receive, RequestBook, RequestStep
from p2pfill.engine.task import FillTask
from p2pfill.errors import LocalProtocolError
from p2pfill.model.bitmap import Bitmap
from p2pfill.protocol.data import DataHeader
from p2pfill.protocol.link import ControlLink
from p2pfill.sim import connection as connection_module
from p2pfill.sim.channel import WireChannel
from p2pfill.sim.checkers import InvariantBroken
from p2pfill.sim.disk import StoredTitle
from p2pfill.sim.scenario import FaultSpec, LabEvent, TitleSpec
from p2pfill.sim.world import World
from p2pfill.swarm.claims import Claims
from p2pfill.swarm.election import Scope
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.masters import Masters

ANSWERS = ["answer-twice", "answer-mended", "answer-crosswise", "answer-interleaved", "answer-unasked"]


def foul_world(kind: str, seed: int = 1, integrity: Any = "xxh3") -> World:
    titles = (TitleSpec("t", 4, chunk_kib=256, integrity=integrity),)
    return world(seed, titles=titles, wire=True, faults=(FaultSpec(kind, node="a1", for_s=inf),))


def quarantined(built: World) -> set[str]:
    return {
        source.id
        for fill in built.checkers.fills
        for source in (*fill.sources.values(), *fill.past.values())
        if source.quarantined
    }


# ---- 1: one request answered twice


@pytest.mark.parametrize("integrity", ["blake3", "xxh3"])
@pytest.mark.parametrize("kind", ANSWERS)
def test_who_answers_otherwise_than_asked_is_named_and_nothing_wrong_goes_live(kind: str, integrity: str) -> None:
    built = foul_world(kind, integrity=integrity)
    assert built.run().complete == 6
    assert quarantined(built) == {"a1"}


def claim_again(book: RequestBook, header: DataHeader, claim: Any = RequestBook.claim) -> Receive:
    """Let a posted receive be claimed by every answer that comes before it is reaped."""
    posted = book.get(header.request_id)
    if posted is None or posted.chunk != header.chunk:
        found: Receive = claim(book, header)
        return found
    receive = Receive(
        posted.request_id, posted.title, posted.chunk, posted.length, posted.xxh3, posted.check, posted.owner, book.lock
    )
    receive.step(RequestStep.BEGIN)
    return receive


def test_with_claims_that_are_not_used_up_and_chunks_that_are_not_sealed_wrong_bytes_go_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RequestBook, "claim", claim_again)
    monkeypatch.setattr(StoredTitle, "is_sealed", lambda *_: False)
    for integrity in ("blake3", "xxh3"):
        with pytest.raises(InvariantBroken, match=r"not right on its disk|right and"):
            foul_world("answer-twice", integrity=integrity).run()


def test_with_claims_that_are_not_used_up_two_streams_mix_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which only a title finds out whose digest is that of what is on the disk."""
    monkeypatch.setattr(RequestBook, "claim", claim_again)
    with pytest.raises(InvariantBroken, match="not right on its disk"):
        foul_world("answer-interleaved").run()


def test_with_claims_that_are_not_used_up_the_seal_alone_still_keeps_what_was_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(RequestBook, "claim", claim_again)
    assert foul_world("answer-twice").run().complete == 6


# ---- 2: what is said about something that is over


def interest_and_unwant(monkeypatch: pytest.MonkeyPatch) -> World:
    """a1 ends each subscription in the moment in which it has shown its interest, to each but its ISP."""
    show_interest = Link.show_interest

    def show(link: Link, task: FillTask, chunks: Bitmap) -> None:
        show_interest(link, task, chunks)
        if link._host.me.id == "a1" and link.scope is not Scope.ISP:
            link.unsubscribe(task)

    monkeypatch.setattr(Link, "show_interest", show)
    return world(wire=True)


def test_interest_and_its_end_in_one_segment_end_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert interest_and_unwant(monkeypatch).run().complete == 6


def test_with_rules_that_are_advanced_before_a_message_is_handled_they_end_the_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    receive, send = WireChannel.receive, ControlLink.send

    def receive_all(channel: WireChannel, parcels: Any) -> Any:
        return iter(list(receive(channel, parcels)))

    def send_or_raise(link: ControlLink, message: Any) -> bool:
        if not send(link, message):
            raise LocalProtocolError("what it is about is over")
        return True

    monkeypatch.setattr(ControlLink, "send", send_or_raise)
    assert interest_and_unwant(monkeypatch).run().complete == 6  # one mend alone does
    monkeypatch.setattr(WireChannel, "receive", receive_all)
    with pytest.raises(LocalProtocolError, match="is over"):
        world(wire=True).run()


def test_caches_that_were_frozen_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said over seconds is read at once then."""
    faults = tuple(FaultSpec("freeze", 0.1 + n / 7, for_s=3.0 + n, node=f"a{1 + n % 3}") for n in range(4))
    report = world(wire=True, size_mib=16, faults=faults).run()
    assert report.complete == 6
    assert report.seconds < 20


# ---- 4: an honest source accused


def test_an_answer_to_what_was_given_up_accuses_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a place for what was given up, its answer is one to a request that was never made."""
    abandon = RequestBook.abandon

    def forget(book: RequestBook, request_id: int) -> bool:
        done = abandon(book, request_id)
        book._abandoned.clear()
        return done

    def slow_and_late() -> World:
        """What waits at a slow source is asked of others."""
        fault = FaultSpec("answer-late", node="a1", for_s=inf)
        return world(wire=True, size_mib=8, upload_rates={"a1": 2.0}, faults=(fault,))

    assert slow_and_late().run().complete == 6
    monkeypatch.setattr(RequestBook, "abandon", forget)
    with pytest.raises(InvariantBroken, match="which has kept to the rules"):
        slow_and_late().run()


# ---- 5: fills that hang


def hangs(make: Callable[[], World]) -> bool:
    try:
        make().run()
    except InvariantBroken as error:
        return "are not complete" in str(error)
    return False


def dead_way() -> World:
    fault = FaultSpec("origin-lost", node="a1", for_s=inf)
    isps = {"cloud": ["origin"], "isp-a": ["a1", "a2"]}
    return world(isps=isps, size_mib=1, limit_s=100, faults=(fault,))


def claimer() -> World:
    built = world(size_mib=1, limit_s=100, faults=(FaultSpec("lie-claim", node="a2", for_s=inf),))
    built.cache_is_lost(built.caches["a2"])
    return built


def test_claims_that_never_expire_hold_a_fill_up_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hangs(claimer)
    monkeypatch.setattr(Claims, "time_s", property(lambda _: inf, lambda *_: None), raising=False)
    assert hangs(claimer)


def test_a_master_that_cannot_reach_the_origin_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hangs(dead_way)
    for owner, mend in (
        (Masters, "watch"), (Masters, "watch_parts"), (Fill, "_end_starvation"), (Fill, "_look_at_own_ways"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, mend, lambda *_: None)
    assert hangs(dead_way)


def impostor() -> World:
    """b3 comes late, says in each Hello that it is a1, and what it sends is garbage."""
    events = (LabEvent("join", "b3", at_s=0.5),)
    built = world(size_mib=16, limit_s=100, events=events, faults=(FaultSpec("corrupt", node="b3", for_s=inf),))
    built.cache_is_lost(built.caches["b3"])
    return built


def test_a_stranger_does_not_take_the_name_of_a_source(monkeypatch: pytest.MonkeyPatch) -> None:
    hello_of = connection_module.hello_of

    def lie(info: Any, boot: str) -> Any:
        hello = hello_of(info, boot)
        return msgspec.structs.replace(hello, node_id="a1", isp="isp-a") if info.id == "b3" else hello

    monkeypatch.setattr(connection_module, "hello_of", lie)
    impostor().run()

    def admit(engine: Engine, link: Link) -> None:
        assert link.remote is not None
        before = engine.links.get(link.remote.id)
        if before is not None:
            engine.close_link(before, 0, "a newer link takes over")  # type: ignore[arg-type]
            engine.links.pop(link.remote.id, None)
            before.end()
        engine._take_in(link)

    monkeypatch.setattr(Engine, "admit", admit)
    with pytest.raises(InvariantBroken, match="accuses a1, which has kept to the rules"):
        impostor().run()


@pytest.mark.parametrize("size_mib", [4, 16])
@pytest.mark.parametrize("seed", [*range(1, 7), 13, 256, 276])
def test_an_origin_that_was_away_for_all_is_asked_for_each_chunk_about_once(seed: int, size_mib: int) -> None:
    """In the last three seeds several find it back before any of them can hear of another."""
    outage = FaultSpec("origin-outage", at_s=0.0 if size_mib == 4 else 0.5, for_s=20.0)
    report = world(seed, size_mib=size_mib, faults=(outage,)).run()
    # Who finds it back first has claimed some chunks before the others hear of it.
    assert report.origin_copies <= 1.15
