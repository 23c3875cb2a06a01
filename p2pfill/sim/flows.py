"""Bandwidth as fluid: each transfer is a flow through a few pipes, and pipes share their rate among their flows.

Two models of sharing, with the same calls:

- `ExactNetwork`: max-min fair (progressive filling; Bertsekas and Gallager, "Data Networks", 6.5.2) over all flows,
  worked out anew when one begins or ends. A flow of twice the weight gets twice as much of a pipe that they share. What
  TCP comes near to over equal round trips. Costs pipes x flows a change: for labs, up to some hundred flows.
- `LocalNetwork`: each pipe works out by itself what it can offer to each of its flows, and a flow takes the least of
  its offers. What a change frees in pipes further off is noticed when those change next, which at thousands of changes
  a second is soon. Knows no weights. Costs the flows of a few pipes a change, whatever the fleet's size.

Invariant of both: the rates of a pipe's flows never sum up to more than the pipe's. Changes of one moment are worked
out together, at its end: a source that ends one chunk and begins the next disturbs nobody.

Left out: slow start, loss, and queues that build up (a delay stands for them, see `Pipe.is_full`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from p2pfill.sim.schedule import Schedule

EPSILON_BYTES: Final = 1e-3
"""What rounding may leave of a flow that is through."""

FULL: Final = 0.98
"""A pipe counts as full from this part of its rate on: the rest is what staleness and rounding leave."""

TRICKLE: Final = 1e-6
"""The part of its fair share that a flow gets at least, so that rounding can never stop one for good."""


class Pipe:
    """One direction of one link."""

    __slots__ = ("flows", "level", "name", "rate", "used")

    def __init__(self, name: str, rate: float) -> None:
        self.name = name
        self.rate = rate
        """Bytes per second."""
        self.flows: dict[int, Flow] = {}
        self.used = 0.0
        """The sum of its flows' rates."""
        self.level = rate
        """What it offers to each flow that could use it."""

    @property
    def is_full(self) -> bool:
        """Whether all of its rate is used, so that packets queue before it."""
        return self.used >= FULL * self.rate


class Flow:
    """One transfer under way."""

    __slots__ = ("arguments", "done", "due_at", "left_bytes", "number", "pipes", "rate", "size", "updated_at", "weight")

    def __init__(
        self,
        number: int,
        pipes: tuple[Pipe, ...],
        size: float,
        weight: float,
        now: float,
        done: Callable[..., None],
        arguments: tuple[Any, ...],
    ) -> None:
        self.number = number
        self.weight = weight
        self.pipes = pipes
        self.size = size
        self.left_bytes = size
        self.rate = 0.0
        self.updated_at = now
        self.due_at = float("inf")
        """The earliest moment for which the schedule will look at this flow."""
        self.done: Callable[..., None] | None = done
        self.arguments = arguments

    def end(self) -> tuple[Any, ...]:
        """Note that it is over; return the arguments of `done`, which may know it: a circle is freed late, or never."""
        arguments, self.arguments, self.done = self.arguments, (), None
        return arguments

    @property
    def is_paused(self) -> bool:
        """Whether it is under way, but out of its pipes."""
        return self.done is not None and self.number not in self.pipes[0].flows


class Network:
    """What both models share: flows that begin, end, and move on between changes of their rates."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._numbers = 0
        self._changed: dict[Pipe, None] = {}
        self._are_pairs = True
        """All flows so far have gone through two pipes, as they do where no ISP's uplink has a limit."""

    def start(
        self, pipes: tuple[Pipe, ...], size: float, done: Callable[..., None], *arguments: Any, weight: float = 1.0
    ) -> Flow:
        """Begin to move `size` bytes through all of `pipes` (at least one); then `done(*arguments)` is called.

        Of a pipe that it shares it gets as much as others, times its `weight` above 0.
        """
        self._numbers += 1
        if len(pipes) != 2:
            self._are_pairs = False
        flow = Flow(self._numbers, pipes, size, weight, self._schedule.now, done, arguments)
        self._enter(flow)
        return flow

    def stop(self, flow: Flow) -> float:
        """End a flow before it is through; return the bytes that it has moved."""
        if flow.done is not None:
            self.pause(flow)
            flow.end()
        return flow.size - flow.left_bytes

    def pause(self, flow: Flow) -> None:
        """Take a flow out of its pipes until `resume`; what it has moved stays moved."""
        if flow.done is not None and not flow.is_paused:
            self._settle(flow)
            self._leave(flow)

    def resume(self, flow: Flow) -> None:
        """Let a paused flow go on."""
        if flow.is_paused:
            self._enter(flow)

    def set_rate(self, pipe: Pipe, rate: float) -> None:
        """Change what a pipe carries, in bytes per second."""
        pipe.rate = rate
        self._note(pipe)

    def moved_bytes(self, flow: Flow) -> float:
        """Return the bytes that a flow has moved by now."""
        self._settle(flow)
        return flow.size - flow.left_bytes

    def _share(self) -> None:
        """Give the flows of the pipes in `_changed` their rates."""
        raise NotImplementedError

    def _enter(self, flow: Flow) -> None:
        flow.updated_at = self._schedule.now
        self._note(*flow.pipes)
        for pipe in flow.pipes:
            pipe.flows[flow.number] = flow

    def _leave(self, flow: Flow) -> None:
        number, rate = flow.number, flow.rate
        self._note(*flow.pipes)
        for pipe in flow.pipes:
            del pipe.flows[number]
            pipe.used -= rate
        flow.rate = 0.0

    def _note(self, *pipes: Pipe) -> None:
        changed = self._changed
        if not changed:
            self._schedule.last(self._share)
        for pipe in pipes:
            changed[pipe] = None

    def _settle(self, flow: Flow) -> None:
        now = self._schedule.now
        left_bytes = flow.left_bytes - flow.rate * (now - flow.updated_at)
        flow.left_bytes = left_bytes if left_bytes > 0.0 else 0.0
        flow.updated_at = now

    def _set_flow_rate(self, flow: Flow, rate: float) -> None:
        now = self._schedule.now
        left_bytes = flow.left_bytes - flow.rate * (now - flow.updated_at)
        flow.left_bytes = left_bytes = left_bytes if left_bytes > 0.0 else 0.0
        flow.updated_at = now
        more = rate - flow.rate
        for pipe in flow.pipes:
            pipe.used += more
        flow.rate = rate
        if rate > 0.0:
            due_at = now + left_bytes / rate
            # Where it became later, the look that is already entered enters the next one.
            if due_at < flow.due_at:
                flow.due_at = due_at
                self._schedule.at(due_at, self._look, flow, due_at)

    def _look(self, flow: Flow, due_at: float) -> None:
        if flow.due_at != due_at:
            return
        flow.due_at = float("inf")
        if flow.done is None or not flow.rate:
            return
        self._settle(flow)
        if flow.left_bytes <= EPSILON_BYTES:
            done, arguments, flow.left_bytes = flow.done, flow.end(), 0.0
            self._leave(flow)
            done(*arguments)
        else:
            now = self._schedule.now
            flow.due_at = max(now + flow.left_bytes / flow.rate, now + 1e-9)
            self._schedule.at(flow.due_at, self._look, flow, flow.due_at)


