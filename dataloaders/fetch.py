"""From an index entry to frames: what the loaders share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataloaders.decode import decode_frames
from dataloaders.errors import DataError
from dataloaders.features import FrameFeatures
from dataloaders.frames import uniform_indices
from dataloaders.labels import Label, LabelSet
from dataloaders.layout import check_minimum
from dataloaders.manifest import Question, Video
from dataloaders.quarantine import BadSample
from dataloaders.source import Source
from dataloaders.transform import preprocess


class Frames(NamedTuple):
    """Decoded, resized and normalised frames, or what an encoder made of them."""

    pixels: Tensor | None  # (T, 3, size, size) float32; None where there are features
    times: Tensor  # (T,) float64 seconds
    features: FrameFeatures | None = None


class ClipDecoder(Protocol):
    """Encoded clip and frame numbers (T,) -> frames.

    ``frame_count`` is what ingest found; ``name`` is the file's, whose suffix helps to tell its
    format. Called from several threads at once; any exception but MemoryError makes the clip a
    bad sample.
    """

    def __call__(
        self, data: bytes, indices: np.ndarray, *, frame_count: int, name: str
    ) -> Frames: ...


class HostDecoder:
    """Frame-exact decoding on the CPU, then resize, centre crop and normalise with torch.

    Args:
        size: height and width of the result in pixels.
        apply_rotation: turn the frames as the container asks (else they stay as stored).
    """

    def __init__(self, size: int, *, apply_rotation: bool = True):
        check_minimum("data.image_size", size, 1)
        self._size = size
        self._apply_rotation = apply_rotation

    def __call__(self, data: bytes, indices: np.ndarray, *, frame_count: int, name: str) -> Frames:
        clip = decode_frames(
            data, indices, frame_count=frame_count, apply_rotation=self._apply_rotation, name=name
        )
        pixels = preprocess(torch.from_numpy(clip.frames), self._size)
        return Frames(pixels, torch.from_numpy(clip.times.astype(np.float64)))


class Clip(NamedTuple):
    """A sample ready for questions."""

    video: Video
    frames: Frames


class Fetcher:
    """Reads and decodes samples, and finds their labels.

    Raises:
        DataError: the labels were made for other data or another number of frames.
    """

    def __init__(
        self, source: Source, labels: LabelSet | None, num_frames: int, decoder: ClipDecoder
    ):
        check_minimum("data.num_frames", num_frames, 1)
        if labels is not None:
            labels.check(data=source.fingerprint, num_frames=num_frames)
        self._source = source
        self._labels = labels
        self._num_frames = num_frames
        self._decoder = decoder

    def clip(self, shard: int, number: int) -> Clip | BadSample:
        """One sample, or why there is none. Which index entry it has must be readable: an index
        that is not is the data set's fault, not the clip's, and is raised."""
        entry = self._source.entries(shard)[number]
        try:
            sample = self._source.read(shard, entry)
            frames = self._decoder(
                sample.video_bytes,
                uniform_indices(entry.frame_count, self._num_frames),
                frame_count=entry.frame_count,
                name=entry.video.name,
            )
            return Clip(sample.record, frames)
        except MemoryError:
            raise
        except DataError as error:
            reason = str(error)
        except Exception as error:  # a clip can break a decoder in any way
            reason = f"{type(error).__name__}: {error}"
        name = self._source.shards[shard].name
        return BadSample(self._source.name, name, entry.key, " ".join(reason.split()))

    def labels(self, shard: int, video: Video, questions: list[Question]) -> list[Label] | None:
        """The questions' labels; None without a label set.

        Raises:
            DataError: a question without a label.
        """
        if self._labels is None:
            return None
        stem = self._source.shards[shard].stem
        return [self._labels.find(stem, video.id, question.id) for question in questions]
