"""`p2pfill fleet lint` and `p2pfill route explain` as people and scripts meet them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2pfill.cli import main
from p2pfill.cli.exits import ExitCode


def test_findings_end_with_a_code_of_their_own(fleet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.beat("a1")
    assert main(["fleet", "lint", "--tracker", fleet.url]) == ExitCode.OK
    assert capsys.readouterr().out == "Nothing found.\n"
    fleet.beat("a2", isp="ISP-A")
    assert main(["fleet", "lint", "--tracker", fleet.url]) == ExitCode.FOUND
    said = " ".join(capsys.readouterr().out.split())
    assert "same-address: a1 and a2 say that they are reached at 127.0.0.1 port 4000." in said
    assert "labels-alike 0 B: isp is spelt 'ISP-A', 'isp-a'." in said
    assert said.endswith("2 findings")
    assert main(["fleet", "lint", "--tracker", fleet.url, "--json"]) == ExitCode.FOUND
    found = json.loads(capsys.readouterr().out)
    assert {one["kind"] for one in found["findings"]} == {"same-address", "labels-alike"}
    assert found["more"] == 0


def test_without_costs_a_route_is_refused_with_the_next_step(fleet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    fleet.beat("a1")
    assert main(["route", "explain", "a1", "192.0.2.1", "--tracker", fleet.url]) == ExitCode.FAILED
    said = capsys.readouterr().err
    assert "no costs of routes are configured: start the tracker with --routes FILE" in said
    assert main(["route", "explain", "a1", "a 1/../x", "--tracker", fleet.url]) == ExitCode.USAGE
    assert main(["route", "explain", "a1", "b1", "--tracker", "http://127.0.0.1:1"]) == ExitCode.UNREACHABLE
