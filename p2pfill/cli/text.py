"""Figures and foreign text as people read them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from p2pfill.errors import ConfigError
from p2pfill.model.quantities import show_bytes as show_bytes

if TYPE_CHECKING:
    from p2pfill.model.manifest import Manifest

def show_rate(bytes_s: float) -> str:
    """Return a rate: `1.25 GiB/s`; nothing where nothing moves."""
    return f"{show_bytes(bytes_s)}/s" if bytes_s >= 1 else ""


def show_percent(part: int, whole: int) -> str:
    """Return a share, rounded down so that `100 %` means all of it. Nothing at all of nothing is all."""
    return f"{part * 100 // whole if whole else 100} %"


def show_seconds(seconds: float) -> str:
    """Return a duration: `0.4 s`, `75 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def show_micros(micros: int) -> str:
    """Return a short time: `0.4 ms`, `75 ms`, `2.5 s`; nothing where it is 0, which means not measured."""
    if micros >= 1_000_000:
        return show_seconds(micros / 1e6)
    return f"{micros / 1000:.{0 if micros >= 10_000 else 1}f} ms" if micros else ""


def printable(text: str) -> str:
    """Return foreign text without anything that would move a terminal's cursor or change its colours."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: `1 file`, `2 files`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in a `.fill` file. Raises `ConfigError` or `ManifestError` in one line naming the file."""
    from p2pfill.errors import ManifestError
    from p2pfill.model import limits
    from p2pfill.trust.publishers import open_title

    try:
        with path.open("rb") as file:
            data = file.read(limits.MANIFEST_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read manifest {str(path)!r}: {error.strerror}") from error
    try:
        return open_title(data)
    except ManifestError as error:
        raise ManifestError(f"{str(path)!r} cannot be used: {error}; make a new one with: p2pfill publish") from error


def read_patterns(patterns: list[str], path: Path | None) -> tuple[str, ...]:
    """Return patterns, and the lines of a file (`-`: the standard input) but for empty ones. Raises `ConfigError`."""
    if path is None:
        return tuple(dict.fromkeys(patterns))
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the names of files from {str(path)!r}: {error}") from error
    if not (lines := [line for line in text.splitlines() if line.strip()]):
        raise ConfigError(f"no file is named in {str(path)!r}; without --files-from all files are meant")
    return tuple(dict.fromkeys([*patterns, *lines]))
