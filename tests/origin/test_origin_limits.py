"""A caller that lets bytes come slowly: the origin is blamed for nothing, and no read gives up over it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from origin.servers import RawServer, without_range

from p2pfill.origin import Listener, OriginError, OriginSettings, open_origin

IDLE_S = 0.4
STEP = 8 * 1024


class Slow(Listener):
    """Lets come eight kilobytes at a time, each after a moment."""

    def __init__(self) -> None:
        self.troubles: list[str] = []

    def allow(self, count: int) -> int:
        time.sleep(IDLE_S / 4)
        return min(count, STEP)

    def trouble(self, reason: str, cause: str) -> None:
        self.troubles.append(reason)


def test_who_waits_for_a_file_that_another_goes_through_slowly_does_not_give_up(
    start: Callable[..., RawServer], make_title: Any
) -> None:
    title, slow = make_title({"big": bytes(range(256)) * 512}), Slow()  # two chunks
    origin = open_origin(start(without_range(title.stream)).url, settings=OriginSettings(idle_max_s=IDLE_S))
    got: dict[int, bytes] = {}
    faults: list[OriginError] = []

    def read(chunk: int) -> None:
        try:
            got[chunk] = bytes(origin.read_chunk(title.manifest, chunk, slow).data)
        except OriginError as error:
            faults.append(error)

    threads = [threading.Thread(target=read, args=(chunk,)) for chunk in range(title.manifest.chunk_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    origin.close()
    assert not faults
    assert got == {chunk: title.chunk(chunk) for chunk in range(title.manifest.chunk_count)}
