"""nginx as operators run it: a real one with any servers, whose logs say what has left it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

_CONFIG: Final = """
daemon off;
worker_processes 1;
pid {run}/nginx.pid;
error_log {run}/error.log info;
events {{ worker_connections 256; }}
http {{
  default_type application/octet-stream;
  log_format sent '$server_port $status $bytes_sent';
  access_log {run}/access.log sent;
  sendfile on;
  client_body_temp_path {run}/body;
  proxy_temp_path {run}/proxy;
  fastcgi_temp_path {run}/fastcgi;
  uwsgi_temp_path {run}/uwsgi;
  scgi_temp_path {run}/scgi;
  {servers}
}}
"""


def find_nginx() -> str:
    """Return where nginx is; without it the test is skipped, and fails where it must be there."""
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail("nginx is not installed; on Debian: apt-get install nginx-light")
        pytest.skip("nginx is not installed")
    return binary


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback address on which nobody listens."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


class NginxServers:
    """A running nginx with these servers below its `http`."""

    def __init__(self, run: Path, servers: str, port: int) -> None:
        run.mkdir()
        # Its workers are of another user where it runs as root.
        run.chmod(0o777)
        self.run = run
        (run / "nginx.conf").write_text(_CONFIG.format(run=run, servers=servers))
        command = [find_nginx(), "-e", str(run / "error.log"), "-p", str(run), "-c", str(run / "nginx.conf")]
        command += ["-g", "user root;"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.02)
        self.stop()
        raise AssertionError("nginx did not start: " + (run / "error.log").read_text())

    def sent(self, port: int) -> int:
        """Return the bytes that have left by a port, heads included; of answers that have ended."""
        lines = (line.split() for line in (self.run / "access.log").read_text().splitlines())
        return sum(int(count) for at, _, count in lines if int(at) == port)

    def statuses(self, port: int) -> list[int]:
        """Return what was answered at a port."""
        lines = (line.split() for line in (self.run / "access.log").read_text().splitlines())
        return [int(status) for at, status, _ in lines if int(at) == port]

    def stop(self) -> None:
        """End it, and wait for that, so that its logs are whole."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
