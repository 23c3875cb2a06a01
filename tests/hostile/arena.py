"""A node under attack, an honest cache beside it, and everything that is measured and checked of an attack."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from p2pfill.model.manifest import Integrity
from p2pfill.model.node import NodeInfo
from tests.hostile.attack import Attack, Scene
from tests.hostile.peer import Peer, PeerGone
from tests.hostile.titles import Content, Title, made_up, wrong_chunks

ROOT = Path(__file__).parent.parent.parent
HONEST_CHUNKS = 64
BIG_CHUNKS, BIG_CHUNK = 8, 16 * 1024 * 1024
MANY_CHUNKS = 16_384
SLOWER_MAX = 1.5
NOISE_S = 0.5
"""A fill may take so much longer whatever it took before: on a machine that others use, less says nothing."""

HONEST_MAX_S = 1.5
"""An honest fill is given up then."""

PATIENCE = 6.0
"""How many times as long is waited where the machine is allowed for, until what it took is known."""

BASELINE_MAX_S = 20.0
"""Nobody attacks while it is measured, so whatever it takes is the machine's doing."""

TITLE_MAX_S = 20.0
"""A title that is not live by then is stuck; one that is later than its attack allows may have had a busy machine."""

ANSWER_S = 6.0
"""For a process to answer: a node that takes longer is held up by somebody."""

STRIKE_S = 6.0
LOOK_S = 0.03
SETTLE_S = 0.1
"""For what was sent last to be handled, before anything is looked at."""

HARMFUL = {"died", "traceback", "memory"}
"""Faults after which the node is not as good for the next attack as before."""

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MEANINGLESS = re.compile(r"connection broke|without a Goodbye|the link to it has ended")
"""Log lines that a peer causes by leaving: they name nobody as an offender."""


class ChildGoneError(Exception):
    """A process has ended, or does not answer."""


class ChildStuckError(Exception):
    """A process lives and does not answer."""


class Child:
    """A process that answers lines of JSON."""

    def __init__(self, module: str, log: Path, *arguments: str) -> None:
        self._lock = threading.Lock()
        command = [sys.executable, "-m", module, *arguments]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out, text=True, cwd=ROOT
            )
        self.ready = self._read()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ChildGoneError(f"exit code {self.process.wait()}")
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise ChildGoneError(said["error"])
        return said

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        with self._lock:
            try:
                self.process.stdin.write(json.dumps(command) + "\n")
                self.process.stdin.flush()
            except OSError as error:
                raise ChildGoneError(f"exit code {self.process.wait()}") from error
            return self._read()

    async def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the process do something, and return what it says. Raises `ChildGoneError` and `ChildStuckError`."""
        with trio.move_on_after(ANSWER_S):
            return await trio.to_thread.run_sync(self._ask, {"do": do, **arguments}, abandon_on_cancel=True)
        raise ChildStuckError(f"no answer to {do!r} within {ANSWER_S:g} s")

    @property
    def memory_bytes(self) -> int:
        """Resident memory, 0 once it has ended."""
        with suppress(OSError, IndexError):
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * PAGE_BYTES
        return 0

    @property
    def scheduled(self) -> tuple[int, int]:
        """Nanoseconds that its event loop has run, and has waited for a processor; 0 once it has ended."""
        with suppress(OSError, ValueError):
            ran, waited, _ = Path(f"/proc/{self.process.pid}/schedstat").read_text().split()
            return int(ran), int(waited)
        return 0, 0

    def end(self) -> None:
        """End the process and wait for it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


@dataclass
class Outcome:
    """What an attack did. `faults` are pairs of a kind and a text."""

    faults: list[tuple[str, str]]
    figures: dict[str, float]
    missed: str = ""
    """Why the attack could not be made, where that is nobody's fault."""

    @property
    def kinds(self) -> set[str]:
        """What went wrong, in a word each."""
        return {kind for kind, _ in self.faults}


