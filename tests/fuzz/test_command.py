"""The command that fuzzes: what it says, and that it notices when something breaks."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgpack
import msgspec
import pytest

from bench.fuzz.__main__ import main, parser
from bench.fuzz.corpora import keep
from bench.fuzz.mutation import changed
from bench.fuzz.reports import Report
from bench.fuzz.running import Options, fuzz
from bench.fuzz.target import Target
from bench.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
STAND_IN = Path(__file__).parent / "stand_in"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Type a command; its exit code, and what it says."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fuzz", *arguments])
        code = main()
        return code, *capsys.readouterr()

    return call


Call = Callable[..., tuple[int, str, str]]


def test_all_targets_are_listed_with_what_they_must_keep_to(call: Call) -> None:
    code, said, _ = call("--list")
    assert code == 0
    for target in TARGETS.values():
        assert target.name in said
        assert len(target.invariant) > 20


def test_a_name_that_is_none_is_refused(call: Call) -> None:
    code, _, said = call("framez")
    assert code == 2
    assert "framez" in said


def test_without_atheris_it_says_how_to_have_it(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, said = call("frames")
    assert code == 2
    assert "make fuzz" in said


def test_commands_of_the_pages_can_be_typed() -> None:
    text = "".join((ROOT / "docs" / name).read_text() for name in ("security.md", "reliability.md"))
    commands = re.findall(r"python -m bench\.fuzz([^`\n]*)", text)
    assert commands
    for command in commands:
        found = parser().parse_args(shlex.split(command))
        assert set(found.targets) <= TARGETS.keys()


def test_an_input_can_be_run_alone(call: Call, tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(next(iter(TARGETS["frames"].seeds())))
    code, said, _ = call("frames", "--repeat", str(tmp_path / "one"))
    assert code == 0
    assert "nothing breaks" in said


def test_a_run_is_reported(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(STAND_IN)]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr("bench.fuzz.corpora.CORPUS", tmp_path / "corpus")
    code, said, told = call("data", "--runs", "1500", "--out", str(tmp_path), "--json", "--keep")
    assert code == 0
    assert "data: 0 inputs added" in told
    report = msgspec.json.decode(said, type=Report)
    assert report == msgspec.json.decode((tmp_path / "fuzz.json").read_bytes(), type=Report)
    (one,) = report.targets
    assert (one.target, one.runs, one.edges, one.finds) == ("data", 1500, 12, [])
    assert 0 < one.taken < one.runs
    assert one.ended_bytes > 0
    assert "| data |" in (tmp_path / "README.md").read_text()


def options(out: Path) -> Options:
    return Options(out, runs=100, workers=1)


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> dict[str, Target]:
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(STAND_IN)]))
    import breaking  # type: ignore[import-not-found]

    return {target.name: target for target in breaking.TARGETS}


@pytest.mark.parametrize(("name", "said"), [("breaking", "exclamation"), ("counting", "too many")])
def test_what_breaks_is_kept_with_what_repeats_it(
    tmp_path: Path, breaking: dict[str, Target], name: str, said: str
) -> None:
    (found,) = fuzz([breaking[name]], options(tmp_path))
    (find,) = found.finds
    assert said in find.said
    assert find.command == f"python -m bench.fuzz {name} --repeat {find.file}"
    assert "Traceback" in Path(f"{find.file}.log").read_text()
    kept = Path(find.file).read_bytes()
    inputs = msgspec.msgpack.decode(kept, type=list[bytes]) if find.file.endswith(".history") else [kept]
    with breaking[name].opened(tmp_path) as run_one:
        for data in inputs[:-1]:
            run_one(data)
        with pytest.raises(Exception, match=said):
            run_one(inputs[-1])


def test_only_what_reaches_something_new_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.fuzz.target.CORPUS", tmp_path / "corpus")
    monkeypatch.setattr("bench.fuzz.corpora.CORPUS", tmp_path / "corpus")
    target = TARGETS["data"]
    found = tmp_path / "found"
    found.mkdir()
    (found / "known").write_bytes(next(iter(target.seeds())))
    (found / "new").write_bytes(b"P2FD" + b"\xff" * 36)  # of a version that is not spoken here
    (found / "same").write_bytes(b"P2FD" + b"\xfe" * 36)
    assert keep(target, found) == 1
    assert keep(target, found) == 0


@pytest.mark.parametrize("form", ["msgpack", "json", "call", "lines"])
def test_parts_are_changed_and_the_whole_can_be_read(form: str) -> None:
    document = {"a": [1, 2.5, "x"], "b": {"c": None}}
    data = {
        "msgpack": msgpack.packb(document), "json": msgspec.json.encode(document), "lines": b"a = 1\n[b]\nc = 'x'",
        "call": b"GET /\n" + msgspec.json.encode(document),
    }[form]  # fmt: skip
    found = {changed(data, form, Random(seed)) for seed in range(200)}  # type: ignore[arg-type]
    assert len(found) > 50
    assert changed(b"\xc1", "msgpack", Random(1)) is None


def test_each_target_is_of_the_module_that_it_is_found_in() -> None:
    for target in TARGETS.values():
        module = sys.modules[target.open.__module__]
        assert target in module.TARGETS
