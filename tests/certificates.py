"""Certificates for tests, some of which our own authority would never sign."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from p2pfill.model.identity import Identity, Role

DOMAIN = "fleet.example"
ONE = dt.timedelta(hours=1)


class Signer:
    """An authority."""

    def __init__(self, name: str = "test root") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.certificate = (
            self._begin(self.name, self.key.public_key(), hours=24 * 3650)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        self.lists = 0

    def _begin(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, hours: float = 24) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        return (
            x509.CertificateBuilder(self.name, subject, key, x509.random_serial_number())
            .not_valid_before(now - 48 * ONE)
            .not_valid_after(now + hours * ONE)
        )

    def give(
        self, directory: Path, who: str | Identity, hosts: tuple[str, ...] = ("127.0.0.1",), hours: float = 24
    ) -> Path:
        """Write credentials of `who`, a URI or an identity, into a directory; again: renew them."""
        directory.mkdir(exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        uri = who if isinstance(who, str) else who.uri
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri)] if uri else []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        certificate = (
            self._begin(x509.Name([]), key.public_key(), hours)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (directory / "key.pem").write_bytes(key.private_bytes(pem, *plain))
        (directory / "key.pem").chmod(0o600)
        (directory / "cert.pem").write_bytes(certificate.public_bytes(pem))
        (directory / "ca.pem").write_bytes(self.certificate.public_bytes(pem))
        return directory

    def revoke(self, *directories: Path) -> bytes:
        """Return a revocation list, newer than those before, with the certificates in some directories."""
        now = dt.datetime.now(dt.UTC)
        self.lists += 1
        builder = x509.CertificateRevocationListBuilder(self.name, now - ONE, now + 24 * ONE).add_extension(
            x509.CRLNumber(self.lists), critical=False
        )
        for directory in directories:
            serial = x509.load_pem_x509_certificate((directory / "cert.pem").read_bytes()).serial_number
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - ONE).build()
            builder = builder.add_revoked_certificate(one)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def cache(name: str, isp: str = "isp-a", region: str = "default", cluster: str = "") -> Identity:
    """Return a cache's name."""
    return Identity(DOMAIN, Role.CACHE, name, region, isp, cluster)


def tracker(name: str = "main") -> Identity:
    """Return a tracker's name."""
    return Identity(DOMAIN, Role.TRACKER, name)


def user(name: str) -> Identity:
    """Return a user's name."""
    return Identity(DOMAIN, Role.USER, name)