class ExactNetwork(Network):
    """Max-min fair sharing over everything."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(schedule)
        self._pipes: dict[Pipe, None] = {}

    def _share(self) -> None:
        self._pipes.update(self._changed)
        self._changed.clear()
        self._pipes = {pipe: None for pipe in self._pipes if pipe.flows}
        # What a pipe has left, the weights that wait for a share of it, and how many flows they are: of a sum of floats
        # a little may be left when all have theirs.
        left = {
            pipe: [pipe.rate, sum([flow.weight for flow in pipe.flows.values()]), len(pipe.flows)]
            for pipe in self._pipes
        }
        rates: dict[int, float] = {}
        while left:
            pipe = min(left, key=lambda one: left[one][0] / left[one][1])
            room, weights, _ = left[pipe]
            # Never nothing: taking shares from one another, rounding may have eaten the last of a pipe's room.
            level = pipe.level = max(room / weights, TRICKLE * pipe.rate / len(pipe.flows))
            for flow in pipe.flows.values():
                if flow.number in rates:
                    continue
                rate = rates[flow.number] = level * flow.weight
                for other in flow.pipes:
                    share = left[other]
                    share[0] -= rate
                    share[1] -= flow.weight
                    share[2] -= 1
            left = {one: share for one, share in left.items() if share[2]}
        for pipe in self._pipes:
            for number, flow in pipe.flows.items():
                if flow.pipes[0] is pipe and flow.rate != rates[number]:
                    self._set_flow_rate(flow, rates[number])


class LocalNetwork(Network):
    """Each pipe shares its rate by itself; see the file's head."""

    def _share(self) -> None:
        changed, self._changed = self._changed, {}
        for pipe in changed:
            self._fill_up(pipe)
        more: dict[int, tuple[Flow, float]] = {}
        # First those that get less: what they free is what the others get.
        for pipe in changed:
            for flow in pipe.flows.values():
                rate = pipe.level
                for other in flow.pipes:
                    level = other.level
                    if level < rate:
                        rate = level
                if rate < flow.rate:
                    self._set_flow_rate(flow, rate)
                elif rate > flow.rate:
                    more[flow.number] = (flow, rate)
        for flow, rate in more.values():
            room = min(pipe.rate - pipe.used for pipe in flow.pipes)
            rate = min(rate, flow.rate + max(room, 0.0)) or TRICKLE * rate
            if rate > flow.rate:
                self._set_flow_rate(flow, rate)

    def _fill_up(self, pipe: Pipe) -> None:
        """Raise the level of all flows together; one that is held to less elsewhere leaves the rest to others."""
        room, count = pipe.rate, len(pipe.flows)
        if not count:
            # The sum of many roundings starts anew.
            pipe.used = 0.0
        if count <= 1:
            pipe.level = room
            return
        if self._are_pairs:
            held = [other.level for flow in pipe.flows.values() for other in flow.pipes if other is not pipe]
        else:
            others = [[other.level for other in flow.pipes if other is not pipe] for flow in pipe.flows.values()]
            held = [min(levels, default=room) for levels in others]
        if min(held) * count >= room:
            pipe.level = room / count
            return
        held.sort()
        for place, limit in enumerate(held):
            if limit * (count - place) >= room:
                pipe.level = room / (count - place)
                return
            room -= limit
        pipe.level = held[-1] + room
