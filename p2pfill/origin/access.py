"""Where an origin may be: what a node reads because an order says so, and what it never does.

Whoever may order names URLs and directories, and the node reads them with its own place in the network and its own
rights. So each is checked: its scheme, host and port before a name is looked up, and each address that the name has
before it is connected to. The address that was checked is the one that is connected to, so a name server that answers
differently the second time gains nothing, and each redirect is checked as a new origin is.

Some addresses are never meant (`_NEVER`): those of a machine's own set-up service, which hands out its credentials, and
those that are no place at all. The machine's own loopback is for nodes that are wholly on it. Other addresses are open
where the operator has listed nothing; private ones too, since that is where most origins are. With a list, an origin
must fit an entry of it. What is never meant is opened by an entry for that alone, and not by a wide range or a name.

Rejected: looking at the name alone, which says nothing of where it leads; and looking it up first to check, and again
to connect. Rejected too: both a host and a range for each origin. One list of places is what people can keep right.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from p2pfill.errors import ConfigError
from p2pfill.origin.errors import OriginRefused
from p2pfill.origin.urls import http_base, read_bucket

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

ENTRIES_MAX: Final = 1000
"""Of a list. It is gone through for each connection."""

_LOOPBACK: Final[tuple[_Network, ...]] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))

_NEVER: Final[tuple[_Network, ...]] = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",  # "this network"; 0.0.0.0 leads to the machine itself
            "::/128",
            "169.254.0.0/16",  # link-local; 169.254.169.254 is where clouds hand out credentials
            "fe80::/10",
            "fec0::/10",
            "fd00:ec2::254/128",  # the same services under addresses that are not link-local: Amazon,
            "fd00:c1::a9fe:a9fe/128",  # Oracle,
            "fd20:ce::254/128",  # Google,
            "100.100.100.200/32",  # Alibaba,
            "168.63.129.16/32",  # Azure,
            "192.0.0.192/32",  # Oracle once more
            "224.0.0.0/4",  # multicast
            "ff00::/8",
            "240.0.0.0/4",  # reserved, and the broadcast address
        ),
    )
)

_NEVER_NAMES: Final = frozenset(
    ("metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal")
)
"""What these services are called. Only a proxy, which looks names up itself, makes a name matter."""

_TRANSLATED: Final = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"), ip_network("::/96"))
"""IPv6 addresses behind whose last 32 bits a translator or a tunnel finds an IPv4 address."""

_ENTRY: Final = re.compile(r"(?:(https?|s3)://)?(\[[^\[\]]+\]|[^\[\]:]+)(?::(\d{1,5}))?", re.ASCII | re.IGNORECASE)

CAUSE: Final = "this cache may not read from there"
ADVICE: Final = "list it in origins_allow of this cache's settings, or order the title from another origin"
"""Said of all that is refused. What address a name has is not told: the order would be a way to ask for it."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a list: what of an origin it fits. Empty and 0 fit all."""

    scheme: str
    host: str
    """A pattern; empty where a range is meant."""
    network: _Network | None
    port: int

    def fits_door(self, scheme: str, port: int) -> bool:
        return self.scheme in ("", scheme) and self.port in (0, port)

    def fits_host(self, host: str) -> bool:
        return bool(self.host) and fnmatchcase(host, self.host)

    def has(self, address: _Address) -> bool:
        return self.network is not None and address.version == self.network.version and address in self.network

    def is_only(self, kinds: tuple[_Network, ...]) -> bool:
        """Tell whether nothing else is meant than such addresses, or one address."""
        mine = self.network
        return mine is not None and (
            mine.num_addresses == 1
            or any(kind.version == mine.version and mine.subnet_of(kind) for kind in kinds)  # type: ignore[arg-type]
        )


