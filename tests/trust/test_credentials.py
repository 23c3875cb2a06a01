"""Who is let in, and who is refused: real handshakes in memory."""

from __future__ import annotations

import base64
import shutil
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from trust.handshake import DAY, NAMES, NOW, SERVERS, forge, make_fleet, meet, shake, write

from p2pfill.errors import ConfigError
from p2pfill.model.identity import Identity, Role
from p2pfill.trust import credentials as credentials_module
from p2pfill.trust import records
from p2pfill.trust.authority import Authority
from p2pfill.trust.certificates import PrivateKey, key_from_pem, key_to_pem, make_leaf, make_revocation_list, new_key
from p2pfill.trust.check import fault_of
from p2pfill.trust.credentials import Bearer, Credentials, PeerRefused, Revocations, read_certificates
from p2pfill.trust.ending import Ending

A2 = Identity("fleet.example", Role.CACHE, "a2", "europe", "isp-a", hosts=("127.0.0.1",))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def fleet(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "fleet"))


def who(fleet: Path, name: str) -> Credentials:
    return Credentials(fleet / "ids" / name)


def test_everybody_is_who_the_list_says(made: Path) -> None:
    everybody = {name: who(made, name) for name in NAMES}
    with Authority(made / "ca") as authority:
        listed = authority.listed()
    for server in SERVERS:
        for client in NAMES:
            seen = meet(everybody[server], everybody[client])
            assert seen == (listed[client], listed[server])
    assert listed["a1"] == Identity(
        "fleet.example", Role.CACHE, "a1", "europe", "isp-a", "c 1", ("a1.fleet.example", "127.0.0.1")
    )
    assert listed["b1"].hosts == ("2001:db8::b1",)


def test_it_is_tls_13_without_tickets(made: Path) -> None:
    ends = shake(who(made, "main").accepting, who(made, "anna").calling, "tracker.fleet.example")
    assert {end.version() for end in ends} == {"TLSv1.3"}
    assert ends[1].session is None or not ends[1].session.has_ticket
    own, old = who(made, "b1"), who(made, "a1")
    for context in (old.accepting, old.connecting):
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    for server, client in ((old.accepting, own.connecting), (own.accepting, old.connecting)):
        with pytest.raises(ssl.SSLError, match=r"(?i)version|unsupported protocol"):
            shake(server, client)


