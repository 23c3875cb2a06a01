"""The page of the report on bad networks, made from the report alone."""

from __future__ import annotations

from bench.networks.records import Comparison, Report, Scenario

HEAD = ("network", "TLS", "fills x caches", "hit", "wrong live", "live before healing", "to recover, median", "longest")
COMPARED = (
    "sources",
    "honest, s",
    "some wrong, s",
    "ratio",
    "receivers' processor s",
    "sources' processor s",
    "in vain",
)


def hits(scenario: Scenario) -> str:
    """Return what was done to connections, in all runs."""
    counts = {
        name: sum(getattr(run.counts, name) for run in scenario.runs)
        for name in ("resets", "truncated", "corrupted", "stalled")
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "-"


def row(scenario: Scenario) -> tuple[str, ...]:
    """Return a line of the table."""
    median, longest = scenario.recovery_s
    early = sum(run.early for run in scenario.runs)
    return (
        f"{scenario.name}: {scenario.what}",
        "yes" if scenario.tls else "no",
        f"{len(scenario.runs)} x {scenario.caches}",
        hits(scenario),
        str(scenario.lost),
        f"{early} of {len(scenario.runs) * scenario.caches}",
        f"{median:.1f} s",
        f"{longest:.1f} s",
    )


def compared_row(one: Comparison) -> tuple[str, ...]:
    """Return a line of the table of sources."""
    honest, mixed = one.medians("seconds")
    receivers, sources = one.medians("receivers_cpu_s"), one.medians("sources_cpu_s")
    return (
        one.what,
        f"{honest:.2f}",
        f"{mixed:.2f}",
        f"{one.ratio:.2f}",
        f"{receivers[0]:.2f} -> {receivers[1]:.2f}",
        f"{sources[0]:.2f} -> {sources[1]:.2f}",
        f"{one.medians('duplicate_bytes')[1] / one.size / one.receivers:.1%}",
    )


def page(report: Report) -> str:
    """Return the page."""
    machine = report.machine
    lines = [
        "# Bad networks",
        "",
        f"Real processes on one machine: {machine.processors} processors, which much other work shared, "
        f"{machine.kernel}, Python {machine.python}, p2pfill {machine.p2pfill}, {machine.made_at}; seed {report.seed}. "
        "A fill begins while the network is bad, and the network is well again after some seconds; measured is the "
        "time from then to the last cache that is live. All bytes that are live are compared with the manifest.",
        "",
    ]
    if report.scenarios:
        lines += _table(HEAD, [row(one) for one in report.scenarios])
    if report.comparisons:
        lines += [
            "Sources that send wrong bytes in the place of honest ones, by turns with honest runs, medians of "
            f"{min(len(one.mixed) for one in report.comparisons)}; what came in vain is a part of the title.",
            "",
            *_table(COMPARED, [compared_row(one) for one in report.comparisons]),
        ]
    lines += [line for remark in report.remarks for line in (remark, "")]
    lines += ["Made by `make bench-networks`. As data: [networks.json](networks.json).", ""]
    return "\n".join(lines)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"| {' | '.join(['---'] * len(head))} |",
        *(f"| {' | '.join(line)} |" for line in rows),
        "",
    ]
