"""Answer a split's questions and score answers and moments; every question exactly once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from dataloaders.batch import Batch
from dataloaders.errors import DataError
from dataloaders.eval_loader import EvalLoader
from dataloaders.labels import LabelSet
from dataloaders.source import TarSource
from gcg.build import load_tokenizer
from gcg.gaussian import label_positions, mixture_weights
from gcg.metrics import span_of_weights
from gcg.model import GCGModel, Grounding
from gcg.presets import PRESETS
from launcher.build import build_coders, build_collator
from launcher.config import RunConfig
from launcher.data import build_decoder, labels_folder

Split = Literal["train", "val", "test"]


@torch.no_grad()
def evaluate_split(
    model: GCGModel,
    config: RunConfig,
    split: Split,
    rank: int = 0,
    world_size: int = 1,
    max_videos: int | None = None,
) -> list[dict[str, Any]]:
    """This rank's rows, one for each of its questions; together the ranks ask every one once.

    A row has the question, what was answered, whether it is right, the span looked at and the gold
    spans (None where there are none). Questions of clips that do not decode have ``skipped``, the
    reason, instead. ``oracle`` needs the split's labels. Raises ``DataError`` for unreadable data.
    """
    folder: Path | None = getattr(config.data, split)
    if folder is None:
        raise DataError(f"data.{split} = null: nothing to evaluate on; name a packed folder")
    source = TarSource(folder)
    was_training = model.training
    model.eval()
    try:
        loader = _loader(source, folder, config, rank, world_size, max_videos)
        answerer = _Answers(model, config)
        rows: list[dict[str, Any]] = []
        last: Batch | None = None
        for batch in loader:
            # Under ZeRO-3 all ranks must go through the model equally often: one that has run
            # out of questions asks others again and throws the answers away.
            if batch is None:
                last = last or _any_batch(source, folder, config)
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
    source: TarSource,
    folder: Path,
    config: RunConfig,
    rank: int,
    world_size: int,
    limit: int | None,
) -> EvalLoader:
    peeks = config.model.mode == "oracle"
    return EvalLoader(
        source,
        build_collator(config.model, build_coders(config.model), config.run.seed),
        build_decoder(config, PRESETS[config.model.preset]().vision.image_size),
        num_frames=config.model.num_frames,
        questions_per_visit=config.data.questions_per_visit,
        micro_batch=config.engine.micro_batch,
        labels=LabelSet(labels_folder(config, folder)) if peeks else None,
        rank=rank,
        world_size=world_size,
        limit=limit,
        equal_steps=config.engine.zero == 3 and world_size > 1,
        decode_threads=config.data.decode_threads,
    )


def _any_batch(source: TarSource, folder: Path, config: RunConfig) -> Batch:
    """The split's first readable batch, for a rank that has none of its own."""
    batch = next(iter(_loader(source, folder, config, 0, 1, None)), None)
    if batch is None:
        raise DataError(f"{folder}: no clip of it can be decoded; run `gcg pack` again")
    return batch


class _Answers:
    """Batch in, rows out."""

    def __init__(self, model: GCGModel, config: RunConfig) -> None:
        self._model, self._config = model, config.model
        self._tokenizer = load_tokenizer(config.model)
        self._dtype = next(model.parameters()).dtype

    def __call__(self, batch: Batch) -> list[dict[str, Any]]:
        found = self._model.ground(
            batch.pixel_values,
            batch.video_index,
            batch.question_ids,
            batch.question_mask,
            batch.noise_seeds,
            batch.moments,
        )
        qformer = batch.qformer_ids, batch.qformer_mask
        prompt = batch.prompt_ids, batch.prompt_mask
        scores: list[list[float]] | None = None
        if batch.option_ids is not None:
            scores = self._model.score_options(found, qformer, prompt, batch.option_ids).tolist()
        words: list[str] | None = None
        if any(options is None for options in batch.meta.options):
            tokens = self._model.generate(
                found, qformer, prompt, self._config.llm.max_answer_tokens
            )
            words = self._tokenizer.decode_batch(tokens.tolist(), skip_special_tokens=True)
        weights = self._weights(found, batch.moments)
        return [
            self._row(batch, i, found.selection.indices[i], weights[i], scores, words)
            for i in range(batch.num_pairs)
        ]

    def _weights(self, found: Grounding, moments: Tensor | None) -> Tensor:
        """(P, T): the mixture; in oracle mode the labels' own; in uniform mode all equal."""
        if self._config.mode != "oracle" or moments is None:
            return found.weights
        frames = self._config.num_frames
        return mixture_weights(
            label_positions(moments, frames), self._config.grounding.sigma, frames
        )

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
