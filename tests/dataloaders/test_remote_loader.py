"""Training and evaluation from S3: the same batches as from a folder, fetched ahead of time."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataloaders.errors import StorageError
from dataloaders.eval_loader import EvalLoader
from dataloaders.fetch import HostDecoder
from dataloaders.labels import LabelSet
from dataloaders.plan import Plan
from dataloaders.shard_source import ShardSource
from dataloaders.storage.options import StorageOptions
from tests.dataloaders.loader_fixtures import COUNTS, FRAMES, SIZE, assert_same, budget, make, take
from tests.dataloaders.s3_server import S3
from tests.dataloaders.shard_fixtures import collator, label_all, pack_clips


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("data"), COUNTS).folder
    label_all(ShardSource(folder), FRAMES)
    return folder


@pytest.fixture(scope="module")
def uploaded(s3: S3, packed: Path) -> str:
    return s3.upload(packed, "loader")


@pytest.fixture
def options(s3: S3, tmp_path: Path) -> StorageOptions:
    s3.proxy.clear()
    return StorageOptions(cache_dir=tmp_path / "cache", retries=3, backoff_s=0.001)


def test_the_same_batches_as_from_a_folder(
    s3: S3, uploaded: str, packed: Path, options: StorageOptions
):
    s3.proxy.inject(".tar", "status", times=3, status=500)
    s3.proxy.inject(".tar", "corrupt", times=2)
    s3.proxy.inject(".jsonl", "status", times=2)
    near, far = (LabelSet(f"{place}/labels/test", options) for place in (packed, uploaded))
    with make(packed, labels=near) as local, make(uploaded, storage=options, labels=far) as remote:
        steps = local.plan.steps_per_epoch(0) + 2
        wanted = take(local, steps)
        assert_same(take(remote, 2), wanted[:2])
        state = remote.state_dict()
        remote.close()
        remote.load_state_dict(state)
        assert_same(take(remote, steps - 2), wanted[2:])
    names = [shard.name for shard in ShardSource(packed).shards]
    fetched = [s3.proxy.gets(name) for name in names]
    assert sum(fetched) == len(names) + 5  # each once, but for the five that were spoilt


def test_a_small_cache_gives_the_same_batches(
    uploaded: str, packed: Path, options: StorageOptions, caplog: pytest.LogCaptureFixture
):
    sizes = [shard.bytes for shard in ShardSource(packed).shards]
    small = StorageOptions(
        cache_dir=options.cache_dir, cache_bytes=3 * max(sizes), retries=3, backoff_s=0.001
    )
    with make(packed) as local, make(uploaded, storage=small, prefetch_steps=1) as remote:
        steps = local.plan.steps_per_epoch(0) + 2
        assert_same(take(remote, steps), take(local, steps))
    assert sum(path.stat().st_size for path in small.cache_dir.iterdir()) <= 3 * max(sizes)
    assert "data.cache_gb" in caplog.text


def test_a_shard_that_is_gone_stops_the_run_and_blames_no_clip(
    s3: S3, packed: Path, options: StorageOptions
):
    place = s3.upload(packed, "short")
    quarantine = budget()
    with make(place, storage=options, quarantine=quarantine) as loader:
        s3.delete("short/shard-000003.tar")
        with pytest.raises(StorageError, match=r"shard-000003\.tar: cannot be fetched: nothing th"):
            take(loader, loader.plan.steps_per_epoch(0))
        assert loader.position < (1, 0)
    assert quarantine.counters()["bad"] == 0


def test_evaluation_fetches_each_shard_once(
    s3: S3, uploaded: str, packed: Path, options: StorageOptions
):
    def passes(source: ShardSource):
        loader = EvalLoader(source, collator(), HostDecoder(SIZE), num_frames=FRAMES)
        with source:
            return [(batch.meta.videos, batch.meta.questions) for batch in loader if batch]

    assert passes(ShardSource(uploaded, options)) == passes(ShardSource(packed))
    assert {s3.proxy.gets(shard.name) for shard in ShardSource(packed).shards} == {1}


def test_what_a_rank_reads_and_what_comes_next(packed: Path):
    source = ShardSource(packed)
    fields = {"seed": 1, "num_streams": 2, "global_batch": 4, "questions_per_visit": 2}
    plan = Plan.for_source(source, **fields, block_shards=2)
    for epoch in (0, 1):
        last = plan.steps_per_epoch(epoch) - 1
        for step in range(last + 1):
            for rank in (0, 1):
                current, upcoming = plan.shards_at(epoch, step, rank, 2)
                (visits,) = plan.visits(epoch, step, rank, 2)
                assert {visit.shard for visit in visits} <= set(current)
                assert not set(current) & set(upcoming)
                after = plan.advance(epoch, step)
                now_read = set(plan.shards_at(*after, rank, 2)[0])
                assert now_read <= {*current, *upcoming}
