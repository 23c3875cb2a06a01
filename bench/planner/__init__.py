"""How good the planner's forecasts are: day by day, without a look ahead, beside what caches do on their own.

`rolling` takes contenders through the days, `contenders` are those that plan, `policies` are caches that react to
requests (libcachesim), `movielens` and `netflix` read what people have watched, `verdict` holds the figures against
what is to be reached, `report` and `plot` say what came of it.

`lab` lets a plan be filled by real nodes, and counts what crosses borders the next day beside pull-through caches.
"""
