"""Signed orders: what counts as one, and what is refused."""

from __future__ import annotations

import datetime as dt
import time
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import msgspec
import pytest
from certificates import DOMAIN, ONE, Signer, cache, tracker, user
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.errors import SignatureError
from p2pfill.model.identity import Identity
from p2pfill.model.signed_order import (
    LIFE_S_MAX,
    Document,
    OrderStatement,
    Statement,
    WithdrawalStatement,
    decode_statement,
)
from p2pfill.trust.credentials import Credentials
from p2pfill.trust.order_signing import Signer as OrderSigner
from p2pfill.trust.order_signing import open_signed

NOW = int(time.time())


def order(number: int = 1000 * NOW, expires: int = NOW + 3600, domain: str = DOMAIN) -> OrderStatement:
    return OrderStatement(
        domain, b"t" * 32, "film", number, expires, "isp=isp-a", ("http://o/film",), 3, 3.0, 10.0, 60.0, True, None, (),
        False, False,
    )  # fmt: skip


@pytest.fixture
def signer() -> Signer:
    return Signer()


def sign(signer: Signer, root: Path, said: Statement, who: Identity | None = None, hours: float = 24) -> bytes:
    who = who or user("anna")
    return OrderSigner(Credentials(signer.give(root / who.name, who, hours=hours))).sign(said)


def checker(signer: Signer, root: Path) -> Credentials:
    return Credentials(signer.give(root / "tracker", tracker()))


def test_what_a_user_signs_counts_also_once_the_certificate_has_ended(signer: Signer, tmp_path: Path) -> None:
    believes = checker(signer, tmp_path)
    for said in (order(), WithdrawalStatement(DOMAIN, b"t" * 32, "film", 1000 * NOW, NOW + 9, True, b"")):
        opened = open_signed(believes, sign(signer, tmp_path, said), NOW)
        assert (opened.identity.who, opened.said) == ("user/anna", said)
    # It was valid when this was signed, and is not now.
    then = order(1000 * (NOW - 40 * 3600))
    assert open_signed(believes, sign(signer, tmp_path, then, hours=-24), NOW).said == then
    with pytest.raises(SignatureError, match="not valid here when it signed"):
        open_signed(believes, sign(signer, tmp_path, order(), hours=-24), NOW)


@pytest.mark.parametrize(
    ("said", "who", "why"),
    [
        (order(1000 * (NOW + 3600)), user("anna"), "at a time to come"),
        (order(expires=NOW), user("anna"), "has expired"),
        (order(expires=NOW + LIFE_S_MAX + 1), user("anna"), "for more than"),
        (order(domain="other.example"), user("anna"), "for 'other.example'"),
        (order(), cache("a1"), "orders are given by users"),
        (order(), tracker("other"), "orders are given by users"),
        (order(), msgspec.structs.replace(user("anna"), domain="other.example"), "of 'other.example'"),
    ],
)
def test_what_does_not_count(signer: Signer, tmp_path: Path, said: Statement, who: Identity, why: str) -> None:
    with pytest.raises(SignatureError, match=why):
        open_signed(checker(signer, tmp_path), sign(signer, tmp_path, said, who), NOW)


def test_a_stranger_signs_nothing_nor_does_a_user_for_another(signer: Signer, tmp_path: Path) -> None:
    believes = checker(signer, tmp_path)
    (tmp_path / "strange").mkdir()
    with pytest.raises(SignatureError, match="not valid here"):
        open_signed(believes, sign(Signer(), tmp_path / "strange", order()), NOW)
    anna, bob = (Document.decode(sign(signer, tmp_path, order(), user(name))) for name in ("anna", "bob"))
    mixed = Document(anna.statement, anna.signature, bob.chain).encode()
    with pytest.raises(SignatureError, match="user/bob does not hold"):
        open_signed(believes, mixed, NOW)


