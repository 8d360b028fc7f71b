"""`gcg extract`: the frozen image encoder runs over a data set once; its results become shards.

Training then reads these in place of clips, through the same plan, with ``model.input: features``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from dataloaders.errors import DataError
from dataloaders.feature_info import Dtype, FeatureInfo
from dataloaders.feature_reader import feature_info
from dataloaders.feature_shards import FeatureShards, carry_labels
from dataloaders.features import VideoFeatures, pack_features, pack_unreadable
from dataloaders.fetch import Clip, Fetcher
from dataloaders.location import is_url
from dataloaders.open_source import open_source
from dataloaders.prefetch import Job, Prefetcher
from dataloaders.quarantine import BadSample
from dataloaders.source import Source
from gcg.build import build_encoders, encoder_fingerprint
from gcg.presets import frame_shape, resolve_preset
from gcg.vision import frames_through
from launcher.config import RunConfig
from launcher.training.data import build_decoder, storage_options
from launcher.training.engine import model_dtype

log = logging.getLogger(__name__)


class Extracted(NamedTuple):
    """``made`` videos were encoded, ``bad`` of them have no features, ``kept`` were there already.
    ``num_bytes``: of all shards, None while some are missing. ``labels``: folders carried over."""

    made: int
    bad: int
    kept: int
    num_bytes: int | None
    labels: list[Path]


def extract(
    config: RunConfig,
    split: str,
    out: Path,
    *,
    dtype: Dtype = "fp16",
    part: tuple[int, int] = (1, 1),
    overwrite: bool = False,
    on_videos: Callable[[int], object] = lambda count: None,
) -> Extracted:
    """Write the features of a run's ``data.<split>`` into ``out``; a stopped call goes on.

    The encoder computes in ``engine.precision``, ``engine.micro_batch`` clips at a time, on the GPU
    if there is one. A clip that does not decode keeps its place and is a bad sample in training,
    too. Labels of the same frames are carried over.

    Args:
        part: (i, n): only every n-th shard from the i-th; who finishes last writes the index.
        on_videos: called with how many videos more are done.

    Raises:
        DataError: no data, data that are features already, or a folder with something else.
        ModelError: the encoder's weights are not to be had.
    """
    folder: str | None = getattr(config.data, split)
    if folder is None and split == "train" and config.data.mixture:
        raise DataError(
            "data.mixture: several sets: features are made one set at a time; name each with "
            "--set data.mixture=[] --set data.train=PLACE"
        )
    if folder is None:
        raise DataError(f"data.{split} = null: nothing to extract; name a packed folder")
    # The run file may be the one that reads the features that are to be made.
    config = config.model_copy(update={"model": config.model.reading_video()})
    with open_source(folder, storage_options(config)) as source:
        if feature_info(source) is not None:
            raise DataError(f"data.{split} = {folder}: holds features already; name the clips")
        info = describe_features(config, source, dtype)
        shards = FeatureShards(out, source, info, overwrite=overwrite)
        made, bad, kept = _write_all(config, source, shards, info, part, split, on_videos)
        index = shards.finish()
        if index is None:
            return Extracted(made, bad, kept, None, [])
        labels: list[Path] = []
        if not is_url(folder):
            labels = carry_labels(Path(folder), source, out, index.fingerprint)
        return Extracted(made, bad, kept, sum(shard.bytes for shard in index.shards), labels)


def describe_features(config: RunConfig, source: Source, dtype: Dtype) -> FeatureInfo:
    """What the index will say of the features."""
    tokens, width, embedding_width = frame_shape(config.model)
    return FeatureInfo(
        tokens=tokens,
        width=width,
        embedding_width=embedding_width,
        dtype=dtype,
        num_frames=config.model.num_frames,
        encoder=encoder_fingerprint(config.model),
        preset=config.model.checkpoint or config.model.preset,
        image_size=resolve_preset(config.model).image_size,
        precision=config.engine.precision,
        source=source.fingerprint,
    )


def _write_all(
    config: RunConfig,
    source: Source,
    shards: FeatureShards,
    info: FeatureInfo,
    part: tuple[int, int],
    split: str,
    on_videos: Callable[[int], object],
) -> tuple[int, int, int]:
    """Videos encoded, bad ones among them, and those that were there."""
    made = kept = 0
    encoder: FrameEncoder | None = None
    for number in range(part[0] - 1, len(source.shards), part[1]):
        count = len(source.entries(number))
        if shards.has(number):
            kept += count
            on_videos(count)
            continue
        encoder = encoder or FrameEncoder(config, source, info, f"data.{split}")
        shards.write(number, encoder.shard(number, on_videos))
        made += count
    return made, (encoder.num_bad if encoder else 0), kept


class FrameEncoder:
    """Clips in, the bytes of their features out.

    ``num_bad`` counts the clips that did not decode.
    """

    def __init__(self, config: RunConfig, source: Source, info: FeatureInfo, setting: str) -> None:
        self._model, self._info, self._source = config.model, info, source
        self._batch = config.engine.micro_batch
        self._threads = config.data.decode_threads
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        vision, _ = build_encoders(config.model, model_dtype(config), self._device)
        assert vision is not None
        self._vision, self._dtype = vision, model_dtype(config)
        decoder = build_decoder(config, resolve_preset(config.model).image_size, source, setting)
        self._fetcher = Fetcher(source, None, config.model.num_frames, decoder)
        self.num_bad = 0

    def shard(self, number: int, on_videos: Callable[[int], object]) -> Iterator[bytes]:
        """One member for each sample of a shard, in order; clips are decoded ahead in threads."""
        count = len(self._source.entries(number))
        jobs = (
            Job(
                [
                    partial(self._fetcher.clip, number, i)
                    for i in range(start, min(start + self._batch, count))
                ],
                list,
            )
            for start in range(0, count, self._batch)
        )
        batches = Prefetcher(jobs, threads=self._threads, depth=2, name="extract")
        try:
            for clips in batches:
                yield from self._encode(clips)
                on_videos(len(clips))
        finally:
            batches.close()

    @torch.no_grad()
    def _encode(self, clips: list[Clip | BadSample]) -> Iterator[bytes]:
        good = [clip.frames for clip in clips if isinstance(clip, Clip)]
        pixels = [frames.pixels for frames in good]
        features: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())
        if pixels:
            tokens, joint = frames_through(
                self._vision,
                torch.stack(pixels).to(self._device, self._dtype),
                frames_per_pass=self._model.vision.frames_per_pass,
            )
            features = zip(tokens.cpu(), joint.cpu(), strict=True)
        for clip in clips:
            if isinstance(clip, BadSample):
                self.num_bad += 1
                log.warning("no features of %s %s: %s", clip.shard, clip.key, clip.reason)
                yield pack_unreadable(clip.reason)
            else:
                video = VideoFeatures(*next(features), clip.frames.times)
                yield pack_features(video, self._info.dtype)
