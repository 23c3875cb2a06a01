"""p2pfill: a peer-to-peer fill engine for caches inside internet providers' networks."""

from p2pfill._version import __version__

__all__ = ["__version__"]
