"""An emulator of Google Cloud Storage on loopback, behind the proxy that counts and spoils answers.

gcsfs cannot be installed beside mosaicml-streaming; docs/data.md says how to run what needs it.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.dataloaders.s3_server import FaultProxy

BUCKET = "videos"


class GCS:
    """The emulator behind ``proxy``, with a bucket; ``storage`` is what it holds."""

    def __init__(self, proxy: FaultProxy, storage: Any):
        self.proxy = proxy
        self._storage = storage

    def upload(self, folder: Path, prefix: str) -> str:
        """Copy a folder's files to ``prefix``; returns its URL."""
        system = _client_class()(token="anon")
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}/{path.relative_to(folder)}"
                system.pipe_file(f"{BUCKET}/{key}", path.read_bytes())
        return f"gs://{BUCKET}/{prefix}"

    def delete(self, key: str) -> None:
        self._storage.delete_file(BUCKET, key)

    def env(self) -> dict[str, str]:
        """What a client of the proxy has in its environment."""
        return {
            "STORAGE_EMULATOR_HOST": self.proxy.url,
            "FSSPEC_GS_TOKEN": "anon",
        }


@contextmanager
def gcs_server() -> Iterator[GCS]:
    """Start emulator and proxy; the environment points to them meanwhile."""
    import fsspec.config

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    emulator = importlib.import_module("gcp_storage_emulator.server")
    server = emulator.create_server("127.0.0.1", 0, in_memory=True, default_bucket=BUCKET)
    server.start()
    proxy = FaultProxy(server._api._httpd.server_address[:2])
    gcs = GCS(proxy, server._storage)
    before = {name: os.environ.get(name) for name in gcs.env()}
    os.environ.update(gcs.env())
    fsspec.config.conf["gs"] = {"token": "anon"}  # the environment's was read at its import
    try:
        yield gcs
    finally:
        forget_gcs_clients()
        del fsspec.config.conf["gs"]
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        proxy.close()
        server.stop()


def forget_gcs_clients() -> None:
    """fsspec keeps file systems, and with them connections, for the next user."""
    _client_class().clear_instance_cache()
    gc.collect()


def _client_class() -> Any:
    return importlib.import_module("gcsfs.core").GCSFileSystem
