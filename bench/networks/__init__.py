"""Bad networks between real processes: what a fill makes of them, and how long it takes once they are well again.

`proxy.py` stands in the way of connections, `partition.py` cuts a lab of namespaces, and `sources.py` has a third of
the sources send wrong bytes.
"""
