"""A node with hundreds of links and a thousand titles that come and go, watched for what grows.

`fleet.py` runs it: a real tracker and a real node (`watched.py`, which are `p2pfill tracker` and `p2pfill node` with
samples taken inside), and light caches in other processes (`crowd.py`, `peer.py`). `flatness.py` judges the samples.
"""
