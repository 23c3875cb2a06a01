"""What holds for all tests, and the servers that tests of several folders read from.

The machine that runs them is shared, so an example of a property may take any time.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from origin.nginx import Nginx, find_nginx
from origin.servers import Answer, RawServer

# Over the profile that is set already: in CI, Hypothesis chooses one whose examples are the same each time.
_ANY_TIME = {HealthCheck.too_slow, *settings().suppress_health_check}
settings.register_profile("shared machine", settings(), deadline=None, suppress_health_check=_ANY_TIME)
settings.load_profile("shared machine")


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """What hostile names leave in a report, as surrogates in a log, cannot leave a worker of pytest-xdist as it is."""
    return _encodable((yield))


def _encodable(said: Any) -> Any:
    match said:
        case str():
            return said.encode(errors="backslashreplace").decode()
        case dict():
            return {_encodable(key): _encodable(value) for key, value in said.items()}
        case list() | tuple():
            return type(said)(map(_encodable, said))
    return said


@pytest.fixture
def start() -> Iterator[Callable[..., RawServer]]:
    """Return `start(answer, context=None) -> RawServer`; all are stopped at the end of the test."""
    running: list[RawServer] = []

    def begin(answer: Answer, context: ssl.SSLContext | None = None) -> RawServer:
        running.append(RawServer(answer, context))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Return `start(root, location="") -> Nginx`; all are stopped at the end of the test."""
    find_nginx()
    running: list[Nginx] = []

    def begin(root: Path, location: str = "") -> Nginx:
        running.append(Nginx(tmp_path / f"nginx{len(running)}", root, location))
        return running[-1]

    yield begin
    for one in running:
        one.stop()
