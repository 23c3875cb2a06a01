"""Requests to look at a title: who is asked, until when, and how many are remembered."""

from __future__ import annotations

import pytest

from p2pfill.model.reports import ScrubReport
from p2pfill.tracker.checks import RequestRefused
from p2pfill.tracker.scrubs import SCRUBS_MAX, Scrubs

TITLE = "ab" * 32


def test_a_node_is_asked_until_it_has_said_what_came_of_it() -> None:
    scrubs = Scrubs()
    status = scrubs.add(7, TITLE, ["n2", "n1"])
    assert [order.number for order in scrubs.orders_of("n1")] == [7]
    assert not scrubs.note_scrubs("n1", [ScrubReport(7, TITLE, "checking")])
    assert scrubs.note_scrubs("n1", [ScrubReport(7, TITLE, "whole", bad_chunks=3)])
    assert not scrubs.orders_of("n1")
    assert not status.done
    scrubs.note_scrubs("n2", [ScrubReport(7, "cd" * 32, "whole"), ScrubReport(8, TITLE, "whole")])
    assert not status.done
    scrubs.note_scrubs("n2", [ScrubReport(7, TITLE, "failed", error="no disk")])
    assert scrubs.get(7).done
    # Heard twice, or of a node that was not asked.
    assert not scrubs.note_scrubs("n1", [ScrubReport(7, TITLE, "checking")])
    assert not scrubs.note_scrubs("n9", [ScrubReport(7, TITLE, "checking")])
    assert [node.report and node.report.state for node in scrubs.get(7).nodes] == ["whole", "failed"]


def test_of_too_many_the_oldest_are_forgotten() -> None:
    scrubs = Scrubs()
    for number in range(SCRUBS_MAX + 1):
        scrubs.add(number, TITLE, ["n1"])
    with pytest.raises(RequestRefused):
        scrubs.get(0)
    assert scrubs.orders_of("n1")[0].number == 1


def test_of_nobody_it_is_done_at_once() -> None:
    assert Scrubs().add(1, TITLE, []).done
