"""A packed MDS folder, here and on a web server."""

from __future__ import annotations

import functools
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dataloaders.source import Source
from tests.dataloaders.loader_fixtures import COUNTS
from tests.dataloaders.shard_fixtures import pack_clips


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    return pack_clips(tmp_path_factory.mktemp("mds"), COUNTS, format="mds").folder


def read_all(source: Source) -> list:
    return [
        source.read(number, entry)
        for number in range(len(source.shards))
        for entry in source.entries(number)
    ]


@pytest.fixture
def served(packed, tmp_path) -> Iterator[tuple[str, Path, list[str]]]:
    """A web server of a copy of the data set: its address, the copy, the paths it was asked for."""
    folder = tmp_path / "served"
    shutil.copytree(packed, folder)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.lstrip("/"))
            super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, asked
    server.shutdown()
    thread.join()
    server.server_close()


def read_all_of(source: Source, shard: int) -> list:
    return [source.read(shard, entry) for entry in source.entries(shard)]
