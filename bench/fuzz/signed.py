"""Orders and withdrawals as callers have signed them, which caches bring back, and what a cache keeps of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgpack  # type: ignore[import-untyped]

from bench.fuzz.identity import DOMAIN, FLEET, quiet
from bench.fuzz.target import Run, Target, check
from p2pfill.errors import SignatureError
from p2pfill.model.ids import TitleId
from p2pfill.model.limits import KIB
from p2pfill.model.signed_order import Document, OrderStatement, Statement, WithdrawalStatement, decode_statement
from p2pfill.store.kept_orders import DOCUMENTS_MAX, KeptOrders
from p2pfill.trust.authority import Authority
from p2pfill.trust.credentials import CA_FILE, CERT_FILE, KEY_FILE, Credentials
from p2pfill.trust.order_signing import Signer, open_signed

TITLE: Final = TitleId(bytes(range(32)))
NOW: Final = int(datetime.now(UTC).timestamp())

STATEMENTS: Final[tuple[Statement, ...]] = (
    OrderStatement(
        DOMAIN, TITLE, "film", 1000 * NOW, NOW + 3600, "isp=isp-a,id=b1", ("http://o/film",), 3, 3.0, 10.0, 60.0, True,
        None, (), False, False,
    ),
    OrderStatement(
        DOMAIN, TITLE, "é", 1000 * NOW + 1, NOW + 9, "all", (), -1, 0.5, 1.0, 2.0, False, 4e9, ("a/", "*.ts"), True,
        True,
    ),
    WithdrawalStatement(DOMAIN, TITLE, "film", 1000 * NOW, NOW + 3600, True, b""),
    WithdrawalStatement(DOMAIN, TITLE, "film", 1000 * NOW, NOW + 3600, False, bytes(16)),
)  # fmt: skip


@cache
def _files() -> dict[str, bytes]:
    """Return the files of a fleet's credentials: keys are drawn anew in each process."""
    with TemporaryDirectory(prefix="p2pfill-fuzz-") as made:
        fleet, now = Path(made), datetime.now(UTC)
        Authority.create(fleet / "ca", DOMAIN, now)
        (fleet / "ca" / "fleet.toml").write_text(FLEET)
        with Authority(fleet / "ca") as authority:
            authority.issue([], fleet / "ids", now)
        return {
            f"{who}/{name}": (fleet / "ids" / who / name).read_bytes()
            for who in ("anna", "a1", "main")
            for name in (CERT_FILE, KEY_FILE, CA_FILE)
        }


def _credentials(root: Path, who: str) -> Credentials:
    (root / who).mkdir(parents=True)
    for name, data in _files().items():
        if name.startswith(f"{who}/"):
            (root / name).write_bytes(data)
            (root / name).chmod(0o600)
    return Credentials(root / who)


@cache
def _documents() -> tuple[bytes, ...]:
    with TemporaryDirectory(prefix="p2pfill-fuzz-") as made:
        signers = [Signer(_credentials(Path(made), who)) for who in ("anna", "a1")]
        return tuple(signer.sign(said) for signer in signers for said in STATEMENTS)


def _document_seeds() -> Iterator[bytes]:
    yield from _documents()
    yield from (said.encode() for said in STATEMENTS)


def open_documents(directory: Path) -> Run:
    """Bytes are a signed order or withdrawal, or `SignatureError`; so are those of what is signed. They are written as
    the bytes that they were read from, and what they say counts only where a user has signed just that.
    """
    believes = _credentials(directory, "main")

    def run(data: bytes) -> bool:
        taken = False
        for decode in (Document.decode, decode_statement):
            try:
                found = decode(data)
            except SignatureError:
                continue
            check(found.encode() == data, "written it is something else")
            taken = True
        try:
            opened = open_signed(believes, data, NOW)
        except SignatureError:
            return taken
        check(opened.identity.who == "user/anna" and opened.said in STATEMENTS, "nobody has signed this", opened)
        return True

    return quiet(run)


def _kept_seeds() -> Iterator[bytes]:
    documents = list(_documents())
    yield msgpack.packb(documents[:1])
    yield msgpack.packb(documents[:4])
    yield msgpack.packb([])


def open_kept(directory: Path) -> Run:
    """A file of kept orders may be anything; what is read of it are documents, and kept again it is the same."""
    kept = KeptOrders(directory)
    kept.keep(TITLE, _documents()[:1])
    path = directory / "orders" / TITLE.hex()

    def run(data: bytes) -> bool:
        path.write_bytes(data)
        found = kept.documents(TITLE)
        check(len(found) <= DOCUMENTS_MAX, "beyond limits", len(found))
        for said, document in found:
            check(decode_statement(Document.decode(document).statement) == said, "another statement")
        if found:
            kept.keep(TITLE, [document for _, document in found])
            check(kept.documents(TITLE) == found, "kept again it is something else")
        return bool(found)

    return run


TARGETS: Final = (
    Target("signed-orders", open_documents, _document_seeds, form="msgpack"),
    Target("kept-orders", open_kept, _kept_seeds, size_max=8 * KIB, form="msgpack"),
)
