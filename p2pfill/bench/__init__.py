"""The benchmark harness: p2pfill as shipped beside other programs, on the machine that you have.

It starts real processes, measures them from outside with one instrument for all (`measure`), and makes a report that
holds every run; tables, pages and plots are drawn from the report alone. Nothing here is a fast path: contenders are
the programs as they are installed, and nodes run with their default settings.
"""
