"""Every test of a hot operation runs on the native module and on the pure twin, behind the same checked front."""

from types import SimpleNamespace

import pytest

from p2pfill import _native
from p2pfill.hot import _pure_bits, _pure_io, bits, io

TWINS = [
    pytest.param((_native, _native), id="native"),
    pytest.param((_pure_bits, _pure_io), id="pure"),
]


@pytest.fixture(params=TWINS)
def hot(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`hot.bits` and `hot.io` with the twin of the parameter below them."""
    bits_twin, io_twin = request.param
    monkeypatch.setattr(bits, "_twin", bits_twin)
    monkeypatch.setattr(io, "_twin", io_twin)
    return SimpleNamespace(bits=bits, io=io)
