"""The two ends of a benchmark between two machines: one serves a title, the other fetches it and says what it took.

Both run the product. The serving end is a node beside a tracker, in one process: whoever fetches asks that tracker for
the manifest, for the node's address, and afterwards for what the node has used, so one address is all that there is to
copy. The fetching end is a node that fills the title from that node, into a new directory each time.

Which part is the bottleneck follows from where the time of a fetch went, on the clock of the fetching machine. Its data
streams take bytes, hash them and write them one after the other in the same thread, so the part with the largest share
is the one whose improvement helps most. To disk counts also what the title waits for before its first request and
after its last chunk: reserving, the last commit, going live. The wait for bytes counts to the loop for the share of
the time in which the loop was held up, since requests went out late then; what is left of it is the socket, which is
the network, or a serving machine that is slower than this one.

Rejected: rates of each part, measured one by one on an idle machine, which do not say what the parts do to each other.
"""

from __future__ import annotations

import os
import secrets
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec
import trio

from p2pfill.errors import ConfigError, TransferError
from p2pfill.model.hosts import is_loopback
from p2pfill.model.ids import title_id_from_hex
from p2pfill.model.limits import MIB
from p2pfill.model.manifest import Manifest
from p2pfill.model.node import NodeInfo
from p2pfill.model.reports import LoopLag
from p2pfill.node import Node, NodeConfig, open_node
from p2pfill.node.config import WILDCARDS
from p2pfill.node.usage import process_usage
from p2pfill.store.publish import publish
from p2pfill.tracker.client import TrackerClient, TrackerUnreachable
from p2pfill.tracker.records import NodeStatus
from p2pfill.tracker.server import parse_listen, serve_tracker
from p2pfill.transport.lag import LagMonitor

SERVE_ID: Final = "serve"
"""Of two nodes that are to be linked the one with the lower id dials: `fetch` does, so it needs no open port."""

ISP: Final = "bench"

PORT_MAX: Final = 65535

HEARTBEAT_S: Final = 0.2
"""How soon the fetching end learns what a fetch has cost the serving one."""

LOOK_S: Final = 0.01
"""Between two looks at the loop's lag during a fetch, which may last a second only."""

UNLINKED_S: Final = 20.0
"""After so long without a link a fetch is given up: enough to dial a lost one several times, or once in vain where
packets are swallowed."""

Part = Literal["disk", "hash", "socket", "loop"]


class Fetched(msgspec.Struct):
    """What one fetch took."""

    seconds: float
    """From the order until the title was live: every chunk checked and durable."""
    fetch_processor_s: float
    serve_processor_s: float
    parts_s: dict[Part, float]
    """Where the time went; adds up to `seconds`."""


class Spread(msgspec.Struct):
    """A figure over all runs."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Return that of at least one value."""
        return cls(statistics.median(values), min(values), max(values))


class EndsReport(msgspec.Struct):
    """What `fetch` has measured. Ratios and processor time are per 10^9 bytes of payload."""

    title_bytes: int
    chunk_count: int
    runs: list[Fetched]
    rate_gb_s: Spread
    processor_s_per_gb: dict[Literal["fetch", "serve"], float]
    memory_peak_bytes: dict[Literal["fetch", "serve"], int]
    loop_lag: dict[Literal["fetch", "serve"], LoopLag]
    shares: dict[Part, float]
    """Medians of the shares of `parts_s`."""
    bottleneck: Part
    """The part with the largest share."""


# ---- the serving end


