"""A real S3 server on loopback, behind a proxy of ours that counts, delays and spoils answers."""

from __future__ import annotations

import http.client
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

# Of one run of tests alone: what is kept of a bucket on this machine goes by its name. Processes
# that a test starts find it in the environment.
_NAME = f"GCG_TEST_BUCKET_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}"
BUCKET = os.environ.setdefault(_NAME, f"videos-{os.getpid()}")
SECRET = "c4nary/of-the+tests"  # is looked for where it must not be
# Not passed on: each hop states its own.
_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive", "date", "server"}


@dataclass
class Fault:
    """What happens to the next ``times`` requests for a path that ends in ``suffix``.

    ``kind``: ``"status"`` (answer ``status``), ``"truncate"`` (half of the body, then hang up),
    ``"short"`` (half of it, and no word that there is more), ``"corrupt"`` (one byte changed),
    ``"silence"`` (no answer until ``release``), ``"half"`` (half of the body, the rest after
    ``release``). ``met`` is set when a request has got there. ``methods``: of which requests.
    """

    suffix: str
    kind: str
    times: int = 1
    status: int = 503
    methods: tuple[str, ...] = ("GET", "PUT")
    met: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


class FaultProxy:
    """Passes requests on to ``upstream`` (host, port); ``latency_s`` before each answer."""

    def __init__(self, upstream: tuple[str, int], latency_s: float = 0.0):
        self.upstream = upstream
        self.latency_s = latency_s
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()

    def inject(self, suffix: str, kind: str, times: int = 1, **settings: Any) -> Fault:
        fault = Fault(suffix, kind, times, **settings)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            for fault in self._faults:
                fault.release.set()
            self._faults.clear()
            self.requests.clear()

    def gets(self, suffix: str) -> int:
        """How many GETs there were for a path that ends so."""
        with self._lock:
            return sum(m == "GET" and path.endswith(suffix) for m, path in self.requests)

    def close(self) -> None:
        self.clear()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _take(self, method: str, path: str) -> Fault | None:
        path = path.partition("?")[0]
        with self._lock:
            self.requests.append((method, path))
            for fault in self._faults:
                if fault.times > 0 and path.endswith(fault.suffix) and method in fault.methods:
                    fault.times -= 1
                    return fault
        return None

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(length) if length else None
                fault = proxy._take(self.command, self.path)
                if proxy.latency_s:
                    threading.Event().wait(proxy.latency_s)
                if fault is not None and fault.kind == "silence":
                    fault.met.set()
                    fault.release.wait()
                    self.close_connection = True
                    return
                if fault is not None and fault.kind == "status":
                    self._answer(fault.status, [], b"")
                    return
                upstream = http.client.HTTPConnection(*proxy.upstream)
                headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                data = response.read()
                upstream.close()
                kept = [(k, v) for k, v in response.getheaders() if k.lower() not in _HOP]
                if self.command == "HEAD":
                    length = int(response.headers.get("Content-Length") or 0)
                    self._answer(response.status, kept, b"", length)
                else:
                    self._spoilt(response.status, kept, data, fault)

            def _spoilt(self, status: int, headers: list, data: bytes, fault: Fault | None) -> None:
                half = len(data) // 2
                kind = fault.kind if fault is not None else None
                if kind == "corrupt":
                    data = data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :]
                if kind == "short":
                    data = data[:half]
                if kind not in ("truncate", "half"):
                    self._answer(status, headers, data)
                    return
                assert fault is not None
                self._answer(status, headers, data[:half], len(data))
                self.wfile.flush()
                fault.met.set()
                if kind == "half":
                    fault.release.wait()
                    self.wfile.write(data[half:])
                else:
                    self.close_connection = True

            def _answer(
                self, status: int, headers: list, data: bytes, length: int | None = None
            ) -> None:
                self.send_response(status)
                for name, value in headers:
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) if length is None else length))
                self.end_headers()
                self.wfile.write(data)

            def handle(self) -> None:
                # A client may be killed, or not wait any longer.
                with suppress(ConnectionError):
                    super().handle()

            def log_message(self, format: str, *args: Any) -> None:
                pass

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

        return Handler


class S3:
    """moto's server, the proxy before it, and a bucket."""

    def __init__(self, proxy: FaultProxy, client: Any):
        self.proxy = proxy
        self.client = client

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder's files to ``prefix``, past the proxy; returns its URL."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder)}"
                self.client.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def env(self) -> dict[str, str]:
        """What a client of the proxy has in its environment."""
        return {
            "AWS_ENDPOINT_URL": self.proxy.url,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }


@contextmanager
def s3_server(latency_s: float = 0.0) -> Iterator[S3]:
    """Start server and proxy; the environment points to them meanwhile."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    proxy = FaultProxy(("127.0.0.1", port), latency_s)
    s3 = S3(proxy, None)
    before = {name: os.environ.get(name) for name in s3.env()}
    os.environ.update(s3.env())
    try:
        s3.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        s3.client.create_bucket(Bucket=BUCKET)
        yield s3
    finally:
        forget_clients()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        s3.client.close()
        proxy.close()
        server.stop()


@contextmanager
def http_server(folder: Path) -> Iterator[FaultProxy]:
    """A plain web server for a folder, behind the proxy."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    make: Callable[..., Any] = lambda *args: Quiet(*args, directory=str(folder))  # noqa: E731
    server = ThreadingHTTPServer(("127.0.0.1", 0), make)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    proxy = FaultProxy(("127.0.0.1", server.server_address[1]))
    try:
        yield proxy
    finally:
        forget_clients()
        proxy.close()
        server.shutdown()
        server.server_close()
        thread.join()


def forget_clients() -> None:
    """fsspec keeps file systems, and with them connections, for the next user."""
    import gc

    from fsspec.implementations.http import HTTPFileSystem

    HTTPFileSystem.clear_instance_cache()
    try:
        from s3fs import S3FileSystem
    except ImportError:
        return
    S3FileSystem.clear_instance_cache()
    gc.collect()
