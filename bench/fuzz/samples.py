"""What an operator writes, one of each kind."""

from __future__ import annotations

from typing import Final

NODE: Final = """id = "a1"
isp = "isp-a"
data = "/srv/data"
region = "eu"
listen = "127.0.0.1:7400"
advertise = "127.0.0.2:7401"
tracker = "http://127.0.0.1:7070"
weight = 2.5
latitude = 52.5
longitude = 13.4
in_use_command = "/usr/bin/in-use --all 'a b'"
rates = {inbound = "150MiB", outbound = "1G"}
origins_allow = ["https://*.cdn.example", "10.1.0.0/16", "s3://films"]
origin_dir = ["/srv/titles"]
windows = "02:00,1.2G 08:00,off"
[clock]
shows = "2026-11-29T20:00:00"
at = 1.0
[health]
"""

GRANTS: Final = """[[grants]]
who = "user/anna"
may = ["read", "publish", "order"]
titles = "films-*"
to = "isp=64501"
priority_max = 10
bytes_max = "2TB"
"""

FLEET: Final = """[[caches]]
id = "a1"
isp = "isp-a"
hosts = ["10.0.0.11", "A1.example.net", "2001:db8::1"]
[[trackers]]
name = "main"
hosts = ["tracker.example.net"]
[[users]]
name = "anna"
"""

PUBLISHERS: Final = """[[publishers]]
name = "studio-1"
key = "KEY"
[[rules]]
titles = "films-*"
publishers = ["studio-1"]
threshold = 1
rollback = false
"""

PLANNER: Final = """catalogue = "catalogue.csv"
caches = "caches.csv"
logs = ["logs/*.gz"]
windows = "02:00,1.2G 08:00,off"
keep = 7
[placement]
price = 1.5
[[pin]]
title = "a-1"
regions = ["eu"]
"""

ROUTES: Final = """[weights]
as_hop = 2.0
km = 0.01
[[pair]]
cost = 5
receiver = "isp=a"
source = "region=eu"
"""

PRICES: Final = """currency = "EUR"
[[price]]
prefix = "https://cloud.example/"
per_gb = 0.08
per_1000_requests = 0.4
"""

POLICY: Final = """[[caches]]
name = "eu-nights"
selector = "region=eu"
windows = "02:00,1.2G 08:00,off"
rates = "300M"
[[fills]]
name = "films"
titles = "film-*"
hops = ["isp", "region", "all", "origin"]
waits = {region = "30s", all = "2m", origin = "5m"}
[[residency]]
name = "licence"
titles = "film-*"
regions = ["eu", "uk"]
[[budgets]]
name = "cloud"
origins = "https://cloud.example/*"
bytes = "2TB"
"""
