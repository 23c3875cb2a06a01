"""p2pfill: a peer-to-peer fill engine for caches inside internet providers' networks.

    async with p2pfill.open_node(p2pfill.NodeConfig(id="a1", isp="isp-a", data="/srv/cache", tracker=URL)) as node:
        await node.fill(title_id)

Names are imported when they are first used, so that `import p2pfill` costs next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from p2pfill._version import __version__

if TYPE_CHECKING:
    from p2pfill.errors import P2PFillError
    from p2pfill.model.manifest import Manifest
    from p2pfill.model.rates import RateLimits, Rates
    from p2pfill.node import Node, NodeConfig, open_node
    from p2pfill.store.publish import publish

__all__ = [
    "Manifest", "Node", "NodeConfig", "P2PFillError", "RateLimits", "Rates", "__version__", "open_node", "publish",
]  # fmt: skip

_HOMES = {
    "Manifest": "p2pfill.model.manifest",
    "Node": "p2pfill.node",
    "NodeConfig": "p2pfill.node",
    "P2PFillError": "p2pfill.errors",
    "RateLimits": "p2pfill.model.rates",
    "Rates": "p2pfill.model.rates",
    "open_node": "p2pfill.node",
    "publish": "p2pfill.store.publish",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'p2pfill' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
