"""An urgent withdrawal over real caches: gone where they are linked, and at their return elsewhere."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from measure import machine_slowness
from process.fleet import Fleet, cli, wait_until
from process.test_versions import order, shown, version

pytestmark = [pytest.mark.process, pytest.mark.alone]

GONE_S = 5.0


def test_a_bad_title_is_taken_off_every_cache(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        good, bad = (version(tmp_path, text) for text in ("good", "bad"))
        names = [f"{isp}{number}" for isp in "abcd" for number in (1, 2, 3)]
        fleet.start(*((name, f"isp-{name[0]}") for name in names))
        for title in (good, bad):
            order(fleet, title, "--wait", "--timeout", "60")
        assert {shown(fleet, name) for name in names} == {"bad"}
        directories = {name: (fleet.data(name) / "live" / "film").resolve().parent for name in names}
        away, linked = ("b1", "c2"), [name for name in names if name not in ("b1", "c2")]
        for name in away:
            fleet.nodes[name].end(signal.SIGKILL)
        title_id = directories["a1"].name
        refused = cli("title", "withdraw", title_id[:16], "--urgent", "--tracker", fleet.url)
        assert refused.code == 2, refused
        tried = cli("title", "withdraw", title_id[:16], "--urgent", "--dry-run", "--tracker", fleet.url)
        assert "delete it on 12 caches" in tried.out
        assert shown(fleet, "a1") == "bad"
        began = time.monotonic()
        done = cli("title", "withdraw", title_id[:16], "--urgent", "--yes", "--tracker", fleet.url)
        assert done.code == 0, done
        wait_until("all show the version before", lambda: {shown(fleet, name) for name in linked} == {"good"})
        took_s = time.monotonic() - began
        wait_until("the files are gone", lambda: not any(directories[name].exists() for name in linked))
        assert took_s < GONE_S * machine_slowness()
        assert {shown(fleet, name) for name in away} == {"bad"}
        for name in away:
            fleet.restart(name)
        wait_until("those that come back show it no more", lambda: {shown(fleet, name) for name in away} == {"good"})
        wait_until("and have deleted it", lambda: not any(directories[name].exists() for name in away))
        # Nothing else stands: then nothing is shown.
        assert cli("title", "remove", "film", "--yes", "--tracker", fleet.url).code == 2, "two are in the catalogue"
        assert cli("title", "remove", title_id[:16], "--yes", "--tracker", fleet.url).code == 0
        done = cli("title", "withdraw", "film", "--urgent", "--yes", "--tracker", fleet.url)
        assert done.code == 0, done
        wait_until("nothing is shown", lambda: not any((fleet.data(n) / "live" / "film").is_symlink() for n in names))
        # An order lifts it.
        order(fleet, good, "--wait", "--timeout", "60")
        assert {shown(fleet, name) for name in names} == {"good"}
    finally:
        fleet.close()
