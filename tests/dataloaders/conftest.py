"""Servers the tests of the data path share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dataloaders.s3_server import S3, s3_server


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    pytest.importorskip("moto", reason="needs moto and s3fs: pip install -e '.[dev]'")
    pytest.importorskip("s3fs", reason="needs moto and s3fs: pip install -e '.[dev]'")
    with s3_server() as server:
        yield server
