"""What a process shows of itself and checks of others: a directory with its certificate, key and authorities.

    DIR/cert.pem      its certificate
    DIR/key.pem       its key, readable by its owner alone
    DIR/ca.pem        the authorities that it trusts: one, or two while the root is being changed
    DIR/revoked.pem   what they have taken back (X.509 revocation lists), if anything
    DIR/publishers.toml   whose titles it takes (`trust.publishers`); without it everybody's

Everybody has two TLS 1.3 contexts of it, and both ask the other side for its certificate. Who that is, `peer` says.

**Who signs certificates of the fleet stands in ca.pem itself.** One below a trusted authority does not count by that:
Python's `ssl` shows the last certificate of a chain and none between, so whether one of those was revoked, or has gone
from ca.pem with the authority above it, could not be told.
"""

from __future__ import annotations

import os
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from p2pfill.errors import ConfigError, PeerRefused
from p2pfill.model.identity import Identity, identity_from_uri
from p2pfill.trust.publishers import Publishers

CERT_FILE: Final = "cert.pem"
KEY_FILE: Final = "key.pem"
CA_FILE: Final = "ca.pem"
REVOKED_FILE: Final = "revoked.pem"
PUBLISHERS_FILE: Final = "publishers.toml"

_FILES: Final = (CERT_FILE, KEY_FILE, CA_FILE, REVOKED_FILE, PUBLISHERS_FILE)

FILE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one of these files: a revocation list has some 40 bytes for each certificate."""

OLD_LIST: Final = (
    f"{REVOKED_FILE} is older than what is known already, and changes nothing: put the authority's newest there. One "
    "with a lower number, as of an authority that has begun to count anew, is an older one"
)
"""Said where a file was put there that lifts what was revoked, or seems to revoke what it does not."""

OP_ENABLE_KTLS: Final = getattr(ssl, "OP_ENABLE_KTLS", 8)
"""Of OpenSSL 3; Python has a name for it since 3.12."""

_UNUSABLE: Final = (x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError)
"""What reading a certificate's extensions raises where they are wrong."""


class _KnownList(NamedTuple):
    """A revocation list whose signature holds."""

    revoked: x509.CertificateRevocationList
    signer: bytes | None
    """What certificates of this authority name as their signer's key, if the authority's own says it."""
    serials: frozenset[int]


