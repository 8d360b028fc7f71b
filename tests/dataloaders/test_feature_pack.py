"""Features made elsewhere: from arrays to shards to frames, and what is left out on the way."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from dataloaders.errors import DataError
from dataloaders.feature_pack import pack_feature_files
from dataloaders.feature_reader import FeatureReader, feature_info
from dataloaders.features import (
    VideoFeatures,
    pack_features,
    pack_unreadable,
    unpack_features,
)
from dataloaders.fetch import Clip, Fetcher
from dataloaders.quarantine import BadSample
from dataloaders.shard_source import ShardSource

from .shard_fixtures import video


def rows(count: int, duration: float | None = 4.0):
    return [video(i).model_copy(update={"duration": duration}) for i in range(count)]


def arrays(root: Path, count: int, *, frames: int = 8, width: int = 6) -> Path:
    folder = root / "arrays"
    folder.mkdir()
    for i in range(count):
        values = np.arange(frames * width, dtype=np.float32).reshape(frames, width) + i
        np.save(folder / f"v{i:03d}.npy", values)
    return folder


def frames_of(out: Path, num_frames: int) -> list[Clip | BadSample]:
    with ShardSource(out) as source:
        info = feature_info(source)
        assert info is not None
        fetcher = Fetcher(source, None, num_frames, FeatureReader(info))
        return [
            fetcher.clip(shard, i)
            for shard in range(len(source.shards))
            for i in range(len(source.entries(shard)))
        ]


def test_one_vector_a_frame_is_token_and_embedding(tmp_path: Path):
    report = pack_feature_files(
        rows(3), arrays(tmp_path, 3), tmp_path / "out", encoder="mine", min_shards=3
    )
    assert report.num_samples == 3
    assert len(report.shards) == 3
    for number, clip in enumerate(frames_of(tmp_path / "out", 4)):
        assert isinstance(clip, Clip)
        assert clip.frames.clip is None
        features = clip.frames.features
        assert features is not None
        # Of 8 frames in 4 s, the middles of 4 equal parts: frames 1, 3, 5, 7.
        assert features.tokens.shape == (4, 1, 6)
        assert features.tokens[:, 0, 0].tolist() == [
            6 + number,
            18 + number,
            30 + number,
            42 + number,
        ]
        assert torch.equal(features.tokens[:, 0], features.embeddings)
        assert clip.frames.times.tolist() == [0.75, 1.75, 2.75, 3.75]
    again = pack_feature_files(
        rows(3), tmp_path / "arrays", tmp_path / "out", encoder="mine", min_shards=3
    )
    assert again.reused
    with pytest.raises(DataError, match="--overwrite"):
        pack_feature_files(rows(3), tmp_path / "arrays", tmp_path / "out", encoder="other")


def test_every_kind_of_file_and_given_times(tmp_path: Path):
    folder = tmp_path / "arrays"
    folder.mkdir()
    tokens, embeddings = torch.randn(5, 3, 4), torch.randn(5, 2)
    times = torch.arange(5, dtype=torch.float64)
    save_file(
        {"tokens": tokens, "embeddings": embeddings, "times": times}, folder / "v000.safetensors"
    )
    np.savez(folder / "v001.npz", tokens=tokens, embeddings=embeddings, times=times)
    pack_feature_files(rows(2, None), folder, tmp_path / "out", encoder="mine", dtype="fp32")
    for clip in frames_of(tmp_path / "out", 5):
        assert isinstance(clip, Clip)
        assert clip.frames.features is not None
        assert torch.equal(clip.frames.features.tokens, tokens)
        assert torch.equal(clip.frames.features.embeddings, embeddings)
        assert torch.equal(clip.frames.times, times)
        assert clip.video.frame_count == 5


def bad_file(kind: str) -> tuple[str, bytes]:
    file = io.BytesIO()
    if kind == "object":
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    elif kind == "nan":
        np.save(file, np.full((8, 6), np.nan, dtype=np.float32))
    elif kind == "large":
        np.save(file, np.full((8, 6), 1e6, dtype=np.float32))
    elif kind == "integers":
        np.save(file, np.ones((8, 6), dtype=np.int64))
    elif kind == "other width":
        np.save(file, np.ones((8, 7), dtype=np.float32))
    elif kind == "one axis":
        np.save(file, np.ones(8, dtype=np.float32))
    elif kind == "names":
        return ".safetensors", save({"x": torch.ones(8, 6)})
    elif kind == "times":
        return ".safetensors", save({"tokens": torch.ones(8, 6), "times": torch.ones(7)})
    return ".npy" if kind != "torn" else ".npz", file.getvalue() or b"PK\x03\x04 and no more"


REASONS = {
    "object": "cannot be read", "nan": "not finite", "large": "--dtype fp32",
    "integers": "must be floats", "other width": "those before", "one axis": "must be floats",
    "names": "must be tokens", "times": "the 8 frames' seconds", "torn": "cannot be read",
    "none": "no file of features",
}  # fmt: skip


@pytest.mark.parametrize("kind", REASONS)
def test_a_bad_file_is_left_out_with_its_reason(tmp_path: Path, kind: str):
    folder = arrays(tmp_path, 1)
    if kind != "none":
        suffix, data = bad_file(kind)
        (folder / f"v001{suffix}").write_bytes(data)
    report = pack_feature_files(rows(2), folder, tmp_path / "out", encoder="mine")
    (bad,) = report.bad
    assert REASONS[kind] in bad.reason
    assert bad.num_questions == 2
    assert report.num_samples == 1
    listed = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert listed["reason"] == bad.reason


def test_nothing_usable_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="no file for any of 2 videos"):
        pack_feature_files(rows(2), tmp_path, tmp_path / "out", encoder="mine")
    with pytest.raises(DataError, match="duration"):
        pack_feature_files(rows(1, None), arrays(tmp_path, 1), tmp_path / "out", encoder="mine")
    assert not (tmp_path / "out" / "index.json").exists()


def test_members_that_are_no_features_are_bad_samples(tmp_path: Path):
    pack_feature_files(rows(1), arrays(tmp_path, 1), tmp_path / "out", encoder="mine")
    with ShardSource(tmp_path / "out") as source:
        info = feature_info(source)
    assert info is not None
    read = FeatureReader(info)
    some = np.arange(4)
    good = VideoFeatures(torch.ones(8, 1, 6), None, torch.zeros(8, dtype=torch.float64))
    cases = {
        "not frame features": b"\x00" * 30,
        "could not be read: torn": pack_unreadable("torn"),
        "the index says 1 of 6": pack_features(good._replace(tokens=torch.ones(8, 2, 6)), "fp16"),
        "needs tokens and times": save({"tokens": torch.ones(8, 1, 6)}),
    }
    for reason, data in cases.items():
        with pytest.raises(DataError, match=reason):
            read(data, some, frame_count=8, name="v000.safetensors")
    fixed = FeatureReader(info.model_copy(update={"num_frames": 9}))
    with pytest.raises(DataError, match="8 frames, the index says 9"):
        fixed(pack_features(good, "fp16"), some, frame_count=8, name="v000.safetensors")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_damage_is_noticed_or_harmless(data: st.DataObject):
    """Any bytes either are whole features again, or raise DataError alone."""
    features = VideoFeatures(torch.rand(3, 2, 4), torch.rand(3, 5), torch.zeros(3).double())
    whole = bytearray(pack_features(features, "fp32"))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    for damaged in (bytes(whole), cut):
        try:
            found = unpack_features(damaged)
        except DataError:
            continue
        assert found.tokens.dim() == 3
        assert len(found.tokens) == len(found.times)
