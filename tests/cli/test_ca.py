"""`p2pfill ca`: what it says and writes, its exit codes, and the next step that each error names."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from trust.handshake import make_fleet

from p2pfill.cli import main
from p2pfill.trust.authority import Authority
from p2pfill.trust.credentials import Credentials

FLEET = """
caches = [{id = "a1", isp = "isp-a", hosts = ["10.0.0.11"]}]
trackers = [{name = "main", hosts = ["tracker.example"]}]
users = [{name = "anna"}]
"""


class Desk:
    """Where the operator sits."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def ca(self, *command: str, code: int = 0) -> tuple[str, str]:
        assert main(["ca", *command]) == code
        said = self._capsys.readouterr()
        assert code in (0, 5) or (said.err.startswith("p2pfill: error: ") and said.err.count("\n") == 1)
        return said.out, said.err

    def json(self, *command: str) -> Any:
        return json.loads(self.ca(*command, "--json")[0])

    def states(self, *options: str) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for one in self.json("show", *options)["certificates"]:
            found.setdefault(one["who"], []).append(one["state"])
        return found


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Desk:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("P2PFILL_CA", raising=False)
    return Desk(capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_fleet(tmp_path_factory.mktemp("fleet"), FLEET)


@pytest.fixture
def fleet(desk: Desk, made: Path, tmp_path: Path) -> Desk:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return desk


def test_from_nothing(desk: Desk) -> None:
    out, _ = desk.ca("init", "ca", "--domain", "fleet.example")
    assert "ca/fleet.toml" in out
    assert "p2pfill ca issue --all --ca ca --out identities" in out
    assert "nobody is listed in 'ca/fleet.toml'" in desk.ca("issue", "--all", "--out", "ids", code=2)[1]
    assert "nobody is listed" in desk.ca("show")[0]
    Path("ca/fleet.toml").write_text(FLEET)
    assert desk.states() == {"cache/a1": ["none"], "tracker/main": ["none"], "user/anna": ["none"]}
    assert "not issued" in desk.ca("show")[0]
    given = desk.json("issue", "--all", "--out", "ids")
    assert [(one["who"], one["directory"], one["is_new"]) for one in given] == [
        ("cache/a1", "ids/a1", True), ("tracker/main", "ids/main", True), ("user/anna", "ids/anna", True),
    ]  # fmt: skip
    assert Credentials(Path("ids/a1")).identity.uri == "spiffe://fleet.example/cache/a1/region/default/isp/isp-a"
    assert "was good already" in desk.ca("issue", "a1", "--out", "ids")[0]
    assert "3 of 3 have a certificate that is good" in desk.ca("issue", "--all", "--out", "elsewhere")[0]
    assert desk.states() == {"cache/a1": ["good"], "tracker/main": ["good"], "user/anna": ["good"]}


ERRORS = (
    (("init", "ca", "--domain", "fleet.example"), 2, "`p2pfill ca show`"),
    (("init", "new", "--domain", "Fleet Example"), 2, "as a host name, fleet.example"),
    (("init", "ids", "--domain", "fleet.example"), 2, "name a new directory"),
    (("show", "--ca", "nosuch"), 2, "`p2pfill ca init` makes one"),
    (("show", "--ca", "ids"), 2, "`p2pfill ca init` makes one"),
    (("issue", "--out", "ids"), 2, "or --all"),
    (("issue", "a1", "--all", "--out", "ids"), 2, "or --all"),
    (("issue", "--all", "--csr", "x.csr", "--out", "ids"), 2, "name whom"),
    (("issue", "a1", "--csr", "x.csr", "--out", "ids"), 2, "cannot read the request 'x.csr'"),
    (("issue", "a1", "--csr", "ca/ca.pem", "--out", "ids"), 2, "no signing request"),
    (("issue", "eve", "--out", "ids"), 2, "add it there"),
    (("issue", "a1", "--out", "ids", "--days", "0"), 2, "--days"),
    (("renew", "eve", "--out", "ids"), 2, "add it there"),
    (("revoke", "eve", "--yes"), 2, "`p2pfill ca show`"),
    (("rotate", "--switch", "--finish"), 2, "either"),
    (("rotate", "--switch"), 1, "`p2pfill ca rotate` begins"),
    (("rotate", "--finish", "--dry-run"), 1, "`p2pfill ca rotate` begins"),
    (("check", "nosuch"), 2, "`p2pfill ca issue` makes such a directory"),
)


def test_errors_name_the_next_step_and_change_nothing(fleet: Desk) -> None:
    before = Path("ca/state.json").read_bytes()
    for command, code, says in ERRORS:
        assert says in fleet.ca(*command, code=code)[1], command
    assert Path("ca/state.json").read_bytes() == before


def test_a_list_that_is_wrong_is_told_with_its_place(fleet: Desk) -> None:
    Path("ca/fleet.toml").write_text(FLEET.replace('"10.0.0.11"', '"10.0.0.11:7400"'))
    assert "'ca/fleet.toml', caches[0]: '10.0.0.11:7400' is neither" in fleet.ca("show", code=2)[1]


def test_another_place_for_the_authority(fleet: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ca").rename("other")
    assert "ca init" in fleet.ca("show", code=2)[1]
    assert "cache/a1" in fleet.ca("show", "--ca", "other")[0]
    monkeypatch.setenv("P2PFILL_CA", "other")
    assert "cache/a1" in fleet.ca("show")[0]


def test_renewal(fleet: Desk) -> None:
    assert "nothing was signed" in fleet.ca("renew", "--out", "ids")[0]
    key = Path("ids/a1/key.pem").read_bytes()
    out, _ = fleet.ca("renew", "--out", "ids", "--within", "100", "--days", "200")
    assert out.count("is good until") == 3
    assert "copy cert.pem and ca.pem" in out
    assert Path("ids/a1/key.pem").read_bytes() == key
    assert Credentials(Path("ids/a1")).expires > datetime.now(UTC) + timedelta(days=199)
    assert fleet.states() == {"cache/a1": ["good"], "tracker/main": ["good"], "user/anna": ["good"]}
    assert fleet.states("--all")["cache/a1"] == ["good", "replaced"]
    Path("ca/fleet.toml").write_text(FLEET.replace("isp-a", "isp-b"))
    assert "the list says otherwise: renew it" in fleet.json("show")["certificates"][0]["notes"]
    assert "the list says otherwise: renew it" in fleet.ca("show")[0], "what is to be done is seen in 80 characters"
    out, _ = fleet.ca("renew", "--out", "ids")
    (revoke,) = [line for line in out.splitlines() if "ca revoke" in line]
    serial = revoke.partition("ca revoke ")[2].partition("`")[0]
    assert "done: revoke 1 certificate of cache/a1" in fleet.ca("revoke", serial, "--yes")[0]


def test_a_shorter_life_counts_from_the_next_renewal_on(fleet: Desk) -> None:
    fleet.ca("renew", "a1", "--out", "ids", "--within", "100", "--days", "2")
    (ends,) = [one["ends"] for one in fleet.json("show")["certificates"] if one["who"] == "cache/a1"]
    assert datetime.fromisoformat(ends) < datetime.now(UTC) + timedelta(days=3), "what the machine shows"
    assert "ends soon: renew it" in fleet.ca("show")[0]
    assert fleet.states("--all")["cache/a1"] == ["replaced", "good"]
    out, _ = fleet.ca("renew", "--out", "ids")
    assert out.count("is good until") == 1
    assert Credentials(Path("ids/a1")).expires > datetime.now(UTC) + timedelta(days=80)
    assert "nothing was signed" in fleet.ca("renew", "--out", "ids")[0]


def test_who_signs_with_a_root_that_ends_soon_is_told(desk: Desk) -> None:
    desk.ca("init", "ca", "--domain", "fleet.example", "--root-days", "20")
    Path("ca/fleet.toml").write_text(FLEET)
    for command in (("issue", "--all"), ("renew",)):
        out, _ = desk.ca(*command, "--out", "ids")
        assert "certificates end with the root, at" in out
        assert "`p2pfill ca rotate`" in out
    assert "nothing was signed" in out
    assert "and all are as listed" not in out


def test_revocation_asks_first(fleet: Desk) -> None:
    said = "revoke 1 certificate of cache/a1"
    assert f"would {said}" in fleet.ca("revoke", "a1", "--dry-run")[0]
    err = fleet.ca("revoke", "a1", code=2)[1]
    assert said in err
    assert "add --yes, or --dry-run" in err
    assert fleet.states()["cache/a1"] == ["good"]
    out, _ = fleet.ca("revoke", "a1", "--yes")
    assert f"done: {said}" in out
    assert "copy ca/revoked.pem into the tracker's identity directory" in out
    assert fleet.states()["cache/a1"] == ["revoked", "none"]
    assert "nothing to revoke" in fleet.ca("revoke", "a1", "--yes", code=2)[1]
    told = fleet.json("revoke", "cache/a1", "--dry-run") if fleet.ca("issue", "a1", "--out", "ids") else {}
    assert (told["who"], len(told["revoked"]), told["dry_run"]) == ("cache/a1", 1, True)


def test_a_terminal_is_asked(fleet: Desk) -> None:
    for answer, code in (("n\n", 1), ("y\n", 0)):
        ours, theirs = pty.openpty()
        os.write(ours, answer.encode())
        command = [sys.executable, "-m", "p2pfill.cli", "ca", "revoke", "anna"]
        path = str(Path(__file__).parents[2])
        done = subprocess.run(
            command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False,
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        os.close(ours)
        os.close(theirs)
        assert done.returncode == code, done.stdout
        assert "revoke 1 certificate of user/anna" in done.stdout
        assert fleet.states()["user/anna"] == (["good"] if code else ["revoked", "none"])


def test_another_root(fleet: Desk) -> None:
    assert "would draw a new root" in fleet.ca("rotate", "--dry-run")[0]
    out, _ = fleet.ca("rotate")
    assert "copy ca/revoked.pem, then ca/ca.pem into all identities" in out
    assert "`p2pfill ca rotate --switch`" in out
    assert Path("ca/ca.pem").read_bytes().count(b"BEGIN CERTIFICATE") == 2
    assert "--switch" in fleet.ca("rotate", code=1)[1]
    assert "the root is being changed" in fleet.ca("show")[0]
    assert "`p2pfill ca renew`" in fleet.ca("rotate", "--switch")[0]
    assert "3 have no certificate of the new root" in fleet.ca("rotate", "--finish", "--yes", code=1)[1]
    assert "of the old root: renew it" in fleet.json("show")["certificates"][0]["notes"]
    assert fleet.ca("renew", "--out", "ids")[0].count("is good until") == 3
    assert "would drop the old root" in fleet.ca("rotate", "--finish", "--dry-run")[0]
    assert "add --yes" in fleet.ca("rotate", "--finish", code=2)[1]
    Path("ca/fleet.toml").write_text(FLEET.replace("anna", "otto"))
    told = fleet.json("rotate", "--finish", "--yes")
    assert (told["step"], told["cut_off"], len(told["roots_end"])) == ("finish", [], 1)
    assert [root["number"] for root in fleet.json("show")["roots"]] == [2]


def test_what_is_cut_off_is_named(fleet: Desk) -> None:
    fleet.ca("rotate")
    fleet.ca("rotate", "--switch")
    Path("ca/fleet.toml").write_text(FLEET.replace("anna", "otto"))
    fleet.ca("renew", "--out", "ids")
    assert "and with it user/anna, not listed any more" in fleet.ca("rotate", "--finish", "--dry-run")[0]


def test_check_says_who_and_whether(fleet: Desk) -> None:
    told = fleet.json("check", "ids/a1")
    assert told["uri"] == "spiffe://fleet.example/cache/a1/region/default/isp/isp-a"
    assert (told["who"], told["hosts"], told["refused"]) == ("cache/a1", ["10.0.0.11"], "")
    assert "let it in" in fleet.ca("check", "ids/anna")[0]
    fleet.ca("revoke", "a1", "--yes")
    Path("ids/a1/revoked.pem").write_bytes(Path("ca/revoked.pem").read_bytes())
    assert "others refuse it: the certificate of cache/a1 was revoked" in fleet.ca("check", "ids/a1", code=5)[0]
    with Authority(Path("ca")) as authority:
        authority.issue(["main"], Path("old"), datetime.now(UTC) - timedelta(days=100))
    assert "others refuse it: certificate has expired" in fleet.ca("check", "old/main", code=5)[0]
    fleet.ca("init", "ca2", "--domain", "fleet.example")
    Path("ids/anna/revoked.pem").unlink()
    Path("ids/anna/ca.pem").write_bytes(Path("ca2/ca.pem").read_bytes())
    assert "unable to get local issuer" in fleet.ca("check", "ids/anna", code=5)[0]


def test_tables_fit_a_terminal(fleet: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    Path("ca/fleet.toml").write_text(FLEET.replace("isp-a", "isp-b"))
    out, _ = fleet.ca("show")
    assert max(map(len, out.splitlines())) <= 80
    assert "the list says otherwise: renew it" in out
