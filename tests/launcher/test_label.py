from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dataloaders.errors import DataError
from dataloaders.labels import LabelSet
from dataloaders.shard_source import ShardSource
from gcg.build import encoder_fingerprint
from gcg.config import GCGConfig
from gcg.labels import STRATEGIES, make_strategy
from launcher.labelling.label import label_data
from tests.launcher.conftest import MODEL

MODEL_CONFIG = GCGConfig(**MODEL)
FRAMES, MOMENTS = MODEL_CONFIG.num_frames, MODEL_CONFIG.num_moments


def test_every_question_gets_a_label(packed: Path) -> None:
    source, labels = ShardSource(packed / "train"), LabelSet(packed / "train" / "labels" / "topk")
    labels.check(
        encoder=encoder_fingerprint(MODEL_CONFIG),
        num_frames=FRAMES,
        num_moments=MOMENTS,
        data=source.fingerprint,
    )
    count = 0
    for number, shard in enumerate(source.shards):
        for entry in source.entries(number):
            record = source.read_record(number, entry)
            for question in record.questions:
                label = labels.find(shard.stem, record.id, question.id)
                similarity = torch.tensor(label.similarity)
                assert label.moments == tuple(similarity.topk(MOMENTS).indices.sort().values)
                assert question.answer.lower() in label.description.lower()
                count += 1
    source.close()
    assert count == sum(shard.num_questions for shard in source.shards)


def test_labels_made_the_same_way_are_kept(packed: Path) -> None:
    meta = packed / "train" / "labels" / "topk" / "meta.json"
    before = meta.stat().st_mtime_ns
    made = label_data(packed / "train", MODEL_CONFIG)
    assert (made.folder, made.count) == (str(meta.parent), 0)
    assert meta.stat().st_mtime_ns == before


def test_labels_are_the_same_every_time(packed: Path) -> None:
    made = label_data(packed / "val", MODEL_CONFIG, name="again", threads=1)
    assert made.count > 0
    for path in Path(made.folder).glob("*.jsonl"):
        assert path.read_bytes() == (Path(made.folder).parent / "topk" / path.name).read_bytes()


def test_other_settings_make_new_labels_and_the_old_no_longer_fit(packed: Path) -> None:
    other = GCGConfig(**{**MODEL, "num_moments": 3})
    made = label_data(packed / "val", other, name="k3")
    assert made.count > 0
    assert json.loads((Path(made.folder) / "meta.json").read_text())["num_moments"] == 3
    with pytest.raises(DataError, match=r"num_moments.*gcg label"):
        LabelSet(made.folder).check(num_moments=MOMENTS)


def test_each_strategy_has_a_label_set_of_its_own(packed: Path) -> None:
    train = packed / "train"
    for name in STRATEGIES:
        strategy = make_strategy(name, {"segments": 4} if name == "merge" else {})
        made = label_data(train, MODEL_CONFIG, strategy=strategy)
        assert Path(made.folder) == train / "labels" / name
        meta = LabelSet(made.folder).meta
        assert (meta.strategy, meta.options) == (name, strategy.options)
    path = next((train / "labels" / "topk").glob("*.jsonl"))
    differ = {
        name
        for name in STRATEGIES
        if (train / "labels" / name / path.name).read_bytes() != path.read_bytes()
    }
    assert differ == set(STRATEGIES) - {"topk", "soft"}


def test_other_options_make_the_labels_again(
    packed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def made(value: float) -> tuple[int, dict[str, bytes]]:
        strategy = make_strategy("contrast", {"lambda": value})
        done = label_data(packed / "val", MODEL_CONFIG, strategy=strategy, name="options")
        return done.count, {p.name: p.read_bytes() for p in Path(done.folder).glob("*.jsonl")}

    count, first = made(0.5)
    assert count > 0
    assert made(0.5) == (0, first)
    count, second = made(1.5)
    assert count > 0
    assert second != first
    assert "options {'lambda': 0.5}, now {'lambda': 1.5}" in caplog.text


def test_labels_keep_what_contrast_chose_by(packed: Path) -> None:
    strategy = make_strategy("contrast")
    made = label_data(packed / "val", MODEL_CONFIG, strategy=strategy, name="rows")
    labels, plain = LabelSet(made.folder), LabelSet(packed / "val" / "labels" / "topk")
    for path in Path(made.folder).glob("*.jsonl"):
        for key, label in labels.for_shard(path.stem).items():
            similarity = torch.tensor(label.similarity)
            assert label.moments == tuple(similarity.topk(MOMENTS).indices.sort().values)
            assert label.similarity != plain.for_shard(path.stem)[key].similarity


def test_no_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gcg pack") as error:
        label_data(tmp_path / "nothing", MODEL_CONFIG)
    assert "\n" not in str(error.value)
