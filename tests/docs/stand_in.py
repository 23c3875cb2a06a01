"""Programs that stand in for those which the pages call and which a test must not run as they are.

    python stand_in.py NAME ARGUMENTS...          called through small scripts on the PATH of a sandbox

| name | what it does instead |
| --- | --- |
| `p2pfill tracker`, `p2pfill node` | runs it in the background, as in a terminal of its own, until the test ends |
| `p2pfill bench` | runs it once, with a small file and few nodes |
| `sudo` | runs the command as the same user |
| `scp` | copies to the other machine's directory |
| `python3 -m venv DIR` | makes DIR/bin with `p2pfill` and `pip`, which only checks that it was given the project |
| `systemctl` | runs `ExecStart` of the unit file in the background; `nginx` is the real one, on the pages' settings |
| `useradd`, `chown`, `nft` | nothing |
| `make demo` | the real target with 4 MiB; with ARGS, and `make test`, only shows that it could be made |
"""

from __future__ import annotations

import configparser
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MACHINE = Path(os.environ.get("DOCS_MACHINE", ""))
PROJECT = Path(os.environ.get("DOCS_PROJECT", ""))
READY_S = 30.0
FEW = {"fanout": ("--receivers", "2", "--sources", "2")}


def call(command: list[str], **options: Any) -> int:
    """Run a command that may start others in the background."""
    return subprocess.run(command, pass_fds=[int(os.environ["DOCS_LIFE"])], check=False, **options).returncode


def p2pfill(*arguments: str) -> int:
    if arguments[:1] == ("bench",):
        arguments += ("--mib", "4", "--runs", "1", *FEW.get(arguments[1], ()))
    command = [sys.executable, "-m", "p2pfill.cli", *arguments]
    if not arguments or arguments[0] not in ("tracker", "node") or "--help" in arguments:
        return call(command)
    return background(arguments[0], [*command, "--until-eof"], wait_for_line=True)


def background(name: str, command: list[str], *, wait_for_line: bool) -> int:
    """Start a process that ends with the test, whose end closes descriptor DOCS_LIFE."""
    log = MACHINE / f"{name}-{time.monotonic_ns()}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdin=int(os.environ["DOCS_LIFE"]), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    (MACHINE / "pids").mkdir(exist_ok=True)
    (MACHINE / "pids" / str(process.pid)).write_text(name)
    deadline = time.monotonic() + READY_S
    while wait_for_line and not said_it_is_ready(log) and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.05)
    if process.poll() is not None:
        print(log.read_text(), file=sys.stderr)
        return process.returncode or 1
    return 0


def said_it_is_ready(log: Path) -> bool:
    """Tell whether a tracker or node has announced itself."""
    return any(line.startswith("p2pfill ") for line in log.read_text().splitlines())


def runs(pid: int) -> bool:
    """Tell whether a process runs; one that has ended may still be listed until its parent looks."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def stop(name: str) -> int:
    for record in (MACHINE / "pids").iterdir():
        if record.read_text() == name:
            os.kill(int(record.name), signal.SIGTERM)
            while runs(int(record.name)):
                time.sleep(0.05)
            record.unlink()
    return 0


def sudo(*arguments: str) -> int:
    return call(list(arguments))


def scp(*arguments: str) -> int:
    """Copy to `root@127.A.B.1N:PATH`: the path is one of this machine by now, and the same of machine N is meant."""
    *options, source, target = arguments
    address, _, path = target.removeprefix("root@").partition(":")
    other = MACHINE.with_name(f"machine{int(address.rpartition('.')[2]) - 9}")
    assert other.is_dir(), f"no machine of the pages is at {address}"
    return call(["/bin/cp", *options, source, path.replace(str(MACHINE), str(other))])


def python3(*arguments: str) -> int:
    if arguments[:2] != ("-m", "venv"):
        return call([sys.executable, *arguments])
    bin_directory = Path(arguments[2]) / "bin"
    bin_directory.mkdir(parents=True)
    for name in ("p2pfill", "pip", "python"):
        link = bin_directory / name
        link.symlink_to(MACHINE / "bin" / ("python3" if name == "python" else name))
    return 0


def pip(*arguments: str) -> int:
    assert arguments == ("install", "."), arguments
    assert Path("pyproject.toml").is_file()
    return 0


def systemctl(*arguments: str) -> int:
    if arguments == ("daemon-reload",):
        return 0
    action, *rest = arguments
    assert action in ("enable", "start", "stop", "reload"), arguments
    (unit,) = (name for name in rest if not name.startswith("--"))
    if unit == "nginx":
        return nginx()
    if action == "stop":
        return stop(unit.removeprefix("p2pfill-"))
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    assert parser.read(MACHINE / "etc/systemd/system" / f"{unit}.service"), f"there is no unit {unit}"
    command = shlex.split(parser["Service"]["ExecStart"])
    return call(command)


def nginx() -> int:
    binary = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
    assert binary
    run = MACHINE / "nginx"
    run.mkdir(exist_ok=True)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {run}/{kind};\n" for kind in kinds)
    config = run / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {run}/pid; error_log {run}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths} include {MACHINE}/etc/nginx/conf.d/*.conf; }}\n"
    )
    if (run / "started").exists():
        old = int((run / "pid").read_text())
        os.kill(old, 15)
        time.sleep(0.5)
    server = [binary, "-e", str(run / "error.log"), "-c", str(config)]
    # nginx does not look at its standard input; the shell does, and so both end with the test, however that ends.
    shell = ["/bin/sh", "-c", '"$@" & cat > /dev/null; kill $!', "sh", *server]
    code = background("nginx", shell, wait_for_line=False)
    (run / "started").touch()
    deadline = time.monotonic() + READY_S
    while not (run / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    return code


def make(*arguments: str) -> int:
    stamp = [f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.built"]  # built it is, or no test would run
    if arguments == ("demo",):
        stamp.append("ARGS=--size 4")
    else:
        stamp.append("-n")
    return call(["/usr/bin/env", "make", "-C", str(PROJECT), *arguments, *stamp], env=real_environment())


def real_environment() -> dict[str, str]:
    return {**os.environ, "PATH": os.environ["DOCS_PATH"]}


def nothing(*arguments: str) -> int:
    return 0


STAND_INS = {
    "p2pfill": p2pfill,
    "sudo": sudo,
    "scp": scp,
    "python3": python3,
    "pip": pip,
    "systemctl": systemctl,
    "make": make,
    "useradd": nothing,
    "chown": nothing,
    "nft": nothing,
}

if __name__ == "__main__":
    sys.exit(STAND_INS[Path(sys.argv[1]).name](*sys.argv[2:]))
