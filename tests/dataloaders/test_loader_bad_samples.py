"""The training loader on bad clips: replaced the same way everywhere, counted, stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.fetch import HostDecoder
from dataloaders.labels import LabelSet, write_labels
from dataloaders.loader import Loader
from dataloaders.manifest import Video
from dataloaders.open_source import open_source
from dataloaders.plan import Plan
from dataloaders.shards import pack
from tests.dataloaders.loader_fixtures import (
    COUNTS,
    FRAMES,
    SIZE,
    asked,
    assert_same,
    budget,
    collect,
    damage,
    make,
    take,
)
from tests.dataloaders.shard_fixtures import FORMATS, collator, label_all, pack_clips, question


@pytest.fixture(scope="module", params=FORMATS)
def packed(tmp_path_factory, request) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("data"), COUNTS, format=request.param).folder
    label_all(open_source(folder), FRAMES)
    return folder


@pytest.fixture(params=FORMATS)
def damaged(tmp_path, request) -> Path:
    folder = pack_clips(tmp_path, COUNTS, format=request.param).folder
    damage(folder, {"v002", "v005", "v009"})
    return folder


def test_bad_clips_are_replaced_the_same_way_whatever_the_world_size(damaged, tmp_path):
    runs = []
    for world_size, threads in ((1, 1), (1, 3), (2, 2)):
        found: dict = {}
        for rank in range(world_size):
            path = tmp_path / f"quarantine-{world_size}-{threads}-{rank}.jsonl"
            with make(damaged, rank=rank, world_size=world_size, decode_threads=threads,
                      quarantine=budget(path)) as loader:  # fmt: skip
                for step in take(loader, loader.plan.steps_per_epoch(0)):
                    (batch,) = step.micro
                    assert len(batch.pixels) == 4 // world_size
                    collect(found, (step.epoch, step.step), batch)
                assert loader.quarantine.counters()["bad"] > 0
        runs.append(found)
    assert runs[0] == runs[1] == runs[2]
    rows = [json.loads(line)
            for line in (tmp_path / "quarantine-1-1-0.jsonl").read_text().splitlines()]  # fmt: skip
    assert {row["key"] for row in rows} <= {"v002", "v005", "v009"}
    assert len(rows) == len({row["key"] for row in rows})
    assert rows[0]["data"] == str(damaged)
    assert rows[0]["shard"] in {shard.name for shard in open_source(damaged).shards}
    assert "CRC-32" in rows[0]["reason"]


def test_resuming_with_bad_clips_equals_running_on(damaged):
    with make(damaged, quarantine=budget()) as loader:
        whole = take(loader, 6)
    with make(damaged, quarantine=budget()) as loader:
        take(loader, 2)
        state = loader.state_dict()
    with make(damaged, quarantine=budget()) as resumed:
        resumed.load_state_dict(state)
        assert_same(take(resumed, 4), whole[2:])


def test_a_clip_that_does_not_decode_is_a_bad_sample(packed):
    class Failing(HostDecoder):
        def __call__(self, data, indices, *, frame_count, name, **room):
            if name == "v003.mp4":
                raise RuntimeError("no\nway")
            return super().__call__(data, indices, frame_count=frame_count, name=name, **room)

    source = open_source(packed)
    plan = Plan.for_source(source, seed=0, num_streams=1, global_batch=2, questions_per_visit=8)
    with Loader(source, plan, collator(), Failing(SIZE), num_frames=FRAMES,
                quarantine=budget()) as loader:  # fmt: skip
        steps = take(loader, plan.steps_per_epoch(0))
    assert "v003" not in {video for step in steps for b in step.micro for video in b.meta.videos}
    assert loader.quarantine.counters()["distinct"] == 1


def test_past_the_budget_the_run_stops_and_stays_stopped(damaged):
    with make(damaged, quarantine=budget(max_bad_share=0.0)) as loader:
        with pytest.raises(DataError, match=r"data\.max_bad_share is 0\.0.*CRC-32"):
            take(loader, 50)
        position = loader.position
        with pytest.raises(DataError, match="max_bad_share"):
            next(loader)
        assert loader.position == position


def test_nothing_but_bad_clips(tmp_path):
    folder = pack_clips(tmp_path, [1, 1, 1, 1]).folder
    damage(folder, {f"v{i:03d}" for i in range(4)})
    quiet = budget(max_bad_share=1)
    none_good = pytest.raises(DataError, match="9 clips tried for one visit and all bad")
    with make(folder, quarantine=quiet) as loader, none_good:
        next(loader)
    in_a_row = pytest.raises(DataError, match="4 bad clips in a row")
    with make(folder, quarantine=budget(max_consecutive=3)) as loader, in_a_row:
        next(loader)


def test_a_question_without_label_stops_the_run(packed, tmp_path):
    full = LabelSet(packed / "labels" / "test")
    rows = {
        shard.stem: [
            label for label in full.for_shard(shard.stem).values() if label.video != "v004"
        ]
        for shard in open_source(packed).shards
    }
    write_labels(tmp_path / "some", full.meta, rows)
    named = pytest.raises(DataError, match=r"video 'v004', question 'q\d': no label.*gcg label")
    with make(packed, labels=LabelSet(tmp_path / "some")) as loader, named:
        take(loader, 2 * loader.plan.steps_per_epoch(0))
    assert loader.quarantine.counters()["bad"] == 0


def test_the_real_clips(shared, tmp_path):
    """All real clips, odd and broken: the broken ones are named at ingest, the rest train."""
    root = shared / "videos"
    paths = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix != ".tsv"]
    names = [str(path.relative_to(root)) for path in paths]
    videos = [Video(id=name, path=name, questions=[question(1), question(2)]) for name in names]
    report = pack(videos, tmp_path / "packed", root=root, shard_bytes=1 << 20, verify=False)
    broken = {bad.key for bad in report.bad}
    assert {n for n in names if "bad_" in n} <= broken
    assert {"decord_corrupted.mp4", "derived_empty.mp4", "derived_garbage.mp4",
            "derived_nasa_audio_only.mp4"} <= broken  # fmt: skip
    assert all(bad.reason for bad in report.bad)
    good = set(names) - broken
    assert {"sevila_demo1.mp4", "torchcodec_nasa_13013.mp4", "odd/vp9.mp4"} <= good
    with make(report.folder, quarantine=budget(max_bad_share=0.0)) as loader:
        steps = take(loader, 2 * loader.plan.steps_per_epoch(0))
    seen = {video for video, _ in asked(steps)}
    assert seen <= good
    assert len(seen) > len(good) // 2
    assert all(batch.pixels.isfinite().all() for step in steps for batch in step.micro)
