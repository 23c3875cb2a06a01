"""While the root is changed, everybody can talk with everybody after each file that reaches a machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trust.handshake import NAMES, NOW, SERVERS, make_fleet, meet, shake

from p2pfill.errors import ConfigError
from p2pfill.trust.authority import Authority, AuthorityError
from p2pfill.trust.credentials import Bearer, Credentials, PeerRefused


class Machines:
    """What runs, each with its directory, as it is at that moment."""

    def __init__(self, fleet: Path) -> None:
        self.fleet = fleet
        shutil.copytree(fleet / "ids", fleet / "machines")
        self.running = {name: Credentials(fleet / "machines" / name) for name in NAMES}

    def all_meet(self) -> int:
        count = 0
        for server in SERVERS:
            for client in NAMES:
                host = "tracker.fleet.example" if server == "main" else None
                meet(self.running[server], self.running[client], host)
                count += 1
        return count

    def carry(self, files: tuple[str, ...], source: str) -> None:
        """Bring files to one machine after the other; after each, all must meet."""
        for name in NAMES:
            for file in files:
                place = self.fleet / source if source == "ca" else self.fleet / source / name
                shutil.copy(place / file, self.fleet / "machines" / name)
                assert self.running[name].reload()
                assert self.all_meet() == len(SERVERS) * len(NAMES)


def test_everybody_meets_everybody_at_each_step(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path)
    machines = Machines(fleet)
    with Authority(fleet / "ca") as authority:
        authority.rotate(NOW)
        machines.carry(("ca.pem", "revoked.pem"), "ca")
        authority.switch(NOW)
        assert len(authority.renew([], fleet / "new", NOW)) == len(NAMES)
        machines.carry(("cert.pem",), "new")
        authority.finish(NOW)
        machines.carry(("ca.pem", "revoked.pem"), "ca")
    kept = fleet / "ids" / "a1"
    shutil.rmtree(fleet / "machines" / "a1")
    shutil.copytree(kept, fleet / "machines" / "a1")
    with pytest.raises(Exception, match=r"(?i)verify failed|unknown ca"):
        meet(Credentials(fleet / "machines" / "a1"), machines.running["b1"])


def test_revocations_hold_through_a_change_of_the_root(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path)
    machines = Machines(fleet)
    b1, main, anna = (machines.running[name] for name in ("b1", "main", "anna"))
    (fleet / "machines" / "b1" / "revoked.pem").unlink()  # it goes by what it is told
    with Authority(fleet / "ca") as authority:
        authority.rotate(NOW)
        authority.revoke(authority.meant("anna", NOW), NOW)
        # b1 trusts the old root alone still, and hears of the lists of both.
        assert b1.revocations.add(authority.state.revoked_pem)
        shutil.copy(fleet / "ca" / "ca.pem", fleet / "machines" / "b1")
        b1.reload()
        assert main.revocations.add(b1.revocations.pem())
        for server in (b1, main):
            with pytest.raises(PeerRefused, match="revoked"):
                meet(server, anna)
        authority.switch(NOW)
        authority.renew([], fleet / "new", NOW)
        (again,) = authority.issue(["anna"], fleet / "new", NOW)
        assert again.is_new
        authority.revoke(authority.meant("anna", NOW), NOW)
        lists = authority.state.revoked_pem
        assert b1.revocations.add(lists)
        authority.finish(NOW)
        for file in ("cert.pem", "ca.pem"):
            shutil.copy(fleet / ("new/b1" if file == "cert.pem" else "ca") / file, fleet / "machines" / "b1")
        # What it was told of the root that stays, stays, beside what was told of the one that is gone.
        assert b1.reload()
    with pytest.raises(PeerRefused, match="revoked"):
        meet(b1, Credentials(fleet / "new" / "anna"))


def test_who_was_let_in_by_the_old_root_is_let_in_no_more(tmp_path: Path) -> None:
    """A handshake finds that by itself; what stands since before must be looked at again."""
    fleet = make_fleet(tmp_path)
    machines = Machines(fleet)
    a1, anna = machines.running["a1"], machines.running["anna"]
    ends = shake(a1.accepting, anna.connecting)
    bearer = Bearer(a1, ends[0].getpeercert(binary_form=True) or b"")
    with Authority(fleet / "ca") as authority:
        authority.rotate(NOW)
        shutil.copy(fleet / "ca" / "ca.pem", fleet / "machines" / "a1")
        assert a1.reload()
        assert bearer.identity().who == "user/anna"
        authority.switch(NOW)
        authority.renew([], fleet / "new", NOW)
        authority.finish(NOW)
    for file in ("revoked.pem", "ca.pem"):
        shutil.copy(fleet / "ca" / file, fleet / "machines" / "a1")
    assert a1.reload()
    with pytest.raises(PeerRefused, match="user/anna is of an authority that is not trusted here"):
        bearer.identity()
    shutil.copy(fleet / "new" / "anna" / "cert.pem", fleet / "machines" / "anna")
    anna.reload()
    meet(a1, anna)


def test_steps_come_in_order(tmp_path: Path) -> None:
    fleet = make_fleet(tmp_path)
    with Authority(fleet / "ca") as authority:
        for step in (authority.switch, authority.finish):
            with pytest.raises(AuthorityError, match="begins to change it"):
                step(NOW)
        authority.rotate(NOW)
        for step in (authority.rotate, authority.finish):
            with pytest.raises(AuthorityError, match="--switch"):
                step(NOW)
        authority.issue(["a1"], fleet / "other", NOW)
        assert authority.state.issued[-1].root == 1
        authority.switch(NOW)
        for step in (authority.rotate, authority.switch):
            with pytest.raises(AuthorityError, match="--finish"):
                step(NOW)
        with pytest.raises(AuthorityError, match="4 have no certificate of the new root"):
            authority.finish(NOW)
        assert {line.notes for line in authority.lines(NOW) if line.state == "good"} == {("of the old root: renew it",)}
        authority.renew(["a1", "b1", "main"], fleet / "ids", NOW)
        with pytest.raises(AuthorityError, match="user/anna"):
            authority.finish(NOW)
        path = fleet / "ca" / "fleet.toml"
        path.write_text(path.read_text().replace("anna", "otto"))
        assert authority.cut_off(NOW) == ["user/anna"]
        authority.finish(NOW)
        assert sorted(path.name for path in (fleet / "ca").glob("*.key")) == ["root-2.key"]
        with pytest.raises(ConfigError, match="nothing to revoke"):
            authority.meant("anna", NOW)
        with pytest.raises(AuthorityError, match="begins to change it"):
            authority.finish(NOW)
        authority.rotate(NOW)
        assert [root.number for root in authority.state.roots] == [2, 3]