def test_a_users_certificate_is_no_authoritys(signer: Signer, tmp_path: Path) -> None:
    believes, said, now = checker(signer, tmp_path), order().encode(), dt.datetime.now(dt.UTC)
    above, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "between")])

    def leaf(is_authority: bool) -> bytes:
        made = []
        for issuer, name, public, private, who, is_above in (
            (signer.name, subject, above.public_key(), signer.key, user("anna"), is_authority),
            (subject, x509.Name([]), key.public_key(), above, user("root"), False),
        ):
            builder = x509.CertificateBuilder(issuer, name, public, x509.random_serial_number(), now - ONE, now + ONE)
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(who.uri)])
            builder = builder.add_extension(names, critical=True)
            builder = builder.add_extension(x509.BasicConstraints(is_above, None), critical=True)
            made.append(builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
        return Document(said, key.sign(said, ec.ECDSA(hashes.SHA256())), (made[1], made[0])).encode()

    # The root of these tests signs leaves only, as ours does: so one between is believed where it is listed itself.
    for is_authority in (True, False):
        with pytest.raises(SignatureError, match="not valid here"):
            open_signed(believes, leaf(is_authority), NOW)
    for is_authority in (True, False):
        document = leaf(is_authority)
        between = Document.decode(document).chain[1]
        believes.trusted = (*believes.trusted[:1], x509.load_der_x509_certificate(between))
        if is_authority:
            assert open_signed(believes, document, NOW).identity.who == "user/root"
        else:
            with pytest.raises(SignatureError, match="not valid here"):
                open_signed(believes, document, NOW)


def test_a_certificate_that_was_taken_back_has_signed_nothing(signer: Signer, tmp_path: Path) -> None:
    believes = checker(signer, tmp_path)
    document = sign(signer, tmp_path, order())
    open_signed(believes, document, NOW)
    believes.revoke(signer.revoke(tmp_path / "anna"))
    with pytest.raises(SignatureError, match="revoked"):
        open_signed(believes, document, NOW)


def test_the_same_order_again_has_the_same_terms_and_another_has_others() -> None:
    assert order().terms == order(5, 6).terms
    assert order().encode() != order(5, 6).encode()
    for other in ({"selector": "all"}, {"priority": 4}, {"rollback": True}, {"title_id": b"u" * 32}):
        assert msgspec.structs.replace(order(), **other).terms != order().terms
    gone = WithdrawalStatement(DOMAIN, b"t" * 32, "film", 10, 20, False, order().terms)
    assert gone.covers(b"t" * 32, order().name, order().terms, 10)
    assert not gone.covers(b"t" * 32, order().name, order().terms, 11)
    assert not gone.covers(b"t" * 32, order().name, bytes(16), 9)
    assert not gone.covers(b"t" * 32, "another", order().terms, 9)
    assert not gone.covers(b"u" * 32, order().name, order().terms, 9)
    assert msgspec.structs.replace(gone, terms=b"").covers(b"t" * 32, order().name, bytes(16), 9)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=20),
    max_leaves=30,
)


@given(VALUES | st.tuples(st.sampled_from(["p2pfill-order-1", "p2pfill-withdrawal-1", "p2pfill-signed-1"]), VALUES))
def test_strange_bytes_are_refused_or_canonical(value: object) -> None:
    data = msgpack.packb(value)
    for decode in (Document.decode, decode_statement):
        try:
            found = decode(data)
        except SignatureError:
            continue
        assert found.encode() == data


@given(st.binary(max_size=300), st.integers(0, 400), st.binary(max_size=3))
def test_no_byte_of_an_order_can_be_another(junk: bytes, place: int, put: bytes) -> None:
    whole = order().encode()
    for data in (junk, whole[:place] + put + whole[place + len(put) :], whole[:place] + put + whole[place:]):
        try:
            assert decode_statement(data).encode() == data
        except SignatureError:
            continue


def test_an_order_has_one_spelling() -> None:
    raw = msgpack.unpackb(order().encode())
    for place, wrong in ((9, 3), (4, 0), (12, 1), (11, 10), (2, b"short"), (3, "")):
        changed = [*raw[:place], wrong, *raw[place + 1 :]]
        with pytest.raises(SignatureError):
            decode_statement(msgpack.packb(changed))
    with pytest.raises(SignatureError):
        decode_statement(msgpack.packb(raw, use_single_float=True))


def test_made_up_certificates_have_nobody_work_with_their_keys(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three that may each have signed each other were looked at in all orders: 0.8 s with keys that are slow to use."""
    believes, said, now = checker(signer, tmp_path), order().encode(), dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    alike = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "between")])
    made = []
    for name, is_authority in ((x509.Name([]), False), (alike, True), (alike, True), (alike, True)):
        builder = x509.CertificateBuilder(
            alike, name, key.public_key(), x509.random_serial_number(), now - ONE, now + ONE
        )
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(user("anna").uri)])
        builder = builder.add_extension(names, critical=True)
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        made.append(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
    document = Document(said, key.sign(said, ec.ECDSA(hashes.SHA256())), tuple(made)).encode()

    def used(*_: object) -> bool:
        raise AssertionError("a key that nobody vouches for was used")

    monkeypatch.setattr("p2pfill.trust.order_signing._holds", used)
    monkeypatch.setattr("p2pfill.trust.order_signing.PolicyBuilder", used)
    with pytest.raises(SignatureError, match="no authority that is trusted here"):
        open_signed(believes, document, NOW)


def test_nobody_is_had_to_sign_for_a_time_to_come(signer: Signer, tmp_path: Path) -> None:
    hand = OrderSigner(Credentials(signer.give(tmp_path / "anna", user("anna"))))
    behind = 1000 * (NOW + 3600)
    assert hand.number(behind) == behind + 1
    with pytest.raises(SignatureError, match="which clock is wrong"):
        hand.number(1000 * (NOW + 14 * 86400))
