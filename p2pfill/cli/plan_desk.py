"""What the planner's commands share: the file that says where everything is, and the tables read out of it."""

from __future__ import annotations

import fcntl
import glob
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
import trio

from p2pfill.cli.calling import call_tracker
from p2pfill.cli.deadline import parse_deadline
from p2pfill.cli.fill import HOST_LIKE
from p2pfill.cli.options import PLANNER
from p2pfill.cli.plan_history import need_planner
from p2pfill.cli.text import plural, printable
from p2pfill.errors import ConfigError, StoreError
from p2pfill.model.fleet_policy import FleetPolicy, parse_policy
from p2pfill.model.toml import read_toml
from p2pfill.model.windows import at_utc, read_windows
from p2pfill.plan.wishes import Wish
from p2pfill.tracker.client import TrackerClient

if TYPE_CHECKING:
    from p2pfill.plan.document import Plan
    from p2pfill.plan.feasibility.network import Network, Night
    from p2pfill.plan.history.faults import Faults
    from p2pfill.plan.history.history import History
    from p2pfill.plan.inputs import Origins, Uplinks
    from p2pfill.plan.placement.tables import PlacementSettings
    from p2pfill.plan.tables import Caches, Catalogue, Load, Longs, Placement

T = TypeVar("T")

PLAN_SUFFIX: Final = ".plan"
APPLIED_SUFFIX: Final = ".applied"
KEEP: Final = 60
"""Plans that are kept, unless it is said otherwise: two months of mornings after."""

DAY_S: Final = 86_400

START_MIN: Final = 946_684_800.0
START_MAX: Final = 250_000_000_000.0
"""Seconds since the epoch between which a night may begin: the year 2000 and the year 9892. Nearer to where dates end,
windows and deadlines lie beyond it."""

AHEAD_DAYS_MAX: Final = 731
"""Between the end of the history and the day that is planned for: two years. A clock may be wrong by one; what is
forecast day by day for more takes minutes, and is of no use."""


class PlannerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is in `planner.toml`. Paths are relative to the directory that it lies in."""

    catalogue: str
    """A table of the files that there are (`plan.inputs`)."""
    caches: str
    """A table of the caches that there are."""
    history: str = "history"
    """The directory in which what was watched is kept."""
    logs: tuple[str, ...] = ()
    """Patterns of viewing logs, which `p2pfill plan night` takes in first."""
    uplinks: str = ""
    """A table of what comes into ISPs and regions; empty: as much as will."""
    origins: str = ""
    """A table of origins, by base URLs in which `{title}` stands for the title's name."""
    policy: str = ""
    """A fleet's policy with windows and rates; empty: the one that stands at the tracker, if there is a tracker."""
    windows: str = ""
    """The timetable of caches of which the policy says none, on their own clocks; empty: always open."""
    tracker: str = ""
    """The tracker's URL; empty: plans are made and kept, and what the last one said lies in the caches."""
    plans: str = "plans"
    """The directory in which plans are kept, one a day."""
    keep: int = KEEP
    """How many of them."""
    placement: dict[str, float] = {}
    """Settings of the placement (`plan.placement.tables.PlacementSettings`)."""
    pin: tuple[Wish, ...] = ()
    exclude: tuple[Wish, ...] = ()

    def __post_init__(self) -> None:
        if self.windows:
            read_windows(self.windows)
        if not 1 <= self.keep <= 10_000:
            raise ConfigError("keep is a number of plans: 1 to 10000")


class Held(NamedTuple):
    """What caches hold."""

    placement: Placement | None
    """None: nothing."""
    other: Longs | None
    """What lies in each besides, in bytes; None: nothing is known of it."""
    source: str
    """In words: who says so."""


