"""Attacks by hand: list them, run one against a node, or run some in an arena of their own.

    python -m tests.hostile                          list all attacks
    python -m tests.hostile NAME...                  run them against a node started for it, with all checks
    python -m tests.hostile NAME --node HOST:PORT [--title TITLE.fill --content DIRECTORY] [--seconds S]

With --node the node is somebody's: it is attacked for S seconds, and nothing of it is checked. A source needs a title
that the node is filling, and its right bytes; a receiver one that it has.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import trio

from p2pfill.model.manifest import Manifest
from tests.hostile.arena import Arena, run_attack
from tests.hostile.attacks import ATTACKS, Attack, Scene
from tests.hostile.peer import PeerGone
from tests.hostile.titles import Title, made_up


def read_title(fill: Path | None, content: Path | None, scratch: Path) -> Title:
    """Return the title that was named, or one that nobody has."""
    if fill is None:
        return made_up("nothing", 24, scratch / "nothing")
    manifest = Manifest.decode(fill.read_bytes())
    if content is None:
        return Title(manifest, b"", scratch)
    return Title(manifest, b"".join((content / entry.path).read_bytes() for entry in manifest.files), content)


async def attack_node(attack: Attack, scene: Scene, seconds: float) -> None:
    """Attack for so long."""
    with trio.move_on_after(seconds + 5):
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await trio.sleep(seconds)
                scene.over.set()

            nursery.start_soon(end)
            try:
                await attack.run(scene)
            except* PeerGone as group:
                print(f"the node has ended the link: {group.exceptions}")
            nursery.cancel_scope.cancel()
    print("struck" if scene.struck.is_set() else "found nothing to strike at", *scene.complaints, sep="\n")


def main() -> None:
    """Parse, list or run."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="attacks; without any, all are listed")
    parser.add_argument("--node", help="HOST:PORT of a node to attack")
    parser.add_argument("--title", type=Path, help="manifest of the title to attack with --node")
    parser.add_argument("--content", type=Path, help="directory with that title's files")
    parser.add_argument("--honest", default="zz-honest", help="a cache that is linked with the node, for takeover")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--integrity", choices=("blake3", "xxh3"), default="blake3")
    given = parser.parse_args()
    if unknown := [name for name in given.names if name not in ATTACKS]:
        parser.error(f"unknown: {', '.join(unknown)}")
    if not given.names:
        for name, attack in ATTACKS.items():
            print(f"{name:38} {attack.text}")
        return
    with tempfile.TemporaryDirectory() as scratch:
        if given.node:
            host, port = given.node.rsplit(":", 1)
            title = read_title(given.title, given.content, Path(scratch))
            for name in given.names:
                scene = Scene((host, int(port)), title, title, f"zz-{os.getpid()}", given.honest)
                trio.run(attack_node, ATTACKS[name], scene, given.seconds)
            return
        arena = Arena(Path(scratch))
        try:
            for name in given.names:
                outcome = run_attack(arena, ATTACKS[name], given.integrity)
                figures = " ".join(f"{key}={value:.2f}" for key, value in outcome.figures.items())
                print(f"{name}: {'ok' if not outcome.faults else 'FAILS'} {figures}")
                for kind, text in outcome.faults:
                    print(f"    {kind}: {text}")
        finally:
            arena.close()


if __name__ == "__main__":
    main()
