"""`p2pfill node` means the same whether typer reads its arguments or `cli.plain` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2pfill.cli import main, plain, services
from p2pfill.cli.app import app
from p2pfill.cli.exits import run_app
from p2pfill.cli.plain import LISTS, NUMBERS, SWITCHES, TEXTS, NodeCall, read_plain

FLAGS = [*TEXTS, *LISTS, *NUMBERS, *SWITCHES]
WORDS = st.sampled_from([
    "a1", "0", "7", "1.5", "1e3", "-1", "+1", "1_000", "007", "٣", "", " a", "a ", "ä", "a b", "a=b", "-", "--", "-h",
    "--help", "--id=a1", "--i", "node", "nan", "inf", ".5", "5.", "99999999999999999999", "a\n", "\x00",
])  # fmt: skip
ARGUMENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(FLAGS), WORDS),
        st.tuples(st.sampled_from([*TEXTS, *LISTS]), st.text(max_size=6)),
        st.tuples(st.sampled_from([*NUMBERS]), st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,2})?", fullmatch=True)),
        st.tuples(st.sampled_from([*SWITCHES])),
        st.tuples(WORDS),
    ),
    max_size=5,
).map(lambda parts: ["node", *(word for part in parts for word in part)])


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[NodeCall]:
    """Return the list to which is added what a node would be run with."""
    found: list[NodeCall] = []

    def run_node(config: Path | None, given: dict[str, Any], *, until_eof: bool, as_json: bool) -> None:
        found.append(NodeCall(config, given, until_eof, as_json))

    monkeypatch.setattr(services, "run_node", run_node)
    monkeypatch.delenv(plain.TRACKER_VARIABLE, raising=False)
    return found


def node_options() -> list[Any]:
    """Return the options of the command, as typer has them."""
    command = typer.main.get_command(app).commands["node"]  # type: ignore[attr-defined]
    return [one for one in command.params if one.name != "help"]


def test_every_flag_of_the_command_is_known() -> None:
    options = node_options()
    assert sorted(FLAGS) == sorted(flag for one in options for flag in (*one.opts, *one.secondary_opts))
    assert {one.opts[0] for one in options if one.multiple} == set(LISTS)
    assert {one.envvar for one in options if one.envvar} == {plain.TRACKER_VARIABLE}


@pytest.mark.parametrize("tracker", [None, "", "http://10.0.0.1:7070", " http://x", "-x"])
@given(arguments=ARGUMENTS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_typer_makes_the_same_of_it(
    tracker: str | None, calls: list[NodeCall], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    calls.clear()
    if tracker is not None:
        monkeypatch.setenv(plain.TRACKER_VARIABLE, tracker)
    if (taken := read_plain(arguments)) is not None:
        assert run_app(app, arguments) == 0
        assert calls == [taken]
        assert [type(value) for value in taken.settings.values()] == [
            type(calls[0].settings[name]) for name in taken.settings
        ]


def test_what_programs_write_is_plain(calls: list[NodeCall]) -> None:
    arguments = ["node", "--id", "a1", "--config", "node.toml", "--weight", "2", "--free-min", "0", "--plain-data",
                 "--json", "--origin-dir", "/a", "--origin-dir", "/b",
                 "--tracker", "http://t:1", "--until-eof"]  # fmt: skip
    said = {"id": "a1", "weight": 2.0, "free_bytes_min": 0, "encrypt_data": False, "origin_dir": ["/a", "/b"],
            "tracker": "http://t:1"}  # fmt: skip
    assert read_plain(arguments) == NodeCall(Path("node.toml"), said, True, True)
    assert main(arguments) == 0
    assert calls == [read_plain(arguments)]


@pytest.mark.parametrize("arguments", [
    [], ["--identity", "x", "node"], ["node", "--help"], ["node", "--id"], ["node", "--id=a1"], ["node", "--id", "-x"],
    ["node", "--id", "a1", "--id", "a2"], ["node", "--background", "--foreground"], ["node", "--weight", "much"],
    ["node", "a1"], ["status"],
])  # fmt: skip
def test_all_else_is_left_to_typer(arguments: list[str], calls: list[NodeCall]) -> None:
    assert read_plain(arguments) is None


def test_the_environment_says_the_tracker_unless_a_flag_does(
    calls: list[NodeCall], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(plain.TRACKER_VARIABLE, "http://t:1")
    assert main(["node"]) == 0
    assert main(["node", "--tracker", "http://t:2"]) == 0
    assert [call.settings["tracker"] for call in calls] == ["http://t:1", "http://t:2"]
