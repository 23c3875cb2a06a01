"""Who somebody is: the name that a certificate carries, and that wins over whatever its bearer says.

It is a URI in the manner of SPIFFE (https://spiffe.io, "SPIFFE-ID"): a trust domain, and a path of fixed order.

    spiffe://fleet.example/cache/a1/region/europe/isp/64501/cluster/c1
    spiffe://fleet.example/cache/a2/region/europe/isp/64501/serves/isp
    spiffe://fleet.example/tracker/main
    spiffe://fleet.example/user/anna
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress
from enum import StrEnum
from typing import Final
from urllib.parse import quote, unquote

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.ids import node_id_from_text
from p2pfill.model.node import SERVES_ISP, NodeInfo

SCHEME: Final = "spiffe://"

URI_CHARS_MAX: Final = 1024
"""Of a certificate's name; SPIFFE allows 2,048, and ours have a handful of short words."""

WORD_CHARS_MAX: Final = 128
"""Of a region, an ISP or a cluster."""

HOSTS_MAX: Final = 64
"""Of a certificate: a machine has a handful of names and addresses, and each connection carries them all."""

_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,253}[a-z0-9])?")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_HOST_CHARS_MAX: Final = 253
"""Of a name in the DNS (RFC 1035, without its last dot)."""


class Role(StrEnum):
    """What a certificate is for."""

    CACHE = "cache"
    TRACKER = "tracker"
    USER = "user"
    """A person or a program that calls the tracker: publishers, operators, whoever reads."""


class Identity(msgspec.Struct, frozen=True):
    """Somebody whose certificate holds."""

    domain: str
    """The trust domain: one fleet under one authority."""
    role: Role
    name: str
    """Of a cache: its node id."""
    region: str = ""
    """Of caches only, as the two below."""
    isp: str = ""
    cluster: str = ""
    hosts: tuple[str, ...] = ()
    """Names and addresses at which it may be reached, in lower case, addresses in their shortest form."""
    serves: str = ""
    """Of caches only, as `NodeInfo.serves`."""

    @property
    def who(self) -> str:
        """Name it for people and for rules: `cache/a1`, `user/anna`."""
        return f"{self.role}/{self.name}"

    @property
    def uri(self) -> str:
        """Return the name that its certificate carries."""
        words = [self.role, self.name]
        if self.role is Role.CACHE:
            words += ["region", self.region, "isp", self.isp]
            if self.cluster:
                words += ["cluster", self.cluster]
            if self.serves:
                words += ["serves", self.serves]
        return SCHEME + self.domain + "".join(f"/{quote(word, safe='')}" for word in words)

    def disagrees_with(self, info: NodeInfo) -> str:
        """Return in what a cache's description of itself is not what this name says, '' where it is."""
        said = {"id": info.id, "isp": info.isp, "region": info.region, "cluster": info.cluster, "serves": info.serves}
        for key, text in said.items():
            named = self.name if key == "id" else getattr(self, key)
            if text != named:
                return f"{key} {text[:WORD_CHARS_MAX]!r} is not {named!r}, as its certificate says"
        if self.hosts and _host_form(info.host) not in self.hosts:
            return f"host {info.host[:WORD_CHARS_MAX]!r} is none of its certificate ({', '.join(self.hosts)})"
        return ""


def host_from_text(text: str) -> str:
    """Return a host's name or address as `Identity.hosts` has it. Raises `ConfigError`.

    Names are whole: one with a `*` would let its bearer stand in for others.
    """
    host = _host_form(text)
    labels = host.split(".")
    with suppress(ValueError):
        if ipaddress.ip_address(host).is_unspecified or ipaddress.ip_address(host).is_multicast or "%" in host:
            raise ConfigError(f"{text[:100]!r} is not the address of one host")
        return host
    # What ends in a number is an address that is written wrongly: no name in the DNS does.
    if len(host) > _HOST_CHARS_MAX or _NUMBER.fullmatch(labels[-1]) or not all(map(_LABEL.fullmatch, labels)):
        raise ConfigError(f"{text[:100]!r} is neither a host's name nor an address")
    return host


def _host_form(text: str) -> str:
    """Return a name in lower case, and an address in its shortest form."""
    with suppress(ValueError):
        return str(ipaddress.ip_address(text))
    return text.lower()


def check_identity(identity: Identity) -> None:
    """Look whether a name can be one. Raises `ConfigError`."""
    if not _DOMAIN.fullmatch(identity.domain):
        raise ConfigError(f"{identity.domain[:100]!r} is no trust domain: write one as a host name, fleet.example")
    node_id_from_text(identity.name)
    places = (identity.region, identity.isp, identity.cluster, identity.serves)
    if identity.role is not Role.CACHE:
        if any(places):
            raise ConfigError(f"{identity.who}: only caches have a region, an ISP or a cluster, or serve anybody")
    elif not (identity.region and identity.isp):
        raise ConfigError(f"{identity.who}: a cache has a region and an ISP")
    elif identity.serves not in ("", SERVES_ISP):
        raise ConfigError(f"{identity.who}: a cache serves all, or only its own ISP: serves = {SERVES_ISP!r}")
    for word in places:
        if len(word) > WORD_CHARS_MAX or not word.isprintable():
            raise ConfigError(f"{identity.who}: {word[:100]!r} has more than {WORD_CHARS_MAX} characters, or odd ones")
    if len(identity.uri) > URI_CHARS_MAX:
        raise ConfigError(f"{identity.who}: its region, ISP and cluster are too long for a certificate's name")
    if len(identity.hosts) > HOSTS_MAX:
        raise ConfigError(f"{identity.who}: it has {len(identity.hosts)} hosts, more than {HOSTS_MAX}")
    for host in identity.hosts:
        if host_from_text(host) != host:
            raise ConfigError(f"{identity.who}: its host {host!r} is written {host_from_text(host)!r}")


def identity_from_uri(uri: str, hosts: tuple[str, ...] = ()) -> Identity:
    """Return whom a certificate's URI names. Raises `ConfigError` where it is none of ours.

    There is one way to write each name: what comes back from the parts must be what was given.
    """
    domain, _, path = uri[: URI_CHARS_MAX + 1].removeprefix(SCHEME).partition("/")
    words = [unquote(word) for word in path.split("/")]
    if len(uri) > URI_CHARS_MAX or len(words) not in (2, 6, 8, 10) or words[0] not in set(Role):
        raise ConfigError(f"{uri[:200]!r} names nobody: expected {SCHEME}DOMAIN/ROLE/NAME, see docs/certificates.md")
    place = dict(zip(words[2::2], words[3::2], strict=True))
    identity = Identity(
        domain, Role(words[0]), words[1], place.get("region", ""), place.get("isp", ""), place.get("cluster", ""),
        hosts, place.get("serves", ""),
    )  # fmt: skip
    check_identity(identity)
    if identity.uri != uri:
        raise ConfigError(f"{uri[:200]!r} is not written as names are; {identity.uri!r} would be")
    return identity
