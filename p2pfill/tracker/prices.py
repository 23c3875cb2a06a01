"""The file with what origins cost; see `model.prices`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from p2pfill.errors import ConfigError
from p2pfill.model.prices import Prices, check_prices
from p2pfill.model.toml import read_toml


def load_prices(path: Path) -> Prices:
    """Return the prices in a TOML file. Raises `ConfigError`."""
    try:
        return check_prices(msgspec.convert(read_toml(path.read_text(encoding="utf-8-sig")), Prices))
    except OSError as error:
        raise ConfigError(f"cannot read the prices in {path}: {error.strerror}") from error
    except (UnicodeDecodeError, msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(f"cannot use the prices in {path}: {error}") from error
