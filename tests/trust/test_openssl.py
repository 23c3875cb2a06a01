"""What the openssl command says of our certificates, and identities that it makes, as docs/certificates.md says."""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from docs.pages import ROOT, blocks
from trust.handshake import NAMES, NOW, SERVERS, make_fleet, meet, shake

from p2pfill.errors import ConfigError
from p2pfill.trust.authority import Authority
from p2pfill.trust.check import fault_of
from p2pfill.trust.credentials import Credentials, PeerRefused

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(
        shutil.which("openssl") is None and not os.environ.get("CI"), reason="the openssl command is not installed"
    ),
]


def openssl(*command: str, cwd: Path | None = None, code: int = 0) -> str:
    done = subprocess.run(
        ["openssl", *command], cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stdout
    return done.stdout


def test_openssl_accepts_ours_by_the_letter_of_the_law(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path)
    strict = (
        "-x509_strict",
        "-crl_check",
        "-CAfile",
        str(fleet / "ca/ca.pem"),
        "-CRLfile",
        str(fleet / "ca/revoked.pem"),
    )
    for name in NAMES:
        cert = str(fleet / "ids" / name / "cert.pem")
        assert "OK" in openssl("verify", *strict, "-purpose", "sslclient", cert)
        if name in SERVERS:
            assert "OK" in openssl("verify", *strict, "-purpose", "sslserver", cert)
    assert "purpose" in openssl("verify", *strict, "-purpose", "sslserver", str(fleet / "ids/anna/cert.pem"), code=2)
    a1 = str(fleet / "ids/a1/cert.pem")
    openssl("verify", *strict, "-verify_ip", "127.0.0.1", a1)
    openssl("verify", *strict, "-verify_hostname", "a1.fleet.example", a1)
    openssl("verify", *strict, "-verify_hostname", "b1.fleet.example", a1, code=2)
    with Authority(fleet / "ca") as authority:
        authority.revoke(authority.meant("a1", NOW), NOW)
    assert "certificate revoked" in openssl("verify", *strict, a1, code=2)


# ---- an existing authority


def run_section(directory: Path) -> None:
    """Do what the page says of an existing authority, without the last command, which is ours."""
    page = ROOT / "docs" / "certificates.md"
    lines = page.read_text().splitlines()
    begins = lines.index("## An existing authority") + 1
    for block in blocks(page):
        if block.line < begins:
            continue
        if block.file:
            (directory / block.file).write_text(block.text)
        else:
            text = "".join(line for line in block.text.splitlines(True) if not line.startswith("p2pfill "))
            subprocess.run(
                ["/bin/bash", "-euo", "pipefail", "-c", text], cwd=directory, check=True, capture_output=True,
                stdin=subprocess.DEVNULL, timeout=60,
            )  # fmt: skip


def sign(directory: Path, name: str, uri: str, usage: str = "serverAuth, clientAuth", extra: str = "") -> Path:
    """Have the house's authority sign another identity, as the page does it for a1."""
    text = (directory / "a1.ext").read_text()
    lines = [line for line in text.splitlines() if not line.startswith(("subjectAltName", "extendedKeyUsage"))]
    lines += [f"subjectAltName = URI:{uri}{extra}"] + ([f"extendedKeyUsage = {usage}"] if usage else [])
    (directory / f"{name}.ext").write_text("\n".join(lines) + "\n")
    made = directory / f"house-{name}"
    made.mkdir(mode=0o700)
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(made / "key.pem"))
    (made / "key.pem").chmod(0o600)
    openssl("req", "-new", "-key", str(made / "key.pem"), "-subj", f"/CN={name}", "-out", f"{name}.csr", cwd=directory)
    openssl(
        "x509", "-req", "-in", f"{name}.csr", "-CA", "house-ca.pem", "-CAkey", "house-ca.key", "-CAcreateserial",
        "-days", "90", "-extfile", f"{name}.ext", "-out", str(made / "cert.pem"), cwd=directory,
    )  # fmt: skip
    shutil.copy(directory / "house-ca.pem", made / "ca.pem")
    return made


