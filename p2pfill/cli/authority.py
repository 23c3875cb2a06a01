"""What `p2pfill ca` does: calls of the authority, shown to people or as JSON, each with what is to be done next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from rich.console import Console
from rich.text import Text

from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.exits import ExitCode
from p2pfill.cli.text import plural, printable
from p2pfill.errors import ConfigError
from p2pfill.trust.authority import LIST_FILE, Authority, Given, Line
from p2pfill.trust.check import fault_of
from p2pfill.trust.credentials import CA_FILE, CERT_FILE, FILE_BYTES_MAX, REVOKED_FILE, Credentials

SERIAL_CHARS: Final = 12
"""Of a serial in tables: enough to tell certificates apart, and to revoke one by it."""

ROOT_SOON: Final = timedelta(days=365)
"""Before a root's end that it is told: a change takes as long as files take to all machines."""

Step = Literal["begin", "switch", "finish"]
"""Of a change of the root."""

_STYLES: Final = {"good": "green", "revoked": "red", "none": "yellow"}
_STATES: Final = {"none": "not issued"}

_LET_IN: Final = (
    f"others who trust the same {CA_FILE} let it in, unless they know a newer {REVOKED_FILE} that takes it back"
)


def _print_json(record: Any) -> None:
    print(msgspec.json.encode(record).decode())


def _confirm(what: str, *, yes: bool) -> None:
    """Ask before what cannot be taken back. Raises as `confirm` does."""
    if not yes:
        # Imported here: it brings the client of a tracker, which takes most of a second.
        import trio

        from p2pfill.cli.catalogue import confirm

        trio.run(partial(confirm, what, yes=False))


def _now() -> datetime:
    return datetime.now(UTC)


def _day(at: datetime) -> str:
    return at.strftime("%Y-%m-%d")


def make_authority(new: Path, domain: str, root_days: int, *, as_json: bool) -> None:
    """Make an authority."""
    Authority.create(new, domain, _now(), timedelta(days=root_days))
    with Authority(new) as authority:
        ends = authority.state.root.certificate.not_valid_after_utc
    if as_json:
        _print_json({"directory": str(new), "domain": domain, "root_ends": ends})
        return
    print(f"{printable(str(new))} is the authority of {domain}, its root good until {_day(ends)}")
    print(f"next: list who there is in {printable(str(new / LIST_FILE))}; then")
    print(f"      p2pfill ca issue --all --ca {printable(str(new))} --out identities")


def issue_certificates(
    directory: Path, out: Path, names: Sequence[str], days: int, *, everybody: bool, csr: Path | None, as_json: bool
) -> None:
    """Give those who are listed what they need."""
    life = timedelta(days=days)
    with Authority(directory) as authority:
        if everybody == bool(names):
            raise ConfigError("say whose certificates are to be issued: names as in fleet.toml, or --all")
        if csr is not None and len(names) != 1:
            raise ConfigError("a request is for one: name whom, as in `p2pfill ca issue a1 --csr a1.csr`")
        if csr is None:
            given = authority.issue(names, out, _now(), life)
        else:
            given = [authority.issue_for_request(names[0], _read(csr), str(csr), out, _now(), life)]
        listed = len(authority.listed())
        shortened = _shortened(authority, life)
    if not listed:
        raise ConfigError(f"nobody is listed in {str(directory / LIST_FILE)!r}: list the fleet there first")
    if as_json:
        _print_json(given)
        return
    _print_given(given)
    if everybody and len(given) < listed:
        print(f"{listed - len(given)} of {listed} have a certificate that is good: `p2pfill ca renew` renews it")
    if any(one.is_new for one in given):
        print("next: copy each directory to its machine, and start what runs there with --identity DIRECTORY")
    if shortened:
        print(shortened)


def renew_certificates(
    directory: Path, out: Path, names: Sequence[str], days: int, *, within: int, new_key: bool, as_json: bool
) -> None:
    """Sign anew what is due."""
    with Authority(directory) as authority:
        given = authority.renew(
            names, out, _now(), timedelta(days=within), timedelta(days=days), new_keys=new_key
        )  # fmt: skip
        shortened = _shortened(authority, timedelta(days=days))
    if as_json:
        _print_json(given)
        return
    _print_given(given)
    if given:
        key = ", key.pem" if new_key else ""
        print(f"next: copy {CERT_FILE}{key} and {CA_FILE} into all identities, users' too; what runs takes them in")
    elif shortened:
        print(f"nothing was signed: what ends within {plural(within, 'day')} ends with the root")
    else:
        print(f"none ends within {plural(within, 'day')}, and all are as listed: nothing was signed")
    if shortened:
        print(shortened)


def _shortened(authority: Authority, life: timedelta) -> str:
    """Return what is said where the root ends before a certificate of this life would, '' where it does not."""
    ends = authority.state.root.certificate.not_valid_after_utc
    if ends >= _now() + life:
        return ""
    return f"certificates end with the root, at {_day(ends)}: {authority.next_step()}"


def _print_given(given: Sequence[Given]) -> None:
    for one in given:
        said = "is good until" if one.is_new else "was good already, until"
        print(f"{one.who}: {printable(one.directory)} {said} {_day(one.ends)}")
        if one.differs_from:
            print(
                f"{one.who}: the one before says something else of it and is good still: "
                f"`p2pfill ca revoke {one.differs_from[:SERIAL_CHARS]}` takes it back"
            )


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"cannot read the request {str(path)!r}: {error.strerror}") from error


