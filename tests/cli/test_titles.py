"""Publishing and verifying by command, and how commands end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfill.cli import main
from p2pfill.model.manifest import Manifest


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "film"
    (root / "sub dir").mkdir(parents=True)
    (root / "a.bin").write_bytes(os.urandom(300_000))
    (root / "sub dir" / "größe.txt").write_bytes(b"small")
    (root / "empty").touch()
    return root


def publish(tree: Path) -> Path:
    out = tree.parent / "film.fill"
    assert main(["publish", str(tree), "--name", "film", "--out", str(out)]) == 0
    return out


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command must end with."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("p2pfill: error: ")
    return lines[0]


def test_publish_writes_a_manifest_and_says_what_it_is(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = publish(tree)
    manifest = Manifest.decode(out.read_bytes())
    said = capsys.readouterr().out
    assert manifest.title_id.hex() in said
    assert "3 files" in said
    assert [path.name for path in tree.parent.iterdir() if path.name.startswith(".")] == []


def test_publish_as_json(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tree.parent / "x.fill"
    (tree / "link").symlink_to("sub dir")
    arguments = ["publish", str(tree), "--name", "x", "--out", str(out), "--chunk-size", "65536", "--json"]
    assert main(arguments) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["title"] == Manifest.decode(out.read_bytes()).title_id.hex()
    assert (record["files"], record["chunks"], record["chunk_size"]) == (3, 6, 65536)
    assert record["skipped"] == ["link (link to a directory)"]


def test_verify_tells_right_from_wrong(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = publish(tree)
    assert main(["verify", str(tree), str(out)]) == 0
    assert "are right" in capsys.readouterr().out

    with (tree / "a.bin").open("r+b") as file:
        file.seek(1000)
        file.write(b"wrong bytes")
    (tree / "empty").unlink()
    (tree / "sub dir" / "größe.txt").write_bytes(b"tiny")
    assert main(["verify", str(tree), str(out), "--json"]) == 1
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert not record["ok"]
    assert record["missing"] == ["empty"]
    assert record["wrong_size"] == [{"path": "sub dir/größe.txt", "expected": 5, "actual": 4}]
    assert [fault["chunk"] for fault in record["bad"]] == [0, 2]
    assert captured.err.count("\n") == 1

    assert main(["verify", str(tree), str(out)]) == 1
    captured = capsys.readouterr()
    assert "missing: empty" in captured.out
    assert "1 missing file" in captured.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "absent", "--name", "x", "--out", "x.fill"], "absent"),
        (["publish", "film", "--name", "a/b", "--out", "x.fill"], "must not contain '/'"),
        (["publish", "film", "--name", "x", "--out", "no/such/x.fill"], "does not exist"),
        (["publish", "film", "--name", "x", "--out", "film"], "it is a directory"),
        (["publish", "film", "--name", "x", "--out", "x.fill", "--chunk-size", "1000"], "power of two"),
        (["publish", "film", "--name", "x"], "--out"),
        (["verify", "film", "broken.fill"], "'broken.fill' cannot be used"),
        (["verify", "film", "absent.fill"], "cannot read manifest 'absent.fill'"),
        (["verify", "film"], "p2pfill verify --help"),
        (["frobnicate"], "frobnicate"),
        (["fill", "x.fill", "--tracker", "http://127.0.0.1:1", "--to", "planet=mars"], "cannot read 'planet=mars'"),
        (["tracker", "--listen", "nowhere"], "HOST:PORT"),
        (["tracker", "--listen", "127.0.0.1:0", "--db", "mysql://x"], "sqlite:///FILE"),
        (["tracker", "--heartbeat", "0"], "heartbeat"),
        (["status", "--tracker", "gopher://x"], "tracker URL"),
        (["status", "--tracker", "http://127.0.0.1:1"], "cannot be reached"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_faults_are_one_line_and_a_code(
    arguments: list[str], said: str, tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    Path("broken.fill").write_bytes(b"\x97not a manifest")
    code = main(arguments)
    assert code != 0
    assert said in error_of(capsys)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["--version"], *([name, "--help"] for name in (
    "publish", "verify", "tracker", "node", "fill", "status", "explain", "demo"
))])  # fmt: skip
def test_help_is_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert "p2pfill" in capsys.readouterr().out


@pytest.mark.process
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from p2pfill.cli import main; main(['--help']); "
        "print([name for name in ('trio', 'obstore', 'httpx2', 'starlette', 'blake3') if name in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1] == "[]"
