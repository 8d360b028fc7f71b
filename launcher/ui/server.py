"""The page's server: the standard library's, on the loopback alone, for one user and one model.

Any page in the user's browser can send requests to a port of this machine. So a request must name
this host (against rebinding of names), and what changes something must carry a header that other
origins may not send without a permission that is never given.
"""

from __future__ import annotations

import json
import logging
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import unquote

from pydantic import ValidationError

from dataloaders.errors import DataError
from gcg.errors import ModelError
from launcher.errors import UserError
from launcher.ui.demo import Ask, Demo

log = logging.getLogger(__name__)

HEADER = "X-GCG"
MOST_BYTES = 1 << 30  # of an upload
_MOST_TEXT = 1 << 20
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


class DemoServer(ThreadingHTTPServer):
    """Serves a :class:`Demo` at ``url``; port 0 takes a free one."""

    daemon_threads = True

    def __init__(self, demo: Demo, port: int = 7860) -> None:
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"--port {port}: cannot be used ({error}); choose another") from None
        self.demo = demo

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Refused(Exception):
    """A request that is not served: status and a line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    protocol_version = "HTTP/1.1"
    timeout = 60  # seconds without a byte

    def do_GET(self) -> None:
        self._serve({"/": self._page, "/clips": self._clips})

    def do_POST(self) -> None:
        self._serve({"/clips": self._upload, "/ask": self._ask}, changes=True)

    def _serve(self, routes: dict[str, Any], *, changes: bool = False) -> None:
        try:
            name = self.headers.get("Host", "").rpartition(":")[0]
            if name not in ("127.0.0.1", "localhost"):
                raise _Refused(403, "this page is served to 127.0.0.1 and localhost alone")
            if changes and self.headers.get(HEADER) is None:
                raise _Refused(403, f"a request must carry the header {HEADER}")
            route = routes.get(self.path.partition("?")[0])
            if route is None:
                raise _Refused(404, "no such page")
            kind, body = route()
            self._reply(200, kind, body)
        except _Refused as error:
            self._fault(error.status, str(error))
        except (DataError, UserError, ModelError) as error:
            self._fault(400, " ".join(str(error).split()))
        except Exception:
            log.exception("%s %s", self.command, self.path)
            self._fault(500, "the server failed; its terminal says why")

    def _page(self) -> tuple[str, bytes]:
        page = (files("launcher.ui") / "page.html").read_bytes()
        return "text/html; charset=utf-8", page

    def _clips(self) -> tuple[str, bytes]:
        return _json(self.server.demo.names())

    def _upload(self) -> tuple[str, bytes]:
        name = unquote(self.headers.get("X-Name", "clip.mp4"))
        return _json({"clip": self.server.demo.add(name, self._body(MOST_BYTES))})

    def _ask(self) -> tuple[str, bytes]:
        try:
            asked = Ask.model_validate_json(self._body(_MOST_TEXT))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the request"
            raise _Refused(400, f"{where}: {first['msg']}") from None
        return _json(self.server.demo.ask(asked))

    def _body(self, most: int) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refused(411, "a request must say how long it is")
        if int(length) > most:
            raise _Refused(413, f"{int(length)} bytes: at most {most} are taken")
        return self.rfile.read(int(length))

    def _fault(self, status: int, line: str) -> None:
        # What was not read of the request would be taken for the next one.
        self.close_connection = True
        self._reply(status, *_json({"error": line}))

    def _reply(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", f"{_POLICY}; connect-src 'self'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)


def _json(tree: Any) -> tuple[str, bytes]:
    return "application/json", json.dumps(tree, ensure_ascii=False).encode()