def test_a_tracker_must_be_where_its_certificate_says(made: Path) -> None:
    meet(who(made, "main"), who(made, "a1"), "tracker.fleet.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        meet(who(made, "main"), who(made, "a1"), "other.fleet.example")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        meet(who(made, "a1"), who(made, "b1"), "tracker.fleet.example")


def test_nobody_comes_without_a_certificate(made: Path) -> None:
    bare = ssl.create_default_context(cafile=str(made / "ca" / "ca.pem"))
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate"):
        shake(who(made, "main").accepting, bare, "tracker.fleet.example")
    with pytest.raises(PeerRefused, match="no certificate"):
        who(made, "main").peer(None)


def test_a_foreign_authority_is_refused_both_ways(made: Path, tmp_path: Path) -> None:
    other = make_fleet(tmp_path / "other")
    for server, client in ((made, other), (other, made)):
        with pytest.raises(ssl.SSLError, match=r"(?i)verify failed|unknown ca"):
            meet(who(server, "a1"), who(client, "b1"))


@pytest.mark.parametrize(("begins", "word"), [(-3 * DAY, "expired"), (2 * DAY, "not yet valid")])
def test_time_counts(fleet: Path, begins: timedelta, word: str) -> None:
    forge(fleet, "a2", A2, now=NOW + begins)
    for server, client in (("a1", "a2"), ("a2", "a1")):
        with pytest.raises(ssl.SSLError, match=f"(?i){word}|verify failed"):
            meet(who(fleet, server), who(fleet, client))


def test_clocks_may_differ(fleet: Path) -> None:
    forge(fleet, "a2", A2, now=NOW + timedelta(hours=24))
    meet(who(fleet, "a1"), who(fleet, "a2"))


URI = x509.UniformResourceIdentifier
SPIFFE = "spiffe://fleet.example/user/anna"
ODD = {
    "no names": ((), "no usable names"),
    "no URI": ((x509.DNSName("a2.fleet.example"),), "0 URIs"),
    "two URIs": ((URI(A2.uri), URI(SPIFFE)), "2 URIs"),
    "a URI of others": ((URI("https://fleet.example/cache/a2"),), "not written as|names nobody"),
    "a wildcard": ((URI(SPIFFE), x509.DNSName("*.fleet.example")), "neither a host's name"),
    "an odd word": ((URI("spiffe://fleet.example/cache/a2/region/%0A/isp/x"),), "odd ones"),
}


@pytest.mark.parametrize(("names", "says"), ODD.values(), ids=ODD.keys())
def test_names_that_are_none_of_ours_are_refused(fleet: Path, names: tuple[x509.GeneralName, ...], says: str) -> None:
    add = [(x509.SubjectAlternativeName(names), False)] if names else []
    directory = forge(fleet, "odd", A2, [x509.SubjectAlternativeName], add)
    own, other = who(fleet, "a1"), who(fleet, "b1")
    for context in (other.accepting, other.connecting):
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    for end in (shake(own.accepting, other.connecting)[0], shake(other.accepting, own.connecting)[1]):
        with pytest.raises(PeerRefused, match=says):
            own.peer(end.getpeercert(binary_form=True))
    with pytest.raises(ConfigError, match=r"cert\.pem"):
        Credentials(directory)


def test_an_authoritys_certificate_names_nobody(fleet: Path) -> None:
    directory = forge(
        fleet, "odd", A2, [x509.BasicConstraints], [(x509.BasicConstraints(ca=True, path_length=None), True)]
    )
    other, own = who(fleet, "b1"), who(fleet, "a1")
    other.connecting.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    with pytest.raises((PeerRefused, ssl.SSLError), match=r"(?i)authority's|invalid CA|verify failed"):
        meet(own, other)
    with pytest.raises(ConfigError, match="authority's"):
        Credentials(directory)


def test_what_a_leaf_has_signed_is_refused(fleet: Path) -> None:
    """Whoever has a certificate has no right to make others."""
    forge(fleet, "a2", A2)
    leaf_key = key_from_pem((fleet / "ids" / "a1" / "key.pem").read_bytes(), "")
    leaf = read_certificates(fleet / "ids" / "a1" / "cert.pem")[0]
    victim = read_certificates(fleet / "ids" / "a2" / "cert.pem")[0]
    key = key_from_pem((fleet / "ids" / "a2" / "key.pem").read_bytes(), "")
    builder = x509.CertificateBuilder(
        leaf.subject, victim.subject, key.public_key(), x509.random_serial_number(),
        victim.not_valid_before_utc.replace(tzinfo=None), victim.not_valid_after_utc.replace(tzinfo=None),
    )  # fmt: skip
    for extension in victim.extensions:
        if not isinstance(extension.value, x509.AuthorityKeyIdentifier):
            builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(leaf_key, SHA256())
    (fleet / "ids" / "a2" / "cert.pem").write_bytes(signed.public_bytes(Encoding.PEM) + leaf.public_bytes(Encoding.PEM))
    with pytest.raises(ssl.SSLError, match=r"(?i)verify failed|unknown ca"):
        meet(who(fleet, "b1"), who(fleet, "a2"))


def test_another_domain_under_the_same_root_is_refused(fleet: Path) -> None:
    forge(fleet, "odd", Identity("other.example", Role.USER, "anna"))
    with pytest.raises(PeerRefused, match=r"user/anna is of 'other.example'"):
        meet(who(fleet, "a1"), who(fleet, "odd"))


def test_a_user_is_no_server(made: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)purpose"):
        meet(who(made, "anna"), who(made, "a1"))


# ---- revocation


def revoke(fleet: Path, name: str) -> bytes:
    with Authority(fleet / "ca") as authority:
        authority.revoke(authority.meant(name, NOW), NOW)
        return authority.state.revoked_pem


def test_a_revoked_certificate_is_refused_by_file_and_by_word(fleet: Path) -> None:
    a1, b1, anna = (who(fleet, name) for name in ("a1", "b1", "anna"))
    before = (fleet / "ca" / "revoked.pem").read_bytes()
    lists = revoke(fleet, "anna")
    meet(a1, anna)
    shutil.copy(fleet / "ca" / "revoked.pem", fleet / "ids" / "a1")
    assert a1.reload()
    assert not a1.reload()
    assert b1.revocations.add(lists)
    assert not b1.revocations.add(lists)
    assert not b1.revocations.add(before), "an older list, shown again, lifts nothing"
    for server in (a1, b1):
        with pytest.raises(PeerRefused, match="user/anna was revoked"):
            meet(server, anna)
    meet(a1, b1)
    assert b1.revocations.pem() == lists


def test_what_was_told_outlives_a_renewal(fleet: Path) -> None:
    a1, anna = who(fleet, "a1"), who(fleet, "anna")
    a1.revocations.add(revoke(fleet, "anna"))
    with Authority(fleet / "ca") as authority:
        assert authority.renew(["a1"], fleet / "new", NOW, 100 * DAY, 120 * DAY)
    shutil.copy(fleet / "new" / "a1" / "cert.pem", fleet / "ids" / "a1")
    ends = a1.expires
    assert a1.reload()
    assert a1.expires > ends
    with pytest.raises(PeerRefused, match="revoked"):
        meet(a1, anna)


def test_no_revoked_one_slips_in_while_files_are_read(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a1, anna = who(fleet, "a1"), who(fleet, "anna")
    lists = revoke(fleet, "anna")
    shutil.copy(fleet / "ids" / "b1" / "revoked.pem", fleet / "ids" / "a1" / "new")
    (fleet / "ids" / "a1" / "new").rename(fleet / "ids" / "a1" / "revoked.pem")
    asked = []
    read = credentials_module.read_certificates

    def reading(path: Path) -> list[x509.Certificate]:
        # What is told while files are read counts at once, and when they have been read.
        if not asked:
            a1.revoke(lists)
        with pytest.raises(PeerRefused, match="revoked"):
            meet(a1, anna)
        asked.append(path)
        return read(path)

    monkeypatch.setattr(credentials_module, "read_certificates", reading)
    assert a1.reload()
    assert len(asked) == 2
    assert a1.generation == 2
    with pytest.raises(PeerRefused, match="revoked"):
        meet(a1, anna)


def test_lists_of_others_are_passed_over_and_forged_ones_refused(fleet: Path, tmp_path: Path) -> None:
    a1, b1 = who(fleet, "a1"), who(fleet, "b1")
    foreign = (make_fleet(tmp_path / "other") / "ca" / "revoked.pem").read_bytes()
    with pytest.raises(ConfigError, match="none of the auth"):
        a1.revocations.add(foreign)
    anna = who(fleet, "anna")
    assert a1.revocations.add(foreign + revoke(fleet, "anna"))
    with pytest.raises(PeerRefused, match="revoked"):
        meet(a1, anna)
    for bad in (b"hello", b"-----END X509 CRL-----", foreign + b"x", b"\xff" * 100):
        with pytest.raises(ConfigError, match=r"cannot be read|something behind"):
            a1.revocations.add(bad)
    meet(a1, b1)


def test_a_list_of_a_part_does_not_take_the_place_of_the_whole(fleet: Path) -> None:
    """A delta list has a higher number than the list that it adds to, and lacks what was revoked before it."""
    a1, anna = who(fleet, "a1"), who(fleet, "anna")
    a1.revocations.add(revoke(fleet, "anna"))
    root = read_certificates(fleet / "ca" / "ca.pem")[0]
    key = key_from_pem((fleet / "ca" / "root-1.key").read_bytes(), "")
    builder = x509.CertificateRevocationListBuilder(
        root.subject, NOW.replace(tzinfo=None), (NOW + DAY).replace(tzinfo=None)
    )
    builder = builder.add_extension(x509.CRLNumber(9), False).add_extension(x509.DeltaCRLIndicator(2), True)
    with pytest.raises(ConfigError, match="not known here"):
        a1.revocations.add(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(PeerRefused, match="revoked"):
        meet(a1, anna)


def test_lists_of_two_roots_of_one_name_are_told_apart(fleet: Path, tmp_path: Path) -> None:
    root = read_certificates(fleet / "ca" / "ca.pem")[0]
    other = make_fleet(tmp_path / "other")
    other_key = key_from_pem((other / "ca" / "root-1.key").read_bytes(), "")
    twin = x509.CertificateBuilder(
        root.subject, root.subject, other_key.public_key(), 1,
        root.not_valid_before_utc.replace(tzinfo=None), root.not_valid_after_utc.replace(tzinfo=None),
    ).add_extension(x509.SubjectKeyIdentifier.from_public_key(other_key.public_key()), False).sign(
        other_key, SHA256()
    )  # fmt: skip
    leaf = read_certificates(fleet / "ids" / "a1" / "cert.pem")[0]
    lists = make_revocation_list(twin, other_key, 1, [(leaf.serial_number, NOW)], NOW)
    revocations = Revocations([root, twin])
    revocations.add(lists.public_bytes(Encoding.PEM))
    assert not revocations.has(leaf)
    mine = make_revocation_list(
        root, key_from_pem((fleet / "ca" / "root-1.key").read_bytes(), ""), 2, [(leaf.serial_number, NOW)], NOW
    )
    revocations.add(mine.public_bytes(Encoding.PEM))
    assert revocations.has(leaf)


def test_an_end_is_said_in_time_and_each_day(tmp_path: Path) -> None:
    mine = who(make_fleet(tmp_path), "a1")
    ends, ending = mine.expires, Ending()
    assert not ending.line(mine, ends - 8 * DAY)
    assert "ends at" in ending.line(mine, ends - 6 * DAY)
    assert not ending.line(mine, ends - 6 * DAY + timedelta(hours=23))
    assert "`p2pfill ca renew`" in ending.line(mine, ends - 5 * DAY)
    assert "has ended at" in ending.line(mine, ends)
    assert "ends at" in ending.line(mine, ends - 6 * DAY)  # the clock was wrong


def test_where_the_authority_ends_another_is_what_helps(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", "fleet.example", NOW, 70 * DAY)
    (tmp_path / "ca" / "fleet.toml").write_text('users = [{ name = "anna" }]')
    with Authority(tmp_path / "ca") as authority:
        authority.issue(["anna"], tmp_path / "ids", NOW)
    anna, ending = who(tmp_path, "anna"), Ending()
    assert not ending.line(anna, NOW)
    assert "`p2pfill ca rotate`" in ending.line(anna, NOW + 11 * DAY)


# ---- authorities below others


def below(fleet: Path, key: PrivateKey) -> x509.Certificate:
    """Return an authority whose certificate the fleet's root has signed; its own root may sign such ones."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "below")])
    root, root_key = house(fleet)
    begin, end = root.not_valid_before_utc.replace(tzinfo=None), root.not_valid_after_utc.replace(tzinfo=None)
    return (
        x509.CertificateBuilder(root.subject, name, key.public_key(), 77, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(root_key, SHA256())
    )


def house(fleet: Path) -> tuple[x509.Certificate, PrivateKey]:
    """Return the fleet's root as one that may sign authorities, which ours never does."""
    key = key_from_pem((fleet / "ca" / "root-1.key").read_bytes(), "")
    root = read_certificates(fleet / "ca" / "ca.pem")[0]
    begin, end = root.not_valid_before_utc.replace(tzinfo=None), root.not_valid_after_utc.replace(tzinfo=None)
    return (
        x509.CertificateBuilder(root.subject, root.subject, key.public_key(), 76, begin, end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256()),
        key,
    )


def test_who_is_signed_for_by_an_authority_below_a_trusted_one_is_refused_until_that_is_listed(fleet: Path) -> None:
    """Else a revoked one would go on signing: a handshake shows the last certificate of a chain alone."""
    key, leaf_key = new_key(), new_key()
    middle, (root, _) = below(fleet, key), house(fleet)
    leaf = make_leaf(A2, leaf_key.public_key(), middle, key, NOW, DAY)
    pems = {name: one.public_bytes(Encoding.PEM) for name, one in (("middle", middle), ("root", root), ("leaf", leaf))}
    (fleet / "ids" / "a2").mkdir()
    write(fleet / "ids" / "a2", pems["leaf"] + pems["middle"], key_to_pem(leaf_key), pems["root"])
    for name in ("a1", "main"):
        (fleet / "ids" / name / "ca.pem").write_bytes(pems["root"])
    a1, a2 = who(fleet, "a1"), who(fleet, "a2")
    assert "'CN=below' is not in ca.pem" in fault_of(a2)
    with pytest.raises(PeerRefused, match="cache/a2 is of an authority that is not trusted here"):
        meet(a1, a2)
    for name in ("a1", "a2"):
        (fleet / "ids" / name / "ca.pem").write_bytes(pems["root"] + pems["middle"])
        (fleet / "ids" / name / "revoked.pem").unlink(missing_ok=True)
    assert a1.reload()
    assert a2.reload()
    assert fault_of(a2) == ""
    meet(a1, a2)
    bearer = Bearer(a1, leaf.public_bytes(Encoding.DER))
    a1.revoke(make_revocation_list(middle, key, 1, [(leaf.serial_number, NOW)], NOW).public_bytes(Encoding.PEM))
    with pytest.raises(PeerRefused, match="revoked"):
        bearer.identity()


def test_who_is_let_in_ends_with_the_authority_below(fleet: Path) -> None:
    key = new_key()
    middle, (root, _) = below(fleet, key), house(fleet)
    leaf = make_leaf(A2, new_key().public_key(), middle, key, NOW, DAY)
    both = root.public_bytes(Encoding.PEM) + middle.public_bytes(Encoding.PEM)
    (fleet / "ids" / "a1" / "ca.pem").write_bytes(both)
    a1 = who(fleet, "a1")
    bearer = Bearer(a1, leaf.public_bytes(Encoding.DER))
    (fleet / "ids" / "a1" / "ca.pem").write_bytes(root.public_bytes(Encoding.PEM))
    assert a1.reload()
    with pytest.raises(PeerRefused, match="not trusted here"):
        bearer.identity()


# ---- the directory


def test_authorities_may_follow_one_another_without_a_line_end(fleet: Path, tmp_path: Path) -> None:
    """As where two files were put together, of which the first has none at its end."""
    other = make_fleet(tmp_path / "other")
    a1 = fleet / "ids" / "a1" / "ca.pem"
    a1.write_bytes((other / "ca" / "ca.pem").read_bytes().rstrip() + a1.read_bytes().rstrip())
    meet(who(fleet, "a1"), who(fleet, "b1"))
    meet(who(fleet, "b1"), who(fleet, "a1"))


def test_a_revocation_list_that_is_empty_is_a_copy_that_broke_off(fleet: Path) -> None:
    a1, anna = who(fleet, "a1"), who(fleet, "anna")
    path = fleet / "ids" / "a1" / "revoked.pem"
    path.write_bytes(revoke(fleet, "anna"))
    assert a1.reload()
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match="is empty: copy it again, or remove it"):
        a1.reload()
    with pytest.raises(PeerRefused, match="revoked"):
        meet(a1, anna)
    with pytest.raises(ConfigError, match="is empty"):
        who(fleet, "a1")
    path.unlink()
    who(fleet, "a1")


def test_a_directory_that_cannot_be_used_says_why(fleet: Path) -> None:
    directory = fleet / "ids" / "a1"
    for name, says in (("cert.pem", "ca issue"), ("ca.pem", "ca issue"), ("key.pem", "belong together")):
        kept = (directory / name).read_bytes()
        (directory / name).unlink()
        with pytest.raises(ConfigError, match=says):
            Credentials(directory)
        (directory / name).write_bytes(b"hello")
        (directory / name).chmod(0o600)
        with pytest.raises(ConfigError, match=r"cert\.pem|ca\.pem|belong together"):
            Credentials(directory)
        (directory / name).write_bytes(kept)
    Credentials(directory)
    shutil.copy(fleet / "ids" / "b1" / "key.pem", directory)
    with pytest.raises(ConfigError, match="do they belong together"):
        Credentials(directory)


def test_a_key_that_others_may_read_is_refused(fleet: Path) -> None:
    key = fleet / "ids" / "a1" / "key.pem"
    for mode, is_good in ((0o400, True), (0o640, True), (0o604, False), (0o660, False)):
        key.chmod(mode)
        if is_good:
            who(fleet, "a1")
        else:
            with pytest.raises(ConfigError, match="chmod 600"):
                who(fleet, "a1")


def test_a_key_with_a_password_is_refused_and_nobody_asked(fleet: Path) -> None:
    path = fleet / "ids" / "a1" / "key.pem"
    key = key_from_pem(path.read_bytes(), "")
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(ConfigError, match="cannot use"):
        who(fleet, "a1")


def test_what_is_half_carried_over_changes_nothing(fleet: Path) -> None:
    a1, b1 = who(fleet, "a1"), who(fleet, "b1")
    with Authority(fleet / "ca") as authority:
        assert authority.renew(["a1"], fleet / "new", NOW, 100 * DAY, new_keys=True)
    before = a1.accepting
    shutil.copy(fleet / "new" / "a1" / "cert.pem", fleet / "ids" / "a1")
    for _ in range(2):
        with pytest.raises(ConfigError, match="belong together"):
            a1.reload()
    assert a1.accepting is before
    meet(a1, b1)
    shutil.copy(fleet / "new" / "a1" / "key.pem", fleet / "ids" / "a1")
    assert a1.reload()
    assert a1.accepting is not before
    meet(a1, b1)


def test_a_certificate_whose_issuer_is_no_name_is_refused(made: Path) -> None:
    certificate = x509.load_pem_x509_certificate((made / "ids" / "b1" / "cert.pem").read_bytes())
    der, issuer = bytearray(certificate.public_bytes(Encoding.DER)), certificate.issuer.public_bytes()
    der[der.index(issuer) + len(issuer) - 1] = 0xFF  # no UTF-8: read only when somebody asks for it
    with pytest.raises(PeerRefused, match="cannot be used"):
        who(made, "main").peer(bytes(der))


def test_a_certificate_of_a_version_that_is_none_is_a_damaged_record(made: Path) -> None:
    certificate = x509.load_pem_x509_certificate((made / "ids" / "b1" / "cert.pem").read_bytes())
    der = bytearray(certificate.public_bytes(Encoding.DER))
    der[der.index(b"\xa0\x03\x02\x01\x02") + 4] = 38
    pem = f"-----BEGIN CERTIFICATE-----\n{base64.encodebytes(bytes(der)).decode()}-----END CERTIFICATE-----\n"
    with pytest.raises(ConfigError, match="is damaged"):
        records._certificate(pem)
