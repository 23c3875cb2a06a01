"""One target in this process, under atheris: `python -m bench.fuzz.worker SPEC FLAG...`, started by `bench.fuzz`.

SPEC is a `Spec` as JSON; the flags are libFuzzer's. That ends the process by itself, without a way back, so what is to
be known of it is written into a file from time to time.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Final

import msgspec

if TYPE_CHECKING:
    from bench.fuzz.target import Run, Target

NOTE_EVERY: Final = 1024
"""Inputs between two looks at whether something is to be noted."""
NOTE_S: Final = 0.5

WARM_PART: Final = 0.1
"""Memory at the beginning is that after this part of all inputs: what is made once has been made by then."""

BY_PARTS: Final = 0.7
"""Of the changes, where a form is known; the others are libFuzzer's own."""

ON_TOP: Final = 0.6
"""How often what is changed is what libFuzzer has chosen, and not one of the inputs to begin with: of those it forgets
all that reach nothing new, as messages do that only a decoder in C tells apart."""


class Spec(msgspec.Struct, frozen=True):
    """What a worker is to do."""

    target: str
    module: str
    """Where it is."""
    code: list[str]
    """What is instrumented."""
    work: str
    """A directory of its own."""
    notes: str
    """The file for `Notes`."""
    runs: int
    seed: int


class Notes(msgspec.Struct):
    """What has come of it so far."""

    runs: int = 0
    taken: int = 0
    """Inputs that were no error."""
    began_bytes: int = 0
    """Resident memory once it is warm, and now."""
    ended_bytes: int = 0
    processor_s: float = 0.0


class Worker:
    """Runs inputs, and counts."""

    def __init__(self, spec: Spec, target: Target) -> None:
        work = Path(spec.work)
        self._target = target
        self._notes = Notes()
        self._file = os.open(spec.notes, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self._runs = spec.runs
        self._warm_at = max(NOTE_EVERY, int(spec.runs * WARM_PART) // NOTE_EVERY * NOTE_EVERY)
        self._noted_at = time.monotonic()
        self._before: list[bytes] = []
        """Inputs that what is run next may depend on."""
        self._broken = Path(spec.notes)
        (work / "state").mkdir()
        self._run: Run = target.open(work / "state")

    def run(self, data: bytes) -> None:
        """Run one input."""
        notes = self._notes
        if self._target.per_state:
            self._remember(data)
        notes.runs += 1
        notes.taken += bool(self._run(data))
        if not notes.runs % NOTE_EVERY or notes.runs == self._runs:
            self._look()

    def _remember(self, data: bytes) -> None:
        """Keep what a state has taken, on disk too: what breaks it ends this process."""
        if len(self._before) >= 2 * self._target.per_state:
            del self._before[: self._target.per_state]
        self._before.append(data)

    def keep(self, data: bytes) -> None:
        """Write down an input that has broken something, with all that the state had taken before."""
        if self._before:
            self._broken.with_suffix(".history").write_bytes(msgspec.msgpack.encode(self._before))
        else:
            self._broken.with_suffix(".input").write_bytes(data)

    def _look(self) -> None:
        notes, now = self._notes, time.monotonic()
        if notes.runs == self._warm_at or not notes.began_bytes:
            notes.began_bytes = _resident_bytes()
        elif now < self._noted_at + NOTE_S and notes.runs != self._runs:
            return
        self._noted_at = now
        notes.ended_bytes, notes.processor_s = _resident_bytes(), time.process_time()
        os.pwrite(self._file, msgspec.json.encode(notes).ljust(256), 0)


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Run atheris."""
    import atheris

    spec = msgspec.json.decode(sys.argv[1], type=Spec)
    with atheris.instrument_imports(include=spec.code, enable_loader_override=False):
        area = importlib.import_module(spec.module)
    from bench.fuzz import mutation

    (target,) = (one for one in area.TARGETS if one.name == spec.target)
    worker = Worker(spec, target)

    def run(data: bytes) -> None:
        try:
            worker.run(data)
        except BaseException:
            worker.keep(data)
            raise

    random, inputs = Random(spec.seed), target.inputs()

    def change(data: bytes, size_max: int, _seed: int) -> Any:
        if random.random() < BY_PARTS:
            base = data if random.random() < ON_TOP else random.choice(inputs)
            found = mutation.changed(base, target.form, random, target.words)
            if found is not None and len(found) <= size_max:
                return found
        return atheris.Mutate(data, size_max)

    changing = {} if target.form == "bytes" else {"custom_mutator": change}
    atheris.Setup([sys.argv[0], *sys.argv[2:]], run, internal_libfuzzer=True, **changing)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
