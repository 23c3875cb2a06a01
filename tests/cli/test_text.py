"""Figures as people read them, and the demo's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfill.cli import text
from p2pfill.cli.demo import choose_directory, tree_bytes
from p2pfill.cli.demo_tree import demo_files, write_demo_tree
from p2pfill.cli.exits import CommandFailed, ExitCode, run_app
from p2pfill.errors import ConfigError, InternalError, StoreError
from p2pfill.model import limits
from p2pfill.model.quantities import parse_bytes
from p2pfill.store.publish import publish


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.98 KiB"),
        (1024, "1 KiB"),
        (512 * limits.MIB, "512 MiB"),
        (1.25 * limits.GIB, "1.25 GiB"),
        (12.34 * limits.GIB, "12.3 GiB"),
        (1 << 62, "4096 PiB"),
    ],
)
def test_bytes(size: float, shown: str) -> None:
    assert text.show_bytes(size) == shown


def test_shares_are_full_only_when_they_are() -> None:
    assert text.show_percent(999, 1000) == "99 %"
    assert text.show_percent(1000, 1000) == "100 %"
    assert text.show_percent(0, 0) == "100 %"


@pytest.mark.parametrize(("seconds", "shown"), [(0.04, "0.0 s"), (75, "75 s"), (600, "10 min"), (7500, "2 h 5 min")])
def test_seconds(seconds: float, shown: str) -> None:
    assert text.show_seconds(seconds) == shown


def test_foreign_text_cannot_move_the_cursor() -> None:
    assert text.printable("a\x1b[2Jb\nö") == "a\ufffd[2Jb\ufffdö"


@pytest.mark.parametrize("size", [64 * limits.KIB, limits.MIB, 48 * limits.MIB, 512 * limits.MIB, 3 * limits.GIB])
def test_demo_files_add_up(size: int) -> None:
    files = list(demo_files(size))
    assert sum(file.size for file in files) == size
    assert len({file.path for file in files}) == len(files)
    assert [file.path for file in files if file.size == 0] == ["film/.complete"]
    assert max(file.size for file in files) > size / 2
    assert any(" " in file.path and not file.path.isascii() for file in files)


def test_the_demo_title_is_the_same_everywhere(tmp_path: Path) -> None:
    made = write_demo_tree(tmp_path / "one", limits.MIB, lambda done, total: None)
    write_demo_tree(tmp_path / "two", limits.MIB, lambda done, total: None)
    ids = {publish(tmp_path / name, name="demo").manifest.title_id.hex() for name in ("one", "two")}
    assert len(ids) == 1
    assert tree_bytes(tmp_path / "one") == limits.MIB
    assert made == len([path for path in (tmp_path / "one").rglob("*") if path.is_file()])


def test_a_place_for_the_demo(tmp_path: Path) -> None:
    assert choose_directory(tmp_path, 1) == tmp_path
    with pytest.raises(ConfigError, match=r"the demo needs 1024 PiB of disk and there are .* free in '/"):
        choose_directory(tmp_path, 1 << 60)
    with pytest.raises(ConfigError, match="cannot write to"):
        choose_directory(tmp_path / "absent", 1)
    with pytest.raises(ConfigError, match="neither a file nor a directory"):
        tree_bytes(tmp_path / "absent")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (StoreError("no room"), ExitCode.FAILED, "p2pfill: error: no room"),
        (ConfigError("two\nlines"), ExitCode.USAGE, "p2pfill: error: two lines"),
        (CommandFailed("late", ExitCode.TIMEOUT), ExitCode.TIMEOUT, "p2pfill: error: late"),
        (OSError(28, "No space left on device", "/x"), ExitCode.FAILED, "p2pfill: error: /x: No space left on device"),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "p2pfill: interrupted"),
        (ExceptionGroup("", [ExceptionGroup("", [StoreError("deep")])]), ExitCode.FAILED, "p2pfill: error: deep"),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), ExitCode.INTERRUPTED, "p2pfill: interrupted"),
    ],
)
def test_errors_end_in_one_line(
    error: BaseException, code: ExitCode, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: object) -> None:
        raise error

    assert run_app(app, []) == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize(
    "error", [InternalError("bug"), ExceptionGroup("", [StoreError("x"), ZeroDivisionError()]), ZeroDivisionError()]
)
def test_bugs_keep_their_traceback(error: Exception) -> None:
    def app(**_: object) -> None:
        raise error

    with pytest.raises(type(error)):
        run_app(app, [])


@pytest.mark.parametrize(
    ("typed", "size"),
    [("0", 0), ("4096", 4096), ("20GiB", 20 << 30), ("20 G", 20 << 30), ("1.5kib", 1536), ("2TB", 2 * 10**12)],
)
def test_sizes_are_read_as_people_type_them(typed: str, size: int) -> None:
    assert parse_bytes(typed) == size


@pytest.mark.parametrize("typed", ["", "x", "-1", "1e9", "1 2", "3 XiB", "GiB", "9" * 40])
def test_what_is_no_size_is_said_to_be_none(typed: str) -> None:
    with pytest.raises(ConfigError, match="is no size"):
        parse_bytes(typed)
