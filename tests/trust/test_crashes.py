"""A command that is broken off at any write leaves an authority that works, and the same command again ends its work.

What breaks off is each call that changes the disk, one after the other: before it happens, and for a write after a part
of it. What the disk makes of a power cut is not looked at here: every file is synced before it is shown.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from trust.handshake import DAY, NOW, make_fleet, meet

from p2pfill.errors import P2PFillError
from p2pfill.trust.authority import Authority
from p2pfill.trust.credentials import Credentials

FLEET = """
caches = [{id = "a1", isp = "isp-a", hosts = ["127.0.0.1"]}]
trackers = [{name = "main", hosts = ["localhost"]}]
"""
NAMES = ("a1", "main")

CALLS_MAX = 400
"""More than any of these commands makes: the loop below must end by itself."""


@pytest.fixture(autouse=True)
def _no_syncs(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are counted below, and take most of the time; nothing here asks what is on the disk itself."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


class Crash(BaseException):
    """The end of the process."""


@contextmanager
def crash_at(number: int) -> Iterator[None]:
    """Break off at the change of the disk with this number, counted from 0."""
    count = itertools.count()

    def breaking(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*args: Any, **more: Any) -> Any:
            if name == "open" and not args[1] & os.O_CREAT:
                return real(*args, **more)
            if next(count) == number:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                raise Crash
            return real(*args, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("open", "write", "fsync", "replace", "mkdir", "unlink", "chmod"):
            patch.setattr(os, name, breaking(name))
        yield


def init(fleet: Path) -> None:
    Authority.create(fleet / "ca", "fleet.example", NOW)


def issue(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.issue([], fleet / "ids", NOW)


def issue_after_revocation(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.issue(["a1"], fleet / "ids", NOW)


def renew(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.renew([], fleet / "ids", NOW, 100 * DAY, 120 * DAY)


def renew_with_new_keys(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.renew([], fleet / "ids", NOW, 100 * DAY, 120 * DAY, new_keys=True)


def revoke(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.revoke(authority.meant("a1", NOW), NOW)


def rotate(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.rotate(NOW)


def switch(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.switch(NOW)


def finish(fleet: Path) -> None:
    with Authority(fleet / "ca") as authority:
        authority.finish(NOW)


BEFORE: dict[Callable[[Path], None], tuple[Callable[[Path], None], ...]] = {
    issue: (),
    issue_after_revocation: (issue, revoke),
    renew: (issue,),
    renew_with_new_keys: (issue,),
    revoke: (issue,),
    rotate: (issue,),
    switch: (issue, rotate),
    finish: (issue, rotate, switch, renew),
}


def check_safe(fleet: Path) -> None:
    """Whatever has happened, no key is readable by others, and what is written is whole."""
    for path in fleet.rglob("*key*"):
        assert not path.stat().st_mode & 0o077, path
    with Authority(fleet / "ca") as authority:
        state = authority.state
        assert (fleet / "ca" / "ca.pem").read_bytes() == state.ca_pem
        assert (fleet / "ca" / "revoked.pem").read_bytes() == state.revoked_pem
        assert sorted(path.name for path in (fleet / "ca").glob("root-*")) == [root.key_file for root in state.roots]
        authority.lines(NOW)


def check_done(fleet: Path, command: Callable[[Path], None]) -> None:
    """After the command was given again, all is as it should be."""
    with Authority(fleet / "ca") as authority:
        good = {name: authority.state.good(one.who, NOW) for name, one in authority.listed().items()}
    gone = {"a1"} if command is revoke else set()
    assert {name for name in NAMES if not good[name]} == gone
    everybody = {name: Credentials(fleet / "ids" / name) for name in NAMES if name not in gone}
    for name, one in everybody.items():
        assert one.expires == good[name][-1].ends, f"{name} has an old certificate"
        assert not list((fleet / "ids" / name).glob("key.pem.new"))
    for server, client in itertools.permutations(everybody, 2):
        meet(everybody[server], everybody[client])


@pytest.mark.parametrize("command", BEFORE, ids=lambda command: command.__name__)
def test_a_command_that_breaks_off_can_be_given_again(command: Callable[[Path], None], tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    init(start)
    (start / "ca" / "fleet.toml").write_text(FLEET)
    for step in BEFORE[command]:
        step(start)
    for number in range(CALLS_MAX):
        fleet = Path(shutil.copytree(start, tmp_path / str(number)))
        had = [name for name in NAMES if (fleet / "ids" / name).exists()]
        try:
            with crash_at(number):
                command(fleet)
        except Crash:
            check_safe(fleet)
            for name in had:
                check_usable(fleet, name, command)
            # It may have been done, all but for what follows from it.
            with suppress(P2PFillError):
                command(fleet)
            check_done(fleet, command)
        else:
            assert number > 5
            check_done(fleet, command)
            return
    pytest.fail("it never ended")


def check_usable(fleet: Path, name: str, command: Callable[[Path], None]) -> None:
    """A directory that could be used can be used, but between the two names of a new pair."""
    try:
        Credentials(fleet / "ids" / name)
    except P2PFillError:
        assert command in (renew_with_new_keys, issue_after_revocation)
        assert (fleet / "ids" / name / "cert.pem.new").exists()


def test_init_that_breaks_off_can_be_given_again(tmp_path: Path) -> None:
    for number in range(CALLS_MAX):
        fleet = tmp_path / str(number)
        fleet.mkdir()
        try:
            with crash_at(number):
                init(fleet)
        except Crash:
            with suppress(P2PFillError):  # where it was all but done
                init(fleet)
            check_safe(fleet)
        else:
            assert number > 10
            return
    pytest.fail("it never ended")


def test_a_crash_is_noticed(tmp_path: Path) -> None:
    """Guards the instrument: the calls that are counted are those that are made."""
    fleet = make_fleet(tmp_path)
    before = (fleet / "ca" / "state.json").read_bytes()
    with pytest.raises(Crash), crash_at(0):
        revoke(fleet)
    assert (fleet / "ca" / "state.json").read_bytes() == before