async def serve(
    listen: str, data: Path | None, file: Path | None, mib: int, ready: Callable[[str, Manifest], None],
    *, insecure: bool = False,
) -> None:
    """Serve a title on `listen` (HOST:PORT) until cancelled; `ready` gets what to fetch from and the manifest.

    The title is `file` (or a directory), or `mib` MiB of noise. `data` is made where it is not there, and holds a copy
    of the title meanwhile. The node listens on the port after that of `listen`. Raises
    `ConfigError` for a `listen` that the other machine could not be told, or that others reach where it is not to be
    `insecure`, and what opening a node raises.
    """
    host, port = parse_listen(listen)
    if port == PORT_MAX:
        raise ConfigError(f"cannot listen on {listen}: the port after it is used too, so take {PORT_MAX - 1} at most")
    if host in WILDCARDS:
        raise ConfigError(
            f"cannot serve on {listen}, which is every address of this machine: write the one at which the other "
            "machine reaches it, as in 192.0.2.10:7900"
        )
    if not (insecure or is_loopback(host)):
        raise ConfigError(
            f"cannot serve on {listen}: others reach it, and nobody is asked who he is; say --insecure if all of them "
            "are trusted meanwhile"
        )
    node_port = port + 1 if port else 0
    with _work_directory(data, "serve") as work:
        noise = work / "noise"
        source = file if file is not None else await trio.to_thread.run_sync(_make_noise, noise, mib)
        manifest = (await trio.to_thread.run_sync(lambda: publish(source, name="bench"))).manifest
        async with trio.open_nursery() as nursery:

            async def serve_api(task_status: trio.TaskStatus[str]) -> None:
                database = f"sqlite:///{work.absolute()}/tracker.db"
                await serve_tracker(listen, database, heartbeat_s=HEARTBEAT_S, insecure=True, task_status=task_status)

            url: str = await nursery.start(serve_api)
            origin = (source if source.is_dir() else source.parent).absolute()
            config = NodeConfig(
                id=SERVE_ID, isp=ISP, data=str(work / "data"), listen=f"{_bracketed(host)}:{node_port}", tracker=url,
                insecure=True, origin_dir=(str(origin),),
            )  # fmt: skip
            async with open_node(config) as node:
                await node.fill(manifest, [str(origin)])
                await trio.to_thread.run_sync(lambda: noise.unlink(missing_ok=True))
                async with TrackerClient(url) as client:
                    while not _is_ready(await client.node(SERVE_ID)):  # noqa: ASYNC110 (the tracker is to know it)
                        await trio.sleep(HEARTBEAT_S / 4)
                ready(url.removeprefix("http://"), manifest)
                await trio.sleep_forever()


def _is_ready(serving: NodeStatus) -> bool:
    return [title.state for title in serving.titles] == ["live"]


def _make_noise(path: Path, mib: int) -> Path:
    """Write `mib` MiB that do not compress and of which no two are alike."""
    noise = os.urandom(MIB)
    with path.open("wb") as out:
        for number in range(mib):
            out.write(number.to_bytes(8, "big") + noise[8:])
    return path


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _work_directory(parent: Path | None, name: str) -> Iterator[Path]:
    """Make a directory below `parent`, or below the system's for temporary files, and remove it at the end."""
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"p2pfill-bench-{name}-", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


# ---- the fetching end


async def fetch(
    address: str, data: Path | None, runs: int, begun: Callable[[int], None], heard: Callable[[int, Fetched], None]
) -> EndsReport:
    """Fetch what is served at `address` (HOST:PORT) `runs` times, and return what that took.

    Each time into a new directory below `data`, which is removed again. `begun` gets the size, `heard` that and each
    run. Raises `ConfigError` for what is no address of a serving end, `TrackerUnreachable` where nobody serves there,
    `StoreError` where the disk refuses and `TransferError`.
    """
    _check_address(address)
    async with TrackerClient(f"http://{address}") as client:
        manifest, source = await _find(client, address)
        begun(manifest.size)
        fetched, lags = [], []
        for _ in range(runs):
            before = await client.node(SERVE_ID)
            with _work_directory(data, "fetch") as work:
                run, lag = await _fetch_once(manifest, source, work)
            after = await _report_after(client, before, manifest.size)
            run.serve_processor_s = after.usage.processor_s - before.usage.processor_s
            fetched.append(run)
            lags.append(lag)
            heard(manifest.size, run)
    return _summary(manifest, fetched, lags, after)


def _check_address(address: str) -> None:
    try:
        host, _ = parse_listen(address)
        if "/" in host:
            raise ConfigError("a URL")
    except ConfigError as error:
        raise ConfigError(f"cannot fetch from {address[:100]!r}: write HOST:PORT, as bench serve prints it") from error


