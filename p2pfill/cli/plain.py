"""`p2pfill node` without typer, where its arguments are written in the plainest way: `--flag value`, each flag once.

To a cache that starts, typer costs more than half of what all else does: it brings rich and pydantic, and makes all
commands to run one. Programs start caches, a fleet of them at a time, and write arguments plainly. Whatever is not
plain beyond doubt is left to typer: help, what is wrong, `--flag=value`, values that begin with a dash. So nothing has
to be said here, and a test holds what is taken here beside what typer makes of it. Rejected: argparse for all of it,
which would have screens of help and messages of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

TEXTS: Final = {
    "--advertise": "advertise",
    "--cluster": "cluster",
    "--config": "config",
    "--data": "data",
    "--id": "id",
    "--identity": "identity",
    "--in-use-command": "in_use_command",
    "--isp": "isp",
    "--listen": "listen",
    "--rates": "rates",
    "--record": "record",
    "--region": "region",
    "--serves": "serves",
    "--tracker": "tracker",
    "--windows": "windows",
}
"""Flag -> the setting, of those that take a text once."""

LISTS: Final = {"--origin-dir": "origin_dir", "--origins-allow": "origins_allow"}
"""The same of those that may be given many times."""

NUMBERS: Final = {
    "--data-workers": ("data_workers", int),
    "--free-min": ("free_bytes_min", int),
    "--latitude": ("latitude", float),
    "--longitude": ("longitude", float),
    "--scrub-rate": ("scrub_bytes_s", int),
    "--upload-slots": ("upload_slots", int),
    "--weight": ("weight", float),
}

SWITCHES: Final = {
    "--background": ("background", True),
    "--drop-pages": ("drop_pages", True),
    "--encrypt-data": ("encrypt_data", True),
    "--foreground": ("background", False),
    "--insecure": ("insecure", True),
    "--json": ("as_json", True),
    "--keep-pages": ("drop_pages", False),
    "--plain-data": ("encrypt_data", False),
    "--until-eof": ("until_eof", True),
}

TRACKER_VARIABLE: Final = "P2PFILL_TRACKER"
"""Of the environment: the tracker, where no flag says it."""

_NUMBER: Final = {int: re.compile(r"[0-9]{1,15}"), float: re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")}


class NodeCall(NamedTuple):
    """What `p2pfill node` is told."""

    config: Path | None
    settings: dict[str, Any]
    until_eof: bool
    as_json: bool


def read_plain(arguments: Sequence[str]) -> NodeCall | None:
    """Return what the arguments of `p2pfill` say, if they are those of `node` and plain; None: typer is to look."""
    if not arguments or arguments[0] != "node":
        return None
    found: dict[str, Any] = {}
    words = iter(arguments[1:])
    for flag in words:
        if flag in SWITCHES:
            name, value = SWITCHES[flag]
        elif (given := _value_of(flag, next(words, ""))) is not None:
            name, value = given
        else:
            return None
        if flag in LISTS:
            found.setdefault(name, []).append(value)
        elif name in found:
            return None
        else:
            found[name] = value
    if "tracker" not in found and (tracker := os.environ.get(TRACKER_VARIABLE)) is not None:
        if not _is_plain(tracker):
            return None
        found["tracker"] = tracker
    config = found.pop("config", None)
    until_eof, as_json = found.pop("until_eof", False), found.pop("as_json", False)
    return NodeCall(None if config is None else Path(config), found, until_eof, as_json)


def _value_of(flag: str, text: str) -> tuple[str, Any] | None:
    """Return the setting that a flag with a value means, and the value; None where that is not plain."""
    if not _is_plain(text):
        return None
    if (name := TEXTS.get(flag) or LISTS.get(flag)) is not None:
        return name, text
    if (number := NUMBERS.get(flag)) is not None and _NUMBER[number[1]].fullmatch(text):
        return number[0], number[1](text)
    return None


def _is_plain(text: str) -> bool:
    return bool(text) and not text.startswith("-") and text.isprintable() and text == text.strip()
