"""TLS between two sides in memory, with certificates of authorities made for a test, also such as ours never makes."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from p2pfill.model.identity import Identity
from p2pfill.trust.authority import Authority
from p2pfill.trust.certificates import key_from_pem, key_to_pem, make_leaf, new_key
from p2pfill.trust.credentials import Credentials

NOW: Final = datetime.now(UTC)
DAY: Final = timedelta(days=1)

FLEET: Final = """
[[caches]]
id = "a1"
isp = "isp-a"
region = "europe"
cluster = "c 1"
hosts = ["127.0.0.1", "A1.fleet.example"]

[[caches]]
id = "b1"
isp = "64501"
hosts = ["2001:db8:0::b1"]

[[trackers]]
name = "main"
hosts = ["tracker.fleet.example"]

[[users]]
name = "anna"
"""
NAMES: Final = ("a1", "b1", "main", "anna")
SERVERS: Final = ("a1", "b1", "main")


def make_fleet(directory: Path, text: str = FLEET, now: datetime = NOW, domain: str = "fleet.example") -> Path:
    """Make an authority and everybody's directory; return the directory of both, CA and IDS."""
    directory.mkdir(parents=True, exist_ok=True)
    Authority.create(directory / "ca", domain, now)
    (directory / "ca" / "fleet.toml").write_text(text)
    with Authority(directory / "ca") as authority:
        authority.issue([], directory / "ids", now)
    return directory


def shake(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return both ends, after the handshake and a word each way. Raises `ssl.SSLError` where one refuses the other."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname=host)
    accepting, calling = ends
    waiting = [calling.do_handshake, accepting.do_handshake]
    while waiting:
        step = waiting.pop(0)
        try:
            step()
        except ssl.SSLWantReadError:
            waiting.append(step)
    # In TLS 1.3 who calls is through before it is looked at: what it then reads says that it was refused.
    accepting.write(b"to you")
    calling.write(b"to you, too")
    assert (calling.read(), accepting.read()) == (b"to you", b"to you, too")
    return ends


def meet(server: Credentials, client: Credentials, host: str | None = None) -> tuple[Identity, Identity]:
    """Return whom the server sees and whom the client sees; with `host`, as who calls a tracker.

    Raises `ssl.SSLError` or `PeerRefused`.
    """
    calling = client.connecting if host is None else client.calling
    ends = shake(server.accepting, calling, host)
    return server.peer(ends[0].getpeercert(binary_form=True)), client.peer(ends[1].getpeercert(binary_form=True))


def forge(
    fleet: Path, name: str, identity: Identity, drop: Sequence[type[x509.ExtensionType]] = (),
    add: Sequence[tuple[x509.ExtensionType, bool]] = (), now: datetime = NOW, life: timedelta = DAY,
) -> Path:  # fmt: skip
    """Make a directory whose certificate is signed by the fleet's root, but differs from what the authority signs."""
    with Authority(fleet / "ca") as authority:
        root = authority.state.root
        root_key = key_from_pem((fleet / "ca" / root.key_file).read_bytes(), "")
        ca_pem = authority.state.ca_pem
    key = new_key()
    proper = make_leaf(identity, key.public_key(), root.certificate, root_key, now, life)
    builder = x509.CertificateBuilder(
        proper.issuer, proper.subject, key.public_key(), x509.random_serial_number(),
        proper.not_valid_before_utc.replace(tzinfo=None), proper.not_valid_after_utc.replace(tzinfo=None),
    )  # fmt: skip
    for extension in proper.extensions:
        if not isinstance(extension.value, tuple(drop)):
            builder = builder.add_extension(extension.value, extension.critical)
    for value, critical in add:
        builder = builder.add_extension(value, critical)
    directory = fleet / "ids" / name
    directory.mkdir()
    write(directory, builder.sign(root_key, SHA256()).public_bytes(Encoding.PEM), key_to_pem(key), ca_pem)
    return directory


def write(directory: Path, cert: bytes, key: bytes, ca: bytes) -> None:
    """Write the files of an identity."""
    (directory / "cert.pem").write_bytes(cert)
    (directory / "key.pem").write_bytes(key)
    (directory / "key.pem").chmod(0o600)
    (directory / "ca.pem").write_bytes(ca)
