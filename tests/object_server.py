"""An object store on loopback, and a proxy before it that fails as servers and networks do."""

from __future__ import annotations

import http.client
import http.server
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

BUCKET = "scans"


def environment(port: int) -> dict[str, str]:
    """Variables that send obstore to a server on loopback; the credentials open nothing."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
        "AWS_REGION": "us-east-1",
    }


@contextmanager
def s3_server() -> Iterator[int]:
    """Run moto's S3 in a process of its own; gives its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", "from moto.server import main; main()"]
    with subprocess.Popen(
        [*command, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        try:
            _wait(port)
            yield port
        finally:
            server.kill()


def _wait(port: int) -> None:
    for _ in range(300):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("PUT", f"/{BUCKET}")
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("moto does not answer")


@dataclass
class Faults:
    """What a proxy does to requests, and what it has done.

    Attributes
    ----------
    share : float
        Of the requests that fail.
    kinds : tuple of str
        ``503``, ``500``: answered so and not passed on. ``lost``: passed on, and the answer
        dropped. ``cut``: the connection closed at once. ``slow``: no answer within the patience of
        the client. ``torn``: half of the body, then the connection closed.
    seed : int
        Of the choice among requests.
    """

    share: float = 0.0
    kinds: tuple[str, ...] = ("503", "500", "lost", "cut", "torn")
    slow_seconds: float = 3.0
    seed: int = 1
    done: Counter[str] = field(default_factory=Counter)
    requests: int = 0

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()

    def next(self) -> str:
        """Return what to do to the next request; nothing, mostly."""
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return ""
            kind = self._random.choice(self.kinds)
            self.done[kind] += 1
            return kind


@contextmanager
def failing_proxy(port: int, faults: Faults) -> Iterator[int]:
    """Pass requests on to a server, some of them badly; gives its own port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = faults.next()
            if kind == "cut":
                self.close_connection = True
                return
            if kind == "slow":
                time.sleep(faults.slow_seconds)
                self.close_connection = True
                return
            if kind in ("500", "503"):
                self._answer(int(kind), [], b"<Error><Code>SlowDown</Code></Error>")
                return
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
            # The host is part of what was signed, moto does not look.
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if kind == "lost":
                self.close_connection = True
                return
            keep = [
                (name, value)
                for name, value in answer.getheaders()
                if name.lower() not in ("transfer-encoding", "connection", "content-length")
            ]
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self._answer(answer.status, keep, content, length=length, torn=kind == "torn")

        def _answer(
            self,
            status: int,
            headers: list[tuple[str, str]],
            content: bytes,
            *,
            length: str | None = None,
            torn: bool = False,
        ) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            if torn:
                self.close_connection = True
                content = content[: len(content) // 2]
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _pass_on

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # clients that went away are what this is for

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
