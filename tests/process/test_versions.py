"""Versions of a name over real caches that are killed, restarted and join late."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from process.fleet import Fleet, Title, cli, wait_until

pytestmark = pytest.mark.process


def version(directory: Path, text: str) -> Title:
    """Make a version of `film` that says which it is."""
    place = directory / text
    place.mkdir()
    root = place / "film"
    title = Title(place, "film", 3_000_000)
    (root / "version").write_text(text)
    assert cli("publish", str(root), "--name", "film", "--out", str(title.fill)).code == 0
    return title


def order(fleet: Fleet, title: Title, *more: str) -> None:
    flags = ("--tracker", fleet.url, "--origin", str(title.root), "--to", "all", "--later")
    done = cli("fill", str(title.fill), *flags, *more)
    assert done.code == 0, done


def shown(fleet: Fleet, name: str) -> str:
    file = fleet.data(name) / "live" / "film" / "version"
    return file.read_text() if file.exists() else ""


def test_the_newest_order_wins_everywhere(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        one, two, three = (version(tmp_path, text) for text in ("v1", "v2", "v3"))
        names = [f"{isp}{number}" for isp in "abcd" for number in (1, 2, 3)]
        late = ("c1", "d3")
        fleet.start(*((name, f"isp-{name[0]}") for name in names if name not in late))
        order(fleet, one, "--wait", "--timeout", "60")
        assert {shown(fleet, name) for name in fleet.nodes} == {"v1"}
        away = ("a2", "b3", "d1")
        for name in away:
            fleet.nodes[name].end(signal.SIGKILL)
        here = [name for name in fleet.nodes if name not in away]
        order(fleet, two)
        wait_until("all that are here show v2", lambda: {shown(fleet, name) for name in here} == {"v2"})
        order(fleet, three)
        fleet.nodes["c2"].end(signal.SIGKILL)  # with a part of v3, perhaps
        order(fleet, one)
        for name in (*away, "c2"):
            fleet.restart(name)
        fleet.start(*((name, f"isp-{name[0]}") for name in late))
        order(fleet, one, "--wait", "--timeout", "60")
        assert {name: shown(fleet, name) for name in names} == dict.fromkeys(names, "v1")
        # It wanted the newest of the name, and nothing of the others.
        titles = fleet.data("c1") / "titles"
        assert os.listdir(titles) == [Path(os.readlink(fleet.data("c1") / "live" / "film")).parts[-2]]
        # What stands is remembered: by the tracker, and by caches that start while it is away.
        fleet.tracker.end()
        fleet.nodes["b1"].end(signal.SIGKILL)
        fleet.restart("b1")
        assert shown(fleet, "b1") == "v1"
        fleet.restart_tracker()
        order(fleet, two, "--wait", "--timeout", "60")
        assert {name: shown(fleet, name) for name in names} == dict.fromkeys(names, "v2")
    finally:
        fleet.close()
