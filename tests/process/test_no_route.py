"""One cache of an ISP cannot reach the origin: the others fetch its part, and it says why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ports import free_port
from process.fleet import Fleet, HeldOrigin, Title, cli, wait_until

pytestmark = pytest.mark.process


@pytest.fixture
def empty_fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    yield fleet
    fleet.close()


@pytest.mark.parametrize("chunk_count", [1, 6])
def test_a_dead_proxy_of_one_cache_keeps_nobody_from_the_origin(
    empty_fleet: Fleet, tmp_path: Path, chunk_count: int
) -> None:
    size = 128 * 1024
    title = Title(tmp_path, "film", size * chunk_count, chunk_size=size)
    assert title.manifest.chunk_count in (chunk_count, chunk_count + 1)  # small files share chunks of their own
    dead = free_port()
    origin = HeldOrigin(title.root)
    try:
        proxy = {"http_proxy": f"http://127.0.0.1:{dead}", "no_proxy": ""}
        empty_fleet.start(("a1", "isp"), environment=proxy)
        empty_fleet.start(("a2", "isp"))
        wait_until("both are known", lambda: empty_fleet.alive() == {"a1", "a2"})
        empty_fleet.order(title, [origin.url])
        reports = empty_fleet.live(["a1", "a2"], title)
    finally:
        origin.kill()
    assert reports["a1"]["bytes_origin"] == 0
    assert reports["a1"]["bytes_peer"] == title.size
    assert sum(reports["a2"]["escalations"].values()) <= title.manifest.chunk_count


def test_explain_and_the_log_name_the_cause(empty_fleet: Fleet, tmp_path: Path) -> None:
    title = Title(tmp_path, "film", 256 * 1024)
    url = f"http://127.0.0.1:{free_port()}"
    empty_fleet.start(("a1", "isp"), ("a2", "isp"))
    wait_until("both are known", lambda: empty_fleet.alive() == {"a1", "a2"})
    empty_fleet.order(title, [url])

    def explained() -> str:
        said = " ".join(cli("explain", "a1", title.name, "--tracker", empty_fleet.url).out.split())
        return said if "cannot be reached from here" in said else ""

    said = wait_until("explain names the origin", explained)
    assert "refused" in said.lower()
    assert "is failing" in said
    assert "the origin cannot be reached from here" in empty_fleet.nodes["a1"].text()
