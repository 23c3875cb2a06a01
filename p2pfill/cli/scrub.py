"""`p2pfill scrub`: have caches look whether what they hold is still right, or look at a data directory by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from p2pfill.cli.exits import CommandFailed, ExitCode
from p2pfill.cli.naming import ID_CHARS, ID_PREFIX_MIN, NAMED_MAX
from p2pfill.cli.options import note_timeout, selector_of
from p2pfill.cli.progress import byte_progress
from p2pfill.cli.text import plural, printable, show_seconds
from p2pfill.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from p2pfill.model.ids import TitleId
    from p2pfill.store.store import Store
    from p2pfill.tracker.client import TrackerClient
    from p2pfill.tracker.records import NodeScrub, ScrubStatus

POLL_S: Final = 0.3

FAULTS_SHOWN: Final = 20
"""Of each title; a person acts on the first few, a script reads --json."""


def scrub_fleet(
    title: str, nodes: str, tracker: str, *, wait: bool, timeout_s: float | None, as_json: bool
) -> None:
    """Have caches look at a title. With `wait`, raises `CommandFailed` unless it is whole on all of them."""
    import trio

    note_timeout(timeout_s, wait=wait)
    trio.run(_scrub, title, selector_of(nodes), tracker, wait, timeout_s, as_json)


async def _scrub(
    title: str, selector: str, tracker: str, wait: bool, timeout_s: float | None, as_json: bool
) -> None:
    from p2pfill.cli.calling import call_tracker
    from p2pfill.cli.fill import of_running
    from p2pfill.cli.naming import find_title

    async with call_tracker(tracker) as client:
        status = await of_running(client.post_scrub(await find_title(client, title), selector, nodes_min=1))
        if not status.nodes:
            raise CommandFailed(
                f"no running cache that {selector!r} means holds title {title[:80]!r}; nothing was done", ExitCode.USAGE
            )
        if not as_json:
            print(f"scrub {status.number}: {plural(len(status.nodes), 'cache')}")
        if wait:
            status = await _wait(client, status, timeout_s)
    if as_json:
        print(msgspec.json.encode(status).decode())
    elif wait:
        for node in status.nodes:
            print(_line(node))
    failed = [node for node in status.nodes if node.report is not None and node.report.state == "failed"]
    if failed:
        raise CommandFailed(f"{plural(len(failed), 'cache')} could not look; {_line(failed[0])}")
    if wait and not status.done:
        raise CommandFailed(
            f"not whole everywhere after {show_seconds(timeout_s or 0.0)}; it goes on, see p2pfill explain",
            ExitCode.TIMEOUT,
        )


async def _wait(client: TrackerClient, status: ScrubStatus, timeout_s: float | None) -> ScrubStatus:
    """Return the last status before the time is over, or the first where all is done."""
    import trio

    with trio.move_on_after(float("inf") if timeout_s is None else timeout_s):
        while not status.done:
            await trio.sleep(POLL_S)
            status = await client.scrub(status.number)
    return status


def _line(node: NodeScrub) -> str:
    report = node.report
    if report is None:
        return printable(f"{node.node}: has not begun")
    line = f"{node.node}: {report.state}, {report.checked_chunks} of {plural(report.chunk_count, 'chunk')} looked at"
    if report.bad_chunks or report.lost_files:
        line += f", {report.bad_chunks} bad, {plural(report.lost_files, 'file')} lost"
    if report.altered_files:
        line += f", {plural(report.altered_files, 'file')} of another time or mode put right"
    return printable(line + (f": {report.error}" if report.error else ""))


# ---- a data directory of which no node is running


def scrub_directory(data: Path, title: str, *, as_json: bool) -> None:
    """Look at the titles below a data directory; what is bad is noted there, and the node fetches it anew.

    Raises `CommandFailed` where something is bad, and `StoreError` where a node is running there.
    """
    from p2pfill.store.store import Store

    if not (data / "titles").is_dir():
        raise ConfigError(f"{str(data)!r} is not the data directory of a node")
    with Store.open(data) as store:
        ids = _ids_meant(store, title) if title else store.live_ids()
        if title and not ids:
            raise ConfigError(f"there is no live title {title[:80]!r} in {str(data)!r}")
        found = [_look(store, title_id) for title_id in ids]
    bad = [one for one in found if one["bad"] or one["missing"] or one["error"]]
    if as_json:
        print(json.dumps({"ok": not bad, "titles": found}))
    else:
        for one in found:
            _show(one)
    if bad:
        raise CommandFailed(
            f"{len(bad)} of {plural(len(found), 'title')} in {str(data)!r} have bad chunks; a node that is started "
            "there serves the rest and fetches them anew"
        )


def _ids_meant(store: Store, text: str) -> list[TitleId]:
    """Return all versions of a name that are live here, or the title whose id starts so. Raises `ConfigError`."""
    live, titles = store.live_ids(), store.titles()
    named = [one for one in live if one in titles and titles[one].name == text]
    if named or len(text) < ID_PREFIX_MIN:
        return named
    found = [one for one in live if one.hex().startswith(text.lower())]
    if len(found) > 1:
        ids = ", ".join(one.hex()[:ID_CHARS] for one in found[:NAMED_MAX])
        raise ConfigError(f"{len(found)} titles have ids that start with {text[:80]!r}: {ids}")
    return found


def _look(store: Store, title_id: TitleId) -> dict[str, object]:
    """Look at one title and note what is bad; return that for people and scripts."""
    from p2pfill.store.scrub import FreshLook

    said: dict[str, object] = {"title": title_id.hex(), "name": "", "error": ""}
    said |= {"bad": [], "missing": [], "altered": []}
    try:
        stored = store.open_title(title_id)
        manifest = stored.manifest
        said["name"] = manifest.name
        with FreshLook(stored) as look, byte_progress(f"Reading {manifest.name[:40]}") as progress:
            look.show_again()
            said["altered"] = look.altered
            lost, bad, done = look.lost_files(), [], 0
            whole = sum(map(manifest.chunk_length, stored.wanted.indexes()))
            for chunk in stored.wanted.indexes():
                if not look.is_good(chunk):
                    bad.append(chunk)
                done += manifest.chunk_length(chunk)
                progress(done, whole)
        if bad or lost:
            store.lose(stored, bad, lost)
        said["bad"] = list(stored.wanted.and_not(stored.have).indexes())
        said["missing"] = [manifest.files.path(index) for index in sorted(stored.lost_files)]
        said["chunks"] = stored.wanted.count()
    except StoreError as error:
        said["error"] = str(error)
    return said


def _show(said: dict[str, object]) -> None:
    name = said["name"] or said["title"]
    bad, missing, altered = said["bad"], said["missing"], said["altered"]
    if not (isinstance(bad, list) and isinstance(missing, list) and isinstance(altered, list)) or said["error"]:
        print(printable(f"{name}: {said['error']}"))
        return
    verdict = f"{len(bad)} bad" if bad else "all good"
    print(printable(f"{name}: {said['chunks']} chunks, {verdict}"))
    for path in missing[:FAULTS_SHOWN]:
        print(printable(f"  lost: {path}"))
    for path in altered[:FAULTS_SHOWN]:
        print(printable(f"  of another time or mode, put right: {path}"))
    if bad:
        more = " …" if len(bad) > FAULTS_SHOWN else ""
        print(f"  bad chunks: {', '.join(map(str, bad[:FAULTS_SHOWN]))}{more}")
