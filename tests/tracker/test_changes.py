"""What has changed of a node's orders, in pieces: whatever is lost between, the node ends with what stands."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from tracker.conftest import make_info, make_manifest, make_report
from tracker.services import publish, service_on

from p2pfill.model.ids import TitleId
from p2pfill.model.reports import NodeReport, Order, TitleReport
from p2pfill.node.standing import StandingOrders
from p2pfill.tracker import feed as feed_module
from p2pfill.tracker import service as service_module
from p2pfill.tracker.catalogue import Catalogue
from p2pfill.tracker.feed import Feed
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.service import Service

TITLES = 6
NODES = 3
SCRATCH = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""In memory: a database is opened hundreds of times, and synced each time."""


class Cache:
    """A node, as far as orders are concerned. What it holds stays when it is started anew."""

    def __init__(self, number: int) -> None:
        self.info = make_info(f"n{number}")
        self.held: dict[str, str] = {}
        self.boots = 0
        self.start()

    def start(self) -> None:
        self.boots += 1
        self.sequence = 0
        self.standing = StandingOrders()

    def report(self) -> NodeReport:
        self.sequence += 1
        titles = [
            TitleReport(title, state, 4, 4 if state == "live" else 2)  # type: ignore[arg-type]
            for title, state in self.held.items()
        ]
        return make_report(self.info, self.sequence, *titles, boot=f"boot-{self.boots}")

    async def poll(self, service: Service, *, lost: bool = False) -> bool:
        """Ask once for what has changed; return whether there is more."""
        answer = await service.wait_changes(self.info.id, self.standing.cursor, 0.0)
        if not lost:
            self.standing.take(answer)
        return answer.more or lost


def told(order: Order) -> Any:
    """Return what of an order a node is told again where it changes."""
    return order.fill_id, order.origins, order.number, order.urgency, {entry.node.id for entry in order.roster}


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("order"), st.integers(0, TITLES - 1), st.sampled_from(["all", "id=n0", "id=n1"])),
        st.tuples(st.just("withdraw"), st.integers(0, TITLES - 1), st.booleans()),
        st.tuples(st.just("say"), st.integers(0, NODES - 1), st.integers(0, TITLES - 1),
                  st.sampled_from(["filling", "live", "failed", "repairing", ""])),
        st.tuples(st.just("beat"), st.integers(0, NODES - 1)),
        st.tuples(st.just("poll"), st.integers(0, NODES - 1), st.booleans()),
        st.tuples(st.just("boot"), st.integers(0, NODES - 1)),
        st.tuples(st.just("die"), st.integers(0, NODES - 1)),
        st.tuples(st.just("remove"), st.integers(0, NODES - 1)),
        st.tuples(st.just("restart")),
        st.tuples(st.just("catch up")),
    ),
    max_size=40,
)  # fmt: skip


class World:
    def __init__(self, directory: str) -> None:
        self.url = f"sqlite:///{directory}/db"
        # Two versions of each name.
        self.manifests = [make_manifest(f"film{number // 2}", 4 + number) for number in range(TITLES)]
        self.ids = [manifest.title_id.hex() for manifest in self.manifests]
        self.caches = [Cache(number) for number in range(NODES)]

    async def open(self) -> None:
        self.catalogue = Catalogue.open(self.url)
        self.service = Service(self.catalogue, await self.catalogue.load(), heartbeat_s=2.0)

    async def restart(self, *, flushed: bool) -> None:
        if flushed:
            await self.service.flush()
        await trio.to_thread.run_sync(self.catalogue.close)
        await self.open()

    def beat(self, number: int) -> None:
        self.service.handle_heartbeat(f"n{number}", self.caches[number].report())

    async def do(self, step: Any) -> None:
        service = self.service
        match step:
            case ("order", title, selector):
                await service.add_fill(FillRequest(self.ids[title], selector, [f"http://origin/{title}"]))
            case ("withdraw", title, urgent):
                await service.withdraw(self.ids[title], urgent=urgent)
            case ("say", number, title, state):
                held = self.caches[number].held
                if state:
                    held[self.ids[title]] = state
                else:
                    held.pop(self.ids[title], None)
                self.beat(number)
            case ("beat", number):
                self.beat(number)
            case ("poll", number, lost):
                if f"n{number}" in service.nodes:
                    await self.caches[number].poll(service, lost=lost)
            case ("boot", number):
                self.caches[number].start()
                self.beat(number)
            case ("die" | "remove", number):
                if (state := service.nodes.get(f"n{number}")) is not None:
                    if state.alive:
                        service._lose(state)
                    if step[0] == "remove":
                        await service.delete_node(f"n{number}")
            case ("catch up",):
                service.catch_up()
            case _:
                await self.restart(flushed=True)

    async def check(self) -> None:
        """Let everybody report and ask until there is no news: each has what a whole answer says."""
        for number in range(NODES):
            self.beat(number)
        for cache in self.caches:
            for _ in range(200):
                more = await cache.poll(self.service)
                if not self.service.catch_up() and not more:
                    break
        for cache in self.caches:
            for _ in range(100):
                if not await cache.poll(self.service):
                    break
            whole = {TitleId(bytes.fromhex(order.title)): order for order in self.service.orders(cache.info.id)}
            assert cache.standing.is_whole
            assert {k: told(o) for k, o in cache.standing.orders.items()} == {k: told(o) for k, o in whole.items()}
            named = {entry.node.id for order in whole.values() for entry in order.roster}
            assert {info.id for info in cache.standing.linked} == named
            state = self.service.node(cache.info.id)
            titles = {order.title for order in whole.values()}
            assert set(state.unfinished) == {title for title in titles if cache.held.get(title) != "live"}


