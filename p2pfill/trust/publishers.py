"""Whom a fleet trusts to publish what, and the one way in which encoded manifests become titles.

`publishers.toml` lies in the identity's directory, and is read again when it changes:

    [[publishers]]
    name = "studio-1"
    key = "ed25519:BASE64"        # `p2pfill key show`; while keys are changed, another entry of the same name

    [[rules]]
    titles = "films-*"            # names of titles
    publishers = ["studio-1", "studio-2"]
    threshold = 2                 # so many of them must have signed; by default 1
    rollback = true               # whether an order may bring back an older version that is not signed anew

The first rule that matches a title's name counts; what none matches is refused. Two keys of one publisher count once.
Without the file all manifests are taken. The attacks that this is to withstand are those of The Update Framework (TUF,
https://theupdateframework.io/docs/security): rollback, by a number that grows, freeze, by a time when what was signed
expires, and the compromise of a key, by thresholds.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from p2pfill.errors import ConfigError, ManifestError, SignatureError
from p2pfill.model.ids import TitleId
from p2pfill.model.manifest import Manifest
from p2pfill.model.selector import matches_glob
from p2pfill.model.statement import Signatures, Statement
from p2pfill.model.toml import read_toml

if TYPE_CHECKING:
    from p2pfill.trust.signing import PublicKey

PUBLISHERS_MAX: Final = 1000
RULES_MAX: Final = 1000
"""Each title is compared with one after the other."""
FILE_BYTES_MAX: Final = 1024 * 1024
"""A thousand of each take a fifth of it."""
NAMED_MAX: Final = 10
"""Publishers that a refusal names: it is read by people, and carried by heartbeats."""


class _Publisher(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    key: str


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By whom titles of some names must be signed."""

    titles: str
    publishers: tuple[str, ...]
    threshold: int = 1
    rollback: bool = True


class _File(msgspec.Struct, forbid_unknown_fields=True):
    publishers: list[_Publisher] = []
    rules: list[Rule] = []


