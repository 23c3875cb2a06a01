"""A night in the lab: caches with fill windows in several time zones, watched by the counters of their interfaces.

The lab, its processes and how a fleet is started are those of `bench.swarm`; here is what is of a night. `topology`
says what is to happen, `watch` runs it, `records` is what is kept, `verdict` what it shows, and `report` and `plot`
show it.
"""
