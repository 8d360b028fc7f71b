"""Film strips for a page: the sampled frames of a clip as small JPEG images in the page's text."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

from dataloaders.decode import decode_frames
from dataloaders.errors import DataError
from dataloaders.frames import uniform_indices
from dataloaders.index import SampleEntry
from dataloaders.ingest import sample_key
from dataloaders.shard_source import ShardSource

# What all images of a page may take together, as text.
IMAGES_BYTES = 4_000_000
_HEIGHTS = (80, 56, 40)
_LEAST = 1200  # bytes a frame, as text
_QUALITIES = (5, 10, 20)  # quantisers of FFmpeg's encoder: 2 is best, 31 worst
_PREFIX = "data:image/jpeg;base64,"
_Name = Callable[[int, SampleEntry], "str | None"]


@dataclass(frozen=True)
class Strip:
    """``images``: a ``data:`` URI a frame, none where it cannot be shown: ``why``."""

    images: list[str]
    why: str = ""


class Clips:
    """Reads clips of a packed data set for their film strips.

    Args:
        source: the data set; not closed here.
        num_frames: T, frames of a strip.
        num_strips: how many the page will show, a strip that is shown twice counted twice.
        budget: bytes for all of them. Each gets an equal part, but no less than makes its frames
            out; when the budget is spent, the rest has none.
    """

    def __init__(
        self, source: ShardSource, num_frames: int, num_strips: int, budget: int = IMAGES_BYTES
    ) -> None:
        self._source = source
        self._num_frames = num_frames
        self._share = max(budget // max(1, num_strips), _LEAST * num_frames)
        self._left = budget
        self._places: dict[str, tuple[int, SampleEntry]] = {}

    def find(self, videos: set[str]) -> None:
        """Look up where these videos lie: by the keys that packing gives them, else by records."""
        wanted = {sample_key(video): video for video in videos}
        self._look(lambda _, entry: wanted.get(entry.key), videos)
        self._look(self._id_of, videos)

    def _look(self, name: _Name, videos: set[str]) -> None:
        """Go through the shards' indexes until all videos are found."""
        for shard in range(len(self._source.shards)):
            if len(self._places) == len(videos):
                return
            for entry in self._source.entries(shard):
                video = name(shard, entry)
                if video in videos:
                    self._places[video] = (shard, entry)

    def film_strip(self, video: str, times: int = 1) -> Strip:
        """The frames of a video that the model saw, in order, to be shown so many ``times``."""
        if self._source.features is not None:
            return Strip([], "the data set holds features, not clips")
        if video not in self._places:
            return Strip([], "the clip is not in the data set")
        shard, entry = self._places[video]
        try:
            sample = self._source.read(shard, entry)
            clip = decode_frames(
                sample.video_bytes,
                uniform_indices(entry.frame_count, self._num_frames),
                frame_count=entry.frame_count,
                apply_rotation=True,
                name=entry.video.name,
            )
        except Exception as error:  # a clip can break a decoder in any way, and is left out
            return Strip([], " ".join(f"{error or type(error).__name__}".split()))
        images = shrunk(clip.frames, min(self._share, self._left // times))
        if images is None:
            return Strip([], "no room was left on the page for its frames")
        self._left -= times * sum(map(len, images))
        return Strip(images)

    def _id_of(self, shard: int, entry: SampleEntry) -> str | None:
        try:
            return self._source.read_record(shard, entry).id
        except (DataError, OSError):
            return None


def shrunk(frames: np.ndarray, room: int) -> list[str] | None:
    """(T, H, W, 3) uint8 frames as ``data:`` URIs of at most ``room`` bytes together, in the best
    size and quality that fits; None if none does."""
    for height in _HEIGHTS:
        for quality in _QUALITIES:
            images = [_PREFIX + _encoded(frame, height, quality) for frame in frames]
            if sum(map(len, images)) <= room:
                return images
    return None


def _encoded(frame: np.ndarray, height: int, quality: int) -> str:
    rows, columns = frame.shape[:2]
    height = min(height, rows)
    # Chroma is kept for two pixels together: sizes must be even.
    size = [max(2, round(n * height / rows / 2) * 2) for n in (columns, rows)]
    codec = av.CodecContext.create("mjpeg", "w")
    codec.width, codec.height = size
    codec.pix_fmt, codec.time_base = "yuvj420p", Fraction(1, 1)
    codec.qmin = codec.qmax = quality
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24").reformat(
        width=size[0], height=size[1], format="yuvj420p", interpolation="AREA"
    )
    picture.pts = 0
    packets: Sequence[av.Packet] = [*codec.encode(picture), *codec.encode(None)]
    return base64.b64encode(b"".join(bytes(packet) for packet in packets)).decode()
