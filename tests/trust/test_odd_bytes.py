"""Certificates and revocation lists of strangers: whatever they are, they are taken in or refused in words."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from trust.handshake import NOW, make_fleet

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Identity
from p2pfill.trust.authority import Authority
from p2pfill.trust.certificates import key_of_request, new_key
from p2pfill.trust.credentials import Credentials, PeerRefused, read_certificates

# What the library warns of (a negative serial, a country of three letters) is read by it all the same.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

CHANGES = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 3), st.binary(max_size=4)), max_size=4)
"""Places, how many bytes go there, and what comes in their place."""


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    for place, gone, new in changes:
        place %= len(data) + 1
        data = data[:place] + new + data[place + gone :]
    return data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    fleet = make_fleet(tmp_path_factory.mktemp("fleet"))
    with Authority(fleet / "ca") as authority:
        authority.revoke(authority.meant("anna", NOW), NOW)
    return fleet


@pytest.fixture(scope="module")
def peer(made: Path) -> Callable[[bytes], Identity]:
    return Credentials(made / "ids" / "main").peer


@given(changes=CHANGES)
def test_a_changed_certificate(
    made: Path, peer: Callable[[bytes], Identity], changes: list[tuple[int, int, bytes]]
) -> None:
    der = read_certificates(made / "ids" / "a1" / "cert.pem")[0].public_bytes(Encoding.DER)
    try:
        identity = peer(changed(der, changes))
    except PeerRefused:
        return
    assert identity.domain == "fleet.example"


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_certificate(peer: Callable[[bytes], Identity], data: bytes) -> None:
    with pytest.raises(PeerRefused):
        peer(data)


@given(changes=CHANGES)
def test_a_changed_list_is_none_of_the_authoritys(made: Path, changes: list[tuple[int, int, bytes]]) -> None:
    credentials = Credentials(made / "ids" / "main")
    der = x509.load_pem_x509_crl((made / "ca" / "revoked.pem").read_bytes()).public_bytes(Encoding.DER)
    pem = wrapped("X509 CRL", other := changed(der, changes))
    try:
        assert credentials.revocations.add(pem)
    except ConfigError:
        return
    # What the signature does not cover is how the signature itself is written.
    assert x509.load_der_x509_crl(other).tbs_certlist_bytes == x509.load_der_x509_crl(der).tbs_certlist_bytes


@pytest.fixture(scope="module")
def request_der() -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a1")]))
    return builder.sign(new_key(), SHA256()).public_bytes(Encoding.DER)


@given(changes=CHANGES)
def test_a_changed_request(request_der: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    try:
        key_of_request(wrapped("CERTIFICATE REQUEST", changed(request_der, changes)), "a.csr")
    except ConfigError:
        return


def wrapped(kind: str, der: bytes) -> bytes:
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der).decode()}-----END {kind}-----\n".encode()
