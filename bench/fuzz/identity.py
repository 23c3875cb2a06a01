"""Who somebody says to be: certificates, revocation lists, names as URIs, signing requests, an authority's records."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bench.fuzz.target import NESTED, Run, Target, check
from p2pfill.errors import ConfigError
from p2pfill.model.identity import SCHEME, URI_CHARS_MAX, Identity, identity_from_uri
from p2pfill.model.limits import KIB
from p2pfill.trust.authority import Authority
from p2pfill.trust.certificates import key_from_pem, key_of_request, new_key
from p2pfill.trust.credentials import Credentials, PeerRefused, Revocations, identity_of, read_certificates
from p2pfill.trust.records import STATE_FILE, read_state

DOMAIN: Final = "fleet.example"
FLEET: Final = """
[[caches]]
id = "a1"
isp = "isp-a"
region = "europe"
cluster = "c 1"
hosts = ["127.0.0.1", "a1.fleet.example"]

[[trackers]]
name = "main"
hosts = ["tracker.fleet.example"]

[[users]]
name = "anna"
"""
NAMES: Final = ("a1", "main", "anna")


def _make_fleet(directory: Path) -> Path:
    """Make an authority, who has signed for three and taken one of them back; return the directory of both."""
    now = datetime.now(UTC)
    Authority.create(directory / "ca", DOMAIN, now)
    (directory / "ca" / "fleet.toml").write_text(FLEET)
    with Authority(directory / "ca") as authority:
        authority.issue([], directory / "ids", now)
        authority.revoke(authority.meant("anna", now), now)
    return directory


@cache
def _fleet_files() -> dict[str, bytes]:
    """Return the files of a fleet: keys are drawn anew in each process."""
    with TemporaryDirectory(prefix="p2pfill-fuzz-") as made:
        fleet = _make_fleet(Path(made))
        names = [f"ids/{name}/cert.pem" for name in NAMES]
        return {
            name: (fleet / name).read_bytes() for name in (*names, "ca/revoked.pem", "ca/ca.pem", f"ca/{STATE_FILE}")
        }


def quiet(run: Run) -> Run:
    """Return `run`, in which the library's warnings of odd certificates, which it reads all the same, are none."""

    def quiet_run(data: bytes) -> bool:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return run(data)

    return quiet_run


def _certificate_seeds() -> Iterator[bytes]:
    for name in NAMES:
        yield x509.load_pem_x509_certificate(_fleet_files()[f"ids/{name}/cert.pem"]).public_bytes(Encoding.DER)
    yield x509.load_pem_x509_certificate(_fleet_files()["ca/ca.pem"]).public_bytes(Encoding.DER)


def open_certificates(directory: Path) -> Run:
    """A certificate of the other side names somebody of this fleet, or `PeerRefused`; so it is for a file of them, or
    `ConfigError`. Whom it names is spelled in one way.
    """
    credentials = Credentials(_make_fleet(directory) / "ids" / "main")
    path = directory / "cert.pem"

    def run(data: bytes) -> bool:
        with suppress(ConfigError):
            path.write_bytes(data)
            read_certificates(path)
        with suppress(PeerRefused):
            check(credentials.peer(data).domain == DOMAIN, "it is of another fleet", data)
        # No change of a certificate is signed: what reads it is asked by itself, too.
        try:
            identity = identity_of(x509.load_der_x509_certificate(data))
        except (ValueError, x509.InvalidVersion, ConfigError):
            return False
        _check_identity(identity)
        return True

    return quiet(run)


def _check_identity(identity: Identity) -> None:
    check(identity_from_uri(identity.uri, identity.hosts) == identity, "its name is another's", identity)
    check(len(identity.uri) <= URI_CHARS_MAX and identity.uri.isascii(), "a name beyond limits", identity.uri)
    check(identity.name not in ("", ".", "..") and "/" not in identity.name, "no name of a directory", identity.name)


def _revocation_seeds() -> Iterator[bytes]:
    listed = _fleet_files()["ca/revoked.pem"]
    yield listed
    yield listed + listed
    der = x509.load_pem_x509_crl(listed).public_bytes(Encoding.DER)
    yield der


def _pem(kind: str, der: bytes) -> bytes:
    return f"-----BEGIN {kind}-----\n{base64.encodebytes(der).decode()}-----END {kind}-----\n".encode()