class Arena:
    """Processes and titles below `directory`. Close it at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.small = Content(directory / "small", 24)
        self._numbers = itertools.count()
        self._honest_content = Content(directory / "honest", HONEST_CHUNKS)
        self._big: Content | None = None
        self.baseline_s = 0.0
        self.allows_for_machine = False
        """Limits of time are longer by what others took of the processors; see `Case.slowness`."""
        self.log = directory / "n1.log"
        self.data = directory / "n1"
        self._target: Child | None = None
        self._live: Title | None = None
        self._honest_info: dict[str, Any] = {}
        self._honest = Child("tests.hostile.honest", directory / "honest.log")

    def close(self) -> None:
        """End all processes."""
        self._honest.end()
        if self._target is not None:
            self._target.end()

    @property
    def target(self) -> Child:
        """The node's process."""
        assert self._target is not None
        return self._target

    async def _ready(self) -> Title:
        """Have the node run, linked with the honest cache and with a live title; return that."""
        if self._target is not None and self._target.process.poll() is None and self._live is not None:
            if not (await self._honest.ask("state"))["linked"]:
                await self._link_honest()
            return self._live
        start = partial(Child, "tests.hostile.target", self.log, str(self.data))
        self._target = await trio.to_thread.run_sync(start)
        await self._link_honest()
        self._live = self.small.title(f"live-{next(self._numbers)}")
        await self._begin(self._live, origins=[str(self._live.root)])
        await self._wait_live(self._live, 10)
        if not self.baseline_s:
            self.baseline_s = statistics.median([await self._fill_honestly(BASELINE_MAX_S) for _ in range(3)])
        return self._live

    def renew(self) -> None:
        """Have the next attack meet a new process: this one has gone wrong."""
        if self._target is not None:
            self._target.end()
            self._target = None

    async def _link_honest(self) -> None:
        host, port = self.target.ready["address"]
        self._honest_info = (await self._honest.ask("link", host=host, port=port))["info"]

    # ---- fills

    def _title(self, attack: Attack, integrity: Integrity) -> Title:
        name = f"{attack.name}-{next(self._numbers)}"
        if attack.needs == "big":
            self._big = self._big or Content(self.directory / "big", BIG_CHUNKS, BIG_CHUNK)
            return self._big.title(name, integrity)
        if attack.needs == "many":
            return made_up(name, MANY_CHUNKS, self.directory / "nothing")
        return self.small.title(name, integrity)

    async def _begin(
        self, title: Title, origins: list[str], members: list[NodeInfo] | None = None, **more: Any
    ) -> None:
        manifest = self.directory / f"{title.manifest.name}.fill"
        await trio.Path(manifest).write_bytes(title.manifest.encode())
        roster = msgspec.to_builtins(members or [])
        arguments = {"holders": [], "policy": {}, **more}
        await self.target.ask("fill", manifest=str(manifest), origins=origins, members=roster, **arguments)

    async def _wait_live(self, title: Title, limit_s: float) -> dict[str, Any]:
        """Return the last report of a title, live or not after `limit_s`."""
        report: dict[str, Any] = {}
        with trio.move_on_after(limit_s):
            while report.get("state") not in ("live", "failed"):
                await trio.sleep(LOOK_S)
                with trio.CancelScope(shield=True):
                    report = (await self.target.ask("report", title=title.manifest.title_id.hex()))["title"]
        return report

    async def _fill_honestly(self, limit_s: float) -> float:
        """Fill a title from the honest cache; return the seconds that it took, or raise `TimeoutError`."""
        title = self._honest_content.title(f"honest-{next(self._numbers)}")
        await self._have_held(title)
        await self._begin(title, [], holders=[self._honest_info])
        report = await self._wait_live(title, limit_s)
        if report.get("state") != "live":
            await self.target.ask("withdraw", title=title.manifest.title_id.hex())
            raise TimeoutError(f"an honest fill got no further than {report}")
        accused = [source for source in report["sources"] if source["state"] != "ok"]
        if accused:
            raise PermissionError(str(accused))
        if wrong := wrong_chunks(self.data, title.manifest, range(title.manifest.chunk_count)):
            raise ValueError(f"an honest title is live with wrong chunks {wrong}")
        assert report["finished_at"] >= report["started_at"], report
        return float(report["finished_at"] - report["started_at"])

    async def _have_held(self, title: Title) -> NodeInfo:
        """Have the honest cache hold a title; return who it is."""
        manifest = self.directory / f"{title.manifest.name}.fill"
        await trio.Path(manifest).write_bytes(title.manifest.encode())
        await self._honest.ask("hold", manifest=str(manifest), root=str(title.root))
        return msgspec.convert(self._honest_info, NodeInfo)

    # ---- one attack

    async def run(self, attack: Attack, integrity: Integrity = "blake3") -> Outcome:
        """Run an attack beside an honest fill and return what it did."""
        live = await self._ready()
        title = self._title(attack, integrity)
        case = Case(self, attack, title, live)
        try:
            await case.run()
        except* ChildGoneError as group:
            case.fault("died", f"{group.exceptions}: {self.log_since(case.log_at)[-1500:]}")
        except* ChildStuckError as group:
            case.fault("late", f"{group.exceptions}")
            self.renew()
        except* (PeerGone, OSError) as group:
            if not case.is_dead():
                raise
            case.fault("died", f"{group.exceptions}: {self.log_since(case.log_at)[-1500:]}")
        if case.kinds & HARMFUL:
            self.renew()
        return Outcome(case.faults, case.figures, case.scene.missed)

    def log_since(self, at: int) -> str:
        """Return what the node has logged since the log had `at` bytes."""
        return self.log.read_bytes()[at:].decode(errors="replace")


