"""What the authority signs, for whom, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
import stat
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from trust.handshake import DAY, FLEET, NAMES, NOW, SERVERS, make_fleet, meet

from p2pfill.errors import ConfigError
from p2pfill.trust.authority import Authority, AuthorityError
from p2pfill.trust.certificates import new_key
from p2pfill.trust.credentials import Credentials, PeerRefused, read_certificates
from p2pfill.trust.records import KEPT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture
def fleet(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "fleet"))


def cert_of(fleet: Path, name: str) -> x509.Certificate:
    return read_certificates(fleet / "ids" / name / "cert.pem")[0]


def key_bytes(fleet: Path, name: str) -> bytes:
    return (fleet / "ids" / name / "key.pem").read_bytes()


# ---- what is signed


def test_the_root_signs_leaves_only(made: Path) -> None:
    (root,) = read_certificates(made / "ca" / "ca.pem")
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (constraints.critical, constraints.value) == (True, x509.BasicConstraints(ca=True, path_length=0))
    usage = root.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.key_cert_sign
    assert usage.value.crl_sign
    assert not usage.value.digital_signature
    assert timedelta(days=3649) < root.not_valid_after_utc - NOW < timedelta(days=3651)


@pytest.mark.parametrize("name", NAMES)
def test_a_leaf_carries_what_it_must_and_no_more(made: Path, name: str) -> None:
    leaf, (root,) = cert_of(made, name), read_certificates(made / "ca" / "ca.pem")
    found = {extension.value.__class__: extension for extension in leaf.extensions}
    assert found[x509.BasicConstraints].value == x509.BasicConstraints(ca=False, path_length=None)
    usage = found[x509.KeyUsage]
    assert usage.critical
    assert usage.value.digital_signature
    assert not usage.value.key_cert_sign
    assert not usage.value.key_encipherment
    purposes = {ExtendedKeyUsageOID.CLIENT_AUTH} | ({ExtendedKeyUsageOID.SERVER_AUTH} if name in SERVERS else set())
    assert set(found[x509.ExtendedKeyUsage].value) == purposes
    key_name = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert found[x509.AuthorityKeyIdentifier].value.key_identifier == key_name
    assert set(found) == {
        x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage, x509.SubjectAlternativeName,
        x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier,
    }  # fmt: skip
    public = leaf.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    assert public.curve.name == "secp256r1"
    assert leaf.not_valid_before_utc <= NOW - timedelta(days=1)
    assert NOW + 89 * DAY < leaf.not_valid_after_utc <= NOW + 90 * DAY
    assert 2**100 < leaf.serial_number < 2**159
    leaf.verify_directly_issued_by(root)


def test_nothing_is_readable_by_others(made: Path) -> None:
    for path in [made / "ca", *made.glob("ids"), *made.glob("ids/*"), *made.rglob("*key*"), made / "ca" / "state.json"]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert len(list(made.rglob("*key*"))) == 1 + len(NAMES)


def test_a_certificate_ends_with_its_root(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", "fleet.example", NOW, 30 * DAY)
    (tmp_path / "ca" / "fleet.toml").write_text(FLEET)
    with Authority(tmp_path / "ca") as authority:
        root = authority.state.root.certificate
        assert {one.ends for one in authority.issue([], tmp_path / "ids", NOW)} == {root.not_valid_after_utc}
        # Renewed it would end at the same time.
        later = NOW + 10 * DAY
        assert authority.renew([], tmp_path / "ids", later) == []
        assert {line.notes for line in authority.lines(later)} == {("ends with the root: change that",)}
        assert len(authority.renew(["a1"], tmp_path / "ids", later, new_keys=True)) == 1
        authority.rotate(later)
        authority.switch(later)
        assert len(authority.renew([], tmp_path / "ids", later)) == len(NAMES)
        assert {line.notes for line in authority.lines(later)} == {()}


def test_nothing_is_signed_by_a_root_that_has_ended(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", "fleet.example", NOW, 30 * DAY)
    (tmp_path / "ca" / "fleet.toml").write_text(FLEET)
    with Authority(tmp_path / "ca") as authority, pytest.raises(AuthorityError, match="ca rotate"):
        authority.issue([], tmp_path / "ids", NOW + 31 * DAY)


# ---- for whom


LISTS = {
    "caches[0]: it has no hosts": '[[caches]]\nid = "a1"\nisp = "i"\nhosts = []',
    "missing required field `hosts`": '[[trackers]]\nname = "t"',
    "unknown field `node`": '[[caches]]\nnode = "a1"\nid = "a1"\nisp = "i"\nhosts = ["h"]',
    "unknown field `cache`": '[[cache]]\nid = "a1"',
    "'10.0.0' is neither": '[[trackers]]\nname = "t"\nhosts = ["10.0.0"]',
    "'*.example' is neither": '[[trackers]]\nname = "t"\nhosts = ["*.example"]',
    "'0.0.0.0' is not the address of one": '[[trackers]]\nname = "t"\nhosts = ["0.0.0.0"]',
    "'fe80::1%eth0' is not the address": '[[trackers]]\nname = "t"\nhosts = ["fe80::1%eth0"]',
    "'http://h' is neither": '[[trackers]]\nname = "t"\nhosts = ["http://h"]',
    "users[1]: the name of user/Anna is taken by user/anna": '[[users]]\nname = "anna"\n[[users]]\nname = "Anna"',
    "the name of user/t is taken by tracker/t": (
        '[[trackers]]\nname = "t"\nhosts = ["h"]\n[[users]]\nname = "t"'
    ),
    "users[1]: the name of user/anna is taken": '[[users]]\nname = "anna"\n[[users]]\nname = "anna"',
    "users[0]: '../x' is not a node id": '[[users]]\nname = "../x"',
    "a cache has a region and an ISP": '[[caches]]\nid = "a1"\nisp = ""\nhosts = ["h"]',
    "odd ones": '[[caches]]\nid = "a1"\nisp = "x\\u0000"\nhosts = ["h"]',
    "too long for a certificate": f'[[caches]]\nid = "a1"\nisp = "{"ä" * 128}"\ncluster = "{"ö" * 128}"\nhosts = ["h"]',
    "more than 64": f'[[trackers]]\nname = "t"\nhosts = {json.dumps([f"h{n}" for n in range(65)])}',
    "Expected": '[[users]]\nname = 1',
    "after a key": "x",
}  # fmt: skip


@pytest.mark.parametrize(("says", "text"), LISTS.items(), ids=range(len(LISTS)))
def test_a_list_that_cannot_be_used_says_where(made: Path, says: str, text: str, tmp_path: Path) -> None:
    ca = Path(shutil.copytree(made / "ca", tmp_path / "ca"))
    (ca / "fleet.toml").write_text(text)
    before = (ca / "state.json").read_bytes()
    with Authority(ca) as authority:
        for call in (authority.issue, authority.renew):
            with pytest.raises(ConfigError) as caught:
                call([], tmp_path / "ids", NOW)
            assert says in str(caught.value)
            assert "fleet.toml" in str(caught.value)
    assert (ca / "state.json").read_bytes() == before
    assert not (tmp_path / "ids").exists()


def test_only_who_is_listed_gets_one(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        for name in ("eve", "cache/main", "", "../a1", "user/../anna"):
            with pytest.raises(ConfigError, match="not in the list"):
                authority.issue([name], fleet / "other", NOW)
            with pytest.raises(ConfigError, match="not in the list"):
                authority.renew([name], fleet / "other", NOW)
            with pytest.raises(ConfigError, match="not in the list"):
                authority.issue_for_request(name, request(), "eve.csr", fleet / "other", NOW)
        assert authority.issue(["cache/a1"], fleet / "other", NOW)[0].who == "cache/a1"


def request(key: object = None, name: str = "eve", curve: ec.EllipticCurve | None = None) -> bytes:
    """Return a request that asks for much: another's name, hosts, and the right to sign."""
    private = ec.generate_private_key(curve or ec.SECP256R1()) if key is None else key
    builder = x509.CertificateSigningRequestBuilder(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    ).add_extension(
        x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier("spiffe://fleet.example/tracker/main"), x509.DNSName("anything.example")]
        ),
        critical=False,
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return builder.sign(private, SHA256()).public_bytes(Encoding.PEM)  # type: ignore[arg-type]