class Desk:
    """A planner's file, and what it names, each read when it is first asked for. All of it raises `ConfigError`."""

    def __init__(self, path: Path, tracker: str = "") -> None:
        need_planner()
        self.path, self.home = path, path.parent
        self.config = _read_config(path)
        self.tracker = tracker or self.config.tracker
        self.named_tracker = tracker
        """By the command; empty: the file's is taken."""
        self.faults: dict[str, Faults] = {}
        """What is wrong with the tables that were read."""

    def command(self, *words: object, **options: object) -> str:
        """Return a planner's command as it can be typed where this one was; options are left out that say nothing."""
        parts = ["p2pfill", "plan", *map(str, words)]
        for name, said in {"planner": "" if self.path == PLANNER else self.path, **options}.items():
            for one in said if isinstance(said, (list, tuple)) else (said,):
                parts += [] if one is None or one == "" else [f"--{name.replace('_', '-')}", str(one)]
        return printable(shlex.join(parts))

    def at(self, name: str) -> Path:
        """Return the path that the file means."""
        return self.home / Path(name).expanduser()

    def _table(self, name: str, read: Callable[[Path], tuple[T, Faults]]) -> T:
        table, faults = read(self.at(name))
        if faults:
            self.faults[name] = faults
            print(f"note: {printable(name)}: {printable(faults.in_words())}", file=sys.stderr)
        return table

    @cached_property
    def catalogue(self) -> Catalogue:
        """The files that there are."""
        from p2pfill.plan.inputs import read_catalogue

        return self._table(self.config.catalogue, read_catalogue)

    @cached_property
    def caches(self) -> Caches:
        """The caches that there are."""
        from p2pfill.plan.inputs import read_caches

        return self._table(self.config.caches, read_caches)

    @cached_property
    def uplinks(self) -> Uplinks | None:
        """What comes into ISPs and regions."""
        from p2pfill.plan.inputs import read_uplinks

        name = self.config.uplinks
        return self._table(name, lambda path: read_uplinks(path, self.caches)) if name else None

    @cached_property
    def origins(self) -> Origins | None:
        """Where titles come from. A name that no order could have is told of here, before a plan is made by it."""
        from p2pfill.plan.inputs import read_origins

        if not self.config.origins:
            return None
        origins = self._table(self.config.origins, read_origins)
        for name in origins.names:
            try:
                base_of(name, self.home)
            except ConfigError as error:
                raise ConfigError(f"table of origins {str(self.at(self.config.origins))!r}: {error}") from error
        return origins

    @cached_property
    def history(self) -> History:
        """What was watched."""
        from p2pfill.plan.history.history import History

        return History(self.at(self.config.history))

    @cached_property
    def load(self) -> Load | None:
        """What clusters served in each hour; None: the logs do not say."""
        try:
            return self.history.load(self.caches, "cluster")
        except ConfigError:
            return None

    @cached_property
    def settings(self) -> PlacementSettings:
        """How a placement is made; the busiest hour's share as the load has it, unless the file says it."""
        from p2pfill.plan.making import with_peak_of
        from p2pfill.plan.placement.tables import PlacementSettings

        said: dict[str, Any] = dict(self.config.placement)
        for name, value in said.items():
            if not math.isfinite(value):
                raise ConfigError(f"placement: {name} is a number, not {value}")
        whole = ("passes", "neighbourhoods", "told")
        said |= {name: int(value) for name, value in said.items() if name in whole}
        try:
            settings = PlacementSettings(**said)
        except TypeError as error:
            names = ", ".join(PlacementSettings.__dataclass_fields__)
            raise ConfigError(f"placement: {_unknown(said, PlacementSettings)} is no setting of it: {names}") from error
        except ValueError as error:
            raise ConfigError(f"placement: {error}") from error
        return settings if "peak_share" in said else with_peak_of(self.load, settings)

    @cached_property
    def policy(self) -> FleetPolicy | None:
        """The fleet's policy: the file's, or what stands at the tracker."""
        if self.config.policy:
            path = self.at(self.config.policy)
            try:
                return parse_policy(path.read_text())
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
                raise ConfigError(f"cannot read policy {str(path)!r}: {why}") from error
        if not self.tracker:
            return None
        version = self.call(lambda client: client.policy())
        return parse_policy(version.text) if version.number else None

    def logs(self) -> list[Path]:
        """Return the viewing logs that the file means, in order of names. Raises `ConfigError` where none is there."""
        found: set[Path] = set()
        for name in self.config.logs:
            if self.at(name).is_file():  # whatever signs of patterns are in its name
                found.add(self.at(name))
                continue
            # Patterns are what the file says, and not the directory that it lies in.
            pattern = str(Path(name).expanduser())
            found |= {self.home / one for one in glob.glob(pattern, root_dir=self.home, recursive=True)}
        if self.config.logs and not found:
            names = ", ".join(map(repr, self.config.logs))
            raise ConfigError(f"no log is named {names}: mend logs in the planner's file")
        return sorted(found)

    def call(self, work: Callable[[TrackerClient], Any]) -> Any:
        """Return what a call of the tracker says. Raises `TrackerError`."""

        async def run() -> Any:
            async with call_tracker(self.tracker) as client:
                return await work(client)

        return trio.run(run)

    # ---- the night, and what lies there

    def night(
        self, start: float, room: Longs | None = None, deadline: float | None = None, open_until: float = 0.0
    ) -> tuple[Network, Night]:  # fmt: skip
        """Return the night that begins at `start`. What its arguments mean is said in `tonight.network_of`."""
        from p2pfill.plan.feasibility.tonight import network_of

        return network_of(
            self.caches, start, policy=self.policy, windows=self.config.windows, uplinks=self.uplinks,
            origins=self.origins, room=room, deadline=deadline, open_until=open_until,
        )  # fmt: skip

    def held(self, source: str, before: str) -> Held:
        """Return what caches hold.

        `source`: `tracker`, `plan` (the last one for a day before `before`), `nothing`, a plan's file, or empty: the
        tracker where there is one, else the last plan where there is one.
        """
        from p2pfill.plan.document import read_plan
        from p2pfill.plan.holding import as_planned, held_of, others_of

        if source == "nothing":
            return Held(None, None, "nothing, as was said")
        if source == "tracker" or (not source and self.tracker):
            if not self.tracker:
                raise ConfigError("--held tracker: no tracker is named; give --tracker URL, or write it into the file")

            async def ask(client: TrackerClient) -> Any:
                return await client.nodes(), await client.titles(), await client.fills()

            nodes, titles, fills = self.call(ask)
            lies = held_of(nodes, titles, fills, self.catalogue, self.caches)
            return Held(lies, others_of(nodes, lies, self.catalogue, self.caches), f"what {self.tracker} says")
        path = self.last_plan(before) if source in ("", "plan") else Path(source)
        if path is None:
            if source == "plan":
                raise ConfigError(f"--held plan: there is none before {before} in {str(self.at(self.config.plans))!r}")
            return Held(None, None, "nothing: there is no tracker, and no plan before")
        return Held(as_planned(read_plan(path), self.catalogue, self.caches), None, f"all of {path}")

    # ---- plans that are kept

    def plan_path(self, day: str) -> Path:
        """Return where the plan for a day is kept."""
        return self.at(self.config.plans) / f"{day}{PLAN_SUFFIX}"

    def plans(self) -> list[Path]:
        """Return the plans that are kept, the oldest first."""
        return sorted(path for path in self.at(self.config.plans).glob(f"*{PLAN_SUFFIX}") if _is_day(path.stem))

    def last_plan(self, before: str) -> Path | None:
        """Return the newest plan for a day before one."""
        return max((path for path in self.plans() if path.stem < before), default=None)

    def read_plan(self, name: str) -> tuple[Plan, Path]:
        """Return the plan in a file or for a day; empty: the newest."""
        from p2pfill.plan.document import read_plan

        if name:
            path = self.plan_path(name) if _is_day(name) else Path(name)
        else:
            kept = self.plans()
            if not kept:
                raise ConfigError(f"no plan is kept in {str(self.at(self.config.plans))!r}: `p2pfill plan make` first")
            path = kept[-1]
        if not path.exists():
            raise ConfigError(f"there is no plan {str(path)!r}: `p2pfill plan make` makes one")
        return read_plan(path), path

    @contextmanager
    def applying(self) -> Iterator[None]:
        """Be the only one who applies plans that are kept here: two at once would each end what the other orders.

        Raises `ConfigError` where somebody else does, and `StoreError`.
        """
        directory = self.at(self.config.plans)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(f"cannot write to {str(directory)!r}: {error.strerror}") from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise ConfigError(
                    f"another plan of {str(directory)!r} is being applied: wait for it to end, and apply this one "
                    "again if it is to take its place"
                ) from error
            yield
        finally:
            os.close(fd)

    def keep_applied(self, plan: Plan) -> Path:
        """Keep what was applied beside what is planned, which another dry run may replace. Raises `StoreError`."""
        from p2pfill.plan.document import write_plan
        from p2pfill.plan.rewriting import together

        path = self.plan_path(plan.head.day).with_suffix(APPLIED_SUFFIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self.applied(plan.head.day)
        write_plan(path, plan if before is None else together(plan, before))
        return path

    def applied(self, day: str) -> Plan | None:
        """Return what was applied for a day; None: nothing. Raises `ConfigError` where it is damaged."""
        from p2pfill.plan.document import read_plan

        path = self.plan_path(day).with_suffix(APPLIED_SUFFIX)
        return read_plan(path) if path.exists() else None

    def read_applied(self, name: str) -> tuple[Plan, Path]:
        """Return the plan in a file, or what was applied for a day; empty: the newest.

        Where nothing was applied for the day, it is what was planned.
        """
        from p2pfill.plan.document import read_plan

        day = name if _is_day(name) else "" if name else max((path.stem for path in self.plans()), default="")
        path = self.plan_path(day).with_suffix(APPLIED_SUFFIX)
        return (read_plan(path), path) if day and path.exists() else self.read_plan(name)

    def forget_old(self) -> list[Path]:
        """Delete plans beyond those that are kept, and return them."""
        gone = self.plans()[: -self.config.keep]
        for path in gone:
            path.unlink(missing_ok=True)
            path.with_suffix(APPLIED_SUFFIX).unlink(missing_ok=True)
        return gone


def place_of(planner: Path, what: str, said: Path | None, option: str = "") -> Path:
    """Return where the `history`, `catalogue` or `caches` are: as was said, else as a planner's file says.

    `option` is how it can be said. Raises `ConfigError`.
    """
    if said is not None:
        return said
    desk = _desk_for(planner, what, option or f"--{what} {'DIR' if what == 'history' else 'FILE'}")
    return desk.at(getattr(desk.config, what))


def logs_of(planner: Path) -> list[Path]:
    """Return the logs that a planner's file means. Raises `ConfigError` where it means none."""
    if not (found := _desk_for(planner, "logs", "LOGS").logs()):
        raise ConfigError(f"no logs are named: give LOGS, or write logs = [\"logs/*.csv\"] into {planner}")
    return found


def _desk_for(planner: Path, what: str, option: str) -> Desk:
    if not planner.exists():
        raise ConfigError(
            f"no {what} {'is' if what in ('history', 'catalogue') else 'are'} named: give {option}, or a planner's "
            f"file with --planner; there is no {str(planner)!r}"
        )
    return Desk(planner)


def base_of(said: str, home: Path) -> str:
    """Return where titles come from, which may have `{title}` in it, as orders have it: paths relative to `home`.

    A URL is taken as it is, and a path where it begins as one; else a directory must be there, as for `fill`, lest a
    slip of the pen pass for one that only caches have. Raises `ConfigError`.
    """
    if "://" in said or said[:5].lower() == "file:":
        return said
    path = home / Path(said).expanduser()
    if not said.startswith(("/", "./", "../", "~")) and not (home / said.partition("/{title}")[0]).is_dir():
        web = f"; for a web server write http://{said}" if HOST_LIKE.fullmatch(said) else ""
        raise ConfigError(
            f"origin {said[:80]!r} is no URL, and no directory that is there: write http://HOST[:PORT]/PATH/{{title}} "
            "or s3://BUCKET/PREFIX/{title}, or a directory of the caches as /DIRECTORY/{title} or "
            f"./DIRECTORY/{{title}}{web}"
        )
    return str(path.absolute())


def day_number(text: str) -> int:
    """Return a date as days since 1970. Raises `ConfigError`."""
    try:
        return (date.fromisoformat(text.strip()) - date(1970, 1, 1)).days
    except ValueError as error:
        raise ConfigError(f"{text[:40]!r} is no date; write it as in 2026-12-25") from error


NIGHT_S_MAX: Final = 31 * 86_400.0
"""Of a deadline after the begin of a night: its windows are looked at one by one."""


def planned_day(text: str, last_day: int) -> int:
    """Return a date that can be planned for out of a history up to `last_day`. Raises `ConfigError`."""
    number = day_number(text)
    if number - last_day > AHEAD_DAYS_MAX:
        raise ConfigError(f"what was watched is known up to {day_of(last_day * DAY_S)}: {text[:40]} is too far off")
    return number


def start_of(at: str) -> float:
    """Return when a night begins, in seconds since the epoch; empty: now. Raises `ConfigError`."""
    start = at_utc(at) if at else time.time()
    if not START_MIN <= start <= START_MAX:
        raise ConfigError(f"the night cannot begin {at[:40] or 'now'!r}: look at the clock, or name a time with --at")
    return start


def deadline_of(text: str, start: float) -> float | None:
    """Return a deadline of a night, which lies ahead of its begin; None: none is given. Raises `ConfigError`."""
    if not text:
        return None
    due = parse_deadline(text, start)
    if not start < due <= start + NIGHT_S_MAX:
        raise ConfigError(f"deadline {text[:80]!r} is not within a month after the begin of the night, {day_of(start)}")
    return due


def day_of(at: float) -> str:
    """Return the day of a moment, in UTC."""
    return datetime.fromtimestamp(at, UTC).date().isoformat()


def say_faults(desk: Desk) -> dict[str, str]:
    """Return what was wrong with tables, for JSON."""
    return {name: faults.in_words() for name, faults in desk.faults.items()}


def _read_config(path: Path) -> PlannerConfig:
    try:
        said = read_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no {str(path)!r}: it names catalogue, caches and history; see docs/planner.md, or name it "
            "with --planner"
        ) from error
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ConfigError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is no TOML: {error}") from error
    try:
        return msgspec.convert(said, PlannerConfig)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, ConfigError):
            raise ConfigError(f"{str(path)!r}: {error.__cause__}") from error
        names = ", ".join(PlannerConfig.__struct_fields__)
        raise ConfigError(f"{str(path)!r}: {error}; settings are {names}") from error


def _unknown(said: dict[str, Any], settings: Any) -> str:
    return ", ".join(repr(name) for name in said if name not in settings.__dataclass_fields__) or plural(
        len(said), "value"
    )


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return len(text) == len("2026-12-01")
