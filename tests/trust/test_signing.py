"""What is signed of a title, who counts, and what is refused: everything that comes from elsewhere is hostile."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from publishing import Film, Studio, write_publishers

from p2pfill.errors import ConfigError, ManifestError, SignatureError
from p2pfill.model.ids import TitleId
from p2pfill.model.statement import (
    EXPIRES_MAX,
    NUMBER_MAX,
    SIGNATURES,
    SIGNATURES_BYTES_MAX,
    SIGNATURES_MAX,
    Signatures,
    Statement,
)
from p2pfill.trust.publishers import Publishers, Rule, open_title
from p2pfill.trust.signing import PublicKey, key_id_of, load_key, make_key, public_word, sign

TITLE = TitleId(b"t" * 32)
ONE, TWO, THREE, STRANGER = Studio("studio-1"), Studio("studio-2"), Studio("studio-3"), Studio("stranger")

statements = st.builds(
    Statement, st.binary(min_size=32, max_size=32), st.text(min_size=1, max_size=200), st.integers(0, NUMBER_MAX),
    st.integers(0, EXPIRES_MAX),
)  # fmt: skip
signers = st.dictionaries(
    st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64), min_size=1, max_size=SIGNATURES_MAX
)


def known(tmp_path: Path, *studios: Studio, threshold: int = 1, titles: str = "*", more: str = "") -> Publishers:
    write_publishers(tmp_path, *studios, threshold=threshold, titles=titles, more=more)
    return Publishers.load(tmp_path / "publishers.toml")


# ---- the encoding


@given(statements, signers)
def test_signatures_have_one_encoding_which_fits(statement: Statement, by: dict[bytes, bytes]) -> None:
    encoded = Signatures(statement, by).encode()
    assert len(encoded) <= SIGNATURES_BYTES_MAX
    assert Signatures.decode(encoded) == Signatures(statement, by)


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_canonical(data: bytes) -> None:
    with suppress(SignatureError):
        assert Signatures.decode(data).encode() == data


@given(statements, signers, st.data())
def test_a_changed_byte_is_refused_or_says_something_else(
    statement: Statement, by: dict[bytes, bytes], data: st.DataObject
) -> None:
    made = Signatures(statement, by)
    encoded = bytearray(made.encode())
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    with suppress(SignatureError):
        assert Signatures.decode(bytes(encoded)) != made


@given(statements, statements)
def test_no_two_statements_are_signed_as_the_same_bytes(one: Statement, other: Statement) -> None:
    assert (one.encode() == other.encode()) == (one == other)


def fields(**changed: object) -> list[object]:
    key, signature = b"k" * 32, b"s" * 64
    values = {"format": SIGNATURES, "title": TITLE, "name": "film", "number": 1, "expires": 0, "by": [[key, signature]]}
    return list((values | changed).values())


@pytest.mark.parametrize(
    "value",
    [
        fields(format="p2pfill-signatures-2"),
        fields(title=TITLE[1:]),
        fields(name=""),
        fields(name="x" * 201),
        fields(name=b"film"),
        fields(number=-1),
        fields(number=NUMBER_MAX + 1),
        fields(number=1.0),
        fields(number=True),
        fields(expires=EXPIRES_MAX + 1),
        fields(by=[]),
        fields(by=[[b"k" * 31, b"s" * 64]]),
        fields(by=[[b"k" * 32, b"s" * 63]]),
        fields(by=[[b"k" * 32, b"s" * 64]] * 2),
        fields(by=[[b"l" * 32, b"s" * 64], [b"k" * 32, b"s" * 64]]),
        fields(by=[[bytes([number]) * 32, b"s" * 64] for number in range(SIGNATURES_MAX + 1)]),
        fields()[:-1],
        [*fields(), 0],
        {"format": SIGNATURES},
        None,
    ],
)
def test_what_breaks_a_rule_is_refused(value: object) -> None:
    assert Signatures.decode(msgpack.packb(fields()))
    with pytest.raises(SignatureError):
        Signatures.decode(msgpack.packb(value))


def test_large_and_deep_ones_are_refused() -> None:
    with pytest.raises(SignatureError, match="too large"):
        Signatures.decode(bytes(SIGNATURES_BYTES_MAX + 1))
    for deep in (b"\x91" * 4000, b"\xdd\xff\xff\xff\xff" * 800, b"\xdc\x00\x10" * 1300):
        with pytest.raises(SignatureError):
            Signatures.decode(deep)
    with pytest.raises(SignatureError):
        Signatures.decode(msgpack.packb(fields()) + b"\x00")


# ---- keys


def test_a_key_is_its_owners_alone_and_no_other_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    word = make_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert public_word(load_key(path)) == word == PublicKey(word).word
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="File exists"):
        make_key(path)
    assert path.read_bytes() == before
    path.chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        load_key(path)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for text, why in [(pem, "another kind"), (b"hello", "no key in PEM"), (b"", "no key in PEM")]:
        path.write_bytes(text)
        path.chmod(0o600)
        with pytest.raises(ConfigError, match=why):
            load_key(path)
    with pytest.raises(ConfigError, match="key new"):
        load_key(tmp_path / "none")


@given(st.one_of(st.text(max_size=80), st.text("ABCDabcd+/=", max_size=60).map("ed25519:".__add__)))
def test_a_key_has_one_word(word: str) -> None:
    with suppress(ConfigError):
        assert PublicKey(word).word == word
        assert len(word) == 52


# ---- who counts


def test_as_many_as_the_rule_says_must_have_signed(tmp_path: Path) -> None:
    publishers = known(tmp_path, ONE, TWO, THREE, threshold=2, titles="film*")
    first = ONE.sign(TITLE)
    both = TWO.sign(TITLE, before=first)
    assert publishers.check(both.encode(), TITLE, "film", 0.0) == Statement(TITLE, "film", 1)
    assert publishers.check(STRANGER.sign(TITLE, before=both).encode(), TITLE, "film", 0.0)
    for signatures in (b"", first.encode(), STRANGER.sign(TITLE, before=first).encode()):
        with pytest.raises(SignatureError, match=r"rule 1 \(titles = 'film\*'\)"):
            publishers.check(signatures, TITLE, "film", 0.0)
    with pytest.raises(SignatureError, match=r"by 2 of its publishers: signed by studio-1; not by studio-2, studio-3"):
        publishers.check(first.encode(), TITLE, "film", 0.0)


def test_one_publisher_counts_once_whatever_keys_it_has(tmp_path: Path) -> None:
    renewed = Studio("studio-1")
    publishers = known(tmp_path, ONE, renewed, TWO, threshold=2)
    for mine in (ONE, renewed):
        assert publishers.check(TWO.sign(TITLE, before=mine.sign(TITLE)).encode(), TITLE, "film", 0.0)
    with pytest.raises(SignatureError, match="signed by studio-1; not by studio-2"):
        publishers.check(renewed.sign(TITLE, before=ONE.sign(TITLE)).encode(), TITLE, "film", 0.0)


def test_a_signature_counts_for_its_own_statement_alone(tmp_path: Path) -> None:
    publishers = known(tmp_path, ONE, TWO, threshold=2)
    good = TWO.sign(TITLE, before=ONE.sign(TITLE))
    for other in (
        Statement(TITLE, "film", 2), Statement(TITLE, "film", 1, 9), Statement(b"u" * 32, "film", 1),
        Statement(TITLE, "films", 1),
    ):  # fmt: skip
        with pytest.raises(SignatureError, match=r"does not hold|of title|named"):
            publishers.check(Signatures(other, good.by).encode(), TITLE, "film", 0.0)
        # One that is of another statement, beside one that holds.
        mixed = Signatures(other, {**good.by, **ONE.sign(other.title_id, other.name, other.number, other.expires).by})
        with pytest.raises(SignatureError):
            publishers.check(mixed.encode(), TITLE, "film", 0.0)
    swapped = Signatures(good.statement, dict(zip(good.by, reversed(good.by.values()), strict=True)))
    with pytest.raises(SignatureError, match="the signature of studio-1, studio-2 does not hold"):
        publishers.check(swapped.encode(), TITLE, "film", 0.0)


@given(st.data())
def test_nobody_else_makes_up_a_threshold(data: st.DataObject) -> None:
    """Any mix of good signatures, wrong ones and strangers': it is enough where enough of the rule's are good."""
    studios = [ONE, TWO, THREE, STRANGER]
    threshold = data.draw(st.integers(1, 3))
    names = ("studio-1", "studio-2", "studio-3")
    publishers = Publishers([(one.name, one.word) for one in (ONE, TWO, THREE)], [Rule("*", names, threshold)])
    kinds = data.draw(st.lists(st.sampled_from(["good", "wrong", "none"]), min_size=4, max_size=4))
    by: dict[bytes, bytes] = {}
    for studio, kind in zip(studios, kinds, strict=True):
        if kind != "none":
            by |= studio.sign(TITLE, number=1 if kind == "good" else 2).by
    if not by:
        return
    enough = kinds[:3].count("good") >= threshold
    try:
        publishers.check(Signatures(Statement(TITLE, "film", 1), by).encode(), TITLE, "film", 0.0)
        assert enough
    except SignatureError:
        assert not enough


def test_what_is_signed_expires_in_its_second(tmp_path: Path) -> None:
    publishers = known(tmp_path, ONE)
    signatures = ONE.sign(TITLE, expires=1000).encode()
    assert publishers.check(signatures, TITLE, "film", 999.999)
    for now_s in (1000.0, 1000.1, 1e12):
        with pytest.raises(SignatureError, match="has expired"):
            publishers.check(signatures, TITLE, "film", now_s)
    assert publishers.check(ONE.sign(TITLE).encode(), TITLE, "film", 1e12)  # never


def test_the_first_rule_that_matches_counts_and_without_one_nothing_goes(tmp_path: Path) -> None:
    (tmp_path / "publishers.toml").write_text(
        f'[[publishers]]\nname = "a"\nkey = "{ONE.word}"\n[[publishers]]\nname = "b"\nkey = "{TWO.word}"\n'
        '[[rules]]\ntitles = "films-old-*"\npublishers = ["b"]\nrollback = false\n'
        '[[rules]]\ntitles = "films-*"\npublishers = ["a"]\n'
    )
    publishers = Publishers.load(tmp_path / "publishers.toml")
    assert publishers.check(ONE.sign(TITLE, "films-1").encode(), TITLE, None, 0.0)
    assert publishers.check(TWO.sign(TITLE, "films-old-1").encode(), TITLE, None, 0.0)
    with pytest.raises(SignatureError, match="rule 1"):
        publishers.check(ONE.sign(TITLE, "films-old-1").encode(), TITLE, None, 0.0)
    with pytest.raises(SignatureError, match=r"no rule of publishers.toml matches the name of title 'news'"):
        publishers.check(ONE.sign(TITLE, "news").encode(), TITLE, "news", 0.0)
    allowed = [publishers.allows_rollback(name) for name in ("films-1", "films-old-1", "news")]
    assert allowed == [True, False, False]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[[rules]]\ntitles = "*"\npublishers = ["x"]', "none of the publishers"),
        ('[[publishers]]\nname = "x"\nkey = "rsa:AAAA"', "no public key"),
        (f'[[publishers]]\nname = "x"\nkey = "{ONE.word}"\n[[publishers]]\nname = "y"\nkey = "{ONE.word}"', "twice"),
        (f'[[publishers]]\nname = "x"\nkey = "{ONE.word}"\n[[rules]]\ntitles = "*"\npublishers = ["x", "x"]\n'
         "threshold = 2", "asks for 2 signatures of 1"),
        (f'[[publishers]]\nname = "x"\nkey = "{ONE.word}"\n[[rules]]\ntitles = "*"\npublishers = ["x"]\n'
         "threshold = 0", "asks for 0 signatures"),
        ('[[publisher]]\nname = "x"', "unknown field"),
        ("[[publishers", "cannot be used"),
        ("\udcff", "cannot be used"),
    ],
)  # fmt: skip
def test_a_file_with_a_mistake_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "publishers.toml"
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(ConfigError, match=why) as raised:
        Publishers.load(path)
    assert str(path) in str(raised.value)


# ---- what comes in


def test_a_title_is_opened_where_all_of_it_is_right(tmp_path: Path) -> None:
    film, other = Film(tmp_path, "v1"), Film(tmp_path, "v2", "other")
    publishers = known(tmp_path, ONE)
    opened = open_title(film.encoded, film.title_id, publishers, film.signed(ONE))
    assert opened == film.manifest
    assert open_title(film.encoded) == open_title(film.encoded, film.title_id) == film.manifest
    for encoded, signatures in [
        (film.encoded, b""),
        (film.encoded, film.signed(TWO)),
        (film.encoded, other.signed(ONE)),
        (film.encoded, ONE.sign(film.title_id, "other").encode()),
        (other.encoded, film.signed(ONE)),
        (film.encoded + b"\x00", film.signed(ONE)),
        (b"", film.signed(ONE)),
    ]:
        with pytest.raises(ManifestError):
            open_title(encoded, film.title_id, publishers, signatures)
    with pytest.raises(SignatureError, match="named 'other'"):  # nonsense is refused by everybody
        open_title(film.encoded, film.title_id, None, ONE.sign(film.title_id, "other").encode())


def test_more_signatures_than_there_may_be_keep_those_that_were_first() -> None:
    many = [Studio(str(number)) for number in range(SIGNATURES_MAX + 3)]
    made: Signatures | None = None
    for studio in many[:SIGNATURES_MAX]:
        made = studio.sign(TITLE, before=made)
    assert made is not None
    assert made.merged(many[-1].sign(TITLE).by) == made
    few = many[0].sign(TITLE)
    assert few.merged(made.by) == made
    assert key_id_of(b"x" * 32) != key_id_of(b"y" * 32)
    assert sign(many[0].key, Statement(TITLE, "film", 2), made).by.keys() == many[0].sign(TITLE).by.keys()
