"""The fleet's policy in the tracker: durable, told to whom it concerns, and titles that stay in their regions."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tracker.services import publish, service_on

from p2pfill.errors import ConfigError
from p2pfill.model.policy import ANYWHERE, FillPolicy, Reach
from p2pfill.model.reports import Orders, TitleReport
from p2pfill.tracker import pauses, policies, views
from p2pfill.tracker.applying import apply_policy
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.records import FillRequest, PolicyRequest
from p2pfill.tracker.service import Service

RATES = '[[caches]]\nname = "slow"\nselector = "isp=isp-a"\nrates = "3M"\n'
STAY = '[[residency]]\nname = "licence"\ntitles = "film*"\nregions = ["eu", "uk"]\n'
NO_CLOUD = '[[fills]]\nname = "no-cloud"\nselector = "isp=isp-a"\nhops = ["isp", "region", "all"]\n'


def beat(
    service: Service, make: Any, node: str, sequence: int, *titles: TitleReport, isp: str = "isp-a", region: str = "eu"
) -> None:
    service.handle_heartbeat(node, make.report(make.info(node, isp=isp, region=region), sequence, *titles))


async def told(service: Service, node: str, before: Orders | None = None) -> Orders:
    if before is None:
        return await service.wait_changes(node, "", 0.0)
    return await service.wait_changes(node, before.cursor, 0.0, before.pins, before.settings_digest)


async def test_settings_reach_those_whom_they_concern_and_last(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        for node, isp in (("a1", "isp-a"), ("b1", "isp-b")):
            beat(service, make, node, 1, isp=isp)
        nothing = await told(service, "a1")
        assert (nothing.settings, nothing.settings_digest) == (None, "")
        applied = await apply_policy(service, PolicyRequest(RATES, "for the night", "ann"))
        assert (applied.version.number, applied.caches, applied.orders) == (1, 1, 0)
        assert applied.changes == [
            "+ caches 'slow': selector isp=isp-a; windows of its own; rates inbound 3 MiB/s"
        ]
        first = await told(service, "a1", nothing)
        assert first.settings is not None
        assert (first.settings.rule, first.settings.rates.inbound.total) == ("slow", 3 << 20)
        assert (await told(service, "a1", first)).settings is None, "it has named them"
        other = await told(service, "b1")
        assert other.settings is not None
        assert other.settings.rule == ""
        beat(service, make, "b1", 2)
        moved = await told(service, "b1", other)
        assert moved.settings == first.settings
    async with service_on(tmp_path / "db") as service:
        beat(service, make, "a1", 1)
        again = await service.wait_changes("a1", "", 0.0, "", first.settings_digest)
        assert (again.settings, again.settings_digest) == (None, first.settings_digest), "of a tracker started anew"
        version = service.policies.stands.version
        assert (version.number, version.comment, version.by, version.text) == (1, "for the night", "ann", RATES)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_calls_are_answered_while_a_policy_is_compared_with_caches_and_titles(
    tmp_path: Path, make: Any, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    monkeypatch.setattr(pauses, "COMPARED_AT_ONCE", 10)
    done = most = 0

    def counted(real: Any) -> Any:
        def call(*args: Any) -> Any:
            nonlocal done, most
            done += 1
            most = max(most, done)
            return real(*args)

        return call

    async def answer_calls() -> None:
        nonlocal done
        while True:
            done = 0
            await trio.lowlevel.checkpoint()

    async with service_on(tmp_path / "db") as service:
        for number in range(60):
            await publish(service, make, number + 1)
            beat(service, make, f"n{number}", 1)
        monkeypatch.setattr(policies.Policies, "settings", counted(policies.Policies.settings))
        monkeypatch.setattr(Service, "told_or_ordered", counted(Service.told_or_ordered))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_calls)
            applied = await apply_policy(service, PolicyRequest(RATES + NO_CLOUD), dry_run=dry_run)
            nursery.cancel_scope.cancel()
        assert applied.caches == 60
        assert most <= 20, "two turns at most, as tasks take theirs in any order"


async def test_who_waits_for_orders_is_woken_and_nobody_else(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        for node, isp in (("a1", "isp-a"), ("b1", "isp-b")):
            beat(service, make, node, 1, isp=isp)
        await service.add_fill(FillRequest(title, "all", [], policy=FillPolicy(stall_wait_s=1.0)))
        await apply_policy(service, PolicyRequest("# nothing"))
        before = {node: await told(service, node) for node in ("a1", "b1")}
        versions = {node: service.node(node).version for node in service.nodes}
        assert before["a1"].orders[0].policy == FillPolicy(stall_wait_s=1.0)
        answers: list[Orders] = []

        async def poll() -> None:
            cursor, digest = before["a1"].cursor, before["a1"].settings_digest
            answers.append(await service.wait_changes("a1", cursor, 30.0, "", digest))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(poll)
                await trio.testing.wait_all_tasks_blocked()
                applied = await apply_policy(service, PolicyRequest(NO_CLOUD))
        assert (applied.orders, applied.caches, applied.left_out) == (1, 0, 0)
        (order,) = answers[0].orders
        assert order.policy == FillPolicy(stall_wait_s=1.0, reach=Reach(0.0, 0.0, None, "no-cloud"))
        assert service.node("b1").version == versions["b1"]
        notes = views.explanation(service, "a1", title).notes
        assert any("Rule 'no-cloud' of the fleet's policy" in note and "never origin" in note for note in notes), notes


async def test_a_title_stays_in_its_regions(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        for node, region in (("a1", "eu"), ("k1", "uk"), ("u1", "us"), ("u2", "us")):
            held = [TitleReport(title, "live", 1, 1, have_bytes=65536)] if node == "u1" else []
            beat(service, make, node, 1, *held, region=region)
        created = await service.add_fill(FillRequest(title, "all", []))
        fill = service.fill(created.fill_id)
        roster = {entry.node.id for entry in service.roster("a1", title)}
        assert roster == {"k1", "u1", "u2"}
        before = {node: await told(service, node) for node in ("u1", "u2")}
        preview = await apply_policy(service, PolicyRequest(STAY), dry_run=True)
        assert (preview.orders, preview.left_out, service.policies.number) == (4, 2, 0)
        assert service.is_wanted("u2", title)
        applied = await apply_policy(service, PolicyRequest(STAY))
        assert (applied.orders, applied.left_out) == (4, 2)
        for node in ("u1", "u2"):
            answer = await told(service, node, before[node])
            assert (answer.orders, answer.gone) == ([], [title])
        assert {entry.node.id for entry in service.roster("a1", title)} == {"k1"}, "nor is one that has it a source"
        order = service.order("a1", title)
        assert order.policy.reach == Reach(regions=("eu", "uk"), residency="licence")
        status = views.fill_status(service, fill)
        assert status.left_out == {"u1": "licence", "u2": "licence"}
        assert [one.node.id for one in status.nodes] == ["a1", "k1"]
        notes = views.explanation(service, "u2", title).notes
        assert any("licence" in note and "eu, uk" in note for note in notes), notes
        again = await service.add_fill(FillRequest(title, "all", []))
        assert (again.nodes, again.left_out) == (["a1", "k1"], {"u1": "licence", "u2": "licence"})
        with pytest.raises(RequestRefused, match="none of the 2 caches stands that match") as refused:
            await service.add_fill(FillRequest(title, "region=us", []), nodes_min=1)
        assert refused.value.status == 409
        beat(service, make, "u3", 1, region="us")
        assert (await told(service, "u3")).orders == [], "nor does one that comes later get an order"
        await apply_policy(service, PolicyRequest("# anything goes"))
        assert len((await told(service, "u2")).orders) == 1, "and back"
        assert {entry.node.id for entry in service.roster("a1", title)} == {"k1", "u1", "u2", "u3"}
        await service.flush()
    async with service_on(tmp_path / "db") as service:
        await apply_policy(service, PolicyRequest(STAY))
    async with service_on(tmp_path / "db") as service:
        assert not service.is_wanted("u2", title), "also of a tracker started anew"
        assert service.order("a1", title, sought=True).policy.reach.residency == "licence"


async def test_versions_are_bounded_and_a_change_made_from_an_old_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "VERSIONS_MAX", 3)
    monkeypatch.setattr("p2pfill.tracker.catalogue.VERSIONS_MAX", 3)
    async with service_on(tmp_path / "db") as service:
        assert service.policies.stands.version.number == 0
        with pytest.raises(RequestRefused, match="none was ever applied"):
            service.policies.get(1)
        for number in range(1, 6):
            applied = await apply_policy(service, PolicyRequest(f"# {number}", base=number - 1))
            assert applied.version.number == number
        with pytest.raises(RequestRefused, match=r"version 5 .* stands, not 4") as refused:
            await apply_policy(service, PolicyRequest("# 6", base=4))
        assert refused.value.status == 409
        same = await apply_policy(service, PolicyRequest("# 5", base=4))
        assert same.version.number == 5, "sent again since the answer was lost"
        with pytest.raises(RequestRefused, match=r"fills\[0\].hops\[1\]"):
            await apply_policy(service, PolicyRequest('[[fills]]\nname = "x"\nhops = ["isp", "moon"]'))
        with pytest.raises(RequestRefused, match="comment is longer"):
            await apply_policy(service, PolicyRequest("", "x" * 1001))
        with pytest.raises(RequestRefused, match="by is no text"):
            await apply_policy(service, PolicyRequest("", by="a\nb"))
    async with service_on(tmp_path / "db") as service:
        assert [version.number for version in service.policies.versions()] == [5, 4, 3]
        with pytest.raises(RequestRefused, match="3 to 5 are kept"):
            service.policies.get(2)
        assert service.policies.get(3).text == "# 3"


async def test_an_order_says_nothing_of_how_far_caches_go(tmp_path: Path, make: Any) -> None:
    async with service_on(tmp_path / "db") as service:
        title = await publish(service, make, 1)
        with pytest.raises(RequestRefused, match="a matter of the fleet's policy"):
            await service.add_fill(FillRequest(title, "all", [], policy=FillPolicy(reach=Reach(origin_s=None))))
        assert FillPolicy().reach == ANYWHERE


async def test_the_api_shows_applies_and_lists(client: TrackerClient) -> None:
    assert (await client.policy()).number == 0
    preview = await client.apply_policy(PolicyRequest(RATES), dry_run=True)
    assert (preview.version.number, len(preview.changes), await client.policies()) == (1, 1, [])
    assert (await client.apply_policy(PolicyRequest(RATES, by="ann"))).version.number == 1
    assert (await client.policy()).text == (await client.policy(1)).text == RATES
    assert [(one.number, one.by, one.text) for one in await client.policies()] == [(1, "ann", "")]
    with pytest.raises(TrackerRefused, match="1 to 1 are kept"):
        await client.policy(7)
    with pytest.raises(TrackerRefused, match="did you mean caches") as refused:
        await client.apply_policy(PolicyRequest("cachse = 1"))
    assert refused.value.status == 400


async def test_a_database_of_before_is_taken_over_and_a_policy_that_cannot_be_read_is_not_left_out(
    tmp_path: Path,
) -> None:
    async with service_on(tmp_path / "db") as service:
        assert service.policies.number == 0
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("DROP TABLE policies")
        db.execute("PRAGMA user_version = 3")
    db.close()
    async with service_on(tmp_path / "db") as service:
        await apply_policy(service, PolicyRequest(STAY))
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("UPDATE policies SET record = ?", (b'{"version": 1}',))
    db.close()
    with pytest.RaisesGroup(pytest.RaisesExc(ConfigError, match="version 1 .* cannot be read"), allow_unwrapped=True):
        async with service_on(tmp_path / "db"):
            pass
