"""Several titles at once: the more urgent goes first, and what is wrong with one stays its own."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

import msgspec
import pytest
from sim.worlds import ROOT, SMALL, world

from p2pfill.engine import link as link_module
from p2pfill.engine.engine import Engine
from p2pfill.errors import ConfigError
from p2pfill.protocol.rules import RuleBook
from p2pfill.sim.checkers import InvariantBroken
from p2pfill.sim.liveness import check_liveness
from p2pfill.sim.process import SimEngine
from p2pfill.sim.scenario import Chaos, FaultSpec, Scenario, TitleSpec
from p2pfill.sim.world import World
from p2pfill.swarm import events
from p2pfill.swarm.fill import Fill
from p2pfill.swarm.scheduler import FillScheduler

TWO = (TitleSpec("bulk", 8, chunk_kib=256), TitleSpec("urgent", 2, 10, at_s=0.3, chunk_kib=256))
ALIKE = (TitleSpec("one", 4, chunk_kib=256), TitleSpec("other", 4, chunk_kib=256, integrity="xxh3"))


def test_three_titles_each_with_a_fault_of_its_own() -> None:
    scenario = Scenario.load(ROOT / "scenarios" / "titles.toml")
    sound = World(msgspec.structs.replace(scenario, faults=()), 1).run()
    assert [figures.complete for figures in sound.titles.values()] == [6, 6, 6]
    built = World(scenario, 1)
    report = built.run()
    assert [figures.complete for figures in report.titles.values()] == [6, 6, 0]
    assert report.complete == 6
    assert report.titles["bulk"].seconds < 1.5 * sound.seconds
    late = {name for name, cache in built.caches.items() if (cache.live_at or inf) > 1.5 * sound.seconds}
    assert late == {"b2"}  # whose disk refused the urgent one; it is ordered anew when the long poll ends


def test_the_more_urgent_goes_first() -> None:
    alone = world(titles=(TitleSpec("urgent", 2, chunk_kib=256),)).run().seconds
    report = world(titles=TWO).run()
    assert report.titles["urgent"].seconds - 0.3 < 1.5 * alone
    assert report.titles["bulk"].seconds > report.titles["urgent"].seconds
    assert report.title_bytes == 10 * 2**20
    assert report.origin_copies == pytest.approx(1.0)


def test_asking_while_a_more_urgent_title_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FillScheduler, "look", lambda *_: {})
    with pytest.raises(InvariantBroken, match="asks for bulk, while urgent goes first"):
        world(titles=TWO).run()


def test_titles_that_are_alike_share_the_links() -> None:
    report = world(titles=ALIKE).run()
    first, second = (figures.seconds for figures in report.titles.values())
    assert first == pytest.approx(second, rel=0.25)


@pytest.mark.parametrize("kind", ["corrupt", "answer-twice", "disk-refuses", "origin-corrupt", "withdraw"])
@pytest.mark.parametrize("titles", [TWO, ALIKE], ids=["one goes first", "alike"])
def test_what_is_wrong_with_one_title_for_good_does_not_stop_the_other(
    kind: str, titles: tuple[TitleSpec, ...]
) -> None:
    first, second = (title.name for title in titles)
    for broken, other in ((first, second), (second, first)):
        clean = world(titles=titles).run().titles[other].seconds
        built = world(titles=titles, limit_s=120, faults=(FaultSpec(kind, 0.4, title=broken, node="a2", for_s=inf),))
        if kind in ("disk-refuses", "origin-corrupt"):
            for cache in built.caches.values():
                for title_id in built.titles_named(broken):
                    built.title_is_over(cache, title_id)
        figures = built.run().titles[other]
        assert figures.complete == 6
        assert figures.seconds < 2 * clean + SMALL.policy.stall_wait_s


@pytest.mark.parametrize("kind", ["origin-refused", "origin-lost"])
@pytest.mark.parametrize("titles", [TWO, ALIKE], ids=["one goes first", "alike"])
def test_whoever_can_finish_finishes_all_titles_in_time(kind: str, titles: tuple[TitleSpec, ...]) -> None:
    for victim in ("a1", "b3"):
        fault = FaultSpec(kind, 0.0, node=victim, for_s=inf)
        scenario = msgspec.structs.replace(SMALL, titles=titles, faults=(fault,), limit_s=300)
        assert check_liveness(scenario, 1).faulty.complete == 6


def test_what_one_title_raises_fails_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator raises what its engines would keep to one title; here they keep it."""
    monkeypatch.setattr(SimEngine, "task_faulted", Engine.task_faulted)
    handle = Fill.handle

    def fail(fill: Fill, now: float, event: events.Event) -> None:
        if fill.manifest.name == "one" and fill.me.id == "a1" and isinstance(event, events.ChunksCommitted):
            raise ZeroDivisionError("a title's own fault")
        handle(fill, now, event)

    monkeypatch.setattr(Fill, "handle", fail)
    built = world(titles=ALIKE)
    built.title_is_over(built.caches["a1"], next(iter(built.titles)))
    figures = built.run().titles
    assert (figures["one"].complete, figures["other"].complete) == (5, 6)
    monkeypatch.undo()
    monkeypatch.setattr(Fill, "handle", fail)
    with pytest.raises(ZeroDivisionError):
        world(titles=ALIKE).run()


def test_chaos_divides_what_is_to_be_filled() -> None:
    whole = TitleSpec("whole", 6, chunk_kib=256)
    drawn = [Chaos(titles_max=3).draw_titles(whole, Random(seed)) for seed in range(40)]
    assert {len(titles) for titles in drawn} == {1, 2, 3}
    assert {title.integrity for titles in drawn for title in titles} == {"blake3", "xxh3"}
    for titles in drawn:
        assert sum(title.size for title in titles) == whole.size
        assert titles[0].at_s == 0.0


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"titles": (TitleSpec("a", 1), TitleSpec("a", 1))}, "unique"),
        ({"titles": (TitleSpec("a", 0),)}, "empty"),
        ({"titles": (TitleSpec("a", 1, at_s=1.0),)}, "ordered at 0"),
    ],
)
def test_titles_of_a_scenario_are_checked(wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        msgspec.structs.replace(SMALL, **wrong).check()
    with pytest.raises(ConfigError, match="no title"):
        world(faults=(FaultSpec("corrupt", node="a1", title="zzz"),))


@pytest.mark.parametrize("seed", range(4))
def test_links_that_are_full_of_requests_end_nothing_and_cost_no_copies(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine counts what is outstanding as the rules of the wire do, or a link would end by our own fault."""
    monkeypatch.setattr(link_module, "REQUESTS_MAX", 4)
    open_book = RuleBook.__init__
    monkeypatch.setattr(
        RuleBook, "__init__", lambda book, limits: open_book(book, limits._replace(requests_max=4, requests_slack=4))
    )
    titles = tuple(TitleSpec(f"t{number}", 2, chunk_kib=256) for number in range(4))
    report = world(seed, titles=titles, wire=True).run()
    assert report.complete == 6
    assert report.origin_copies <= 1.1
