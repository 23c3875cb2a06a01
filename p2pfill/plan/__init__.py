"""What will be watched where, what should lie where tonight, and whether that fits.

Viewing logs become tables (`history`), these a forecast for each file and region (`popularity`) and for each hour of
each cache (`hours`). Of both, and of what the caches hold, a placement is made (`placement`), and it is proved before
the windows open that the network carries it (`feasibility`). Needs the extra `planner`.

All but `history` is pure: tables in, tables out (`tables`), with the same result for the same seed.
"""
