"""`p2pfill bench serve` and `fetch`: one pair between two machines. What is measured is in `p2pfill.bench.ends`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from p2pfill.bench.ends import EndsReport, Fetched
    from p2pfill.model.manifest import Manifest

AsJson = Annotated[bool, typer.Option("--json", help="The last line of the output is one JSON object.")]
Data = Annotated[
    Path | None,
    typer.Option("--data", metavar="DIR", help="On which file system; by default the one for temporary files."),
]


def serve(
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="Where to serve; the port after it is used too.")
    ],
    mib: Annotated[int, typer.Option("--mib", metavar="MIB", min=1, help="How much noise to serve.")] = 2048,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="PATH", exists=True, help="Serve this file or directory instead.")
    ] = None,
    data: Data = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Though others reach it, and nobody is asked who he is.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Serve a title to `p2pfill bench fetch` on another machine, until Ctrl-C; prints what to type there."""
    import signal
    from functools import partial

    import trio

    from p2pfill.bench import ends
    from p2pfill.cli.services import announce
    from p2pfill.cli.text import show_bytes

    def ready(address: str, manifest: Manifest) -> None:
        text = (
            f"serves {show_bytes(manifest.size)} until Ctrl-C; on the other machine type: p2pfill bench fetch {address}"
        )
        announce({"address": address, "title_bytes": manifest.size}, text, as_json=as_json)

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(ends.serve, listen, data, file, mib, ready, insecure=insecure))
                async for _ in signals:
                    break
                nursery.cancel_scope.cancel()

    print("preparing what is to be served", file=sys.stderr)
    trio.run(run)


def fetch(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="What `p2pfill bench serve` has printed.")],
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="How often; medians are shown.")] = 5,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Fetch what another machine serves, and say how fast, at what cost, and what holds it up.

    With --json the last line is one object: title_bytes, runs, rate_gb_s, processor_s_per_gb, memory_peak_bytes,
    loop_lag, shares, bottleneck.
    """
    import msgspec
    import trio

    from p2pfill.bench import ends
    from p2pfill.cli.text import plural, show_bytes

    def begun(size: int) -> None:
        print(f"fetching {show_bytes(size)} from {address}, {plural(runs, 'time')}", file=sys.stderr)

    def heard(size: int, run: Fetched) -> None:
        print(f"{_show_rate(size / run.seconds / 1e9)} in {run.seconds:.2f} s", flush=True)

    report = trio.run(ends.fetch, address, data, runs, begun, heard)
    print(msgspec.json.encode(report).decode() if as_json else ends_text(report))


ADVICE = {
    "disk": "writing to this machine's disk, reserving room and making chunks durable",
    "hash": "checking digests on this machine's processors",
    "socket": "waiting for bytes and taking them from the socket: the network, or the serving machine",
    "loop": "this machine's event loop, which asks for chunks too late: it is short of processors",
}


def _show_rate(rate_gb_s: float) -> str:
    """Return a rate in units of 10^9 or 10^6 bytes, and as links are named: `25.0 MB/s (200 Mbit/s)`."""
    if rate_gb_s >= 1:
        return f"{rate_gb_s:.2f} GB/s ({rate_gb_s * 8:.1f} Gbit/s)"
    digits = 0 if rate_gb_s >= 0.1 else 1
    return f"{rate_gb_s * 1e3:.{digits}f} MB/s ({rate_gb_s * 8e3:.{digits}f} Mbit/s)"


def ends_text(report: EndsReport) -> str:
    """Return a report for people."""
    from p2pfill.cli.text import plural, show_bytes, show_micros

    rate, used, peak = report.rate_gb_s, report.processor_s_per_gb, report.memory_peak_bytes
    lag = {end: f"{show_micros(lag.p99_us)} (most: {show_micros(lag.max_us)})" for end, lag in report.loop_lag.items()}
    shares = ", ".join(f"{part} {share:.0%}" for part, share in sorted(report.shares.items(), key=lambda one: -one[1]))
    return "\n".join(
        [
            f"{show_bytes(report.title_bytes)}, {plural(len(report.runs), 'time')}: {_show_rate(rate.median)}; "
            f"slowest {_show_rate(rate.min)}, fastest {_show_rate(rate.max)}",
            f"processor seconds a GB: {used['fetch']:.2f} here, {used['serve']:.2f} there",
            f"peak memory: {show_bytes(peak['fetch'])} here, {show_bytes(peak['serve'])} there",
            f"event-loop lag, 99 of 100 at most: {lag['fetch']} here, {lag['serve']} there",
            f"where the time went: {shares}",
            f"bottleneck: {report.bottleneck} ({ADVICE[report.bottleneck]})",
        ]
    )
