"""Fill that yields to viewers: it leaves them the link, takes what is left, and never stands still."""

from __future__ import annotations

import socket

import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pfill.transport.data import LOWER_EFFORT, PRIORITY_BULK, Sender
from p2pfill.transport.plane import DataPlane
from p2pfill.transport.scavenger import LEAST, USABLE, Scavenger

LINK = 1e8


def play(wants: list[float], looks: int = 60) -> list[tuple[float, float]]:
    """Let viewers want parts of a link, each for some looks; return what they and the fill got at the end of each.

    A link that is full is shared as a queue without priorities does: by what each sends.
    """
    fill, got = Scavenger(LINK), []
    for want in wants:
        for _ in range(looks):
            sent = want * LINK + fill.rate
            scale = min(1.0, LINK / sent)
            others, own = want * LINK * scale, fill.rate * scale
            fill.look(others, own)
        got.append((others / LINK, fill.rate / LINK))
    return got


def test_it_takes_what_viewers_leave_and_gives_it_back() -> None:
    (_, idle), (some, beside), (all_of_it, least), (_, again) = play([0.0, 0.5, 1.0, 0.1])
    assert abs(idle - USABLE) < 0.01
    assert some > 0.495
    assert abs(beside - (USABLE - 0.5)) < 0.01
    assert all_of_it > 0.98
    assert least == LEAST
    assert abs(again - (USABLE - 0.1)) < 0.01


def test_it_gives_way_within_a_second_where_viewers_want_the_whole_link() -> None:
    fill = Scavenger(LINK)
    for _ in range(60):
        fill.look(0.0, fill.rate)
    for _ in range(4):
        fill.look(LINK - fill.rate, fill.rate)
    assert fill.rate < 0.05 * LINK


@given(st.lists(st.tuples(st.floats(0, 3e8), st.floats(0, 3e8)), max_size=60))
def test_whatever_is_counted_it_stays_within_bounds(looks: list[tuple[float, float]]) -> None:
    fill = Scavenger(LINK)
    for others, own in looks:
        assert LEAST * LINK <= fill.look(others, own) <= max(USABLE * LINK - others, LEAST * LINK)


async def test_what_is_sent_lets_others_pass() -> None:
    async with DataPlane(1, 1, yields=True).running() as plane:
        of_ip4 = socket.AF_INET, socket.IPPROTO_IP, socket.IP_TOS
        of_ip6 = socket.AF_INET6, socket.IPPROTO_IPV6, socket.IPV6_TCLASS
        for family, level, option in (of_ip4, of_ip6):
            with trio.socket.socket(family) as sock:
                Sender(sock, plane, lambda: None, lambda: None, lambda header: None)
                assert sock.getsockopt(level, option) == LOWER_EFFORT
                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == PRIORITY_BULK
