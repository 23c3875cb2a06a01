"""`p2pfill limit`: sets, shows and clears standing limits, and says what is wrong with what was typed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2pfill.cli import main
from p2pfill.errors import ConfigError
from p2pfill.model.rates import RateLimits, Rates, parse_limits


@pytest.mark.parametrize(
    ("words", "limits"),
    [
        (["2MB"], RateLimits(Rates(total=2_000_000))),
        (["in=2MB", "out=1MB"], RateLimits(Rates(total=2_000_000), Rates(total=1_000_000))),
        (["in.origin=1KB", "out.peer=8kbit"], RateLimits(Rates(origin=1000), Rates(peer=1000))),
    ],
)
def test_words_become_limits(words: list[str], limits: RateLimits) -> None:
    assert parse_limits(words) == limits


@pytest.mark.parametrize("word", ["fast", "up=1M", "in.far=1M", "out.origin=1M", "in="])
def test_a_word_that_is_no_limit_is_refused(word: str) -> None:
    with pytest.raises(ConfigError, match="limit"):
        parse_limits([word])


@pytest.mark.parametrize("arguments", [["a1"], ["a1", "1M", "--clear"], ["--clear"], ["a1", "x=1M"]])
def test_what_is_half_a_command_is_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", *arguments, "--tracker", "http://127.0.0.1:9"]) == 2
    assert "limit" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["400MiB", "isp=isp-a"], "'400MiB' is a rate: the SELECTOR goes first"),
        (["out=4M", "all"], "'out=4M' is a rate: the SELECTOR goes first"),
        (["all", "10M", "in=20M"], "'in=20M' is a second limit of the same"),
    ],
)
def test_what_is_mixed_up_is_said(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", *words, "--tracker", "http://127.0.0.1:9"]) == 2
    assert said in capsys.readouterr().err


def test_a_limit_is_set_shown_and_cleared(fleet: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, code: int = 0) -> str:
        assert main(["limit", *words, "--tracker", fleet.url]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    fleet.beat("a1")
    assert "no limit stands" in run()
    assert "isp=isp-a  in: total 2 MB/s; out: total 1 MB/s" in run("isp=isp-a", "2MB", "out=1MB")
    rates = {"inbound": {"total": 2_000_000}, "outbound": {"total": 1_000_000}}
    assert json.loads(run("--json")) == {"limits": [{"selector": "isp=isp-a", "rates": rates}]}
    assert "add --later" in run("isp=isp-b", "2MB", code=2)
    said = run("all", "--clear", code=2)
    assert "no limit stands for 'all'; limits stand for: 'isp=isp-a'. Caches that keep to one" in said
    assert "no limit stands" in run("isp=isp-a", "--clear")
