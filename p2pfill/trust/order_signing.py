"""Signing orders and withdrawals with the key of one's certificate, and finding out whether somebody may have.

A signature counts where its certificate is of a user of this fleet, led to an authority that is trusted now, was valid
when it was signed, by what the statement says, and has not been taken back. So an order outlives the certificate of who
gave it, which is renewed every few weeks. Who has stolen a key can date back: its certificate must be revoked, also
where it has ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from p2pfill.errors import ConfigError, SignatureError
from p2pfill.model.identity import Identity, Role
from p2pfill.model.signed_order import (
    LIFE_S_MAX,
    Document,
    OrderStatement,
    Statement,
    WithdrawalStatement,
    decode_statement,
    statement_id,
)
from p2pfill.trust.credentials import CERT_FILE, KEY_FILE, Credentials, has_signed, identity_of, read_certificates

CLOCKS_DIFFER_S: Final = 600.0
"""By so much the clock of who signs may be ahead. Else a wrong one would keep everybody from ordering until then."""

BEHIND_S_MAX: Final = 86400.0
"""By so much the clock of who signs may be behind: then he takes the number above the one that the tracker names."""

STRANGE: Final = "it is of no authority that is trusted here, or what lies between is not in its order"

_PSS: Final = padding.PSS(padding.MGF1(SHA256()), padding.PSS.DIGEST_LENGTH)

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


class SignedOrder(NamedTuple):
    """An order whose signature holds."""

    identity: Identity
    """Who has signed it."""
    said: OrderStatement
    document: bytes

    @property
    def id(self) -> str:
        """What tells its statement from all others."""
        return statement_id(self.said.encode())


class SignedWithdrawal(NamedTuple):
    """A withdrawal whose signature holds."""

    identity: Identity
    said: WithdrawalStatement
    document: bytes


Opened = SignedOrder | SignedWithdrawal


class Signer:
    """Signs in the name of some credentials, which may be renewed meanwhile."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._generation = -1
        self._last = 0

    @property
    def domain(self) -> str:
        """The fleet."""
        return self._credentials.identity.domain

    @property
    def is_user(self) -> bool:
        """Tell whether what it signs can count: caches and trackers give no orders."""
        return self._credentials.identity.role is Role.USER

    def number(self, above: int = 0) -> int:
        """Return a number for what is signed now: the time, higher than the one before and than `above`.

        Raises `SignatureError` where that is further ahead than a clock may be behind: whoever names it would have
        something signed that counts later, and that nothing lifts until then.
        """
        now = time.time_ns() // 1_000_000
        if above > now + 1000 * BEHIND_S_MAX:
            raise SignatureError(
                f"an order of this name is said to be {(above - now) / 3_600_000:.0f} hours ahead of this machine's "
                "clock: this one is not signed; which clock is wrong?"
            )
        self._last = max(now, self._last + 1, above + 1)
        return self._last

    def expires(self, number: int) -> int:
        """Return until when what has a number may be brought back, in seconds since the epoch."""
        return number // 1000 + LIFE_S_MAX

    def sign(self, statement: Statement) -> bytes:
        """Return an encoded document. Raises `ConfigError` where the key cannot be used, and `SignatureError`."""
        if self._generation != self._credentials.generation:
            self._load()
        encoded = statement.encode()
        decode_statement(encoded)  # its bounds are those of whoever reads it
        return Document(encoded, _sign(self._key, encoded), self._chain).encode()

    def _load(self) -> None:
        directory = self._credentials.directory
        chain = read_certificates(directory / CERT_FILE)
        try:
            key = load_pem_private_key((directory / KEY_FILE).read_bytes(), None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"cannot sign with {str(directory / KEY_FILE)!r}: {error}") from error
        if not isinstance(key, Key):
            raise ConfigError(f"cannot sign with {str(directory / KEY_FILE)!r}: it is of a kind that is not known here")
        if key.public_key() != chain[0].public_key():
            raise ConfigError(f"the certificate and the key in {str(directory)!r} do not belong together")
        self._key: Key = key
        self._chain = tuple(one.public_bytes(Encoding.DER) for one in chain)
        self._generation = self._credentials.generation


def open_signed(credentials: Credentials, document: bytes, now_s: float) -> Opened:
    """Return what somebody has signed, if that counts here; `now_s` from the epoch. Blocks, for half a millisecond.

    What its signer may order, and whether it has been withdrawn, is not looked at. Raises `SignatureError`.
    """
    found = Document.decode(document)
    statement = decode_statement(found.statement)
    try:
        chain = [x509.load_der_x509_certificate(one) for one in found.chain]
        identity = identity_of(chain[0])
        key: Any = chain[0].public_key()
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm, ConfigError) as error:
        raise SignatureError(f"the certificate of who signed it cannot be used: {error}") from error
    domain = credentials.identity.domain
    if statement.domain != domain or identity.domain != domain:
        raise SignatureError(f"it was signed by {identity.who} of {identity.domain!r} for {statement.domain!r}")
    if identity.role is not Role.USER:
        raise SignatureError(f"it was signed by {identity.who}, and orders are given by users")
    if statement.number > (now_s + CLOCKS_DIFFER_S) * 1000:
        raise SignatureError(f"it was signed by {identity.who} at a time to come: which clock is wrong?")
    if statement.expires <= now_s:
        raise SignatureError(f"what {identity.who} has signed has expired")
    if statement.expires > statement.number // 1000 + LIFE_S_MAX:
        raise SignatureError(f"what {identity.who} has signed may be brought back for more than {LIFE_S_MAX} seconds")
    _check_chain(credentials, identity, chain, statement.number / 1000)
    if not _holds(key, found.signature, found.statement):
        raise SignatureError(f"the signature of {identity.who} does not hold")
    if isinstance(statement, OrderStatement):
        return SignedOrder(identity, statement, document)
    return SignedWithdrawal(identity, statement, document)


def _check_chain(credentials: Credentials, identity: Identity, chain: list[x509.Certificate], at_s: float) -> None:
    """Look whether certificates lead to an authority, in their order. Raises `SignatureError`."""
    # From the authority on, each by the one above it: no key does any work here that is nobody's. Else whoever makes up
    # certificates has us look at some with keys of his choice, in all orders, which takes a second.
    signers: Sequence[x509.Certificate] = credentials.trusted
    for one in reversed(chain):
        if one not in credentials.trusted and not any(has_signed(signer, one) for signer in signers):
            raise SignatureError(f"the certificate of {identity.who} was not valid here when it signed: {STRANGE}")
        signers = (one,)
    # Any of these extensions an authority of a larger house may leave out; that nobody signs who may not, it must say.
    anything = ExtensionPolicy.permit_all()
    builder = PolicyBuilder().store(Store(list(credentials.trusted))).time(datetime.fromtimestamp(at_s, UTC))
    verifier = builder.extension_policies(
        ca_policy=anything.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _require_authority),
        ee_policy=anything.require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None),
    ).build_client_verifier()
    try:
        verifier.verify(chain[0], chain[1:])
    except (VerificationError, ValueError) as error:
        raise SignatureError(f"the certificate of {identity.who} was not valid here when it signed: {error}") from error
    for one in chain:
        if credentials.revocations.has(one):
            raise SignatureError(f"the certificate of {identity.who} was revoked")


def _require_authority(_policy: object, _certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError("a certificate is signed with one that is no authority's")


def _sign(key: Key, data: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, _PSS, SHA256())
    return key.sign(data, ec.ECDSA(SHA256()))


def _holds(key: Any, signature: bytes, data: bytes) -> bool:
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, _PSS, SHA256())
        elif isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(SHA256()))
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True
