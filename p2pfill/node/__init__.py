"""The node that embedders open and that the daemon runs."""

from p2pfill.node.config import NodeConfig
from p2pfill.node.node import Node, open_node

__all__ = ["Node", "NodeConfig", "open_node"]