class Case:
    """One run of an attack."""

    def __init__(self, arena: Arena, attack: Attack, title: Title, live: Title) -> None:
        self.arena = arena
        self.attack = attack
        self.title = title
        self.faults: list[tuple[str, str]] = []
        self.figures: dict[str, float] = {}
        self.log_at = arena.log.stat().st_size
        self._scheduled = [(child, child.scheduled) for child in (arena.target, arena._honest)]
        self._filling = False
        self._begun = trio.Event()
        self._report: dict[str, Any] = {}
        self._reasons: dict[str, None] = {}
        """All that the node's report has said of the attacker, in order."""
        self._accusations: dict[str, None] = {}
        self._link_ended = False
        host, port = arena.target.ready["address"]
        self.scene = Scene((host, port), title, live, f"zz-{title.manifest.name}")
        if attack.needs != "nothing":
            self.scene.begin_fill = self._begin_fill

    def fault(self, kind: str, text: str) -> None:
        """Note something that must not be."""
        self.faults.append((kind, text))

    @property
    def kinds(self) -> set[str]:
        """What went wrong, in a word each."""
        return {kind for kind, _ in self.faults}

    def is_dead(self) -> bool:
        """Tell whether the node's process has ended."""
        with suppress(subprocess.TimeoutExpired):
            self.arena.target.process.wait(1)
        return self.arena.target.process.poll() is not None

    def slowness(self) -> float:
        """Return how many times as long as alone the node, or the honest cache, has computed so far.

        The kernel tells how long they waited for a processor: a node that an attack keeps busy computes more, but waits
        no longer for it.
        """
        found = [1.0]
        for child, (ran_before, waited_before) in self._scheduled if self.arena.allows_for_machine else ():
            ran, waited = child.scheduled
            if ran > ran_before:
                found.append(1.0 + (waited - waited_before) / (ran - ran_before))
        return max(found)

    @property
    def _patience(self) -> float:
        return PATIENCE if self.arena.allows_for_machine else 1.0

    async def _begin_fill(self, members: list[NodeInfo]) -> None:
        origins = [str(self.title.root)] if self.attack.origin else []
        if self.scene.honest_helps:
            members = [*members, await self.arena._have_held(self.title)]
        await self.arena._begin(self.title, origins, members, policy=dict(self.attack.policy))
        self._filling = True
        self._begun.set()

    async def run(self) -> None:
        """Attack and check."""
        await self.arena.target.ask("mark")
        before = self.arena.target.memory_bytes
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_memory, before)
            nursery.start_soon(self._watch_queue)
            nursery.start_soon(self._watch_title)
            async with trio.open_nursery() as inner:
                inner.start_soon(self._attack)
                inner.start_soon(self._others)
            await self._check()
            nursery.cancel_scope.cancel()

    async def _attack(self) -> None:
        attack = self.attack
        with trio.move_on_after((STRIKE_S + HONEST_MAX_S) * self._patience):
            try:
                await attack.run(self.scene)
            except* PeerGone:
                self._link_ended = True
        if not self.scene.struck.is_set():
            self.fault("no attack", self.scene.missed or "the attack found nothing to strike at")
            self.scene.strike()

    async def _others(self) -> None:
        """What is done beside the attack, once it has begun."""
        await self.scene.struck.wait()
        try:
            arena = self.arena
            took_s = await arena._fill_honestly(HONEST_MAX_S * self._patience)
            limit_s = max(SLOWER_MAX * arena.baseline_s, arena.baseline_s + NOISE_S) * self.slowness()
            self.figures["honest_s"] = took_s
            if took_s > limit_s:
                self.fault("honest slow", f"{took_s:.2f} s, {self.arena.baseline_s:.2f} s without the attack")
            live = self.scene.live.manifest
            said = await self.arena._honest.ask("fetch", title=live.title_id.hex(), chunk_bytes=live.chunk_length(0))
            self.figures["fetch_s"] = said["took_s"]
            if said["fault"] or said["took_s"] > self.attack.fetch_max_s * self.slowness():
                self.fault("others not served", f"{said['took_s']:.2f} s: {said['fault']}")
        except TimeoutError as error:
            self.fault("honest slow", str(error))
        except PermissionError as error:
            self.fault("honest accused", str(error))
        except ValueError as error:
            self.fault("wrong bytes", str(error))
        finally:
            self.scene.over.set()

    async def _watch_memory(self, before: int) -> None:
        while True:
            grown = self.arena.target.memory_bytes - before
            self.figures["grown_mib"] = max(self.figures.get("grown_mib", 0.0), grown / 2**20)
            await trio.sleep(LOOK_S)

    async def _watch_queue(self) -> None:
        while True:
            said = await self.arena.target.ask("figures")
            self.figures["queued"] = max(self.figures.get("queued", 0), said["upload_queued"])
            self.figures["late_s"] = said["late_s"]
            await trio.sleep(0.1)

    async def _watch_title(self) -> None:
        """Follow the attacked title: when it is live, and all that is said of the attacker meanwhile."""
        await self._begun.wait()
        while not self.scene.title_done.is_set():
            await self._look_at_title()
            await trio.sleep(LOOK_S)

    async def _look_at_title(self) -> None:
        said = await self.arena.target.ask("report", title=self.title.manifest.title_id.hex())
        self._report = said["title"]
        for source in self._report["sources"]:
            if source["id"].startswith(self.scene.name) and source["reason"]:
                self._reasons[f"{source['id']} {source['state']}: {source['reason']}"] = None
            elif source["id"] == self.scene.honest and source["state"] != "ok" and not self.attack.may_accuse:
                self._accusations[str(source)] = None
        if self._report["state"] in ("live", "failed"):
            self.figures["title_s"] = self._report["finished_at"] - self._report["started_at"]
            self.scene.title_done.set()

    # ---- checks

    async def _check(self) -> None:
        attack, figures = self.attack, self.figures
        if self._filling and attack.origin:
            with trio.move_on_after(TITLE_MAX_S):
                await self.scene.title_done.wait()
        await trio.sleep(SETTLE_S)
        if self._filling:
            await self._look_at_title()
        report = self._report
        await self._check_bytes(report)
        self._check_named(report)
        if self._filling:
            if attack.origin and report["state"] != "live":
                self.fault("incomplete", f"{report['state']} with {report['have_chunks']} chunks")
            elif attack.origin and figures["title_s"] > attack.completes_s * self.slowness():
                self.fault("slow title", f"{figures['title_s']:.2f} s")
            if report.get("state") != "live":
                await self.arena.target.ask("withdraw", title=self.title.manifest.title_id.hex())
        figures["late_s"] = (await self.arena.target.ask("figures"))["late_s"]
        if figures["late_s"] > attack.late_max_s * self.slowness():
            self.fault("late", f"the event loop woke {figures['late_s']:.2f} s late")
        if figures["grown_mib"] * 2**20 > attack.growth_max_bytes:
            self.fault("memory", f"{figures['grown_mib']:.0f} MiB more")
        if figures["queued"] > attack.queued_max:
            self.fault("queue", f"{figures['queued']:.0f} requests of a remote wait")
        if attack.ends_link and not self._link_ended:
            self.fault("link stays", "the attacker is still linked")
        for complaint in self.scene.complaints:
            self.fault("complaint", complaint)
        state = await self.arena._honest.ask("state")
        if not state["linked"]:
            self.fault("honest link lost", state["goodbye"])
        if self.is_ended():
            self.fault("died", self.arena.log_since(self.log_at)[-1500:])
        if "Traceback" in (text := self.arena.log_since(self.log_at)):
            self.fault("traceback", text[-1500:])

    def is_ended(self) -> bool:
        """Tell at once whether the node's process has ended."""
        return self.arena.target.process.poll() is not None

    async def _check_bytes(self, report: dict[str, Any]) -> None:
        if not self._filling or not self.title.stream:
            return
        manifest = self.title.manifest
        if report.get("state") == "live":
            held: list[int] = list(range(manifest.chunk_count))
        else:
            async with Peer(f"zz-checker-{manifest.name}").linked(self.scene.address) as peer:
                handle = await peer.want(self.title.id)
                bits = peer.told[handle].bitmap
            held = [chunk for chunk in range(manifest.chunk_count) if bits and bits[chunk >> 3] >> (chunk & 7) & 1]
        wrong = wrong_chunks(self.arena.data, manifest, held)
        self.figures["held"] = len(held)
        if wrong:
            text = f"{len(wrong)} of {len(held)} chunks that the node holds, state {report.get('state')}: {wrong}"
            self.fault("wrong bytes", text)

    def _check_named(self, report: dict[str, Any]) -> None:
        sources = {source["id"]: source for source in report.get("sources", [])}
        mine = [source for name, source in sources.items() if name.startswith(self.scene.name)]
        for accusation in self._accusations:
            self.fault("honest accused", accusation)
        if self.attack.quarantines and not any(source["state"] == "quarantined" for source in mine):
            self.fault("not quarantined", f"{mine}")
        lines = [*self._reasons, *self.arena.log_since(self.log_at).splitlines()]
        evidence = [line for line in lines if not MEANINGLESS.search(line)]
        if self.attack.named is not None:
            wanted = self.attack.named.format(name=re.escape(self.scene.name))
            if not any(re.search(wanted, line) for line in evidence):
                self.fault("unnamed", f"nothing like {wanted!r} in {evidence[-5:]}")


def run_attack(arena: Arena, attack: Attack, integrity: Integrity = "blake3") -> Outcome:
    """Run one attack in a loop of its own."""

    async def main() -> Outcome:
        with trio.fail_after(180):
            return await arena.run(attack, integrity)

    with contextlib.ExitStack():
        return trio.run(main)
