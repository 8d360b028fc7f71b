from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataloaders.errors import DataError
from dataloaders.inspect_video import inspect_video
from tests.dataloaders.clips import clip, digest, packet_positions, sequential

GOP12 = {"g": "12", "bf": "3"}


@pytest.mark.parametrize("container", ["mp4", "avi"])
def test_report(tmp_path: Path, container: str) -> None:
    path = tmp_path / f"clip.{container}"
    path.write_bytes(clip(options=GOP12, container=container))
    report = inspect_video(path, 32)
    reference = sequential(path)
    assert (report["codec"], report["width"], report["height"]) == ("h264", 160, 120)
    assert (report["frame_count"], report["rotation"]) == (60, 0)
    assert report["duration"] == pytest.approx(2.4, abs=0.1)  # AVI rounds
    assert report["indices"] == [(2 * k + 1) * 60 // 64 for k in range(32)]
    assert report["sha256"] == [digest(reference[k]) for k in report["indices"]]
    assert report["pruned"] is (container == "mp4")
    assert json.loads(json.dumps(report)) == report


def test_rotated_clip_is_hashed_as_stored(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(clip(options=GOP12, rotation=90))
    report = inspect_video(path, 2)
    reference = sequential(path)
    assert (report["rotation"], report["width"], report["height"]) == (90, 160, 120)
    assert report["sha256"] == [digest(reference[15]), digest(reference[45])]


def test_size_that_changes(tmp_path: Path) -> None:
    path = tmp_path / "clip.h264"
    path.write_bytes(
        clip(container="h264", frames=20) + clip(container="h264", frames=20, size=(320, 240))
    )
    report = inspect_video(path, 4)
    reference = sequential(path)
    assert report["sha256"] == [digest(reference[k]) for k in report["indices"]]


def test_errors_are_one_line_with_the_path(tmp_path: Path) -> None:
    damaged = bytearray(clip(options=GOP12))
    start, size = packet_positions(bytes(damaged))[-2]
    damaged[start + 6 : start + size] = b"\xff" * (size - 6)
    whole = clip(options=GOP12, container_options={"movflags": "frag_keyframe+empty_moov"})
    broken = {
        "empty.mp4": b"",
        "zeros.mp4": bytes(5000),
        "cut.mp4": whole[: len(whole) // 2],
        "damaged.mp4": bytes(damaged),
    }
    for name, data in broken.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            inspect_video(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        inspect_video(tmp_path / "absent.mp4")
    intact = tmp_path / "intact.mp4"
    intact.write_bytes(whole)
    with pytest.raises(DataError, match="num_frames: 0"):
        inspect_video(intact, 0)


def test_real_broken_clips(shared: Path) -> None:
    names = ["decord_corrupted.mp4", "derived_empty.mp4", "derived_garbage.mp4"]
    names += ["derived_nasa_audio_only.mp4"]
    for path in [*(shared / "videos" / n for n in names), *(shared / "videos/odd").glob("bad_*")]:
        with pytest.raises(DataError):
            inspect_video(path)
