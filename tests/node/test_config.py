"""Settings of a node: what cannot work is refused before anything starts."""

from __future__ import annotations

import pytest

from p2pfill.errors import ConfigError
from p2pfill.node import NodeConfig
from p2pfill.tracker.client import TrackerClient


@pytest.mark.parametrize("listen", ["0.0.0.0:7400", "[::]:7400", ":7400"])
def test_others_must_be_told_an_address_that_they_can_reach(listen: str) -> None:
    settings = {"id": "a1", "isp": "isp-a", "data": "/srv/cache", "listen": listen, "insecure": True}
    with pytest.raises(ConfigError, match="set advertise to the host"):
        NodeConfig.load(None, **settings, tracker="http://127.0.0.1:7070")
    assert NodeConfig.load(None, **settings, tracker="http://127.0.0.1:7070", advertise="192.0.2.11")
    assert NodeConfig.load(None, **settings), "nobody is told of a node without a tracker"


@pytest.mark.parametrize(
    ("advertise", "told"),
    [
        ("192.0.2.11", ("192.0.2.11", 7400)),
        ("192.0.2.11:5555", ("192.0.2.11", 5555)),
        ("cache.example:5555", ("cache.example", 5555)),
        ("2001:db8::7", ("2001:db8::7", 7400)),
        ("[2001:db8::7]", ("2001:db8::7", 7400)),
        ("[2001:db8::7]:5555", ("2001:db8::7", 5555)),
        ("", ("192.0.2.1", 7400)),
    ],
)
def test_others_are_told_a_forwarded_port(advertise: str, told: tuple[str, int]) -> None:
    config = NodeConfig.load(
        None, id="a1", isp="isp-a", data="/srv/cache", listen="192.0.2.1:0", advertise=advertise, insecure=True
    )
    info = config.info(7400)
    assert (info.host, info.port) == told


@pytest.mark.parametrize(
    "advertise",
    ["192.0.2.11:", "192.0.2.11:0", "192.0.2.11:65536", "192.0.2.11:x", "192.0.2.300", "http://192.0.2.11", "a b",
     "[2001:db8::7", "[web]:80", "user@host", "host/path", ":80", "2001:db8::7:99999"],
)  # fmt: skip
def test_an_address_that_nobody_can_reach_is_not_advertised(advertise: str) -> None:
    with pytest.raises(ConfigError, match="write HOST or HOST:PORT"):
        NodeConfig.load(None, id="a1", isp="isp-a", data="/srv/cache", advertise=advertise)


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("127.0.0.1:7070", "write http://127.0.0.1:7070"),
        ("tracker.example", "write http://tracker.example:7070"),
        ("[::1]:7070", r"write http://\[::1\]:7070"),
        ("ftp://tracker:7070", "write http://HOST:PORT"),
        ("http://", "write http://HOST:PORT"),
        ("http://tracker:port", "write http://HOST:PORT"),
        ("http://tracker:99999", "write http://HOST:PORT"),
        ("http://[::1", "write http://HOST:PORT"),
        ("http://tracker:7070/?a=b", "write http://HOST:PORT"),
        ("http://trac ker", "write http://HOST:PORT"),
    ],
)
def test_a_tracker_url_that_is_none_is_refused_and_shown_how_to_write(url: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice):
        NodeConfig.load(None, id="a1", isp="isp-a", data="/srv/cache", tracker=url)
    with pytest.raises(ConfigError, match=advice):
        TrackerClient(url)


def test_a_password_in_a_tracker_url_is_not_shown() -> None:
    with pytest.raises(ConfigError) as refused:
        NodeConfig.load(None, id="a1", isp="isp-a", data="/srv/cache", tracker="http://me:secret@tracker:99999")
    assert "secret" not in str(refused.value)


def test_a_place_is_both_of_its_figures() -> None:
    settings = {"id": "a1", "isp": "isp-a", "data": "/srv/cache"}
    assert NodeConfig.load(None, **settings, latitude=48.9, longitude=2).info(1).place == (48.9, 2)
    assert NodeConfig.load(None, **settings).info(1).place is None
    for wrong in ({"latitude": 1.0}, {"longitude": 1.0}, {"latitude": 90.5, "longitude": 0.0}):
        with pytest.raises(ConfigError, match="latitude"):
            NodeConfig.load(None, **settings, **wrong)