def open_revocations(_: Path) -> Run:
    """A text, or DER put into one, is revocation lists of an authority that is trusted, or `ConfigError`, and then
    nothing was taken in. What was taken in is told in a form that is taken in again.
    """
    authority = x509.load_pem_x509_certificate(_fleet_files()["ca/ca.pem"])
    genuine = x509.load_pem_x509_crl(_fleet_files()["ca/revoked.pem"])

    def run(data: bytes) -> bool:
        revocations = Revocations([authority])
        text = _pem("X509 CRL", data) if data[:1] == b"\x30" else data
        try:
            news = revocations.add(text)
        except ConfigError:
            check(not revocations.pem(), "what was refused was taken in")
            return False
        told = revocations.pem()
        check(news == bool(told), "news of nothing", told)
        if news:
            found = x509.load_pem_x509_crl(told)
            check(found.tbs_certlist_bytes == genuine.tbs_certlist_bytes, "a list that nobody has signed", told)
            check(not revocations.add(told), "the same list is news again")
        return news

    return quiet(run)


def _uri_seeds() -> Iterator[bytes]:
    for name in NAMES:
        path = x509.load_pem_x509_certificate(_fleet_files()[f"ids/{name}/cert.pem"])
        names = path.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        yield names.get_values_for_type(x509.UniformResourceIdentifier)[0].encode()
    for path_of in (
        "cache/a1/region/eu/isp/x",
        "user/",
        "user/..",
        "user/%2e%2e",
        "tracker/a%2Fb",
        "cache/a1",
        "user/%61",
    ):
        yield f"{SCHEME}{DOMAIN}/{path_of}".encode()


def open_uris(_: Path) -> Run:
    """A certificate's URI names one, spelled in one way, or `ConfigError`."""

    def run(data: bytes) -> bool:
        uri = data.decode("utf-8", "surrogateescape")
        try:
            identity = identity_from_uri(uri)
        except ConfigError as error:
            check(len(str(error)) < 2000, "an error without an end")
            return False
        check(identity.uri == uri, "two spellings of one name", uri)
        _check_identity(identity)
        return True

    return run


@cache
def _request() -> bytes:
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a1")]))
    return builder.sign(new_key(), SHA256()).public_bytes(Encoding.DER)


def _request_seeds() -> Iterator[bytes]:
    yield _request()
    yield _pem("CERTIFICATE REQUEST", _request())
    yield _pem("PRIVATE KEY", b"\x30\0")


def open_requests(_: Path) -> Run:
    """A text, or DER put into one, is a signing request, or `ConfigError`; so it is for keys."""

    def run(data: bytes) -> bool:
        text = _pem("CERTIFICATE REQUEST", data) if data[:1] == b"\x30" else data
        with suppress(ConfigError):
            key_from_pem(text, "a.key")
        try:
            key_of_request(text, "a.csr")
        except ConfigError:
            return False
        return True

    return quiet(run)


def _state_seeds() -> Iterator[bytes]:
    yield _fleet_files()[f"ca/{STATE_FILE}"]
    yield NESTED
    yield b'{"format":1,"domain":"x","roots":[{"number":1,"pem":"","revoked_pem":"","revoked_number":0}],"signing":1}'


def open_authorities(directory: Path) -> Run:
    """An authority's records are read, or `ConfigError`; whom they name can be told."""

    def run(data: bytes) -> bool:
        (directory / STATE_FILE).write_bytes(data)
        try:
            state = read_state(directory)
            for one in state.issued[:20]:
                check(one.identity.who and one.serial, "somebody without a name")
            check(state.root.certificate.subject, "a root without a name")
        except ConfigError:
            return False
        return True

    return quiet(run)


TARGETS: Final = (
    Target(
        "certificates",
        open_certificates,
        _certificate_seeds,
        size_max=4 * KIB,
        words=(SCHEME, DOMAIN, "cache/", "user/"),
    ),
    Target("revocations", open_revocations, _revocation_seeds, size_max=4 * KIB),
    Target(
        "uris",
        open_uris,
        _uri_seeds,
        size_max=1 * KIB,
        words=(f"{SCHEME}{DOMAIN}/", "cache/", "/isp/", "/region/", "%2F"),
    ),
    Target("requests", open_requests, _request_seeds, size_max=2 * KIB),
    Target("authorities", open_authorities, _state_seeds, size_max=16 * KIB, form="json"),
)