def test_of_a_request_the_key_alone_is_taken(fleet: Path) -> None:
    """The auditors' finding: an authority that signs for any address voids mutual TLS."""
    key = new_key()
    with Authority(fleet / "ca") as authority:
        given = authority.issue_for_request("anna", request(key), "eve.csr", fleet / "new", NOW)
        again = authority.issue_for_request("anna", request(key), "eve.csr", fleet / "new", NOW)
        assert (given.is_new, again.is_new, again.serial) == (True, False, given.serial)
    leaf = read_certificates(fleet / "new" / "anna" / "cert.pem")[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [x509.UniformResourceIdentifier("spiffe://fleet.example/user/anna")]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert leaf.public_key() == key.public_key()
    assert sorted(path.name for path in (fleet / "new" / "anna").iterdir()) == ["ca.pem", "cert.pem", "revoked.pem"]


def test_requests_that_cannot_be_signed(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        for pem, says in (
            (b"hello", "no signing request"),
            (request(curve=ec.SECP384R1()), "P-256"),
            (request(rsa.generate_private_key(65537, 2048)), "P-256"),
            (tampered(request()), "not signed with its own key"),
        ):
            with pytest.raises(ConfigError, match=says):
                authority.issue_for_request("anna", pem, "eve.csr", fleet / "new", NOW)
        key = new_key()
        authority.issue_for_request("anna", request(key), "anna.csr", fleet / "new", NOW)
        with pytest.raises(ConfigError, match="user/anna's"):
            authority.issue_for_request("a1", request(key), "a1.csr", fleet / "new", NOW)
        authority.revoke(authority.meant("anna", NOW), NOW)
        with pytest.raises(ConfigError, match="taken back"):
            authority.issue_for_request("anna", request(key), "anna.csr", fleet / "new", NOW)
        with pytest.raises(ConfigError, match="another key lies"):
            authority.issue_for_request("anna", request(), "anna.csr", fleet / "ids", NOW)


def tampered(pem: bytes) -> bytes:
    """Return a request whose signature is of another one."""
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER))
    der[der.index(b"eve")] = ord("E")
    return x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)


