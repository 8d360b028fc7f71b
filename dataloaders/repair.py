"""What is good of a damaged packed folder, packed again into a new one."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from dataloaders.errors import DataError
from dataloaders.index import INDEX_NAME, DatasetIndex, write_atomic, write_index
from dataloaders.ingest import Clip
from dataloaders.inspect_shards import Inspection, read_sample
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.out_folder import clear
from dataloaders.shard_writer import TarShardWriter

_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Repaired:
    """The new folder. ``same``: it holds exactly what the old one should, and labels still fit."""

    folder: Path
    num_samples: int
    num_left_out: int
    same: bool


def repair(found: Inspection, out: str | os.PathLike[str]) -> Repaired:
    """Write the good samples of an inspected folder into ``out``, a shard for a shard.

    ``out`` is complete once its ``index.json`` is there, which is written last; an attempt that was
    interrupted is begun again. ``quarantine.jsonl`` lists what was left out, and why.

    Raises:
        DataError: ``out`` is the folder itself or holds a data set, or nothing is good.
    """
    out = Path(out)
    check_target(found.folder, out)
    if not found.num_good:
        raise DataError(f"{found.folder}: not one good sample is left; run `gcg pack` again")
    clear(out)
    writer = TarShardWriter(out, _NO_LIMIT)
    try:
        for shard, entries in zip(found.index.shards, found.good, strict=True):
            for entry in entries:
                data, record = read_sample(found.folder / shard.name, entry)
                suffix = entry.video.name.removeprefix(entry.key + ".")
                writer.add(Clip(entry.key, suffix, data, record))
            writer.close_shard()
    finally:
        writer.abandon()
    _list_faults(out, found)
    origin = hashlib.sha256(f"repaired {found.index.fingerprint}".encode()).hexdigest()[:32]
    index = DatasetIndex(tuple(writer.shards), origin)
    write_index(out, index)
    return Repaired(
        folder=out,
        num_samples=found.num_good,
        num_left_out=found.num_samples - found.num_good,
        same=index.fingerprint == found.index.fingerprint,
    )


def check_target(folder: Path, out: Path) -> None:
    """Raise DataError unless ``out`` can take what is good of ``folder``."""
    if out.resolve() == folder.resolve():
        raise DataError(f"{out}: is the damaged folder itself; name a new one")
    if (out / INDEX_NAME).exists():
        raise DataError(f"{out}: holds a data set already; name a new folder")


def _list_faults(out: Path, found: Inspection) -> None:
    rows = (
        {"data": str(found.folder), "stage": "repair", "shard": fault.shard, "key": fault.key,
         "reason": fault.reason}
        for fault in found.faults
    )  # fmt: skip
    write_atomic(out / QUARANTINE_NAME, "".join(json.dumps(row) + "\n" for row in rows))
