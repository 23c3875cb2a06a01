"""What the tracker takes of signatures, and which titles it orders.

A tracker whose identity has a `publishers.toml` (`trust.publishers`) takes and orders only titles that are signed as
that says, and keeps only those signatures that count. One without cannot tell good signatures from bad ones: it takes
what those send who may publish the title, and the nodes check it. With both, a title has signatures of one statement,
the one with the highest number: no call makes many, and none puts an older one back.
"""

from __future__ import annotations

import base64
import binascii
import time
from collections.abc import Callable

from p2pfill.errors import ManifestError, SignatureError
from p2pfill.model.ids import TitleId, title_id_from_hex
from p2pfill.model.manifest import Manifest
from p2pfill.model.statement import Signatures
from p2pfill.tracker.checks import NotSigned, RequestRefused
from p2pfill.trust.credentials import Credentials
from p2pfill.trust.publishers import Publishers, open_title


class SignedTitles:
    """Whose titles a tracker takes."""

    def __init__(self, credentials: Credentials | None, wall: Callable[[], float] = time.time) -> None:
        """`wall` is the clock by which signatures expire, in seconds since the epoch."""
        self._credentials = credentials
        self._wall = wall

    @property
    def publishers(self) -> Publishers | None:
        """Who may publish; None: everybody."""
        return None if self._credentials is None else self._credentials.publishers

    def open(self, encoded: bytes, title: str, signatures: bytes, *, is_brought: bool = False) -> Manifest:
        """Return the title that somebody publishes. Blocks. Raises `RequestRefused` that says what is wrong with it.

        `is_brought`: by a cache that holds it, which may be so for longer than what was signed was news.
        """
        now_s = 0.0 if is_brought else self._wall()
        try:
            return open_title(encoded, title_id_from_hex(title), self.publishers, signatures, now_s)
        except SignatureError as error:
            status = 400 if self.publishers is None else 403
            raise NotSigned(f"the title cannot be taken: {error}", status) from error
        except ManifestError as error:
            raise RequestRefused(f"the manifest cannot be used: {error}") from error

    def added(self, before: bytes, new: bytes) -> bytes:
        """Return what signatures a title has, once new ones, which suffice, have come to those that it has.

        Raises `RequestRefused` where they are of an older statement.
        """
        publishers, offered = self.publishers, Signatures.decode(new)
        if publishers is not None:
            offered = Signatures(offered.statement, publishers.counted(offered))
        held = Signatures.decode(before) if before else None
        if held is None:
            return offered.encode()
        if held.statement == offered.statement:
            return held.merged(offered.by).encode()
        if offered.statement.number <= held.statement.number and self._suffice(held):
            raise RequestRefused(
                f"the title has signatures that are newer, of number {held.statement.number}; these are of number "
                f"{offered.statement.number}: sign it anew with a higher one (`p2pfill sign --anew --number "
                f"{held.statement.number + 1}`)", 409,
            )  # fmt: skip
        return offered.encode()

    def require(self, title: str, name: str, signatures: bytes) -> None:
        """Look whether a title may be ordered. Raises `RequestRefused` that says which rule it breaks."""
        if self.publishers is not None:
            try:
                self.publishers.check(signatures, title_id_from_hex(title), name, self._wall())
            except SignatureError as error:
                raise RequestRefused(f"it cannot be ordered: {error}", 403) from error

    def _suffice(self, held: Signatures) -> bool:
        if self.publishers is None:
            return True
        statement = held.statement
        try:
            self.publishers.check(held.encode(), TitleId(statement.title_id), statement.name, self._wall())
        except SignatureError:
            return False
        return True


def signatures_in(query: str | None) -> bytes:
    """Return the signatures in a query, b'' where there are none. Raises `RequestRefused`."""
    try:
        return base64.b64decode((query or "").encode("ascii"), b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestRefused("signatures are no base64 with `-` and `_`") from error
