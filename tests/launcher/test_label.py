from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dataloaders.errors import DataError
from dataloaders.labels import LabelSet
from dataloaders.source import TarSource
from gcg.build import encoder_fingerprint
from gcg.config import GCGConfig
from launcher.label import label_data
from tests.launcher.conftest import MODEL

MODEL_CONFIG = GCGConfig(**MODEL)
FRAMES, MOMENTS = MODEL_CONFIG.num_frames, MODEL_CONFIG.num_moments


def test_every_question_gets_a_label(packed: Path) -> None:
    source, labels = TarSource(packed / "train"), LabelSet(packed / "train" / "labels" / "topk")
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
    folder, count = label_data(packed / "train", MODEL_CONFIG)
    assert (folder, count) == (meta.parent, 0)
    assert meta.stat().st_mtime_ns == before


def test_labels_are_the_same_every_time(packed: Path) -> None:
    folder, count = label_data(packed / "val", MODEL_CONFIG, name="again", threads=1)
    assert count > 0
    for path in folder.glob("*.jsonl"):
        assert path.read_bytes() == (folder.parent / "topk" / path.name).read_bytes()


def test_other_settings_make_new_labels_and_the_old_no_longer_fit(packed: Path) -> None:
    other = GCGConfig(**{**MODEL, "num_moments": 3})
    folder, count = label_data(packed / "val", other, name="k3")
    assert count > 0
    assert json.loads((folder / "meta.json").read_text())["num_moments"] == 3
    with pytest.raises(DataError, match=r"num_moments.*gcg label"):
        LabelSet(folder).check(num_moments=MOMENTS)


def test_no_data_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gcg pack") as error:
        label_data(tmp_path / "nothing", MODEL_CONFIG)
    assert "\n" not in str(error.value)