def revoke_certificates(directory: Path, what: str, *, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Take certificates back, or say which."""
    with Authority(directory) as authority:
        now = _now()
        meant = authority.meant(what, now)
        serials = ", ".join(one.serial[:SERIAL_CHARS] for one in meant)
        whose = " and ".join(sorted({one.identity.who for one in meant}))
        doing = f"revoke {plural(len(meant), 'certificate')} of {whose} ({serials}) for good"
        if not dry_run:
            _confirm(doing, yes=yes)
            authority.revoke(meant, now)
    if as_json:
        _print_json({"revoked": [one.serial for one in meant], "who": whose, "dry_run": dry_run})
        return
    print(f"{'would' if dry_run else 'done:'} {printable(doing)}")
    if not dry_run:
        where = printable(str(directory / REVOKED_FILE))
        print(f"next: copy {where} into the tracker's identity directory, from where all that report to it are told;")
        print("      and into those of machines that do not, or that are to know without a tracker")


def rotate_root(
    directory: Path,
    step: Step,
    root_days: int,
    *,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Take one step of changing the root, or say what it would do."""
    with Authority(directory) as authority:
        now = _now()
        cut_off: list[str] = []
        doing = {"begin": "draw a new root, to be trusted beside the old one", "switch": "let the new root sign"}
        if step == "finish":
            cut_off = authority.cut_off(now)
            doing["finish"] = "drop the old root and its key for good"
            if cut_off:
                doing["finish"] += f", and with it {', '.join(cut_off)}, not listed any more"
        if not dry_run and step == "finish":
            _confirm(doing[step], yes=yes)
            authority.finish(now)
        elif not dry_run and step == "switch":
            authority.switch(now)
        elif not dry_run:
            authority.rotate(now, timedelta(days=root_days))
        after = authority.next_step()
        roots = [root.certificate.not_valid_after_utc for root in authority.state.roots]
    if as_json:
        _print_json({"step": step, "dry_run": dry_run, "roots_end": roots, "cut_off": cut_off})
        return
    print(f"{'would' if dry_run else 'done:'} {printable(doing[step])}")
    if dry_run:
        return
    if step != "switch":
        files = f"{printable(str(directory / REVOKED_FILE))}, then {printable(str(directory / CA_FILE))}"
        print(f"next: copy {files} into all identities, users' too; what runs takes them in")
    if step != "finish":
        print(f"{'then' if step == 'begin' else 'next'}: {after}")


def show_authority(directory: Path, *, within: int, everything: bool, as_json: bool) -> None:
    """Print who has what."""
    with Authority(directory) as authority:
        lines = authority.lines(_now(), timedelta(days=within))
        state = authority.state
        after = authority.next_step()
    shown = [one for one in lines if everything or one.state in ("good", "revoked", "none")]
    roots = [
        {"number": root.number, "ends": root.certificate.not_valid_after_utc, "signs": root.number == state.signing}
        for root in state.roots
    ]
    if as_json:
        _print_json({"domain": state.domain, "roots": roots, "certificates": shown})
        return
    for root in state.roots:
        signs = ", signs" if root.number == state.signing else ""
        print(f"root {root.number} of {state.domain} until {_day(root.certificate.not_valid_after_utc)}{signs}")
    if state.root.certificate.not_valid_after_utc - _now() < ROOT_SOON and len(roots) == 1:
        print(f"the root ends within {plural(ROOT_SOON.days, 'day')}, and all certificates with it: {after}")
    if len(roots) > 1:
        print(f"the root is being changed: {after}")
    _print_lines(shown)
    if not lines:
        print(f"nobody is listed in {printable(str(directory / LIST_FILE))}, and nothing was issued")


def _print_lines(lines: Sequence[Line]) -> None:
    if not lines:
        return
    console = Console()
    columns = [Column("who"), Column("state"), Column("until"), Column("serial", 1), Column("to do", most=34)]
    rows = [
        [
            Text(printable(one.who)), Text(_STATES.get(one.state, one.state), style=_STYLES.get(one.state, "")),
            Text(_day(one.ends) if one.ends else ""), Text(one.serial[:SERIAL_CHARS]), Text("; ".join(one.notes)),
        ]
        for one in lines
    ]  # fmt: skip
    console.print(table_within(console.width, columns, rows))


def check_identity_directory(directory: Path, *, as_json: bool) -> int:
    """Print whom a directory names, and return the exit code: `FOUND` where others would refuse it."""
    credentials = Credentials(directory)
    fault = fault_of(credentials)
    identity = credentials.identity
    if as_json:
        told = {"who": identity.who, "uri": identity.uri, "hosts": identity.hosts, "ends": credentials.expires}
        _print_json(told | {"refused": fault, "publishers": credentials.publishers is not None})
    else:
        hosts = f", at {', '.join(identity.hosts)}" if identity.hosts else ""
        print(f"{identity.uri}{printable(hosts)}, until {_day(credentials.expires)}")
        taken = "what publishers.toml says" if credentials.publishers else "everybody's, signed or not"
        print(f"titles that it takes: {taken}")
        print(f"others refuse it: {printable(fault)}" if fault else _LET_IN)
    return ExitCode.FOUND if fault else ExitCode.OK
