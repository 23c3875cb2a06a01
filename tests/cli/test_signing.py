"""Keys and signatures by command."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from p2pfill.cli import main
from p2pfill.model.manifest import Manifest
from p2pfill.model.statement import Signatures
from p2pfill.trust.publishers import Publishers, Rule


@pytest.fixture
def fill(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Return where a title is published; two keys lie beside it."""
    tree = tmp_path / "film"
    tree.mkdir()
    (tree / "a.bin").write_bytes(b"x" * 1000)
    for name in ("one", "two"):
        assert main(["key", "new", str(tmp_path / name)]) == 0
    assert capsys.readouterr().out.count("ed25519:") == 2
    return tmp_path / "film.fill"


def publish(fill: Path, *more: str) -> int:
    return main(["publish", str(fill.parent / "film"), "--name", "film", "--out", str(fill), *more])


def signed(fill: Path) -> Signatures:
    return Signatures.decode(fill.with_name("film.fill.sig").read_bytes())


def word(key: Path, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(["key", "show", str(key), "--json"]) == 0
    shown: str = json.loads(capsys.readouterr().out)["key"]
    return shown


def test_a_title_is_signed_by_one_and_by_another(fill: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two = fill.parent / "one", fill.parent / "two"
    assert publish(fill, "--key", str(one), "--expires", "90d") == 0
    assert "1 signature, number 1" in capsys.readouterr().out
    statement = signed(fill).statement
    manifest = Manifest.decode(fill.read_bytes())
    assert (statement.title_id, statement.name) == (manifest.title_id, "film")
    assert abs(statement.number / 1000 - time.time()) < 60
    assert abs(statement.expires - time.time() - 90 * 86400) < 60
    assert main(["sign", str(fill), "--key", str(two), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 2
    assert signed(fill).statement == statement
    publishers = Publishers(
        [("a", word(one, capsys)), ("b", word(two, capsys))], [Rule("film", ("a", "b"), threshold=2)]
    )
    encoded = fill.with_name("film.fill.sig").read_bytes()
    assert publishers.check(encoded, manifest.title_id, "film", time.time()) == statement
    assert main(["sign", str(fill), "--key", str(two), "--number", "7"]) == 2
    assert "say --anew" in capsys.readouterr().err
    assert main(["sign", str(fill), "--key", str(two), "--number", "7", "--anew"]) == 0
    assert (signed(fill).statement.number, signed(fill).statement.expires, len(signed(fill).by)) == (7, 0, 1)


def test_what_is_signed_anew_is_the_newest_whatever_clock_signed_before(
    fill: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A clock that was ahead must not leave a name of which no version signed in the usual way is newer."""
    one, ahead = fill.parent / "one", int((time.time() + 365 * 86400) * 1000)
    assert publish(fill, "--key", str(one), "--number", str(ahead)) == 0
    assert main(["sign", str(fill), "--key", str(one), "--anew", "--expires", "9d"]) == 0
    assert signed(fill).statement.number == ahead + 1
    (fill.parent / "film/a.bin").write_bytes(b"y" * 1000)
    assert publish(fill, "--key", str(one)) == 0  # the next version, in the same place
    assert signed(fill).statement.number == ahead + 2
    capsys.readouterr()
    assert publish(fill, "--key", str(one), "--number", str(2**63 - 1)) == 0
    assert main(["sign", str(fill), "--key", str(one), "--anew"]) == 2
    assert "has the highest number that there is" in capsys.readouterr().err
    # A name of its own begins by the clock.
    tree = fill.parent / "film"
    assert main(["publish", str(tree), "--name", "other", "--out", str(fill), "--key", str(one)]) == 0
    assert signed(fill).statement.number < ahead


def test_signatures_go_with_the_title_that_they_were_of(fill: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = fill.parent / "one"
    assert publish(fill, "--key", str(one)) == 0
    before = signed(fill)
    assert publish(fill) == 0  # the same title
    assert signed(fill) == before
    (fill.parent / "film/a.bin").write_bytes(b"y" * 1000)
    manifest = fill.read_bytes()
    assert publish(fill) == 0
    assert not fill.with_name("film.fill.sig").exists()
    assert publish(fill, "--key", str(one)) == 0
    fill.write_bytes(manifest)  # not by us
    capsys.readouterr()
    for command in ("sign --key", "fill --tracker http://127.0.0.1:1 --to all --origin", "title add --tracker"):
        name, *more = command.split()
        words = ["title", "add", str(fill), "--tracker", "http://127.0.0.1:1"] if name == "title" else None
        assert main(words or [name, str(fill), *more, str(one if name == "sign" else fill.parent)]) == 2
        assert "cannot be used: the signatures are of title" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--expires", "1d"], "name a --key"),
        (["--number", "1"], "name a --key"),
        (["--key", "one", "--expires", "tomorrow"], "as in 90d"),
        (["--key", "one", "--expires", "90000000d"], "as in 90d"),
        (["--key", "none"], "key new"),
        (["--key", "one", "--number", str(1 << 63)], "is above"),
    ],
)
def test_what_cannot_be_signed_is_said(
    fill: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fill.parent)
    assert publish(fill, *words) == 2
    assert why in capsys.readouterr().err
    assert not fill.with_name("film.fill.sig").exists()


def test_a_damaged_file_of_signatures_is_said_by_name(fill: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert publish(fill) == 0
    fill.with_name("film.fill.sig").write_bytes(b"\xff" * 9000)
    assert main(["sign", str(fill), "--key", str(fill.parent / "one")]) == 2
    assert "film.fill.sig' cannot be used: signatures of 4097 bytes are too large" in capsys.readouterr().err
