"""All of mosaicml-streaming that is used here: its writer, its readers, its downloads.

Importing it takes seconds, so this module is imported where it is needed and nowhere else.

``StreamingDataset`` itself is not used: it decides the order of the samples, for which there is
``plan``, and it keeps shared memory and lock files that a killed run leaves behind in ``/dev/shm``
and ``/tmp``. What it is made of has neither: ``MDSReader`` for a shard, ``Stream`` for fetching one
(retries, hashes, decompression).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np

from dataloaders.errors import DataError
from dataloaders.index import INDEX_NAME, ShardInfo
from dataloaders.mds_compressed import check_names
from dataloaders.shard_source import pread_all

try:
    from streaming.base.format import MDSWriter, reader_from_json
    from streaming.base.format.mds import MDSReader
    from streaming.base.format.mds.encodings import mds_decode
    from streaming.base.storage.download import DOWNLOADER_MAPPINGS, CloudDownloader
    from streaming.base.stream import Stream
except ImportError as error:
    raise DataError(
        f"MDS shards need the package mosaicml-streaming, and {error.name} is not installed; "
        "pip install 'gcg-train[mds]'"
    ) from None

HASH = "sha256"
MAX_SHARD_BYTES = 2**32  # offsets inside a shard are 32 bits wide
COLUMNS = {"key": "str", "record": "str", "suffix": "str", "video": "bytes"}
__all__ = ["COLUMNS", "HASH", "MAX_SHARD_BYTES", "MDSReader", "MDSWriter"]


@dataclass(frozen=True)
class Column:
    """One value of a sample: where it begins in the shard file, its bytes, its encoding."""

    offset: int
    data: bytes
    encoding: str

    def value(self) -> Any:
        return mds_decode(self.encoding, self.data)


def open_writer(folder: Path) -> MDSWriter:
    """An MDSWriter that cuts shards only where it is told to."""
    return MDSWriter(columns=COLUMNS, out=str(folder), hashes=[HASH], size_limit=None)


def go_on_after(writer: MDSWriter, shards: Iterable[ShardInfo]) -> None:
    """Give a new writer the rows of shards that another wrote with the same settings: it numbers
    its own after them, and lists them in its index."""
    writer.shards += [
        {
            "samples": shard.num_samples,
            "raw_data": {
                "basename": shard.name,
                "bytes": shard.bytes,
                "hashes": {HASH: shard.sha256},
            },
            "zip_data": None,
            **writer.get_config(),
        }
        for shard in shards
    ]


def cut(writer: MDSWriter) -> dict[str, Any]:
    """Write what was added since the last cut as a shard; returns its row of the index."""
    writer.flush_shard()
    writer._reset_cache()  # as MDSWriter.write does when a shard is full
    return writer.shards[-1]


def read_mds_index(folder: Path) -> list[dict[str, Any]]:
    """The shard rows of an MDS folder's own index.

    Raises:
        DataError: it is missing, damaged, or not of an MDS folder.
    """
    path = folder / INDEX_NAME
    remedy = "copy the folder again, or write it again with MDSWriter"
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
        rows = body["shards"]
        formats = {row["format"] for row in rows}
        for row in rows:
            check_names(str(path), row)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except DataError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not an MDS index ({error!r}); {remedy}") from None
    if body.get("version") != 2 or formats != {"mds"}:
        raise DataError(
            f"{path}: version {body.get('version')}, formats {sorted(formats)}: must be version 2 "
            f"and mds alone; {remedy}"
        )
    return rows


def reader_of(folder: Path, row: dict[str, Any]) -> MDSReader:
    """The library's reader of one shard.

    Raises:
        DataError: a column holds pickles, whose reading could run any code.
    """
    reader = cast(MDSReader, reader_from_json(str(folder), None, row))
    try:
        reader.validate(allow_unsafe_types=False)
    except ValueError as error:
        raise DataError(f"{folder / row['raw_data']['basename']}: {error}") from None
    return reader


def samples(reader: MDSReader) -> Iterator[dict[str, Column]]:
    """The samples of a shard by column, with the place of each value in the file.

    Raises:
        DataError: the offsets do not fit the file: it is damaged, or not an MDS shard.
    """
    with Path(reader.dirname, reader.raw_data.basename).open("rb") as file:
        yield from samples_of(reader, file.fileno())


def samples_of(reader: MDSReader, fd: int) -> Iterator[dict[str, Column]]:
    """As :func:`samples`, of an open file, wherever it lies."""
    path = Path(reader.dirname, reader.raw_data.basename)
    size = os.fstat(fd).st_size
    head = pread_all(fd, 0, 4 * (reader.samples + 2))
    table = np.frombuffer(head[: len(head) // 4 * 4], np.uint32).astype(np.int64)
    offsets = table[1:]
    if len(table) != reader.samples + 2 or table[0] != reader.samples or offsets[-1] != size:
        raise DataError(
            f"{path}: its head says {table[0] if len(table) else 'nothing'} samples up to byte "
            f"{offsets[-1] if len(offsets) else 0}, its index {reader.samples} and the file ends "
            f"at {size}: the shard is damaged or cut short; copy it again"
        )
    for number, begin in enumerate(offsets[:-1].tolist()):
        if not begin < offsets[number + 1]:
            raise DataError(f"{path}: sample {number}: ends before byte {begin}, where it begins")
        data = pread_all(fd, begin, int(offsets[number + 1]) - begin)
        yield _columns(path, reader, number, data, begin)


def _columns(
    path: Path, reader: MDSReader, number: int, data: bytes, begin: int
) -> dict[str, Column]:
    # As MDSReader.decode_sample: first the sizes of the columns that vary, then the values.
    varying = [size is None for size in reader.column_sizes]
    sizes = iter(np.frombuffer(data[: 4 * sum(varying)], np.uint32).tolist())
    place, found = 4 * sum(varying), {}
    for name, encoding, fixed in zip(
        reader.column_names, reader.column_encodings, reader.column_sizes, strict=True
    ):
        size = next(sizes, 0) if fixed is None else fixed
        found[name] = Column(begin + place, data[place : place + size], encoding)
        place += size
    if place != len(data):
        raise DataError(
            f"{path}: sample {number} at byte {begin}: its columns take {place} bytes, it has "
            f"{len(data)}: the shard is damaged; copy it again"
        )
    return found


class _FsspecDownloader(CloudDownloader):
    """Fetches from any place that fsspec knows, for schemes streaming has no downloader for."""

    @staticmethod
    def _client_identifier() -> str:
        return "fsspec"

    def clean_up(self) -> None:
        pass

    def _validate_remote_path(self, remote: str) -> None:
        pass

    def _download_file_impl(self, remote: str, local: str, timeout: float) -> None:
        import fsspec

        partial = f"{local}.tmp"
        files, path = fsspec.core.url_to_fs(remote)
        files.get_file(path, partial)
        Path(partial).replace(local)


def _know_scheme(remote: str) -> None:
    DOWNLOADER_MAPPINGS.setdefault(urlsplit(remote).scheme, _FsspecDownloader)


def fetch_shard(
    remote: str, folder: Path, row: dict[str, Any], *, retries: int, timeout: float
) -> Path:
    """Bring a shard into an empty folder, decompressed; whatever goes wrong is raised as it is.

    Its bytes are not checked: our index has a hash of every shard, streaming's only of some.
    """
    _know_scheme(remote)
    stream = Stream(
        remote=remote,
        local=os.fspath(folder),
        download_retry=retries + 1,
        download_timeout=timeout,
        keep_zip=False,
    )
    stream.prepare_shard(reader_of(folder, row))
    return folder / row["raw_data"]["basename"]
