"""`p2pfill demo --night`: a night of nine caches in three time zones, an hour in a few seconds.

As in the demo all are processes of their own, started as a person would; their clocks run fast (`clock` of a node).
Two titles are ordered in the evening. One that is urgent comes while Europe fills, and a new version of one of them
when two regions are done: the third never fetches the old one, and the others only what has changed. The regional cache
of America is busy, and sends slowly. One line is printed an hour, and at the end what came in which hour, by tier,
above the windows.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import trio
from rich.console import Console
from rich.text import Text

from p2pfill.cli.children import Child, Children
from p2pfill.cli.columns import Column, table_within
from p2pfill.cli.demo import FLEET_S, SPARE_BYTES, choose_directory, until_signal
from p2pfill.cli.exits import CommandFailed
from p2pfill.cli.night_plot import COLOURS, WINDOW_COLOUR, check_plot, save_plot
from p2pfill.cli.text import plural, show_bytes
from p2pfill.model.limits import MIB
from p2pfill.model.manifest import Manifest
from p2pfill.model.windows import at_utc, read_windows
from p2pfill.tracker.client import TrackerClient
from p2pfill.tracker.records import FillRequest, NodeStatus

HOUR_S: Final = 2.5
"""Of the demo, in seconds."""
BEGINS: Final = "2026-11-28T22:00:00"
HOURS: Final = 37
"""Until the second night of America is over, in which it has what was ordered after its first."""
POLL_S: Final = 0.2
HEARTBEAT_S: Final = 0.5
READY_TIMES: Final = 2.0
"""So many times as long as they should take the caches may take to be ready: other programs may be at work."""
GRACE_S: Final = 1.5
"""After the end of a window: what is in flight still comes, and is in the next heartbeat."""

RATE: Final = "16M"
BUSY_RATE: Final = "2M"
"""What viewers leave of what the busy cache can send."""

BUSY_SAYS: Final = "0.9"
"""What its serving daemon says of that, again and again: an eighth of its share is left (`engine.health`)."""


class Region(NamedTuple):
    """One region: an ISP with two caches, and a regional cache."""

    name: str
    zone: str

    @property
    def windows(self) -> dict[str, str]:
        """The timetable of its caches."""
        return {"timezone": self.zone, "timetable": f"02:00,{RATE} 06:00,off", "at_end": "hand-back"}

    @property
    def caches(self) -> tuple[tuple[str, str], ...]:
        """Its caches, each with its ISP."""
        short, isp = self.name[:2], f"{self.name}-isp"
        return (f"{short}1", isp), (f"{short}2", isp), (f"{short}-hub", f"{self.name}-hub")


REGIONS: Final = (
    Region("europe", "Europe/Berlin"),
    Region("america", "America/New_York"),
    Region("japan", "Asia/Tokyo"),
)
BUSY: Final = "am-hub"


class Title(NamedTuple):
    """What is ordered when."""

    name: str
    version: str
    hour: float
    """After `BEGINS`."""
    priority: int
    files: int


TITLES: Final = (
    Title("film", "1", 0, 0, 1),
    Title("series", "1", 0, 0, 4),
    Title("news", "1", 3.5, 5, 1),
    Title("series", "2", 14, 0, 4),
)
FILE_BYTES: Final = 6 * MIB


class Hour(NamedTuple):
    """What came in one hour of the night, in bytes by region and tier."""

    number: int
    peer: dict[str, int]
    regional: dict[str, int]
    origin: dict[str, int]

    def of(self, region: str) -> int:
        """Return what came to a region."""
        return self.peer[region] + self.regional[region] + self.origin[region]


def run_night(*, work: Path | None, plot: Path | None, keep: bool, as_json: bool) -> None:
    """Run the demo of a night. Raises `CommandFailed` unless all that was to be live is."""
    console = Console(stderr=as_json, highlight=False)
    if plot is not None:
        check_plot(plot)  # before the night, and not after it
    night = _Night(console, work, keep)
    if trio.run(until_signal, night.run) is None:
        raise KeyboardInterrupt
    night.show()
    if plot is not None:
        draw(night.hours, plot)
        console.print(f"plot: {plot}", markup=False, soft_wrap=True)
    record = night.record()
    if as_json:
        sys.stderr.flush()
        print(json.dumps(record), flush=True)
    if record["lacking"]:
        lacking = ", ".join(record["lacking"])
        raise CommandFailed(f"not live at the end: {lacking}; try again with --keep and read the logs")
    if record["outside_bytes"]:
        raise CommandFailed(f"{show_bytes(record['outside_bytes'])} came outside of windows")


class _Night:
    def __init__(self, console: Console, work: Path | None, keep: bool) -> None:
        self._console = console
        self._work_choice = work
        self._keep = keep
        self.hours: list[Hour] = []
        self._manifests: list[Manifest] = []
        self._nodes: list[NodeStatus] = []
        self._outside = 0
        self._at = 0.0
        """When the night began, in seconds since the epoch."""
        self._busy_file = Path()
        """Of the busy cache's serving daemon."""

    def _say_busy(self) -> None:
        """Write how busy the busy cache is, whole or not at all."""
        beside = self._busy_file.with_suffix(".new")
        beside.write_text(BUSY_SAYS)
        beside.replace(self._busy_file)

    def _say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    async def run(self) -> bool:
        """Run all of it; True at its end."""
        with self._work_directory() as work:
            await trio.to_thread.run_sync(self._make_titles, work)
            async with self._fleet(work) as (tracker, origins, children):
                await self._watch(tracker, origins, children)
        return True

    @contextmanager
    def _work_directory(self) -> Iterator[Path]:
        size = FILE_BYTES * sum(title.files for title in TITLES)
        parent = choose_directory(self._work_choice, size * (1 + 3 * len(REGIONS)) + SPARE_BYTES)
        work = Path(tempfile.mkdtemp(prefix="p2pfill-night-", dir=parent))
        try:
            yield work
        finally:
            if not self._keep:
                shutil.rmtree(work)

    def _make_titles(self, work: Path) -> None:
        from p2pfill.store.publish import publish

        for title in TITLES:
            tree = work / "titles" / f"{title.name}-{title.version}"
            tree.mkdir(parents=True)
            for number in range(title.files):
                # Of a new version the last file is another one.
                version = title.version if number == title.files - 1 else "1"
                chance = random.Random(f"{title.name} {number} {version}")  # noqa: S311 (something to move)
                (tree / f"part{number}").write_bytes(chance.randbytes(FILE_BYTES))
            manifest = publish(tree, name=title.name, chunk_size=MIB).manifest
            self._manifests.append(manifest)
            tree.with_suffix(".fill").write_bytes(manifest.encode())

    @asynccontextmanager
    async def _fleet(self, work: Path) -> AsyncIterator[tuple[str, list[str], Children]]:
        async with Children(work) as children:
            begun, servers = time.monotonic(), []
            for title in TITLES:
                tree = work / "titles" / f"{title.name}-{title.version}"
                arguments = [str(tree), str(tree.with_suffix(".fill"))]
                servers.append(await children.start(f"origin-{tree.name}", "p2pfill.cli.static_server", arguments))
            db = f"sqlite:///{work / 'tracker.db'}"
            options = ["--listen", "127.0.0.1:0", "--db", db, "--heartbeat", str(HEARTBEAT_S), "--until-eof", "--json"]
            tracker = await children.start("tracker", "p2pfill.cli", ["tracker", *options])
            origins = [(await server.read_ready())["url"] for server in servers]
            tracker_url = (await tracker.read_ready())["url"]
            # Long enough that all are there when it begins, going by how long those took that are ready now.
            took_s = (time.monotonic() - begun) * 3 * len(REGIONS) / len(children)
            self._at = time.time() + 3.0 + READY_TIMES * took_s
            nodes: list[Child] = []
            for region in REGIONS:
                for name, isp in region.caches:
                    config = self._write_config(work, region, name, isp, tracker_url)
                    nodes.append(
                        await children.start(
                            name, "p2pfill.cli", ["node", "--config", str(config), "--until-eof", "--json"]
                        )
                    )
            for node in nodes:
                await node.read_ready()
            with trio.move_on_after(FLEET_S) as scope:
                async with TrackerClient(tracker_url) as client:
                    while sum(node.alive for node in await client.nodes()) < len(nodes):
                        children.check()
                        await trio.sleep(POLL_S)
            if scope.cancelled_caught:
                raise CommandFailed(f"not all caches have reported to the tracker after {FLEET_S:.0f} s")
            late_s = max(0.0, time.time() - self._at)
            if late_s:
                raise CommandFailed(f"this machine is too busy: the caches were ready {late_s:.1f} s late; try again")
            self._say(f"Started origins, a tracker and {plural(len(nodes), 'cache')}; the night begins in a moment")
            yield tracker_url, origins, children

    def _write_config(self, work: Path, region: Region, name: str, isp: str, tracker: str) -> Path:
        texts = {
            "id": name,
            "isp": isp,
            "region": region.name,
            "data": str(work / name),
            "listen": "127.0.0.1:0",
            "tracker": tracker,
        }
        # A text of JSON is one of TOML.
        lines = [f"{key} = {json.dumps(text)}" for key, text in texts.items()]
        lines.append(f'clock = {{ shows = "{BEGINS}", at = {self._at!r}, speed = {3600 / HOUR_S!r} }}')
        table = ", ".join(f"{key} = {json.dumps(text)}" for key, text in region.windows.items())
        lines.append(f"windows = {{ {table} }}")
        if name == BUSY:
            self._busy_file = work / "busy"
            self._say_busy()
            health = f"health = {{ file = {json.dumps(str(self._busy_file))} }}"
            lines += [f'rates = {{ outbound = "{BUSY_RATE}" }}', health]
        path = work / f"{name}.toml"
        path.write_text("\n".join(lines) + "\n")
        return path

    # ---- the night

    async def _watch(self, tracker: str, origins: list[str], children: Children) -> None:
        to_order = list(zip(TITLES, self._manifests, origins, strict=True))
        before = _sums([])
        ends_at = self._at + HOURS * HOUR_S
        async with TrackerClient(tracker) as client:
            while True:
                children.check()
                await trio.to_thread.run_sync(self._say_busy)  # an old one says nothing
                self._nodes = await client.nodes()
                sums = _sums(self._nodes)
                hour = (time.time() - self._at) / HOUR_S
                if hour >= len(self.hours) + 1:
                    self._end_hour(sums, before)
                    before = sums
                while to_order and hour >= to_order[0][0].hour:
                    title, manifest, origin = to_order.pop(0)
                    await client.put_title(manifest.title_id.hex(), manifest.encode())
                    await client.post_fill(
                        FillRequest(manifest.title_id.hex(), "all", [origin], priority=title.priority)
                    )
                    version = f", version {title.version}" if title.version != "1" else ""
                    urgent = ", which is urgent" if title.priority else ""
                    self._say(f"at {_clock(hour)}   ordered {title.name}{version}{urgent}: {show_bytes(manifest.size)}")
                if time.time() >= ends_at:
                    return
                await trio.sleep(POLL_S)

    def _end_hour(self, sums: dict[str, dict[str, int]], before: dict[str, dict[str, int]]) -> None:
        number = len(self.hours)
        came = {tier: {name: sums[tier][name] - before[tier][name] for name in sums[tier]} for tier in sums}
        hour = Hour(number, came["peer"], came["regional"], came["origin"])
        self.hours.append(hour)
        for region in REGIONS:
            if not (is_open(region, number) or is_open(region, number - GRACE_S / HOUR_S)):
                self._outside += hour.of(region.name)
        phases = "  ".join(f"{region.name} {'open  ' if is_open(region, number) else 'closed'}" for region in REGIONS)
        live = sum(title.state == "live" for node in self._nodes for title in node.titles)
        tiers = " · ".join(f"{tier} {show_bytes(sum(of.values()))}" for tier, of in came.items())
        self._say(f"to {_clock(number + 1)}   {phases}   {tiers}   {live} live")

    # ---- the morning

    def record(self) -> dict[str, Any]:
        """Return what came of it, for scripts."""
        newest = {title.name: manifest for title, manifest in zip(TITLES, self._manifests, strict=True)}
        ids = {manifest.title_id.hex(): name for name, manifest in newest.items()}
        lacking = []
        for node in self._nodes:
            live = {title.title for title in node.titles if title.state == "live"}
            lacking += [f"{name} on {node.info.id}" for title, name in ids.items() if title not in live]
        names = dict(zip((m.title_id.hex() for m in self._manifests), TITLES, strict=True))
        origin: dict[str, int] = dict.fromkeys(names, 0)
        isps: dict[tuple[str, str], int] = {}
        for node in self._nodes:
            for report in node.titles:
                origin[report.title] = origin.get(report.title, 0) + report.bytes_origin
                key = report.title, node.info.isp
                isps[key] = isps.get(key, 0) + report.bytes_origin + report.bytes_regional
        sizes = {manifest.title_id.hex(): manifest.size for manifest in self._manifests}
        titles = [
            {
                "name": title.name,
                "version": title.version,
                "bytes": sizes[title_id],
                "origin_copies": round(origin[title_id] / sizes[title_id], 3),
                "isp_copies_max": round(
                    max((count for (one, _), count in isps.items() if one == title_id), default=0) / sizes[title_id], 3
                ),
            }
            for title_id, title in names.items()
        ]
        reports = [report for node in self._nodes for report in node.titles]
        escalations: dict[str, int] = {}
        for report in reports:
            for why, count in report.escalations.items():
                escalations[why] = escalations.get(why, 0) + count
        return {
            "caches": len(self._nodes),
            "lacking": lacking,
            "titles": titles,
            "outside_bytes": self._outside,
            "reused_bytes": sum(report.reused_bytes for report in reports),
            "escalations": escalations,
            "hours": [hour._asdict() for hour in self.hours],
        }

    def show(self) -> None:
        """Print the plot and the sums."""
        for line in text_plot(self.hours):
            self._console.print(line)
        record = self.record()
        columns = [Column("title"), Column("size"), Column("out of the origin"), Column("into one ISP, at most")]
        rows = [
            [
                Text(one["name"] if one["version"] == "1" else f"{one['name']}, version {one['version']}"),
                Text(show_bytes(one["bytes"])),
                Text(f"{one['origin_copies']:.2f} copies"),
                Text(f"{one['isp_copies_max']:.2f} copies"),
            ]
            for one in record["titles"]
        ]
        self._console.print(table_within(self._console.width, columns, rows))
        told = ", ".join(f"{why} {count}" for why, count in sorted(record["escalations"].items())) or "none"
        self._say(
            f"outside of windows {show_bytes(record['outside_bytes'])} · reused of the version before "
            f"{show_bytes(record['reused_bytes'])} · escalations: {told}"
        )
        self._say("Stopped all processes" + ("" if self._keep else " and removed their data"))


