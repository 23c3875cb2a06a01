"""Proposed fill windows as rules of the fleet's policy, for `p2pfill policy apply`. Pure.

The first rule for caches that fits counts, whole, so planned ones stand before those that people wrote: as a block with
marks, which the next plan replaces. All else in the policy stays as it is written, with its comments. A limit of rates
that an operator's rule has does not reach the caches of a planned one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import numpy as np

from p2pfill.errors import ConfigError
from p2pfill.model.fleet_policy import RULES_MAX, parse_policy
from p2pfill.model.ids import node_id_from_text
from p2pfill.model.selector import SELECTOR_CHARS_MAX
from p2pfill.plan.hours.windows import RATE_DIGITS, RATE_MIN, Proposal, round_down, spell_mebibytes

MARK: Final = "# ---- planned windows: written by `p2pfill plan windows`, and replaced by it"
MARK_END: Final = "# ---- end of planned windows"

NAME: Final = "planned-{}"

_LABEL: Final = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
"""What can stand in a selector as it is."""


def as_policy(proposals: Sequence[Proposal], base: str = "") -> str:
    """Return a policy of the fleet in TOML: `base`, with the windows that are proposed before its rules for caches.

    Caches with equal windows share a rule; a rule names a cluster where all of it is in the rule, and else caches.
    Those without a window have none and go by what stands already. Where there would be more rules than a policy may
    have, rates are rounded down further. Windows of an earlier plan in `base` are replaced. Raises `ConfigError` where
    nothing is proposed, a name can stand in no selector, or the policy could not be used.
    """
    kept = without_plan(base)
    taken = len(parse_policy(kept).caches)
    if not any(proposal.line for proposal in proposals):
        raise ConfigError("no cache has a window: there is nothing to write")
    rules: list[tuple[str, str]] = []
    for digits in (RATE_DIGITS, 2, 1, 0):
        rules = _rules(proposals, digits)
        if len(rules) + taken <= RULES_MAX:
            break
    else:
        raise ConfigError(f"{len(rules)} rules for caches would be needed: a policy has at most {RULES_MAX}")
    parts = [MARK]
    for number, (selector, line) in enumerate(rules, 1):
        parts.append(
            f"[[caches]]\nname = {json.dumps(NAME.format(number))}\nselector = {json.dumps(selector)}\n"
            f"windows = {json.dumps(line)}\n"
        )
    text = "\n".join([*parts, f"{MARK_END}\n{kept}"])
    parse_policy(text)
    return text


def without_plan(base: str) -> str:
    """Return what people wrote in a policy. Raises `ConfigError` where planned rules have no end."""
    head, mark, rest = base.partition(MARK)
    if not mark:
        return base
    _, end, tail = rest.partition(f"{MARK_END}\n")
    if not end:
        raise ConfigError(f"the policy has {MARK!r} in it, and no {MARK_END!r} after it")
    return head + tail


def _rules(proposals: Sequence[Proposal], digits: int) -> list[tuple[str, str]]:
    """Return selector and timetable of each rule."""
    groups: dict[str, list[Proposal]] = {}
    everywhere: dict[tuple[str, str], int] = {}
    for proposal in proposals:
        if proposal.line:
            groups.setdefault(_coarser(proposal.line, digits), []).append(proposal)
        place = proposal.isp, proposal.cluster
        everywhere[place] = everywhere.get(place, 0) + 1
    return [(selector, line) for line, group in groups.items() for selector in _selectors(group, everywhere)]


def _coarser(line: str, digits: int) -> str:
    """Return a timetable with its rates rounded down to so many digits; with 0 digits, to powers of two."""

    def coarse(found: re.Match[str]) -> str:
        rate = int(found[1])
        if not digits:
            return f",{1 << rate.bit_length() - 1}M"
        rounded = round_down(np.array([rate * RATE_MIN], np.float64), digits)
        return f",{spell_mebibytes(int(rounded[0]))}"

    return re.sub(r",(\d+)M", coarse, line)


def _selectors(group: Sequence[Proposal], everywhere: dict[tuple[str, str], int]) -> list[str]:
    """Return selectors that mean these caches together, as few as their length allows."""
    here: dict[tuple[str, str], list[str]] = {}
    for proposal in group:
        here.setdefault((proposal.isp, proposal.cluster), []).append(node_id_from_text(proposal.cache))
    clauses: list[str] = []
    for place, names in here.items():
        isp, cluster = place
        can_stand = bool(_LABEL.fullmatch(isp) and _LABEL.fullmatch(cluster))
        if can_stand and len(names) > 1 and len(names) == everywhere[place]:
            clauses.append(f"isp={isp}+cluster={cluster}")
        else:
            clauses += [f"id={name}" for name in names]
    ends, length = [0], 0
    for number, clause in enumerate(clauses):
        length += len(clause) + 1
        if length > SELECTOR_CHARS_MAX:
            ends.append(number)
            length = len(clause) + 1
    return [",".join(clauses[start:end]) for start, end in pairwise([*ends, len(clauses)])]