@dataclass(frozen=True, slots=True)
class OriginAccess:
    """What a node may read as an origin. Made by `read_access`; without arguments, what one on loopback may."""

    entries: tuple[_Entry, ...] = ()
    directories: tuple[str, ...] = ()
    """Absolute, without '..'."""
    is_local: bool = True
    """Nobody beyond this machine has a say in what is read."""
    trusted: frozenset[tuple[str, str, int]] = field(default=frozenset())
    """Schemes, hosts and ports that the operator has named otherwise, and that need no entry."""

    def check_place(self, scheme: str, host: str, port: int, *, by_proxy: bool = False) -> None:
        """Raise `OriginRefused` where an origin cannot be allowed whatever address its host has.

        With `by_proxy` nobody here will look at its address, so what is said here is final.
        """
        if (scheme, host, port) in self.trusted:
            return
        host = _plain(host)
        address = _literal(host)
        if address is not None:
            if not self._permits(scheme, host, port, address):
                raise _refused(f"{scheme}://{host}:{port} is not allowed")
            return
        fitting = [one for one in self.entries if one.fits_door(scheme, port)]
        is_listed = any(one.fits_host(host) for one in fitting)
        if by_proxy and (host in _NEVER_NAMES or (_is_localhost(host) and not self.is_local)):
            is_listed = any(one.host == host for one in fitting)
        elif not self.entries or (not by_proxy and any(one.network is not None for one in fitting)):
            is_listed = True
        if not is_listed:
            raise _refused(f"{scheme}://{host}:{port} is not allowed")

    def permits(self, scheme: str, host: str, port: int, address: str) -> bool:
        """Tell whether an origin may be read at an address, as the system spells it, that its host has."""
        if (scheme, host, port) in self.trusted:
            return True
        return self._permits(scheme, _plain(host), port, ip_address(address.partition("%")[0]))

    def _permits(self, scheme: str, host: str, port: int, address: _Address) -> bool:
        readings = list(_readings(address))
        fitting = [one for one in self.entries if one.fits_door(scheme, port)]
        ranges = [one for one in fitting if one.has(readings[0])]
        if any(_is_in(one, _NEVER) for one in readings):
            return any(one.is_only(_NEVER) for one in ranges)
        is_named = any(one.fits_host(host) for one in fitting)
        if any(_is_in(one, _LOOPBACK) for one in readings) and not self.is_local:
            meant = _is_localhost(host) and any(one.host == host for one in fitting)
            return meant or any(one.is_only(_LOOPBACK) for one in ranges)
        return not self.entries or bool(ranges) or is_named

    def check_bucket(self, bucket: str, endpoint: str) -> None:
        """Raise `OriginRefused` where a bucket may not be read, at an endpoint that the order names or at none.

        A request shows who signs it. So beyond loopback only endpoints that somebody has listed get one.
        """
        if self.entries and not any(one.scheme == "s3" and one.fits_host(bucket) for one in self.entries):
            raise _refused(f"the bucket {bucket} is not allowed")
        if endpoint and not self.entries and not self.is_local:
            raise OriginRefused(
                f"the order names an endpoint, {endpoint}, which is not listed: {CAUSE}; list s3://{bucket} and "
                "the endpoint in origins_allow of this cache's settings, or set AWS_ENDPOINT_URL in its environment",
                cause=CAUSE,
                advice=ADVICE,
            )

    def root_of(self, directory: str) -> str:
        """Return the configured directory below which one lies by its text, empty where any may be read.

        Raises `OriginRefused`. Nothing is looked at, so that nobody can ask for what there is.
        """
        path = os.path.normpath(directory)
        if not self.directories:
            if self.is_local:
                return ""
            raise OriginRefused(
                f"{directory}: a directory of this machine is no origin here: {CAUSE}; name the directory above it "
                "with origin_dir in this cache's settings, or order from a web server over it",
                cause=CAUSE,
                advice="name the directory with origin_dir in this cache's settings, or order from a web server over "
                "it",
            )
        # A path with two slashes at its start keeps them. One with '..' leads past what may not be asked for.
        for root in self.directories if ".." not in directory.split("/") else ():
            if f"/{path.lstrip('/')}/".startswith(f"{root.rstrip('/')}/"):
                return root
        raise OriginRefused(
            f"{directory}: it lies below none of the directories that origin_dir names: {CAUSE}; add it there, or "
            "order from another origin",
            cause=CAUSE,
            advice="name the directory with origin_dir in this cache's settings, or order from another origin",
        )


