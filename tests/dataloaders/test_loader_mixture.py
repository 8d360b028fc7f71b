"""The training loader over several data sets: resume, world sizes, labels, budgets of each set."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dataloaders.errors import DataError
from dataloaders.feature_pack import pack_feature_files
from dataloaders.feature_reader import FeatureReader, feature_info
from dataloaders.fetch import HostDecoder
from dataloaders.labels import LabelSet
from dataloaders.loader import Loader
from dataloaders.mixed_source import MixedSource
from dataloaders.mixture import MixturePlan
from dataloaders.quarantine import Budget
from dataloaders.set_quotas import SetRule
from dataloaders.shard_source import ShardSource
from tests.dataloaders.loader_fixtures import (
    FRAMES,
    SIZE,
    assert_same,
    budget,
    collect,
    damage,
    take,
)
from tests.dataloaders.shard_fixtures import collator, label_all, pack_clips, video

RULES = (SetRule("first", repeat=2), SetRule("second", repeat=1))
STREAMS = 4


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("sets")
    folders = [
        pack_clips(root / "first", [1, 2, 3, 4, 2, 3, 1, 2]).folder,
        pack_clips(root / "second", [2, 5, 2, 3, 1, 4, 3, 2, 1, 2, 2, 3], first=100).folder,
    ]
    for folder in folders:
        label_all(ShardSource(folder), FRAMES)
    return folders


def make(folders: list[Path], *, rules=RULES, labelled: bool = False, **changes) -> Loader:
    source = MixedSource([ShardSource(folder) for folder in folders])
    plan = MixturePlan.for_sources(
        source.parts, rules, seed=3, num_streams=STREAMS, global_batch=STREAMS * 2,
        questions_per_visit=2, block_shards=2,
    )  # fmt: skip
    labels = [LabelSet(folder / "labels" / "test") for folder in folders] if labelled else None
    settings = {"num_frames": FRAMES, "decode_threads": 2, "labels": labels, **changes}
    return Loader(source, plan, collator(3), HostDecoder(SIZE), **settings)


def test_an_epoch_has_the_sets_as_often_as_asked(sets: list[Path]):
    with make(sets, labelled=True) as loader:
        steps = take(loader, loader.plan.steps_per_epoch(0))
    visits = Counter(
        batch.meta.videos[batch.video_index.tolist().index(row)][:2]
        for step in steps
        for batch in step.micro
        for row in range(len(batch.pixels))
    )
    assert isinstance(loader.plan, MixturePlan)
    first, second = loader.plan.quotas
    assert visits == {"v0": STREAMS * first, "v1": STREAMS * second}
    assert all(batch.moments is not None for step in steps for batch in step.micro)


def test_resuming_equals_running_on_byte_for_byte(sets: list[Path]):
    with make(sets, micro_batch=2) as loader:
        steps = loader.plan.steps_per_epoch(0) + 3
        whole, states = [], [loader.state_dict()]
        for _ in range(steps):
            whole.append(next(loader))
            states.append(loader.state_dict())
    for cut in (1, steps - 3, steps - 1):
        with make(sets, micro_batch=2, decode_threads=1) as resumed:
            resumed.load_state_dict(json.loads(json.dumps(states[cut])))
            assert_same(take(resumed, steps - cut), whole[cut:])


def test_changing_world_sizes_gives_the_uninterrupted_sequence(sets: list[Path]):
    """1 → 2 → 4 → 1 ranks, each taking up where the one before it stopped."""
    with make(sets) as loader:
        steps = loader.plan.steps_per_epoch(0) + 1
        whole: dict = {}
        for step in take(loader, steps):
            for batch in step.micro:
                collect(whole, (step.epoch, step.step), batch)
    found: dict = {}
    state, done = None, 0
    for world_size, number in ((1, 1), (2, 2), (4, 1), (1, steps - 4)):
        states = []
        for rank in range(world_size):
            with make(sets, rank=rank, world_size=world_size) as loader:
                if state is not None:
                    loader.load_state_dict(state)
                for step in take(loader, number):
                    for batch in step.micro:
                        collect(found, (step.epoch, step.step), batch)
                states.append(loader.state_dict())
        assert all(each == states[0] for each in states)
        state, done = states[0], done + number
    assert done == steps
    assert found == whole


def test_other_rules_or_sets_are_another_run(sets: list[Path]):
    with make(sets) as loader:
        state = loader.state_dict()
    with make(sets, rules=(SetRule("first"), SetRule("second"))) as other:  # noqa: SIM117
        with pytest.raises(DataError, match=r"data\.mixture: the checkpoint has"):
            other.load_state_dict(state)
    with make(sets[::-1]) as other, pytest.raises(DataError, match=r"data\.data"):
        other.load_state_dict(state)


def feature_set(root: Path, first: int, frames: int, encoder: str = "mine") -> Path:
    """Eight videos with features of their own, in four shards; each value is its video's number."""
    (root / "arrays").mkdir(parents=True)
    rows = [
        video(number, 2).model_copy(update={"duration": 4.0}) for number in range(first, first + 8)
    ]
    for number, row in enumerate(rows, start=first):
        values = np.full((frames, 6), number, dtype=np.float32)
        np.save(root / "arrays" / f"{row.id}.npy", values)
    pack_feature_files(rows, root / "arrays", root / "packed", encoder=encoder, min_shards=4)
    return root / "packed"