class Revocations:
    """The revocation lists that are known: the newest of each authority, each signed by it.

    A list counts also after the time for which it announces the next: an authority that is away for a month must not
    end the fleet. A list is all that its authority has taken back: one of changes, or of a part, is refused.
    """

    def __init__(self, authorities: list[x509.Certificate]) -> None:
        self._authorities = authorities
        self._lists: dict[bytes, _KnownList] = {}
        """By the fingerprint of the authority that has signed it."""

    def add(self, pem: bytes) -> bool:
        """Take in lists; tell whether one of them was news. One that is older than what is known changes nothing.

        While a root is changed, not everybody trusts the same authorities: lists of others are passed over where one
        of a trusted one stands beside them. Raises `ConfigError` where one cannot be read, or none is of an authority
        that is trusted here; then nothing was taken in.
        """
        lists = _read_lists(pem)
        signed = [(signer, revoked) for revoked in lists if (signer := self._signer(revoked)) is not None]
        if lists and not signed:
            raise ConfigError("it is signed by none of the authorities in ca.pem: take the one that belongs to it")
        news = False
        for signer, revoked in signed:
            fingerprint = signer.fingerprint(SHA256())
            before = self._lists.get(fingerprint)
            if before is None or _number(revoked) > _number(before.revoked):
                serials = frozenset(entry.serial_number for entry in revoked)
                self._lists[fingerprint] = _KnownList(revoked, _key_name(signer), serials)
                news = True
        return news

    def is_older(self, other: Revocations) -> bool:
        """Tell whether the list of some authority is older here than there."""
        return any(
            _number(mine.revoked) < _number(theirs.revoked)
            for signer, mine in self._lists.items()
            if (theirs := other._lists.get(signer)) is not None
        )

    def pem(self) -> bytes:
        """Return the lists, as others are told of them."""
        return b"".join(known.revoked.public_bytes(Encoding.PEM) for known in self._lists.values())

    def has(self, certificate: x509.Certificate) -> bool:
        """Tell whether its authority has taken a certificate back."""
        key = _signers_key_name(certificate)
        return any(
            certificate.serial_number in known.serials
            and known.revoked.issuer == certificate.issuer
            # Two roots of one name, as where an authority's key was changed, may count serials alike.
            and (key is None or known.signer is None or key == known.signer)
            for known in self._lists.values()
        )

    def _signer(self, revoked: x509.CertificateRevocationList) -> x509.Certificate | None:
        for authority in self._authorities:
            with suppress(InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
                if authority.subject == revoked.issuer and revoked.is_signature_valid(
                    authority.public_key()  # type: ignore[arg-type]
                ):
                    return authority
        return None


class Credentials:
    """Who this process is, and whom it believes."""

    def __init__(self, directory: Path) -> None:
        """Read `directory`. Raises `ConfigError` that names the file and says what to do."""
        self.directory = directory
        self.generation = 0
        """Grows whenever something of it has changed: whoever was accepted before is looked at again."""
        self.has_old_list = False
        """Whether the last `reload` has found revocation lists that are older than what is known."""
        self._changing = threading.Lock()
        self._seen = _stamps(directory)
        own = read_certificates(self.directory / CERT_FILE)[0]
        trusted = read_certificates(self.directory / CA_FILE)
        with _naming(self.directory / CERT_FILE):
            self.identity = identity_of(own)
        _check_mode(self.directory / KEY_FILE)
        self.expires = own.not_valid_after_utc
        """When its own certificate ends."""
        self.fingerprint = own.fingerprint(SHA256())
        """Of its own certificate: SHA-256 of its DER."""
        self.trusted = tuple(trusted)
        """The authorities in `ca.pem`."""
        signers = [one for one in trusted if has_signed(one, own)]
        self.authority_expires = max((one.not_valid_after_utc for one in signers), default=None)
        """When what has signed that ends; None where that is not in ca.pem."""
        self.revocations = Revocations(trusted)
        if (self.directory / REVOKED_FILE).exists():
            with _naming(self.directory / REVOKED_FILE):
                lists = _read_file(self.directory / REVOKED_FILE)
                if not lists.strip():
                    # As what a full disk leaves of a copy: nobody would be revoked any more, without a word.
                    raise ConfigError("it is empty: copy it again, or remove it if nothing was ever revoked")
                self.revocations.add(lists)
        listed = self.directory / PUBLISHERS_FILE
        self.publishers = Publishers.load(listed) if os.path.lexists(listed) else None
        """Whose titles are taken; None: everybody's."""
        self.accepting = self._context(ssl.PROTOCOL_TLS_SERVER)
        """For connections that come in."""
        self.connecting = self._context(ssl.PROTOCOL_TLS_CLIENT)
        """For those to caches, whom their names identify, wherever they are."""
        self.calling = self._context(ssl.PROTOCOL_TLS_CLIENT)
        """For those to the tracker, which must be at a host that its certificate names as well."""
        self.calling.check_hostname = True

    def reload(self) -> bool:
        """Read the directory again where a file of it has changed; tell whether that was so.

        Raises `ConfigError`, and then what was read before stands, until a call finds the files good; so it does where
        they are somebody else's. Revocations that came from elsewhere stay.
        """
        seen = _stamps(self.directory)
        if seen == self._seen:
            return False
        # Read beside what stands, which is asked about callers meanwhile, perhaps by another thread.
        fresh = Credentials(self.directory)
        if fresh.identity.uri != self.identity.uri:
            raise ConfigError(
                f"{str(self.directory / CERT_FILE)!r} is of {fresh.identity.uri}, and this process is "
                f"{self.identity.uri}: put that one's back, or restart it to be the other"
            )
        if self.publishers is not None and fresh.publishers is None:
            # As while another file takes its place: that must not be a moment in which everybody may publish.
            raise ConfigError(
                f"{str(self.directory / PUBLISHERS_FILE)!r} is gone: to take what nobody has signed, start again"
            )
        with self._changing:
            at = _FILES.index(REVOKED_FILE)
            has_other_list = seen[at] != self._seen[at]
            self.has_old_list = has_other_list and fresh.revocations.is_older(self.revocations)
            with suppress(ConfigError):  # where all are of authorities that are trusted no more
                fresh.revocations.add(self.revocations.pem())
            self.identity, self.expires, self.revocations = fresh.identity, fresh.expires, fresh.revocations
            self.authority_expires, self.fingerprint = fresh.authority_expires, fresh.fingerprint
            self.accepting, self.connecting, self.calling = fresh.accepting, fresh.connecting, fresh.calling
            self.trusted = fresh.trusted
            self.publishers = fresh.publishers
            self._seen = seen
            self.generation += 1
        return True

    def revoke(self, pem: bytes) -> bool:
        """Take in revocation lists that did not come from the directory; tell whether they are news.

        Raises `ConfigError` where none of the authorities has signed them.
        """
        with self._changing:
            if not self.revocations.add(pem):
                return False
            self.generation += 1
        return True

    def peer(self, certificate: bytes | None) -> Identity:
        """Return whom the other side's certificate, in DER, names, once the handshake has found that it holds.

        Raises `PeerRefused` where there is none, where it is revoked, where none of the authorities in ca.pem has
        signed it by itself, or where it names nobody of this fleet.
        """
        if certificate is None:
            raise PeerRefused("the other side shows no certificate")
        try:
            parsed = x509.load_der_x509_certificate(certificate)
            identity = identity_of(parsed)
            signer = parsed.issuer.rfc4514_string()[:200]  # read only when it is asked for, and may be no name
        except (ValueError, x509.InvalidVersion, ConfigError) as error:
            raise PeerRefused(f"its certificate cannot be used: {error}") from error
        if identity.domain != self.identity.domain:
            raise PeerRefused(f"{identity.who} is of {identity.domain!r}, and this is {self.identity.domain!r}")
        if self.revocations.has(parsed):
            raise PeerRefused(f"the certificate of {identity.who} was revoked")
        if not any(has_signed(authority, parsed) for authority in self.trusted):
            raise PeerRefused(
                f"{identity.who} is of an authority that is not trusted here: {signer!r} is not in {CA_FILE}"
            )
        return identity

    def _context(self, protocol: ssl._SSLMethod) -> ssl.SSLContext:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # What stands in ca.pem is trusted, and nothing above it: there an authority of a larger house may stand alone.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        # Where TLS is done on a socket itself, as that of data streams, the kernel does it if it can.
        context.options |= OP_ENABLE_KTLS
        if protocol == ssl.PROTOCOL_TLS_SERVER:
            # A ticket would be taken in the place of a certificate that is revoked meanwhile.
            context.num_tickets = 0
        try:
            # A key with a password is refused: OpenSSL would ask at the terminal, and the process would stand still.
            context.load_cert_chain(self.directory / CERT_FILE, self.directory / KEY_FILE, password="")
        except (ssl.SSLError, OSError) as error:
            raise ConfigError(
                f"cannot use the certificate and the key in {str(self.directory)!r}: {error}; do they belong together, "
                "and does each of them begin on a line of its own?"
            ) from error
        # Those that `peer` goes by, and not the file once more, of which OpenSSL reads less: no two on one line.
        try:
            context.load_verify_locations(
                cadata="".join(one.public_bytes(Encoding.PEM).decode() for one in self.trusted)
            )  # fmt: skip
        except ssl.SSLError as error:
            raise ConfigError(f"{str(self.directory / CA_FILE)!r} cannot be used: {error}") from error
        return context


class Bearer:
    """Whoever has shown a certificate on a connection, which may be revoked while that is open."""

    def __init__(self, credentials: Credentials, certificate: bytes) -> None:
        """Raises `PeerRefused`."""
        self._credentials = credentials
        self._certificate = certificate
        self._generation = credentials.generation
        self._identity = credentials.peer(certificate)

    def identity(self) -> Identity:
        """Return who it is. Raises `PeerRefused` where that is accepted no more."""
        if self._generation != self._credentials.generation:
            self._identity = self._credentials.peer(self._certificate)
            self._generation = self._credentials.generation
        return self._identity


def read_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a file, one at least. Raises `ConfigError`."""
    try:
        return x509.load_pem_x509_certificates(_read_file(path))
    except (ValueError, x509.InvalidVersion) as error:
        raise ConfigError(f"{str(path)!r} is no certificate in PEM: {error}") from error


def identity_of(certificate: x509.Certificate) -> Identity:
    """Return whom a certificate names. Raises `ConfigError` where it names nobody, or is an authority's own."""
    try:
        found = certificate.extensions
        names = found.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, *_UNUSABLE) as error:
        raise ConfigError(f"the certificate has no usable names ({error})") from error
    with suppress(x509.ExtensionNotFound):
        if found.get_extension_for_class(x509.BasicConstraints).value.ca:
            raise ConfigError("the certificate is an authority's, and names nobody")
    if len(uris) != 1:
        raise ConfigError(f"the certificate has {len(uris)} URIs, where one says whose it is")
    hosts = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    hosts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return identity_from_uri(uris[0], tuple(hosts))


