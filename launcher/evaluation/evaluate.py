"""Answer a split's questions and score answers and moments; every question exactly once."""

from __future__ import annotations

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
from gcg.answers import ask
from gcg.metrics import span_of_weights
from gcg.model import GCGModel
from gcg.presets import resolve_preset
from gcg.tokens import TokenSet, load_tokens
from launcher.config import RunConfig
from launcher.config.data import TrainSet
from launcher.evaluation.normalise import normalise_answer
from launcher.training.build import build_collator
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

    A row has the question, what was answered (and which option that is), whether it is right, the
    span looked at and the gold spans (None where there are none); ``detailed`` adds what
    :func:`_details` says. Questions of clips that do not decode have ``skipped``, the reason,
    instead. ``oracle`` needs the split's labels. Raises ``DataError`` for unreadable data.
    """
    folder: str | None = getattr(config.data, split)
    if folder is None:
        raise DataError(f"data.{split} = null: nothing to evaluate on; name a packed folder")
    source = open_set(config, TrainSet(place=folder))
    was_training = model.training
    model.eval()
    try:
        tokens = load_tokens(config.model)
        loader = _loader(source, split, config, tokens, rank, world_size, max_videos)
        answerer = _Answers(model, config, tokens, world_size, detailed)
        rows: list[dict[str, Any]] = []
        last: Batch | None = None
        for batch in loader:
            # Under ZeRO-3 all ranks must go through the model equally often: one that has run
            # out of questions asks others again and throws the answers away.
            if batch is None:
                last = last or _any_batch(source, split, config, tokens)
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
    tokens: TokenSet,
    rank: int,
    world_size: int,
    limit: int | None,
) -> EvalLoader:
    folder = getattr(config.data, split)
    peeks = config.model.mode == "oracle"
    return EvalLoader(
        source,
        build_collator(config.model, tokens, config.run.seed),
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


def _any_batch(source: Source, split: Split, config: RunConfig, tokens: TokenSet) -> Batch:
    """The split's first readable batch, for a rank that has none of its own."""
    batch = next(iter(_loader(source, split, config, tokens, 0, 1, None)), None)
    if batch is None:
        raise DataError(f"{source.name}: no clip of it can be decoded; run `gcg pack` again")
    return batch


class _Answers:
    """Batch in, rows out."""

    def __init__(
        self,
        model: GCGModel,
        config: RunConfig,
        tokens: TokenSet,
        world_size: int,
        detailed: bool = False,
    ) -> None:
        self._model, self._config, self._tokens = model, config.model, tokens
        self._detailed = detailed
        self._lockstep = _in_lockstep(config, world_size)
        self._device = next(model.parameters()).device

    def __call__(self, batch: Batch) -> list[dict[str, Any]]:
        batch = batch.to(self._device)
        scored, written = self._needed(batch)
        options = batch.option_ids
        if scored and options is None:
            options = batch.answer_ids.unsqueeze(1)
        found = ask(
            self._model,
            {**batch.asked(), "option_ids": options if scored else None},
            max_new_tokens=self._config.llm.max_answer_tokens if written else None,
        )
        scores = None if found.option_scores is None else found.option_scores.tolist()
        words = None if found.tokens is None else self._tokens.decode(found.tokens.tolist())
        rows = [
            self._row(batch, i, found.selected[i], found.weights[i], scores, words)
            for i in range(batch.num_pairs)
        ]
        if self._detailed:
            for i, row in enumerate(rows):
                row.update(_details(batch, i, found.centers[i], found.weights[i], scores))
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
        chosen: int | None = None
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
            "choice": chosen,
            "answer": meta.answers[i],
            "answer_index": right,
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


def gather_rows(rows: Sequence[dict[str, Any]], world_size: int) -> list[dict[str, Any]]:
    """The rows of all ranks in data-set order, on every rank. A collective call."""
    if world_size == 1:
        return list(rows)
    parts: list[Any] = [None] * world_size
    torch.distributed.all_gather_object(parts, list(rows))
    return [row for part in parts for row in part]