# ---- again, and later


def test_issue_again_changes_nothing(fleet: Path) -> None:
    files = {path: path.stat().st_ino for path in fleet.glob("ids/*/*")}
    with Authority(fleet / "ca") as authority:
        again = authority.issue([], fleet / "ids", NOW)
        assert [one.is_new for one in again] == [False] * len(NAMES)
        assert len(authority.state.issued) == len(NAMES)
        # Elsewhere, `all` is who has none, and a name is one that asks for it.
        assert authority.issue([], fleet / "new", NOW) == []
        assert authority.issue(["a1"], fleet / "new", NOW)[0].is_new
        assert len(authority.state.issued) == len(NAMES) + 1
    assert {path: path.stat().st_ino for path in fleet.glob("ids/*/*")} == files


def test_renewal_keeps_the_key_and_takes_what_is_due(fleet: Path) -> None:
    later, keys = NOW + 50 * DAY, {name: key_bytes(fleet, name) for name in NAMES}
    with Authority(fleet / "ca") as authority:
        assert authority.renew([], fleet / "ids", later) == []
        authority.renew(["b1"], fleet / "ids", later, 60 * DAY)
        renewed = authority.renew([], fleet / "ids", NOW + 61 * DAY)
        assert [one.who for one in renewed] == ["cache/a1", "tracker/main", "user/anna"]
        assert all(one.ends > NOW + 150 * DAY for one in renewed)
        assert {line.state for line in authority.lines(NOW + 61 * DAY)} == {"good", "replaced"}
    assert {name: key_bytes(fleet, name) for name in NAMES} == keys
    for name in NAMES:
        assert Credentials(fleet / "ids" / name).expires > NOW + 130 * DAY