def _read_lists(pem: bytes) -> list[x509.CertificateRevocationList]:
    """Return the revocation lists in a text. Raises `ConfigError`."""
    end = b"-----END X509 CRL-----"
    if len(pem) > FILE_BYTES_MAX:
        raise ConfigError(f"the revocation lists are larger than {FILE_BYTES_MAX} bytes")
    *texts, rest = pem.split(end)
    try:
        lists = [x509.load_pem_x509_crl(text + end) for text in texts]
        critical = [one.oid.dotted_string for revoked in lists for one in revoked.extensions if one.critical]
    except (*_UNUSABLE, x509.InvalidVersion) as error:
        raise ConfigError(f"a revocation list cannot be read: {error}") from error
    if critical:
        # Of changes alone (delta), or for some certificates: in the place of the whole list it would lift revocations.
        raise ConfigError(f"a revocation list is of a kind that is not known here (critical extension {critical[0]})")
    if rest.strip():
        raise ConfigError("there is something behind the last revocation list")
    return lists


def has_signed(authority: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Tell whether an authority has signed a certificate itself."""
    with suppress(InvalidSignature, UnsupportedAlgorithm, TypeError, ValueError):
        certificate.verify_directly_issued_by(authority)
        return True
    return False


def _key_name(authority: x509.Certificate) -> bytes | None:
    with suppress(x509.ExtensionNotFound, *_UNUSABLE):
        return authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    return None


def _signers_key_name(certificate: x509.Certificate) -> bytes | None:
    with suppress(x509.ExtensionNotFound, *_UNUSABLE):
        return certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    return None


def _number(revoked: x509.CertificateRevocationList) -> tuple[int, float]:
    """Return what grows from one list of an authority to the next."""
    with suppress(x509.ExtensionNotFound):
        return revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number, 0.0
    return 0, revoked.last_update_utc.timestamp()


def _read_file(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(
            f"cannot read {str(path)!r}: {error.strerror}; `p2pfill ca issue` makes such a directory"
        ) from error
    if len(text) > FILE_BYTES_MAX:
        raise ConfigError(f"{str(path)!r} is larger than {FILE_BYTES_MAX} bytes")
    return text


def read_kept_lists(path: Path) -> bytes:
    """Return the revocation lists that were kept in a file, b'' where there is none. Raises `ConfigError`, `OSError`.

    Beside other things than those of an identity anything may lie there: a fifo is not waited for.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{str(path)!r} is no plain file")
    except FileNotFoundError:
        return b""
    return _read_file(path)


def _check_mode(path: Path) -> None:
    """Refuse a key that others may read, as ssh does; a group may, since services are given keys so."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # what reads it says why
    if mode & 0o027:
        raise ConfigError(f"everybody may read {str(path)!r}, or its group change it: chmod 600 it, or make it anew")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of which file an error is."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r} cannot be used: {error}") from error


def _stamps(directory: Path) -> list[tuple[int, int, int]]:
    """Return what changes where a file of the directory does."""
    stamps = []
    for name in _FILES:
        try:
            seen = os.stat(directory / name)
            stamps.append((seen.st_ino, seen.st_mtime_ns, seen.st_size))
        except OSError:
            stamps.append((0, 0, 0))
    return stamps