def read_access(allow: Iterable[str], directories: Iterable[str], *, is_local: bool) -> OriginAccess:
    """Return what a node's settings allow. Raises `ConfigError` where an entry cannot be read."""
    entries = tuple(_read(text) for text in allow)
    if len(entries) > ENTRIES_MAX:
        raise ConfigError(f"origins_allow has {len(entries)} entries: at most {ENTRIES_MAX} are allowed; use ranges")
    roots = []
    for text in directories:
        if not text.startswith("/") or ".." in text.split("/") or "\0" in text:
            raise ConfigError(f"origin_dir {text[:200]!r} is no absolute directory: write it from / on, without '..'")
        roots.append("/" + os.path.normpath(text).lstrip("/"))
    return OriginAccess(entries, tuple(roots), is_local)


def _read(text: str) -> _Entry:
    advice = (
        f"origins_allow: {text[:100]!r} is no place: write a host (cdn.example, *.cdn.example), an address or a range "
        "(10.1.0.0/16), each after http://, https:// or nothing and before :PORT or nothing, or s3://BUCKET"
    )
    if "%" in text:  # a zone, which an address to connect to has or has not
        raise ConfigError(advice)
    try:
        return _Entry("", "", ip_network(text), 0)  # an IPv6 range has colons of its own
    except ValueError:
        found = _ENTRY.fullmatch(text)
    if found is None:
        raise ConfigError(advice)
    scheme, place, port = (found[1] or "").lower(), found[2], int(found[3] or 0)
    if (found[3] is not None and not 0 < port <= 65535) or (scheme == "s3" and port):
        raise ConfigError(advice)
    if scheme == "s3":
        if "/" in place:
            raise ConfigError(advice)
        if place != "*":
            _check(advice, lambda: read_bucket(f"s3://{place.replace('*', 'x')}"))
        return _Entry("s3", place, None, 0)
    try:
        return _Entry(scheme, "", ip_network(place.strip("[]")), port)
    except ValueError as error:
        if "/" in place or place.startswith("["):
            raise ConfigError(f"{advice} ({error})") from error
    if place != "*":
        # A star elsewhere would fit what looks like it: cdn.example.* is anybody's.
        name = place.removeprefix("*.")
        _check(advice, lambda: http_base(f"http://{name}/"))
        if "*" in name or "@" in name:
            raise ConfigError(advice)
        place = place.removesuffix(name) + _plain(name)
    return _Entry(scheme, place, None, port)


def _check(advice: str, read: Callable[[], object]) -> None:
    try:
        read()
    except ConfigError as error:
        raise ConfigError(advice) from error


def _refused(what: str) -> OriginRefused:
    return OriginRefused(f"{what}: {CAUSE}; {ADVICE}", cause=CAUSE, advice=ADVICE)


def _plain(host: str) -> str:
    """Return a host in small letters and ASCII, without the dot at its end."""
    host = host.lower().removesuffix(".")
    return host if host.isascii() else host.encode("idna").decode()


def _literal(host: str) -> _Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _is_in(address: _Address, kinds: tuple[_Network, ...]) -> bool:
    return any(address.version == kind.version and address in kind for kind in kinds)


def _readings(address: _Address) -> Iterator[_Address]:
    """Yield where an address leads: first what it is itself, then the IPv4 address that is wrapped in it, if one is."""
    if isinstance(address, IPv4Address):
        yield address
        return
    if address.ipv4_mapped is not None:  # the kernel speaks IPv4 with it
        yield address.ipv4_mapped
        return
    yield address
    if address.sixtofour is not None:
        yield address.sixtofour
    elif address.teredo is not None:
        yield address.teredo[1]
    elif int(address) > 1 and _is_in(address, _TRANSLATED):
        yield IPv4Address(int(address) & 0xFFFFFFFF)
