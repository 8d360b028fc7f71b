"""Answer a split's questions and score answers and moments; every question exactly once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor

from dataloaders.batch import Batch
from dataloaders.errors import DataError
from dataloaders.eval_loader import EvalLoader
from dataloaders.labels import LabelSet
from dataloaders.source import Source
from gcg.gaussian import mixture_log_weights
from gcg.metrics import span_of_weights
from gcg.model import GCGModel, Grounding
from gcg.presets import resolve_preset
from launcher.config import RunConfig
from launcher.config.data import TrainSet
from launcher.training.build import Coders, build_coders, build_collator
from launcher.training.data import build_decoder, labels_folder, open_set, storage_options

Split = Literal["train", "val", "test"]


@torch.no_grad()
def evaluate_split(
    model: GCGModel,
    config: RunConfig,
    split: Split,
    rank: int = 0,
    world_size: int = 1,
    max_videos: int | None = None,
    *,
    detailed: bool = False,
) -> list[dict[str, Any]]:
    """This rank's rows, one for each of its questions; together the ranks ask every one once.

    A row has the question, what was answered, whether it is right, the span looked at and the gold
    spans (None where there are none); ``detailed`` adds what :func:`_details` says. Questions of
    clips that do not decode have ``skipped``, the reason, instead. ``oracle`` needs the split's
    labels. Raises ``DataError`` for unreadable data.
    """
    folder: str | None = getattr(config.data, split)
    if folder is None:
        raise DataError(f"data.{split} = null: nothing to evaluate on; name a packed folder")
    source = open_set(config, TrainSet(place=folder))
    was_training = model.training
    model.eval()
    try:
        coders = build_coders(config.model)
        loader = _loader(source, split, config, coders, rank, world_size, max_videos)
        answerer = _Answers(model, config, coders, world_size, detailed)
        rows: list[dict[str, Any]] = []
        last: Batch | None = None
        for batch in loader:
            # Under ZeRO-3 all ranks must go through the model equally often: one that has run
            # out of questions asks others again and throws the answers away.
            if batch is None:
                last = last or _any_batch(source, split, config, coders)
                answerer(last)
            else:
                rows += answerer(batch)
                last = batch
        rows += [_skipped_row(q.video, q.question, q.type, q.reason) for q in loader.skipped]
        return rows
    finally:
        model.train(was_training)
        source.close()


def _loader(
    source: Source,
    split: Split,
    config: RunConfig,
    coders: Coders,
    rank: int,
    world_size: int,
    limit: int | None,
) -> EvalLoader:
    folder = getattr(config.data, split)
    peeks = config.model.mode == "oracle"
    return EvalLoader(
        source,
        build_collator(config.model, coders, config.run.seed),
        build_decoder(
            config, resolve_preset(config.model).vision.image_size, source, f"data.{split}"
        ),
        num_frames=config.model.num_frames,
        questions_per_visit=config.data.questions_per_visit,
        micro_batch=config.engine.micro_batch,
        labels=LabelSet(labels_folder(config, folder), storage_options(config)) if peeks else None,
        rank=rank,
        world_size=world_size,
        limit=limit,
        equal_steps=_in_lockstep(config, world_size),
        decode_threads=config.data.decode_threads,
        decode_timeout_s=config.data.decode_timeout_s,
    )


def _in_lockstep(config: RunConfig, world_size: int) -> bool:
    """Under ZeRO-3 the ranks lend each other their weights, in the same order on all."""
    return config.engine.zero == 3 and world_size > 1


def _any_batch(source: Source, split: Split, config: RunConfig, coders: Coders) -> Batch:
    """The split's first readable batch, for a rank that has none of its own."""
    batch = next(iter(_loader(source, split, config, coders, 0, 1, None)), None)
    if batch is None:
        raise DataError(f"{source.name}: no clip of it can be decoded; run `gcg pack` again")
    return batch


