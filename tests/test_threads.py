"""Threads have their names in the kernel too, where they are looked for with `top -H`."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

from p2pfill.threads import name_thread
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.transport.plane import DataPlane

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")


def name_of(thread_id: int | None) -> str:
    return Path(f"/proc/self/task/{thread_id}/comm").read_text().strip()


def names() -> list[str]:
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def test_a_thread_gets_the_first_15_characters_of_its_name() -> None:
    found = []

    def run() -> None:
        name_thread()
        found.append(name_of(threading.get_native_id()))

    thread = threading.Thread(target=run, name="a name that is long")
    thread.start()
    thread.join()
    assert found == ["a name that is "[:15].strip()]


def test_threads_of_a_pool_get_theirs() -> None:
    with ThreadPoolExecutor(1, "some-pool", name_thread) as pool:
        assert name_of(pool.submit(threading.get_native_id).result()) == "some-pool_0"


def test_a_data_plane_and_a_catalogue_name_theirs() -> None:
    async def main() -> list[str]:
        async with DataPlane(2, upload_slots=1).running():
            while not {"data-0", "data-1"} <= set(names()):
                await trio.sleep(0.01)
            return names()

    async def in_time() -> list[str]:
        with trio.fail_after(10):
            return await main()

    catalogue = Catalogue.open("sqlite:///:memory:")
    try:
        assert "p2pfill-catalog" in trio.run(in_time)
    finally:
        catalogue.close()


def test_where_there_is_no_proc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "write_text", refuse)
    name_thread()
