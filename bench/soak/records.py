"""What a soak writes down: samples of the node and of the tracker, and what happened meanwhile."""

from __future__ import annotations

import msgspec

from p2pfill.bench.measure import Machine


class Sample(msgspec.Struct, array_like=True):
    """One look at a process, taken inside of it, and at its files, from outside."""

    at_s: float
    """Since the soak began."""
    rss_bytes: int
    descriptors: int
    sockets: int
    threads: int
    tasks: int
    """Of Trio."""
    objects: int
    """That Python's collector of cycles knows."""
    entries: int
    """Of all containers that its own objects hold: queues, ledgers, books, caches."""
    kept: int = 0
    """Of those that hold what is gone, up to a limit of their own (`watched.KEPT`)."""
    disk_bytes: int = 0
    """Of the node: all below DATA but the files of titles. Of the tracker: the database with its log."""
    rows: int = 0
    """Of the tracker: of all tables but those in `fleet.HISTORIES`."""
    histories: int = 0
    """Of those."""


class Course(msgspec.Struct):
    """All samples of a process."""

    samples: list[Sample]
    processor_s: float = 0.0
    grown: dict[str, int] = {}
    """Container, by class and attribute -> entries by which it has grown from the middle to the end; the first ten."""


class Flatness(msgspec.Struct, frozen=True):
    """Whether one figure has grown in the second half."""

    process: str
    what: str
    median: float
    growth: float
    """The Theil-Sen slope of the second half, times its length."""
    bound: float

    @property
    def is_flat(self) -> bool:
        """Whether the growth is within the bound; what shrinks is flat."""
        return self.growth <= self.bound


class Happened(msgspec.Struct):
    """What went on during a soak."""

    ordered: int = 0
    live: int = 0
    superseded: int = 0
    """By a newer version of their name, before they were live."""
    replaced: int = 0
    withdrawn: int = 0
    evicted: int = 0
    """Titles that are gone from the node, after they were withdrawn."""
    wrong: int = 0
    """Titles that were live with another byte than was published."""
    stuck: list[str] = []
    """Titles that were not live in time, or failed, and why."""
    links: int = 0
    """That the crowd has made."""
    breaks: int = 0
    """Of them ended without a word."""
    links_at_once: int = 0
    """The median, as the crowd counts them."""
    fetched_chunks: int = 0
    """By the crowd, each checked."""
    served_chunks: int = 0
    """To the node, by the crowd."""
    wrong_chunks: int = 0
    """Of those that the crowd has fetched."""
    renewals: int = 0
    """Of all certificates at once."""
    revoked: int = 0
    fill_s: list[float] = []
    """From order to live: median, and the longest."""


class Report(msgspec.Struct):
    """What `--out` writes."""

    machine: Machine
    links: int
    titles: int
    minutes: float
    standing: int
    """Orders that stand at once, once there are so many."""
    every_s: float
    descriptors_max: int
    happened: Happened
    node: Course
    tracker: Course
    judged: list[Flatness]

    @property
    def is_good(self) -> bool:
        """Whether all was flat, all titles were live, and nothing was wrong."""
        fine = all(one.is_flat for one in self.judged) and not self.happened.stuck
        return fine and not self.happened.wrong and not self.happened.wrong_chunks


def encode(report: Report) -> bytes:
    """Return a report as it is written: a line a sample."""
    return msgspec.json.encode(report).replace(b"],[", b"],\n[").replace(b"},{", b"},\n{") + b"\n"


def decode(data: bytes) -> Report:
    """Return a report that was written. Raises `msgspec.DecodeError`."""
    return msgspec.json.decode(data, type=Report)
