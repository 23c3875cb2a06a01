"""A real nginx on ports of the loopback address; everything that it writes is below one directory."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest
from ports import free_port

START_S: Final = 20.0
_CONFIG: Final = """
daemon off;
master_process off;
worker_processes 1;
pid {run}/nginx.pid;
error_log {run}/error.log info;
events {{ worker_connections 256; }}
http {{
  default_type application/octet-stream;
  log_format brief '$server_port $bytes_sent $request_method $uri $status $connection $body_bytes_sent';
  access_log {run}/access.log brief;
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


class NginxServers:
    """A running nginx with these servers below its `http`, one of them at `port`. It makes the directory `run`."""

    def __init__(self, run: Path, servers: str, port: int) -> None:
        run.mkdir()
        self.run = run
        (run / "nginx.conf").write_text(_CONFIG.format(run=run, servers=servers))
        command = [find_nginx(), "-e", str(run / "error.log"), "-p", str(run), "-c", str(run / "nginx.conf")]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + START_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.01)
        self.stop()
        raise AssertionError("nginx did not start: " + (run / "error.log").read_text())

    def _log(self) -> list[tuple[int, int, list[str]]]:
        """Return port, bytes sent and the rest of each answer that has ended."""
        lines = (line.split(" ", 2) for line in (self.run / "access.log").read_text().splitlines())
        return [(int(port), int(sent), rest.rsplit(" ", 4)) for port, sent, rest in lines]

    def log(self) -> list[list[str]]:
        """Return what was answered as [method, uri, status, connection, body bytes] rows."""
        return [row for _, _, row in self._log()]

    def sent(self, port: int) -> int:
        """Return the bytes that have left by a port, heads included; of answers that have ended."""
        return sum(sent for at, sent, _ in self._log() if at == port)

    def statuses(self, port: int) -> list[int]:
        """Return what was answered at a port."""
        return [int(row[2]) for at, _, row in self._log() if at == port]

    def stop(self) -> None:
        """End it, and wait for that, so that its logs are whole."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


class Nginx(NginxServers):
    """One server: `url` to read from, `root` that it serves, `stop()` to end it early."""

    def __init__(self, run: Path, root: Path, location: str) -> None:
        self.root = root
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        servers = f"server {{ listen 127.0.0.1:{self.port}; root {root}; location / {{ {location} }} }}"
        super().__init__(run, servers, self.port)
