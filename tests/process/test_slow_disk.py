"""A disk that stalls holds up payload, and nothing else: the loop of the cache above it is on time and answers.

Each stall lasts until the cache has answered, so a loop that waits for the disk answers never; and at least `STALL_S`,
which is what its lag would then show.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from process.fleet import Fleet, HeldOrigin, Title, wait_until
from process.peer import Peer
from process.slow_disk import SlowDisk

from p2pfill.protocol import messages as m

pytestmark = [pytest.mark.process, pytest.mark.alone]

STALL_S = 3.0
PINGS = 20


class SlowFleet(Fleet):
    """`a1` is as usual, below `a2` is a disk that stalls."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.disk = SlowDisk(self.data("a2"), directory)
        self.start(("a1", "isp-a"))
        self.start(("a2", "isp-a"), environment=self.disk.environment)

    def lag_us(self) -> dict[str, int]:
        """Return what `a2` said last of its loop's lag."""
        lag: dict[str, int] = self.get("/v1/nodes/a2")["loop_lag"]
        return lag

    def check_loop(self) -> None:
        """Fail where the loop of `a2` has touched the disk, or was kept by anything for most of a stall."""
        loop = self.nodes["a2"].pid
        touched = {call for thread, call in self.disk.calls() if thread == loop}
        assert not touched, f"the loop's thread waits for the disk: {touched}"
        lag = self.lag_us()
        assert 0 < lag["p99_us"] <= lag["max_us"] < STALL_S / 2 * 1e6, lag

    def check_answers(self, title: Title) -> None:
        """Fail where `a2` does not answer a linked cache: Pings, and a Subscribe."""
        host, port = self.nodes["a2"].ready["address"].rsplit(":", 1)

        async def ask() -> None:
            peer = Peer(title.manifest, node_id="zz-asks", isp="isp-z", holds_nothing=True)
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    await nursery.start(peer.run, (host, int(port)))
                    assert peer.channel is not None
                    await peer.linked.wait()
                    for number in range(PINGS):
                        heard_at = peer.channel._heard_at
                        peer.channel.send(m.Ping(number))
                        while peer.channel._heard_at == heard_at:
                            await trio.sleep(0.002)
                    await peer.want()
                    nursery.cancel_scope.cancel()

        began = time.monotonic()
        trio.run(ask)
        time.sleep(max(0.0, began + STALL_S - time.monotonic()))
        assert "a2" in self.alive()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlowFleet]:
    fleet = SlowFleet(tmp_path_factory.mktemp("slow"))
    try:
        yield fleet
    finally:
        fleet.close()


def test_a_stall_in_the_midst_of_a_fill(
    slow: SlowFleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("midst", mib=16)
    origin = make_origin(title.root, allowed=title.size // 4)
    slow.order(title, [origin.url])
    wait_until("the origin's gate is reached", origin.held)
    wait_until("a2 has a part", lambda: slow.report("a2", title).get("have_chunks", 0) > 8)
    with slow.disk.stalled():
        origin.allow(None)
        wait_until("a2 would write", slow.disk.holds)
        slow.check_answers(title)
        assert slow.report("a2", title)["state"] == "filling"
    reports = slow.live(["a1", "a2"], title)
    assert {source["state"] for source in reports["a2"]["sources"] if source["id"] == "a1"} == {"ok"}
    assert reports["a2"]["bytes_peer"] > 0
    slow.check_loop()


def test_stalls_at_the_beginning_and_at_the_end(slow: SlowFleet, make_title: Callable[..., Title]) -> None:
    title = make_title("ends")
    slow.order(title, [str(title.root)], to="id=a1")
    slow.live(["a1"], title)
    with slow.disk.stalled():
        slow.order(title, [], to="id=a2")
        wait_until("a2 would make files", slow.disk.holds)
        slow.check_answers(title)
    slow.live(["a2"], title)
    slow.check_loop()
    # And when it is started anew: what is live is opened before it listens.
    assert slow.nodes["a2"].end() == 0
    with slow.disk.stalled():
        slow.begin_restart("a2")
        wait_until("a2 would open its store", slow.disk.holds)
        time.sleep(STALL_S)
    assert slow.nodes["a2"].ready
    slow.live(["a2"], title)
    wait_until("a2 has looked at its lag", lambda: slow.lag_us()["p99_us"])
    slow.check_loop()


def test_a_fill_is_withdrawn_in_a_stall(
    slow: SlowFleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("withdrawn")
    origin = make_origin(title.root, allowed=title.size // 4)
    fill = slow.order(title, [origin.url], to="id=a2")
    wait_until("a2 has a part", lambda: slow.report("a2", title).get("have_chunks", 0) > 4)
    with slow.disk.stalled():
        origin.allow(None)
        wait_until("a2 would write", slow.disk.holds)
        slow.withdraw(fill)
        wait_until("a2 gives up", lambda: slow.report("a2", title)["state"] == "failed")
        slow.check_answers(title)
    slow.check_loop()
    slow.order(title, [origin.url], to="id=a2")
    wait_until("a2 takes it up again", lambda: slow.report("a2", title)["state"] != "failed")
    slow.live(["a2"], title)
    slow.check_loop()
