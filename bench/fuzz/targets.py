"""All targets."""

from __future__ import annotations

from typing import Final

from bench.fuzz import dialogues, disk, identity, origins, settings, signed, titles, tracker, wire
from bench.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for module in (wire, dialogues, titles, tracker, origins, disk, settings, identity, signed)
    for target in module.TARGETS
}
"""By name."""
