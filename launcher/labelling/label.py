"""`gcg label`: write the pseudo-labels of a packed data set, beside its shards."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from dataloaders.errors import DataError, StorageError
from dataloaders.eval_loader import SHARDS_AHEAD
from dataloaders.feature_reader import FeatureReader, feature_info
from dataloaders.fetch import Clip, Fetcher, Frames, HostDecoder
from dataloaders.labels import Label, LabelMeta, LabelSet, write_labels
from dataloaders.location import is_url, join
from dataloaders.manifest import Video
from dataloaders.open_source import open_source
from dataloaders.prefetch import Job, Prefetcher
from dataloaders.quarantine import BadSample
from dataloaders.source import Source
from dataloaders.storage.options import StorageOptions, default_cache_dir
from gcg.build import build_encoders, encoder_fingerprint
from gcg.config import GCGConfig
from gcg.labels import Evidence, Strategy, TopK, gather_evidence
from gcg.presets import resolve_preset
from gcg.tokens import clip_tokens
from gcg.vision import frames_through
from launcher.checks.features import check_frames
from launcher.labelling.describe import Description, DescriptionWriter, OnQuestion, TemplateWriter

log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """What `gcg label` made: the folder (a path or a URL), how many labels (0: kept as they were),
    what to tell."""

    folder: str
    count: int
    lines: list[str]


class ClipEvidence(NamedTuple):
    """A clip, the descriptions of its questions, and what its labels are chosen by."""

    video: Video
    descriptions: list[Description]
    evidence: Evidence


def label_data(
    data: str | os.PathLike[str],
    config: GCGConfig,
    *,
    storage: StorageOptions | None = None,
    strategy: Strategy | None = None,
    name: str | None = None,
    writer: DescriptionWriter | None = None,
    threads: int = 2,
    on_video: Callable[[], object] = lambda: None,
    on_question: OnQuestion = lambda count, total: None,
) -> Labelled:
    """Label every question of ``data``.

    Labels that are there already and were made the same way are kept. Clips that do not decode get
    no labels; training leaves them out as well.

    Args:
        data: a folder or a URL; the labels are written below it.
        storage: settings for a URL.
        strategy: how frames are chosen; None: ``topk``.
        name: of the label set's folder; None: the strategy's.
        writer: of event descriptions; None: the template.
        on_video: called after each video.
        on_question: called with how many more questions have a description, and how many there are.

    Raises:
        DataError: the data cannot be read.
        UserError: the descriptions' language model cannot be loaded.
    """
    strategy, writer = strategy or TopK(), writer or TemplateWriter()
    source = open_source(data, storage)
    try:
        config = reading(config, source)
        folder = join(data, "labels", name or strategy.name)
        meta = LabelMeta(
            encoder=encoder_fingerprint(config),
            num_frames=config.num_frames,
            num_moments=config.num_moments,
            strategy=strategy.name,
            options=strategy.options,
            writer=writer.identity,
            data=source.fingerprint,
        )
        if _same(folder, meta, storage):
            return Labelled(folder, 0, [])
        lines = writer.prepare(texts_folder(source), source, on_question)
        encoder = EvidenceMaker(config, writer)
        rows = (
            (
                shard.stem,
                _labels(encoder.shard(source, i, threads, on_video), config, strategy),
            )
            for i, shard in enumerate(source.shards)
        )
        return Labelled(folder, write_labels(folder, meta, rows, storage), lines)
    finally:
        source.close()


def texts_folder(source: Source) -> Path:
    """Where a language model's texts for a data set are kept: beside it, or for a URL, to which
    nothing can be appended, in the user's cache."""
    if is_url(source.name):
        return default_cache_dir().parent / source.fingerprint
    return Path(source.name)


def reading(config: GCGConfig, source: Source) -> GCGConfig:
    """The model as it reads this data set: features that `gcg extract` made need no other run file
    than the clips did.

    Raises:
        DataError: it cannot read it.
    """
    info = feature_info(source)
    if info is not None and info.source is not None and config.input == "video":
        vision = config.vision.model_copy(update={"train": False})
        config = config.model_copy(update={"input": "features", "vision": vision})
    check_frames(config, source, "DATA")
    return config


def _same(folder: str, meta: LabelMeta, storage: StorageOptions | None) -> bool:
    try:
        found = LabelSet(folder, storage).meta
    except StorageError:
        raise
    except DataError:
        return False  # none, of another version, or damaged: they are made again
    old, new = found.model_dump(), meta.model_dump()
    changed = [f"{key} {old[key]!r}, now {new[key]!r}" for key in new if old[key] != new[key]]
    if changed:
        log.warning("%s: made with %s: made again", folder, "; ".join(changed))
    return not changed


def _labels(
    clips: Iterator[ClipEvidence], config: GCGConfig, strategy: Strategy
) -> Iterator[Label]:
    for video, descriptions, evidence in clips:
        chosen = strategy.choose(evidence, config.num_moments)
        for row, question in enumerate(video.questions):
            yield Label(
                video=video.id,
                question=question.id,
                description=descriptions[row].text,
                moments=tuple(chosen.moments[row].tolist()),
                similarity=tuple(chosen.similarity[row].tolist()),
                rejected=descriptions[row].rejected,
            )


class EvidenceMaker:
    """Decodes and encodes clips, and what is asked about them, with the frozen encoders.

    On the GPU if there is one. ``writer`` must have been prepared for the data.
    """

    def __init__(self, config: GCGConfig, writer: DescriptionWriter) -> None:
        self._config, self._writer = config, writer
        self._size = resolve_preset(config).vision.image_size
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._vision, self._text = build_encoders(config, device=self._device)
        self._coder = clip_tokens(config)

    def shard(
        self, source: Source, number: int, threads: int, on_video: Callable[[], object]
    ) -> Iterator[ClipEvidence]:
        """One shard's clips that can be read, decoded ahead in threads."""
        count = len(source.shards)
        source.prefetch([number], range(number + 1, min(number + 1 + SHARDS_AHEAD, count)))
        info = feature_info(source)
        decoder = HostDecoder(self._size) if info is None else FeatureReader(info)
        fetcher = Fetcher(source, None, self._config.num_frames, decoder)
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
                    yield self._clip(clip)
                on_video()
        finally:
            clips.close()
            fetcher.close()

    @torch.no_grad()
    def _clip(self, clip: Clip) -> ClipEvidence:
        asked = clip.video.questions
        descriptions = [
            Description(q.statement) if q.statement else self._writer(q.question, q.answer)
            for q in asked
        ]
        questions = [question.question for question in asked]
        evidence = gather_evidence(
            self._joint(clip.frames),
            self._pooled([description.text for description in descriptions]),
            self._pooled(questions),
            questions,
        )
        return ClipEvidence(clip.video, descriptions, evidence)

    def _joint(self, frames: Frames) -> torch.Tensor:
        """C (T, D_C) of a clip's frames, or what is stored of it."""
        if frames.features is not None:
            return frames.features.embeddings.float()
        assert self._vision is not None
        _, joint_1TC = frames_through(
            self._vision,
            frames.pixels[None].to(self._device),
            frames_per_pass=self._config.vision.frames_per_pass,
        )
        return joint_1TC[0].cpu()

    def _pooled(self, texts: list[str]) -> torch.Tensor:
        ids_PL, mask_PL = self._coder.padded(texts)
        return self._text(ids_PL.to(self._device), mask_PL.to(self._device))[1].cpu()
