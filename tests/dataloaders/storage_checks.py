"""What every service must do alike: its tests call these."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.labels import LabelSet
from dataloaders.open_source import open_source
from dataloaders.source import Source
from dataloaders.storage.options import StorageOptions

# A process that reads the first clip at argv[1] through the cache at argv[2].
READ_ONE = """
import sys
from pathlib import Path
from dataloaders.storage.options import StorageOptions
from dataloaders.shard_source import ShardSource

place, cache = sys.argv[1:]
with ShardSource(place, StorageOptions(cache_dir=Path(cache), timeout_s=60)) as source:
    print(source.read(0, source.entries(0)[0]).key)
"""


def all_of(source: Source):
    return [(i, entry) for i in range(len(source.shards)) for entry in source.entries(i)]


def read_all(place: str | Path, options: StorageOptions):
    with open_source(place, options) as source:
        return [source.read(i, entry) for i, entry in all_of(source)]


def assert_reads_as(packed: Path, place: str, options: StorageOptions) -> None:
    """Five clips in three shards, with labels ``test``, are the same at ``place`` as here."""
    with open_source(place, options) as source, open_source(packed) as local:
        assert isinstance(source, Source)
        assert source.fingerprint == local.fingerprint
        source.prefetch([0], [1, 2])
        wanted = all_of(local)
        assert [source.read(*pair) for pair in wanted] == [local.read(*pair) for pair in wanted]
        assert [source.read_record(*p).id for p in wanted] == [f"v{i:03d}" for i in range(5)]
    labels = LabelSet(f"{place}/labels/test", options)
    assert dict(labels.for_shard("shard-000000")) == dict(
        LabelSet(packed / "labels" / "test").for_shard("shard-000000")
    )
    with pytest.raises(DataError, match=r"shard-9\.jsonl: cannot be read"):
        labels.for_shard("shard-9")
    with pytest.raises(DataError, match="missing: not a label set"):
        LabelSet(f"{place}/labels/none", options)
    with pytest.raises(DataError, match=r"index\.json: missing.*gcg pack"):
        open_source(f"{place}/labels", options)
