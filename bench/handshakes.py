"""What it costs to be let in: mutual TLS 1.3 handshakes a second of the accepting side's processor time.

    python -m bench.handshakes [--seconds 5] [--runs 5] [--revoked 0] [--out FILE.json] [--json]

Certificates are those of `p2pfill ca`, contexts those of `Credentials`, both sides are of this process, and bytes go
through memory: no socket, no event loop, no tickets. Each side's processor time is counted apart, that of
`Credentials.peer` too, which says who came. With `--revoked N` the list of what was taken back has N entries. A socket
and an event loop cost more: this is what the cryptography leaves of a processor.
"""

from __future__ import annotations

import argparse
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding
from rich.console import Console
from rich.table import Table

from bench.telling import tell
from p2pfill.bench.measure import Machine, describe_machine
from p2pfill.trust.authority import Authority
from p2pfill.trust.certificates import key_from_pem, make_revocation_list
from p2pfill.trust.credentials import Credentials

REACH: Final = 500
"""Handshakes a processor second of the accepting side, at least; exit code 1 below it."""

FLEET: Final = """
[[caches]]
id = "a1"
isp = "isp-a"
region = "europe"
cluster = "c1"
hosts = ["192.0.2.11", "a1.fleet.example"]

[[caches]]
id = "b1"
isp = "isp-b"
region = "europe"
hosts = ["192.0.2.12"]
"""


class Run(msgspec.Struct, frozen=True):
    """One measurement."""

    handshakes: int
    accepting_s: float
    """Processor seconds, those of `peer` among them."""
    connecting_s: float
    peer_s: float
    """Of the accepting side's, for saying who came."""

    @property
    def rate(self) -> float:
        """Handshakes a processor second of the accepting side."""
        return self.handshakes / self.accepting_s


class Report(msgspec.Struct, frozen=True):
    """What `--out` writes."""

    machine: Machine
    openssl: str
    cipher: str
    revoked: int
    runs: list[Run]

    @property
    def rate(self) -> float:
        """The median."""
        return statistics.median(run.rate for run in self.runs)


class _Clock:
    """Processor time of this thread, by who spends it."""

    def __init__(self) -> None:
        self.spent_s = 0.0

    def step(self, call: Callable[[], object]) -> bool:
        """Do a step of a handshake; tell whether it is the last."""
        began = time.thread_time()
        try:
            call()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.spent_s += time.thread_time() - began
        return True


def make_credentials(directory: Path, revoked: int) -> tuple[Credentials, Credentials]:
    """Make an authority and two caches' credentials, with so many others taken back."""
    now = datetime.now(UTC)
    Authority.create(directory / "ca", "fleet.example", now)
    (directory / "ca" / "fleet.toml").write_text(FLEET)
    with Authority(directory / "ca") as authority:
        authority.issue([], directory / "ids", now)
        root = authority.state.root
        key = key_from_pem((directory / "ca" / root.key_file).read_bytes(), root.key_file)
        serials = [(one.certificate.serial_number ^ (number + 1), now) for one in authority.state.issued[:1]
                   for number in range(revoked)]  # fmt: skip
        lists = make_revocation_list(root.certificate, key, 2, serials, now + timedelta(seconds=1))
    accepting, connecting = Credentials(directory / "ids" / "a1"), Credentials(directory / "ids" / "b1")
    accepting.revocations.add(lists.public_bytes(Encoding.PEM))
    return accepting, connecting


def measure(accepting: Credentials, connecting: Credentials, seconds: float) -> tuple[Run, str]:
    """Shake hands for so long; return what it cost, and the cipher."""
    server, client, peer = _Clock(), _Clock(), _Clock()
    count = 0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        sides: list[ssl.SSLObject] = []
        server.step(lambda up=up, down=down, sides=sides: sides.append(  # type: ignore[misc]
            accepting.accepting.wrap_bio(up, down, server_side=True)
        ))  # fmt: skip
        client.step(lambda up=up, down=down, sides=sides: sides.append(  # type: ignore[misc]
            connecting.connecting.wrap_bio(down, up)
        ))  # fmt: skip
        came, went = sides
        done = [False, False]
        while not all(done):
            done[0] = done[0] or client.step(went.do_handshake)
            done[1] = done[1] or server.step(came.do_handshake)
        peer.step(lambda came=came: accepting.peer(came.getpeercert(binary_form=True)))  # type: ignore[misc]
        count += 1
        cipher = came.cipher()
    return Run(count, server.spent_s + peer.spent_s, client.spent_s, peer.spent_s), cipher[0] if cipher else ""


def main(arguments: list[str] | None = None) -> int:
    """Measure and tell; 1 where the reach is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.handshakes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--revoked", type=int, default=0, help="entries of the revocation list")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        accepting, connecting = make_credentials(Path(scratch), options.revoked)
        measured = [measure(accepting, connecting, options.seconds) for _ in range(options.runs)]
    runs, cipher = [run for run, _ in measured], measured[0][1]
    report = Report(describe_machine(Path(tempfile.gettempdir())), ssl.OPENSSL_VERSION, cipher, options.revoked, runs)
    tell(report, show, options.out, as_json=options.json)
    return 0 if report.rate >= REACH else 1


def show(report: Report) -> None:
    """Print a table and the median."""
    table = Table(box=None, pad_edge=False)
    for name in ("handshakes", "a second, accepting", "ms, accepting", "of it peer", "ms, connecting"):
        table.add_column(name, justify="right")
    for run in report.runs:
        each = [1000 * spent / run.handshakes for spent in (run.accepting_s, run.peer_s, run.connecting_s)]
        table.add_row(str(run.handshakes), f"{run.rate:.0f}", *(f"{one:.2f}" for one in each))
    console = Console()
    console.print(table)
    console.print(f"{report.openssl}, {report.cipher}, {report.revoked} revoked")
    console.print(f"median {report.rate:.0f} handshakes a processor second of the accepting side; reach {REACH}")


if __name__ == "__main__":
    sys.exit(main())
