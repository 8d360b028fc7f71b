"""A hub of our own: folders served over HTTP as the Hugging Face hub serves repositories.

Only what ``huggingface_hub`` asks for a download (the list of a repository's files, and the files),
and for an upload: a repository is made, large files go by LFS, small ones in the commit.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, file_download
from huggingface_hub.utils._http import reset_sessions

LARGE = ".safetensors"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves ``root/<owner>/<name>/``; ``sent``: ``owner/name/file`` of all fetched.

    Writes need ``token``. ``stored``: large files by their SHA-256; ``commits``: paths of each.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.sent = root, list[str]()
        self.token: str | None = None
        self.stored: dict[str, bytes] = {}
        self.commits: list[list[str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, with_body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository = self.server.root.joinpath(*parts[2:4])
            files = sorted(path for path in repository.rglob("*") if path.is_file())
            names = [{"rfilename": path.relative_to(repository).as_posix()} for path in files]
            tree = {"id": "/".join(parts[2:4]), "sha": COMMIT, "siblings": names}
            body, found = json.dumps(tree).encode(), repository.is_dir()
        else:  # owner/name/resolve/revision/path
            path = self.server.root.joinpath(*parts[:2], *parts[4:])
            found = path.is_file()
            body = path.read_bytes() if found else b""
            if found and with_body:
                self.server.sent.append("/".join([*parts[:2], *parts[4:]]))
        self.send_response(200 if found else 404)
        if not found:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_PUT(self) -> None:
        self.server.stored[self.path.rpartition("/")[2]] = self._body()
        self._reply(200, {})

    def do_POST(self) -> None:
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._reply(401, {"error": "Invalid credentials"})
            return
        parts = self.path.strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            tree = json.loads(body)
            name = f"{tree['organization']}/{tree['name']}"
            (self.server.root / name).mkdir(parents=True, exist_ok=True)
            self._reply(200, {"url": f"{self.server.url}/{name}"})
        elif parts == ["api", "validate-yaml"]:  # of a page's front matter
            self._reply(200, {"errors": [], "warnings": []})
        elif parts[-2:-1] == ["preupload"]:
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            self._reply(200, {"files": files})
        elif parts[-2:] == ["objects", "batch"]:
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self._reply(200, {"transfer": "basic", "objects": objects})
        else:
            self._commit("/".join(parts[2:4]), body)

    def _commit(self, repository: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        paths = []
        for line in (line["value"] for line in lines if line["key"] != "header"):
            path = self.server.root / repository / line["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            small = "content" in line
            path.write_bytes(
                base64.b64decode(line["content"]) if small else self.server.stored[line["oid"]]
            )
            paths.append(line["path"])
        self.server.commits.append(paths)
        url = f"{self.server.url}/{repository}/commit/{COMMIT}"
        self._reply(200, {"commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _reply(self, status: int, tree: dict[str, Any]) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests look at ``sent``."""


@contextmanager
def serving(root: Path) -> Iterator[Hub]:
    with Hub(root) as hub:
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def cut_off(monkeypatch: pytest.MonkeyPatch, cache: Path | None = None) -> None:
    """Set ``HF_HUB_OFFLINE`` for this test, and the cache."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    if cache is not None:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    reset_sessions()  # an open session would go on asking


def reach(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let ``huggingface_hub`` take this hub for the hub, with a cache of its own."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    reset_sessions()
