"""Which version of a name a cache shows. Pure; `store.names` does it on disk, and a property test holds both together.

Titles of one name are its versions. The tracker gives each order a number that grows, also one that orders anew what
stands already. A cache shows, of the titles of a name that are live on it and ordered, the one with the highest number.
So an older order that completes later takes nothing over, and an older title that is ordered again does. Where none of
them is ordered any more, what was shown stays.

Rejected: the age of the title, or of its first order, by which there is no way back to an older version; and the time
of completion, by which each cache ends on another version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from p2pfill.model.ids import TitleId


def version_to_show(
    shown: TitleId | None, numbers: Mapping[TitleId, int], live: Iterable[TitleId]
) -> TitleId | None:
    """Return what to show of a name.

    `live` are the titles of that name that are whole on disk, `numbers` those of the orders that stand, of this name
    and of others; `shown` is what is shown now.
    """
    live = list(live)
    ordered = [(numbers[title_id], title_id) for title_id in live if title_id in numbers]
    if ordered:
        return max(ordered)[1]
    return shown if shown in live else None
