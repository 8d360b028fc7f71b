"""The evaluation loader: every question exactly once at any world size, bad clips accounted for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from dataloaders.errors import DataError
from dataloaders.eval_loader import EvalLoader
from dataloaders.fetch import HostDecoder
from dataloaders.labels import LabelSet
from dataloaders.open_source import open_source
from tests.dataloaders.loader_fixtures import damage
from tests.dataloaders.shard_fixtures import FORMATS, collator, label_all, pack_clips

FRAMES = 4
COUNTS = [1, 5, 3, 2, 4, 2, 1]
EVERY = {(f"v{i:03d}", f"q{k}") for i, n in enumerate(COUNTS) for k in range(n)}


@pytest.fixture(scope="module", params=FORMATS)
def packed(tmp_path_factory, request) -> Path:
    folder = pack_clips(tmp_path_factory.mktemp("data"), COUNTS, format=request.param).folder
    label_all(open_source(folder), FRAMES)
    return folder


def make(folder: Path, **changes) -> EvalLoader:
    settings = {"num_frames": FRAMES, "questions_per_visit": 2, "micro_batch": 2, **changes}
    return EvalLoader(open_source(folder), collator(), HostDecoder(16), **settings)


def asked(batches) -> Counter:
    return Counter(
        pair for batch in batches if batch is not None
        for pair in zip(batch.meta.videos, batch.meta.questions, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 20])
def test_every_question_exactly_once(packed, world_size):
    total: Counter = Counter()
    for rank in range(world_size):
        loader = make(packed, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(batches) == len(loader)
        assert all(b is not None and len(b.pixels) <= 2 for b in batches)
        assert loader.skipped == []
        total += asked(batches)
    assert set(total) == EVERY
    assert max(total.values()) == 1


@pytest.mark.parametrize("world_size", [2, 3, 20])
def test_equal_steps_on_every_rank(packed, world_size):
    total: Counter = Counter()
    lengths = set()
    for rank in range(world_size):
        batches = list(make(packed, rank=rank, world_size=world_size, equal_steps=True))
        lengths.add(len(batches))
        total += asked(batches)
    assert len(lengths) == 1
    assert set(total) == EVERY


def test_pixels_do_not_depend_on_the_world_size(packed):
    def pixels(world_size: int) -> dict:
        return {
            (batch.meta.videos[p], batch.meta.questions[p]): batch.pixels[row].sum().item()
            for rank in range(world_size)
            for batch in make(packed, rank=rank, world_size=world_size)
            if batch is not None
            for p, row in enumerate(batch.video_index.tolist())
        }

    assert pixels(1) == pixels(3)


def test_a_pass_can_be_repeated_and_broken_off(packed):
    loader = make(packed)
    first = next(iter(loader))
    assert first is not None
    one, two = list(loader), list(loader)
    assert asked(one) == asked(two)
    assert one[0] is not None
    assert torch.equal(first.pixels, one[0].pixels)


def test_labels_for_the_oracle(packed):
    labels = LabelSet(packed / "labels" / "test")
    batches = list(make(packed, labels=labels))
    assert all(b is not None and b.moments is not None for b in batches)


@pytest.mark.parametrize("equal_steps", [False, True])
def test_the_questions_of_bad_clips_are_listed(tmp_path, equal_steps):
    folder = pack_clips(tmp_path, COUNTS).folder
    damage(folder, {"v001", "v006"})
    total: Counter = Counter()
    skipped = []
    for rank in (0, 1):
        loader = make(folder, rank=rank, world_size=2, micro_batch=1, equal_steps=equal_steps)
        batches = list(loader)
        assert equal_steps or None not in batches
        assert not equal_steps or len(batches) == len(loader)
        total += asked(batches)
        skipped += loader.skipped
    names = {(s.video, s.question) for s in skipped}
    assert names == {pair for pair in EVERY if pair[0] in ("v001", "v006")}
    assert len(skipped) == len(names)
    assert set(total) == EVERY - names
    assert all("CRC-32" in s.reason and s.shard and s.type == "TN" for s in skipped)


def test_even_where_the_record_is_lost(tmp_path):
    folder = pack_clips(tmp_path, [3]).folder
    source = open_source(folder)
    record = source.entries(0)[0].record
    tar = folder / source.shards[0].name
    data = bytearray(tar.read_bytes())
    data[record.offset] ^= 1
    tar.write_bytes(bytes(data))
    loader = make(folder)
    assert list(loader) == []
    assert [s.question for s in loader.skipped] == ["#0", "#1", "#2"]


def test_a_limit(packed):
    both = [b for r in (0, 1) for b in make(packed, limit=3, rank=r, world_size=2)]
    assert sum(len(b.pixels) for b in both if b is not None) == 3


@pytest.mark.parametrize(
    "changes",
    [{"rank": 1}, {"world_size": 0}, {"micro_batch": 0}, {"questions_per_visit": 0}],
)
def test_bad_settings(packed, changes):
    with pytest.raises(DataError, match=next(iter(changes))):
        make(packed, **changes)
