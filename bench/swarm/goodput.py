"""How much payload a TCP stream really carries over a shaped link of the lab, measured with iperf3."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from typing import Final

from bench.swarm.lab import Lab, LabError
from bench.swarm.topology import Host, Topology

SECONDS: Final = 6
WARM_UP_SECONDS: Final = 2
"""Left out: the token bucket is full at first, and congestion control is finding the rate."""

TRIES: Final = 20
TRY_S: Final = 0.1


def measure_goodput(lab: Lab) -> float:
    """Return payload over link rate for one stream between the origin and a cache. Raises `LabError`."""
    if shutil.which("iperf3") is None:
        raise LabError("iperf3 is not installed; on Debian: apt-get install iperf3")
    sender, receiver, rate_mbit = choose_pair(lab.topology)
    with subprocess.Popen(lab.command(receiver.name, ["iperf3", "-s", "-1"]), stdout=subprocess.DEVNULL) as server:
        try:
            options = ["-c", receiver.address, "-t", str(SECONDS), "-O", str(WARM_UP_SECONDS), "--json"]
            for _ in range(TRIES):
                done = subprocess.run(
                    lab.command(sender.name, ["iperf3", *options]), capture_output=True, text=True, check=False
                )
                if not done.returncode:
                    return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6 / rate_mbit
                time.sleep(TRY_S)  # the server may not be listening yet
        finally:
            server.terminate()
    raise LabError(f"iperf3 failed: {(done.stdout or done.stderr)[-300:]}")


def choose_pair(topology: Topology) -> tuple[Host, Host, float]:
    """Return a sender, a receiver, and the narrowest rate in Mbit/s between them. Raises `LabError`."""
    origin = topology.host(topology.origin)
    for cache in topology.caches():
        rates = [origin.up_mbit, cache.down_mbit]
        if cache.isp != origin.isp:
            rates += [topology.uplink(origin.isp), topology.uplink(cache.isp)]
        shaped = [rate for rate in rates if rate]
        if shaped:
            return origin, cache, min(shaped)
    raise LabError("no link of this topology is shaped: there is no goodput to measure")
