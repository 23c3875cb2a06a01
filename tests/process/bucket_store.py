"""A real S3 server (moto) that checks signatures, and a front for it that fails as a busy store does."""

from __future__ import annotations

import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import boto3
from ports import free_port

BUCKET: Final = "films"
_ALL: Final = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
_READY_S: Final = 60.0
_SERVER: Final = Path(__file__).with_name("moto_server.py")


class BucketStore:
    """moto as a process, with one bucket. `environment` is what tools of the store expect.

    Where `P2PFILL_TEST_S3` has the URL of another store, as of Ceph's radosgw, that one is tested, with the credentials
    that the environment has then.
    """

    def __init__(self, log: Path) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        if url := os.environ.get("P2PFILL_TEST_S3"):
            self.url = url.rstrip("/")
            names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
            self.environment = {name: os.environ.get(name, "us-east-1") for name in names}
            self.environment["AWS_ENDPOINT_URL"] = self.url
            self._make_bucket(self.environment["AWS_ACCESS_KEY_ID"], self.environment["AWS_SECRET_ACCESS_KEY"])
            return
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, str(_SERVER), "-H", "127.0.0.1", "-p", str(port)], stdout=out, stderr=out
            )
        try:
            self._wait_ready()
            self.environment = self._environment()
        except BaseException:
            self.close()
            raise

    def _make_bucket(self, key: str, secret: str) -> None:
        client = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret
        )
        if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=BUCKET)

    def _wait_ready(self) -> None:
        until = time.monotonic() + _READY_S
        while True:
            assert self._process is not None
            assert self._process.poll() is None, "moto has ended"
            try:
                urllib.request.urlopen(self.url + "/moto-api/", timeout=5).close()
                return
            except OSError:
                assert time.monotonic() < until, "moto does not answer"
                time.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        """Make a user, and have moto check signatures from now on."""
        anybody: dict[str, Any] = {
            "endpoint_url": self.url,
            "region_name": "us-east-1",
            "aws_access_key_id": "anybody",
            "aws_secret_access_key": "anybody",
        }
        users = boto3.client("iam", **anybody)
        users.create_user(UserName="cache")
        users.put_user_policy(UserName="cache", PolicyName="all", PolicyDocument=_ALL)
        key = users.create_access_key(UserName="cache")["AccessKey"]
        self._make_bucket("anybody", "anybody")
        strict = urllib.request.Request(
            self.url + "/moto-api/reset-auth", data=b"0", headers={"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(strict, timeout=10).close()
        return {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "us-east-1",
        }

    def close(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Front:
    """Passes requests on to a store, and fails a part of those for objects: statuses, silence, cuts.

    `sent` counts the payload bytes that went out, of answers that were cut apart (`cut`). Signatures stay right, since
    the Host that was signed is passed on as it is.
    """

    def __init__(self, store: str, *, fails: float, seed: int) -> None:
        self.sent = self.cut = self.requests = 0
        self.failed: Counter[str] = Counter()
        self._fails = fails
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._silent = threading.Event()
        self._store = store.removeprefix("http://")
        front = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                with suppress(OSError):
                    front._pass_on(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def _pass_on(self, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.requests += 1
            fails = self._chance.random() < self._fails
            how = self._chance.choice(("500", "503", "silence", "cut")) if fails else ""
            self.failed[how] += 1
        if how in ("500", "503"):
            code = "SlowDown" if how == "503" else "InternalError"
            body = f"<Error><Code>{code}</Code></Error>".encode()
            handler.send_response(int(how))
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return
        if how == "silence":
            self._silent.wait(30)
            handler.close_connection = True
            return
        connection = http.client.HTTPConnection(self._store, timeout=30)
        try:
            connection.request("GET", handler.path, headers=dict(handler.headers.items()))
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        handler.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date", "content-length"):
                handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        part = body[: len(body) // 2] if how == "cut" else body
        handler.wfile.write(part)
        with self._lock:
            if how == "cut":
                self.cut += len(part)
            elif answer.status in (200, 206):
                self.sent += len(part)
        handler.close_connection = how == "cut"

    def close(self) -> None:
        self._silent.set()
        self._server.shutdown()
        self._server.server_close()


def at(endpoint: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` with another endpoint."""
    return {**environment, "AWS_ENDPOINT_URL": endpoint}


