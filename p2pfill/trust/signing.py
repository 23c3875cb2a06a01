"""Publishers' keys (Ed25519, RFC 8032), and signing with them.

A key is a file in PEM (PKCS #8), as `p2pfill key new` and `openssl genpkey -algorithm ed25519` make it. Its public half
is one word, `ed25519:BASE64` of its 32 bytes, and its id is the BLAKE3 of those.
"""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from p2pfill.errors import ConfigError
from p2pfill.model.statement import Signatures, Statement
from p2pfill.trust.files import PRIVATE_MODE

KIND: Final = "ed25519:"
KEY_BYTES: Final = 32

KEY_FILE_BYTES_MAX: Final = 16 * 1024
"""A key takes 119 bytes; what is larger is another file."""


class PublicKey:
    """Whose signatures can be checked with it, `Publishers` says."""

    def __init__(self, word: str) -> None:
        """Read `ed25519:BASE64`. Raises `ConfigError`."""
        try:
            raw = base64.b64decode(word.removeprefix(KIND), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        # One key has one word: base64 may leave bits over, and a second spelling would look like a second key.
        if len(raw) != KEY_BYTES or spell_key(raw) != word:
            raise ConfigError(f"{word[:80]!r} is no public key: write it as `p2pfill key show` does, {KIND}BASE64")
        self.word = word
        self.key_id = key_id_of(raw)
        self._key = Ed25519PublicKey.from_public_bytes(raw)

    def holds(self, signature: bytes, statement: bytes) -> bool:
        """Tell whether a signature of an encoded statement is this key's."""
        try:
            self._key.verify(signature, statement)
        except InvalidSignature:
            return False
        return True


def spell_key(raw: bytes) -> str:
    """Return a public key as one word."""
    return KIND + base64.b64encode(raw).decode()


def key_id_of(raw: bytes) -> bytes:
    """Return the id of a public key of 32 bytes."""
    return blake3(raw).digest()


def make_key(path: Path) -> str:
    """Draw a key into a new file that its owner alone can read; return its public half. Raises `ConfigError`."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        # Never over another key: what was signed with that one could not be signed anew.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        with open(fd, "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(fd)
    except OSError as error:
        raise ConfigError(f"cannot make key {str(path)!r}: {error.strerror}") from error
    return public_word(key)


def load_key(path: Path) -> Ed25519PrivateKey:
    """Return the key in a file. Raises `ConfigError` where it is none, or where others may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            pem = file.read(KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read key {str(path)!r}: {error.strerror}; `p2pfill key new` makes one") from error
    if mode & 0o077:
        raise ConfigError(f"others may read key {str(path)!r}: chmod 600 it, or make it anew if they may have read it")
    try:
        key = load_pem_private_key(pem[: KEY_FILE_BYTES_MAX + 1], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{str(path)!r} is no key in PEM without a password: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{str(path)!r} is a key of another kind than Ed25519; `p2pfill key new` makes one")
    return key


def public_word(key: Ed25519PrivateKey) -> str:
    """Return the public half of a key as one word."""
    return spell_key(_raw(key))


def sign(key: Ed25519PrivateKey, statement: Statement, before: Signatures | None = None) -> Signatures:
    """Return a statement with a signature of it, and those in `before` where they are of the same statement."""
    mine = {key_id_of(_raw(key)): key.sign(statement.encode())}
    others = before.by if before is not None and before.statement == statement else {}
    return Signatures(statement, mine).merged(others)


def _raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
