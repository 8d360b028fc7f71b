"""What is verified, and what verifying tells."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.index_folder import index_folder
from dataloaders.inspect_shards import Inspection
from dataloaders.manifest import write_manifest
from tests.dataloaders.shard_fixtures import video
from tests.dataloaders.test_inspect_shards import samples_of

NUM_CLIPS = 6


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "rows.jsonl"
    write_manifest(path, [video(number) for number in range(NUM_CLIPS)])
    return path


def index(folder: Path, manifest: Path) -> None:
    from dataloaders.foreign import Names

    index_folder(folder, records=manifest, names=Names(video="clip" if _is_mds(folder) else ""))


def _is_mds(folder: Path) -> bool:
    return bool(list(folder.glob("*.mds*")))


def told(found: Inspection) -> list[tuple[str | None, str]]:
    return [(fault.key, fault.reason) for fault in found.faults]


def ids(folder: Path) -> list[str]:
    return [sample.record.id for sample in samples_of(folder)]
