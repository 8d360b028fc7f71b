"""Pseudo-labels on disk: round trip, and refusal of what does not fit."""

from __future__ import annotations

import json

import pytest

from dataloaders.errors import DataError
from dataloaders.labels import Label, LabelMeta, LabelSet, write_labels

META = LabelMeta(
    encoder="abc", num_frames=4, num_moments=2, strategy="topk", writer="template-1", data="fp"
)


def label(question: str = "1", **changes) -> Label:
    fields = {
        "video": "v", "question": question, "description": "a dog runs",
        "moments": (1, 3), "similarity": (0.1, 0.2, 0.123456789, 0.0), **changes,
    }  # fmt: skip
    return Label(**fields)


def test_round_trip(tmp_path):
    written = write_labels(tmp_path, META, {"shard-0": [label("1"), label("2")], "shard-1": []})
    assert written == 2
    labels = LabelSet(tmp_path)
    assert labels.meta == META
    assert set(labels.for_shard("shard-0")) == {("v", "1"), ("v", "2")}
    assert len(labels.for_shard("shard-1")) == 0
    found = labels.find("shard-0", "v", "2")
    assert found.moments == (1, 3)
    assert found.similarity == (0.1, 0.2, 0.12346, 0.0)


def test_options_and_a_rejected_description_are_kept(tmp_path):
    meta = META.model_copy(update={"strategy": "merge", "options": {"segments": 8, "lambda": 0.5}})
    write_labels(tmp_path, meta, {"s": [label("1", rejected="empty"), label("2")]})
    labels = LabelSet(tmp_path)
    assert labels.meta == meta
    assert labels.find("s", "v", "1").rejected == "empty"
    assert labels.find("s", "v", "2").rejected is None
    first, second = (tmp_path / "s.jsonl").read_text().splitlines()
    assert "rejected" in first
    assert "rejected" not in second


def test_shards_may_be_made_on_the_fly_and_are_forgotten(tmp_path):
    write_labels(tmp_path, META, ((f"s{i}", [label(str(i))]) for i in range(3)))
    labels = LabelSet(tmp_path, max_shards=1)
    for i in (0, 1, 2, 0):
        assert labels.find(f"s{i}", "v", str(i)).question == str(i)


def test_an_interrupted_writer_leaves_no_label_set(tmp_path):
    write_labels(tmp_path, META, {"s": [label()]})

    def broken():
        yield "s", [label()]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_labels(tmp_path, META, broken())
    with pytest.raises(DataError, match=r"meta\.json: missing.*gcg label"):
        LabelSet(tmp_path)


@pytest.mark.parametrize(
    "wanted",
    [{"encoder": "x"}, {"num_frames": 8}, {"num_moments": 4}, {"data": "x"}, {"strategy": "soft"}],
)
def test_labels_of_another_encoder_data_t_or_k_are_refused(tmp_path, wanted):
    write_labels(tmp_path, META, {})
    labels = LabelSet(tmp_path)
    labels.check(encoder="abc", num_frames=4, num_moments=2, strategy="topk", data="fp")
    labels.check()
    with pytest.raises(DataError) as caught:
        labels.check(**wanted)
    ((name, value),) = wanted.items()
    for word in (str(tmp_path), name, repr(value), repr(getattr(META, name)), "gcg label"):
        assert word in str(caught.value)


def test_a_question_without_label_is_named(tmp_path):
    write_labels(tmp_path, META, {"s": [label("1")]})
    with pytest.raises(DataError, match=r"s\.jsonl: video 'v', question '2': no label.*gcg label"):
        LabelSet(tmp_path).find("s", "v", "2")
    with pytest.raises(DataError, match=r"t\.jsonl: cannot be read"):
        LabelSet(tmp_path).find("t", "v", "1")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"moments": (1,)}, ["moments: [1]", "2 rising"]),
        ({"moments": (3, 1)}, ["moments: [3, 1]", "2 rising"]),
        ({"moments": (1, 1)}, ["moments: [1, 1]"]),
        ({"moments": (1, 4)}, ["0..3"]),
        ({"moments": (-1, 2)}, ["0..3"]),
        ({"similarity": (0.0,)}, ["similarity: 1 values", "4"]),
    ],
)
def test_bad_labels_are_refused_when_written_and_when_read(tmp_path, changes, words):
    with pytest.raises(DataError) as caught:
        write_labels(tmp_path, META, {"s": [label(**changes)]})
    for word in ["video 'v', question '1'", *words]:
        assert word in str(caught.value)
    write_labels(tmp_path, META, {"s": [label()]})
    row = label(**changes).model_dump()
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=r"s\.jsonl:1: "):
        LabelSet(tmp_path).for_shard("s")


def test_twice_and_unreadable(tmp_path):
    with pytest.raises(DataError, match="labelled twice"):
        write_labels(tmp_path, META, {"s": [label(), label()]})
    write_labels(tmp_path, META, {"s": [label()]})
    (tmp_path / "s.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"s\.jsonl:1: "):
        LabelSet(tmp_path).for_shard("s")
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "version": 9}))
    with pytest.raises(DataError, match="version: 9"):
        LabelSet(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "num_frames": 0}))
    with pytest.raises(DataError, match="num_frames: 0"):
        LabelSet(tmp_path)
