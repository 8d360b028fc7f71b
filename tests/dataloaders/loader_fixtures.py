"""What the tests of the loaders share: making one, taking steps, comparing, damaging clips."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import torch

from dataloaders.batch import Batch
from dataloaders.fetch import HostDecoder
from dataloaders.loader import Loader, StepBatch
from dataloaders.open_source import open_source
from dataloaders.plan import Plan
from dataloaders.quarantine import Quarantine
from dataloaders.storage.options import StorageOptions
from tests.dataloaders.shard_fixtures import collator

FRAMES, SIZE = 4, 16
COUNTS = [1, 2, 3, 4, 5, 2, 3, 1, 2, 4, 3, 2, 1, 3, 2, 2]


def make(
    folder: Path | str,
    *,
    plan: dict | None = None,
    storage: StorageOptions | None = None,
    **changes,
) -> Loader:
    source = open_source(folder, storage)
    fields = {"seed": 3, "num_streams": 2, "global_batch": 4, "questions_per_visit": 2,
              "block_shards": 2, **(plan or {})}  # fmt: skip
    settings = {"num_frames": FRAMES, "decode_threads": 2, **changes}
    order = Plan.for_source(source, **fields)
    return Loader(source, order, collator(fields["seed"]), HostDecoder(SIZE), **settings)


def take(loader: Loader, number: int) -> list[StepBatch]:
    return [next(loader) for _ in range(number)]


def same(one: Batch, two: Batch) -> bool:
    for field in dataclasses.fields(Batch):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if field.name == "meta":
            a, b = vars(a).copy(), vars(b).copy()
            if not torch.equal(a.pop("times"), b.pop("times")) or a != b:
                return False
        elif not (a is b is None or torch.equal(a, b)):
            return False
    return True


def assert_same(one: list[StepBatch], two: list[StepBatch]) -> None:
    assert [(s.epoch, s.step) for s in one] == [(s.epoch, s.step) for s in two]
    for a, b in zip(one, two, strict=True):
        assert len(a.micro) == len(b.micro)
        assert all(map(same, a.micro, b.micro))


def asked(steps: list[StepBatch]) -> Counter:
    return Counter(
        pair for step in steps for batch in step.micro
        for pair in zip(batch.meta.videos, batch.meta.questions, strict=True)
    )  # fmt: skip


def collect(found: dict, position: tuple[int, int], batch: Batch) -> None:
    groups = batch.contrast_group.tolist()
    for pair, row in enumerate(batch.video_index.tolist()):
        meta = batch.meta
        key = (position, groups[row], meta.videos[pair], meta.questions[pair])
        assert key not in found
        found[key] = (
            batch.positions[row].item(),
            batch.noise_seeds[pair].item(),
            batch.pixels[row].sum().item(),
        )


def damage(folder: Path, keys: set[str]) -> None:
    """Flip a byte of the clips with these keys."""
    source = open_source(folder)
    for number, shard in enumerate(source.shards):
        path = folder / shard.name
        data = bytearray(path.read_bytes())
        for entry in source.entries(number):
            if entry.key in keys:
                data[entry.video.offset + entry.video.size // 2] ^= 0xFF
        path.write_bytes(bytes(data))


def budget(path: Path | None = None, **changes) -> Quarantine:
    return Quarantine(path, **{"max_bad_share": 0.9, "max_consecutive": 99, **changes})
