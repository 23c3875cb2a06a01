"""What our certificates carry: a root that signs leaves only, and leaves with one name of ours each.

All keys are of ECDSA on P-256: signing and checking are cheap enough for hundreds of handshakes a second, and every TLS
library has it, which cannot be said of Ed25519.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Identity, Role

CLOCKS_DIFFER: Final = timedelta(hours=25)
"""By so much a machine's clock may be behind the authority's when it first sees a new certificate: by a day, as where a
date was typed wrong. That a certificate counts from before it was signed helps nobody: it was not there."""

_COMMON_NAME_CHARS_MAX: Final = 64
"""Of X.520."""

PrivateKey = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey


def new_key() -> PrivateKey:
    """Draw a key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: PrivateKey) -> bytes:
    """Return a key as its file has it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def key_from_pem(pem: bytes, where: str) -> PrivateKey:
    """Return the key in a file. Raises `ConfigError` where it is none, or not on P-256."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{where!r} is no key in PEM without a password: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"the key in {where!r} is not one of ECDSA on P-256")
    return key


def key_name(key: PublicKey) -> bytes:
    """Return the bytes by which public keys are compared."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def key_of_certificate(certificate: x509.Certificate) -> PublicKey:
    """Return the public key of a certificate that was made here."""
    key = certificate.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"certificate {certificate.serial_number:x} has a key that is not of ECDSA")
    return key


def key_of_request(pem: bytes, where: str) -> PublicKey:
    """Return the public key of a signing request, whose bearer has the key. Nothing else of it is looked at.

    Raises `ConfigError`.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        key = request.public_key()
        is_signed = request.is_signature_valid
    except (ValueError, TypeError, x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{where!r} is no signing request in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(
            f"the request {where!r} is not for a key of ECDSA on P-256: "
            "make one with openssl ecparam -genkey -name prime256v1"
        )
    if not is_signed:
        raise ConfigError(f"the request {where!r} is not signed with its own key")
    return key


def make_root(key: PrivateKey, domain: str, now: datetime, life: timedelta) -> x509.Certificate:
    """Sign a root: of leaves only, and with a subject that no other root has, also of the same fleet."""
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    subject = x509.Name([_common_name(f"p2pfill {domain[:40]} {identifier.digest.hex()[:12]}")])
    builder = (
        _builder(subject, subject, key.public_key(), now, now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    return builder.sign(key, SHA256())


def make_leaf(
    identity: Identity, key: PublicKey, root: x509.Certificate, root_key: PrivateKey, now: datetime, life: timedelta
) -> x509.Certificate:
    """Sign a certificate for `identity` as it is listed. It ends with the root at the latest."""
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if identity.role is not Role.USER:
        purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    root_identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    subject = x509.Name([_common_name(identity.name)])
    builder = (
        _builder(subject, root.subject, key, now, min(now + life, root.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names(identity)), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_identifier), critical=False)
    )
    return builder.sign(root_key, SHA256())


def make_revocation_list(
    root: x509.Certificate, root_key: PrivateKey, number: int, revoked: Iterable[tuple[int, datetime]], now: datetime
) -> x509.CertificateRevocationList:
    """Sign the list of all certificates, by serial and moment, that a root has taken back.

    The next one is announced for the root's end: this one counts until there is another (`Revocations`).
    """
    identifier = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(now)
        .next_update(max(root.not_valid_after_utc, now + timedelta(days=1)))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
    )
    for serial, moment in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(root_key, SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin - CLOCKS_DIFFER)
        .not_valid_after(end)
    )


def _common_name(text: str) -> x509.NameAttribute[str]:
    return x509.NameAttribute(NameOID.COMMON_NAME, text[:_COMMON_NAME_CHARS_MAX])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates, key_cert_sign=signs_certificates, crl_sign=signs_certificates,
        content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
        encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _names(identity: Identity) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    for host in identity.hosts:
        with suppress(ValueError):
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
            continue
        names.append(x509.DNSName(host))
    return names
