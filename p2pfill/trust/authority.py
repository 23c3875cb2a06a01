"""A fleet's certificate authority: a directory that signs for those whom the operator has listed, and for nobody else.

    CA/fleet.toml     who there is (fleet_list.py); written by the operator
    CA/state.json     what was signed and taken back, and by which root (records.py)
    CA/root-N.key     the root's key
    CA/ca.pem         what everybody trusts: the root, or two while it is changed
    CA/revoked.pem    what everybody refuses

Names, places and hosts in a certificate come from the list, never from a request: an authority that signs for any
address would make mutual TLS worthless.

Each command first makes durable what it needs (keys), then replaces the state, and then writes what follows from it. So
a crash leaves the authority as before the command or as after it, and the same command again ends what was begun.

**A root is changed in steps**, between which the operator carries files to the machines, so that everybody can talk
with everybody all the while: `rotate` adds a root that everybody is to trust, and that signs nothing yet; `switch` lets
it sign; `finish` drops the old one. A cross certificate would save the first step, but needs roots that may sign
authorities.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from p2pfill.errors import ConfigError, P2PFillError
from p2pfill.model.identity import Identity, Role, check_identity
from p2pfill.trust.certificates import (
    PrivateKey,
    PublicKey,
    key_from_pem,
    key_name,
    key_of_certificate,
    key_of_request,
    key_to_pem,
    make_leaf,
    make_revocation_list,
    make_root,
    new_key,
)
from p2pfill.trust.credentials import CA_FILE, REVOKED_FILE
from p2pfill.trust.files import (
    PRIVATE_DIRECTORY_MODE,
    PRIVATE_MODE,
    STAGED,
    make_private_directory,
    replace_file,
    sync_directory,
)
from p2pfill.trust.fleet_list import TEMPLATE, read_fleet_list
from p2pfill.trust.handout import KEY_BYTES_MAX, Handout
from p2pfill.trust.records import (
    FORMAT,
    LISTED_AFTER_END,
    STATE_FILE,
    Issued,
    Root,
    State,
    read_state,
    write_state,
)

LIST_FILE: Final = "fleet.toml"

LIFE: Final = timedelta(days=90)
"""Of a certificate: a lost one that nobody noticed is worth nothing after it."""

ROOT_LIFE: Final = timedelta(days=3650)

RENEW_WITHIN: Final = timedelta(days=30)
"""Before its end a certificate is due: a month leaves time to notice that nobody has carried it over."""

SERIAL_DIGITS_MIN: Final = 8
"""Hexadecimal ones by which a certificate is told: the start of its serial, which has 159 random bits."""


class AuthorityError(P2PFillError):
    """What is asked of the authority cannot be done now."""


class Given(msgspec.Struct, frozen=True):
    """Somebody's certificate, as it was handed out."""

    who: str
    serial: str
    ends: datetime
    directory: str
    """The directory that its bearer gets."""
    is_new: bool
    """Whether it was signed now; otherwise it was good already."""
    differs_from: str = ""
    """The serial of the one before, if that says something else of its bearer and is good still."""


class _Terms(NamedTuple):
    """For how long a certificate is signed."""

    now: datetime
    life: timedelta
    within: timedelta = timedelta(0)
    """One that is there already must not end so soon."""


class Line(msgspec.Struct, frozen=True):
    """One certificate, or somebody who has none, as people are told."""

    who: str
    state: Literal["good", "replaced", "revoked", "ended", "none"]
    serial: str = ""
    ends: datetime | None = None
    revoked_at: datetime | None = None
    notes: tuple[str, ...] = ()


