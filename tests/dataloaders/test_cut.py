"""A moment cut out of a clip: its own frames, at their own distances."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from dataloaders.container import probe
from dataloaders.cut import cut
from dataloaders.decode import decode_frames
from dataloaders.errors import DataError
from tests.dataloaders.clips import make_clip


@pytest.fixture(scope="module")
def clip() -> bytes:
    return make_clip(frames=50)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(0.0, 2.0, 0, 49), (0.5, 1.0, 13, 24), (0.52, 0.53, 13, 13), (0.53, 0.53, 13, 13),
     (1.9, 9.0, 48, 49), (0.0, 0.0, 0, 0)],
)  # fmt: skip
def test_frames_of_the_span(clip: bytes, start: float, end: float, first: int, last: int) -> None:
    made = cut(clip, start, end)
    info, whole = probe(made), probe(clip)
    assert info.frame_count == last - first + 1
    np.testing.assert_allclose(
        info.times, whole.times[first : last + 1] - whole.times[first], atol=1e-4
    )
    ours = decode_frames(made, [0, info.frame_count - 1]).frames.astype(int)
    theirs = decode_frames(clip, [first, last]).frames.astype(int)
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).mean() < 6  # encoded once more at crf 18


@pytest.mark.parametrize("name", ["h264_rot90", "h264_vfr", "h264_odd", "h264_10bit", "vp9"])
def test_real_clips_of_odd_kinds(shared: Path, name: str) -> None:
    """Rotated, variable rate, odd sizes, ten bits: upright frames at their own times."""
    data = (shared / "videos" / "odd" / f"{name}.mp4").read_bytes()
    whole = probe(data)
    start = whole.duration / 2
    made = probe(cut(data, start, start + 0.5))
    turned = whole.rotation % 180 != 0
    size = (whole.height, whole.width) if turned else (whole.width, whole.height)
    assert (made.width, made.height) == tuple(side + side % 2 for side in size)
    assert made.rotation == 0
    inside = whole.times[(whole.times >= start) & (whole.times < start + 0.5)]
    np.testing.assert_allclose(made.times, inside - inside[0], atol=1e-4)


def test_a_span_outside_of_the_clip(clip: bytes) -> None:
    for span in ((2.5, 3.0), (-1.0, 1.0), (1.0, 0.5)):
        with pytest.raises(DataError, match=r"must be a span of its 2 s"):
            cut(clip, *span, name="a.mp4")
    with pytest.raises(DataError):
        cut(b"no clip", 0.0, 1.0)


def test_it_plays_from_its_beginning(clip: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(cut(clip, 0.5, 1.0))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert next(container.decode(stream)).pts == 0