async def _find(client: TrackerClient, address: str) -> tuple[Manifest, NodeInfo]:
    """Return what is served at `address`, and by whom."""
    try:
        records = await client.titles()
    except TrackerUnreachable as error:
        raise TrackerUnreachable(
            f"nothing answers at {address}: check that `p2pfill bench serve` runs there and has printed this address, "
            "and that a firewall lets in this port and the one after it"
        ) from error
    serving = next((node for node in await client.nodes() if node.info.id == SERVE_ID), None)
    if len(records) != 1 or serving is None or not _is_ready(serving):
        raise ConfigError(f"what answers at {address} is no `p2pfill bench serve` that has said what to type here")
    encoded = await client.manifest(records[0].title)
    manifest = await trio.to_thread.run_sync(Manifest.decode, encoded)
    if manifest.title_id != title_id_from_hex(records[0].title):
        raise TransferError(f"{address} sent another manifest than that of its title")
    return manifest, serving.info


async def _report_after(client: TrackerClient, before: NodeStatus, size: int) -> NodeStatus:
    """Return the serving node's first report in which the title has gone out once more."""
    while True:
        after = await client.node(SERVE_ID)
        if after.upload_bytes >= before.upload_bytes + size:
            return after
        await trio.sleep(HEARTBEAT_S / 2)


async def _fetch_once(manifest: Manifest, source: NodeInfo, work: Path) -> tuple[Fetched, LoopLag]:
    config = NodeConfig(id=f"fetch-{secrets.token_hex(4)}", isp=ISP, data=str(work / "data"), insecure=True)
    async with open_node(config) as node, trio.open_nursery() as nursery:
        monitor = LagMonitor(LOOK_S)
        nursery.start_soon(monitor.run)
        nursery.start_soon(_fail_unlinked, node, source)
        began, used_before = trio.current_time(), process_usage().processor_s
        filling = await node.start_fill(manifest, members=[source])
        reserved = trio.current_time()
        node.want_links([source])
        # An event for this would serve nobody else; a look is one count of bits.
        while not filling.done.is_set() and filling.fill.ledger.have.count() < manifest.chunk_count:  # noqa: ASYNC110
            await trio.sleep(LOOK_S)
        received = trio.current_time()
        await filling.wait()
        live = trio.current_time()
        spent, used_after = node.spent, process_usage().processor_s
        nursery.cancel_scope.cancel()
    streaming_s = received - reserved
    streams_ns = max(1, sum(spent))
    socket_s = streaming_s * spent.socket_ns / streams_ns
    loop_s = min(socket_s, streaming_s * monitor.late_share)
    parts: dict[Part, float] = {
        "disk": live - began - streaming_s + streaming_s * spent.write_ns / streams_ns,
        "hash": streaming_s * spent.hash_ns / streams_ns,
        "socket": socket_s - loop_s,
        "loop": loop_s,
    }
    return Fetched(live - began, used_after - used_before, 0.0, parts), monitor.report()


async def _fail_unlinked(node: Node, source: NodeInfo) -> None:
    """Raise `TransferError` once there has been no link with `source` for `UNLINKED_S`: a node dials for ever."""
    linked_at = trio.current_time()
    while trio.current_time() < linked_at + UNLINKED_S:
        if node.engine.links.get(source.id) is not None:
            linked_at = trio.current_time()
        await trio.sleep(UNLINKED_S / 20)
    raise TransferError(
        f"no link with {_bracketed(source.host)}:{source.port} for {UNLINKED_S:g} s: check that `p2pfill bench serve` "
        "still runs there, and that a firewall lets in this port too"
    )


def _summary(manifest: Manifest, runs: list[Fetched], lags: list[LoopLag], served: NodeStatus) -> EndsReport:
    size_gb = max(1, manifest.size) / 1e9
    shares: dict[Part, float] = {
        part: statistics.median(run.parts_s[part] / run.seconds for run in runs) for part in runs[0].parts_s
    }
    worst = max(lags, key=lambda lag: lag.max_us)
    return EndsReport(
        title_bytes=manifest.size,
        chunk_count=manifest.chunk_count,
        runs=runs,
        rate_gb_s=Spread.of([size_gb / run.seconds for run in runs]),
        processor_s_per_gb={
            "fetch": statistics.median(run.fetch_processor_s for run in runs) / size_gb,
            "serve": statistics.median(run.serve_processor_s for run in runs) / size_gb,
        },
        memory_peak_bytes={
            "fetch": process_usage().memory_peak_bytes,
            "serve": served.usage.memory_peak_bytes,
        },
        loop_lag={"fetch": worst, "serve": served.loop_lag},
        shares=shares,
        bottleneck=max(shares, key=lambda part: shares[part]),
    )
