"""Whatever one process is killed half-way through a fill, the others complete; what comes back goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from process.fleet import Fleet, HeldOrigin, Title, wait_until
from wire.independent import decode_journal

from p2pfill.store.tally import TALLY, Tally

pytestmark = pytest.mark.process

ALL = ("a1", "a2", "b1", "b2", "hub")


def half_way(fleet: Fleet, title: Title, origin: HeldOrigin, name: str) -> int:
    """Wait until the fill stands at the origin's gate and `name` has made durable what it has; return how much."""
    wait_until("the origin's gate is reached", origin.held)
    journal = fleet.data(name) / "filling" / title.id / "journal"

    def quiet() -> int:
        # A report says what is verified; the journal follows within a commit or two.
        have = fleet.report(name, title).get("have_chunks", 0)
        if not journal.exists():
            return 0
        durable = decode_journal(journal.read_bytes(), bytes.fromhex(title.id), title.manifest.chunk_count)
        return have if have > 4 and sum(map(len, durable)) >= have else 0

    return int(wait_until(f"{name} has a part", quiet))


def kept_tally(fleet: Fleet, name: str, title: Title) -> Tally:
    """Return what a cache that has ended has kept of where the title has come from: nothing, if that soon."""
    kept = fleet.data(name) / "filling" / title.id / TALLY
    return msgspec.json.decode(kept.read_bytes(), type=Tally) if kept.exists() else Tally()


def taken_since(report: dict[str, Any], before: Tally) -> int:
    """Return the bytes that have come since `before`."""
    taken: int = report["bytes_peer"] + report["bytes_regional"] + report["bytes_origin"]
    return taken - before.bytes_peer - before.bytes_regional - before.bytes_origin


@pytest.mark.parametrize("victim", ["a1", "b2", "hub"])
def test_killed_cache(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin], victim: str
) -> None:
    title = make_title(f"kill-{victim}")
    origin = make_origin(title.root, allowed=title.size // 2)
    fleet.order(title, [origin.url])
    half_way(fleet, title, origin, victim)
    assert fleet.nodes[victim].end(signal.SIGKILL) == -signal.SIGKILL
    origin.allow(None)
    others = fleet.live([name for name in ALL if name != victim], title)
    assert all(report["have_chunks"] == title.manifest.chunk_count for report in others.values())

    kept = fleet.journal(victim, title)
    assert kept.count() > 4
    kept_bytes = sum(title.manifest.chunk_length(chunk) for chunk in kept.indexes())
    before = kept_tally(fleet, victim, title)
    fleet.restart(victim)
    report = fleet.live([victim], title)[victim]
    # Exact: a chunk that the journal held was not fetched again, and everything else was, once.
    assert taken_since(report, before) == title.size - kept_bytes
    assert report["bytes_origin"] == before.bytes_origin
    assert report["duplicate_bytes"] == before.duplicate_bytes


def test_stopped_cache_ends_cleanly_and_resumes(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("stop-a2")
    origin = make_origin(title.root, allowed=title.size // 2)
    fleet.order(title, [origin.url])
    had = half_way(fleet, title, origin, "a2")
    # At the gate its origin reads are stuck: stopping must not wait for them.
    assert fleet.nodes["a2"].end(signal.SIGTERM, limit_s=10) == 0
    kept = fleet.journal("a2", title)
    assert kept.count() >= had
    before = kept_tally(fleet, "a2", title)
    fleet.restart("a2")
    wait_until("a2 tells what it kept", lambda: fleet.report("a2", title).get("have_chunks", 0) >= kept.count())
    origin.allow(None)
    report = fleet.live(ALL, title)["a2"]
    kept_bytes = sum(title.manifest.chunk_length(chunk) for chunk in kept.indexes())
    assert taken_since(report, before) == title.size - kept_bytes


def test_killed_tracker(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("kill-tracker")
    origin = make_origin(title.root, allowed=title.size // 2)
    fleet.order(title, [origin.url])
    half_way(fleet, title, origin, "a1")
    fleet.tracker.end(signal.SIGKILL)
    origin.allow(None)
    for name in ALL:
        wait_until(f"{name} is live without a tracker", (fleet.data(name) / "live" / title.name).is_dir)
    fleet.restart_tracker()
    # The restarted tracker counts all known nodes as alive at first: their word is what matters.
    reports = fleet.live(ALL, title)
    assert sum(report["bytes_origin"] for report in reports.values()) >= title.size
    assert fleet.alive() == set(ALL)


def test_killed_origin_after_one_full_copy(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("kill-origin")
    origin = make_origin(title.root, allowed=title.size // 2, one_copy=True)
    fleet.order(title, [origin.url])
    half_way(fleet, title, origin, "b1")
    origin.allow(None)
    wait_until("one full copy is out", origin.sent_all)
    origin.kill()
    reports = fleet.live(ALL, title)
    assert title.size <= sum(report["bytes_origin"] for report in reports.values()) <= title.size * 1.05


def test_cache_that_comes_late_takes_all_from_peers(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    """It also gets the titles that the tests before this one ordered for all, whose origins are gone."""
    title = make_title("late")
    origin = make_origin(title.root, allowed=title.size // 2)
    fleet.order(title, [origin.url])
    half_way(fleet, title, origin, "a1")
    fleet.start(("a3", "isp-a"))
    wait_until("a3 has what the others have", lambda: fleet.report("a3", title).get("have_chunks", 0) > 24)
    assert fleet.report("a3", title)["bytes_origin"] == 0
    origin.allow(None)
    fleet.live([*ALL, "a3"], title)
    fleet.start(("a4", "isp-a"))
    report = fleet.live(["a4"], title)["a4"]
    assert report["bytes_peer"] == title.size
    assert report["duplicate_bytes"] == 0
    for name in ("a3", "a4"):
        assert fleet.stop(name) == 0