class Authority:
    """An authority's directory, held against other commands. Use as a context manager."""

    def __init__(self, directory: Path) -> None:
        """Open `directory`, waiting for who holds it. Raises `ConfigError` and `OSError`."""
        self.directory = directory
        try:
            self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"cannot open the authority {str(directory)!r}: {error.strerror}; `p2pfill ca init` makes one"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX)
            if os.fstat(self._fd).st_mode & 0o077:
                raise ConfigError(f"others may enter {str(directory)!r}, where the root's key lies: chmod 700 it")
            self.state = read_state(directory)
            self._follow()
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    @staticmethod
    def create(directory: Path, domain: str, now: datetime, life: timedelta = ROOT_LIFE) -> None:
        """Make an authority in a directory that is new, or has a list of the fleet alone.

        Raises `ConfigError` and `OSError`.
        """
        check_identity(Identity(domain, Role.USER, "x"))
        make_private_directory(directory)
        found = set(os.listdir(directory))
        if STATE_FILE in found:
            raise ConfigError(f"{str(directory)!r} is an authority already: `p2pfill ca show` tells of it")
        ours = {LIST_FILE, STATE_FILE, Root(1, "", "", 0).key_file}
        # What an init that was broken off has left is no reason to refuse.
        if strange := found - ours - {name + STAGED for name in ours}:
            raise ConfigError(f"{str(directory)!r} is not empty ({min(strange)[:100]!r}): name a new directory")
        os.chmod(directory, PRIVATE_DIRECTORY_MODE)
        if LIST_FILE not in found:
            replace_file(directory / LIST_FILE, TEMPLATE.encode())
        write_state(directory, State(FORMAT, domain, [_new_root(directory, 1, domain, now, life)], 1), now)
        with Authority(directory):
            pass  # which writes the rest

    def listed(self) -> dict[str, Identity]:
        """Return who is listed, by name. Raises `ConfigError`."""
        return read_fleet_list(self.directory / LIST_FILE, self.state.domain)

    # ---- certificates

    def issue(self, names: Sequence[str], out: Path, now: datetime, life: timedelta = LIFE) -> list[Given]:
        """Give everybody of `names` a directory `out`/NAME; none: give one to all who are listed and have none.

        A key that lies there is kept, and a certificate that is good, too. Raises `ConfigError` and `OSError`.
        """
        listed = self.listed()
        terms = _Terms(now, life)
        handed: list[tuple[Handout, Issued, Given]] = []
        for identity in [self._find(name, listed) for name in names] or listed.values():
            handout = Handout(out / identity.name)
            if not names and self.state.good(identity.who, now) and not handout.public_keys():
                handout.refresh(self.state.ca_pem, self.state.revoked_pem)
                continue
            handout.make()
            handed.append(self._hand(handout, identity, self._key_for(identity, handout), True, terms))
        self._commit(now)
        return self._show(handed)

    def issue_for_request(
        self, name: str, request: bytes, where: str, out: Path, now: datetime, life: timedelta = LIFE
    ) -> Given:
        """Sign for the public key of a request; whose it is, the list says. `where` the request is, is for messages.

        Raises `ConfigError` and `OSError`.
        """
        identity = self._find(name, self.listed())
        key = key_of_request(request, where)
        owners = self.state.owners(key_name(key))
        if any(one.identity.who != identity.who or one.revoked_at for one in owners):
            raise ConfigError(f"the key of {where!r} was {owners[0].identity.who}'s or was taken back: draw a new one")
        handout = Handout(out / identity.name)
        if any(key_name(lying) != key_name(key) for lying in handout.public_keys()):
            raise ConfigError(f"another key lies in {str(handout.path)!r}: name another --out, or move it away")
        handout.make()
        handed = self._hand(handout, identity, key, False, _Terms(now, life))
        self._commit(now)
        return self._show([handed])[0]

    def renew(
        self,
        names: Sequence[str],
        out: Path,
        now: datetime,
        within: timedelta = RENEW_WITHIN,
        life: timedelta = LIFE,
        *,
        new_keys: bool = False,
    ) -> list[Given]:
        """Sign anew what ends within a time, is of the old root, or says other than the list; of nobody named: of all.

        What ends with the root cannot end later, and is left alone. Keys are kept, so that a certificate is all
        that must be carried over; with `new_keys` those that were made here are not. Returns those that are
        new. Raises `ConfigError` and `OSError`.
        """
        listed = self.listed()
        terms = _Terms(now, life, within)
        handed: list[tuple[Handout, Issued, Given]] = []
        for identity in [self._find(name, listed) for name in names] or listed.values():
            handout = Handout(out / identity.name)
            good = self.state.good(identity.who, now)
            lying = {key_name(key) for key in handout.public_keys()}
            if not good:
                if names:
                    raise ConfigError(f"{identity.who} has no certificate that is good: `p2pfill ca issue` gives one")
                continue
            if lying and not any(one.key in lying for one in good):
                raise ConfigError(
                    f"the key in {str(handout.path)!r} is of no certificate that is good: "
                    f"`p2pfill ca issue {identity.name}` gives it one"
                )
            last = [one for one in good if not lying or one.key in lying][-1]
            is_due = last.ends - now < within and (new_keys or not self._ends_with_root(last))
            if is_due or not self._is_current(last, identity):
                handout.make()
                is_other_key = new_keys and last.made_key
                key = handout.stage_key() if is_other_key else key_of_certificate(last.certificate)
                handed.append(self._hand(handout, identity, key, last.made_key, terms))
            elif handout.path.is_dir():
                handed.append(self._as_it_is(handout, last))
        self._commit(now)
        return [given for given in self._show(handed) if given.is_new]

    def meant(self, what: str, now: datetime) -> list[Issued]:
        """Return the good certificates of a name, or the one of a serial or the start of one.

        Raises `ConfigError` where there is none.
        """
        found = [one for one in self.state.issued if what in (one.identity.name, one.identity.who)]
        if good := [one for one in found if self.state.is_good(one, now)]:
            return good
        if found:
            raise ConfigError(f"{found[-1].identity.who} has no certificate that is good: there is nothing to revoke")
        serial = what.replace(":", "").lower().lstrip("0")
        if len(serial) >= SERIAL_DIGITS_MIN:
            found = [one for one in self.state.issued if one.serial.startswith(serial)]
        if len(found) > 1:
            raise ConfigError(f"{len(found)} certificates have serials that begin with {serial}: give all of it")
        if found and not self.state.is_good(found[0], now):
            raise ConfigError(f"the certificate {found[0].serial} is not good any more: there is nothing to revoke")
        if found:
            return found
        raise ConfigError(f"{what[:100]!r} is nobody who has a certificate, and no serial: see `p2pfill ca show`")

    def revoke(self, certificates: Iterable[Issued], now: datetime) -> None:
        """Take certificates back. Raises `OSError`."""
        changed = set()
        for one in certificates:
            one.revoked_at = now
            changed.add(one.root)
        for root in self.state.roots:
            if root.number in changed:
                root.revoked_number = root.next_number(now)
                key = _read_key(self.directory / root.key_file)
                root.revoked_pem = _as_text(
                    make_revocation_list(root.certificate, key, root.revoked_number, self._taken_back(root, now), now)
                )
        self._commit(now)

    def lines(self, now: datetime, within: timedelta = RENEW_WITHIN) -> list[Line]:
        """Return who has what, by role and name, the newest first. Raises `ConfigError`."""
        listed = self.listed()
        lines = []
        for one in self.state.issued:
            who, name = one.identity.who, one.identity.name
            state: Literal["good", "replaced", "revoked", "ended"] = "good"
            if one.revoked_at is not None:
                state = "revoked"
            elif not self.state.is_good(one, now):
                state = "ended"
            elif self.state.good(who, now)[-1] is not one:
                state = "replaced"
            notes = self._notes(one, listed.get(name), now, within) if state == "good" else ()
            lines.append(Line(who, state, one.serial, one.ends, one.revoked_at, notes))
        having = {line.who for line in lines if line.state == "good"}
        lines += [Line(one.who, "none") for one in listed.values() if one.who not in having]
        lines.sort(key=lambda line: line.ends or now, reverse=True)
        return sorted(lines, key=lambda line: line.who)

    # ---- the root

    def rotate(self, now: datetime, life: timedelta = ROOT_LIFE) -> None:
        """Begin to change the root: everybody is to trust a new one too. Raises `AuthorityError` and `OSError`."""
        if len(self.state.roots) == 2:
            raise AuthorityError(f"the root is being changed already: {self.next_step()}")
        number = self.state.roots[-1].number + 1
        self.state.roots.append(_new_root(self.directory, number, self.state.domain, now, life))
        self._commit(now)

    def switch(self, now: datetime) -> None:
        """Let the new root sign. Raises `AuthorityError` and `OSError`."""
        if len(self.state.roots) == 1 or self.state.signing == self.state.roots[1].number:
            raise AuthorityError(f"there is no root that waits to sign: {self.next_step()}")
        self.state.signing = self.state.roots[1].number
        self._commit(now)

    def cut_off(self, now: datetime) -> list[str]:
        """Return who would be left behind if the old root were dropped, those who are not listed any more.

        Raises `AuthorityError` where it cannot be dropped yet, and `ConfigError`.
        """
        if len(self.state.roots) == 1 or self.state.signing != self.state.roots[1].number:
            raise AuthorityError(f"the old root signs, or is the only one: {self.next_step()}")
        listed = {one.who for one in self.listed().values()}
        good = [one for one in self.state.issued if self.state.is_good(one, now)]
        new = {one.identity.who for one in good if one.root == self.state.signing}
        behind = sorted({one.identity.who for one in good} - new)
        if waiting := [who for who in behind if who in listed]:
            names = ", ".join(waiting[:10]) + (" …" if len(waiting) > 10 else "")
            raise AuthorityError(
                f"{len(waiting)} have no certificate of the new root ({names}): `p2pfill ca renew` gives them one"
            )
        return behind

    def finish(self, now: datetime) -> None:
        """Drop the old root and its key: what it has signed counts no more.

        Raises `AuthorityError`, `ConfigError` and `OSError`.
        """
        self.cut_off(now)
        self.state.roots = self.state.roots[1:]
        self._commit(now)

    def next_step(self) -> str:
        """Say how a change of the root goes on."""
        if len(self.state.roots) == 1:
            return "`p2pfill ca rotate` begins to change it"
        if self.state.signing == self.state.roots[0].number:
            return "when all machines have the new ca.pem, `p2pfill ca rotate --switch` lets the new root sign"
        return (
            "`p2pfill ca renew` signs all certificates anew, and when all machines have theirs, "
            "`p2pfill ca rotate --finish` drops the old root"
        )

    # ---- within

    def _find(self, name: str, listed: dict[str, Identity]) -> Identity:
        identity = listed.get(name) or next((one for one in listed.values() if one.who == name), None)
        if identity is None:
            raise ConfigError(f"{name[:100]!r} is not in the list, {str(self.directory / LIST_FILE)!r}: add it there")
        return identity

    def _key_for(self, identity: Identity, handout: Handout) -> PublicKey:
        """Return the key that lies in a directory, or draw one where there is none that can be used."""
        for number, key in enumerate(lying := handout.public_keys()):
            owners = self.state.owners(key_name(key))
            if any(one.identity.who != identity.who for one in owners):
                raise ConfigError(f"the key in {str(handout.path)!r} is {owners[0].identity.who}'s: move it away")
            # One that waits to be shown and has no certificate is what a crash has left.
            is_left_over = number < len(lying) - 1 and not owners
            if not is_left_over and not any(one.revoked_at for one in owners):
                return key
        return handout.stage_key()

    def _is_current(self, one: Issued, identity: Identity) -> bool:
        return one.root == self.state.signing and one.identity == identity

    def _ends_with_root(self, one: Issued) -> bool:
        return one.root == self.state.signing and one.ends >= self.state.root.certificate.not_valid_after_utc

    def _hand(
        self, handout: Handout, identity: Identity, key: PublicKey, made_key: bool, terms: _Terms
    ) -> tuple[Handout, Issued, Given]:
        """Return a certificate of `key`, signed now unless a good one is there."""
        now = terms.now
        before = self.state.good(identity.who, now)
        for one in [one for one in before if one.key == key_name(key)][-1:]:
            if self._is_current(one, identity) and one.ends - now >= terms.within:
                return self._as_it_is(handout, one)
        root = self.state.root
        certificate = root.certificate
        if now >= certificate.not_valid_after_utc:
            raise AuthorityError("the root has ended: `p2pfill ca rotate` begins to change it")
        root_key = _read_key(self.directory / root.key_file)
        leaf = make_leaf(identity, key, certificate, root_key, now, terms.life)
        signed = Issued(_as_text(leaf), root.number, made_key)
        self.state.add(signed)
        other = next((one.serial for one in reversed(before) if one.identity != identity), "")
        return handout, signed, Given(identity.who, signed.serial, signed.ends, str(handout.path), True, other)

    def _as_it_is(self, handout: Handout, one: Issued) -> tuple[Handout, Issued, Given]:
        return handout, one, Given(one.identity.who, one.serial, one.ends, str(handout.path), False)

    def _show(self, handed: Iterable[tuple[Handout, Issued, Given]]) -> list[Given]:
        shown = []
        for handout, one, given in handed:
            handout.show(one.key, one.pem.encode(), self.state.ca_pem, self.state.revoked_pem)
            shown.append(given)
        return shown

    def _notes(self, one: Issued, listed: Identity | None, now: datetime, within: timedelta) -> tuple[str, ...]:
        if listed is None or listed.who != one.identity.who:
            return ("not listed any more: revoke it",)
        notes = []
        if one.ends - now < within:
            notes.append("ends with the root: change that" if self._ends_with_root(one) else "ends soon: renew it")
        if one.root != self.state.signing:
            notes.append("of the old root: renew it")
        if one.identity != listed:
            notes.append("the list says otherwise: renew it")
        return tuple(notes)

    def _taken_back(self, root: Root, now: datetime) -> Iterable[tuple[int, datetime]]:
        for one in self.state.issued:
            if one.root == root.number and one.revoked_at is not None and now < one.ends + LISTED_AFTER_END:
                yield one.certificate.serial_number, one.revoked_at

    def _commit(self, now: datetime) -> None:
        write_state(self.directory, self.state, now)
        self._follow()

    def _follow(self) -> None:
        """Write what follows from the state, and remove keys that it does not name."""
        replace_file(self.directory / CA_FILE, self.state.ca_pem)
        replace_file(self.directory / REVOKED_FILE, self.state.revoked_pem)
        named = {root.key_file for root in self.state.roots}
        dead = [path for path in self.directory.glob("root-*.key*") if path.name not in named]
        for path in dead:
            path.unlink()
        if dead:
            sync_directory(self.directory)


def _new_root(directory: Path, number: int, domain: str, now: datetime, life: timedelta) -> Root:
    """Draw a root, and write its key. It has taken nothing back yet."""
    key = new_key()
    certificate = make_root(key, domain, now, life)
    root = Root(number, _as_text(certificate), _as_text(make_revocation_list(certificate, key, 1, (), now)), 1)
    replace_file(directory / root.key_file, key_to_pem(key), mode=PRIVATE_MODE)
    return root


def _read_key(path: Path) -> PrivateKey:
    try:
        with path.open("rb") as file:
            return key_from_pem(file.read(KEY_BYTES_MAX), str(path))
    except OSError as error:
        raise ConfigError(f"cannot read the root's key {str(path)!r}: {error.strerror}") from error


def _as_text(signed: x509.Certificate | x509.CertificateRevocationList) -> str:
    return signed.public_bytes(Encoding.PEM).decode()
