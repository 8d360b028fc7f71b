"""Frames must equal, bit for bit, those of PyAV's full decode in order (`clips.sequential`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from dataloaders.container import decode_test, open_clip, probe
from dataloaders.decode import decode_frames, decode_raw, packets_to_feed
from dataloaders.errors import DataError
from dataloaders.frames import uniform_indices
from dataloaders.packet_index import packet_index
from tests.dataloaders.clip_kinds import FAST_VP9, GOP12, PRUNED, WHOLE
from tests.dataloaders.clips import (
    clip,
    cut_by_edit_list,
    digest,
    number_of,
    packet_positions,
    sequential,
)


def _assert_equal(data: bytes, indices: Sequence[int], reference: list[np.ndarray]) -> bool:
    """By packet headers alone, and as in training, where ingest's count is known."""
    info = probe(data)
    assert info.frame_count == len(reference)
    pruned = set()
    for count in (None, len(reference)):
        got = decode_raw(data, indices, frame_count=count)
        assert [digest(frame) for frame in got.frames] == [digest(reference[k]) for k in indices]
        np.testing.assert_array_equal(got.times, info.times[list(indices)])
        assert got.rotation == info.rotation
        pruned.add(got.pruned)
    assert len(pruned) == 1
    return pruned.pop()


@pytest.mark.parametrize("kind", [*PRUNED, *WHOLE])
def test_equals_a_full_decode(kind: str) -> None:
    codec, changes = (PRUNED | WHOLE)[kind]
    data = clip(codec, **changes)
    reference = sequential(data)
    count = probe(data).frame_count
    assert count == len(reference)
    picks = [uniform_indices(count, 8).tolist(), [count * 2 // 3], list(range(count))]
    assert [_assert_equal(data, pick, reference) for pick in picks] == [kind in PRUNED] * 3


@pytest.mark.parametrize("kind", ["h264-b-frames", "h264-open-gop", "hevc-open-gop", "vp9-mp4"])
def test_every_single_frame(kind: str) -> None:
    """Each frame alone: also the leading pictures of an open group, which need the one before."""
    codec, changes = PRUNED[kind]
    data = clip(codec, **changes)
    reference = sequential(data)
    assert all(_assert_equal(data, [k], reference) for k in range(len(reference)))


@pytest.mark.parametrize("codec", ["libx264", "libvpx-vp9"])
def test_hidden_frames_of_an_edit_list(codec: str) -> None:
    data = cut_by_edit_list(clip(codec, options=GOP12 if codec == "libx264" else FAST_VP9), 17)
    reference = sequential(data)
    assert [number_of(frame) for frame in reference] == list(range(17, 60))
    assert _assert_equal(data, range(0, 43, 5), reference)


def test_only_needed_packets_are_fed() -> None:
    with open_clip(clip(options=GOP12)) as (container, stream):
        index = packet_index(container, stream)
    droppable = sum(fact.droppable for fact in index.facts)
    assert droppable > 10
    (everything,) = [packets_to_feed(index, set(index.presented))]
    assert sorted(n for run in everything for n in run) == list(range(60))
    (run,) = packets_to_feed(index, {index.presented[30]})
    assert run[0] in {segment.start for segment in index.segments}
    assert len(run) < 12


# Three clips that take half of the time and hold nothing that the others lack.
LONG = {"sevila_demo1.mp4", "h264_bt709.mp4", "h264_fullrange.mp4"}
BROKEN = ("bad_", "decord_corrupted", "derived_empty", "derived_garbage", "derived_nasa_audio_only")


def test_real_clips_equal_a_full_decode(shared: Path) -> None:
    paths = [
        p for p in (shared / "videos").rglob("*.*") if p.suffix != ".tsv" and p.name not in LONG
    ]
    readable = [path for path in paths if not path.name.startswith(BROKEN)]
    assert len(readable) > 30
    for path in readable:
        reference = sequential(path)
        indices = uniform_indices(len(reference), 32).tolist()
        pruned = _assert_equal(path.read_bytes(), indices, reference)
        assert pruned == path.name.endswith((".mp4", ".mkv", ".webm")), path.name


def test_order_and_repeats() -> None:
    data = clip(options=GOP12)
    got = decode_frames(data, np.array([40, 3, 3, 59]))
    assert got.frames.shape == (4, 120, 160, 3)
    assert got.frames.dtype == np.uint8
    assert [number_of(frame) for frame in got.frames] == [40, 3, 3, 59]
    np.testing.assert_allclose(got.times, np.array([40, 3, 3, 59]) / 25)


@pytest.mark.parametrize("index", [-1, 60, 1000])
@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_index_outside(index: int, container: str) -> None:
    with pytest.raises(DataError, match=rf"a\.mp4: frame index {index}: the clip has 60 frames"):
        decode_frames(clip(options=GOP12, container=container), [3, index], name="a.mp4")


def test_no_index() -> None:
    with pytest.raises(DataError, match="choose at least one"):
        decode_frames(clip(options=GOP12), [])


def test_a_count_that_disagrees_means_a_full_decode() -> None:
    data = clip(options=GOP12)
    assert decode_frames(data, [5], frame_count=60).pruned
    assert not decode_frames(data, [5], frame_count=59).pruned


def test_rotation() -> None:
    plain = decode_frames(clip(options=GOP12), [7]).frames[0]
    for angle in (90, 180, -90):
        data = clip(options=GOP12, rotation=angle)
        np.testing.assert_array_equal(decode_frames(data, [7]).frames[0], plain)
        turned = decode_frames(data, [7], apply_rotation=True).frames[0]
        np.testing.assert_array_equal(turned, np.rot90(plain, angle // 90))


def test_size_that_changes() -> None:
    small = clip(container="h264", frames=20)
    data = small + clip(container="h264", frames=20, size=(320, 240))
    reference = sequential(data)
    assert {frame.shape for frame in reference} == {(120, 160, 3), (240, 320, 3)}
    indices = uniform_indices(len(reference), 6).tolist()
    _assert_equal(data, indices, reference)
    frames = decode_frames(data, indices).frames
    assert frames.shape == (6, 120, 160, 3)
    np.testing.assert_array_equal(frames[0], reference[indices[0]])
    big = reference[indices[-1]][::2, ::2].astype(float)
    assert np.abs(frames[-1] - big).mean() < 12


def test_truncated_matroska_is_a_shorter_clip() -> None:
    whole = clip(options=GOP12, container="matroska")
    data = whole[: len(whole) * 2 // 3]
    reference = sequential(data)
    assert 20 < len(reference) < 60
    _assert_equal(data, uniform_indices(len(reference), 8).tolist(), reference)
    assert decode_test(data).frame_count == len(reference)


def test_truncated_mp4_is_broken() -> None:
    whole = clip(options=GOP12, container_options={"movflags": "frag_keyframe+empty_moov"})
    with pytest.raises(DataError, match="fails after"):
        decode_frames(whole[: len(whole) * 2 // 3], [0])


def test_damage_where_no_chosen_frame_needs_it() -> None:
    whole = clip(options=GOP12)
    start, size = packet_positions(whole)[-2]
    data = whole[: start + 6] + b"\xff" * (size - 6) + whole[start + size :]
    with pytest.raises(DataError, match="fails after"):
        decode_test(data)
    np.testing.assert_array_equal(decode_frames(data, [5]).frames, decode_frames(whole, [5]).frames)


@pytest.mark.skipif(
    int(av.__version__.split(".")[0]) < 18,
    reason=f"PyAV {av.__version__} itself crashes on some damaged clips",
)
@pytest.mark.parametrize(
    "kind", ["h264-b-frames", "h264-matroska", "hevc-closed-gop", "vp9-mp4", "mpeg4-avi"]
)
def test_damaged_clips_are_exact_or_refused(kind: str) -> None:
    """As ingest and training take them: a full decode's count, then the chosen frames."""
    codec, changes = (PRUNED | WHOLE)[kind]
    whole = clip(codec, **changes)
    rng = random.Random(kind)
    outcomes = set()
    for _ in range(12):
        data = bytearray(whole)
        at, length = rng.randrange(100, len(data)), rng.choice([1, 1, 16, 200])
        noise = bytes(rng.randrange(256) for _ in range(length))
        data[at : at + length] = noise[: len(data) - at]
        outcomes.add(_exact_or_refused(bytes(data)))
    assert "exact" in outcomes


def _exact_or_refused(data: bytes) -> str:
    try:
        reference = sequential(data)
    except Exception:
        reference = []
    if not reference:
        with pytest.raises(DataError):
            decode_test(data)
        return "refused"
    count = decode_test(data).frame_count
    assert count == len(reference)
    indices = uniform_indices(count, 6)
    got = decode_raw(data, indices, frame_count=count)
    assert [digest(f) for f in got.frames] == [digest(reference[k]) for k in indices]
    return "exact"


def test_threads_do_not_disturb_each_other() -> None:
    clips = [clip(*PRUNED[kind][:1], **PRUNED[kind][1]) for kind in ("h264-b-frames", "vp9-mp4")]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda k: decode_frames(clips[k % 2], [3, 30, 59]), range(16)))
    for k, result in enumerate(results):
        np.testing.assert_array_equal(result.frames, results[k % 2].frames)
