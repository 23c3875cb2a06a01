"""Hosts as they are written in settings and messages."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final

NETWORK_BITS: Final = 64
"""Of an IPv6 address, which name a caller's network: each has as many addresses in that as it likes."""


def is_loopback(host: str) -> bool:
    """Tell whether a host, as it is written, is its reader's own loopback; another name for it is not."""
    if host.rstrip(".").lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(maxsize=4096)
def address_of(host: str) -> str:
    """Return what stands for a caller's address: an IPv4 address, or the network of an IPv6 one."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> NETWORK_BITS << NETWORK_BITS)}/{NETWORK_BITS}"