class _Answers:
    """Batch in, rows out."""

    def __init__(
        self,
        model: GCGModel,
        config: RunConfig,
        coders: Coders,
        world_size: int,
        detailed: bool = False,
    ) -> None:
        self._model, self._config, self._coders = model, config.model, coders
        self._detailed = detailed
        self._lockstep = _in_lockstep(config, world_size)
        self._device = next(model.parameters()).device

    def __call__(self, batch: Batch) -> list[dict[str, Any]]:
        batch = batch.to(self._device)
        encoded = self._model.encode(
            batch.pixel_values,
            batch.question_ids,
            batch.question_mask,
            option_text_ids=batch.option_text_ids,
            option_text_mask=batch.option_text_mask,
            frame_tokens=batch.frame_tokens,
            frame_embeddings=batch.frame_embeddings,
        )
        found = self._model.ground(encoded, batch.video_index, batch.noise_seeds, batch.moments)
        qformer = batch.qformer_ids, batch.qformer_mask
        prompt = batch.prompt_ids, batch.prompt_mask
        scored, written = self._needed(batch)
        scores: list[list[float]] | None = None
        if scored:
            options = batch.option_ids
            options = batch.answer_ids.unsqueeze(1) if options is None else options
            scores = self._model.score_options(found, qformer, prompt, options).tolist()
        words: list[str] | None = None
        if written:
            tokens = self._model.generate(
                found, qformer, prompt, self._config.llm.max_answer_tokens
            )
            words = self._coders.decode(tokens.tolist())
        centers, weights = self._located(found, batch.moments)
        rows = [
            self._row(batch, i, found.selection.indices[i], weights[i], scores, words)
            for i in range(batch.num_pairs)
        ]
        if self._detailed:
            for i, row in enumerate(rows):
                row.update(_details(batch, i, centers[i], weights[i], scores))
        return rows

    def _needed(self, batch: Batch) -> tuple[bool, bool]:
        """Whether options are scored and answers written: of this batch, or of any rank's."""
        own = batch.option_ids is not None, any(each is None for each in batch.meta.options)
        if not self._lockstep:
            return own
        any_rank = torch.tensor(own, dtype=torch.int32, device=batch.answer_ids.device)
        torch.distributed.all_reduce(any_rank, op=torch.distributed.ReduceOp.MAX)
        scored, written = any_rank.bool().tolist()
        return scored, written

    def _located(self, found: Grounding, moments: Tensor | None) -> tuple[Tensor, Tensor]:
        """Centres (P, K) and the mixture (P, T). In oracle mode the labels' own; in uniform mode,
        and where frames are scored without Gaussians, there are no centres, (P, 0)."""
        if self._config.mode != "oracle" or moments is None:
            return found.centers, found.weights
        profile, frames = self._model.profile, self._config.num_frames
        centers = profile.timeline.of_frames(moments, frames)
        grid = profile.timeline.positions(frames, centers.device)
        return centers, mixture_log_weights(centers, profile.sigma, grid).exp()

    def _row(
        self,
        batch: Batch,
        i: int,
        selected: Tensor,
        weights: Tensor,
        scores: list[list[float]] | None,
        words: list[str] | None,
    ) -> dict[str, Any]:
        meta = batch.meta
        options, right = meta.options[i], meta.answer_indices[i]
        if options is not None and scores is not None:
            chosen = max(range(len(options)), key=lambda o: scores[i][o])
            predicted, correct = options[chosen], chosen == right
        else:
            assert words is not None
            predicted = words[i].strip()
            correct = normalise_answer(predicted) == normalise_answer(meta.answers[i])
        duration = meta.durations[i]
        spans = meta.spans[i]
        return {
            "video": meta.videos[i],
            "question": meta.questions[i],
            "type": meta.types[i],
            "predicted": predicted,
            "answer": meta.answers[i],
            "correct": correct,
            "selected": selected.tolist(),
            "span": span_of_weights(weights.tolist(), duration) if duration else None,
            "gold": [list(span) for span in spans] if spans else None,
            "duration": duration,
        }


def _details(
    batch: Batch, i: int, centers: Tensor, weights: Tensor, scores: list[list[float]] | None
) -> dict[str, Any]:
    """What shows how a question was answered: its ``text`` and ``options``, the options' ``scores``
    (log-likelihoods), the frames' ``weights`` (T,) and ``times`` in seconds, and the ``centers`` of
    the Gaussians (K,) in [0, 1]. Rounded to what an eye can tell."""
    meta = batch.meta
    options = meta.options[i]
    likely = None
    if options is not None and scores is not None and all(map(isfinite, scores[i][: len(options)])):
        likely = [round(score, 4) for score in scores[i][: len(options)]]
    return {
        "text": meta.question_texts[i],
        "options": None if options is None else list(options),
        "scores": likely,
        "weights": [round(w, 4) for w in weights.nan_to_num(0.0).tolist()],
        "centers": [round(c, 4) for c in centers.nan_to_num(0.0).tolist()],
        "times": [round(t, 3) for t in meta.times[int(batch.video_index[i])].tolist()],
    }


def _skipped_row(video: str, question: str, kind: str, reason: str) -> dict[str, Any]:
    return {"video": video, "question": question, "type": kind, "skipped": reason}


def normalise_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: how open answers are compared."""
    words = re.sub(r"[^\w\s]", " ", text.lower()).split()
    return " ".join(word for word in words if word not in {"a", "an", "the"})


def gather_rows(rows: Sequence[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """The rows of all ranks in data-set order, on every rank. A collective call."""
    if world_size == 1:
        return list(rows)
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, list(rows))
    return [row for part in parts for row in part]
