"""`p2pfill policy`, against a real tracker whose caches only pretend."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from p2pfill.cli import main

SLOW = '[[caches]]\nname = "slow"\nrates = "3M"\n'
FAR = '[[fills]]\nname = "films"\nwaits = {origin = "5m"}\n'


def policy(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> tuple[str, str]:
    assert main(["policy", *command]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    found = {}
    for name, text in (("slow", SLOW), ("both", SLOW + FAR), ("wrong", 'x = 1\n[[fills]]\nhops = ["moon"]\n')):
        (tmp_path / f"{name}.toml").write_text(text)
        found[name] = str(tmp_path / f"{name}.toml")
    return found


def test_check_says_all_that_is_wrong(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    out, _ = policy(capsys, "check", files["both"])
    assert "can be used: 1 rule for caches, 1 rule for fills, 0 rules for residency" in out
    out, err = policy(capsys, "check", files["wrong"], code=2)
    assert not out
    for place in ("x: unknown", "fills[0].hops[0]: 'moon'", "fills[0].hops: isp is missing", "fills[0].name: is"):
        assert place in err
    assert "4 faults" in err
    out, _ = policy(capsys, "check", files["wrong"], "--json", code=2)
    assert len(json.loads(out)["faults"]) == 4
    assert json.loads(policy(capsys, "check", files["slow"], "--json")[0])["usable"] is True
    assert "No such file" in policy(capsys, "check", "missing.toml", code=2)[1]
    Path(files["wrong"]).write_text('[[budgets]]\nname = "cloud"\norigins = "cloud.example/*"\nbytes = "2TB"\n')
    out, err = policy(capsys, "check", files["wrong"])
    assert "can be used" in out
    assert "note: budgets 'cloud': no origin is limited by 'cloud.example/*'" in err


def test_rules_that_fit_no_cache_are_told_of(fleet: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "policy.toml"
    file.write_text(
        '[[caches]]\nname = "slip"\nselector = "region=eur"\nrates = "3M"\n'
        '[[fills]]\nname = "right"\nselector = "region=eu,id=moon"\n[[fills]]\nname = "rest"\n'
    )
    command = "apply", str(file), "--dry-run", "--tracker", fleet.url
    assert "fits" not in policy(capsys, *command)[1], "there is no cache yet that anything could fit"
    fleet.beat("a1")
    err = policy(capsys, *command)[1]
    assert "note: caches 'slip': no cache that the tracker knows fits 'region=eur' yet" in err
    assert err.count("no cache") == 1


def test_versions_come_and_go(fleet: Any, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    tracker = ("--tracker", fleet.url)
    fleet.beat("a1")
    assert "no policy was ever applied" in policy(capsys, "show", *tracker)[1]
    assert policy(capsys, "log", *tracker) == ("", "no policy was ever applied: `p2pfill policy apply FILE` does\n")
    for command in ("rollback", "diff"):
        assert "no policy was ever applied" in policy(capsys, command, *tracker, code=2)[1]
    out, _ = policy(capsys, "apply", files["slow"], "--dry-run", *tracker)
    assert "version 1 would stand: other settings for 1 cache" in out
    assert policy(capsys, "log", "--json", *tracker)[0] == "[]\n"
    out, _ = policy(capsys, "apply", files["slow"], "--comment", "nights", "--by", "ann", "--base", "0", *tracker)
    assert "+ caches 'slow'" in out
    assert "version 1 of the policy stands" in out
    assert "nothing was done" in policy(capsys, "apply", files["wrong"], *tracker, code=2)[1]
    assert "version 1 of the fleet's policy stands, not 0" in policy(
        capsys, "apply", files["both"], "--base", "0", *tracker, code=1
    )[1]
    assert json.loads(policy(capsys, "apply", files["both"], "--json", *tracker)[0])["version"]["number"] == 2
    assert policy(capsys, "show", *tracker)[0] == SLOW + FAR
    assert policy(capsys, "show", "1", *tracker)[0] == SLOW
    assert "there is no version 9" in policy(capsys, "show", "9", *tracker, code=2)[1]
    said = " ".join(policy(capsys, "log", *tracker)[0].split())
    assert "ann nights" in said
    assert said.index("2 ") < said.index(" 1 ")
    out, _ = policy(capsys, "rollback", "--dry-run", *tracker)
    assert "- fills 'films'" in out
    policy(capsys, "rollback", *tracker)
    assert policy(capsys, "show", *tracker)[0] == SLOW
    assert [one["comment"] for one in json.loads(policy(capsys, "log", "--json", *tracker)[0])] == [
        "back to version 1", "", "nights"
    ]  # fmt: skip


def test_diffs_are_of_files_and_versions(fleet: Any, files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    tracker = ("--tracker", fleet.url)
    assert "+ fills 'films'" in policy(capsys, "diff", files["slow"], files["both"])[0]
    assert "both say the same" in policy(capsys, "diff", files["slow"], files["slow"])[0]
    assert "add --tracker" in policy(capsys, "diff", files["slow"], code=2)[1]
    policy(capsys, "apply", files["slow"], *tracker)
    policy(capsys, "apply", files["both"], *tracker)
    assert "+ fills 'films'" in policy(capsys, "diff", *tracker)[0], "the version before, and the one that stands"
    assert "- fills 'films'" in policy(capsys, "diff", files["slow"], *tracker)[0], "the one that stands, and a file"
    assert "both say the same" in policy(capsys, "diff", "1", files["slow"], *tracker)[0]
    assert policy(capsys, "diff", "1", *tracker)[0].startswith("- fills 'films'"), "the one that stands, and a version"
    assert policy(capsys, "diff", "2", *tracker)[0] == "both say the same\n"
    assert "version 2 of the policy stands already" in policy(capsys, "rollback", "2", *tracker, code=2)[1]
    assert len(json.loads(policy(capsys, "diff", "2", "1", "--json", *tracker)[0])["changes"]) == 1


def test_an_order_says_who_is_left_out(
    fleet: Any, film: Path, files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fleet.beat("a1")
    (tmp_path / "stay.toml").write_text('[[residency]]\nname = "licence"\nregions = ["uk"]\n')
    policy(capsys, "apply", str(tmp_path / "stay.toml"), "--tracker", fleet.url)
    order = ["fill", str(film), "--tracker", fleet.url, "--to", "all"]
    assert main([*order, "--later"]) == 0
    captured = capsys.readouterr()
    assert "to 0 caches" in captured.out
    assert "rule 'licence' of the fleet's policy keeps the title in other regions: left out are a1" in captured.err
    assert main([*order, "--later", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_out"] == {"a1": "licence"}


def test_a_tracker_that_is_away_is_told(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    policy(capsys, "apply", files["slow"], "--tracker", "http://127.0.0.1:9", code=3)


def record_of_nothing(**changes: Any) -> dict[str, Any]:
    """Return what a tracker may answer that a night was; whole but for what is changed."""
    info = {"id": "a1", "isp": "isp-a", "region": "eu"}
    title = {"title": "a" * 64, "name": "film", "size": 1 << 20, "chunk_size": 65536}
    fill = {"title": "a" * 64, "node": "a1", "ordered_at": 1.5e9, "wanted": 1 << 20, "tiers": [0, 0, 1 << 20]}
    record = {"night": "2026-11-29", "began_at": 1.5e9, "last_at": 1.5e9 + 3600, "is_over": True}
    return record | {"caches": [{"info": info, "fastest_in": 1 << 20}], "titles": [title], "fills": [fill]} | changes


@pytest.fixture
def night_of(tmp_path: Path) -> Iterator[Callable[[object], str]]:
    """Serve whatever as the record of a night, of a tracker that has had no policy; return its URL."""
    answers: dict[str, bytes] = {"/v1/policy/versions": b'{"versions": []}', "/v1/nights": b'{"nights": []}'}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = answers.get(self.path, b'{"error": "nothing"}')
            self.send_response(200 if self.path in answers else 404)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()

    def serve(record: object) -> str:
        answers["/v1/nights/2026-11-29/record"] = json.dumps(record).encode()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    server.shutdown()
    thread.join()
    server.server_close()


def check_night(
    capsys: pytest.CaptureFixture[str], file: str, url: str, *more: str, code: int
) -> tuple[str, str]:
    return policy(capsys, "check", file, "--night", "2026-11-29", "--tracker", url, *more, code=code)


def test_a_night_that_is_rebuilt_and_one_that_is_not(
    night_of: Callable[[object], str], files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    out, err = check_night(capsys, files["both"], night_of(record_of_nothing()), code=0)
    assert "The night is rebuilt within 5%." in out
    assert not err
    strange = record_of_nothing()
    strange["fills"][0]["tiers"] = [1 << 20, 0, 0]
    out, err = check_night(capsys, files["both"], night_of(strange), code=1)
    assert "NOT rebuilt within 5%: do not rely on the forecast" in out
    assert "was not rebuilt within 5%" in err
    found = json.loads(check_night(capsys, files["both"], night_of(strange), "--json", code=1)[0])
    assert (found["is_rebuilt"], found["off"]["origin"], found["rebuilt"]["tiers"]) == (False, 1.0, [0, 0, 1 << 20])
    seeds = [check_night(capsys, files["both"], night_of(record_of_nothing()), "--json", "--seed", "5", code=0)[0]]
    seeds.append(check_night(capsys, files["both"], night_of(record_of_nothing()), "--json", "--seed", "5", code=0)[0])
    assert seeds[0] == seeds[1]


def test_what_is_left_out_of_a_night_counts_against_it(
    night_of: Callable[[object], str], files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    record = record_of_nothing(left_out=[1 << 20, 0, 0])
    out, _ = check_night(capsys, files["both"], night_of(record), code=1)
    assert "1 MiB of that night are left out" in out


@pytest.mark.parametrize(
    ("record", "says"),
    [
        (record_of_nothing(caches=[]), "cannot be used: it tells of a cache that is not in it"),
        (record_of_nothing(fills=[]), "there is nothing to rebuild"),
        (record_of_nothing(last_at=1e40), "cannot be used"),
        (record_of_nothing(titles=[{"title": "a" * 64, "size": 5}]), "not in the tracker's catalogue"),
        (record_of_nothing(titles=[{"title": "a" * 64, "name": "film", "size": 1 << 46}]), "chunks to fetch even"),
        (record_of_nothing(caches=5), ""),
        ([], ""),
    ],
)
def test_a_record_that_is_absurd_is_refused(
    record: object,
    says: str,
    night_of: Callable[[object], str],
    files: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["policy", "check", files["both"], "--night", "2026-11-29", "--tracker", night_of(record)]) in (1, 2)
    captured = capsys.readouterr()
    assert not captured.out
    assert says in captured.err
    assert captured.err.count("\n") == 1


def test_a_night_that_cannot_be_asked_for(
    night_of: Callable[[object], str], files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = night_of({})
    night = ("check", files["both"], "--night")
    assert "add --tracker" in policy(capsys, *night, "last", code=2)[1]
    assert "no night yet" in policy(capsys, *night, "last", "--tracker", url, code=2)[1]
    policy(capsys, *night, "2026-11-28", "--tracker", url, code=2)
    policy(capsys, *night, "last", "--tracker", "http://127.0.0.1:1", code=3)
    policy(capsys, "check", files["wrong"], "--night", "last", "--tracker", url, code=2)