@settings(max_examples=90, deadline=None)
@given(steps=STEPS, at_once=st.sampled_from([1, 3, service_module.FOLLOWED_AT_ONCE]))
def test_each_node_ends_with_what_a_whole_answer_says(steps: list[Any], at_once: int) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
            world = World(directory)
            await world.open()
            for title, manifest in zip(world.ids, world.manifests, strict=True):
                await world.service.add_title(title, manifest, manifest.encode())
            try:
                for step in steps:
                    await world.do(step)
                await world.check()
            finally:
                await trio.to_thread.run_sync(world.catalogue.close)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service_module, "PIECE_BYTES_MAX", 600)
        patch.setattr(service_module, "FOLLOWED_AT_ONCE", at_once)
        patch.setattr(service_module, "REFRESH_S", 1e9)  # so that no refresh hides what was not told
        patch.setattr(feed_module, "GONE_MAX", 2)
        patch.setattr(feed_module, "STALE_MIN", 1)
        trio.run(run)


NOTES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60)


@given(notes=NOTES, known=st.integers(0, 60))
def test_a_feed_tells_the_last_change_of_each_title_once(notes: list[tuple[int, bool]], known: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "GONE_MAX", 2)
        patch.setattr(feed_module, "STALE_MIN", 0)
        feed, last = Feed(0), {}
        for version, (title, is_ordered) in enumerate(notes, 1):
            feed.note(f"{title}", version, is_ordered=is_ordered)
            last[f"{title}"] = version, is_ordered
    said = list(feed.since(known))
    assert said == sorted(said)
    for title, (version, is_ordered) in last.items():
        assert (title in feed) == is_ordered
        if version > known and (is_ordered or feed.knows(known)):
            assert (version, title, is_ordered) in said
    assert len(said) == len({change.title for change in said})
    assert all(last[change.title] == (change.version, change.is_ordered) for change in said)
    assert feed.knows(len(notes))


async def test_versions_of_another_run_and_of_another_database_are_not_known(tmp_path: Path, make: Any) -> None:
    cursors = []
    for name in ("one", "one", "other"):
        async with service_on(tmp_path / name) as service:
            title = await publish(service, make, 1)
            service.handle_heartbeat("n1", make.report(make.info("n1"), 1, boot=f"{name}{len(cursors)}"))
            await service.add_fill(FillRequest(title, "all", []))
            for cursor in (*cursors, "", "-", "x", f"{service._run}-99999999999999999999", f"{service._run}-x"):
                answer = await service.wait_changes("n1", cursor, 0.0)
                assert (answer.changes, len(answer.orders)) == (False, 1)
            again = await service.wait_changes("n1", answer.cursor, 0.0)
            assert (again.changes, again.orders, again.gone) == (True, [], [])
            cursors.append(answer.cursor)
            await service.flush()


async def test_an_order_by_itself_names_those_who_have_it(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 4)
        await service.add_fill(FillRequest(title, "all", []))
        for name in ("n1", "n2"):
            report = make.report(make.info(name), 1, TitleReport(title, "live", 4, 4))
            service.handle_heartbeat(name, report)
        (order,) = service.orders("n1")
        assert order.roster == []
        assert [entry.node.id for entry in service.order_now("n1", title).roster] == ["n2"]
        with pytest.raises(service_module.RequestRefused):
            service.order_now("n1", "0" * 64)


async def test_a_node_that_was_taken_for_dead_hears_what_it_was_not_told(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 4)
        caches = [Cache(number) for number in range(3)]
        await service.add_fill(FillRequest(title, "all", []))
        for cache in caches:
            service.handle_heartbeat(cache.info.id, cache.report())
        await caches[0].poll(service)
        assert {info.id for info in caches[0].standing.linked} == {"n1", "n2"}
        service._lose(service.node("n0"))
        for cache in caches[1:] + caches[:1]:
            cache.held[title] = "live"
            service.handle_heartbeat(cache.info.id, cache.report())
        await caches[0].poll(service)
        assert not list(caches[0].standing.linked)


async def test_what_a_new_node_has_not_said_yet_it_does_not_seek(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        titles = [await publish(service, make, chunks) for chunks in (1, 2, 3)]
        for title in titles:
            await service.add_fill(FillRequest(title, "all", []))
        live = [TitleReport(title, "live", 1, 1) for title in titles[:2]]
        service.handle_heartbeat("n1", make.report(make.info("n1"), 1, *live))
        first, last = make.report(make.info("n2"), 1, live[0]), make.report(make.info("n2"), 2, live[1])
        first.more, last.since = True, 1
        service.handle_heartbeat("n2", first)
        for report in (first, last):
            service.handle_heartbeat("n2", report)
            # The last one both of them seek.
            assert [order.title for order in service.orders("n1") if order.roster] == titles[2:]