class Publishers:
    """Who may publish what. Callable from any thread."""

    def __init__(self, publishers: list[tuple[str, str]], rules: list[Rule]) -> None:
        """`publishers` are names and public keys, as words. Raises `ConfigError`."""
        from p2pfill.trust.signing import PublicKey  # not above: few nodes have a list of publishers

        if len(publishers) > PUBLISHERS_MAX or len(rules) > RULES_MAX:
            raise ConfigError(f"it has more than {PUBLISHERS_MAX} publishers or {RULES_MAX} rules")
        self._keys: dict[bytes, tuple[str, PublicKey]] = {}
        """Key id -> whose key."""
        for name, word in publishers:
            key = PublicKey(word)
            if key.key_id in self._keys:
                # Under two names one key would count twice.
                raise ConfigError(f"key {word} stands there twice: for {self._keys[key.key_id][0]!r} and {name!r}")
            self._keys[key.key_id] = name, key
        self._rules = rules
        for number, rule in enumerate(rules, 1):
            self._check_rule(number, rule)

    @classmethod
    def load(cls, path: Path) -> Publishers:
        """Read the file. Raises `ConfigError` that names it."""
        try:
            with path.open("rb") as file:
                text = file.read(FILE_BYTES_MAX + 1)
            if len(text) > FILE_BYTES_MAX:
                raise ConfigError(f"it is larger than {FILE_BYTES_MAX} bytes")
            found = msgspec.convert(read_toml(text.decode("utf-8-sig")), _File)
            return cls([(one.name, one.key) for one in found.publishers], found.rules)
        except OSError as error:
            raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
        except (UnicodeDecodeError, msgspec.ValidationError, ConfigError) as error:
            raise ConfigError(f"{str(path)!r} cannot be used: {error}; see docs/publishers.md") from error

    def _check_rule(self, number: int, rule: Rule) -> None:
        known = {name for name, _ in self._keys.values()}
        if unknown := [name for name in rule.publishers if name not in known]:
            raise ConfigError(f"rule {number} names {unknown[0]!r}, which is none of the publishers")
        if not 1 <= rule.threshold <= len(set(rule.publishers)):
            raise ConfigError(
                f"rule {number} asks for {rule.threshold} signatures of {len(set(rule.publishers))} publishers"
            )

    def allows_rollback(self, name: str) -> bool:
        """Tell whether an order may bring back an older version of a name."""
        rule = self._rule_of(name)
        return rule is not None and rule.rollback

    def check(self, signatures: bytes, title_id: TitleId, name: str | None, now_s: float) -> Statement:
        """Return what is signed of a title, where that is as the rules demand; `signatures` are encoded, b'': none.

        `name` is that of its manifest; None: it is not known yet. `now_s` counts from the epoch.
        Raises `SignatureError` that says which rule it is, and what is lacking.
        """
        found = Signatures.decode(signatures) if signatures else None
        if found is None:
            named = f"title {title_id.hex()}" if name is None else f"title {name!r}"
            rule = None if name is None else self._rule_of(name)
            said = "by one of publishers.toml" if rule is None else f"as {self._spell(rule)} demands"
            raise SignatureError(f"{named} is not signed at all; it must be, {said}")
        statement = found.statement
        check_statement(statement, title_id, name)
        rule = self._rule_of(statement.name)
        if rule is None:
            raise SignatureError(f"no rule of publishers.toml matches the name of title {statement.name!r}")
        self._check_signers(found, rule)
        if 0 < statement.expires <= now_s:
            raise SignatureError(
                f"what was signed of title {statement.name!r} has expired: it must be signed anew ({self._spell(rule)})"
            )
        return statement

    def counted(self, found: Signatures) -> dict[bytes, bytes]:
        """Return those of some signatures that hold, and are of publishers that are known."""
        encoded = found.statement.encode()
        return {
            key_id: signature
            for key_id, signature in found.by.items()
            if key_id in self._keys and self._keys[key_id][1].holds(signature, encoded)
        }

    def _check_signers(self, found: Signatures, rule: Rule) -> None:
        encoded = found.statement.encode()
        signed: set[str] = set()
        wrong: set[str] = set()
        for key_id, signature in found.by.items():
            name, key = self._keys.get(key_id, ("", None))
            if key is not None and name in rule.publishers and name not in signed:
                (signed if key.holds(signature, encoded) else wrong).add(name)
                if len(signed) == rule.threshold:
                    return
        lacking = [name for name in dict.fromkeys(rule.publishers) if name not in signed]
        words = [f"signed by {_some(sorted(signed)) or 'none of them'}"]
        words += [f"the signature of {_some(sorted(wrong))} does not hold"] if wrong else []
        words += [f"not by {_some(lacking)}"]
        raise SignatureError(
            f"title {found.statement.name!r} is not signed as {self._spell(rule)} demands, by {rule.threshold} of its "
            f"publishers: {'; '.join(words)}"
        )

    def _rule_of(self, name: str) -> Rule | None:
        return next((rule for rule in self._rules if matches_glob(rule.titles, name)), None)

    def _spell(self, rule: Rule) -> str:
        return f"rule {self._rules.index(rule) + 1} (titles = {rule.titles!r}) of publishers.toml"


def check_statement(statement: Statement, title_id: TitleId, name: str | None = None) -> None:
    """Look whether a statement is about this title, of this name. Raises `SignatureError`."""
    if statement.title_id != title_id:
        raise SignatureError(f"the signatures are of title {statement.title_id.hex()}, not of {title_id.hex()}")
    if name is not None and statement.name != name:
        raise SignatureError(f"the signatures are of a title named {statement.name!r}, and this is {name!r}")


def open_title(
    encoded: bytes,
    title_id: TitleId | None = None,
    publishers: Publishers | None = None,
    signatures: bytes = b"",
    now_s: float = 0.0,
) -> Manifest:
    """Return the title that `encoded` is: decoded within limits, with this id, and signed as `publishers` want it.

    Whatever comes from elsewhere, or from the disk, comes in through here. `title_id` None: any.
    Raises `ManifestError`, and as one of these `SignatureError`.
    """
    manifest = Manifest.decode(encoded)
    if title_id is not None and manifest.title_id != title_id:
        raise ManifestError(f"its title id is {manifest.title_id.hex()}, and it should be {title_id.hex()}")
    if publishers is not None:
        publishers.check(signatures, manifest.title_id, manifest.name, now_s)
    elif signatures:
        check_statement(Signatures.decode(signatures).statement, manifest.title_id, manifest.name)
    return manifest


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(names[:NAMED_MAX]) + more