def is_open(region: Region, hour: float) -> bool:
    """Tell whether the window of a region is open in the middle of an hour after `BEGINS`."""
    return read_windows(region.windows).at(at_utc(BEGINS) + (hour + 0.5) * 3600).is_open


def _clock(hour: float) -> str:
    return time.strftime("%H:%M UTC", time.gmtime(at_utc(BEGINS) + hour * 3600))


def _sums(nodes: list[NodeStatus]) -> dict[str, dict[str, int]]:
    sums = {tier: dict.fromkeys((region.name for region in REGIONS), 0) for tier in ("peer", "regional", "origin")}
    for node in nodes:
        for report in node.titles:
            sums["peer"][node.info.region] += report.bytes_peer
            sums["regional"][node.info.region] += report.bytes_regional
            sums["origin"][node.info.region] += report.bytes_origin
    return sums


BARS: Final = " ▁▂▃▄▅▆▇█"


def text_plot(hours: list[Hour]) -> Iterator[Text]:
    """Yield the lines of a plot: for each tier what came in each hour, and the windows of each region below."""
    most = max((sum(of.values()) for hour in hours for of in (hour.peer, hour.regional, hour.origin)), default=0) or 1
    yield Text("")
    for tier, style in (("peer", "green"), ("regional", "yellow"), ("origin", "red")):
        line = Text(f"{tier:>9} ")
        total = 0
        for hour in hours:
            count = sum(getattr(hour, tier).values())
            total += count
            bar = BARS[0] if not count else BARS[1 + min(count * (len(BARS) - 1) // most, len(BARS) - 2)]
            line.append(bar, style=style)
        line.append(f" {show_bytes(total)}")
        yield line
    for region in REGIONS:
        line = Text(f"{region.name:>9} ")
        for hour in hours:
            line.append("─" if is_open(region, hour.number) else " ", style="cyan")
        line.append(" window", style="dim")
        yield line
    axis = "".join(f"{_clock(hour.number)[:2]}    " for hour in hours[::6])
    yield Text(f"{'UTC':>9} {axis}", style="dim")
    yield Text("")


def draw(hours: list[Hour], path: Path) -> None:
    """Draw what came by tier in each hour, above the windows of the regions. Raises `ConfigError`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    numbers = [hour.number for hour in hours]
    floor = [0.0] * len(hours)
    for tier, colour in COLOURS.items():
        counts = [sum(getattr(hour, tier).values()) / MIB for hour in hours]
        upper.bar(numbers, counts, 0.92, floor, align="edge", color=colour, label=tier)
        floor = [below + count for below, count in zip(floor, counts, strict=True)]
    upper.set_ylabel("MiB an hour")
    upper.legend(frameon=False)
    upper.set_title("A night of nine caches in three time zones")
    for place, region in enumerate(REGIONS):
        spans = [(number, 1) for number in numbers if is_open(region, number)]
        lower.broken_barh(spans, (place - 0.3, 0.6), color=WINDOW_COLOUR)
    lower.set_yticks(range(len(REGIONS)), [region.name for region in REGIONS])
    lower.set_ylim(-0.6, len(REGIONS) - 0.4)
    lower.set_xticks(numbers[::3], [_clock(number)[:5] for number in numbers[::3]])
    lower.set_xlabel("UTC; below: fill windows")
    save_plot(figure, path)
