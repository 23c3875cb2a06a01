"""What a caller of the tracker signs of an order, and of a withdrawal, and how that travels.

Whoever orders signs all that he orders, so that caches can bring it back to a tracker that has lost its database, and
nobody between can change a word of it. Encodings are msgpack arrays, each value in its shortest form:

    ["p2pfill-order-1", domain, title_id, name, number, expires, selector, origins, priority, stall_wait_s,
     request_timeout_s, quarantine_s, escalate, deadline, files, now, rollback]
    ["p2pfill-withdrawal-1", domain, title_id, name, number, expires, urgent, terms]

The first word keeps a signature from being taken for one of anything else, `domain` from being taken for another
fleet's. `number` is when it was signed, in milliseconds since the epoch, and for one name higher than all before: of an
order and a withdrawal that covers it the one with the higher number holds, and of two alike the withdrawal. `expires`,
in seconds, ends that it may be brought back. A withdrawal with `terms` is of one order, whatever number that has; with
none it is of all orders of the title.

A *document* is one of these, its signature, and the signer's certificate with those between it and the authority, DER:

    ["p2pfill-signed-1", statement, signature, [certificate, ...]]

All are canonical: what does not encode to the same bytes again is refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeVar

import msgpack  # type: ignore[import-untyped]
import msgspec
from blake3 import blake3

from p2pfill.errors import SignatureError
from p2pfill.model import limits
from p2pfill.model.packing import AS_THEY_ARE, UNPACK_ERRORS, open_unpacker
from p2pfill.model.policy import FillPolicy
from p2pfill.model.selection import PATTERNS_MAX
from p2pfill.model.statement import EXPIRES_MAX, NUMBER_MAX

T = TypeVar("T", bound=msgspec.Struct)

ORDER: Final = "p2pfill-order-1"
WITHDRAWAL: Final = "p2pfill-withdrawal-1"
SIGNED: Final = "p2pfill-signed-1"

STATEMENT_BYTES_MAX: Final = limits.MIB + 256 * limits.KIB
"""All texts of the longest order, in ASCII, and what else there is."""
CHAIN_MAX: Final = 4
"""Certificates: an authority of ours signs leaves itself, larger houses have one or two between."""
CERTIFICATE_BYTES_MAX: Final = 8 * limits.KIB
"""Of one: ours have some 600 bytes, those with RSA keys and many hosts a few thousand."""
SIGNATURE_BYTES_MAX: Final = 1024
"""Of RSA with 8192 bits; of ECDSA on P-256 some 71."""
DOCUMENT_BYTES_MAX: Final = STATEMENT_BYTES_MAX + CHAIN_MAX * CERTIFICATE_BYTES_MAX + 2 * limits.KIB
WITHDRAWAL_BYTES_MAX: Final = 8 * limits.KIB
"""Of a document with a withdrawal, which goes into a URL: the longest name, and two certificates of usual length."""

LIFE_S_MAX: Final = 366 * 86400
"""For so long what is signed may be brought back. Of all alike: so a withdrawal outlives what it has withdrawn."""

TERMS_BYTES: Final = 16
ID_BYTES: Final = 16
"""Of digests by which statements and terms are told apart: nobody finds two of one, but who may sign both anyway."""

ID_CHARS: Final = 2 * ID_BYTES

_DOMAIN_CHARS_MAX: Final = 255
_Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Number = Annotated[int, msgspec.Meta(ge=1, le=NUMBER_MAX)]
_Expires = Annotated[int, msgspec.Meta(ge=1, le=EXPIRES_MAX)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.TITLE_NAME_CHARS_MAX)]
_Domain = Annotated[str, msgspec.Meta(min_length=1, max_length=_DOMAIN_CHARS_MAX)]
_Terms = Annotated[bytes, msgspec.Meta(max_length=TERMS_BYTES)]


class _About(msgspec.Struct, frozen=True):
    domain: _Domain
    title_id: _Bytes32
    name: _Name
    number: _Number
    expires: _Expires


class OrderStatement(_About, frozen=True):
    """An order. Its fields are those of an order to the tracker; what they may be, the tracker checks there."""

    selector: str
    origins: tuple[str, ...]
    priority: int
    stall_wait_s: float
    request_timeout_s: float
    quarantine_s: float
    escalate: bool
    deadline: float | None
    files: tuple[str, ...]
    now: bool
    rollback: bool

    def encode(self) -> bytes:
        """Return the bytes that are signed."""
        return _packed([ORDER, *msgspec.structs.astuple(self)])

    @property
    def terms(self) -> bytes:
        """Tell orders of one title apart: those that differ in number and time alone are one order, given again."""
        of_order = msgspec.structs.astuple(self)[len(_About.__struct_fields__) :]
        return blake3(_packed([ORDER, self.title_id, *of_order])).digest(TERMS_BYTES)

    @property
    def policy(self) -> FillPolicy:
        """How its fill behaves."""
        return FillPolicy(self.stall_wait_s, self.request_timeout_s, self.quarantine_s, self.escalate)


class WithdrawalStatement(_About, frozen=True):
    """A withdrawal of one order of a title, or of all."""

    urgent: bool
    """Caches are to delete the title."""
    terms: _Terms
    """`OrderStatement.terms` of the one order; empty: all."""

    def encode(self) -> bytes:
        """Return the bytes that are signed."""
        return _packed([WITHDRAWAL, *msgspec.structs.astuple(self)])

    def covers(self, title_id: bytes, name: str, terms: bytes, number: int) -> bool:
        """Tell whether it withdraws an order with these terms and this number.

        One for a title by another name than it has is of nothing: it is by names that users may withdraw.
        """
        of_title = (self.title_id, self.name) == (title_id, name)
        return of_title and self.terms in (b"", terms) and number <= self.number


Statement = OrderStatement | WithdrawalStatement


class Document(msgspec.Struct, frozen=True):
    """A statement with its signature. Whether that holds, and whose it is, `trust.order_signing` finds out."""

    statement: Annotated[bytes, msgspec.Meta(max_length=STATEMENT_BYTES_MAX)]
    signature: Annotated[bytes, msgspec.Meta(min_length=1, max_length=SIGNATURE_BYTES_MAX)]
    chain: Annotated[
        tuple[Annotated[bytes, msgspec.Meta(max_length=CERTIFICATE_BYTES_MAX)], ...],
        msgspec.Meta(min_length=1, max_length=CHAIN_MAX),
    ]

    def encode(self) -> bytes:
        """Return the canonical encoding."""
        return _packed([SIGNED, *msgspec.structs.astuple(self)])

    @classmethod
    def decode(cls, data: bytes) -> Document:
        """Return the document that `data` encodes. Raises `SignatureError` for anything but canonical ones."""
        if len(data) > DOCUMENT_BYTES_MAX:
            raise SignatureError(f"a signed order of {len(data)} bytes is too large: at most {DOCUMENT_BYTES_MAX}")
        document = _converted(_unpacked(data, bin_bytes_max=STATEMENT_BYTES_MAX, array_len_max=CHAIN_MAX), SIGNED, cls)
        if document.encode() != data:
            raise SignatureError("a signed order is not in canonical encoding")
        return document


def decode_statement(data: bytes) -> Statement:
    """Return the order or withdrawal that `data` encodes. Raises `SignatureError` for anything but canonical ones."""
    if len(data) > STATEMENT_BYTES_MAX:
        raise SignatureError(f"an order of {len(data)} bytes is too large to be signed: at most {STATEMENT_BYTES_MAX}")
    raw = _unpacked(data, bin_bytes_max=32, array_len_max=PATTERNS_MAX)
    statement: Statement
    if raw[0] == WITHDRAWAL:
        statement = _converted(raw, WITHDRAWAL, WithdrawalStatement)
        if len(statement.terms) not in (0, TERMS_BYTES):
            raise SignatureError(f"a withdrawal is of one order, whose terms have {TERMS_BYTES} bytes, or of all")
    else:
        statement = _converted(raw, ORDER, OrderStatement)
    if statement.encode() != data:
        raise SignatureError("what is signed is not in canonical encoding")
    return statement


def statement_id(statement: bytes) -> str:
    """Return what tells an encoded statement from all others."""
    return blake3(statement).digest(ID_BYTES).hex()


def _packed(fields: list[Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(fields)
    except (ValueError, OverflowError) as error:  # text that is no UTF-8, integers beyond 64 bits
        raise SignatureError(f"this cannot be signed: {error}") from error
    return packed


def _unpacked(data: bytes, *, bin_bytes_max: int, array_len_max: int) -> tuple[Any, ...]:
    try:
        unpacker = open_unpacker(
            data, str_bytes_max=STATEMENT_BYTES_MAX, bin_bytes_max=bin_bytes_max, array_len_max=max(32, array_len_max)
        )
        raw: Any = unpacker.unpack()
    except UNPACK_ERRORS as error:
        raise SignatureError(f"this is no signed order: {error or type(error).__name__}") from error
    if not isinstance(raw, tuple) or not raw:
        raise SignatureError("this is no signed order: it is no array")
    return raw


def _converted(raw: tuple[Any, ...], word: str, kind: type[T]) -> T:
    fields = kind.__struct_fields__
    if raw[0] != word or len(raw) != 1 + len(fields):
        raise SignatureError(f"this is no signed order of a known format: known are {ORDER!r} and {WITHDRAWAL!r}")
    try:
        return msgspec.convert(dict(zip(fields, raw[1:], strict=True)), kind, builtin_types=AS_THEY_ARE)
    except msgspec.ValidationError as error:
        raise SignatureError(f"this is no signed order: {error}") from error
