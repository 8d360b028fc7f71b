"""A small double of the Hugging Face hub on loopback, behind the proxy that spoils answers.

The hub cannot be run here, so this is no more than what its API documentation says of the
endpoints that ``HfFileSystem`` calls: repository and revision, tree, ``resolve`` (large files by a
redirect, as to another host), and commits of small files. The client is the real huggingface_hub.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.dataloaders.s3_server import FaultProxy

REPO = "someone/clips"
TOKEN = "hf_right"
REVISIONS = ("main", "v1")
LFS = ".tar"  # what lies in large file storage


class Hub:
    """The data set ``REPO``, whose files are ``folder``'s. ``private``: only with ``TOKEN``."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.private = False
        self.gated = False
        self.proxy: Any = None

    def env(self) -> dict[str, str]:
        """What a client of the proxy has in its environment."""
        return {"HF_ENDPOINT": self.proxy.url, "HF_HUB_DISABLE_TELEMETRY": "1"}

    def tree(self, below: str) -> list[dict[str, Any]] | None:
        """The entries of a folder; None if there is none."""
        place = self.folder / below
        if not place.is_dir():
            return None
        return [self._entry(path) for path in sorted(place.iterdir())]

    def _entry(self, path: Path) -> dict[str, Any]:
        name = path.relative_to(self.folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        data = path.read_bytes()
        entry = {"type": "file", "path": name, "oid": "1" * 40, "size": len(data)}
        if path.suffix == LFS:
            entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
        return entry

    def commit(self, lines: list[dict[str, Any]]) -> bool:
        """Whether it could be: all files that it deletes are there."""
        gone = [line["value"]["path"] for line in lines if line["key"] == "deletedFile"]
        if not all((self.folder / name).is_file() for name in gone):
            return False
        for line in lines:
            path = self.folder / line["value"].get("path", "")
            if line["key"] == "file":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
            elif line["key"] == "deletedFile":
                path.unlink()
        return True


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/large/"):
            self._file(self.hub.folder / path.removeprefix("/large/"))
        elif not self._may_see(path):
            self._refuse(401, "RepoNotFound")
        elif path.startswith(f"/api/datasets/{REPO}"):
            self._describe(path.removeprefix(f"/api/datasets/{REPO}"))
        elif self.hub.gated:
            self._refuse(403, "GatedRepo")
        else:
            self._resolve(*path.removeprefix(f"/datasets/{REPO}/resolve/").split("/", 1))

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        action = self.path.removeprefix(f"/api/datasets/{REPO}/").partition("/")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "")
        elif action == "preupload":
            names = [each["path"] for each in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self._json({"files": files})
        elif not self.hub.commit([json.loads(line) for line in body.splitlines()]):
            self._refuse(404, "EntryNotFound")
        else:
            url = f"http://{self.headers['Host']}/datasets/{REPO}/commit/{'2' * 40}"
            self._json({"commitUrl": url, "commitOid": "2" * 40})

    def _may_see(self, path: str) -> bool:
        if not path.startswith((f"/api/datasets/{REPO}", f"/datasets/{REPO}/")):
            return False
        return not self.hub.private or self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _describe(self, rest: str) -> None:
        what, _, rest = rest.strip("/").partition("/")
        revision, _, below = rest.partition("/")
        if what and revision not in REVISIONS:
            self._refuse(404, "RevisionNotFound")
        elif what == "tree":
            entries = self.hub.tree(below)
            self._refuse(404, "EntryNotFound") if entries is None else self._json(entries)
        else:
            self._json({"id": REPO, "sha": "3" * 40})

    def _resolve(self, revision: str, name: str) -> None:
        path = self.hub.folder / name
        if revision not in REVISIONS:
            self._refuse(404, "RevisionNotFound")
        elif not path.is_file():
            self._refuse(404, "EntryNotFound")
        elif path.suffix == LFS:
            self._answer(302, b"", {"Location": f"http://{self.headers['Host']}/large/{name}"})
        else:
            self._file(path)

    def _file(self, path: Path) -> None:
        data = path.read_bytes()
        asked = self.headers.get("Range")
        if asked is None:
            self._answer(200, data, {"Accept-Ranges": "bytes"})
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(data), len(data))
        found = f"bytes {first}-{end - 1}/{len(data)}"
        self._answer(206, data[int(first) : end], {"Content-Range": found})

    def _json(self, body: Any) -> None:
        self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code} if code else {})

    def _answer(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def hub_server(folder: Path) -> Iterator[Hub]:
    """Start the double and the proxy before it; hf:// goes there meanwhile."""
    import fsspec.config
    from huggingface_hub import HfFileSystem

    hub = Hub(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    hub.proxy = FaultProxy(("127.0.0.1", server.server_address[1]))
    # HF_ENDPOINT and HF_TOKEN were read when the library was imported.
    fsspec.config.conf["hf"] = {"endpoint": hub.proxy.url, "token": False}
    try:
        yield hub
    finally:
        HfFileSystem.clear_instance_cache()
        del fsspec.config.conf["hf"]
        hub.proxy.close()
        server.shutdown()
        server.server_close()
        thread.join()
