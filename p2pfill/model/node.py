"""Who is in the fleet: nodes, where they stand, and how far a byte from each of them travels."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import msgspec

from p2pfill.model.ids import NodeId


class Tier(IntEnum):
    """How far a source is. The lower, the nearer; a fill goes outward only as its policy allows."""

    PEER = 0
    """Another cache of the same ISP."""
    REGIONAL = 1
    """A cache of another ISP, a regional cache among them."""
    ORIGIN = 2
    """The cloud origin."""


SERVES_ISP: Final = "isp"
"""What `NodeInfo.serves` says of a cache that serves its own ISP alone."""


class NodeInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What the fleet knows of a node without asking it. Immutable while the node runs."""

    id: NodeId
    isp: str
    """The network (by name or ASN) whose border is the one to spare."""
    region: str
    cluster: str = ""
    """A site inside the ISP. A label for selectors; tier order looks at `isp` and `region`."""
    host: str = ""
    """The address on which other nodes reach this one."""
    port: int = 0
    weight: float = 1.0
    """Upload capacity relative to other caches; its share of the work at borders follows it."""
    latitude: float | None = None
    """Degrees north; None, as the next one, where nobody has said."""
    longitude: float | None = None
    """Degrees east."""
    serves: str = ""
    """Whom it gives chunks to: "isp" for caches of its own ISP alone, "" for all. It takes them from all."""

    @property
    def is_inward(self) -> bool:
        """Tell whether it serves its own ISP alone."""
        return self.serves == SERVES_ISP

    def may_serve(self, isp: str) -> bool:
        """Tell whether it gives chunks to caches of an ISP."""
        return not self.is_inward or isp == self.isp

    @property
    def place(self) -> tuple[float, float] | None:
        """Where it stands on the Earth, if that is known."""
        return None if self.latitude is None or self.longitude is None else (self.latitude, self.longitude)


def tier_between(receiver: NodeInfo, source: NodeInfo) -> Tier:
    """Return the tier at which `receiver` sees the cache `source`."""
    return Tier.PEER if receiver.isp == source.isp else Tier.REGIONAL
