"""From an index entry to frames: what the loaders share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dataloaders.decode import alike, decode_raw
from dataloaders.errors import DataError, StorageError
from dataloaders.features import FrameFeatures
from dataloaders.frame_memory import FrameMemory
from dataloaders.frames import uniform_indices
from dataloaders.index import SampleEntry
from dataloaders.labels import Label, LabelSet
from dataloaders.layout import check_minimum
from dataloaders.manifest import Question, Video
from dataloaders.mixed_source import MixedSource
from dataloaders.quarantine import BadSample
from dataloaders.source import Source
from dataloaders.time_limit import (
    DECODE_TIMEOUT_S,
    TimeLimit,
    TimeLimitError,
    TooManyStuckError,
    end_if_given_up,
)
from dataloaders.transform import preprocess


class Frames(NamedTuple):
    """Decoded, resized and normalised frames, or what an encoder made of them."""

    clip: Tensor | None  # (T, 3, size, size) float32; None where there are features
    times: Tensor  # (T,) float64 seconds
    features: FrameFeatures | None = None

    @property
    def pixels(self) -> Tensor:
        """The frames of a clip; of features there are none."""
        assert self.clip is not None
        return self.clip


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
        self._memory = FrameMemory()

    def room(self, clips: int, num_frames: int) -> Tensor:
        """Memory for the frames of some clips, each a contiguous row of it."""
        return self._memory.take((clips, num_frames, 3, self._size, self._size))

    def __call__(
        self,
        data: bytes,
        indices: np.ndarray,
        *,
        frame_count: int,
        name: str,
        out: Tensor | None = None,
    ) -> Frames:
        """``out``, (T, 3, size, size) float32, is written to; by default fresh memory is."""
        raw = decode_raw(data, indices, frame_count=frame_count, name=name)
        if out is None:
            out = self.room(1, len(indices))[0]
        # One by one: the frames of a large clip together are more than the caches hold.
        for row, frame in enumerate(alike(raw, apply_rotation=self._apply_rotation)):
            end_if_given_up()
            preprocess(torch.from_numpy(frame)[None], self._size, out=out[row : row + 1])
        return Frames(out, torch.from_numpy(raw.times.astype(np.float64)))


class Clip(NamedTuple):
    """A sample ready for questions."""

    video: Video
    frames: Frames


class Fetcher:
    """Reads and decodes samples, and finds their labels. Close it to end its threads.

    Args:
        decode_timeout_s: a clip that decodes for longer is a bad sample, also at every later visit:
            it is not tried again. 0: no limit.

    Raises:
        DataError: the labels were made for other data or another number of frames.
    """

    def __init__(
        self,
        source: Source,
        labels: LabelSet | None,
        num_frames: int,
        decoder: ClipDecoder,
        *,
        decode_timeout_s: float = DECODE_TIMEOUT_S,
    ):
        check_minimum("data.num_frames", num_frames, 1)
        if labels is not None:
            labels.check(data=source.fingerprint, num_frames=num_frames)
        self._source = source
        self._labels = labels
        self._num_frames = num_frames
        self._decoder = decoder
        self._limit = TimeLimit(decode_timeout_s)
        self._hung: dict[tuple[int, int], str] = {}

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        """Get these shards and their labels in the background, as ``Source.prefetch``."""
        self._source.prefetch(current, upcoming)
        if self._labels is not None:
            shards = self._source.shards
            self._labels.prefetch([shards[i].stem for i in (*current, *upcoming)])

    def room(self, clips: int) -> Tensor | None:
        """Memory that so many clips can be decoded into; None if the decoder has its own."""
        if not isinstance(self._decoder, HostDecoder):
            return None
        return self._decoder.room(clips, self._num_frames)

    def clip(self, shard: int, number: int, room: Tensor | None = None) -> Clip | BadSample:
        """One sample, or why there is none. Which index entry it has must be readable, and its
        storage reachable: what is not is no clip's fault, and is raised.

        Args:
            room: a row of :meth:`room`, to decode into. After a bad sample it must not be used
                again: a decoder that was given up may still write to it.

        Raises:
            TooManyStuckError: so many decodes hang that the process cannot go on.
            StorageError: the place of the data cannot be reached.
            DataError: the index is damaged.
        """
        entry = self._source.entries(shard)[number]
        hung = self._hung.get((shard, number))
        if hung is not None:
            return self._bad(shard, entry, hung)
        try:
            sample = self._source.read(shard, entry)
            decode = self._decoder
            if room is not None and isinstance(decode, HostDecoder):
                decode = partial(decode, out=room)
            work = partial(
                decode,
                sample.video_bytes,
                uniform_indices(entry.frame_count, self._num_frames),
                frame_count=entry.frame_count,
                name=entry.video.name,
            )
            return Clip(sample.record, self._limit.run(work, entry.video.name))
        except (MemoryError, StorageError, TooManyStuckError):
            raise
        except TimeLimitError as error:
            reason = self._hung[shard, number] = str(error)
        except DataError as error:
            reason = str(error)
        except Exception as error:  # a clip can break a decoder in any way
            reason = f"{type(error).__name__}: {error}"
        return self._bad(shard, entry, reason)

    def _bad(self, shard: int, entry: SampleEntry, reason: str) -> BadSample:
        name = self._source.shards[shard].name
        return BadSample(self._source.name, name, entry.key, " ".join(reason.split()))

    def data_name(self, shard: int) -> str:
        """The data set that a shard belongs to."""
        return self._source.name

    @property
    def timeouts(self) -> int:
        """Clips that were given up because decoding took too long."""
        return self._limit.timeouts

    def close(self) -> None:
        """End the threads that wait for work; a later clip starts new ones."""
        self._limit.close()
        if self._labels is not None:
            self._labels.close()

    def labels(self, shard: int, video: Video, questions: list[Question]) -> list[Label] | None:
        """The questions' labels; None without a label set.

        Raises:
            DataError: a question without a label.
        """
        if self._labels is None:
            return None
        stem = self._source.shards[shard].stem
        return [self._labels.find(stem, video.id, question.id) for question in questions]


class MixedFetcher:
    """A :class:`Fetcher` for each part of a mixture; shards are the mixture's."""

    def __init__(self, source: MixedSource, fetchers: Sequence[Fetcher]):
        assert len(fetchers) == len(source.parts)
        self._source = source
        self._fetchers = tuple(fetchers)

    def room(self, clips: int) -> Tensor | None:
        return self._fetchers[0].room(clips)

    def clip(self, shard: int, number: int, room: Tensor | None = None) -> Clip | BadSample:
        part, own = self._source.locate(shard)
        return self._fetchers[part].clip(own, number, room)

    def prefetch(self, current: Sequence[int], upcoming: Sequence[int]) -> None:
        for part, fetcher in enumerate(self._fetchers):
            fetcher.prefetch(*(self._source.own_shards(part, each) for each in (current, upcoming)))

    def labels(self, shard: int, video: Video, questions: list[Question]) -> list[Label] | None:
        part, own = self._source.locate(shard)
        return self._fetchers[part].labels(own, video, questions)

    def data_name(self, shard: int) -> str:
        part, own = self._source.locate(shard)
        return self._fetchers[part].data_name(own)

    @property
    def timeouts(self) -> int:
        return sum(fetcher.timeouts for fetcher in self._fetchers)

    def close(self) -> None:
        for fetcher in self._fetchers:
            fetcher.close()


def make_fetcher(
    source: Source,
    labels: LabelSet | Sequence[LabelSet] | None,
    num_frames: int,
    decoder: ClipDecoder,
    decode_timeout_s: float,
) -> Fetcher | MixedFetcher:
    """The fetcher of a source; ``labels`` are a list, one a part, for a mixture.

    Raises:
        DataError: labels that were made for other data or another number of frames.
    """
    if not isinstance(source, MixedSource):
        assert labels is None or isinstance(labels, LabelSet)
        return Fetcher(source, labels, num_frames, decoder, decode_timeout_s=decode_timeout_s)
    assert not isinstance(labels, LabelSet)
    each = [None] * len(source.parts) if labels is None else labels
    return MixedFetcher(
        source,
        [
            Fetcher(part, own, num_frames, decoder, decode_timeout_s=decode_timeout_s)
            for part, own in zip(source.parts, each, strict=True)
        ],
    )
