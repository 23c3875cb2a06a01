"""The log says when an origin begins to fail, and when it works again."""

from __future__ import annotations

import logging

import pytest

from p2pfill.node.origin_log import SAY_AGAIN_S, OriginLog


def test_a_failing_origin_is_said_once_and_so_is_its_return(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    said = OriginLog(logging.getLogger("p2pfill.node.a1"), "film", lambda: now)
    said.works("http://web")
    for _ in range(1000):
        said.fails("http://web", "connection refused")
    said.fails("http://other", "no route")
    said.works("http://web")
    said.works("http://web")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "origin http://web of title 'film' fails, and is tried again: connection refused",
        "origin http://other of title 'film' fails, and is tried again: no route",
        "origin http://web of title 'film' works again",
    ]


def test_one_that_comes_and_goes_does_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    said = OriginLog(logging.getLogger("p2pfill.node.a1"), "film", lambda: now)
    for second in range(600):
        now = float(second)
        said.fails("http://web", "broke off")
        said.works("http://web")
    assert len(caplog.records) == 2 * 600 / SAY_AGAIN_S


def test_each_cause_is_said_and_not_each_file(caplog: pytest.LogCaptureFixture) -> None:
    said = OriginLog(logging.getLogger("p2pfill.node.a1"), "film", lambda: 0.0)
    for number in range(100):
        said.fails("http://web", f"http://web/{number}: status 403", "status 403")
        said.fails("http://web", f"http://web/{number}: not found", "not found")
    said.remark("http://web", "has no Range")
    assert [record.getMessage().partition("film' ")[2] for record in caplog.records] == [
        "fails, and is tried again: http://web/0: status 403",
        "fails, and is tried again: http://web/0: not found",
        "has no Range",
    ]
    for number in range(100):
        said.fails("http://web", f"{number} is wrong")
    assert len(caplog.records) < 12
