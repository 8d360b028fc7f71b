"""Writing feature shards that mirror a data set of clips: the same names, keys, records and order.

So the clips' plan is theirs as well, and the clips' labels name the same shards, videos and frames.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from webdataset.writer import TarWriter

from dataloaders.errors import DataError
from dataloaders.feature_info import FeatureInfo
from dataloaders.features import SUFFIX
from dataloaders.index import (
    INDEX_NAME,
    DatasetIndex,
    ShardInfo,
    describe_shard,
    read_index,
    write_atomic,
    write_entries,
    write_index,
)
from dataloaders.labels import META_NAME, LabelSet
from dataloaders.scan_tar import scan_tar
from dataloaders.source import Source

BEGUN_NAME = "extract.json"


class FeatureShards:
    """A folder in which the features of ``source`` grow, shard by shard; a shard is there whole or
    not at all, and one that is there is not made again.

    Args:
        out: the folder; made if missing.
        overwrite: take down what was made of other clips or in another way.

    Raises:
        DataError: the folder holds something else.
    """

    def __init__(self, out: Path, source: Source, info: FeatureInfo, *, overwrite: bool = False):
        self._out, self._source, self._info = out, source, info
        made_of = json.dumps([source.fingerprint, info.model_dump(mode="json")])
        self._input = hashlib.sha256(made_of.encode()).hexdigest()[:32]
        self._begin(overwrite)

    def _begin(self, overwrite: bool) -> None:
        begun = self._out / BEGUN_NAME
        try:
            found = json.loads(begun.read_text())["input"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        if found == self._input:
            return
        self._out.mkdir(parents=True, exist_ok=True)
        # Processes that make other parts may begin at the same moment.
        others = any(not path.name.startswith(BEGUN_NAME) for path in self._out.iterdir())
        if found is not None or others:
            if not overwrite:
                raise DataError(
                    f"{self._out}: holds something else, or features made in another way; choose "
                    "an empty folder, or pass --overwrite"
                )
            (self._out / INDEX_NAME).unlink(missing_ok=True)
            for pattern in ("*.tar", "*.index.jsonl", "*.partial"):
                for path in self._out.glob(pattern):
                    path.unlink()
        partial, name = tempfile.mkstemp(prefix=f"{BEGUN_NAME}.", dir=self._out)
        with os.fdopen(partial, "w") as file:
            file.write(json.dumps({"input": self._input}) + "\n")
        Path(name).replace(begun)

    def has(self, shard: int) -> bool:
        """Whether a shard is there already."""
        return self._path(shard).is_file()

    def write(self, shard: int, members: Iterable[bytes]) -> None:
        """Write a shard: ``members`` are its samples' features, in the order of its entries.

        Raises:
            DataError: a record of the clips cannot be read.
        """
        path = self._path(shard)
        partial = path.with_name(f"{path.name}.partial")
        entries = self._source.entries(shard)
        with partial.open("wb") as file:
            # As packing does: the same input gives the same bytes.
            tar = TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT")
            for entry, member in zip(entries, members, strict=True):
                record = self._source.read_record(shard, entry)
                record = record.model_dump_json(exclude_none=True).encode()
                tar.write({"__key__": entry.key, SUFFIX: member, "json": record})
            tar.close()
            file.flush()
            os.fsync(file.fileno())
        found = scan_tar(partial)
        write_entries(path.with_name(f"{path.stem}.index.jsonl"), found)
        partial.replace(path)

    def finish(self) -> DatasetIndex | None:
        """Write the index, if all shards are there."""
        if not all(self.has(shard) for shard in range(len(self._source.shards))):
            return None
        shards = [self._describe(shard) for shard in range(len(self._source.shards))]
        index = DatasetIndex(tuple(shards), self._input, features=self._info)
        write_index(self._out, index)
        return index

    def _describe(self, shard: int) -> ShardInfo:
        path = self._path(shard)
        return describe_shard(path, path.name, scan_tar(path))

    def _path(self, shard: int) -> Path:
        return self._out / f"{self._source.shards[shard].stem}.tar"


def carry_labels(clips: Path, source: Source, out: Path, fingerprint: str) -> list[Path]:
    """Copy the label sets of the clips to their features, which have the same frames.

    Label sets of other clips, of another number of frames, or damaged ones stay behind. Returns the
    folders that were written.

    Args:
        clips: the clips' folder; ``source``: the same, opened.
        out: the features' folder; ``fingerprint``: its index's.
    """
    copied = []
    features = read_index(out).features
    assert features is not None
    for meta_file in sorted((clips / "labels").glob(f"*/{META_NAME}")):
        try:
            meta = LabelSet(meta_file.parent).meta
        except DataError:
            continue
        if meta.data != source.fingerprint or meta.num_frames != features.num_frames:
            continue
        folder = out / "labels" / meta_file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / META_NAME).unlink(missing_ok=True)
        for rows in meta_file.parent.glob("*.jsonl"):
            write_atomic(folder / rows.name, rows.read_text(encoding="utf-8"))
        meta = meta.model_copy(update={"data": fingerprint})
        write_atomic(folder / META_NAME, meta.model_dump_json(indent=1) + "\n")
        copied.append(folder)
    return copied
