"""Settings of a node: what cannot work is refused before anything starts."""

from __future__ import annotations

import pytest

from p2pfill.errors import ConfigError
from p2pfill.node import NodeConfig


@pytest.mark.parametrize("listen", ["0.0.0.0:7400", "[::]:7400", ":7400"])
def test_others_must_be_told_an_address_that_they_can_reach(listen: str) -> None:
    settings = {"id": "a1", "isp": "isp-a", "data": "/srv/cache", "listen": listen}
    with pytest.raises(ConfigError, match="set advertise to the host"):
        NodeConfig.load(None, **settings, tracker="http://127.0.0.1:7070")
    assert NodeConfig.load(None, **settings, tracker="http://127.0.0.1:7070", advertise="192.0.2.11")
    assert NodeConfig.load(None, **settings), "nobody is told of a node without a tracker"
