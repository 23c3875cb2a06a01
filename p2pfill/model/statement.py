"""What a publisher signs of a title, and how signatures travel: beside the manifest, whose hash is the title's id.

A *statement* says that a title is a version of a name, and for how long that may be taken for news. Its encoding, which
is what is signed, is one msgpack array, each value in its shortest form:

    ["p2pfill-statement-1", title_id, name, number, expires]

The first word keeps a signature from being taken for one of anything else. `number` grows with each version of a name,
`expires` is in seconds since the epoch, 0 for never. All who sign a title sign one statement, and *signatures* are that
and who has signed it, in the order of the keys' ids:

    ["p2pfill-signatures-1", title_id, name, number, expires, [[key_id, signature], ...]]

Both are canonical: what does not encode to the same bytes again is refused, so nobody can make two of one.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgpack  # type: ignore[import-untyped]
import msgspec

from p2pfill.errors import SignatureError
from p2pfill.model import limits
from p2pfill.model.packing import AS_THEY_ARE, UNPACK_ERRORS, open_unpacker

STATEMENT: Final = "p2pfill-statement-1"
SIGNATURES: Final = "p2pfill-signatures-1"

KEY_ID_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
"""Of Ed25519 (RFC 8032)."""

NUMBER_MAX: Final = (1 << 63) - 1
"""What databases hold as an integer; milliseconds reach it in 292 million years."""
EXPIRES_MAX: Final = 253_402_300_799
"""The end of the year 9999, the last that can be shown as a date."""

SIGNATURES_MAX: Final = 16
"""Of one statement. Each that counts costs a check of a hundred microseconds, and no threshold is near it."""
SIGNATURES_BYTES_MAX: Final = 4096
"""Of all of them, encoded: sixteen, and the longest name."""

_Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=NUMBER_MAX)]
_Expires = Annotated[int, msgspec.Meta(ge=0, le=EXPIRES_MAX)]
_Signature = tuple[_Bytes32, Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.TITLE_NAME_CHARS_MAX)]


class Statement(msgspec.Struct, frozen=True):
    """What is signed."""

    title_id: _Bytes32
    name: _Name
    number: _Number
    expires: _Expires = 0

    def encode(self) -> bytes:
        """Return the bytes that are signed."""
        packed: bytes = msgpack.packb([STATEMENT, *msgspec.structs.astuple(self)])
        return packed


class _Document(msgspec.Struct, frozen=True):
    """The fields of encoded signatures."""

    format: str
    title_id: _Bytes32
    name: _Name
    number: _Number
    expires: _Expires
    signatures: Annotated[tuple[_Signature, ...], msgspec.Meta(min_length=1, max_length=SIGNATURES_MAX)]


_FIELDS: Final = _Document.__struct_fields__


class Signatures(msgspec.Struct, frozen=True):
    """A statement, and who has signed it. Whether that is true, `trust.publishers` finds out."""

    statement: Statement
    by: dict[bytes, bytes]
    """Key id -> signature; 1 to `SIGNATURES_MAX`."""

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        stated = msgspec.structs.astuple(self.statement)
        packed: bytes = msgpack.packb([SIGNATURES, *stated, sorted(self.by.items())])
        return packed

    @classmethod
    def decode(cls, data: bytes) -> Signatures:
        """Return the signatures that `data` encodes. Raises `SignatureError` for anything but canonical ones."""
        if len(data) > SIGNATURES_BYTES_MAX:
            raise SignatureError(f"signatures of {len(data)} bytes are too large: at most {SIGNATURES_BYTES_MAX}")
        try:
            found = _read(data)
        except UNPACK_ERRORS as error:
            raise SignatureError(f"these are no signatures: {error or type(error).__name__}") from error
        if found.format != SIGNATURES:
            raise SignatureError(f"signatures of format {found.format[:40]!r} are not known; known is {SIGNATURES!r}")
        statement = Statement(found.title_id, found.name, found.number, found.expires)
        signatures = cls(statement, dict(found.signatures))
        if signatures.encode() != data:  # also where a key stands there twice
            raise SignatureError("the signatures are not in canonical encoding")
        return signatures

    def merged(self, others: dict[bytes, bytes]) -> Signatures:
        """Return these and those of others who have signed the same, as many as there may be."""
        more = list(({**others, **self.by}).items() - self.by.items())
        return Signatures(self.statement, {**self.by, **dict(sorted(more)[: SIGNATURES_MAX - len(self.by)])})


def _read(data: bytes) -> _Document:
    """Return the fields of `data`, types and sizes checked. Raises `UNPACK_ERRORS`."""
    unpacker = open_unpacker(
        data, str_bytes_max=SIGNATURES_BYTES_MAX, bin_bytes_max=SIGNATURE_BYTES, array_len_max=SIGNATURES_MAX
    )
    raw: Any = unpacker.unpack()
    if not isinstance(raw, tuple) or len(raw) != len(_FIELDS):
        raise ValueError(f"they have not {len(_FIELDS)} fields")
    return msgspec.convert(dict(zip(_FIELDS, raw, strict=True)), _Document, builtin_types=AS_THEY_ARE)
