"""What a node says of the origins that it has read from."""

from __future__ import annotations

import msgspec


class OriginReport(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What one node has had of one origin since its process began, for all titles: totals, so that a heartbeat that is
    lost or comes twice changes nothing."""

    id: str
    """The origin's URL without its query."""
    requests: int = 0
    """Sent, redirects that were followed included; those of reads under way count when these end."""
    failed: int = 0
    """Of those, such as brought no answer, a refusal, or less than they promised."""
    bytes_kept: int = 0
    """Payload of chunks that were of use."""
    bytes_wasted: int = 0
    """Payload that arrived in vain: of answers cut short, of chunks that came twice or failed their digests."""
    given_up: int = 0
    """Reads that were hedged: another source was asked for the chunk meanwhile, or had delivered it."""
