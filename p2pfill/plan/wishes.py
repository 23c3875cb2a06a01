"""What the operator says of titles beside what is forecast: pins and exclusions. Pure data."""

from __future__ import annotations

import msgspec


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the operator says of a title: that it is to be held, or not to be held, in some regions."""

    title: str
    regions: tuple[str, ...] = ()
    """Empty: all."""
