"""What a node counts of its origins, and what of that a heartbeat says; and that the cheapest origin is asked."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from origin.servers import Request, head, part_of, serve

from p2pfill.model.budgets import taken
from p2pfill.model.fleet_policy import BudgetRule
from p2pfill.model.limits import ORIGINS_COUNTED_MAX, REASON_CHARS_MAX
from p2pfill.model.manifest import Manifest
from p2pfill.model.origins import OriginReport
from p2pfill.model.policy import FillPolicy
from p2pfill.model.prices import Price, Prices
from p2pfill.model.reports import Allowance, HeartbeatReply
from p2pfill.model.selector import matches_glob
from p2pfill.model.terms import MILLIONTHS, REGIONAL, BudgetTerms, terms_of
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.origin_counts import OTHERS, TOGETHER_MAX, OriginCounts
from p2pfill.store.publish import publish

CHUNK = 65536
CHUNKS = 12


def test_a_heartbeat_has_totals_of_what_has_news() -> None:
    counts = OriginCounts()
    counts.add("http://a/", requests=2, failed=1, kept=10, wasted=3)
    counts.add("http://b/", requests=1, given_up=1)
    first = counts.take()
    assert first == [OriginReport("http://a/", 2, 1, 10, 3), OriginReport("http://b/", 1, given_up=1)]
    # It may not have come: what was in it is said again, with what is new.
    counts.add("http://a/", requests=1, kept=5)
    assert counts.take() == [OriginReport("http://a/", 3, 1, 15, 3), OriginReport("http://b/", 1, given_up=1)]
    counts.acknowledged()
    assert counts.take() == []
    counts.add("http://b/", kept=1)
    assert [one.id for one in counts.take()] == ["http://b/"]
    counts.acknowledged()
    counts.begin_again()
    assert counts.take() == counts.totals()
    assert len(counts.totals()) == 2


def test_what_comes_while_a_heartbeat_is_on_its_way_is_said_with_the_next() -> None:
    counts = OriginCounts()
    counts.add("http://a/", requests=1)
    counts.take()
    counts.add("http://a/", requests=1)
    counts.acknowledged()
    assert counts.take() == [OriginReport("http://a/", 2)]


def test_the_number_of_origins_has_a_limit() -> None:
    counts = OriginCounts()
    for number in range(3 * ORIGINS_COUNTED_MAX):
        counts.add(f"http://host-{number}/", requests=1)
    totals = {one.id: one.requests for one in counts.totals()}
    assert len(totals) == ORIGINS_COUNTED_MAX - TOGETHER_MAX - 1
    assert totals[OTHERS] == 2 * ORIGINS_COUNTED_MAX + TOGETHER_MAX + 2
    assert sum(totals.values()) == 3 * ORIGINS_COUNTED_MAX


@pytest.mark.parametrize("from_the_start", [True, False])
def test_a_budget_holds_for_origins_beyond_the_limit(*, from_the_start: bool) -> None:
    """Each title may have a URL of its own, so a node that runs for long has seen more of them than it counts."""
    counts, budgets = OriginCounts(), {"cloud": BudgetTerms("http://cloud/*"), "all": BudgetTerms("*")}
    if from_the_start:
        counts.set_budgets(budgets)
    for number in range(2 * ORIGINS_COUNTED_MAX):
        counts.add(f"http://other/title-{number}", kept=1)
    counts.set_budgets(budgets)
    counts.set_allowances([Allowance("cloud", "http://cloud/*", 100), Allowance("all", "*", 100_000)])
    for number in range(2 * ORIGINS_COUNTED_MAX):
        name = f"http://cloud/title-{number}"
        if budget := counts.begin_read(name, 10):
            break
        counts.add(name, kept=10)
        counts.end_read(name, 10)
    assert (number, budget) == (10, "cloud")
    came = sum(one.bytes_kept for one in counts.totals() if matches_glob("http://cloud/*", one.id))
    assert came == 100, "the tracker counts by these names"
    assert len(counts.totals()) <= ORIGINS_COUNTED_MAX


def test_a_budget_of_money_holds_for_origins_beyond_the_limit_each_at_its_price() -> None:
    prices = Prices("EUR", [Price("http://cloud/", 1000.0), Price("http://cloud/dear/", 9000.0)])
    rule = BudgetRule("bill", origins="http://cloud/*", money=1000 / MILLIONTHS)
    terms, counts = rule.terms(prices), OriginCounts()
    counts.set_budgets({"bill": terms})
    for number in range(2 * ORIGINS_COUNTED_MAX):
        counts.add(f"http://other/title-{number}", kept=1)
    counts.set_allowances([Allowance("bill", terms.key, rule.limit)])
    came = {"": 0, "dear/": 0}
    for number in range(4 * ORIGINS_COUNTED_MAX):
        kind = ("", "dear/")[number % 2]
        name = f"http://cloud/{kind}title-{number}"
        if counts.begin_read(name, 10):
            break
        counts.add(name, kept=10)
        counts.end_read(name, 10)
        came[kind] += 10
    assert came == {"": 100, "dear/": 100}, "a byte of the one costs a millionth, of the other nine"
    assert sum(terms.amount(one) for one in counts.totals() if terms.fits(one.id)) == 1000, "for the tracker too"
    assert len(counts.totals()) <= ORIGINS_COUNTED_MAX


CLOUD = Prices("EUR", [Price("https://cloud.example/", per_gb=1000.0)])


@pytest.mark.parametrize(
    "budgets",
    [
        {"all": BudgetTerms("*.mp4"), "cloud": BudgetTerms("https://cloud.example/*")},
        {"bill": terms_of("*.mp4", CLOUD)},
        {"bill": terms_of("https://*/t*", CLOUD), "all": BudgetTerms("*")},
    ],
)
@pytest.mark.parametrize("room", [0, ORIGINS_COUNTED_MAX])
def test_budgets_hold_beyond_the_limit_where_no_name_but_that_of_an_origin_fits_them_all(
    budgets: dict[str, BudgetTerms], room: int
) -> None:
    """A budget by the end of URLs, and one by their beginning, or a price."""
    counts = OriginCounts()
    counts.set_budgets(budgets)
    for number in range(ORIGINS_COUNTED_MAX - room):
        counts.add(f"http://other/title-{number}", kept=1)
    before = {budget: taken(terms, counts.totals()) for budget, terms in budgets.items()}
    for number in range(4 * ORIGINS_COUNTED_MAX):
        counts.add(f"https://cloud.example/t{number}.mp4", kept=10)
    for budget, terms in budgets.items():
        assert taken(terms, counts.totals()) - before[budget] == 40 * ORIGINS_COUNTED_MAX, budget
    assert len(counts.totals()) <= ORIGINS_COUNTED_MAX


def test_what_came_from_caches_beyond_the_isp_while_there_was_no_budget_is_not_its() -> None:
    counts, transit = OriginCounts(), {"transit": BudgetTerms(REGIONAL)}
    counts.set_budgets(transit)
    counts.set_regional(0, 0)
    counts.set_regional(100, 0)
    counts.set_budgets({})
    counts.set_regional(5000, 0)
    counts.set_budgets(transit)
    counts.set_regional(5030, 0)
    assert [one.bytes_kept for one in counts.totals()] == [130]
    counts.set_allowances([Allowance("transit", REGIONAL, 200)])
    assert counts.regional_limit() == (5100, "transit")


def test_what_came_from_caches_beyond_the_isp_before_there_was_a_budget_is_not_its() -> None:
    counts = OriginCounts()
    counts.set_regional(5000, 0)
    assert counts.totals() == []
    assert counts.regional_limit() == (None, "")
    counts.set_budgets({"transit": BudgetTerms(REGIONAL)})
    counts.set_regional(6000, 300)
    assert counts.regional_limit() == (6000, "transit"), "what was asked for comes, and no more"
    counts.set_allowances([Allowance("transit", REGIONAL, 100)])
    assert counts.allowances() == [Allowance("transit", REGIONAL, 300)], "what was asked for counts"
    counts.set_regional(6300, 0)
    assert [(one.id, one.bytes_kept) for one in counts.take()] == [(REGIONAL, 300)]
    assert counts.bytes_received() == 0, "that is of origins alone"


def test_a_budget_holds_for_an_origin_whose_name_is_too_long_to_be_told() -> None:
    counts, budgets = OriginCounts(), {"cloud": BudgetTerms("http://*/cloud")}
    name = "http://" + "a" * REASON_CHARS_MAX + "/cloud"
    counts.set_budgets(budgets)
    counts.set_allowances([Allowance("cloud", "http://*/cloud", 100)])
    counts.add(name, kept=100)
    assert counts.begin_read(name, 1) == "cloud"
    assert all(len(one.id) <= REASON_CHARS_MAX for one in counts.totals())


# ---- real nodes and servers


@asynccontextmanager
async def node_at(tmp_path: Path) -> AsyncIterator[Node]:
    with trio.fail_after(60):
        async with open_node(NodeConfig(id="a1", isp="isp-a", data=str(tmp_path / "a1"))) as node:
            yield node


@pytest.fixture
def film(tmp_path: Path) -> tuple[Manifest, bytes]:
    (tmp_path / "film").mkdir()
    data = bytes(range(256)) * (CHUNK * CHUNKS // 256)
    (tmp_path / "film" / "m.bin").write_bytes(data)
    return publish(tmp_path / "film", name="film", chunk_size=CHUNK).manifest, data


async def test_requests_failures_and_bytes_in_vain_are_counted(
    tmp_path: Path, start: Any, film: tuple[Manifest, bytes]
) -> None:
    manifest, data = film
    said: list[int] = []
    lock = threading.Lock()

    def answer(request: Request, connection: socket.socket) -> bool:
        with lock:
            said.append(len(said))
            number = said[-1]
        part, status, headers = part_of(data, request)
        if number == 1:
            connection.sendall(head(503, Content_Length=0))
            return True
        wrong = b"x" * len(part) if number == 2 else part
        connection.sendall(head(status, Content_Length=len(part), **headers) + wrong)
        return True

    server = start(answer)
    async with node_at(tmp_path) as node:
        policy = FillPolicy(quarantine_s=0.2)
        fill = await node.start_fill(manifest, [server.url + "/{path}?sig=secret"], policy)
        await fill.wait()
        report = node.heartbeat()
        assert "secret" not in msgspec.json.encode(report).decode()
        (counts,) = report.origins
        assert counts.id.startswith(server.url)
        assert (counts.requests, counts.failed) == (len(server.seen), 1)
        assert counts.bytes_kept == len(data)
        # After a wrong chunk the origin is left alone, so what else was under way may be in vain, too.
        assert CHUNK <= counts.bytes_wasted <= CHUNK * (len(server.seen) - CHUNKS - 1)
        node.heartbeat_ended(report, HeartbeatReply(1.0, 1))
        again = node.heartbeat()
        assert again.origins == []
        node.heartbeat_ended(again, HeartbeatReply(1.0, 1, again=True))
        assert node.heartbeat().origins == [counts]


async def test_the_cheapest_origin_that_works_is_asked(
    tmp_path: Path, start: Any, film: tuple[Manifest, bytes]
) -> None:
    manifest, data = film
    cheap, dear = start(serve(data)), start(serve(data))
    async with node_at(tmp_path) as node:
        fill = await node.start_fill(manifest, [])
        fill.set_origins([dear.url, cheap.url], {dear.url: 0.08, cheap.url: 0.02})
        await fill.wait()
    assert len(cheap.seen) == CHUNKS
    assert not dear.seen


async def test_a_dearer_origin_is_asked_where_the_cheaper_one_fails(
    tmp_path: Path, start: Any, film: tuple[Manifest, bytes]
) -> None:
    manifest, data = film
    cheap = start(lambda request, connection: connection.sendall(head(403, Content_Length=0)))
    dear = start(serve(data))
    async with node_at(tmp_path) as node:
        fill = await node.start_fill(manifest, [])
        fill.set_origins([dear.url, cheap.url], {dear.url: 0.08, cheap.url: 0.02})
        await fill.wait()
        counts = {one.id: one for one in node.report().origins}
    assert len(dear.seen) == CHUNKS
    assert counts[dear.url].bytes_kept == len(data)
    # What was outstanding when the first one was refused went to the other.
    assert counts[cheap.url].failed > 0
    assert counts[cheap.url].failed + counts[cheap.url].given_up >= counts[cheap.url].requests
