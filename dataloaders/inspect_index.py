"""Whether the indexes of a data set agree with each other: counts, and streaming's with ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from dataloaders.errors import DataError, StorageError
from dataloaders.index import INDEX_NAME, DatasetIndex, ShardInfo
from dataloaders.mds_compressed import read_rows
from dataloaders.shard_source import ShardSource

Note = Callable[[str, str], object]


def streaming_rows(source: ShardSource, note: Note) -> dict[str, Any]:
    """The rows of streaming's ``index.json`` by shard; none for tars, or where it is damaged.

    Raises:
        StorageError: its URL cannot be reached.
    """
    if source.index.format != "mds":
        return {}
    try:
        return read_rows(source.place)
    except StorageError:
        raise
    except DataError as error:
        note(INDEX_NAME, str(error))
        return {}


def index_faults(index: DatasetIndex, rows: Mapping[str, Any], note: Note) -> None:
    """Note what does not add up in our index, and what streaming's says otherwise."""
    for shard in index.shards:
        counts = shard.question_counts.items()
        found = sum(times for _, times in counts), sum(n * times for n, times in counts)
        if found != (shard.num_samples, shard.num_questions):
            note(
                shard.name,
                f"the index says {shard.num_samples} samples and {shard.num_questions} questions, "
                f"and counts {found[0]} and {found[1]} by their number",
            )
        if rows and (fault := _fault_of_row(shard, rows)):
            note(INDEX_NAME, fault)


def _fault_of_row(shard: ShardInfo, rows: Mapping[str, Any]) -> str | None:
    """What StreamingDataset would go wrong by."""
    row = rows.get(shard.name)
    if row is None:
        return f"has no {shard.name}, which StreamingDataset would not read"
    raw = row.get("raw_data") or {}
    hashes = raw.get("hashes") or {}
    samples, size = row.get("samples"), raw.get("bytes")
    # Others' shards may hold more samples: those that `gcg index` left out.
    if size != shard.bytes or not isinstance(samples, int) or samples < shard.num_samples:
        return (
            f"{shard.name}: {samples} samples and {size} bytes, our index says "
            f"{shard.num_samples} and {shard.bytes}"
        )
    if hashes.get("sha256", shard.sha256) != shard.sha256:
        return f"{shard.name}: has another SHA-256 than our index"
    return None
