"""Origins in the costumes of real servers and proxies, to the byte: what a test says is what goes over the socket."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field


@dataclass
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def span(self) -> tuple[int, int] | None:
        """The range that it asks for, as start and stop."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        return (int(found[1]), int(found[2]) + 1) if found else None


Answer = Callable[[Request, socket.socket], object]
"""Sends an answer; the connection goes on where it returns True, and is closed otherwise."""


class RawServer:
    """Serves with `answer`, in a thread for each connection. `seen` are the requests."""

    def __init__(self, answer: Answer, context: ssl.SSLContext | None = None) -> None:
        self.seen: list[Request] = []
        self.lock = threading.Lock()
        self._answer = answer
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'http' if context is None else 'https'}://127.0.0.1:{self.port}"
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        """Take no more connections, and end those that are open."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self.lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self.lock:
                self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(60)
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            while (request := read_request(connection)) is not None:
                with self.lock:
                    self.seen.append(request)
                if self._answer(request, connection) is not True:
                    break
            # A close with unread bytes would be a reset, which may overtake the answer.
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            connection.close()


def read_request(connection: socket.socket) -> Request | None:
    """Return the next request; None at the end."""
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            return None
        head += piece
    first, *lines = head.decode("latin-1").split("\r\n\r\n")[0].split("\r\n")
    method, target, _ = first.split(" ")
    return Request(method, target, {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines})


def head(status: int, **headers: object) -> bytes:
    """Return the head of an answer; underscores in names of headers are hyphens."""
    lines = [f"HTTP/1.1 {status} Said", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def part_of(data: bytes, request: Request) -> tuple[bytes, int, dict[str, object]]:
    """Return what a server with Range sends of `data`: the bytes, the status, and the headers that say which."""
    span = request.span
    if span is None:
        return data, 200, {}
    part = data[slice(*span)]
    return part, 206, {"Content_Range": f"bytes {span[0]}-{span[0] + len(part) - 1}/{len(data)}"}


def serve(data: bytes) -> Answer:
    """Return a server as it should be."""

    def answer(request: Request, connection: socket.socket) -> bool:
        part, status, headers = part_of(data, request)
        connection.sendall(head(status, Content_Length=len(part), **headers) + part)
        return True

    return answer


def chunked(data: bytes, piece: int = 5000, *, ranges: bool = True) -> Answer:
    """Return a server that says no length: Transfer-Encoding: chunked."""

    def answer(request: Request, connection: socket.socket) -> bool:
        part, status, headers = part_of(data, request) if ranges else (data, 200, {})
        connection.sendall(head(status, Transfer_Encoding="chunked", **headers))
        for at in range(0, len(part), piece):
            some = part[at : at + piece]
            connection.sendall(b"%x\r\n%s\r\n" % (len(some), some))
        connection.sendall(b"0\r\n\r\n")
        return True

    return answer


def ended_by_close(data: bytes) -> Answer:
    """Return a server of HTTP/1.0 manner: the close ends the body."""

    def answer(request: Request, connection: socket.socket) -> bool:
        part, status, headers = part_of(data, request)
        connection.sendall(head(status, Connection="close", **headers) + part)
        return False

    return answer


def without_range(data: bytes) -> Answer:
    """Return a server that answers each range with the whole file."""

    def answer(request: Request, connection: socket.socket) -> bool:
        connection.sendall(head(200, Content_Length=len(data)) + data)
        return True

    return answer
