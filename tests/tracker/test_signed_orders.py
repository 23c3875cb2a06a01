"""Signed orders at the tracker: what it takes of callers, and what stands again after its database was lost."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from certificates import Signer, cache, tracker, user
from rich.console import Console
from tracker.services import publish, service_on
from trusted import Fleet, film

from p2pfill.cli.fleet import status_view
from p2pfill.model.policy import FillPolicy
from p2pfill.model.reports import BroughtOrder, BroughtOrders
from p2pfill.model.signed_order import WithdrawalStatement
from p2pfill.tracker import views
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.client import TrackerClient, TrackerRefused
from p2pfill.tracker.order_terms import statement_of
from p2pfill.tracker.recall import bring_back
from p2pfill.tracker.records import FillRequest
from p2pfill.tracker.rights import Grants
from p2pfill.tracker.service import Service
from p2pfill.tracker.signed_orders import SignedOrders
from p2pfill.trust.credentials import Credentials
from p2pfill.trust.order_signing import Signer as OrderSigner

NOW = time.time_ns() // 1_000_000
GRANTS = """
[[grants]]
who = "user/anna"
may = ["order", "withdraw", "manage"]

[[grants]]
who = "user/bob"
may = ["order"]
to = "isp=isp-b"
"""


class Hands:
    """Users that sign, and a tracker that knows them."""

    def __init__(self, root: Path) -> None:
        self.root, self.signer = root, Signer()
        (root / "grants.toml").write_text(GRANTS)
        self.believes = Credentials(self.signer.give(root / "tracker", tracker()))
        self.signed = SignedOrders(self.believes, Grants(root / "grants.toml"))
        self._users: dict[str, OrderSigner] = {}

    def of(self, name: str) -> OrderSigner:
        if name not in self._users:
            self._users[name] = OrderSigner(Credentials(self.signer.give(self.root / name, user(name))))
        return self._users[name]

    def order(self, title: str, number: int, who: str = "anna", **more: Any) -> bytes:
        wanted = FillRequest(**({"title": title, "selector": "isp=isp-a", "origins": ["http://o/film"]} | more))
        hand = self.of(who)
        said = statement_of(wanted, domain=hand.domain, name="film", number=number, expires=hand.expires(number))
        return hand.sign(said)

    def withdrawal(
        self, title: str, number: int, who: str = "anna", *, urgent: bool = False, terms: bytes = b"",
        name: str = "film",
    ) -> bytes:
        hand = self.of(who)
        title_id, expires = bytes.fromhex(title), hand.expires(number)
        return hand.sign(WithdrawalStatement(hand.domain, title_id, name, number, expires, urgent, terms))


@pytest.fixture
def hands(tmp_path: Path) -> Hands:
    return Hands(tmp_path)


def brought(title: str, *signed: bytes, origin: str = "http://o/film") -> BroughtOrder:
    return BroughtOrder(title, [origin], 0, FillPolicy(), number=7, signed=list(signed))


def beat(service: Service, make: Any, *names: str) -> None:
    for name in names:
        service.handle_heartbeat(name, make.report(make.info(name, isp=f"isp-{name[0]}")))


async def bring(
    service: Service, hands: Hands, node: str, *orders: BroughtOrder, withdrawals: tuple[bytes, ...] = ()
) -> dict[str, str]:
    reply = await bring_back(service, node, list(orders), withdrawals, hands.signed)
    assert reply.manifests == []
    return reply.refused


def stands(service: Service) -> list[tuple[str, str, int]]:
    return sorted(
        (fill.request.selector, "" if fill.signed is None else fill.signed.who, fill.number)
        for fill in service.fills.values()
    )


async def test_a_signed_order_stands_again_for_all_whom_it_meant(tmp_path: Path, make: Any, hands: Hands) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "a2", "b1")
        title = await publish(service, make, 3)
        document = hands.order(title, NOW, rollback=True, priority=4)
        # Whoever brings it; and once more changes nothing.
        for node in ("b1", "a1", "a2"):
            assert await bring(service, hands, node, brought(title, document)) == {}
        assert stands(service) == [("isp=isp-a", "user/anna", NOW)]
        (fill,) = service.fills.values()
        assert service.nodes_of_fill(fill.fill_id) == ["a1", "a2"]
        beat(service, make, "a3")
        (order,) = service.orders("a3")
        assert fill.signed is not None
        assert (order.priority, order.rollback, order.number) == (4, True, NOW)
        assert order.signed == [fill.signed.id]
        assert (await service.signed_documents("a3", [title]))[title] == [document]
        assert (await service.signed_documents("b1", [title]))[title] == []
        # What is ordered from now on is newer.
        made = await service.add_fill(FillRequest(title, "id=b1", ["http://o/"]))
        assert service.fills[made.fill_id].number == NOW + 1
    async with service_on(tmp_path / "t.db") as service:
        assert ("isp=isp-a", "user/anna", NOW) in stands(service)
        with pytest.raises(RequestRefused, match="is old"):
            service.signed.require_news("film", NOW)


async def test_what_nobody_has_signed_is_listed_with_how_to_order_it(tmp_path: Path, make: Any, hands: Hands) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "a2")
        title = await publish(service, make, 3)
        for node in ("a1", "a2"):
            refused = await bring(service, hands, node, brought(title, origin="http://o/film?key=secret"))
            assert "nobody has signed it" in refused[title]
        assert service.fills == {}
        (lost,) = views.status(service, 0.0).brought_back
        assert lost.again == "p2pfill fill film.fill --origin 'http://o/film?…' --to id=a1,id=a2"
        console = Console(width=200)
        with console.capture() as capture:
            console.print(status_view(views.status(service, 0.0)))
        assert f"order it again: {lost.again}" in capture.get()
        # Where it is ordered again it is listed no more as lost.
        await bring(service, hands, "a1", brought(title, hands.order(title, NOW)))
        (back,) = views.status(service, 0.0).brought_back
        assert (back.reason, back.again) == ("", "")


async def test_who_may_not_order_it_now_does_not_get_it_back(tmp_path: Path, make: Any, hands: Hands) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        title, other = await publish(service, make, 3), await publish(service, make, 4)
        for document, why in (
            (hands.order(title, NOW, "bob"), "it is not for isp=isp-b alone"),
            (hands.order(title, NOW, "bob", selector="isp=isp-b", rollback=True), "may not roll back"),
            (hands.order(title, NOW, "carl"), "may not do this"),
            (hands.order(other, NOW), "is of title"),
            (hands.order(title, NOW, selector="what"), "selector"),
            (hands.order(title, NOW + 3_600_000), "time to come"),
            (b"junk", "no signed order"),
        ):
            refused = await bring(service, hands, "a1", brought(title, document))
            assert why in refused[title]
        (tmp_path / "carl.pem").write_bytes(hands.signer.revoke(tmp_path / "anna"))
        document = hands.order(title, NOW)
        hands.believes.revoke((tmp_path / "carl.pem").read_bytes())
        assert "revoked" in (await bring(service, hands, "a1", brought(title, document)))[title]
        assert service.fills == {}
        # Of several those stand that may.
        assert not await bring(
            service, hands, "a1", brought(title, document, hands.order(title, NOW, "bob", selector="isp=isp-b"))
        )
        assert stands(service) == [("isp=isp-b", "user/bob", NOW)]


@pytest.mark.parametrize("comes_first", [True, False])
async def test_a_signed_withdrawal_wins_over_what_came_before_it(
    tmp_path: Path, make: Any, hands: Hands, comes_first: bool
) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "a2", "a3")
        title = await publish(service, make, 3)
        old, gone, new = hands.order(title, NOW), hands.withdrawal(title, NOW), hands.order(title, NOW + 1)
        if comes_first:
            await bring(service, hands, "a2", withdrawals=(gone,))
        refused = await bring(service, hands, "a1", brought(title, old))
        if not comes_first:
            assert (refused, len(service.fills)) == ({}, 1)
            await bring(service, hands, "a2", withdrawals=(gone,))
            refused = await bring(service, hands, "a1", brought(title, old))
        assert "user/anna withdrew it at" in refused[title]
        assert service.fills == {}
        answer = await service.wait_changes("a1", "", 0.0)
        assert answer.gone == [title], "its node is told"
        # What was ordered after that is not meant, whoever brings it and when.
        for node in ("a1", "a2"):
            assert await bring(service, hands, node, brought(title, old, new), withdrawals=(gone,)) == {}
        assert stands(service) == [("isp=isp-a", "user/anna", NOW + 1)]
        assert (await service.signed_documents("a1", [title]))[title] == [gone, new]
    async with service_on(tmp_path / "t.db") as service:
        assert service.signed.withdrawal_of(title, "film", b"x" * 16, NOW)
        assert not service.signed.withdrawal_of(title, "film", b"x" * 16, NOW + 1)


async def test_one_order_of_several_is_withdrawn_and_an_urgent_one_deletes(
    tmp_path: Path, make: Any, hands: Hands
) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "b1")
        title = await publish(service, make, 3)
        one, two = hands.order(title, NOW), hands.order(title, NOW + 1, selector="all")
        await bring(service, hands, "a1", brought(title, one, two))
        terms = next(fill.signed.terms for fill in service.fills.values() if fill.signed and fill.number == NOW)
        gone = hands.withdrawal(title, NOW + 5, terms=bytes.fromhex(terms))
        await bring(service, hands, "b1", withdrawals=(gone, hands.withdrawal(title, NOW + 9, "bob"), b"junk"))
        assert [selector for selector, *_ in stands(service)] == ["all"]
        await bring(service, hands, "b1", withdrawals=(hands.withdrawal(title, NOW, urgent=True),))
        assert service.withdrawn == set(), "the order that is left came later"
        await bring(service, hands, "b1", withdrawals=(hands.withdrawal(title, NOW + 6, urgent=True),))
        assert (service.fills, service.withdrawn) == ({}, {title})
        # An order that was signed later lifts it.
        await bring(service, hands, "a1", brought(title, hands.order(title, NOW + 7)))
        assert (len(service.fills), service.withdrawn) == (1, set())
        changes = [one.what for one in (await service.audit_page(0, 9)).records]
        assert changes.count("bring_back a withdrawal") == 3


async def test_an_old_order_that_is_shown_again_changes_nothing(tmp_path: Path, make: Any, hands: Hands) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "a2")
        title = await publish(service, make, 3)
        await bring(service, hands, "a1", brought(title, hands.order(title, NOW + 5)))
        (fill,) = service.fills.values()
        await bring(service, hands, "a2", brought(title, hands.order(title, NOW)))
        assert stands(service) == [("isp=isp-a", "user/anna", NOW + 5)]
        # Of callers it is refused.
        opened = hands.signed.brought(hands.order(title, NOW + 5))
        request = msgspec.structs.replace(fill.request)
        with pytest.raises(RequestRefused, match="is old") as refused:
            await service.add_fill(request, signed=opened)
        assert (refused.value.status, refused.value.number) == (409, NOW + 5)


async def test_a_caller_signs_what_it_orders_and_nothing_else(tmp_path: Path, nursery: trio.Nursery) -> None:
    fleet = Fleet(tmp_path, nursery)
    await fleet.start()
    encoded, title, origin = film(tmp_path, size=200_000)
    wanted = FillRequest(title, "all", [origin], call_id="x")
    async with fleet.client(user("anna")) as anna, fleet.client(user("bob")) as bob:
        await anna.put_title(title, encoded)
        made = await anna.post_fill(wanted)
        (fill,) = await anna.fills()
        assert fill.signed is not None
        assert (fill.signed.who, fill.number, fill.request.signed) == ("user/anna", fill.signed.number, b"")
        # Sent again since the answer was lost, it is the same.
        assert (await anna.post_fill(wanted)).fill_id == made.fill_id
        assert (await anna.fills())[0].number == fill.number
        # A clock that is behind is helped.
        anna._signer._last = 0  # type: ignore[union-attr]
        frozen = anna._signer.number  # type: ignore[union-attr]
        anna._signer.number = lambda above=0: max(frozen(above) - 10_000_000, above + 1)  # type: ignore[union-attr, method-assign]
        await anna.post_fill(msgspec.structs.replace(wanted, priority=2))
        anna._signer.number = frozen  # type: ignore[union-attr, method-assign]
        assert sorted(fill.request.priority for fill in await anna.fills()) == [0, 2]
        # Another order, or in another's name, or for another fleet.
        signed = await anna._sign_order(wanted, 0)
        for client, changed in ((anna, {"priority": 9}), (anna, {"selector": "id=a1"}), (bob, {})):
            body = msgspec.json.encode(msgspec.structs.replace(signed, **changed))
            with pytest.raises(TrackerRefused):
                await client._fetch("POST", "/v1/fills", body=body)
        for fill in await anna.fills():
            await anna.delete_fill(fill.fill_id)
        assert await anna.fills() == []
        # Withdrawn and signed: who does not sign cannot lift it.
        await anna.post_fill(wanted)
        await anna.withdraw(title, urgent=True)
        bare = msgspec.json.encode(wanted)
        with pytest.raises(TrackerRefused, match="only an order that is signed"):
            await anna._fetch("POST", "/v1/fills", body=bare)
        await anna.post_fill(wanted)
        assert len(await anna.fills()) == 1
    await _caches_read_their_own(fleet, title)


async def _caches_read_their_own(fleet: Fleet, title: str) -> None:
    fleet.signer.give(fleet.root / "id-a1", cache("a1"))
    async with TrackerClient(fleet.url, credentials=Credentials(fleet.root / "id-a1")) as client:
        with pytest.raises(TrackerRefused) as refused:
            await client.signed("a2", [title])
        assert refused.value.status == 403
        documents = (await client.signed("a1", [title]))[title]
        assert len(documents) == 3, "three withdrawals, and no order before it has reported"


async def test_a_withdrawal_is_of_titles_of_the_name_that_its_signer_may_withdraw(
    tmp_path: Path, make: Any, hands: Hands
) -> None:
    (tmp_path / "grants.toml").write_text(
        GRANTS + '[[grants]]\nwho = "user/mallory"\nmay = ["withdraw"]\ntitles = "mine"\n'
    )
    hands.signed = SignedOrders(hands.believes, Grants(tmp_path / "grants.toml"))
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        title, absent = await publish(service, make, 3), "ab" * 32
        await bring(service, hands, "a1", brought(title, hands.order(title, NOW)))
        forged = [hands.withdrawal(one, NOW + 9, "mallory", urgent=True, name="mine") for one in (title, absent)]
        await bring(service, hands, "a1", withdrawals=tuple(forged))
        assert (len(service.fills), service.withdrawn) == (1, set())
        # Nor does it keep an order from coming back whose title is not known yet.
        assert service.signed.withdrawal_of(absent, "film", b"x" * 16, NOW) is None


async def test_a_flood_of_withdrawals_has_those_of_its_own_signer_forgotten(
    tmp_path: Path, make: Any, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfill.tracker.signed_orders.WITHDRAWALS_MAX", 4)
    (tmp_path / "grants.toml").write_text(GRANTS + '[[grants]]\nwho = "user/mallory"\nmay = ["withdraw"]\n')
    hands.signed = SignedOrders(hands.believes, Grants(tmp_path / "grants.toml"))
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        title = await publish(service, make, 3)
        before = await service.audit_page(0, 9)
        await bring(service, hands, "a1", withdrawals=(hands.withdrawal("cd" * 32, NOW),))
        made_up = [hands.withdrawal(f"{index:064x}", NOW, "mallory", name=f"n{index}") for index in range(9)]
        await bring(service, hands, "a1", withdrawals=tuple(made_up))
        assert service.signed.withdrawal_of("cd" * 32, "film", b"", NOW)
        assert sum(service.signed.knows(f"{index:064x}", f"n{index}") for index in range(9)) == 3
        # Names of titles that are not known take up nothing, and fill no audit.
        service.signed.require_news("n3", 1)
        assert await service.audit_page(0, 9) == before
        assert title in service.titles
    async with service_on(tmp_path / "t.db") as service:
        assert service.signed.withdrawal_of("cd" * 32, "film", b"", NOW)
        assert sum(service.signed.knows(f"{index:064x}", f"n{index}") for index in range(9)) == 3
        service.signed.require_news("n3", 1)


async def test_an_urgent_withdrawal_deletes_once_the_name_of_its_title_is_known(
    tmp_path: Path, make: Any, hands: Hands
) -> None:
    async with service_on(tmp_path / "t.db") as service, service_on(tmp_path / "other.db") as other:
        beat(service, make, "a1", "a2")
        title = await publish(other, make, 3)
        await bring(service, hands, "a1", withdrawals=(hands.withdrawal(title, NOW, urgent=True),))
        assert service.withdrawn == set()
        assert await publish(service, make, 3) == title
        await bring(service, hands, "a2", brought(title, hands.order(title, NOW)))
        assert (service.fills, service.withdrawn) == ({}, {title})


async def test_the_command_that_orders_again_names_plain_origins_of_a_few(
    tmp_path: Path, make: Any, hands: Hands
) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "a2")
        title = await publish(service, make, 3)
        for origin in ("http://o/" + "x" * 100_000, "--to", "", "http://o/\x1b[2J"):
            await bring(service, hands, "a1", brought(title, origin=origin))
            (lost,) = views.status(service, 0.0).brought_back
            assert lost.again == "p2pfill fill film.fill --to id=a1"
        await bring(service, hands, "a2", brought(title))
        # What is signed and does not hold takes the command away from nobody.
        await bring(service, hands, "a1", brought(title, b"junk"))
        (lost,) = views.status(service, 0.0).brought_back
        assert lost.again == "p2pfill fill film.fill --origin http://o/film --to id=a1,id=a2"


async def test_a_node_has_few_signatures_looked_at_at_once(tmp_path: Path, make: Any, nursery: trio.Nursery) -> None:
    fleet = Fleet(tmp_path, nursery)
    await fleet.start()
    fleet.signer.give(tmp_path / "id-a1", cache("a1"))
    statuses: list[int] = []
    async with TrackerClient(fleet.url, credentials=Credentials(tmp_path / "id-a1")) as client:
        await client.heartbeat(make.report(make.info("a1", isp="isp-a", region="default")))
        body = msgspec.json.encode(BroughtOrders([], [b"junk"] * 100))

        async def bring_much() -> None:
            try:
                await client._fetch_once("POST", "/v1/nodes/a1/brought", body=body)
            except TrackerRefused as error:
                statuses.append(error.status)

        async with trio.open_nursery() as calls:
            for _ in range(20):
                calls.start_soon(bring_much)
        assert 0 < len(statuses) < 20
        assert set(statuses) == {429}
        # Once they are done it may bring something again.
        await client.bring_back("a1", [])


async def test_what_is_signed_is_read_as_far_as_an_answer_has_room(
    tmp_path: Path, make: Any, hands: Hands
) -> None:
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1")
        titles = [await publish(service, make, chunks) for chunks in (3, 4, 5)]
        documents = {title: hands.order(title, NOW + at) for at, title in enumerate(titles)}
        await bring(service, hands, "a1", *(brought(title, one) for title, one in documents.items()))
        size = len(documents[titles[0]])
        for bytes_max, count in ((1, 1), (size + 1, 1), (2 * size + 9, 2), (9 * size, 3)):
            found = await service.signed_documents("a1", [*titles, "ab" * 32], bytes_max)
            assert found == {"ab" * 32: []} | {title: [documents[title]] for title in titles[:count]}


async def test_made_up_titles_take_no_place_from_those_that_are_lost(
    tmp_path: Path, make: Any, hands: Hands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfill.tracker.brought_back.LISTED_MAX", 3)
    async with service_on(tmp_path / "t.db") as service:
        beat(service, make, "a1", "a2")
        title = await publish(service, make, 3)
        await bring_back(service, "a2", [brought(f"{index:064x}") for index in range(9)], (), hands.signed)
        await bring(service, hands, "a1", brought(title))
        listed = views.status(service, 0.0).brought_back
        assert (len(listed), [one.title for one in listed if one.name]) == (3, [title])
        # Nor do they come back in its place.
        await bring_back(service, "a2", [brought(f"{index:064x}") for index in range(9)], (), hands.signed)
        assert title in [one.title for one in views.status(service, 0.0).brought_back]