def features_loader(folders: list[Path]) -> Loader:
    """As a run builds it: the features are read by what all parts' indexes say."""
    source = MixedSource([ShardSource(folder) for folder in folders])
    info = feature_info(source)
    assert info is not None
    plan = MixturePlan.for_sources(
        source.parts, RULES, seed=3, num_streams=STREAMS, global_batch=STREAMS,
        questions_per_visit=2, block_shards=1,
    )  # fmt: skip
    return Loader(
        source, plan, collator(3), FeatureReader(info), num_frames=FRAMES, decode_threads=2
    )


def test_two_sets_of_features(tmp_path: Path):
    """Of other lengths, which are taken alike: each video comes with its own features."""
    folders = [feature_set(tmp_path / "a", 0, FRAMES), feature_set(tmp_path / "b", 100, 9)]
    with features_loader(folders) as loader:
        steps = loader.plan.steps_per_epoch(0)
        state, whole = loader.state_dict(), take(loader, steps)
    seen: Counter[str] = Counter()
    for batch in (batch for step in whole for batch in step.micro):
        assert batch.pixel_values is None
        assert batch.frame_tokens is not None
        assert batch.frame_tokens.shape[1:] == (FRAMES, 1, 6)
        for pair, row in enumerate(batch.video_index.tolist()):
            name = batch.meta.videos[pair]
            assert batch.frame_tokens[row].unique().tolist() == [int(name[1:])]
            seen[name] += 1
    assert seen == {f"v{n:03d}": 4 for n in range(8)} | {f"v{n}": 2 for n in range(100, 108)}
    with features_loader(folders) as again:
        again.load_state_dict(state)
        assert_same(take(again, steps), whole)


def test_features_are_mixed_with_their_like_alone(tmp_path: Path, sets: list[Path]):
    mine = feature_set(tmp_path / "a", 0, FRAMES)
    other = feature_set(tmp_path / "b", 100, FRAMES, encoder="other")
    with pytest.raises(DataError, match=rf"{other}: holds other frames.*encoder other, not mine"):
        features_loader([mine, other])
    with pytest.raises(DataError, match=r"data\.mixture: .*holds clips, not features"):
        features_loader([mine, sets[0]])


def test_each_set_has_its_own_budget_and_its_own_replacements(sets: list[Path], tmp_path: Path):
    spoilt = pack_clips(tmp_path / "spoilt", [2] * 8, first=200).folder
    bad = {ShardSource(spoilt).entries(0)[0].key}
    damage(spoilt, bad)
    folders = [sets[0], spoilt]
    with make(folders, quarantine=budget()) as loader:
        steps = take(loader, loader.plan.steps_per_epoch(0))
    assert loader.quarantine.counters()["distinct"] == len(bad)
    videos = {video[:2] for step in steps for batch in step.micro for video in batch.meta.videos}
    assert videos == {"v0", "v2"}  # bad clips were replaced from the same set
    strict = budget(budgets={str(spoilt): Budget(0.0, 99)}, min_seen=1)
    with (
        make(folders, quarantine=strict) as loader,
        pytest.raises(DataError, match=rf"{spoilt}: .* clips are bad, data.max_bad_share is 0.0"),
    ):
        take(loader, loader.plan.steps_per_epoch(0))
