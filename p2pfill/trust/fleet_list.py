"""Who there is: the list that the operator keeps, and the only thing that the authority signs for."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Identity, Role, check_identity, host_from_text
from p2pfill.model.toml import read_toml

LIST_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of the list: a cache takes some 150 bytes, and a fleet has some ten thousand."""

TEMPLATE: Final = """\
# Who there is in the fleet. `p2pfill ca` signs for these and for nobody else: names, places and hosts in certificates
# come from here. After a change: `p2pfill ca issue --all` for those who are new, `p2pfill ca renew` for the others.
#
# A host is a name or an address at which others reach it, as in the node's --listen or --advertise, or in the
# tracker's URL.
#
# [[caches]]
# id = "a1"
# isp = "isp-a"
# region = "europe"            # default: "default"
# cluster = "berlin"           # default: none
# serves = "isp"               # gives chunks to caches of its own ISP alone; default: to all
# hosts = ["10.0.0.11", "a1.example.net"]
#
# [[trackers]]
# name = "main"
# hosts = ["tracker.example.net"]
#
# [[users]]
# name = "anna"
"""


class _Cache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: str
    isp: str
    hosts: tuple[str, ...]
    region: str = "default"
    cluster: str = ""
    serves: str = ""


class _Tracker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    hosts: tuple[str, ...]


class _User(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str


class _Listed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    caches: tuple[_Cache, ...] = ()
    trackers: tuple[_Tracker, ...] = ()
    users: tuple[_User, ...] = ()


def read_fleet_list(path: Path, domain: str) -> dict[str, Identity]:
    """Return who is listed, by name. Raises `ConfigError` that says where in the file the fault is."""
    try:
        with path.open("rb") as file:
            data = file.read(LIST_BYTES_MAX + 1)
        if len(data) > LIST_BYTES_MAX:
            raise ConfigError(f"it is larger than {LIST_BYTES_MAX} bytes")
        listed = msgspec.convert(read_toml(data.decode("utf-8-sig")), _Listed)
    except OSError as error:
        raise ConfigError(f"cannot read the list of the fleet, {str(path)!r}: {error.strerror}") from error
    except (UnicodeDecodeError, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"{str(path)!r}: {error}") from error
    found: dict[str, Identity] = {}
    folded: dict[str, str] = {}
    for place, identity in _identities(path, listed, domain):
        # Each has a directory of its name, and some disks do not tell case.
        before = folded.setdefault(identity.name.lower(), identity.who)
        if before != identity.who or identity.name in found:
            raise ConfigError(f"{place}: the name of {identity.who} is taken by {before}; names are of one, any role")
        found[identity.name] = identity
    return found


def _identities(path: Path, listed: _Listed, domain: str) -> Iterator[tuple[str, Identity]]:
    for number, cache in enumerate(listed.caches):
        place = f"{str(path)!r}, caches[{number}]"
        hosts = _hosts(place, cache.hosts)
        identity = Identity(domain, Role.CACHE, cache.id, cache.region, cache.isp, cache.cluster, hosts, cache.serves)
        yield place, _checked(place, identity)
    for number, tracker in enumerate(listed.trackers):
        place = f"{str(path)!r}, trackers[{number}]"
        hosts = _hosts(place, tracker.hosts)
        yield place, _checked(place, Identity(domain, Role.TRACKER, tracker.name, hosts=hosts))
    for number, user in enumerate(listed.users):
        place = f"{str(path)!r}, users[{number}]"
        yield place, _checked(place, Identity(domain, Role.USER, user.name))


def _checked(place: str, identity: Identity) -> Identity:
    try:
        check_identity(identity)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    return identity


def _hosts(place: str, texts: Sequence[str]) -> tuple[str, ...]:
    """Return hosts as a certificate gives them back: names first, each once."""
    if not texts:
        raise ConfigError(f"{place}: it has no hosts, so nobody could tell that it is where it says")
    try:
        hosts = list(dict.fromkeys(map(host_from_text, texts)))
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error
    return tuple(sorted(hosts, key=_is_address))


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False
