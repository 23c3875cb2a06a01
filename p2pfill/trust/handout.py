"""The directory that somebody is given: certificate, key, authorities and revocation list (see credentials.py).

A key that is to take the place of another one lies beside it (`key.pem.new`) until the authority's state has its
certificate; then both are shown, one right after the other. What a crash leaves in between, the same command mends.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from p2pfill.errors import ConfigError
from p2pfill.trust.certificates import PrivateKey, PublicKey, key_from_pem, key_name, key_to_pem, new_key
from p2pfill.trust.credentials import CA_FILE, CERT_FILE, KEY_FILE, REVOKED_FILE
from p2pfill.trust.files import PRIVATE_MODE, STAGED, make_private_directory, replace_file, show_file, stage_file

KEY_BYTES_MAX: Final = 64 * 1024
"""Of a file with a key: one on P-256 has 241 bytes, and openssl writes its parameters before it."""


class Handout:
    """One identity's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._staged = path / (KEY_FILE + STAGED)

    def make(self) -> None:
        """Make the directory where there is none. Raises `OSError`."""
        make_private_directory(self.path.parent)
        make_private_directory(self.path)

    def public_keys(self) -> list[PublicKey]:
        """Return the public keys that lie there, one that waits to be shown first. Raises `ConfigError`."""
        return [key.public_key() for path in (self._staged, self.path / KEY_FILE) if (key := self._read(path))]

    def stage_key(self) -> PublicKey:
        """Draw a key and write it, to be shown with its certificate. Raises `OSError`."""
        key = new_key()
        stage_file(self.path / KEY_FILE, key_to_pem(key), mode=PRIVATE_MODE)
        return key.public_key()

    def show(self, key: bytes, cert_pem: bytes, ca_pem: bytes, revoked_pem: bytes) -> None:
        """Write all files; the key is `key` already, waits to be shown, or is elsewhere. Raises `OSError`."""
        # Before the certificate: its bearer must know the root that has signed it.
        replace_file(self.path / CA_FILE, ca_pem)
        replace_file(self.path / REVOKED_FILE, revoked_pem)
        waiting = self._read(self._staged)
        if waiting is not None and key_name(waiting.public_key()) == key:
            staged = stage_file(self.path / CERT_FILE, cert_pem)
            show_file(self._staged)
            show_file(staged)
            return
        replace_file(self.path / CERT_FILE, cert_pem)
        with suppress(FileNotFoundError):
            os.unlink(self._staged)

    def refresh(self, ca_pem: bytes, revoked_pem: bytes) -> None:
        """Write what is the same for everybody, if the directory is there. Raises `OSError`."""
        if self.path.is_dir():
            replace_file(self.path / CA_FILE, ca_pem)
            replace_file(self.path / REVOKED_FILE, revoked_pem)

    def _read(self, path: Path) -> PrivateKey | None:
        try:
            with path.open("rb") as file:
                return key_from_pem(file.read(KEY_BYTES_MAX), str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ConfigError(f"cannot read the key {str(path)!r}: {error.strerror}") from error
        except ConfigError:
            if path == self._staged:
                return None  # half of one, which a crash has left
            raise
