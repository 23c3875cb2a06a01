"""Where a node says that it stands is checked as all else that it says."""

from __future__ import annotations

import msgspec
import pytest

from p2pfill.model.ids import NodeId
from p2pfill.model.node import NodeInfo
from p2pfill.tracker.checks import RequestRefused, check_info


def at(latitude: float | None, longitude: float | None) -> NodeInfo:
    return NodeInfo(NodeId("a1"), "isp-a", "eu", latitude=latitude, longitude=longitude)


def test_a_place_is_taken_and_one_of_before_has_none() -> None:
    check_info(at(-90, 180.0))
    check_info(at(None, None))
    assert msgspec.json.decode(b'{"id":"a1","isp":"a","region":"eu"}', type=NodeInfo).place is None


@pytest.mark.parametrize(("latitude", "longitude"), [(1, None), (None, 1), (90.1, 0), (0, -181), (float("nan"), 0)])
def test_no_place_on_the_earth_is_refused(latitude: float | None, longitude: float | None) -> None:
    with pytest.raises(RequestRefused, match="latitude"):
        check_info(at(latitude, longitude))
