"""Bad disks, bad inputs, bad origins: one line that says what to do, and the others go on."""

from __future__ import annotations

import os
import socket
import subprocess
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from origin.nginx import Nginx
from ports import free_port
from process.fleet import Done, Fleet, HeldOrigin, Proc, Title, cli, wait_until

pytestmark = pytest.mark.process

ALL = ("a1", "a2", "b1", "b2", "hub")

WITHOUT_RANGE = 2
"""Copies of a title that may leave an origin without Range: caches that ask before they know it get whole files too."""


@contextmanager
def tmpfs(path: Path, options: str) -> Iterator[Path]:
    """Mount a small file system; skips the test where that is not allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", path]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("cannot mount a file system here")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def one_line(done: Done, code: int, *words: str) -> None:
    """Check that a command has failed with one line that has these words in it."""
    assert done.code == code, done
    assert done.err.startswith("p2pfill: error: "), done
    assert done.err.count("\n") == 1, done
    assert all(word in done.err for word in words), done


def run_node(data: Path, *flags: str) -> Done:
    """Run a node that is expected to end at once."""
    return cli("node", "--id", "x1", "--isp", "x", "--data", str(data), *flags)


def test_data_directories_that_cannot_be_used(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    one_line(run_node(plain / "data"), 1, str(plain))
    with tmpfs(tmp_path / "full", "size=64k") as full:
        with suppress(OSError):
            (full / "ballast").write_bytes(bytes(1 << 20))
        one_line(run_node(full), 1, str(full), "the disk is full", "free some space")
    with tmpfs(tmp_path / "read-only", "size=64k") as ro:
        subprocess.run(["mount", "-o", "remount,ro", ro], check=True)
        one_line(run_node(ro), 1, str(ro), "read-only", "mount it writable")


def test_data_directory_of_somebody_else(tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("needs root, to become somebody else")
    directory = tmp_path / "root-only"
    directory.mkdir(mode=0o755)
    with warnings.catch_warnings():
        # The child runs one command and ends; no lock of another thread is in its way.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setgid(65534)
            os.setuid(65534)
            done = run_node(directory)
            good = done.code == 1 and "permission denied; make it writable" in done.err and done.err.count("\n") == 1
            code = 0 if good else 1
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        one_line(run_node(tmp_path / "data", "--listen", address), 2, address, "is another node running there?")
        done = cli("tracker", "--listen", address, "--db", f"sqlite:///{tmp_path}/t.db")
        one_line(done, 2, address, "choose another port")


def test_a_tracker_that_is_not_there(tmp_path: Path, make_title: Callable[..., Title]) -> None:
    title = make_title("lonely", 1)
    url = f"http://127.0.0.1:{free_port()}"
    done = cli("fill", str(title.fill), "--tracker", url, "--to", "all")
    one_line(done, 3, url, "check that it runs")
    one_line(cli("status", "--tracker", url), 3, url)
    # A node goes on trying, and says so.
    arguments = ["node", "--id", "x1", "--isp", "x", "--data", str(tmp_path / "data"), "--tracker", url, "--json"]
    node = Proc("x1", "p2pfill.cli", arguments, tmp_path / "x1.log")
    assert node.ready["id"] == "x1"
    wait_until("the node says that there is no tracker", lambda: url in node.text())
    assert node.running()
    assert node.end() == 0
    assert "Traceback" not in node.text()


def test_a_corrupt_manifest(tmp_path: Path, make_title: Callable[..., Title]) -> None:
    title = make_title("torn", 1)
    data = title.fill.read_bytes()
    for number, bad in enumerate((b"", b"\x00" * 100, data[:-1], data[: len(data) // 2], data + b"x")):
        fill = tmp_path / f"bad{number}.fill"
        fill.write_bytes(bad)
        one_line(cli("fill", str(fill), "--tracker", "http://127.0.0.1:1", "--to", "all"), 2, str(fill))
        one_line(cli("verify", str(title.root), str(fill)), 2, str(fill))


def test_a_title_that_does_not_fit_fails_there_and_nowhere_else(
    fleet: Fleet, tmp_path: Path, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("large")
    origin = make_origin(title.root)
    fleet.data("small").parent.mkdir(exist_ok=True)
    with tmpfs(fleet.data("small"), "size=4m"):
        fleet.start(("small", "isp-a"))
        fleet.order(title, [origin.url])
        fleet.live(ALL, title)
        report = wait_until("it says so", lambda: (r := fleet.report("small", title)).get("state") == "failed" and r)
        assert "free some space" in report["error"]
        shown = cli("explain", "small", title.name, "--tracker", fleet.url)
        assert shown.code == 0
        assert "The fill failed on the node: cannot hold title 'large'" in " ".join(shown.out.split())
        waited = cli("fill", str(title.fill), "--tracker", fleet.url, "--origin", origin.url, "--to", "all", "--wait")
        assert waited.code == 1
        assert "free some space" in waited.err
        assert fleet.stop("small") == 0


def test_a_file_that_changed_after_publishing(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin]
) -> None:
    title = make_title("changed", 4)
    name = "sub dir/kleine Datei ü3"
    right = (title.root / name).read_bytes()
    (title.root / name).write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    origin = make_origin(title.root)
    fleet.order(title, [origin.url], quarantine_s=2.0)

    def told() -> str:
        for cache in ALL:
            for source in fleet.report(cache, title).get("sources", ()):
                if source["state"] == "quarantined":
                    # Which file that is, the cache's own log has.
                    assert "not send what was published" in source["reason"] or "chunk" in source["reason"]
                    return cache
        return ""

    cache = wait_until("a cache has quarantined the origin", told)
    text = " ".join(cli("explain", cache, title.name, "--tracker", fleet.url).out.split())
    assert "is quarantined" in text
    flags = ("--tracker", fleet.url, "--origin", origin.url, "--to", "all", "--wait", "--timeout", "0.5")
    done = cli("fill", str(title.fill), *flags)
    assert done.code == 4, done
    # Repaired, it is read again, and everybody completes.
    (title.root / name).write_bytes(right)
    fleet.live(ALL, title)


@pytest.mark.nginx
@pytest.mark.parametrize("location", ["", "max_ranges 0;", "limit_rate 2m;"])
def test_nginx_as_origin(
    fleet: Fleet, make_title: Callable[..., Title], nginx: Callable[..., Nginx], location: str
) -> None:
    title = make_title(f"nginx-{location.split(' ')[0] or 'plain'}", 4)
    os.chmod(title.root, 0o755)
    origin = nginx(title.root, location)
    fleet.order(title, [origin.url])
    reports = fleet.live(ALL, title)
    taken = sum(report["bytes_origin"] for report in reports.values())
    if location.startswith("max_ranges"):
        assert taken <= WITHOUT_RANGE * title.size
    else:
        assert taken == title.size
        assert all(report["duplicate_bytes"] == 0 for report in reports.values())


@pytest.mark.parametrize("settings", [{"break_every": 3}, {"break_every": 3, "ranges": False}])
def test_origin_that_breaks_off(
    fleet: Fleet, make_title: Callable[..., Title], make_origin: Callable[..., HeldOrigin], settings: dict[str, int]
) -> None:
    title = make_title("breaks" + "-whole" * (len(settings) - 1), 4)
    origin = make_origin(title.root, **settings)
    fleet.order(title, [origin.url])
    reports = fleet.live(ALL, title)
    assert origin.broken
    taken = sum(report["bytes_origin"] for report in reports.values())
    assert title.size <= taken <= (title.size if origin.ranges else WITHOUT_RANGE * title.size)