CA_CONFIG = """
[ca]
default_ca = house
[house]
database = index.txt
crlnumber = crlnumber
default_md = sha256
default_crl_days = 1
certificate = house-ca.pem
private_key = house-ca.key
"""


def test_an_existing_authority_works_as_well(tmp_path: Path) -> None:
    run_section(tmp_path)
    a1 = Credentials(tmp_path / "house-a1")
    main = Credentials(sign(tmp_path, "main", "spiffe://fleet.example/tracker/main", extra=", DNS:tracker.example"))
    anna = Credentials(sign(tmp_path, "anna", "spiffe://fleet.example/user/anna", "clientAuth"))
    assert [fault_of(one) for one in (a1, main, anna)] == ["", "", ""]
    assert a1.identity.hosts == ("a1.fleet.example", "192.0.2.11")
    seen, called = meet(main, anna, "tracker.example")
    assert (seen.who, called.who) == ("user/anna", "tracker/main")
    meet(a1, main)
    meet(main, a1)
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        meet(anna, a1)
    with pytest.raises(ConfigError, match="neither a host's name"):
        Credentials(sign(tmp_path, "wild", "spiffe://fleet.example/tracker/main", extra=", DNS:*.example"))
    own = make_fleet(tmp_path / "own")
    with pytest.raises(ssl.SSLError):
        meet(a1, Credentials(own / "ids" / "b1"))
    # Its revocation list.
    (tmp_path / "ca.cnf").write_text(CA_CONFIG)
    (tmp_path / "index.txt").touch()
    (tmp_path / "crlnumber").write_text("01\n")
    ca = "ca", "-config", "ca.cnf"
    openssl(*ca, "-revoke", "house-anna/cert.pem", cwd=tmp_path)
    openssl(*ca, "-gencrl", "-out", "house-a1/revoked.pem", cwd=tmp_path)
    assert a1.reload()
    with pytest.raises(PeerRefused, match="user/anna was revoked"):
        meet(a1, anna)
    meet(a1, main)


def test_an_authority_below_the_houses_can_be_trusted_alone(tmp_path: Path) -> None:
    """What else the house signs is of no account then, whatever it says."""
    run_section(tmp_path)
    for name in ("house", "fleet", "mail"):
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}.key", cwd=tmp_path)
    usage = "basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"
    openssl(
        "req", "-x509", "-new", "-key", "house.key", "-days", "9", "-subj", "/CN=The house", "-addext", usage[0],
        "-addext", usage[1], "-out", "house.pem", cwd=tmp_path,
    )  # fmt: skip
    (tmp_path / "ca.ext").write_text("\n".join(usage) + "\nsubjectKeyIdentifier = hash\n")
    made = {}
    for name in ("fleet", "mail"):
        openssl("req", "-new", "-key", f"{name}.key", "-subj", f"/CN={name}", "-out", f"{name}.csr", cwd=tmp_path)
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "house.pem", "-CAkey", "house.key", "-CAcreateserial",
            "-extfile", "ca.ext", "-days", "9", "-out", f"{name}.pem", cwd=tmp_path,
        )  # fmt: skip
        shutil.copy(tmp_path / f"{name}.pem", tmp_path / "house-ca.pem")
        shutil.copy(tmp_path / f"{name}.key", tmp_path / "house-ca.key")
        directory = sign(tmp_path, f"of-{name}", "spiffe://fleet.example/user/eve", "serverAuth, clientAuth")
        # Its chain goes with it, up to the root.
        for part in (f"{name}.pem", "house.pem"):
            with (directory / "cert.pem").open("ab") as file:
                file.write((tmp_path / part).read_bytes())
        shutil.copy(tmp_path / "fleet.pem", directory / "ca.pem")
        made[name] = Credentials(directory)
    assert fault_of(made["fleet"]) == ""
    assert fault_of(made["mail"]) != ""
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(made["fleet"].accepting, made["mail"].connecting)