def test_renewal_in_another_place_writes_certificates_alone(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.renew([], fleet / "new", NOW + 61 * DAY)
    assert not list(fleet.glob("new/*/key.pem"))
    for name in NAMES:
        new = read_certificates(fleet / "new" / name / "cert.pem")[0]
        assert new.public_key() == cert_of(fleet, name).public_key()


def test_new_keys_are_drawn_for_those_that_were_drawn_here(fleet: Path) -> None:
    key, keys = new_key(), {name: key_bytes(fleet, name) for name in NAMES}
    shutil.rmtree(fleet / "ids" / "anna")
    with Authority(fleet / "ca") as authority:
        authority.revoke(authority.meant("anna", NOW), NOW)
        authority.issue_for_request("anna", request(key), "anna.csr", fleet / "ids", NOW)
        assert len(authority.renew([], fleet / "ids", NOW + 61 * DAY, new_keys=True)) == len(NAMES)
    assert cert_of(fleet, "anna").public_key() == key.public_key()
    for name in SERVERS:
        assert key_bytes(fleet, name) != keys[name]
        Credentials(fleet / "ids" / name)


def test_what_the_list_says_anew_is_signed_anew(fleet: Path) -> None:
    (fleet / "ca" / "fleet.toml").write_text(FLEET.replace("2001:db8:0::b1", "b1.example").replace("anna", "otto"))
    with Authority(fleet / "ca") as authority:
        notes = {line.who: line.notes for line in authority.lines(NOW) if line.notes}
        assert notes == {
            "cache/b1": ("the list says otherwise: renew it",), "user/anna": ("not listed any more: revoke it",),
        }  # fmt: skip
        assert ("user/otto", "none") in {(line.who, line.state) for line in authority.lines(NOW)}
        (renewed,) = authority.renew([], fleet / "ids", NOW)
        assert [one.serial for one in authority.meant(renewed.differs_from, NOW)] == [renewed.differs_from]
        assert not [line for line in authority.lines(NOW) if line.who == "cache/b1" and line.notes]
    assert Credentials(fleet / "ids" / "b1").identity.hosts == ("b1.example",)


def test_nobody_rises_by_a_renewal(fleet: Path) -> None:
    """Who had a name in another role has its key still, and gets nothing signed for the one who has the name now."""
    text = FLEET.replace('[[users]]\nname = "anna"', '[[trackers]]\nname = "anna"\nhosts = ["anna.example"]')
    (fleet / "ca" / "fleet.toml").write_text(text)
    with Authority(fleet / "ca") as authority:
        assert authority.renew([], fleet / "new", NOW) == []
        with pytest.raises(ConfigError, match="ca issue"):
            authority.renew(["anna"], fleet / "new", NOW)
        with pytest.raises(ConfigError, match="user/anna's: move it away"):
            authority.issue(["anna"], fleet / "ids", NOW)
        (given,) = authority.issue(["anna"], fleet / "new", NOW)
        assert given.who == "tracker/anna"
        assert {line.notes for line in authority.lines(NOW) if line.who == "user/anna"} == {
            ("not listed any more: revoke it",)
        }
        assert {one.identity.who for one in authority.meant("anna", NOW)} == {"tracker/anna", "user/anna"}
        assert {one.identity.who for one in authority.meant("user/anna", NOW)} == {"user/anna"}
    assert key_bytes(fleet, "anna") != (fleet / "new" / "anna" / "key.pem").read_bytes()


def test_a_revoked_key_never_comes_back(fleet: Path) -> None:
    old = key_bytes(fleet, "a1")
    with Authority(fleet / "ca") as authority:
        authority.revoke(authority.meant("cache/a1", NOW), NOW)
        assert authority.renew([], fleet / "ids", NOW + 70 * DAY) != []
        with pytest.raises(ConfigError, match="ca issue"):
            authority.renew(["a1"], fleet / "ids", NOW)
        with pytest.raises(ConfigError, match="nothing to revoke"):
            authority.meant("a1", NOW)
        # Not by way of a new root, nor years later, when the certificate is out of the lists.
        authority.rotate(NOW)
        authority.switch(NOW)
        authority.renew([], fleet / "ids", NOW)
        authority.finish(NOW)
        authority.rotate(NOW + 2 * KEPT)
    with Authority(fleet / "ca") as authority:
        assert authority.issue(["a1"], fleet / "ids", NOW)[0].is_new
    assert key_bytes(fleet, "a1") != old
    meet(Credentials(fleet / "ids" / "a1"), Credentials(fleet / "ids" / "b1"))


def test_revocation_by_name_takes_all_and_by_serial_one(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.renew(["a1", "b1"], fleet / "ids", NOW, 100 * DAY)
        assert len(authority.meant("a1", NOW)) == 2
        authority.revoke(authority.meant("a1", NOW), NOW)
        old, new = authority.meant("b1", NOW)
        colons = ":".join(old.serial[place : place + 2].upper() for place in range(0, len(old.serial), 2))
        for text in (old.serial, colons, old.serial[:12]):
            assert authority.meant(text, NOW) == [old]
        authority.revoke([old], NOW)
        for text in ("zz", old.serial[:7], "0" * 40, "nobody"):
            with pytest.raises(ConfigError, match="ca show"):
                authority.meant(text, NOW)
        with pytest.raises(ConfigError, match="not good any more"):
            authority.meant(old.serial, NOW)
        lists = authority.state.revoked_pem
        assert new.revoked_at is None
    (revoked,) = [x509.load_pem_x509_crl(lists)]
    assert len(revoked) == 3
    before = x509.load_pem_x509_crl((fleet / "ids" / "main" / "revoked.pem").read_bytes())
    assert number_of(revoked) > number_of(before)
    main = Credentials(fleet / "ids" / "main")
    main.revocations.add(lists)
    with pytest.raises(PeerRefused):
        meet(main, Credentials(fleet / "ids" / "a1"))
    meet(main, Credentials(fleet / "ids" / "b1"))


def number_of(revoked: x509.CertificateRevocationList) -> int:
    return revoked.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def test_an_authority_put_back_from_a_copy_is_heard(fleet: Path) -> None:
    """It has forgotten how many lists it had made, and nodes hear none that is older than what they know."""
    copy = shutil.copytree(fleet / "ca", fleet / "copy")
    main = Credentials(fleet / "ids" / "main")
    with Authority(fleet / "ca") as authority:
        for name in ("a1", "b1"):
            authority.revoke(authority.meant(name, NOW), NOW)
            assert main.revocations.add(authority.state.revoked_pem)
    with Authority(copy) as authority:
        authority.revoke(authority.meant("anna", NOW), NOW + DAY)
        assert main.revocations.add(authority.state.revoked_pem)
    with pytest.raises(PeerRefused, match="revoked"):
        meet(main, Credentials(fleet / "ids" / "anna"))


# ---- the directory


def test_two_commands_wait_for_each_other(fleet: Path) -> None:
    order = []

    def other() -> None:
        with Authority(fleet / "ca") as second:
            order.append(f"second sees {len(second.state.issued)}")

    with Authority(fleet / "ca") as first:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.05)
        first.issue(["a1"], fleet / "new", NOW)
        order.append("first")
    thread.join(10)
    assert order == ["first", f"second sees {len(NAMES) + 1}"]


def test_directories_that_are_no_authority(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ca init"):
        Authority(tmp_path / "none")
    with pytest.raises(ConfigError, match="is an authority already"):
        Authority.create(made / "ca", "fleet.example", NOW)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "film.mp4").touch()
    with pytest.raises(ConfigError, match="not empty"):
        Authority.create(tmp_path / "full", "fleet.example", NOW)
    for domain in ("", "Fleet.example", "a/b", "x" * 300, "ä.example"):
        with pytest.raises(ConfigError, match="trust domain"):
            Authority.create(tmp_path / "new", domain, NOW)
    assert not (tmp_path / "new").exists()
    ca = Path(shutil.copytree(made / "ca", tmp_path / "ca"))
    ca.chmod(0o750)
    with pytest.raises(ConfigError, match="chmod 700"):
        Authority(ca)
    ca.chmod(0o700)
    for damage in (b"", b"{", b"[]", (ca / "state.json").read_bytes().replace(b'"format": 1', b'"format": 2')):
        (ca / "state.json").write_bytes(damage)
        with pytest.raises(ConfigError, match=r"damaged|format 2"):
            Authority(ca)
    (ca / "state.json").write_bytes((made / "ca" / "state.json").read_bytes().replace(b"BEGIN C", b"BEGIN D"))
    with pytest.raises(ConfigError, match="damaged"), Authority(ca) as authority:
        authority.lines(NOW)


def test_a_list_may_be_there_before_the_authority(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir(mode=0o755)
    (tmp_path / "ca" / "fleet.toml").write_text(FLEET)
    Authority.create(tmp_path / "ca", "fleet.example", NOW)
    with Authority(tmp_path / "ca") as authority:
        assert list(authority.listed()) == list(NAMES)


def test_the_list_that_init_writes_shows_how(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca", "fleet.example", NOW)
    path = tmp_path / "ca" / "fleet.toml"
    with Authority(tmp_path / "ca") as authority:
        assert authority.listed() == {}
        text = path.read_text()
        path.write_text(re.sub(r"(?m)^# ?", "", text[text.index("# [[caches]]") :]))
        assert list(authority.listed()) == ["a1", "main", "anna"]
