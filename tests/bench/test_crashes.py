"""Crashes: few kills and a few prefixes of the commands in bench/crashes; and that they find what is planted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.crashes import kills, power, report
from bench.crashes.__main__ import main
from bench.crashes.disk import ROOT, Disk, Inode, Op, Recording
from bench.crashes.records import KillsReport, PowerPart, PowerReport
from bench.crashes.states import States, build, check_whole
from bench.crashes.strace import Began, Call, RecordingFailed, find_strace
from p2pfill.bench.measure import describe_machine

PAGE = 4096


def recorded(*ops: tuple[str, dict[str, Any]], files: int = 3) -> Recording:
    """Return a recording of ops that come one after the other, on files 1, 2, …"""
    domains: dict[str, Any] = {
        "link": lambda op: (("entries", op["directory"]),),
        "rename": lambda op: (("entries", op["directory"]), ("entries", op["to_directory"])),
        "write": lambda op: (("data", op["inode"]),),
        "sync": lambda op: op.pop("domains"),
    }
    made = []
    for at, (kind, given) in enumerate(ops):
        covers = domains[kind](op := dict(given))
        made.append(Op(kind, 2 * at, 2 * at + 1, covers, **op))  # type: ignore[arg-type]
    return Recording(made, [Inode("directory", ""), *(Inode("file", f"file-{n}") for n in range(1, files + 1))])


def disks(recording: Recording, root: Path, prefix: int | None = None) -> set[tuple[tuple[str, bytes], ...]]:
    """Return what a disk may hold after a prefix, built for real: paths and bytes."""
    states, found = States(recording), set()
    for state in states.of(len(recording.ops) if prefix is None else prefix):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        build(state.held, states.contents, root)
        found.add(tuple(sorted((path.name, path.read_bytes()) for path in root.iterdir())))
    return found


def link(name: str, inode: int) -> tuple[str, dict[str, Any]]:
    return "link", {"directory": ROOT, "name": name, "inode": inode}


def write(inode: int, data: bytes, offset: int = 0) -> tuple[str, dict[str, Any]]:
    return "write", {"inode": inode, "data": data, "offset": offset}


def rename(name: str, to_name: str, inode: int) -> tuple[str, dict[str, Any]]:
    at = {"directory": ROOT, "name": name, "to_directory": ROOT, "to_name": to_name, "inode": inode}
    return "rename", at


def sync(*domains: tuple[str, int]) -> tuple[str, dict[str, Any]]:
    return "sync", {"domains": domains}


def test_a_sync_of_a_file_covers_its_bytes_and_not_its_name(tmp_path: Path) -> None:
    ops = [link("a", 1), write(1, b"x"), sync(("data", 1))]
    assert disks(recorded(*ops), tmp_path / "d") == {(), (("a", b"x"),)}
    assert disks(recorded(*ops, sync(("entries", ROOT))), tmp_path / "d") == {(("a", b"x"),)}
    assert disks(recorded(*ops[:2], sync()), tmp_path / "d") == {(("a", b"x"),)}


def test_a_write_is_there_or_not_or_torn_between_sectors(tmp_path: Path) -> None:
    data = bytes(range(1, 5)) * PAGE
    found = disks(recorded(link("a", 1), sync(), write(1, data)), tmp_path / "d")
    held = {dict(disk)["a"] for disk in found}
    assert {b"", data, bytes(len(data))} <= held
    assert len(held) > 3
    for one in held - {b"", bytes(len(data))}:
        kept = [at for at in range(0, len(one), 512) if one[at : at + 512] == data[at : at + 512]]
        others = {one[at : at + 512] for at in range(0, len(one), 512) if at not in kept}
        assert others <= {bytes(512)}, "a sector is there or it is not"


def test_a_rename_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    ops = [link("a", 1), write(1, b"old"), sync(), link("a.new", 2), write(2, b"new"), sync(("data", 2))]
    found = disks(recorded(*ops, rename("a.new", "a", 2)), tmp_path / "d")
    assert {dict(disk)["a"] for disk in found} == {b"old", b"new"}
    found = disks(recorded(*ops[:5], rename("a.new", "a", 2)), tmp_path / "d")
    assert b"" in {dict(disk)["a"] for disk in found}, "bytes that were not synced first may be missing"


def test_a_sync_covers_nothing_that_had_not_returned(tmp_path: Path) -> None:
    recording = recorded(link("a", 1), sync(), write(1, b"x"), sync(("data", 1)))
    late = recording.ops[3]
    recording.ops[3] = Op("sync", 3, 7, late.domains)  # asked for before the write had returned
    assert disks(recording, tmp_path / "d") == {(("a", b""),), (("a", b"x"),), (("a", b"\0"),)}


def test_many_changes_are_sampled_and_the_first_state_lacks_nothing(tmp_path: Path) -> None:
    writes = [write(1, b"%d" % n, n) for n in range(10)]
    recording = recorded(link("a", 1), sync(), *writes, write(2, b"x"), link("b", 2))
    states = States(recording)
    (first, *rest) = states.of(len(recording.ops))
    assert len(rest) + 1 == states.counts.made == 1000
    assert states.counts.exhaustive == 0
    build(first.held, states.contents, tmp_path)
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"0123456789", b"x")
    # Of ten writes over the same bytes the last counts that is there, so all subsets are few.
    same = States(recorded(link("a", 1), sync(), *[write(1, b"%d" % n) for n in range(10)]))
    assert {state.held.key for state in same.of(12)} == {state.held.key for state in same.of(12)}
    assert same.counts.exhaustive == 2


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("writev", ("5", "[{iov_base=…}]", "1")),
        ("mmap", ("NULL", "4096", "PROT_READ|PROT_WRITE", "MAP_SHARED", "5", "0")),
        ("fork", ()),
        ("io_uring_setup", ("8", "{}")),
        ("openat2", ("AT_FDCWD", b"/disk/a", "{}")),
        ("linkat", ("AT_FDCWD", b"/disk/a", "AT_FDCWD", b"/disk/b", "0")),
        ("fallocate", ("5", "FALLOC_FL_PUNCH_HOLE", "0", "1")),
    ],
)
def test_a_call_behind_which_writes_would_be_missed_is_refused(name: str, arguments: tuple[str | bytes, ...]) -> None:
    opened = Call("openat", ("AT_FDCWD", b"/disk/a", "O_RDWR|O_CREAT"), 5, 0, 0)
    with pytest.raises(RecordingFailed):
        Disk(Path("/disk"), Path("/marks")).follow([opened, Call(name, arguments, 0, 1, 1)])


def test_a_descriptor_that_is_closed_may_be_given_away_before_close_returns() -> None:
    calls = [
        Call("openat", ("AT_FDCWD", b"/disk/a", "O_RDWR|O_CREAT"), 5, 0, 0),
        Began("close", ("5",)),
        Call("openat", ("AT_FDCWD", b"/disk/b", "O_RDWR|O_CREAT"), 5, 2, 2),
        Call("close", ("5",), 0, 1, 3),
        Call("pwrite64", ("5", b"x", "1", "0"), 1, 4, 4),
    ]
    recording = Disk(Path("/disk"), Path("/marks")).follow(calls)
    assert [(op.kind, op.inode) for op in recording.ops] == [("link", 1), ("link", 2), ("write", 2)]


# ---- real processes


@pytest.fixture(scope="module")
def _strace() -> None:
    if find_strace() is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("strace is not installed")
        pytest.skip("needs strace (Debian package strace)")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, _strace: None) -> power.Subject:
    return power.record_store(tmp_path_factory.mktemp("store"), 1)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory, _strace: None) -> power.Subject:
    return power.record_tracker(tmp_path_factory.mktemp("tracker"), 1, 2)


@pytest.fixture
def work() -> Iterator[Path]:
    """In memory, where that can be: a disk would be waited for thousands of times."""
    where = Path("/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp") / f"p2pfill-test-{os.getpid()}"
    where.mkdir()
    yield where
    shutil.rmtree(where)


def replay(subject: power.Subject, prefixes: int, work: Path) -> PowerPart:
    return power.replay(subject, power.Settings(prefixes, every=4), work, lambda _: None)


def without_syncs(subject: power.Subject, names: set[str]) -> power.Subject:
    """Return a subject whose syncs of the bytes of files that were made under these names promise nothing."""
    inodes = subject.recording.inodes
    ops = [
        Op("sync", op.begin, op.end, (("data", -1),))
        if op.kind == "sync" and any(kind == "data" and inodes[inode].name in names for kind, inode in op.domains)
        else op
        for op in subject.recording.ops
    ]
    return subject._replace(recording=Recording(ops, inodes))


@pytest.mark.process
def test_a_cache_loses_nothing_by_a_power_loss(store: power.Subject, work: Path) -> None:
    part = replay(store, 8, work)
    assert part.faults == {}
    assert part.prefixes == 8
    assert part.states_made > part.states_distinct > 20
    assert part.starts_of_processes > 0
    assert {"link", "rename", "write", "attributes", "unlink", "extend", "sync"} <= part.ops.keys()


@pytest.mark.process
def test_a_cache_whose_journal_is_not_synced_is_found_out(store: power.Subject, work: Path) -> None:
    durable = [at for at, op in enumerate(store.recording.ops, 1) if op.told and op.told["event"] == "durable"]
    spoiled = without_syncs(store, {"journal.new"})
    spoiled = spoiled._replace(recording=Recording(spoiled.recording.ops[: durable[1]], spoiled.recording.inodes))
    part = replay(spoiled, 3, work)
    assert any("were durable, and are gone" in fault for fault in part.faults)


@pytest.mark.process
def test_a_tracker_loses_nothing_by_a_power_loss(tracker: power.Subject, work: Path) -> None:
    part = replay(tracker, 6, work)
    assert part.faults == {}
    assert part.damaged_told > 0, "what is rotten is told"
    assert part.states_made > part.states_distinct > 5


@pytest.mark.process
def test_a_tracker_whose_log_is_not_synced_is_found_out(tracker: power.Subject, work: Path) -> None:
    part = replay(without_syncs(tracker, {"tracker.db-wal"}), 4, work)
    assert any("is lost" in fault for fault in part.faults)


@pytest.mark.process
def test_what_was_not_recorded_is_noticed(tmp_path: Path) -> None:
    recording = recorded(link("a", 1), write(1, b"x"))
    (tmp_path / "a").write_bytes(b"x")
    check_whole(recording, tmp_path)
    (tmp_path / "a").write_bytes(b"y")
    with pytest.raises(RecordingFailed, match="other bytes"):
        check_whole(recording, tmp_path)
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").touch()
    with pytest.raises(RecordingFailed, match="was not recorded"):
        check_whole(recording, tmp_path)


@pytest.mark.process
def test_kills_of_each_role(work: Path) -> None:
    roles = kills.run(kills.Settings(kills=4), work, lambda _: None)
    assert [role.faults for role in roles] == [[]] * 4
    assert [(role.role, role.kills) for role in roles] == [(role, 1) for role in kills.VICTIMS]
    assert sum(role.orders_lost + role.fetched_again for role in roles) == 0
    assert sum(role.files_compared for role in roles) > 40
    made = KillsReport(describe_machine(work), 1, "a command", roles, 1.0, 1.0, 1.0)
    assert made.is_good
    assert "| kills | 1 | 1 | 1 | 1 |" in report.page(made)


def test_a_fault_is_reported(work: Path) -> None:
    part = power.replay(
        power.Subject("a disk", recorded(link("a", 1)), [0, 0], _always_wrong), power.Settings(), work, lambda _: None
    )
    made = PowerReport(describe_machine(work), 1, "a command", [part])
    assert not made.is_good
    assert part.examples[0].last_ops == ["link a (('entries', 0),)"]
    report.write(made, work / "out")
    assert "2 states: it is wrong" in (work / "out" / "power-a disk.md").read_text()


async def _always_wrong(root: Path, prefix: int) -> power.Found:
    return power.Found(["it is wrong"], 0.0)


def test_figures_of_the_page_are_those_of_the_reports() -> None:
    root = Path(__file__).parents[2]
    reports = root / "docs" / "reports" / "crashes"
    killed = msgspec.json.decode((reports / "kills.json").read_bytes(), type=KillsReport)
    replayed = [
        msgspec.json.decode((reports / f"power-{name}.json").read_bytes(), type=PowerReport) for name in power.SUBJECTS
    ]
    for made, name in ((killed, "kills"), *((one, f"power-{one.parts[0].name}") for one in replayed)):
        assert (reports / f"{name}.md").read_text() == report.page(made)
    assert report.faults_table(killed, replayed) in (root / "docs" / "reliability.md").read_text()


def test_roles_that_are_not_known_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["kills", "--roles", "cache,viewer"])
    assert ended.value.code == 2
    assert "viewer" in capsys.readouterr().err
