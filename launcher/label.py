"""`gcg label`: write the pseudo-labels of a packed data set, beside its shards."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from dataloaders.batch import TextCoder
from dataloaders.errors import DataError
from dataloaders.fetch import Clip, Fetcher, HostDecoder
from dataloaders.labels import META_NAME, Label, LabelMeta, LabelSet, write_labels
from dataloaders.prefetch import Job, Prefetcher
from dataloaders.quarantine import BadSample
from dataloaders.source import Source, TarSource
from gcg.build import build_encoders, encoder_fingerprint
from gcg.config import GCGConfig
from gcg.description import WRITER, describe
from gcg.labels import choose_moments, similarities
from gcg.presets import PRESETS
from gcg.text import TextTower
from gcg.vision import VisionTower, frames_through
from launcher.build import build_coders

log = logging.getLogger(__name__)


def label_data(
    data: Path,
    config: GCGConfig,
    *,
    name: str = "topk",
    strategy: str = "topk",
    threads: int = 2,
    on_video: Callable[[], object] = lambda: None,
) -> tuple[Path, int]:
    """Label every question of ``data``; return the label folder and how many labels it holds.

    Labels that are there already and were made the same way are kept (count 0 is returned).
    Clips that do not decode get no labels; training leaves them out as well. ``on_video`` is
    called after each video. Raises ``DataError`` for data that cannot be read.
    """
    source = TarSource(data)
    try:
        folder = data / "labels" / name
        meta = LabelMeta(
            encoder=encoder_fingerprint(config),
            num_frames=config.num_frames,
            num_moments=config.num_moments,
            strategy=strategy,
            writer=WRITER,
            data=source.fingerprint,
        )
        if (folder / META_NAME).exists() and _same(folder, meta):
            return folder, 0
        labeller = _Labeller(config, strategy)
        rows = (
            (source.shards[i].stem, labeller.shard(source, i, threads, on_video))
            for i in range(len(source.shards))
        )
        return folder, write_labels(folder, meta, rows)
    finally:
        source.close()


def _same(folder: Path, meta: LabelMeta) -> bool:
    try:
        return LabelSet(folder).meta == meta
    except DataError:
        return False  # another version, or damaged: they are made again


class _Labeller:
    def __init__(self, config: GCGConfig, strategy: str) -> None:
        self._config, self._strategy = config, strategy
        self._size = PRESETS[config.preset]().vision.image_size
        self._vision: VisionTower
        self._text: TextTower
        self._vision, self._text = build_encoders(config)
        self._coder = build_coders(config).clip

    def shard(
        self, source: Source, number: int, threads: int, on_video: Callable[[], object]
    ) -> Iterator[Label]:
        """Labels of one shard's questions, clips decoded ahead in threads."""
        fetcher = Fetcher(source, None, self._config.num_frames, HostDecoder(self._size))
        jobs = (
            Job([partial(fetcher.clip, number, i)], lambda loaded: loaded[0])
            for i in range(len(source.entries(number)))
        )
        clips = Prefetcher(jobs, threads=threads, depth=2 * threads, name="label")
        try:
            for clip in clips:
                if isinstance(clip, BadSample):
                    log.warning("no labels for %s %s: %s", clip.shard, clip.key, clip.reason)
                else:
                    yield from self._clip(clip)
                on_video()
        finally:
            clips.close()

    @torch.no_grad()
    def _clip(self, clip: Clip) -> Iterator[Label]:
        questions = clip.video.questions
        texts = [q.statement or describe(q.question, q.answer) for q in questions]
        _, joint_1TC = frames_through(self._vision, clip.frames.pixels[None])
        description = self._text(*padded(self._coder, texts))[1]
        similarity_PT = similarities(joint_1TC[0], description)
        moments = choose_moments(similarity_PT, self._config.num_moments, self._strategy)
        for row, question in enumerate(questions):
            yield Label(
                video=clip.video.id,
                question=question.id,
                description=texts[row],
                moments=tuple(moments[row].tolist()),
                similarity=tuple(similarity_PT[row].tolist()),
            )


def padded(coder: TextCoder, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (P, L) padded to the longest text, and their mask."""
    rows = [torch.tensor(row) for row in coder.rows(texts)]
    pad = partial(torch.nn.utils.rnn.pad_sequence, batch_first=True)
    return pad(rows, padding_value=coder.pad_id), pad([torch.ones_like(row) for row in rows])
