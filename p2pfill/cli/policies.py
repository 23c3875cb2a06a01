"""What `p2pfill policy` does: reads policies from files and the tracker, shows what differs, and applies them."""

from __future__ import annotations

import getpass
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from rich.console import Console
from rich.text import Text

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.text import plural, printable
from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import POLICY_CHARS_MAX, FleetPolicy, PolicyError, diff, doubts, parse_policy
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import PolicyApplied, PolicyRequest, PolicyVersion

FILE_BYTES_MAX: Final = 4 * POLICY_CHARS_MAX
"""A character has four bytes at most."""

TEXT_WIDTH: Final = 48
"""Of a comment in the log: longer ones are broken into lines."""

NONE_APPLIED: Final = "no policy was ever applied: `p2pfill policy apply FILE` does"

_STYLES: Final = {"+": "green", "-": "red", "~": "yellow"}


def _print_json(record: Any) -> None:
    print(msgspec.json.encode(record).decode())


def _run(tracker: str, work: Callable[[TrackerClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with call_tracker(tracker) as client:
            await work(client)

    trio.run(run)


def _read(file: str) -> str:
    """Return the text of a file, or of the standard input. Raises `ConfigError`."""
    try:
        if file == "-":
            data = sys.stdin.buffer.read(FILE_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as opened:
                data = opened.read(FILE_BYTES_MAX + 1)
        return data.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read policy {file!r}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"policy {file!r} is not UTF-8: {error}") from error


def _usable(file: str, text: str) -> FleetPolicy:
    """Return the policy in a file, and print all that is wrong with it. Raises `CommandFailed`."""
    try:
        return parse_policy(text)
    except PolicyError as error:
        for fault in error.faults:
            print(printable(fault), file=sys.stderr)
        raise CommandFailed(
            f"{file} cannot be used: {plural(len(error.faults), 'fault')}; nothing was done", ExitCode.USAGE
        ) from error


def _print_doubts(found: Iterable[str]) -> None:
    for doubt in found:
        print(f"note: {printable(doubt)}", file=sys.stderr)


def _count(policy: FleetPolicy) -> str:
    kinds = ("caches", "fills", "residency", "budgets")
    return ", ".join(f"{plural(len(getattr(policy, kind)), 'rule')} for {kind}" for kind in kinds)


def check_file(file: str, *, as_json: bool, night: str = "", tracker: str = "", seed: int = 0) -> None:
    """Print whether a policy can be used, and what it would have made of a night. Raises `CommandFailed` where not."""
    text = _read(file)
    if night:
        from p2pfill.cli.forecast import forecast_night

        if not tracker:
            raise ConfigError("nights are in the tracker: add --tracker, or leave --night out")
        _print_doubts(doubts(_usable(file, text)))
        forecast_night(text, "" if night == "last" else night, tracker, seed, as_json=as_json)
        return
    if not as_json:
        policy = _usable(file, text)
        print(f"{printable(file)} can be used: {_count(policy)}")
        _print_doubts(doubts(policy))
        return
    try:
        policy = parse_policy(text)
    except PolicyError as error:
        _print_json({"usable": False, "faults": error.faults})
        raise CommandFailed(f"{file} cannot be used: {plural(len(error.faults), 'fault')}", ExitCode.USAGE) from error
    _print_json({"usable": True, "faults": [], "policy": policy})


# ---- differences


def show_diff(before: str, after: str, tracker: str, *, as_json: bool) -> None:
    """Print what differs."""
    if before and not after:
        before, after = "", before
    texts = [_read(one) if one and not one.isdecimal() else None for one in (before, after)]
    if None in texts and not tracker:
        raise ConfigError("versions are in the tracker: add --tracker, or name two files")

    async def work(client: TrackerClient) -> None:
        if texts[1] is None:
            stands = await client.policy(int(after) if after else None)
            if not stands.number:
                raise ConfigError(NONE_APPLIED)
            texts[1] = stands.text
            if texts[0] is None and (before or not after):
                texts[0] = (await _version(client, int(before) if before else stands.number - 1)).text
        if texts[0] is None:
            texts[0] = (await client.policy(int(before) if before else None)).text

    if None in texts:
        _run(tracker, work)
    one, other = (_usable(name or "the policy", text or "") for name, text in zip((before, after), texts, strict=True))
    changes = diff(one, other)
    if as_json:
        _print_json({"changes": changes})
        return
    _print_changes(changes)


async def _version(client: TrackerClient, number: int) -> PolicyVersion:
    """Return a version; the one before all says nothing."""
    return PolicyVersion(0, 0.0) if number <= 0 else await client.policy(number)


def _print_changes(changes: Sequence[str]) -> None:
    console = Console(highlight=False)
    for change in changes:
        console.print(Text(printable(change), style=_STYLES.get(change[0], "")))
    if not changes:
        print("both say the same")


# ---- the tracker's versions


def apply_file(
    file: str, tracker: str, *, comment: str, by: str, base: int | None, dry_run: bool, as_json: bool
) -> None:
    """Let the policy in a file stand, and print what that changes."""
    text = _read(file)
    _usable(file, text)
    request = PolicyRequest(text, comment, by or _user(), base)

    async def work(client: TrackerClient) -> None:
        _print_applied(await client.apply_policy(request, dry_run=dry_run), dry_run=dry_run, as_json=as_json)

    _run(tracker, work)


def roll_back(number: int, tracker: str, *, comment: str, by: str, dry_run: bool, as_json: bool) -> None:
    """Let an earlier version stand again. Raises `ConfigError` where there is none."""

    async def work(client: TrackerClient) -> None:
        stands = await client.policy()
        wanted = number or stands.number - 1
        if not stands.number:
            raise ConfigError(NONE_APPLIED)
        if number == stands.number > 1:
            raise ConfigError(f"version {number} of the policy stands already: `p2pfill policy log` lists the others")
        if wanted < 1 or wanted == stands.number:
            raise ConfigError(f"version {stands.number} of the policy stands: there is no other one to go back to")
        before = await client.policy(wanted)
        why = comment or f"back to version {wanted}"
        request = PolicyRequest(before.text, why, by or _user(), stands.number)
        _print_applied(await client.apply_policy(request, dry_run=dry_run), dry_run=dry_run, as_json=as_json)

    _run(tracker, work)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # of no name, as in some containers
        return ""


def _print_applied(applied: PolicyApplied, *, dry_run: bool, as_json: bool) -> None:
    if as_json:
        _print_json(applied)
        return
    _print_doubts(applied.doubts)
    _print_changes(applied.changes)
    caches, orders = plural(applied.caches, "cache"), plural(applied.orders, "order")
    ends = f", of which {applied.left_out} end, since the title may not be there" if applied.left_out else ""
    follows = f"other settings for {caches}; {orders} of single caches changed{ends}"
    if dry_run:
        print(f"version {applied.version.number} would stand: {follows}; nothing was done")
    else:
        print(f"version {applied.version.number} of the policy stands: {follows}")


def show_version(number: int, tracker: str, *, as_json: bool) -> None:
    """Print a version as it was applied."""

    async def work(client: TrackerClient) -> None:
        version = await client.policy(number or None)
        if as_json:
            _print_json(version)
        elif version.number:
            # As it is, so that it can be changed and applied again; not what a terminal would take for orders.
            print("\n".join(printable(line) for line in version.text.splitlines()))
        else:
            print(NONE_APPLIED, file=sys.stderr)

    _run(tracker, work)


def list_versions(tracker: str, *, as_json: bool) -> None:
    """Print the versions that the tracker keeps."""

    async def work(client: TrackerClient) -> None:
        versions = await client.policies()
        if as_json:
            _print_json(versions)
            return
        if not versions:
            print(NONE_APPLIED, file=sys.stderr)
            return
        console = Console()
        columns = [
            Column("version", is_right=True), Column("applied"), Column("by", 2, most=TEXT_WIDTH),
            Column("comment", 1, most=TEXT_WIDTH),
        ]  # fmt: skip
        rows = [
            [Text(printable(cell)) for cell in (str(one.number), _moment(one.applied_at), one.by, one.comment)]
            for one in versions
        ]
        console.print(table_within(console.width, columns, rows))

    _run(tracker, work)


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
