"""Pages of the reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.crashes.records import KillsReport, PowerReport, Times

ROLES: Final = {
    "cache": "a receiving cache",
    "seed": "the only cache that has the title",
    "master": "the master of an ISP",
    "tracker": "the tracker",
}

SUBJECTS: Final = {"store": "a cache's store", "tracker": "a tracker's database"}


def write(made: PowerReport | KillsReport, directory: Path) -> None:
    """Write JSON and Markdown; of a replay a report for each recording, since one may be repeated alone."""
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(made, KillsReport):
        _write(made, directory, "kills")
        return
    for part in made.parts:
        _write(msgspec.structs.replace(made, parts=[part]), directory, f"power-{part.name}")


def _write(made: PowerReport | KillsReport, directory: Path, name: str) -> None:
    (directory / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(made), indent=1) + b"\n")
    (directory / f"{name}.md").write_text(page(made))


def page(made: PowerReport | KillsReport) -> str:
    """Return a report as Markdown."""
    lines = _power(made) if isinstance(made, PowerReport) else _kills(made)
    return "\n".join(lines) + "\n"


def faults_table(killed: KillsReport, replayed: Sequence[PowerReport]) -> str:
    """Return the table of docs/reliability.md."""
    lines = ["| fault | how often tried | lost | recovery | command |", "| --- | --- | --- | --- | --- |"]
    for role in killed.roles:
        tried = f"{role.kills} times, {role.mid_fill} with work under way, {role.at_syscalls} at a random system call"
        if role.role == "tracker":
            lost = f"{role.orders_lost} of {role.orders_answered} orders and withdrawals that were answered"
            back = f"ready after {role.ready.median:.1f} s (worst {role.ready.worst:.1f})"
        else:
            lost = f"{role.fetched_again} of {role.kept_chunks} durable chunks were fetched again"
            back = (
                f"ready after {role.ready.median:.1f} s (worst {role.ready.worst:.1f}), the fill live everywhere "
                f"{role.whole.median:.1f} s later (worst {role.whole.worst:.1f})"
            )
        if role.faults:
            lost += f"; {len(role.faults)} other faults"
        lines.append(f"| SIGKILL of {ROLES[role.role]} | {tried} | {lost} | {back} | `make crash-kills` |")
    for part in (part for made in replayed for part in made.parts):
        tried = f"{part.states_distinct:,} different disks after {part.prefixes:,} of {sum(part.ops.values()):,} calls "
        tried += f"({part.states_made:,} made)"
        lost = "nothing that was promised" if not part.faults else f"{sum(part.faults.values()):,} faults"
        back = f"open after {1000 * part.recovery.median:.1f} ms (worst {1000 * part.recovery.worst:.0f})"
        if whole := part.recovery_whole.count:
            all_of_it = "a node, {} times: all live" if part.name == "store" else "the service, {} times: up"
            back += (
                f"; {all_of_it.format(whole)} after {1000 * part.recovery_whole.median:.0f} ms "
                f"(worst {1000 * part.recovery_whole.worst:.0f})"
            )
        what = f"power loss under {SUBJECTS.get(part.name, part.name)}"
        lines.append(f"| {what} | {tried} | {lost} | {back} | `make crash-power` |")
        if part.damaged:
            tried = f"{part.damaged:,} times: cut, a bit flipped, or gone"
            lost = f"what the log held, which was told {part.damaged_told:,} times; nothing in silence"
            lines.append(f"| and its write-ahead log is rotten | {tried} | {lost} | as above | `make crash-power` |")
    return "\n".join(lines) + "\n"


def _power(made: PowerReport) -> list[str]:
    lines = ["# Power loss, replayed", "", f"`{made.command}`", ""]
    heads = ["", *(SUBJECTS.get(part.name, part.name) for part in made.parts)]
    rows = [
        ["calls that change files, and syncs", *(str(sum(part.ops.values())) for part in made.parts)],
        ["bytes written", *(f"{part.bytes_written:,}" for part in made.parts)],
        ["prefixes", *(str(part.prefixes) for part in made.parts)],
        ["of them with all subsets", *(str(part.prefixes_exhaustive) for part in made.parts)],
        ["most changes that no sync covers", *(str(part.pending_max) for part in made.parts)],
        ["states made", *(f"{part.states_made:,}" for part in made.parts)],
        ["distinct states started on", *(f"{part.states_distinct:,}" for part in made.parts)],
        ["of them with a whole node, or tracker", *(f"{part.starts_of_processes:,}" for part in made.parts)],
        ["states with a rotten log besides", *(f"{part.damaged:,}" for part in made.parts)],
        ["of them with a loss that is told", *(f"{part.damaged_told:,}" for part in made.parts)],
        ["faults", *(f"{sum(part.faults.values()):,}" for part in made.parts)],
        ["storage open after, ms: median, worst", *(_ms(part.recovery) for part in made.parts)],
        ["all of it up after, ms: median, worst", *(_ms(part.recovery_whole) for part in made.parts)],
        ["seconds; processor, user and system", *(
            f"{part.seconds}; {part.user_s}, {part.system_s}" for part in made.parts
        )],
    ]  # fmt: skip
    lines += _table(heads, rows)
    for part in made.parts:
        lines += [f"- {part.name}, {count} states: {fault}" for fault, count in part.faults.items()]
    return lines


def _kills(made: KillsReport) -> list[str]:
    lines = ["# Processes that are killed", "", f"`{made.command}`", ""]
    heads = ["", *(role.role for role in made.roles)]
    rows = [
        ["kills", *(str(role.kills) for role in made.roles)],
        ["of them at a call of the process", *(str(role.at_syscalls) for role in made.roles)],
        ["of them with work under way", *(str(role.mid_fill) for role in made.roles)],
        ["durable chunks at the kills", *(str(role.kept_chunks) for role in made.roles)],
        ["of them fetched again", *(str(role.fetched_again) for role in made.roles)],
        ["orders and withdrawals answered", *(str(role.orders_answered) for role in made.roles)],
        ["of them lost", *(str(role.orders_lost) for role in made.roles)],
        ["files compared with their source", *(str(role.files_compared) for role in made.roles)],
        ["faults", *(str(len(role.faults)) for role in made.roles)],
        ["ready again after, s: median, worst", *(_s(role.ready) for role in made.roles)],
        ["all done after that, s: median, worst", *(_s(role.whole) for role in made.roles)],
    ]
    lines += _table(heads, rows)
    lines += [f"{made.seconds:.0f} s, {made.user_s:.0f} user and {made.system_s:.0f} system processor seconds.", ""]
    lines += [f"- {role.role}: {fault}" for role in made.roles for fault in role.faults]
    return lines


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _ms(times: Times) -> str:
    return f"{1000 * times.median:.1f}, {1000 * times.worst:.1f}" if times.count else "-"


def _s(times: Times) -> str:
    return f"{times.median:.2f}, {times.worst:.2f}" if times.count else "-"
