"""Whether a node is reached where it tells others to reach it: it calls itself there, and looks who answers.

A wrong `advertise` is silent else: each other cache merely fails to link with this one. What is found is no proof for
others. A node behind address translation may not reach its own public address though they do, so a cache that has
linked from outside, which has used that address, ends the worry, and until then nothing is done but to say it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import trio
from trio.abc import Stream

from p2pfill.errors import P2PFillError, leaves_of
from p2pfill.model.reports import clipped
from p2pfill.node.boundary import ErrorBoundary
from p2pfill.node.links import connect
from p2pfill.protocol.framing import OUR_VERSIONS, encode_preamble
from p2pfill.protocol.link import ControlLink, LinkState
from p2pfill.protocol.messages import Goodbye, GoodbyeCode, Hello
from p2pfill.transport.secure import secure

if TYPE_CHECKING:
    from p2pfill.trust.credentials import Credentials

ANSWER_S: Final = 10.0
"""For connecting and for an answer each: as long as others wait."""

AGAIN_S: Final = 60.0
"""Between two tries while it fails: a forwarded port, or an address that moves, may come later than the node."""

READ_BYTES: Final = 4096
"""Several times a Hello; one more than that comes with the next read."""


class Reach:
    """Looks whether one node is reached. Belongs to the event loop."""

    def __init__(
        self, hello: Hello, was_reached: Callable[[], bool], log: logging.Logger, credentials: Credentials | None = None
    ) -> None:
        """`was_reached` tells whether another cache has linked from outside; links need `credentials`, if any."""
        self._hello = hello
        self._credentials = credentials
        self._was_reached = was_reached
        self._log = log
        self._fault = ""

    @property
    def fault(self) -> str:
        """Why nobody may reach this node, for people; empty where somebody does, or it was not looked yet."""
        return "" if self._was_reached() else self._fault

    async def run(self) -> None:
        """Call the own address until it answers, or another cache was there."""
        while True:
            async with ErrorBoundary(self._log, "look whether it is reached at its own address"):
                fault = await look(self._hello, self._credentials)
                if fault and fault != self._fault:
                    self._log.warning("%s; others are told to reach it there: see advertise", fault)
                self._fault = fault
            if not self.fault:
                return
            await trio.sleep(AGAIN_S)


async def look(hello: Hello, credentials: Credentials | None = None) -> str:
    """Return why whoever goes by a node's own Hello does not reach it; empty where it is reached."""
    address = f"[{hello.host}]:{hello.port}" if ":" in hello.host else f"{hello.host}:{hello.port}"
    fault = ""
    try:
        with trio.fail_after(ANSWER_S):
            stream = trio.SocketStream(await connect(hello.host, hello.port))
        async with stream:
            with trio.fail_after(ANSWER_S):
                called: Stream = stream
                if credentials is not None:
                    called = (await secure(stream, credentials, accepting=False)).stream
                answer = await _hello_of(called, hello)
        if answer is None:
            fault = "it hangs up without a word"
        elif (answer.node_id, answer.boot) != (hello.node_id, hello.boot):
            fault = f"cache {answer.node_id} answers there" + (
                ", another process of this id" if answer.node_id == hello.node_id else ""
            )
    except trio.TooSlowError:
        fault = f"no cache answers within {ANSWER_S:g} s"
    except P2PFillError as error:
        fault = f"no cache answers there, but something else ({error})"
    except (OSError, trio.BrokenResourceError) as error:
        # A look-up may give several addresses, all of which were tried: what the last of them says will do.
        last = leaves_of(error.__cause__ or error)[-1]
        number = getattr(last, "errno", None) or 0  # those of a look-up are below 0
        fault = os.strerror(number) if number > 0 else getattr(last, "strerror", None) or str(error)
    return clipped(f"does not reach itself at {address}; {fault}") if fault else ""


async def _hello_of(stream: Stream, ours: Hello) -> Hello | None:
    """Return who answers; None where nobody does. Raises `RemoteProtocolError` where it is no cache.

    It is told no more than that a cache calls, which is enough for it to say who it is.
    """
    link = ControlLink(ours)
    link.start()
    link.poll_output()
    await stream.send_all(encode_preamble(OUR_VERSIONS))
    while data := await stream.receive_some(READ_BYTES):
        for message in link.handle_bytes(data):
            if link.state is LinkState.OPEN:
                link.send(Goodbye(int(GoodbyeCode.NORMAL), "it was only looked who answers"))
                await stream.send_all(link.poll_output())
            return message if isinstance(message, Hello) else None
    return None
