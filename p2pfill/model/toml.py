"""Reading TOML of which nothing is known. Pure.

The standard library's reader raises more than it says: for an integer of some thousand digits a plain `ValueError`, and
for arrays in arrays of arrays a `RecursionError`. Who reads a file wants one error to catch, so all go through here.
"""

from __future__ import annotations

import tomllib
from typing import Any

from p2pfill.errors import ConfigError


def read_toml(text: str) -> dict[str, Any]:
    """Return the document that `text` is. Raises `ConfigError` that says why it is none, without naming it."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(error)) from error
    except ValueError as error:
        raise ConfigError(f"a number has more digits than can be read ({error})") from error
    except RecursionError as error:
        raise ConfigError("it is nested too deeply") from error
