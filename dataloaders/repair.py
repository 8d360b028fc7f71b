"""What is good of a damaged data set, packed again in the same format into a new folder."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from dataloaders.convert_shards import read_clip
from dataloaders.errors import DataError
from dataloaders.index import DatasetIndex, ShardInfo, index_path, write_atomic, write_index
from dataloaders.ingest import BadVideo
from dataloaders.inspect_shards import Inspection
from dataloaders.left_out import QUARANTINE_NAME
from dataloaders.open_source import open_source
from dataloaders.out_folder import clear
from dataloaders.shard_source import ShardSource
from dataloaders.shard_writer import LARGEST_LIMIT, open_writer
from dataloaders.storage.folder import LocalFolder, open_folder
from dataloaders.whole_shard import take_as_found


@dataclass(frozen=True)
class Repaired:
    """The new folder. ``same``: it holds exactly what the old one should, and labels still fit."""

    folder: Path
    num_samples: int
    num_left_out: int
    same: bool


def repair(found: Inspection, out: str | os.PathLike[str]) -> Repaired:
    """Write the good samples of an inspected data set into ``out``, a shard for a shard.

    ``out`` is complete once its index is there, which is written last; an attempt that was
    interrupted is begun again. ``quarantine.jsonl`` lists what was left out, and why.

    Raises:
        DataError: ``out`` is the folder itself or holds a data set, nothing is good, or samples
            that are there could not be read for want of a right sidecar.
        StorageError: its URL cannot be reached.
    """
    out = Path(out)
    check_target(found.place, out)
    if found.stale:
        raise DataError(
            f"{found.place}: {found.stale[0]} is whole, but what lies beside it does not fit it: "
            f"run `gcg index {found.place}` first, so that none of its samples is lost"
        )
    if not found.num_good:
        raise DataError(f"{found.place}: not one good sample is left; run `gcg pack` again")
    clear(out)
    with open_source(found.place, found.storage, as_found=True) as source:
        shards = _write(found, source, out)
    _list_faults(out, found)
    origin = hashlib.sha256(f"repaired {found.index.fingerprint}".encode()).hexdigest()[:32]
    index = DatasetIndex(tuple(shards), origin, found.index.format, found.index.features)
    write_index(out, index)
    return Repaired(
        folder=out,
        num_samples=found.num_good,
        num_left_out=found.num_samples - found.num_good,
        same=index.fingerprint == found.index.fingerprint,
    )


def _write(found: Inspection, source: ShardSource, out: Path) -> list[ShardInfo]:
    format = found.index.format
    writer = open_writer(format, out, LARGEST_LIMIT[format])
    try:
        for number, entries in enumerate(found.good):
            if number in found.damaged and entries:
                take_as_found(source, number)
            for entry in entries:
                clip = read_clip(source, number, entry)
                if isinstance(clip, BadVideo):
                    raise DataError(
                        f"{found.place}: {clip.path}: {clip.key}: was good and is not any more "
                        f"({clip.reason}); inspect it again"
                    )
                writer.add(clip)
            writer.close_shard()
        writer.finish()
    finally:
        writer.abandon()
    return writer.shards


def check_target(place: str | os.PathLike[str], out: Path) -> None:
    """Raise DataError unless ``out`` can take what is good of ``place``."""
    folder = open_folder(place)
    if isinstance(folder, LocalFolder) and out.resolve() == folder.path.resolve():
        raise DataError(f"{out}: is the damaged folder itself; name a new one")
    if index_path(out).exists():
        raise DataError(f"{out}: holds a data set already; name a new folder")


def _list_faults(out: Path, found: Inspection) -> None:
    rows = (
        {"data": found.place, "stage": "repair", "shard": fault.shard, "key": fault.key,
         "reason": fault.reason}
        for fault in found.faults
    )  # fmt: skip
    write_atomic(out / QUARANTINE_NAME, "".join(json.dumps(row) + "\n" for row in rows))
