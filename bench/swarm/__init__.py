"""Whole fills on a small Internet of network namespaces: p2pfill beside libtorrent, both against the best possible.

From the ground up: `topology`, `bounds` and `records` (pure), `lab` (namespaces, shaped links, counters), `processes`,
`contender` (what a contender is) with `p2pfill_fleet` and `libtorrent_fleet`, `measure` (one run), `summary` (medians
and ratios, pure), `report` and `plots`. docs/swarm-benchmark.md says how to use it.
"""
