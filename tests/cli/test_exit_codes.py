"""Whatever names nothing that there is ends with exit code 2, in every command, and nothing is done."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import typer

from p2pfill.cli import main
from p2pfill.cli.app import app
from p2pfill.cli.exits import EXIT_CODES_HELP, ExitCode

UNKNOWN: Final = {
    "title": "nosuch", "name": "nosuch", "fill": "0f0f0f", "node_id": "nosuch", "node": "nosuch", "nodes": "nosuch",
    "to": "id=nosuch", "fill_file": "nosuch.fill", "path": "nosuch", "directory": "nosuch", "files": "nosuch",
    "patterns": "nosuch", "files_from": "nosuch", "config": "nosuch.toml", "prices": "nosuch.toml", "data": "nosuch",
    "routes": "nosuch.toml", "receiver": "nosuch", "source": "nosuch",
    "scenario": "nosuch.toml", "replay": "nosuch", "authority": "nosuch", "identity": "nosuch",
}  # fmt: skip
"""Parameters that name what must be there -> a value that names nothing."""

ELSEWHERE: Final = {
    "publish": {"name", "to"}, "node": {"node_id", "data"}, "fill": {"files_from"}, "plan show": {"title"},
    "plan why": {"title"},
}  # fmt: skip
"""Those that give a name to what is new, one that the next test has, and titles of a planner: its tests have those."""

ALSO: Final = {
    "tracker_url": None, "name": "film", "title": "film", "fill": None, "node": "a1", "node_id": "a1", "to": "all",
    "fill_file": None, "directory": ".", "out": "x.fill", "path": "film",
    "receiver": "a1", "source": "a1", "what": "a1", "key": "nosuch.pem",
}  # fmt: skip
"""What else a command needs."""


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in sorted(group.commands.items()):
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        elif "bench" not in path:
            yield (*path, name), command


@pytest.mark.parametrize("group", ["night", "policy", "route", "fleet", "ca"])
def test_a_group_without_a_command_says_what_is_lacking(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([group]) == 2
    assert f"p2pfill: error: a command is lacking; see p2pfill {group} --help" in capsys.readouterr().err


CASES: Final = [
    (path, parameter.name)
    for path, command in commands(typer.main.get_command(app))
    for parameter in command.params
    if parameter.name in UNKNOWN and parameter.name not in ELSEWHERE.get(" ".join(path), set())
]


def test_the_walk_meets_all_that_tells_a_title_a_fill_or_a_cache() -> None:
    names = {(" ".join(path), name) for path, name in CASES}
    assert len(names) > 25
    assert {
        ("explain", "node_id"), ("title show", "name"), ("title evict", "nodes"), ("fills withdraw", "fill"),
        ("nodes remove", "node"), ("scrub", "title"), ("scrub", "nodes"), ("fill", "to"), ("verify", "directory"),
    } <= names  # fmt: skip


@pytest.mark.parametrize(("path", "unknown"), CASES, ids=["-".join([*path, name]) for path, name in CASES])
def test_an_unknown_name_is_wrong_usage(
    path: tuple[str, ...], unknown: str, fleet: Any, film: Path, make: Any,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(film.parent)
    monkeypatch.setattr("p2pfill.cli.fill.JOIN_WAIT_S", 0.0)
    fleet.beat("a1", make.report(make.manifest(), "live", 4))
    assert main(["fill", str(film), "--tracker", fleet.url, "--to", "all", "--json"]) == 0
    fill = str(json.loads(capsys.readouterr().out)["fill"])
    known = ALSO | {"tracker_url": fleet.url, "fill": fill, "fill_file": str(film)}
    command = dict(commands(typer.main.get_command(app)))[path]
    arguments, options = [], []
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        value = UNKNOWN[unknown] if parameter.name == unknown else known.get(parameter.name)
        if parameter.name == unknown or (value is not None and _is_needed(parameter, path, unknown)):
            (arguments if is_argument else options).extend([value] if is_argument else [parameter.opts[0], value])
        elif parameter.name in ("yes", "dry_run"):
            options.append(parameter.opts[0])
    code = main([*path, *arguments, *options])
    said = capsys.readouterr()
    assert code == ExitCode.USAGE, said
    assert UNKNOWN[unknown].removeprefix("id=") in said.err
    assert said.err.startswith("p2pfill: error: ")
    assert said.err.count("\n") == 1


def _is_needed(parameter: Any, path: tuple[str, ...], unknown: str) -> bool:
    of_fleet = path[0] == "scrub" and unknown != "data" and parameter.name in ("title", "tracker_url")
    return bool(parameter.required) or of_fleet


def test_the_page_has_the_codes_that_the_help_has() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "running.md").read_text()
    table = dict(re.findall(r"^\| `(\d+)` \| (.+?) \|", page, re.M))
    assert sorted(map(int, table)) == sorted(ExitCode)
    helped = dict(re.findall(r"(\d+) ([^;.]+)", EXIT_CODES_HELP.split(":", 1)[1]))
    assert {code: text.split(":")[0] for code, text in table.items()} == helped
