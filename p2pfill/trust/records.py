"""What an authority knows, in one file that is replaced as a whole: what is not in it was never issued.

    state.json     all that counts: roots with their revocation lists, and what they have issued
    root-N.key     the key of root N; written before the state names it, removed after the state does no more

Everything else in the directory follows from the state and the operator's list. The alternative, a file for each thing,
leaves combinations after a crash that nobody has thought of.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

import msgspec
from cryptography import x509

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Identity
from p2pfill.model.packing import JSON_ERRORS
from p2pfill.model.signed_order import LIFE_S_MAX
from p2pfill.trust.certificates import key_name, key_of_certificate
from p2pfill.trust.credentials import identity_of
from p2pfill.trust.files import PRIVATE_MODE, replace_file

STATE_FILE: Final = "state.json"
FORMAT: Final = 1

STATE_BYTES_MAX: Final = 1024 * 1024 * 1024
"""A certificate takes some 1,200 bytes: of 10,000 caches, renewed every two months, a year is 80 MB."""

KEPT: Final = timedelta(days=365)
"""A certificate that has ended stays in the records for so long: who was in the fleet last year can be told."""

LISTED_AFTER_END: Final = timedelta(seconds=LIFE_S_MAX) + timedelta(days=30)
"""A revoked certificate stays in the revocation list for so long after its end: as long as what was signed with it
before may be brought back, and clocks may be wrong by days."""


Key = TypeVar("Key", bound=Hashable)


class Issued(msgspec.Struct, dict=True):
    """A certificate that was signed."""

    pem: str
    root: int
    """The number of the root that has signed it."""
    made_key: bool
    """Whether its key was made here, and not by who has sent a request."""
    revoked_at: datetime | None = None

    @cached_property
    def certificate(self) -> x509.Certificate:
        """What was signed. Raises `ConfigError` where the record is damaged."""
        return _certificate(self.pem)

    @cached_property
    def identity(self) -> Identity:
        """Whom it names."""
        return identity_of(self.certificate)

    @property
    def serial(self) -> str:
        """Its number in hexadecimal digits, as openssl shows it."""
        return f"{self.certificate.serial_number:x}"

    @cached_property
    def ends(self) -> datetime:
        """Until when it counts."""
        return self.certificate.not_valid_after_utc

    @cached_property
    def key(self) -> bytes:
        """The public key, for comparison."""
        return key_name(key_of_certificate(self.certificate))


class Root(msgspec.Struct):
    """A certificate that signs, and what it has taken back."""

    number: int
    pem: str
    revoked_pem: str
    """Its newest revocation list."""
    revoked_number: int
    """It grows with each list, and lists with smaller ones are not heard: see `next_number`."""

    @property
    def certificate(self) -> x509.Certificate:
        """What everybody trusts. Raises `ConfigError` where the record is damaged."""
        return _certificate(self.pem)

    def next_number(self, now: datetime) -> int:
        """Return the number of the next revocation list.

        It is the time, in Unix seconds, where that has moved on: an authority that was put back from a copy has
        forgotten how many lists there were, and its next one must be heard all the same.
        """
        return max(self.revoked_number + 1, int(now.timestamp()))

    @property
    def key_file(self) -> str:
        """The name of the file with its key."""
        return f"root-{self.number}.key"


class State(msgspec.Struct, dict=True):
    """All that an authority knows."""

    format: int
    domain: str
    roots: list[Root]
    """One, or two while the root is changed, the older first."""
    signing: int
    """The number of the root that signs."""
    issued: list[Issued] = []

    @property
    def root(self) -> Root:
        """The root that signs."""
        return next(root for root in self.roots if root.number == self.signing)

    @property
    def ca_pem(self) -> bytes:
        """What everybody is to trust."""
        return "".join(root.pem for root in self.roots).encode()

    @property
    def revoked_pem(self) -> bytes:
        """What everybody is to refuse."""
        return "".join(root.revoked_pem for root in self.roots).encode()

    @cached_property
    def _by_who(self) -> dict[str, list[Issued]]:
        return _grouped(self.issued, lambda one: one.identity.who)

    @cached_property
    def _by_key(self) -> dict[bytes, list[Issued]]:
        return _grouped(self.issued, lambda one: one.key)

    def add(self, one: Issued) -> None:
        """Take in what was signed."""
        for group in (
            self._by_who.setdefault(one.identity.who, []), self._by_key.setdefault(one.key, []), self.issued
        ):  # fmt: skip
            group.append(one)

    def keep(self, wanted: Callable[[Issued], bool]) -> None:
        """Forget all but what is wanted."""
        self.issued = list(filter(wanted, self.issued))
        self.__dict__.clear()

    def is_good(self, one: Issued, now: datetime) -> bool:
        """Whether a certificate is accepted."""
        return one.revoked_at is None and now < one.ends and any(one.root == root.number for root in self.roots)

    def good(self, who: str, now: datetime) -> list[Issued]:
        """Return the certificates of somebody that are accepted, the one that was signed last at the end.

        That one counts as what he shows, though another may end later: lives of certificates can be made shorter.
        """
        return [one for one in self._by_who.get(who, ()) if self.is_good(one, now)]

    def owners(self, key: bytes) -> list[Issued]:
        """Return the certificates of a public key."""
        return self._by_key.get(key, [])


def _certificate(pem: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(f"{STATE_FILE} is damaged: a certificate in it cannot be read; put its copy back") from error


def _grouped(issued: Iterable[Issued], key: Callable[[Issued], Key]) -> dict[Key, list[Issued]]:
    found: dict[Key, list[Issued]] = {}
    for one in issued:
        found.setdefault(key(one), []).append(one)
    return found


def read_state(directory: Path) -> State:
    """Return what an authority knows. Raises `ConfigError` where there is none, or it cannot be read."""
    path = directory / STATE_FILE
    try:
        with path.open("rb") as file:
            data = file.read(STATE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{str(directory)!r} is no authority: `p2pfill ca init` makes one") from error
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    try:
        state = msgspec.json.decode(data, type=State)
    except JSON_ERRORS as error:
        raise ConfigError(f"{str(path)!r} is damaged: {error}; put its copy back") from error
    if state.format != FORMAT:
        raise ConfigError(f"{str(path)!r} is of format {state.format}, and this p2pfill reads {FORMAT}")
    if not 1 <= len(state.roots) <= 2 or state.signing not in {root.number for root in state.roots}:
        raise ConfigError(f"{str(path)!r} is damaged: it has no root that signs; put its copy back")
    return state


def write_state(directory: Path, state: State, now: datetime) -> None:
    """Let `state` count. Raises `OSError`, and then either counts."""
    # What was revoked stays: its key must not come back.
    state.keep(lambda one: one.revoked_at is not None or now < one.ends + KEPT)
    replace_file(directory / STATE_FILE, msgspec.json.format(msgspec.json.encode(state), indent=1), mode=PRIVATE_MODE)
