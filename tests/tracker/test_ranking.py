"""The ranking of sources and the selectors: pure."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import ConfigError
from p2pfill.model.node import NodeInfo
from p2pfill.model.selector import Selector, matches_glob
from p2pfill.tracker.ranking import QUEUE_BUSY, Candidate, rank_sources


def node(name: str, isp: str = "a", region: str = "eu", cluster: str = "") -> NodeInfo:
    return NodeInfo(id=name, isp=isp, region=region, cluster=cluster)  # type: ignore[arg-type]


def source(name: str, isp: str = "a", have: int = 10, **more: Any) -> Candidate:
    return Candidate(node(name, isp, more.pop("region", "eu"), more.pop("cluster", "")), False, have, 10, **more)


ME = node("me", cluster="c1")


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (source("x", "a", 0), source("y", "b", 10)),  # tier before holdings
        (source("x", "a", 0, cluster="c1"), source("y")),  # site before holdings
        (source("x", "b"), source("y", "b", region="us")),
        (source("x", have=1), source("y", upload_queued=QUEUE_BUSY)),  # health before holdings
        (source("x", upload_queued=QUEUE_BUSY), source("y", late=True)),
        (source("x", have=9, upload_active=9), source("y", have=3)),  # holdings before load
        (source("x", upload_active=1), source("y", upload_active=3)),
    ],
)
def test_earlier_criteria_decide(better: Candidate, worse: Candidate) -> None:
    for order in ([better, worse], [worse, better]):
        assert [entry.node.id for entry in rank_sources(ME, order)] == ["x", "y"]


def test_reasons_say_what_decided() -> None:
    entries = rank_sources(ME, [source("x", have=3, upload_active=2), source("y", "b", late=True)])
    assert [entry.rank for entry in entries] == [0, 1]
    assert entries[0].reason == "same ISP, same region eu; healthy; has 3 of 10 chunks; 2 uploads running"
    assert entries[1].reason.startswith("other ISP, same region eu; heartbeat overdue; has the whole title")


def test_who_serves_its_own_isp_alone_is_said_to_do_so_and_to_others_only() -> None:
    inward = [msgspec.structs.replace(one.node, serves="isp") for one in (source("x"), source("y", "b"))]
    near, far = rank_sources(ME, [Candidate(one, False, 10, 10) for one in inward])
    assert near.reason == "same ISP, same region eu; healthy; has the whole title; 0 uploads running"
    assert far.reason == "other ISP, same region eu; healthy; serves its own ISP alone; 0 uploads running"


def test_the_receiver_is_no_source_of_its_own() -> None:
    assert rank_sources(ME, [source("me")]) == []


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("all", "h1 h2 x1"),
        ("id=h1", "h1"),
        ("id=h*", "h1 h2"),
        ("isp=a+region=us", "h2"),
        ("isp=a+region=us,id=x1", "h2 x1"),
        (" isp = a + region = eu ", "h1"),
        ("id=*1", "h1 x1"),
        ("cluster=c", ""),
    ],
)
def test_selectors(text: str, ids: str) -> None:
    fleet = [node("h1"), node("h2", region="us"), node("x1", isp="b")]
    assert [one.id for one in fleet if Selector.parse(text).matches(one)] == ids.split()


@pytest.mark.parametrize("text", ["", "everyone", "id", "id=", "name=x", "id=a,,id=b", "id=a+", "x" * 20000])
def test_wrong_selectors_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="selector"):
        Selector.parse(text)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_globs_match_as_a_plain_search_does(pattern: str, value: str) -> None:
    def slow(p: str, v: str) -> bool:
        if not p:
            return not v
        if p[0] == "*":
            return any(slow(p[1:], v[k:]) for k in range(len(v) + 1))
        return bool(v) and v[0] == p[0] and slow(p[1:], v[1:])

    assert matches_glob(pattern, value) == slow(pattern, value)
